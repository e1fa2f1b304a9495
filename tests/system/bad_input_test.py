"""Bad input gives one line, status 2 and leaves nothing behind; a full disk gives status 1 and loses nothing."""
import gzip
import os
import random
import shutil
import sys

from harness import *

root = folder()
config = write_config(root / "tiny.yaml")
text = bytes(random.Random(1).choices(b"abcdefgh <>/[]", k=70000))
(root / "text").write_bytes(text)
(root / "empty").write_bytes(b"")
(root / "short").write_bytes(text[:100])
whole = gzip.compress(text)
(root / "truncated.gz").write_bytes(whole[: len(whole) // 2])
(root / "flipped.gz").write_bytes(whole[:5000] + bytes([whole[5000] ^ 4]) + whole[5001:])
(root / "odd.bin").write_bytes(text[:60001])
(root / "broken.zip").write_bytes(b"PK\x03\x04" + text[:3000])
(root / "noise.yaml").write_bytes(random.Random(2).randbytes(3000))
(root / "list.yaml").write_text("- a\n- b\n")
(root / "tab.yaml").write_text("model:\n\tlayers: 3\n")
(root / "twice.yaml").write_text("name: a\nmodel: {layers: 1}\nmodel: {layers: 2}\n")
(root / "base.yaml").write_text("base: nowhere.yaml\n")
(root / "none.yaml").write_text("")
tokens = ["data.source=tokens"]

cases = [
    # (what stderr must mention, arguments)
    ("nothere.yaml", ["nothere.yaml"]),
    ("directory", [root]),
    ("noise.yaml", [root / "noise.yaml"]),
    ("list.yaml", [root / "list.yaml"]),
    ("tab.yaml:2", [root / "tab.yaml"]),
    ("twice.yaml:3", [root / "twice.yaml"]),
    ("nowhere.yaml", [root / "base.yaml"]),
    ("model.layrs", [config, "model.layrs=3"]),
    ("model.layers", [config, "model.layers=two"]),
    ("model.layers", [config, "model.layers=0"]),
    ("model.layers", [config, "model.layers=2.5"]),
    ("model.dim", [config, "model.dim=33"]),
    ("model.dim", [config, "model.dim=-32"]),
    ("model.heads", [config, "model.heads=3"]),
    ("model.heads", [config, "model.heads=0"]),
    ("model.kv_heads", [config, "model.heads=4", "model.kv_heads=3"]),
    ("model.context", [config, "model.context=0"]),
    ("model.vocab", [config, "model.vocab=100"]),
    ("model.type", [config, "model.type=bert"]),
    ("model.type", [config, "model.type=rnn"]),
    ("model.mlp", [config, "model.mlp=tanh"]),
    ("model.norm", [config, "model.norm=batch"]),
    ("model.norm_structure", [config, "model.norm_structure=sandwich"]),
    ("model.position", [config, "model.position=clock"]),
    ("model.dropout", [config, "model.dropout=1.5"]),
    ("model.dropout", [config, "model.dropout=-0.1"]),
    ("model.layer_scale", [config, "model.layer_scale=.nan"]),
    ("model.bias", [config, "model.bias=maybe"]),
    ("attention.score", [config, "attention.score=dots"]),
    ("attention.scale", [config, "attention.scale=.inf"]),
    ("attention.groups", [config, "attention.score=cosine", "attention.groups=3"]),
    ("attention.threshold", [config, "attention.score=piecewise", "model.position=rotary", "attention.threshold=0"]),
    ("model.position", [config, "attention.score=piecewise", "attention.threshold=5"]),
    ("attention.normalizer", [config, "attention.normalizer=sparsemax"]),
    ("attention.n", [config, "attention.n=-1"]),
    ("attention.n", [config, "attention.n=[1]"]),
    ("attention.n", [config, "attention.n={learned: true, init: 0}"]),
    ("attention.n", [config, "attention.n={from: 0, to: -1, steps: 4}"]),
    ("attention.n", [config, "attention.n={from: 0, steps: 4}"]),
    ("attention.n", [config, "attention.n=lots"]),
    ("attention.sigmoid_bias", [config, "attention.normalizer=sigmoid", "attention.sigmoid_bias=low"]),
    ("attention.gamma", [config, "attention.normalizer=clipped_softmax", "attention.gamma=0.1"]),
    ("attention.gamma", [config, "attention.gamma=-x/context"]),
    ("attention.zeta", [config, "attention.normalizer=clipped_softmax", "attention.zeta=0.5"]),
    ("attention.zeta", [config, "attention.zeta=4/context"]),
    ("attention.window", [config, "attention.window=[1]"]),
    ("attention.window", [config, "attention.window=[-2, 0]"]),
    ("attention.implementation", [config, "attention.implementation=magic"]),
    ("data.path", [config, f"data.path={root}/nothere"]),
    ("data.path", [config, f"data.path={root}"]),
    ("data.path", [config, f"data.path={root}/empty"]),
    ("data.split", [config, f"data.path={root}/short"]),
    ("data.split", [config, "data.split=[60000, 4000]"]),
    ("data.split", [config, "data.split=[60000, -4000, 100]"]),
    ("data.split", [config, "data.split=[60000, 5, 5]"]),
    ("data.path", [config, f"data.path={root}/truncated.gz"]),
    ("data.path", [config, f"data.path={root}/flipped.gz"]),
    ("data.path", [config, f"data.path={root}/broken.zip"]),
    ("data.path", [config, "data.path=generator:martian"]),
    ("data.source", [config, "data.source=images"]),
    ("data.mlm.mask_token", [config, "model.type=bert", "attention.causal=false"]),
    ("data.path", [config, *tokens, f"data.path={root}/odd.bin"]),
    ("data.tokenizer", [config, "data.tokenizer=tokenizer.json"]),
    ("absent.json", [config, *tokens, "data.tokenizer=absent.json", f"data.path={root}/text"]),
    ("optim.type", [config, "optim.type=adam2"]),
    ("optim.lr", [config, "optim.lr=-1"]),
    ("optim.lr", [config, "optim.lr=.nan"]),
    ("optim.betas", [config, "optim.betas=[0.9, 1.0]"]),
    ("optim.weight_decay", [config, "optim.weight_decay=-1"]),
    ("optim.schedule.type", [config, "optim.schedule.type=zigzag"]),
    ("optim.schedule.warmup", [config, "optim.schedule.warmup=-3"]),
    ("train.device", [config, "train.device=tpu"]),
    ("train.device", [config, "train.device=cuda:x"]),
    ("train.dtype", [config, "train.dtype=int4"]),
    ("train.dtype", [config, "train.device=cpu", "train.dtype=bf16"]),
    ("train.batch", [config, "train.batch=0"]),
    ("train.accumulate", [config, "train.accumulate=0"]),
    ("train.steps", [config, "train.steps=-4"]),
    ("train.seed", [config, "train.seed=-1"]),
    ("train.threads", [config, "train.threads=-1"]),
    ("analysis.every", [config, "analysis.every=-1"]),
    ("analysis.sites", [config, "analysis.sites=blocks"]),
    ("name", [config, "name=../up"]),
    ("section.key=value", [config, "model"]),
]


def one_line(err):
    return err.count("\n") == 1 and err.endswith("\n")


def snapshot():
    return sorted(str(p) for p in root.rglob("*"))


before = snapshot()
for mention, arguments in cases:
    status, out, err = run("train", *arguments, cwd=root)
    shown = " ".join(map(str, arguments))
    expect(status == 2, f"{shown}: status {status}, expected 2: {err}")
    expect(one_line(err), f"{shown}: expected one line on stderr: {err!r}")
    expect(mention in err, f"{shown}: expected '{mention}' in: {err}")
    expect(out == "", f"{shown}: wrote to stdout: {out}")
    expect(snapshot() == before, f"{shown}: left something behind")
print(f"{len(cases)} bad configs refused")

# The other commands.
garbage = root / "garbage.h5"
garbage.write_bytes(random.Random(3).randbytes(5000))
(root / "x.safetensors").write_bytes(b"\xff" * 64)
before = snapshot()
for arguments in (["eval", root / "nothere.h5"], ["eval", garbage], ["eval", root / "empty"], ["generate", garbage, "--prompt", "a"],
                  ["stats", garbage], ["stats", root], ["inspect", root / "nothere"], ["inspect", root / "x.safetensors"], ["train"], ["bench"],
                  ["nonsense"], [], ["train", config, "--bogus"], ["generate", garbage], ["compare"], ["bench", "attention", "--length", "0"],
                  ["bench", "train", "--layers", "0"], ["quantize"], ["quantize", garbage], ["quantize", root / "nothere.h5"]):
    status, out, err = run(*arguments, cwd=root)
    expect(status == 2 and one_line(err), f"{arguments}: status {status}: {err!r}")
    expect(snapshot() == before, f"{arguments}: left something behind")

# A full disk: status 1, one line, and what was there stays valid.
whole = root / "run"
status, out, err = run("train", config, "train.steps=20", "--run-dir", whole)
expect(status == 0, f"a good run: {err}")
before = snapshot()
for mention, arguments in (("--scheme: found 'W8'", ["--scheme", "W8"]), ("--scheme: found 'W1A8'", ["--scheme", "W8A8", "--scheme", "W1A8"]),
                           ("--scheme: W8A8: given twice", ["--scheme", "W8A8", "--scheme", "W8A8"]), ("--per", ["--per", "row"]),
                           ("--range", ["--range", "best"]), ("--percentile", ["--percentile", "12"]), ("--momentum", ["--momentum", "1"]),
                           ("--calibration-batches", ["--calibration-batches", "0"]), ("--batches", ["--batches", "-1"]),
                           ("--data: nothere", ["--data", "nothere"]), ("none.yaml", ["--data", "none.yaml"]),
                           ("--out: nowhere/x.json", ["--out", "nowhere/x.json"]), ("--split", ["--split", "dev"]), ("--device", ["--device", "tpu"]),
                           ("--mask-token", ["--mask-token", "3"])):
    status, out, err = run("quantize", whole, *arguments, cwd=root)
    expect(status == 2 and one_line(err) and mention in err and out == "", f"quantize {arguments}: status {status}: {err!r}")
    expect(snapshot() == before, f"quantize {arguments}: left something behind")

kept = {p.name: p.read_bytes() for p in checkpoints(whole)}
size = checkpoints(whole)[0].stat().st_size
for limit in (0, 100, 5000, size // 2, size - 1):
    directory = root / f"full-{limit}"
    shutil.copytree(whole, directory)
    (directory / "results.json").unlink()
    for step in (20, 15):
        (directory / f"checkpoints/step_{step:08d}.h5").unlink()
    status, out, err = run("train", config, "train.steps=20", "--run-dir", directory, "--resume", file_limit=limit)
    expect(status == 1 and one_line(err), f"file size limit {limit}: status {status}: {err!r}")
    left = checkpoints(directory)
    expect([p.name for p in left] == ["step_00000010.h5"], f"file size limit {limit}: {left}")
    expect(left[0].read_bytes() == kept["step_00000010.h5"], f"file size limit {limit}: the checkpoint changed")
    expect(not [p for p in directory.rglob(".*")], f"file size limit {limit}: temporary files left")
    status, out, err = run("train", config, "train.steps=20", "--run-dir", directory, "--resume")
    expect(status == 0, f"after the disk has room again: {err}")
    expect(digests(checkpoints(directory)[-1]) == digests(checkpoints(whole)[-1]), f"file size limit {limit}: the resumed run differs")
shutil.rmtree(root)
print("passed")
