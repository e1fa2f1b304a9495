"""Simulated quantisation against PyTorch's: the numbers of tests/fixtures/quantization.* that
test_analysis_fixtures holds our grids against, and what `quietformer quantize` says of a GPT-2, with
transformers' model, torch's fake quantisation on its linear layers and attention, and torch's ranges.

Usage: quantization_torch_test.py QUIETFORMER FIXTURES, or FIXTURES --write to make the fixture anew.
Without torch and transformers: status 77 (skipped).
"""
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

try:
    import torch
    import transformers
    from safetensors.torch import load_file, save_file
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)


def single(value):
    """Rounded to float32, as the scale of a kernel."""
    return torch.tensor(value, dtype=torch.float64).float().item()


def asymmetric(x, low, high, bits):
    """Nagel et al., 2.2.1: (rounded x, scale, zero point)."""
    low, high, last = min(low, 0.0), max(high, 0.0), 2**bits - 1
    scale = single((high - low) / last) or 1.0
    zero = round(-low / scale)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, last), scale, zero


def symmetric(w, bits):
    last = 2 ** (bits - 1) - 1
    scale = single(w.abs().max().double().item() / last) or 1.0
    return torch.fake_quantize_per_tensor_affine(w, scale, 0, -last, last), [scale]


def symmetric_channels(w, bits):
    """One scale for each row."""
    last = 2 ** (bits - 1) - 1
    scales = (w.abs().amax(1).double() / last).float()
    scales = torch.where(scales == 0, torch.ones_like(scales), scales)
    return torch.fake_quantize_per_channel_affine(w, scales, torch.zeros(len(scales), dtype=torch.int32), 0, -last, last), scales.tolist()


def make_fixture():
    generator = torch.Generator().manual_seed(7)
    normal = torch.randn(13, 29, generator=generator)
    outliers = normal.clone()
    outliers[3, 5], outliers[7, 11], outliers[:, 2] = 60.0, -25.0, outliers[:, 2] * 20
    inputs = {"normal": normal, "outliers": outliers, "positive": normal.abs() + 0.5, "negative": -normal.abs() - 0.01,
              "zeros": torch.zeros(13, 29), "tiny": normal * 1e-12, "huge": normal * 1e30, "halves": (normal * 8).round() / 2}
    tensors, cases = {}, []
    for name, x in inputs.items():
        tensors[f"x/{name}"] = x
        for bits in (2, 4, 8, 12, 16):
            y, scale, zero = asymmetric(x, x.min().double().item(), x.max().double().item(), bits)
            tensors[f"asymmetric/{name}/{bits}"] = y
            cases.append({"kind": "asymmetric", "x": name, "bits": bits, "scales": [scale], "zero": zero})
        for kind, rule in (("tensor", symmetric), ("channel", symmetric_channels)):
            for bits in (4, 8):
                y, scales = rule(x, bits)
                tensors[f"{kind}/{name}/{bits}"] = y
                cases.append({"kind": kind, "x": name, "bits": bits, "scales": scales})
    return {name: tensor.contiguous() for name, tensor in tensors.items()}, {"cases": cases}


def check_fixture(folder):
    tensors, cases = make_fixture()
    stored = load_file(folder / "quantization.safetensors")
    assert json.loads((folder / "quantization.json").read_text()) == cases, "quantization.json is not what torch gives"
    assert stored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(stored[name], tensor), f"{name}: not what torch gives"


CONTEXT, ROWS = 64, 16  # of gpt2-tiny; sequences of a batch
LINEARS = {"attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}


class Model:
    """transformers' GPT-2 whose products read what `grids` and rounded weights make of them."""

    def __init__(self, folder):
        transformers.AttentionInterface.register("rounded", lambda *arguments, **rest: self.attention(*arguments))
        self.model = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="rounded").eval()
        self.grids, self.seen, self.modules = {}, None, {}
        for layer, block in enumerate(self.model.transformer.h):
            for site, path in LINEARS.items():
                self.add(f"blocks.{layer}.{site}", block.get_submodule(path))
        self.add("head", self.model.lm_head)
        self.originals = {name: module.weight.detach().clone() for name, module in self.modules.items()}

    def add(self, name, module):
        self.modules[name] = module
        module.register_forward_pre_hook(lambda _, inputs: (self.operand(f"{name}.input", inputs[0]),))

    def operand(self, site, x):
        if self.seen is not None:
            self.seen.setdefault(site, []).append(x.clone())
        return asymmetric(x, *self.grids[site])[0] if site in self.grids else x

    def attention(self, module, query, key, value, *_):
        site = lambda name: f"blocks.{module.layer_idx}.attention.{name}"
        q, k, v = (self.operand(site(name), x) for name, x in zip("qkv", (query, key, value)))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        return (self.operand(site("weights"), weights) @ v).transpose(1, 2), weights

    def round_weight(self, name, rule, bits):
        weight = self.originals[name]
        transposed = name != "head"  # Conv1D holds (in, out)
        rounded = rule(weight.T.contiguous() if transposed else weight, bits)[0]
        self.modules[name].weight.data = rounded.T.contiguous() if transposed else rounded

    def restore(self, name):
        self.modules[name].weight.data = self.originals[name]

    def loss(self, windows):
        total, count = 0.0, 0
        whole = torch.stack([window for window in windows if len(window) > CONTEXT])
        with torch.no_grad():
            for batch in [whole] + [window[None] for window in windows if len(window) <= CONTEXT]:
                logits = self.model(batch[:, :-1]).logits.double().flatten(0, 1)
                total += torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten(), reduction="sum").item()
                count += len(logits)
        return total / count


def near(got, want, tolerance, what):
    assert abs(got - want) <= tolerance, f"{what}: {got}, torch has {want}"


def quantize(binary, folder, data, *options):
    done = subprocess.run([binary, "quantize", folder, "--data", data, "--device", "cpu", "--json", *map(str, options)],
                          capture_output=True, text=True)
    assert done.returncode == 0, f"{options}: status {done.returncode}: {done.stderr}"
    return json.loads(done.stdout)


def calibrate(model, ids):
    """{site: numbers}, of 2 batches of whole windows spread evenly."""
    whole = (len(ids) - 1) // CONTEXT
    taken = whole // ROWS * ROWS
    model.seen, model.grids = {}, {}
    model.loss([ids[CONTEXT * (i * whole // taken):][:CONTEXT + 1] for i in range(taken)])
    seen, model.seen = {site: torch.cat([x.reshape(-1) for x in parts]) for site, parts in model.seen.items()}, None
    return seen


def range_of(numbers, method):
    if method == "percentile":
        ordered = numbers.sort().values
        return ordered[int(0.001 * len(ordered))].item(), ordered[int(0.999 * len(ordered))].item()
    return numbers.min().item(), numbers.max().item()


def check_scheme(report, model, windows, numbers, rule, attention):
    """Losses and ranges of a min-max scheme."""
    (scheme,) = report["schemes"]
    # Rounding makes steps of errors in the last bit: torch's own loss moves by 3e-6 when every operand
    # does, with attention's products by 6e-5.
    tolerance = 2e-4 if attention else 2e-5
    weight_bits, bits = scheme["weights"]["bits"], scheme["activations"]["bits"]
    sites = {site["name"]: site for site in scheme["sites"]}
    near(scheme["loss"]["float"], model.loss(windows), 2e-6, "float loss")
    wanted = {site for site in numbers if site != "head.input" and (attention or site.endswith(".input"))}
    weights = [name for name in model.modules if name != "head"]
    assert sites.keys() == wanted | {f"{name}.weight" for name in weights}, sites.keys()
    for site in wanted:
        low, high = range_of(numbers[site], "minmax")
        rounded, scale, zero = asymmetric(numbers[site], low, high, bits)
        near(sites[site]["low"], -scale * zero, 1e-5 * (high - low), f"{site} low")
        near(sites[site]["high"], scale * (2**bits - 1 - zero), 1e-5 * (high - low), f"{site} high")
        error = (rounded.double() - numbers[site].double()).square().mean().item()
        near(sites[site]["mse"], error, 0.03 * error, f"{site} mse")
        model.grids[site] = (low, high, bits)
    for name in weights:
        model.round_weight(name, rule, weight_bits)
    near(scheme["loss"]["quantized"], model.loss(windows), tolerance, "quantised loss")
    for site in ("blocks.0.mlp.down.input", "blocks.1.attention.qkv.input") + (("blocks.0.attention.weights",) if attention else ()):
        grid = model.grids.pop(site)
        near(sites[site]["gap_without"], model.loss(windows) - scheme["loss"]["float"], tolerance, f"gap without {site}")
        model.grids[site] = grid
    model.restore("blocks.0.attention.qkv")
    near(sites["blocks.0.attention.qkv.weight"]["gap_without"], model.loss(windows) - scheme["loss"]["float"], tolerance, "gap without a weight")
    for name in weights:
        model.restore(name)
    model.grids = {}


def check_ranges(report, numbers, method):
    for site in report["schemes"][0]["sites"]:
        x = numbers.get(site["name"])
        if x is None:
            continue
        low, high = range_of(x, method)
        bits = report["schemes"][0]["activations"]["bits"]
        step = (high - low) / (2**bits - 1)
        if method == "percentile":  # a bin is 2^-7 of its numbers; the zero point moves the range by half a step
            near(site["low"], min(low, 0), 0.01 * abs(low) + step, f"{site['name']} low")
            near(site["high"], max(high, 0), 0.01 * abs(high) + step, f"{site['name']} high")
            continue
        error = lambda a, b: (asymmetric(x, a, b, bits)[0] - x).double().square().mean().item()
        own = error(site["low"], site["high"])
        near(site["mse"], own, 0.03 * own, f"{site['name']} mse")
        steps = [i / 16 for i in range(1, 17)]
        best = min(error(low * a, high * b) for a in steps for b in steps)
        assert own <= 1.02 * best, f"{site['name']}: {own}, a search has {best}"


def check_command(binary, folder):
    generator = random.Random(3)
    ids = [generator.randrange(97) for _ in range(2500)]
    model = Model(folder / "gpt2-tiny")
    with tempfile.TemporaryDirectory() as scratch:
        data = pathlib.Path(scratch) / "ids.bin"
        data.write_bytes(struct.pack(f"<{len(ids)}H", *ids))
        ids = torch.tensor(ids)
        windows = [ids[begin:begin + CONTEXT + 1] for begin in range(0, len(ids) - 1, CONTEXT)]
        numbers = calibrate(model, ids)
        run = lambda *options: quantize(binary, folder / "gpt2-tiny", data, *options)
        check_scheme(run(), model, windows, numbers, symmetric, False)
        check_scheme(run("--scheme", "W4A6", "--per", "channel", "--attention"), model, windows, numbers, symmetric_channels, True)
        check_ranges(run("--scheme", "W16A6", "--range", "percentile", "--percentile", 99.9, "--no-leave-one-out"), numbers, "percentile")
        check_ranges(run("--scheme", "W16A4", "--range", "mse", "--attention", "--no-leave-one-out"), numbers, "mse")


def main():
    if sys.argv[2:] == ["--write"]:
        folder = pathlib.Path(sys.argv[1])
        tensors, cases = make_fixture()
        save_file(tensors, folder / "quantization.safetensors")
        (folder / "quantization.json").write_text(json.dumps(cases) + "\n")
        return
    binary, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    check_fixture(folder)
    check_command(binary, folder)
    print("quantisation agrees with torch", torch.__version__)


main()
