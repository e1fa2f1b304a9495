"""What the system tests share: running the binary, small configs, reading what it left."""
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile

BINARY = sys.argv[1]

CONFIG = """
name: tiny
model: {layers: 2, heads: 2, dim: 32, context: 32, vocab: 256, mlp_dim: 64, dropout: 0.1}
attention: {normalizer: softmax_n, n: {learned: true, init: 1.0}, gate: head, dropout: 0.1}
data: {path: "generator:wikipedia", split: [60000, 4000, 4000]}
optim: {lr: 1.0e-3, schedule: {warmup: 5}}
train: {device: cpu, batch: 4, accumulate: 2, steps: 120, eval_every: 30, eval_batches: 2, checkpoint_every: 5, keep: 3, log_every: 1, threads: 2}
analysis: {every: 4, per_head: true}
"""


def folder():
    return pathlib.Path(tempfile.mkdtemp(prefix="quietformer-"))


def write_config(path, text=CONFIG):
    path.write_text(text)
    return path


def limit_file_size(limit):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def run(*arguments, cwd=None, file_limit=None, timeout=240):
    """(status, stdout, stderr) of one finished command; status 128 + signal when one ended it."""
    done = subprocess.run([BINARY, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, errors="replace", timeout=timeout,
                          preexec_fn=None if file_limit is None else limit_file_size(file_limit))
    status = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return status, done.stdout, done.stderr


def start(*arguments, cwd=None):
    return subprocess.Popen([BINARY, *map(str, arguments)], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def expect(condition, message):
    if not condition:
        print("FAILED:", message, flush=True)
        sys.exit(1)


def log_without_times(directory):
    """The log's lines, without the fields that tell about time."""
    lines = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in lines]


def results_without_times(directory):
    results = json.loads((directory / "results.json").read_text())
    for key in ("seconds", "tokens_per_second", "threads"):
        results.pop(key, None)
    return results


def digests(file):
    """{tensor name: digest} of a checkpoint or statistics file."""
    status, out, err = run("inspect", file, "--json")
    expect(status == 0, f"inspect {file}: {err}")
    return {t["name"]: (t["shape"], t["digest"]) for t in json.loads(out)["tensors"]}


def checkpoints(directory):
    return sorted(p for p in (directory / "checkpoints").iterdir() if p.suffix == ".h5" and not p.name.startswith("."))
