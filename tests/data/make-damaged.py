#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the files of damaged/: each has one fault that a reader must name.

Run it in this folder after changing it, and commit what it writes.
"""
import json
import pathlib
import struct

HERE = pathlib.Path(__file__).parent
OUT = HERE / "damaged"


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write(name, header, payload=b"", length=None):
    """A safetensors file; `header` is an object or raw bytes, `length` overrides its length."""
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    length = len(header) if length is None else length
    (OUT / f"{name}.safetensors").write_bytes(struct.pack("<Q", length) + header + payload)


def write_index(name, weight_map):
    text = json.dumps({"metadata": {}, "weight_map": weight_map}, indent=1)
    (OUT / f"{name}.safetensors.index.json").write_text(text + "\n")


def safetensors():
    pair = {"a": tensor("F32", [2], 0, 8), "b": tensor("BF16", [2, 2], 8, 16)}
    write("good", pair, bytes(16))
    write("truncated", pair, bytes(10))
    write("offset-outside", {"a": tensor("F32", [2], 4096, 4104)}, bytes(8))
    write("offset-overflow", {"a": tensor("F32", [2], 2**64 - 8, 2**64)}, bytes(8))
    write("offset-negative", {"a": tensor("F32", [2], -8, 0)}, bytes(8))
    write("offset-swapped", {"a": tensor("F32", [2], 8, 0)}, bytes(8))
    write("header-100mb", pair, bytes(16), length=100 * 1000 * 1000)
    write("header-huge", pair, bytes(16), length=2**64 - 1)
    write("overlapping", {"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 4, 12)}, bytes(12))
    write("wrong-span", {"a": tensor("F32", [3], 0, 8)}, bytes(8))
    write("absurd-shape", {"a": tensor("F32", [2**40, 2**40], 0, 8)}, bytes(8))
    write("many-axes", {"a": tensor("F32", [1] * 9, 0, 4)}, bytes(4))
    one = json.dumps(tensor("F32", [2], 0, 8))
    two = json.dumps(tensor("F32", [2], 8, 16))
    write("duplicate", f'{{"a":{one},"a":{two}}}'.encode(), bytes(16))
    write("no-dtype", {"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8))
    write("not-json", b'{"a":', bytes(16))
    write("not-utf8", b'{"\xff\xfe":1}', bytes(16))
    write("deep-json", b"[" * 2000 + b"]" * 2000)
    write("metadata-type", {"__metadata__": {"format": 1}, **pair}, bytes(16))
    (OUT / "short.safetensors").write_bytes(b"\x08\0\0")
    (OUT / "empty.safetensors").write_bytes(b"")
    (OUT / "lfs-pointer.safetensors").write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n")
    (OUT / "web-page.safetensors").write_text("<!DOCTYPE html>\n<title>Sign in</title>\n")
    write_index("escape", {"a": "../damaged/good.safetensors"})
    write_index("missing-shard", {"a": "absent.safetensors"})
    write_index("truncated-shard", {"a": "truncated.safetensors"})
    write_index("wrong-shard", {"a": "good.safetensors", "c": "good.safetensors"})
    write_index("no-map", {})


def configs():
    config = json.loads((HERE / "tiny-zimage/transformer/config.json").read_text())

    def change(name, **values):
        changed = {k: v for k, v in {**config, **values}.items() if v != "absent"}
        (OUT / f"config-{name}.json").write_text(json.dumps(changed) + "\n")

    change("wrong-type", dim="192")
    change("absurd", n_layers=1e300)
    change("missing-key", n_heads="absent")
    change("axes", axes_dims=[16, 24, 25])
    change("omni", siglip_feat_dim=1152)
    (OUT / "config-not-json.json").write_text("{dim: 192}\n")


def tokenizers():
    tokenizer = json.loads((HERE / "tiny-zimage/tokenizer/tokenizer.json").read_text())
    tokenizer["added_tokens"] = tokenizer["added_tokens"][:3]
    small = ["h", "e", "he"]
    tokenizer["model"]["vocab"] = {s: i for i, s in enumerate(small)}
    tokenizer["model"]["merges"] = [["h", "e"]]

    def change(name, edit):
        changed = json.loads(json.dumps(tokenizer))
        edit(changed)
        (OUT / f"tokenizer-{name}.json").write_text(json.dumps(changed) + "\n")

    change("unknown-model", lambda t: t["model"].update(type="WordPiece"))
    change("normalizer", lambda t: t.update(normalizer={"type": "Lowercase"}))
    change("pattern", lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(
        pattern={"Regex": "\\s+"}))
    change("post-processor", lambda t: t.update(post_processor={"type": "TemplateProcessing"}))
    change("missing-bytes", lambda t: None)
    change("bad-id", lambda t: t["model"]["vocab"].update(h=-1))
    change("lstrip", lambda t: t["added_tokens"][0].update(lstrip=True))


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    safetensors()
    configs()
    tokenizers()
