#!/usr/bin/env python3
"""Times this build on the GPU of this machine, beside PyTorch where it is installed, and records every line.

    bench/gpu.py [--only attention train] [--no-peers] [--binary build-cuda/bin/quietformer] [--out bench/results]

Appends to OUT/GPU-attention.jsonl and OUT/GPU-train.jsonl (bench/results/README.md says what a line holds) and prints tables of
ratios, ours over PyTorch's. Both sides are timed in the same run, one after the other, on the same inputs' shapes: attention in bf16
with cold caches by the GPU's clock, training as optimizer steps between two synchronisations.
"""
import argparse
import json
import pathlib
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LENGTHS = [1024, 4096, 16384]
TOKENS, HIDDEN = 16384, 2048
# name: score, normaliser, its per-head parameters (-8.3 is -ln 4096)
VARIANTS = {
    "softmax": ("dot", "softmax_n", [0]),
    "softmax1": ("dot", "softmax_n", [1]),
    "sink": ("dot", "softmax_n", [0, 0.4]),
    "cosine": ("cosine", "softmax_n", [0]),
    "sigmoid": ("dot", "sigmoid", [-8.3]),
    "cosine sigmoid": ("cosine", "sigmoid", [-8.3]),
    "clipped softmax": ("dot", "clipped_softmax", [-0.001, 1]),
    "piecewise": ("piecewise", "softmax_n", [0]),
    "piecewise sigmoid": ("piecewise", "sigmoid", [-8.3]),
}
MODELS = {
    "GPT-2 124M": dict(layers=12, heads=12, dim=768, vocab=50304, context=1024, batch=64),
    "GPT-2 350M": dict(layers=24, heads=16, dim=1024, vocab=50304, context=1024, batch=32),
    "enwik8": dict(layers=8, heads=8, dim=512, vocab=256, context=1024, batch=64),
}


def output_of(command):
    """Runs a program that must succeed; what it prints."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except OSError as error:
        sys.exit(f"gpu.py: {words[0]}: {error.strerror}")
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-300:]
        sys.exit(f"gpu.py: {shlex.join(words)}: exit status {done.returncode}: {said}")
    return done.stdout


def lines_of(command):
    """Runs a benchmark; its JSON lines."""
    return [json.loads(line) for line in output_of(command).splitlines() if line.startswith("{")]


class Recorder:
    def __init__(self, out, commit):
        self.gpu = output_of(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "--id=0"]).strip()
        self.out, self.commit = pathlib.Path(out), commit
        self.out.mkdir(parents=True, exist_ok=True)

    def add(self, topic, command, line):
        words = [str(word) for word in command]
        words[0] = pathlib.Path(words[0]).name
        if words[0].startswith("python"):
            words = ["python3", str(pathlib.Path(words[1]).relative_to(ROOT)), *words[2:]]
        record = dict(commit=self.commit, hardware=self.gpu, command=shlex.join(words), **line)
        name = self.gpu.replace("NVIDIA ", "").replace(" ", "-").lower()
        with open(self.out / f"{name}-{topic}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def peer_attention(recorder, torch_version):
    """{(D, L, causal): {"forward": TFLOP/s, "backward": TFLOP/s}} of PyTorch's FlashAttention-2."""
    command = [sys.executable, ROOT / "bench/peers/attention_torch.py", "--only", "sdpa_flash2", "sdpa_cudnn", "--tokens", TOKENS, "--hidden",
               HIDDEN]
    speeds = {}
    for line in lines_of(command):
        if "error" in line:
            continue
        recorder.add("attention", command, dict(line, bench="attention", implementation=f"torch {torch_version} {line['name']}"))
        if line["name"] == "sdpa_flash2":
            speeds.setdefault((line["D"], line["L"], line["causal"]), {})[line["mode"]] = line["tflops"]
    return speeds


def our_attention(recorder, binary):
    """{variant: {(D, L, causal): {...}}}."""
    speeds = {}
    for variant, (score, normalizer, parameters) in VARIANTS.items():
        for dim in (64, 128):
            for causal in (False, True):
                command = [binary, "bench", "attention", "--device", "cuda", "--dtype", "bf16", "--score", score, "--normalizer", normalizer,
                           "--tokens", TOKENS, "--heads", HIDDEN // dim, "--head-dim", dim, "--length", *LENGTHS, *([] if causal else ["--full"]),
                           "--parameters", *parameters]
                for line in lines_of(command):
                    recorder.add("attention", command, line)
                    speeds.setdefault(variant, {})[(dim, line["L"], causal)] = dict(
                        forward=line["forward_gflops"] / 1e3, backward=line["backward_gflops"] / 1e3)
    return speeds


def attention(recorder, binary, torch_version):
    peers = peer_attention(recorder, torch_version) if torch_version else {}
    ours = our_attention(recorder, binary)
    cells = [(dim, causal, length) for dim in (64, 128) for causal in (False, True) for length in LENGTHS]
    for mode in ("forward", "backward"):
        print(f"attention {mode}, bf16, TFLOP/s" + (" (ratio to PyTorch's FlashAttention-2)" if peers else ""))
        heads = [f"D{dim} {'causal' if causal else 'full'} {length}" for dim, causal, length in cells]
        print(" " * 18 + "".join(f"{head:>18}" for head in heads))
        for variant, speeds in {**({"torch flash2": peers} if peers else {}), **ours}.items():
            row = f"{variant:18}"
            for dim, causal, length in cells:
                speed = speeds.get((dim, length, causal), {}).get(mode)  # a peer may be unable to run a shape
                peer = peers.get((dim, length, causal), {}).get(mode)
                cell = "-" if speed is None else f"{speed:.0f}"
                if speed is not None and peer:
                    cell += f" ({speed / peer:.2f})"
                row += f"{cell:>18}"
            print(row)


def train(recorder, binary, torch_version):
    print("training, bf16: thousand tokens per second (ratio to torch.compile; with statistics on every step)")
    for name, model in MODELS.items():
        shape = [word for key, value in model.items() for word in (f"--{key}", value)]
        speed = {}
        for key, command in {
                "ours": [binary, "bench", "train", "--device", "cuda", "--dtype", "bf16", *shape],
                "statistics": [binary, "bench", "train", "--device", "cuda", "--dtype", "bf16", "--statistics", *shape],
                "torch": [sys.executable, ROOT / "bench/peers/gpt2_torch.py", *shape] if torch_version else None}.items():
            if command is None:
                continue
            for line in lines_of(command):
                more = dict(bench="train", implementation=f"torch {torch_version} compile") if key == "torch" else {}
                recorder.add("train", command, dict(line, note=name, **more))
                speed[key] = line["tokens_per_s"] / 1e3
                if "ms_without_statistics" in line:
                    cost = 100 * (line["ms"] / line["ms_without_statistics"] - 1)
        ratio = f" torch {speed['torch']:.0f} ({speed['ours'] / speed['torch']:.2f})" if "torch" in speed else ""
        print(f"{name:12} {speed['ours']:8.0f}{ratio}  statistics {speed['statistics']:.0f} ({cost:+.1f} % time)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["attention", "train"], default=["attention", "train"])
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--binary", default=ROOT / "build-cuda/bin/quietformer")
    parser.add_argument("--out", default=ROOT / "bench/results")
    parser.add_argument("--commit", help="the commit to record; default: that of this clean tree")
    args = parser.parse_args()
    commit = args.commit
    if commit is None:
        if output_of(["git", "-C", ROOT, "status", "--porcelain", "--untracked-files=no"]).strip():
            sys.exit("gpu.py: the tree has changes that are not committed: commit them, or name one with --commit")
        commit = output_of(["git", "-C", ROOT, "rev-parse", "HEAD"]).strip()
    torch_version = None
    if not args.no_peers:
        probe = subprocess.run([sys.executable, "-c", "import torch; print(torch.__version__.split('+')[0])"], capture_output=True, text=True)
        torch_version = probe.stdout.strip() or None
        if torch_version is None:
            print("gpu.py: no PyTorch here, its side is left out")
    recorder = Recorder(args.out, commit)
    for topic in args.only:
        (attention if topic == "attention" else train)(recorder, args.binary, torch_version)


if __name__ == "__main__":
    main()
