"""An encoder as a user runs it: trains on masked bytes, resumes as if nothing had happened, evaluates; it does not generate."""
import json
import shutil

from harness import *

CONFIG = """
name: tiny-bert
model: {type: TYPE, layers: 2, heads: 2, dim: 32, context: 32, vocab: 258, token_types: 1, padding_token: 257, mlp: gelu_erf, mlp_dim: 64,
        norm_structure: post, deepnet: false, dropout: 0.1, norm_eps: 1.0e-12}
attention: {causal: false, normalizer: softmax_n, n: 1, dropout: 0.1}
data: {path: "generator:wikipedia", split: [60000, 4010, 4000], mlm: {probability: 0.15}}
optim: {lr: 3.0e-3, schedule: {warmup: 5}}
train: {device: cpu, batch: 16, accumulate: 2, steps: 30, eval_every: 10, eval_batches: 2, checkpoint_every: 5, keep: 9, log_every: 1, threads: 2}
analysis: {every: 4, per_head: true}
"""

root = folder()
for model in ("bert", "roberta"):
    config = write_config(root / f"{model}.yaml", CONFIG.replace("TYPE", model))
    whole = root / model
    status, out, err = run("train", config, "--run-dir", whole)
    expect(status == 0, f"{model}: {status} {err}")
    losses = [line["loss"] for line in log_without_times(whole)]
    expect(len(losses) == 30 and sum(losses[-5:]) / 5 < losses[0] - 1, f"{model}: the loss does not fall: {losses}")

    # Cut back to the middle and resumed by another number of threads.
    cut = root / f"{model}-cut"
    shutil.copytree(whole, cut)
    (cut / "results.json").unlink()
    for file in checkpoints(cut):
        if int(file.stem[5:]) > 15:
            file.unlink()
    status, out, err = run("train", config, "train.threads=3", "--run-dir", cut, "--resume")
    expect(status == 0 and "resuming at step 15" in out + err, f"{model}: {status} {out} {err}")
    expect(digests(checkpoints(cut)[-1]) == digests(checkpoints(whole)[-1]), f"{model}: final weights differ")
    expect(digests(cut / "stats.h5") == digests(whole / "stats.h5"), f"{model}: statistics differ")
    expect(log_without_times(cut) == log_without_times(whole), f"{model}: logs differ")
    expect(results_without_times(cut) == results_without_times(whole), f"{model}: results differ")

    results = json.loads((whole / "results.json").read_text())
    expect(sorted(results["attention"]) == ["blocks.0.attention", "blocks.1.attention"], f"{model}: {results['attention']}")
    expect(all(0 < x < 3.5 for x in results["attention"]["blocks.1.attention"]["entropy"]), f"{model}: {results['attention']}")
    expect(results["outlier_dimensions"]["count"] == len(results["outlier_dimensions"]["channels"]), f"{model}: {results['outlier_dimensions']}")
    site = results["activations"]["blocks.1.output"]
    expect(sum(site["histogram"]["counts"]) + site["histogram"]["below"] == 8 * 32 * 32, f"{model}: {site}")
    expect(0 < site["infinity_norm"] <= site["max_abs"], f"{model}: {site}")

    # Every evaluation masks the same: a run's last one, and eval's, in batches of another size.
    status, out, err = run("eval", whole, "--split", "validation", "--json")
    expect(status == 0, f"{model}: eval: {status} {err}")
    found, final = json.loads(out), json.loads((whole / "results.json").read_text())["loss"]["validation"]
    expect(0.1 < found["tokens"] / 4009 < 0.2, f"{model}: {found['tokens']} of 4009 tokens were masked")
    expect(abs(found["loss"] - final) < 1e-5, f"{model}: eval found {found}, the run {final}")

    status, out, err = run("generate", whole, "--prompt", "The ")
    expect(status == 2 and len(err.splitlines()) == 1 and f"model.type {model}" in err and "expected gpt" in err, f"{model}: generate: {status} {err}")

for change, word in (("model.vocab=256", "data.mlm.mask_token"), ("data.mlm.probability=0", "data.mlm.probability"), ("attention.causal=true", "attention.causal"),
                     ("data.source=tokens", "data.mlm.mask_token")):
    overrides = [change, "model.padding_token=0"] if "vocab" in change else [change]
    status, out, err = run("train", config, *overrides, "--run-dir", root / "refused")
    expect(status == 2 and len(err.splitlines()) == 1 and word in err, f"{change}: {status} {err}")
    expect(not (root / "refused").exists(), f"{change}: left something behind")
shutil.rmtree(root)
print("passed")
