#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes corpus/: small inputs from which the fuzz targets start.

Run it after changing it, or when tests/data has changed, and commit what it writes. Inputs that
libFuzzer finds may be added by hand under any other name.
"""
import json
import pathlib
import struct
import zlib

HERE = pathlib.Path(__file__).parent
DATA = HERE.parent / "data"
TINY = DATA / "tiny-zimage"


def put(target, name, content):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def compact(path):
    return json.dumps(json.loads(path.read_text()), separators=(",", ":"))


def safetensors():
    for path in (DATA / "damaged").glob("*.safetensors*"):
        if path.stat().st_size < 1000:
            put("safetensors", path.name.replace(".safetensors", "", 1), path.read_bytes())
    put("safetensors", "index", '{"metadata":{},"weight_map":{"a":"a.safetensors"}}')


def svdq_file(stem, metadata, tensors):
    """A safetensors file of (suffix, dtype, shape, repeated bytes)."""
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for suffix, dtype, shape, unit in tensors:
        count = {"BF16": 2, "F32": 4}.get(dtype, 1)
        for extent in shape:
            count *= extent
        part = (unit * count)[:count]
        header[f"{stem}.{suffix}"] = {"dtype": dtype, "shape": shape,
                                      "data_offsets": [len(data), len(data) + count]}
        data += part
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def svdq():
    one = b"\x80\x3f"

    def linear(n, k, names=("qweight", "wscales"), fp4=False):
        scales = ("F8_E4M3", [k // 16, n], b"\x38") if fp4 else ("BF16", [k // 64, n], one)
        outer = [("wtscale", "BF16", [1], one), ("wcscales", "BF16", [n], one)] if fp4 else []
        return [(names[0], "U8", [n, k // 2], b"\x1f"), (names[1], *scales),
                ("smooth_factor", "BF16", [k], one), ("proj_down", "BF16", [k, 16], one + b"\0\0"),
                ("proj_up", "BF16", [n, 16], one)] + outer

    put("svdq", "nunchaku", svdq_file("l.feed_forward.net.0.proj", {}, linear(128, 128)))
    put("svdq", "nunchaku-fp4", svdq_file("l.feed_forward.net.2", {}, linear(128, 128, fp4=True)))
    put("svdq", "lite", svdq_file("l.attention.to_q", {}, linear(128, 128, fp4=True)))
    put("svdq", "vllm", svdq_file("l.feed_forward.w13", {"conversion": "{}"},
                                  linear(128, 128, fp4=True)))
    put("svdq", "canonical", svdq_file("l.feed_forward.w2", {"svdq_canonical": "{}"},
                                       linear(64, 64)))
    note = b'{"format":"svdquant_w4a4"}'
    put("svdq", "kitchen", svdq_file("l.attention.to_q", {}, linear(
        64, 64, ("weight", "weight_scale")) + [("comfy_quant", "U8", [len(note)], note)]))
    put("svdq", "modelopt", svdq_file("l.to_q", {}, [("svdquant_lora_a", "U8", [1], b"\0")]))


def scaled():
    """Each format of 8 and 4 bit with scales, small; the last axis of tiles is 4 scales of 128 rows."""
    def file(name, dtype, shape, scale, note, *more):
        tensors = [("weight", dtype, shape, b"\x38\x31"), ("weight_scale", *scale), *more]
        if note:
            text = json.dumps(note).encode()
            tensors.append(("comfy_quant", "U8", [len(text)], text))
        put("scaled", name, svdq_file("l.to_q", {}, tensors))

    one, half = b"\0\0\x80\x3f", b"\0\x3f"
    file("fp8", "F8_E4M3", [4, 6], ("F32", [1], one), None)
    file("fp8-rows", "F8_E5M2", [4, 6], ("BF16", [4, 1], half), None)
    file("fp8-blocks", "F8_E4M3", [4, 6], ("F32", [4, 2], one), {"format": "float8_e4m3fn"})
    file("mxfp8", "F8_E4M3", [8, 64], ("F8_E8M0", [128, 4], b"\x7f"), {"format": "mxfp8"})
    file("nvfp4", "U8", [8, 32], ("F8_E4M3", [128, 4], b"\x38"), {"format": "nvfp4"},
         ("weight_scale_2", "F32", [1], one))
    file("int8", "I8", [4, 16], ("F32", [4], one),
         {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 16})


def encoder():
    """Part of a layer of 64 inputs and outputs everywhere."""
    one = b"\x80\x3f"

    def linear(name, bits, scale=one):
        stem = f"layers.0.{name}_proj"
        dtype, width = ("U8", 32) if bits == 4 else ("I8", 64)
        return [(f"{stem}.codes", dtype, [64, width], b"\x1f"),
                (f"{stem}.scales", "BF16", [64, 1], scale)]

    def key(bits):
        return {"tessera_text_encoder": '{"version":1,"bits":%d,"group":64}' % bits}

    put("encoder", "4", svdq_file("model", key(4), linear("self_attn.q", 4) + [
        ("embed_tokens.weight", "BF16", [2, 64], one),
        ("layers.0.input_layernorm.weight", "BF16", [64], one)]))
    put("encoder", "8", svdq_file("model", key(8), linear("mlp.down", 8)))
    put("encoder", "not-finite", svdq_file("model", key(4), linear("mlp.up", 4, b"\xff\x7f")))
    put("encoder", "no-metadata", svdq_file("model", {}, linear("self_attn.o", 4)))
    put("encoder", "dense", svdq_file("model", {}, [
        ("layers.0.self_attn.q_norm.weight", "BF16", [64], one)]))


def lora():
    one = b"\x80\x3f"

    def pair(down, up, rows=4, rank=2, alpha=False):
        return [(down, "BF16", [rank, 4], one), (up, "BF16", [rows, rank], one)] + (
            [("alpha", "BF16", [], one)] if alpha else [])

    put("lora", "peft", svdq_file("transformer.layers.0.attention.to_q", {
        "lora_adapter_metadata": '{"transformer.lora_alpha": 4}'},
        pair("lora_A.weight", "lora_B.weight")))
    put("lora", "adapter", svdq_file("base_model.model.noise_refiner.0.attention.to_out.0", {},
                                     pair("lora_A.x.weight", "lora_B.x.weight")))
    put("lora", "kohya", svdq_file("lora_unet_context_refiner_0_feed_forward_w1", {},
                                   pair("lora_down.weight", "lora_up.weight", 6, alpha=True)))
    put("lora", "comfy", svdq_file("diffusion_model.layers.0.attention.qkv", {},
                                   pair("lora_down.weight", "lora_up.weight", 12)))
    put("lora", "dots", svdq_file("layers.0.attention.to.k", {},
                                  pair("lora.down.weight", "lora.up.weight")))
    put("lora", "others", svdq_file("layers.0.attention.to_k", {}, pair(
        "lora_A.weight", "lora_B.weight") + [("dora_scale", "BF16", [4, 1], one),
                                             ("hada_w1_a", "BF16", [4, 2], one),
                                             ("diff_b", "BF16", [4], one)]))
    put("lora", "misfit", svdq_file("layers.0.attention.to_k", {},
                                    pair("lora_A.weight", "lora_B.weight", 5)))


def configs():
    files = ["transformer/config.json", "text_encoder/config.json", "vae/config.json",
             "scheduler/scheduler_config.json", "model_index.json"]
    for i, name in enumerate(files):
        put("config", name.split("/")[0].removesuffix(".json"), chr(i) + compact(TINY / name))


def tokenizer():
    root = json.loads((TINY / "tokenizer/tokenizer.json").read_text())
    root["added_tokens"] = root["added_tokens"][1:3]
    vocab = {symbol: i for symbol, i in root["model"]["vocab"].items() if len(symbol) == 1}
    vocab["he"] = 300
    root["model"].update(vocab=vocab, merges=[["h", "e"]])
    put("tokenizer", "small", json.dumps(root, separators=(",", ":"), ensure_ascii=False))
    rows = json.loads((DATA / "qwen3-tokenizer-golden.json").read_text())
    for i, row in enumerate(rows[::12]):
        put("tokenizer", f"text-{i}", row["text"][:400])


def merges():
    vocab = {chr(c): i for i, c in enumerate(byte_symbols())}
    vocab["he"] = 300
    added = {"added_tokens_decoder": {str(301 + i): {"content": content, "special": True}
                                      for i, content in enumerate(["<|im_start|>", "<|im_end|>"])}}
    files = [json.dumps(vocab, ensure_ascii=False), "#version: 0.2\nh e\n", json.dumps(added)]
    put("merges", "small", "\0".join(files))
    put("merges", "no-config", "\0".join(files[:2]))


def byte_symbols():
    """The characters that stand for the 256 bytes in a byte-level vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return plain + [256 + i for i in range(256 - len(plain))]


def files_of_our_own():
    """What the program writes for itself, and the catalogue that it brings."""
    put("calibration", "two-kinds", json.dumps(
        {"device": {"kind": [[1e6, 0.5], [2e6, 0.9]], "other": [[1, 1]]}, "card": {"kind": [[3, 4]]}}))
    put("calibration", "many-points", json.dumps(
        {"device": {"kind": [[2.0 ** i, i + 1] for i in range(40)]}}))
    catalogue = json.loads((DATA.parent.parent / "data/models/catalogue.json").read_text())
    catalogue["groups"] = {k: v[:3] for k, v in catalogue["groups"].items()}
    catalogue["models"] = catalogue["models"][:3]
    put("catalogue", "ours", json.dumps(catalogue, separators=(",", ":")))
    put("catalogue", "shards", '[{"weight_map":{"a":"f-1.safetensors","b":"f-2.safetensors"}}')
    request = {"schema": "tessera.request/v1", "prompt": "a fox", "precision": "svdquant",
               "width": 128, "height": 64, "steps": 4, "seed": "18446744073709551615",
               "loras": [{"name": "ink.safetensors", "strength": 0.5}]}
    put("queue", "two", json.dumps({"schema": "tessera.queue/v1", "jobs": [
        {"request": request, "pair": "20260101-120000-000"}, {"request": {"prompt": "a cat"}}]}))
    put("queue", "none", '{"schema":"tessera.queue/v1","jobs":[]}')
    for name, boot in (("this-boot", b"="), ("another-boot", b"8")):
        header = struct.pack("<8sQQQ48s256s", b"TSRAPRT1", 100, 16, 7, boot, b"etag")
        entries = [(16, 1), (16, 0), (3, 0), (0, 0), (0, 0), (16, 1), (4, 1)]
        put("part", name, header + b"".join(struct.pack("<II", *entry) for entry in entries))


def chunk(kind, data):
    return (struct.pack(">I", len(data)) + kind + data
            + struct.pack(">I", zlib.crc32(kind + data)))


def png(depth, colour, row, *text):
    header = struct.pack(">IIBBBBB", 2, 2, depth, colour, 0, 0, 0)
    palette = [chunk(b"PLTE", bytes(range(12)))] if colour == 3 else []
    pixels = zlib.compress((b"\0" + row) * 2)
    parts = [chunk(b"IHDR", header), *palette, *text, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def requests_and_pictures():
    a1111 = ("a lighthouse at dusk\nNegative prompt: blurry, dark\n"
             "Steps: 8, Sampler: Euler, CFG scale: 1, Seed: 42, Size: 1024x768, "
             'Model: z-image, Lora hashes: "a: 1, b: 2"')
    ours = {"schema": "tessera.request/v1", "prompt": "a lighthouse", "negative": "", "precision": "svdquant",
            "width": 1024, "height": 768, "steps": 8, "seed": "18446744073709551615",
            "noise": "torch-cpu", "guidance": 0, "cfg_normalization": 0, "cfg_truncation": 1}
    comfy = {"3": {"class_type": "KSampler", "inputs": {
                 "seed": 18446744073709551615, "steps": 8, "cfg": 2.5, "sampler_name": "euler",
                 "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}},
             "5": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 768, "height": ["8", 0]}},
             "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["9", 0]}, "is_changed": [float("nan")]},
             "7": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["7", 0]}},
             "8": {"class_type": "PrimitiveInt", "inputs": {"value": 1024}},
             "9": {"class_type": "PrimitiveString", "inputs": {"value": "a lighthouse"}}}
    editor = {"nodes": [
                  {"id": 1, "type": "KSampler", "widgets_values": [7, "fixed", 9, 1, "euler", "simple", 1],
                   "inputs": [{"name": "positive", "link": 2}, {"name": "latent_image", "link": 3}]},
                  {"id": 2, "type": "CLIPTextEncode", "widgets_values": ["a fox"]},
                  {"id": 3, "type": "EmptyLatentImage", "widgets_values": [512, 640, 1]}],
              "links": [[2, 2, 0, 1, 0, "CONDITIONING"], [3, 3, 0, 1, 1, "LATENT"]]}
    put("request", "a1111", a1111)
    put("request", "ours", json.dumps(ours))
    put("request", "comfyui", json.dumps(comfy))
    put("request", "comfyui-workflow", json.dumps(editor))
    put("request", "empty-object", "{}")
    text = [chunk(b"tEXt", b"parameters\0" + a1111.encode("latin-1")),
            chunk(b"iTXt", b"tessera\0\0\0\0\0" + json.dumps({"request": ours}).encode()),
            chunk(b"zTXt", b"prompt\0\0" + zlib.compress(json.dumps(comfy).encode()))]
    put("png", "rgb-with-text", png(8, 2, bytes(6), *text))
    put("png", "rgba", png(8, 6, bytes(8)))
    put("png", "grey-alpha", png(8, 4, bytes(4)))
    put("png", "palette", png(8, 3, bytes([0, 3])))
    put("png", "palette-outside", png(8, 3, bytes([0, 200])))
    put("png", "grey-1-bit", png(1, 0, b"\x40"))
    put("png", "rgb-16-bit", png(16, 2, bytes(12)))


if __name__ == "__main__":
    safetensors()
    svdq()
    scaled()
    encoder()
    lora()
    configs()
    tokenizer()
    merges()
    files_of_our_own()
    requests_and_pictures()
