#!/usr/bin/env python3
"""Writes the seeds of tests/fuzz/corpus: make_corpus.py [FOLDER]. Other files there stay.

The targets' sources say what the bytes of each mean; this file says it again for the writing side."""
import bz2
import gzip
import io
import json
import lzma
import pathlib
import struct
import sys
import zipfile
import zlib

TEXT = b"the quiet former listens to the quiet sink " * 4


# config: TEXT [NUL OVERRIDE]...
SECTIONS = {
    "model": """name: gpt
model:
  type: gpt
  layers: 2
  heads: 4
  kv_heads: 2
  dim: 64
  context: 128
  vocab: 256
  mlp: swiglu
  mlp_dim: 96
  norm: rmsnorm
  norm_structure: hybrid
  position: rotary
  bias: false
  tied: false
  qk_norm: l2
  layer_scale: 0.1
  dropout: 0.1
  norm_eps: 1e-05
  rotary_base: 10000
  init_std: 0.02
""",
    "attention": """attention: {score: piecewise, scale: default, groups: 1, threshold: 8,
  normalizer: sigmoid, n: [1.0, 0.5, 0, 2, 1, 1, 1, 1], sigmoid_bias: -log_context, causal: true,
  window: [64, -1], alibi: true, dropout: 0.1, implementation: flash}
model: {position: rotary}
""",
    "learned": "attention:\n  n: {learned: true, init: 1.0}\n  sigmoid_bias: {from: -3, to: 0, steps: 10}\n",
    "data": "data: {source: tokens, path: 'a b.bin', split: [100, 10, 10]}\nmodel: {vocab: 50257}\n",
    "optim": "optim:\n  type: lion\n  lr: 3e-4\n  betas: [0.9, 0.99]\n  eps: 1e-8\n  weight_decay: 0.1\n"
             "  clip: 1\n  schedule: {type: cosine, warmup: 200, final: 0.1}\n",
    "train": "train: {device: cpu, dtype: fp64, batch: 8, accumulate: 2, steps: 10, eval_every: 0,\n"
             "  eval_batches: 1, checkpoint_every: 5, keep: 1, log_every: 1, seed: 7,\n"
             "  deterministic: true, threads: 2}\nanalysis: {every: 1, per_head: true, sites: ['blocks.*.out', '**']}\n",
    "empty": "",
    "anchors": "a: &a [1, 2]\nmodel: &m {layers: 3}\ntrain: {<<: *m, steps: !!int 3}\n",
    "bomb": "a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
            "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]\n"
            "e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]\n",
    "base": "base: config.yaml\nname: circle\n",
    "quoted": 'name: "a\\tb\\u00fc: c # d"\ndata: {path: "\'\\"\\\\", split: [0, 0, 0]}\n',
    "block": "name: |-\n  1.0\ndata:\n  path: >\n    folded\n    text\n",
    "names": "name: 'null'\ndata: {path: ~x, source: bytes}\nanalysis: {sites: ['1', 'true', '']}\n",
    "unknown": "modle: {layers: 2}\n",
    "key": '"two\\nlines": 1\n',
    "value": 'model: {layers: "1\\n2"}\n',
    "documents": "---\nname: a\n---\nname: b\n",
    "deep": "[" * 300,
    "complex": "? {a: b}\n: c\n? [d]\n: e\n",
}
OVERRIDES = {
    "lr": ["optim.lr=3e-4", "attention.n={learned: true, init: 1.0}", "train.steps=7"],
    "odd": ["=", "a", "a.=1", ".a=1", "model=3", "name="],
    "yaml": ["model.layers=[", "data.path='x", "optim.schedule.type=linear"],
}


def config():
    for name, text in SECTIONS.items():
        yield name, text.encode()
    for name, overrides in OVERRIDES.items():
        yield "overrides_" + name, b"\0".join([b"model: {layers: 2}\n"] + [o.encode() for o in overrides])


# hf_config: the file
def hf_config():
    whole = {"model_type": "gpt2", "n_layer": 3, "n_head": 4, "n_embd": 64, "n_positions": 64, "vocab_size": 320,
             "n_inner": None, "activation_function": "gelu_new", "resid_pdrop": 0.0, "embd_pdrop": 0.0,
             "attn_pdrop": 0.1, "layer_norm_epsilon": 1e-05, "tie_word_embeddings": True, "scale_attn_weights": False,
             "scale_attn_by_inverse_layer_idx": False, "pruned_heads": {}, "initializer_range": 0.02}
    small = {key: whole[key] for key in list(whole)[:6]}
    yield "whole", json.dumps(whole).encode()
    yield "small", json.dumps(small).encode()
    yield "inner", json.dumps({**small, "n_inner": 100, "activation_function": "gelu"}).encode()
    yield "unsupported", json.dumps({**small, "add_cross_attention": True, "quantization_config": {}}).encode()
    yield "large", json.dumps({**small, "n_embd": 2**62}).encode()
    yield "negative", json.dumps({**small, "n_head": -4}).encode()
    yield "text", json.dumps({**small, "n_head": "\n\u00fc\ud800"}).encode()
    yield "number", json.dumps({**small, "attn_pdrop": 1e308, "layer_norm_epsilon": 5e-324}).encode()
    yield "list", b"[1, {}]"
    yield "deep", b"[" * 1000
    llama = {"model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "hidden_size": 32, "head_dim": 8, "intermediate_size": 48, "max_position_embeddings": 64,
             "vocab_size": 97, "hidden_act": "silu", "rms_norm_eps": 1e-5, "attention_bias": False, "mlp_bias": False,
             "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "tie_word_embeddings": False}
    yield "llama", json.dumps(llama).encode()
    yield "rope", json.dumps({**llama, "rope_scaling": {"type": "yarn"}, "pretraining_tp": 2}).encode()
    bert = {"model_type": "bert", "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "vocab_size": 97,
            "intermediate_size": 128, "max_position_embeddings": 66, "type_vocab_size": 2, "pad_token_id": 0,
            "hidden_act": "gelu_new", "layer_norm_eps": 1e-12, "position_embedding_type": "absolute"}
    yield "bert", json.dumps(bert).encode()
    yield "roberta", json.dumps({**bert, "model_type": "roberta", "pad_token_id": 1}).encode()
    yield "ours", json.dumps({**bert, "quietformer": {"attention": {"causal": False, "n": {"learned": True, "init": 1.0},
                              "overrides": [{"layers": "1", "normalizer": "sigmoid"}]}}}).encode()


# map_file: the YAML file
def map_file():
    model = "model: {layers: $depth, heads: $sizes.heads, kv_heads: 2, dim: 32, vocab: 97}\n"
    qkv = "blocks.*.attention.qkv.weight"
    yield "packed", f"{model}tensors: {{{qkv}: {{from: l.*.qkv, order: by_kv_head, pairs: adjacent}}}}\n".encode()
    yield "pieces", f"{model}tensors: {{{qkv}: [l.*.q, l.*.k, l.*.v]}}\nprefixes: [net.]\n".encode()
    yield "parts", (f"{model}attention: {{n: 1}}\ntensors:\n  {qkv}: {{from: [a, b], transpose: true}}\n"
                    "  blocks.*.mlp.up.weight: {from: l.*.up, part: [1, 2]}\nignored: [l.*.mask]\nrepeated: {a: b}\n").encode()
    yield "missing", b"model: {layers: $none}\ntensors: {a: b}\n"
    yield "stars", f"tensors: {{{qkv}: '**', b: {{from: []}}, c: {{part: [3, 2]}}}}\n".encode()


# shard_index: the file
def shard_index():
    yield "whole", json.dumps({"metadata": {"total_size": 12, "x": [{"y": None}, 1.5, True]},
                               "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}).encode()
    yield "small", b'{"weight_map": {"a": "b.safetensors"}}'
    yield "absolute", b'{"weight_map": {"a": "/etc/x.safetensors"}}'
    yield "parent", b'{"weight_map": {"a": "../x.safetensors"}}'
    yield "twice", b'{"weight_map": {"a": "b.safetensors", "a": "c.safetensors"}}'
    yield "nested", b'{"weight_map": {"a": {"weight_map": {"b": "c.safetensors"}}}}'
    yield "list", b'[{"weight_map": {"a": "b.safetensors"}}]'


# safetensors: 0 FILE, or 1 HEADER NUL DATA
def safetensors():
    sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U16": 2, "U8": 1, "BOOL": 1, "U64": 8,
             "F8_E4M3": 1}

    def header(tensors, metadata=None):
        entries, at = ({"__metadata__": metadata} if metadata else {}), 0
        for name, dtype, shape in tensors:
            count = 1
            for size in shape:
                count *= size
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + count * sizes[dtype]]}
            at += count * sizes[dtype]
        return json.dumps(entries, separators=(",", ":")).encode(), bytes(range(256)) * (at // 256 + 1), at

    def seed(tensors, metadata=None):
        text, data, size = header(tensors, metadata)
        return b"\1" + text + b"\0" + data[:size]

    yield "floats", seed([("blocks.0.a", "F32", [2, 3]), ("b", "F64", [2]), ("c", "F16", []), ("d", "BF16", [3])],
                         {"format": "pt"})
    yield "integers", seed([("a", "I64", [1]), ("b", "I32", [2]), ("c", "U16", [2]), ("d", "U8", [3]),
                            ("e", "BOOL", [1])])
    yield "others", seed([("a", "U64", [1]), ("b", "F8_E4M3", [2])])
    yield "rank", seed([("a", "F32", [1, 1, 1, 1, 1, 1, 1]), ("z", "F32", [0, 5])])
    yield "none", b"\1{}"
    yield "metadata", b'\1{"__metadata__":{"a":"\\u0000\\n","b":""}}'
    yield "overflow", (b'\1{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]},'
                       b'"b":{"dtype":"F32","shape":[9223372036854775807,0],"data_offsets":[0,0]}}')
    yield "overflow_beside_0", b'\1{"a":{"dtype":"F32","shape":[0,4611686018427387904,4],"data_offsets":[0,0]}}'
    yield "overlap", (b'\1{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},'
                      b'"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}\0abc')
    yield "twice", b'\1{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8"}}'
    yield "types", b'\1{"a":{"dtype":1,"shape":[-1,1.5,null],"data_offsets":{"b":[]}}}'
    text, data, size = header([("a", "F32", [2])])
    yield "file", b"\0" + struct.pack("<Q", len(text)) + text + data[:size]
    yield "long", b"\0" + struct.pack("<Q", 2**63) + text
    yield "short", b"\0\1\2"


# sealed_file: KINDS COUNT PATCHES CUT CUT PAYLOAD
def sealed_file():
    payload = b"\x89HDF\r\n\x1a\n" + bytes(range(40))
    for kind in range(4):
        yield f"whole{kind}", bytes([kind, 0, 0, 0]) + payload
    yield "empty", bytes([0, 0, 0, 0])
    yield "other_kind", bytes([128 + 4, 0, 0, 0]) + payload
    yield "other_version", bytes([128 + 8, 0, 0, 0]) + payload
    yield "cut", bytes([0, 0, 0, 5]) + payload
    yield "cut_to_magic", bytes([0, 0, 2, 40]) + payload
    yield "payload", bytes([0, 1, 2, 3, 1, 0, 0]) + payload
    for name, at in {"magic": 3, "version": 31, "length": 45, "digest": 72, "words": 200, "end": 511}.items():
        yield name, bytes([0, 1, at >> 8, at & 255, 1, 0, 0]) + payload
    yield "raw", bytes([48, 0, 0, 0]) + b"quietformer checkpoint\nversion 9\nlength 7\n"


# tokens: VOCAB VOCAB FILE, or from 128 on VOCAB VOCAB MAGIC VERSION COUNT TOKENS
def tokens():
    ids = struct.pack("<40H", *range(0, 8000, 200))
    yield "nanogpt", bytes([0, 0]) + ids
    yield "nanogpt_vocab", bytes([8, 0]) + ids
    yield "beyond_vocab", bytes([1, 0]) + ids
    yield "llmc", bytes([128, 0, 0, 0, 0]) + ids
    yield "llmc_vocab", bytes([255, 255, 0, 0, 0]) + ids
    yield "llmc_magic", bytes([128, 0, 1, 0, 0]) + ids
    yield "llmc_version", bytes([128, 0, 0, 1, 0]) + ids
    yield "llmc_count", bytes([128, 0, 0, 0, 255]) + ids
    yield "llmc_empty", bytes([128, 0, 0, 0, 0])
    yield "wide", bytes([0, 0]) + struct.pack("<3i", 20240801, 1, 0)
    yield "cut", bytes([0, 0]) + struct.pack("<3i", 20240520, 1, 4)
    yield "odd", bytes([0, 0]) + b"abc"
    yield "none", bytes([0, 0])


# tokenizer: KIND FILE NUL [FILE NUL]... TEXT
def tokenizer():
    text = "The quiet former\u3000isn't [MASK]  caf\u00e9\u0301 \u4e16 <s> 12 \U0001f600\n".encode() + b"\xff\xf0\x9f"
    vocab = {token: i for i, token in enumerate(["a", "b", "ab", "\u0120", "\u0120a", "<s>", "</s>", "<unk>", "T", "h"])}
    bpe = {"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": ["a b", ["\u0120", "a"]]}
    pieces = {token: i for i, token in enumerate(["[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "qui", "##et", "1", "##2"])}
    wordpiece = {"type": "WordPiece", "unk_token": "[UNK]", "max_input_chars_per_word": 9, "vocab": pieces}

    def document(model, **sections):
        return b"\0" + json.dumps({"model": model, **sections}, ensure_ascii=False).encode() + b"\0" + text

    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}
    around = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}, {"Sequence": {"id": "A"}}],
              "special_tokens": {"x": {"ids": [1, 2]}}}
    mask = {"id": 3, "content": "[MASK]", "lstrip": True, "rstrip": True, "single_word": True, "normalized": True, "special": True}
    yield "gpt2", document(bpe, pre_tokenizer=byte_level, decoder=byte_level, post_processor=byte_level)
    yield "roberta", document({**bpe, "ignore_merges": True}, pre_tokenizer=byte_level, decoder=byte_level, added_tokens=[
        {"id": 5, "content": "<s>", "special": True}], post_processor={"type": "RobertaProcessing", "sep": ["</s>", 6], "cls": ["<s>", 5]})
    yield "bert", document(wordpiece, added_tokens=[mask], normalizer={"type": "BertNormalizer", "strip_accents": None},
                           pre_tokenizer={"type": "BertPreTokenizer"}, decoder={"type": "WordPiece"}, post_processor=around)
    yield "dressed", document({**bpe, "continuing_subword_prefix": "", "end_of_word_suffix": "b", "fuse_unk": True},
                              pre_tokenizer={"type": "Whitespace"})
    llama = {**bpe, "byte_fallback": True, "fuse_unk": True, "vocab": {**vocab, "<0xC3>": 10, "<0xA9>": 11, "\u2581": 12}}
    steps = [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
             {"type": "Strip", "content": " ", "start": 1, "stop": 1}]
    yield "llama", document(llama, normalizer={"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        decoder={"type": "Sequence", "decoders": steps}, post_processor={"type": "Sequence", "processors": [byte_level, around]})
    space = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}
    yield "metaspace", document(bpe, pre_tokenizer=space, decoder=space)
    yield "unigram", document({"type": "Unigram", "vocab": [["a", -1.5]]})
    yield "twice", b'\0{"model": {"vocab": {"a": 0, "a": 1}}}\0'
    yield "hole", document({**bpe, "vocab": {"a": 0, "b": 2}, "merges": []})
    yield "deep", b"\0" + b"[" * 200
    config = b'{"do_lower_case": false, "cls_token": {"content": "[CLS]"}, "added_tokens_decoder": {"9": {"content": "x"}}}'
    yield "vocab_txt", b"\1" + "\n".join(pieces).encode() + b"\0" + config + b"\0" + text
    yield "vocab_txt_plain", b"\1[UNK]\r\n[CLS]\n[SEP]\n\0{}\0" + text
    whole = json.dumps(vocab, ensure_ascii=False).encode() + b"\0#version: 0.2\na b\n\xc4\xa0 a\n\0"
    yield "vocab_json", b"\2" + whole + b'{"tokenizer_class": "GPT2Tokenizer", "add_bos_token": true, "bos_token": "<s>"}\0' + text
    yield "vocab_json_roberta", b"\2" + whole + b"{}\0" + text
    yield "merges", b"\2" + whole.replace(b"a b", b"a bb") + b"{}\0" + text


# compressed: KIND (+ 4 * NAME + 16 * VOCABULARY), then by kind
def compressed():
    raw, made_gzip, stream, made_zip = range(4)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    yield "plain", bytes([raw]) + TEXT
    yield "high_bytes", bytes([raw + 48]) + b"\xc3\xbc"
    yield "gz", bytes([raw + 4]) + gzip.compress(TEXT, mtime=0)
    yield "gz_fields", bytes([raw]) + b"\x1f\x8b\x08\x1c\0\0\0\0\0\3\4\0abcdname\0comment\0" + gzip.compress(TEXT)[10:]
    yield "gz_members", bytes([made_gzip, 6, 60]) + TEXT[:60] + bytes([40, 0, 19, 40]) + TEXT[:40]
    yield "deflate", bytes([stream]) + packer.compress(TEXT) + packer.flush()
    yield "deflate_stored", bytes([stream]) + b"\1\3\0\xfc\xffabc"
    yield "deflate_trailing", bytes([stream]) + b"\3\0trailing"
    yield "deflate_long", bytes([stream]) + zlib.compress(bytes(200000), 9)[2:-4]

    def member(shape, name, content, extra=b""):
        return bytes([shape]) + extra + bytes([len(name)]) + name + bytes([len(content)]) + content

    yield "zip_stored", bytes([made_zip, 1]) + member(0, b"text", b"hello")
    yield "zip_deflated", bytes([made_zip, 1]) + member(1, b"text", TEXT[:100])
    yield "zip_folder", bytes([made_zip, 2]) + member(0, b"d/", b"") + member(1, b"d/t", b"abc")
    yield "zip_two", bytes([made_zip, 2]) + member(0, b"a\n", b"1") + member(0, b"b", b"2")
    yield "zip_none", bytes([made_zip, 0])
    yield "zip_encrypted", bytes([made_zip, 1]) + member(8, b"t", b"abc" * 9, b"\1")
    yield "zip_crc", bytes([made_zip, 1]) + member(16, b"t", b"abc", b"\1")
    yield "zip_size", bytes([made_zip, 1]) + member(24, b"t", b"abc", b"\xff")
    yield "zip_patched", bytes([made_zip, 1]) + member(1, b"text", TEXT[:40]) + bytes([0, 60, 1])
    yield "zip_bzip2", bytes([made_zip, 1]) + member(3, b"t", bz2.compress(b"abc"))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_LZMA) as file:
        file.writestr(zipfile.ZipInfo("t"), TEXT)
    yield "zip_lzma", bytes([raw + 8]) + archive.getvalue()
    for name, data in {"bz2": bz2.compress(b"a"), "xz": lzma.compress(b"a"), "zstd": b"\x28\xb5\x2f\xfd",
                       "empty": b"", "gz_noise": b"\x1f\x8b\x08noise", "zip_noise": b"PK\3\4noise"}.items():
        yield name, bytes([raw]) + data
    yield "misnamed", bytes([raw + 4]) + b"text"


# checkpoint: STATISTICS BASE OPERATION...
PATHS = ["/", "/text", "/integers", "/numbers", "/parameters", "/step", "/activations", "/activations/s",
         "/activations/s/mean", "/weights", "/weights/w", "/text/config", "/parameters/a", "/optimizer/m/a",
         "/parameters/blocks.0.b"]
ATTRIBUTES = ["step", "seed", "description", "dtype", "loss", "dimensions", "format", "version"]
F64, F32, I64, I32, U16, U8 = ([code] for code in range(6))
SCALAR, NULL = [0], [15]


def path(name):
    if name in PATHS:
        return [PATHS.index(name)]
    parent, _, leaf = name.rpartition("/")
    index = PATHS.index(parent or "/")
    return [next(c for c in range(192, 256) if c % len(PATHS) == index), len(leaf) - 1, *leaf.encode()]


def sizes(*dims):
    return [len(dims), *dims]  # each below 7


def huge(*dims):
    table = [0, 1, 2, 3, 4, 5, 7, 64, 2**10, 2**20, 2**31, 2**31 + 1, 2**40, 2**61]
    return [128 + len(dims), *(next(c for c in range(192, 256) if c % len(table) == table.index(d)) for d in dims)]


def string(text, fixed=False):
    """A type, and afterwards its value."""
    data = text.encode()
    return ([16, 63 + len(data)], [len(data), *data]) if fixed else ([16, 0], [len(data), *data])


def dataset(name, kind, space, values, storage=0):
    return [4, *path(name), *kind, *space, storage, *values]


def attribute(name, key, kind, space, values):
    return [2, *path(name), ATTRIBUTES.index(key), 0, *kind, *space, *values]


def link(kind, source, target):
    return [1, ["hard", "soft", "external", "delete"].index(kind), *path(source), *path(target)]


def group(name):
    return [0, *path(name)]


def checkpoint():
    text_type, text = string("name: x")
    fixed_type, fixed = string("name: y", fixed=True)
    bf16_type, bf16 = string("bf16")
    count = [128 + 5]
    parts = {
        "text": dataset("/text/config", text_type, SCALAR, text),
        "fixed_text": dataset("/text/config", fixed_type, SCALAR, fixed),
        "integer": attribute("/integers", "step", I64, SCALAR, count),
        "number": attribute("/numbers", "loss", F64, SCALAR, [8, *struct.pack("<d", 1.5)]),
        "tensor": dataset("/parameters/a", F32, sizes(3, 4), count),
        "state": dataset("/optimizer/m/a", F64, sizes(2), count),
        "bf16": dataset("/parameters/blocks.0.b", U16, sizes(2), count)
                + attribute("/parameters/blocks.0.b", "dtype", bf16_type, SCALAR, bf16),
    }
    yield "checkpoint", bytes([0, 1] + sum((part for name, part in parts.items() if name != "fixed_text"), []))
    yield "missing", bytes([0, 1])
    yield "no_groups", bytes([0, 0])
    for name in ("text", "fixed_text", "integer", "number", "tensor", "bf16"):
        yield name, bytes([0, 1] + parts[name])
    for name, storage in {"compact": 1, "chunked": 2, "deflated": 3, "external": 4}.items():
        yield name, bytes([0, 1] + dataset("/parameters/a", F32, sizes(3), count, storage))
    yield "huge", bytes([0, 1] + dataset("/parameters/a", F32, huge(2**40, 2**20), []))
    yield "huge_beside_0", bytes([0, 1] + dataset("/parameters/a", F32, huge(0, 2**40, 2**40), []))
    yield "huge_text", bytes([0, 1] + dataset("/text/config", [16, 254], SCALAR, []))
    yield "rank", bytes([0, 1] + dataset("/parameters/a", F32, [15 + 16 * 0 - 1, 1, 1, 1, 1, 1, 1], count))
    yield "null", bytes([0, 1] + dataset("/parameters/a", F32, NULL, []))
    yield "big_endian", bytes([0, 1] + dataset("/parameters/a", [8], sizes(3), count))
    yield "compound", bytes([0, 1] + dataset("/parameters/a", [64], sizes(3), count))
    yield "list", bytes([0, 1] + attribute("/integers", "step", I64, sizes(3), count))
    yield "circle", bytes([0, 1] + group("/parameters") + link("hard", "/parameters", "/parameters/in"))
    yield "two_circles", bytes([0, 1] + group("/parameters") + link("hard", "/parameters", "/parameters/in")
                               + link("hard", "/parameters", "/parameters/on"))
    yield "circle_at_root", bytes([0, 1] + dataset("/parameters/a", F32, sizes(3), count)
                                  + link("hard", "/", "/parameters/in"))
    yield "soft", bytes([0, 1] + link("soft", "/integers", "/parameters/in"))
    yield "external_link", bytes([0, 1] + link("external", "/integers", "/parameters/in"))
    yield "odd_name", bytes([0, 1] + dataset("/parameters/\n\x1b", F32, sizes(3), count))

    steps = dataset("/step", I64, sizes(3), [128 + 1])
    mean = dataset("/activations/s/mean", F64, sizes(3), count)
    heads = dataset("/weights/w", F64, sizes(3, 2), count)
    note_type, note = string("mean over all")
    described = attribute("/activations/s/mean", "description", note_type, SCALAR, note)
    yield "statistics", bytes([1, 0] + steps + mean + described + heads)
    yield "steps_only", bytes([1, 0] + steps)
    yield "steps_down", bytes([1, 0] + dataset("/step", I64, sizes(3), [3, 9, 8, 7]))
    yield "steps_float", bytes([1, 0] + dataset("/step", F64, sizes(3), count))
    yield "steps_huge", bytes([1, 0] + dataset("/step", I64, huge(2**40), []))
    yield "steps_huge_chunks", bytes([1, 0] + dataset("/step", I64, huge(2**31), [], 3))
    yield "rows", bytes([1, 0] + steps + dataset("/activations/s/mean", F64, sizes(4), count))
    yield "wide", bytes([1, 0] + steps + dataset("/weights/w", F64, [2, 3, 204], [], 2))
    yield "nested", bytes([1, 0] + steps + group("/activations") + link("hard", "/activations", "/activations/s"))


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "corpus")
    for target in (checkpoint, compressed, config, hf_config, map_file, safetensors, sealed_file,
                   shard_index, tokenizer, tokens):
        folder = root / target.__name__
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in target():
            (folder / f"seed-{name}").write_bytes(data)


main()
