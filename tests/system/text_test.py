"""train, eval and generate on plain text with a tokenizer; eval and generate of a Hugging Face directory with its own."""
import json
import math
import random
import shutil
import sys

from harness import *

TESTS = pathlib.Path(sys.argv[2])
TOKENIZER = TESTS / "data/fixtures/gpt2"
WORDS = "the quiet former listens to sink attention score query key divided by sum all one takes what is left".split()

root = folder()
dice = random.Random(1)
text = " ".join(dice.choice(WORDS) for _ in range(12000))
(root / "text.txt").write_text(text)
config = write_config(root / "tiny.yaml", CONFIG.replace("vocab: 256", "vocab: 700").replace(
    'path: "generator:wikipedia", split: [60000, 4000, 4000]',
    f'source: tokens, path: "{root}/text.txt", tokenizer: "{TOKENIZER}", split: [8000, 1000, 1000]'))

status, out, err = run("train", config, "train.steps=20", "analysis.every=0", "--run-dir", root / "run")
if "need ICU" in err:
    print("skipped: built without ICU")
    sys.exit(77)
expect(status == 0, f"train: {err}")
log = log_without_times(root / "run")
expect(log[-1]["loss"] < log[0]["loss"] - 0.1, f"the loss does not fall: {log[0]['loss']} to {log[-1]['loss']}")


def evaluate(*arguments):
    status, out, err = run("eval", *arguments, "--json")
    expect(status == 0, f"eval {arguments}: {err}")
    return json.loads(out)


def check_bits(result, size):
    """Bits per byte are those of the text, by the ratio of all tokens to all bytes."""
    tokens = result["tokens"] + 1  # the first one is no target
    expected = result["loss"] / math.log(2) * tokens / size
    expect(abs(result["bits_per_byte"] - expected) < 1e-9 * expected, f"bits per byte: {result}, expected {expected}")


whole = evaluate(root / "run", "--data", root / "text.txt")
expect(whole["tokens"] < len(text) / 2, f"{whole['tokens']} tokens for {len(text)} bytes")
check_bits(whole, len(text))
evaluate(root / "run")  # its own test split

# A directory that a model and its tokenizer came in.
model = root / "hf"
shutil.copytree(TESTS / "fixtures/gpt2-tiny", model)
vocab_size = json.loads((model / "config.json").read_text())["vocab_size"]
status, out, err = run("eval", model, "--data", root / "text.txt")
expect(status == 2 and "no tokenizer" in err, f"eval without a tokenizer: {status} {err}")
status, out, err = run("generate", model, "--prompt", "the")
expect(status == 2 and "without a tokenizer" in err, f"generate without a tokenizer: {status} {err}")
status, out, err = run("eval", model, "--data", root / "text.txt", "--tokenizer", TOKENIZER)
expect(status == 2 and "below the vocabulary of" in err, f"eval with another model's tokenizer: {status} {err}")

vocab = {token: i for token, i in json.loads((TOKENIZER / "vocab.json").read_text()).items() if i < vocab_size}
merges = [line for line in (TOKENIZER / "merges.txt").read_text().split("\n")[1:] if line.replace(" ", "") in vocab]
(model / "vocab.json").write_text(json.dumps(vocab))
(model / "merges.txt").write_text("".join(line + "\n" for line in merges))
check_bits(evaluate(model, "--data", root / "text.txt"), len(text))

prompt = "the quiet \u00e9 sink"
outputs = []
for arguments in (["--tokens", "30"], ["--tokens", "30"], ["--tokens", "0"]):
    status, out, err = run("generate", model, "--prompt", prompt, "--seed", "5", *arguments)
    expect(status == 0 and out.startswith(prompt), f"generate: {status} {err} {out!r}")
    outputs.append(out)
expect(outputs[0] == outputs[1] and len(outputs[0]) > len(prompt) + 10, f"generate: {outputs}")
expect(outputs[2] == prompt + "\n", f"generate nothing: {outputs[2]!r}")

# Ids are read as ids still.
(root / "ids.bin").write_bytes(bytes([1, 0, 2, 0, 3, 0, 4, 0] * 40))
result = evaluate(model, "--data", root / "ids.bin")
expect(result["tokens"] == 159 and "bits_per_byte" not in result, f"ids: {result}")
shutil.rmtree(root)
print("passed")
