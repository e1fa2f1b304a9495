"""What convert writes, in transformers: every architecture's fixture goes HF -> native -> HF, whole and
in shards, in float32, bfloat16 and float16; loads without missing or unexpected weights, has the same
bytes, and gives the source's logits. And what transformers writes (shards) is read.

Usage: hf_transformers_test.py QUIETFORMER FIXTURES. Without torch and transformers: status 77 (skipped).
"""
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import torch
    import transformers
    from safetensors import safe_open
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

CASES = {"gpt2-tiny": "GPT2LMHeadModel", "bert-tiny": "BertForMaskedLM", "roberta-tiny": "RobertaForMaskedLM",
         "llama-tiny": "LlamaForCausalLM"}
TOLERANCE = 1e-4


def run(binary, *arguments):
    done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}: status {done.returncode}: {done.stderr}"
    return done.stdout


def weights(folder):
    tensors = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                assert name not in tensors, f"{path}: {name} twice"
                tensors[name] = file.get_tensor(name)
    return tensors


def load(cls, folder):
    model, info = cls.from_pretrained(folder, output_loading_info=True)
    wrong = {key: value for key, value in info.items() if value}
    assert not wrong, f"{folder}: {wrong}"
    return model.eval()


def same_bytes(one, other):
    assert one.keys() == other.keys(), f"names differ: {sorted(one.keys() ^ other.keys())}"
    for name in one:
        a, b = one[name], other[name]
        assert a.dtype == b.dtype and a.shape == b.shape, name
        assert torch.equal(a.reshape(-1).contiguous().view(torch.uint8), b.reshape(-1).contiguous().view(torch.uint8)), name


def logits(model, tokens):
    with torch.no_grad():
        return model.float()(input_ids=tokens).logits


def check(binary, cls, source, scratch, shards):
    """HF -> native -> HF of one directory."""
    scratch.mkdir()
    mask = ["--mask-token", "4"] if "Masked" in cls.__name__ else []
    native, back = scratch / "model.h5", scratch / "back"
    run(binary, "convert", source, native, *mask)
    run(binary, "convert", native, back, *(["--shard-size", "40KB"] if shards else []))
    assert (len(list(back.glob("model*.safetensors"))) > 1) == shards
    same_bytes(weights(source), weights(back))
    ours, theirs = load(cls, back), load(cls, source)
    tokens = torch.randint(5, theirs.config.vocab_size, (2, 20), generator=torch.Generator().manual_seed(1))
    difference = (logits(ours, tokens) - logits(theirs, tokens)).abs().max().item()
    assert difference <= TOLERANCE, f"{back}: logits differ by {difference}"
    kept = json.loads((source / "config.json").read_text())
    now = json.loads((back / "config.json").read_text())
    lost = {key: value for key, value in kept.items() if now.get(key) != value and value is not None}
    assert not lost, f"{back}: config.json lost {lost}"
    return difference


def check_surgery(binary, cls, source, scratch):
    """An attention that transformers has no key for still loads there, and comes back to us."""
    scratch.mkdir()
    mask = ["--mask-token", "4"] if "Masked" in cls.__name__ else []
    there, again = scratch / "there", scratch / "again"
    run(binary, "convert", source, there, "--attention", "sink_logit=-10", "--layers", "1", *mask)
    load(cls, there)
    assert (there / "quietformer.safetensors").exists()
    run(binary, "convert", there, again, *mask)
    same_bytes(weights(there), weights(again))
    assert (there / "config.json").read_text() == (again / "config.json").read_text()
    one, other = there / "quietformer.safetensors", again / "quietformer.safetensors"
    assert one.read_bytes() == other.read_bytes()


def main():
    binary, fixtures = sys.argv[1], pathlib.Path(sys.argv[2])
    transformers.logging.set_verbosity_error()
    cases = 0
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        for name, cls in CASES.items():
            cls = getattr(transformers, cls)
            source = fixtures / name
            worst = max(check(binary, cls, source, scratch / f"{name}-{shards}", shards)
                        for shards in (False, True))
            for dtype in (torch.bfloat16, torch.float16):
                rounded = scratch / f"{name}-{dtype}-source"
                cls.from_pretrained(source).to(dtype).save_pretrained(rounded, max_shard_size="30KB")
                assert len(list(rounded.glob("model*.safetensors"))) > 1
                worst = max(worst, check(binary, cls, rounded, scratch / f"{name}-{dtype}", False))
            check_surgery(binary, cls, source, scratch / f"{name}-surgery")
            print(f"{name}: logits differ by at most {worst:.2g}")
            cases += 1
    print(f"fixtures: {cases} cases from {fixtures}, transformers {transformers.__version__}")


main()
