"""A pretrained checkpoint as a user takes it: convert with another attention, read the report, fine-tune, resume, statistics,
export. And what convert refuses: one line, status 2, nothing left behind."""
import json
import shutil
import struct

from harness import *

FIXTURES = pathlib.Path(sys.argv[2])
CONFIG = """
name: tuned
data: {source: tokens, path: TEXT, split: [12000, 2000, 2000]}
optim: {lr: 3.0e-3, schedule: {warmup: 5}}
train: {device: cpu, batch: 8, steps: 50, eval_every: 25, eval_batches: 2, checkpoint_every: 10, keep: 9, log_every: 1, threads: 2}
analysis: {every: 10}
"""

root = folder()
# Text with structure to learn: each token mostly follows from the one before.
ids, token = [], 7
for i in range(16000):
    token = 5 + (token * 31 + (i * i) % 3) % 92
    ids.append(token)
text = root / "text.bin"
text.write_bytes(struct.pack(f"<{len(ids)}H", *ids))
config = write_config(root / "tune.yaml", CONFIG.replace("TEXT", str(text)))

for model in ("gpt2-tiny", "bert-tiny"):
    mask = ["--mask-token", 4] if model == "bert-tiny" else []
    native = root / f"{model}.h5"
    status, out, err = run("convert", FIXTURES / model, native, "--attention", "normalizer=softmax_n",
                           "n={from: 0, to: 1, steps: 20}", "--layers", "1", "--calibrate", text, *mask, "--json")
    expect(status == 0, f"{model}: convert: {status} {err}")
    report = json.loads(out)
    expect(report["layers"] == {"changed": [1], "same": [], "skipped": [0]}, f"{model}: {report}")
    loss = report["calibration"]["loss"]
    expect(loss["before"] == loss["after"], f"{model}: a schedule starts at n = 0: {loss}")

    status, out, err = run("eval", native, "--data", text, *mask, "--json")
    expect(status == 0 and json.loads(out)["loss"] > 0, f"{model}: eval: {status} {err}")
    overrides = ["data.mlm.mask_token=4"] if mask else []
    whole = root / f"{model}-run"
    status, out, err = run("train", config, *overrides, "--init", native, "--run-dir", whole)
    expect(status == 0 and f"starting from {native}" in out, f"{model}: train: {status} {out} {err}")
    log = log_without_times(whole)
    losses = [line["loss"] for line in log]
    expect(sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.5, f"{model}: fine-tuning does not lower the loss: {losses}")
    sinks = [line["sink_mass"] for line in log if "sink_mass" in line]
    expect(sinks[-1] > 0.001, f"{model}: statistics do not see the sink: {sinks}")

    cut = root / f"{model}-cut"
    shutil.copytree(whole, cut)
    (cut / "results.json").unlink()
    for file in checkpoints(cut):
        if int(file.stem[5:]) > 20:
            file.unlink()
    status, out, err = run("train", config, *overrides, "--init", native, "--run-dir", cut, "--resume")
    expect(status == 0 and "resuming at step 20" in out + err, f"{model}: resume: {status} {out} {err}")
    expect(digests(checkpoints(cut)[-1]) == digests(checkpoints(whole)[-1]), f"{model}: resumed, final weights differ")
    expect(log_without_times(cut) == log, f"{model}: resumed, logs differ")

    status, out, err = run("stats", whole, "--json")
    expect(status == 0 and "blocks.0.attention.qkv.weight" in out, f"{model}: stats: {status} {err}")
    exported = root / f"{model}-exported"
    status, out, err = run("convert", whole, exported)
    expect(status == 0, f"{model}: export: {status} {err}")
    kept = json.loads((exported / "config.json").read_text())
    source = json.loads((FIXTURES / model / "config.json").read_text())
    lost = {key for key, value in source.items() if kept.get(key) != value}
    expect(not lost, f"{model}: export lost {lost}")
    attention = kept["quietformer"]["attention"]
    expect(attention["overrides"] == [{"layers": 1, "n": 1}] or attention["overrides"] == [{"layers": "1", "n": 1}],
           f"{model}: the schedule ended at n = 1, exported {attention}")
    status, again, err = run("eval", exported, "--data", text, *mask, "--json")
    status, direct, err = run("eval", whole, "--data", text, *mask, "--split", "all", "--json")
    expect(json.loads(again)["loss"] == json.loads(direct)["loss"], f"{model}: exported {again}, trained {direct}")

# Nothing matched: a warning, under --strict a failure.
for strict in ([], ["--strict"]):
    target = root / f"unmatched{len(strict)}.h5"
    status, out, err = run("convert", FIXTURES / "gpt2-tiny", target, "--attention", "n=1", "--layers", "2-11", *strict)
    expect("--layers 2-11: no layer matches" in err and len(err.splitlines()) == 1, f"unmatched: {err}")
    expect(status == (2 if strict else 0) and target.exists() == (not strict), f"unmatched {strict}: {status}")

# Refusals.
broken = root / "broken"
shutil.copytree(FIXTURES / "gpt2-tiny", broken)
weights = broken / "model.safetensors"
whole = weights.read_bytes()
shards = root / "shards"
shutil.copytree(FIXTURES / "gpt2-tiny", shards)
(shards / "model.safetensors").unlink()
(shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"wte.weight": str(weights)}}))
pickled = root / "pickled"
shutil.copytree(FIXTURES / "gpt2-tiny", pickled)
(pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
cut_off = root / "cut-off"
shutil.copytree(broken, cut_off)
(cut_off / "model.safetensors").write_bytes(whole[:-1])
renamed = root / "renamed"
shutil.copytree(broken, renamed)
(renamed / "model.safetensors").write_bytes(whole.replace(b"transformer.h.1.ln_2.bias", b"transformer.h.1.ln_3.bias"))
before = sorted(p.name for p in root.iterdir())
for arguments, word in (
        ([shards, "x.h5"], "in the same directory"), ([pickled, "x.h5"], "PyTorch pickle"), ([cut_off, "x.h5"], "model.safetensors: "),
        ([renamed, "x.h5"], "tensor transformer.h.1.ln_2.bias: missing"), ([FIXTURES, "x.h5"], "expected a checkpoint file"),
        ([broken, "x.h5", "--attention", "n=x"], "attention.n"), ([broken, "x.h5", "--layers", "0"], "without --attention"),
        ([broken, "x.h5", "--attention", "score=piecewise", "threshold=3"], "model.position"), ([broken, "tune.yaml"], "exists"),
        ([broken, broken, "--to", "hf"], "exists"), ([broken, "x", "--shard-size", "5XB"], "--shard-size"),
        ([FIXTURES / "bert-tiny", "x.h5"], "--mask-token"), ([broken, "x.h5", "--mask-token", "4"], "--mask-token"),
        ([broken, "x.h5", "--map", "none.yaml"], "none.yaml"), ([broken, "x.h5", "--calibrate", "none.bin"], "none.bin"), ([broken, "x.h5", "--calibrate", "tune.yaml"], "*.bin"),
        ([broken, "none/x.h5"], "none/x.h5"), ([broken, "none/x"], "none/x")):
    status, out, err = run("convert", *arguments, cwd=root)
    wanted = 1 if "none/" in str(arguments[1]) else 2
    expect(status == wanted and len(err.splitlines()) == 1 and word in err, f"{arguments}: {status} {err}")
    expect(sorted(p.name for p in root.iterdir()) == before, f"{arguments}: left something behind")
# A disk that is full in the middle of it.
for target in ("full.h5", "full"):
    status, out, err = run("convert", broken, target, cwd=root, file_limit=50000)
    expect(status == 1 and len(err.splitlines()) == 1, f"{target}: {status} {err}")
    expect(sorted(p.name for p in root.iterdir()) == before, f"{target}: left something behind")
shutil.rmtree(root)
print("passed")
