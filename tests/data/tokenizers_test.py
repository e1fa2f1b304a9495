"""Our tokenizers against `tokenizers` (pip install tokenizers), live: tokenizers_test.py PROGRAM [TEXT-FILE].

Every code point in several places, the texts of fixtures/make_tokenizers.py, random mixtures of them, and many settings
of every section of tokenizer.json. With a text file also its ids, and the time that both take."""
import importlib.util
import itertools
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

try:
    import tokenizers
except ImportError:
    print("skipped: no module tokenizers")
    sys.exit(77)
from tokenizers import Tokenizer

PROGRAM = sys.argv[1]
FIXTURES = pathlib.Path(__file__).parent / "fixtures"
spec = importlib.util.spec_from_file_location("make_tokenizers", FIXTURES / "make_tokenizers.py")
make_tokenizers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_tokenizers)
TEXTS = make_tokenizers.TEXTS
failures = 0


def ours(path, texts, *options):
    """(ids, decoded bytes) of every text."""
    packed = b"".join(b"%d\n" % len(text) + text for text in (text.encode() for text in texts))
    done = subprocess.run([PROGRAM, path, *options], input=packed, capture_output=True)
    if done.returncode == 77:
        print("skipped:", done.stdout.decode().strip())
        sys.exit(77)
    if done.returncode != 0:
        raise SystemExit(f"{path}: {done.stderr.decode()}")
    out, at, results = done.stdout, 0, []
    while at < len(out):
        end = out.index(b"\n", at)
        size_end = out.index(b"\n", end + 1)
        size = int(out[end + 1:size_end])
        results.append(([int(word) for word in out[at:end].split()], out[size_end + 1:size_end + 1 + size]))
        at = size_end + 1 + size
    return results


def compare(name, path, peer, texts, plain=False):
    global failures
    results = ours(path, texts, *(["--plain"] if plain else []))
    assert len(results) == len(texts)
    # 0.23 decodes an added token that is matched in normalised text as its normalised text, earlier versions and ours as
    # its text.
    renamed = {i for i, token in peer.get_added_tokens_decoder().items() if peer.id_to_token(i) != token.content}
    for text, (ids, decoded) in zip(texts, results):
        expected = peer.encode(text, add_special_tokens=not plain).ids
        if ids != expected:
            at = next((i for i, (a, b) in enumerate(zip(ids, expected)) if a != b), min(len(ids), len(expected)))
            shown = peer.decode(expected[:at])[-10:]
            print(f"{name}: {ascii(text[:60])}: id {at} after {ascii(shown)}: {ids[at:at + 6]}, expected {expected[at:at + 6]}")
        elif (not renamed & set(ids) and (other := peer.decode(ids)) != decoded.decode(errors="replace") and
              "\ufffd" not in other):
            print(f"{name}: {ascii(text[:60])}: decoded {ascii(decoded[:80])}, expected {ascii(other[:80])}")
        else:
            continue
        failures += 1
        if failures > 20:
            raise SystemExit("too many differences")


def random_texts(count, seed=1):
    dice = random.Random(seed)
    letters = sorted({c for text in TEXTS for c in text})
    words = [word for text in TEXTS for word in text.split(" ")]
    for _ in range(count):
        parts = []
        for _ in range(dice.randrange(1, 30)):
            kind = dice.randrange(5)
            parts.append(dice.choice(words) if kind == 0 else dice.choice(letters) * dice.randrange(1, 4) if kind < 3 else
                         dice.choice(" \n\t\u00a0\u3000'") * dice.randrange(1, 4) if kind == 3 else
                         chr(dice.choice([dice.randrange(0xD800), dice.randrange(0xE000, 0x110000)])))
        yield "".join(parts)


def settings(document):
    """Variations of one section each."""
    def varied(**sections):
        copy = json.loads(json.dumps(document))
        for key, value in sections.items():
            if key == "model":
                copy["model"].update(value)
            else:
                copy[key] = value
        return copy

    yield varied(truncation=None)
    if document["model"]["type"] == "WordPiece":
        for clean, chinese, accents, lower in itertools.product([True, False], [True, False], [True, False, None], [True, False]):
            yield varied(normalizer={"type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": chinese,
                                     "strip_accents": accents, "lowercase": lower})
        for kind in ("Whitespace", "WhitespaceSplit"):
            yield varied(pre_tokenizer={"type": kind})
            yield varied(pre_tokenizer={"type": kind}, normalizer=None)
        yield varied(normalizer=None)
        yield varied(decoder={"type": "WordPiece", "prefix": "##", "cleanup": False})
        yield varied(decoder=None)
        yield varied(model={"max_input_chars_per_word": 7, "unk_token": "a"})
    elif document["pre_tokenizer"]:
        for prefix, regex in itertools.product([True, False], repeat=2):
            yield varied(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex})
        yield varied(model={"ignore_merges": True})
        yield varied(normalizer={"type": "Prepend", "prepend": "x y"})
        yield varied(normalizer={"type": "Replace", "pattern": {"String": "ll"}, "content": " \u00e4"})
    else:
        for fallback, fuse, unknown in itertools.product([True, False], [True, False], [None, "<unk>"]):
            yield varied(model={"byte_fallback": fallback, "fuse_unk": fuse, "unk_token": unknown})
        for scheme, split in itertools.product(["always", "first", "never"], [True, False]):
            space = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": split}
            yield varied(normalizer=None, pre_tokenizer=space, decoder=space)
        partial = {token: i for token, i in document["model"]["vocab"].items()}
        partial["<<>>"] = partial.pop("<0xC3>")
        yield varied(model={"vocab": partial, "fuse_unk": False})


def dressed_models():
    """BPE with a prefix for what goes on and a suffix for what ends, as no byte-level file has."""
    vocab = {token: i for i, token in enumerate(["<unk>", "a", "b", "##a", "##b", "a</w>", "b</w>", "##a</w>", "##b</w>", "a##",
                                                 "ab", "##ab", "ab</w>", "##ab</w>", "aba", "ababab</w>", "##ba", "abab"])}
    merges = [["a", "##b"], ["##a", "##b"], ["a", "##b</w>"], ["##a", "##b</w>"], ["ab", "##a"], ["##b", "##a"], ["ab", "##ab"],
              ["abab", "##ab</w>"]]
    yield {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
           "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
           "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": "##",
                     "end_of_word_suffix": "</w>", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                     "vocab": vocab, "merges": merges}}


def main():
    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    peers = make_tokenizers.stored(FIXTURES)
    mixtures = list(random_texts(300))
    for name, peer in peers.items():
        compare(name, FIXTURES / name, peer, TEXTS + mixtures)
        compare(name + " plain", FIXTURES / name, peer, TEXTS, plain=True)
        # Neighbours show what a character is: it joins a letter, a digit, a sign, or a space.
        pattern = {"gpt2": "a{0}b{0}1{0}!{0}'s{0} {0}  ", "bert": "A{0}b{0}\u0315{0}", "bert-cased": "a{0} \u0301{0}b"}.get(name)
        if pattern:
            compare(name + " points", FIXTURES / name, peer, ["".join(pattern.format(c) + "." for c in points[begin:begin + 256])
                                                              for begin in range(0, len(points), 256)])
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tokenizer.json"
        count = 0
        for document in itertools.chain(*(settings(json.loads(peer.to_str())) for peer in peers.values()), dressed_models()):
            path.write_text(json.dumps(document))
            count += 1
            described = json.dumps({key: value for key, value in document.items() if key not in ("model", "added_tokens")})[:300]
            compare(described, path, Tokenizer.from_file(str(path)), TEXTS + mixtures[:60] + ["abababab ab aab bba c abab"])
    print(f"tokenizers {tokenizers.__version__}: {len(peers)} tokenizers, {count} settings, every code point: {failures} differences")
    if len(sys.argv) > 2:
        measure(peers, pathlib.Path(sys.argv[2]))
    sys.exit(1 if failures else 0)


def measure(peers, file):
    text = file.read_bytes().decode(errors="replace")
    for name, peer in peers.items():
        compare(name + " file", FIXTURES / name, peer, [text])
        began = time.perf_counter()
        peer.encode(text)
        print(f"{name}: tokenizers {time.perf_counter() - began:.2f} s for {len(text.encode())} bytes")


main()
