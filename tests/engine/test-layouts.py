#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tessera-cli on models as other programs publish them: the same weights, the same picture.

Usage: test-layouts.py TESSERA_CLI   (with TESSERA_TEST_DATA in the environment)
"""
import json
import pathlib
import struct
import tempfile

from cli_test import TINY, TRANSFORMER, check, copy_model, finish, run
from layouts import bfl_vae, comfy_transformer, prefixed, read, write, write_sharded
from layouts_packed import E5M2, fp8, fp8_scaled, int8, mxfp8, nvfp4, pack

ENCODER = "text_encoder/model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


def pixels(png):
    """The compressed pixels: what else is in the file names the model."""
    data, at, out = png.read_bytes(), 8, b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        if kind == b"IDAT":
            out += data[at + 8:at + 8 + length]
        at += length + 12
    return out


def draw(model, folder, *more):
    """The picture of a model, or what was said instead of one."""
    path = folder / "picture.png"
    result = run("generate", "--model", model, "--prompt", "a cat", "--size", "64x64", "--steps", 2,
                 "--device", "cpu", "--output", path, *more)
    if result.returncode != 0:
        return result.stderr
    picture = pixels(path)
    path.unlink()
    return picture


def same(title, model, folder, expected, *more):
    drawn = draw(model, folder, *more)
    check(title + " draws the same picture", drawn == expected, drawn if drawn != expected else "")
    seen = run("inspect", model)
    check(title + " has no problems", seen.returncode == 0, seen.stdout, seen.stderr)


def without(folder, *names):
    """A model that lacks these files, of which others are to be made."""
    return copy_model(folder, **dict.fromkeys(names))


def diffusers(folder, expected):
    transformer, encoder = read(TINY / TRANSFORMER), read(TINY / ENCODER)
    for variant in ("bf16", "fp16"):
        model = without(folder / f"one-{variant}", TRANSFORMER, ENCODER, VAE)
        write(model / f"transformer/diffusion_pytorch_model.{variant}.safetensors", transformer)
        write(model / f"text_encoder/model.{variant}.safetensors", encoder)
        write(model / f"vae/diffusion_pytorch_model.{variant}.safetensors", read(TINY / VAE))
        same(f"variant {variant}", model, folder, expected)
        model = without(folder / f"shards-{variant}", TRANSFORMER, ENCODER)
        stem = "diffusion_pytorch_model"
        write_sharded(model / "transformer", f"{stem}.{variant}",
                      f"{stem}.safetensors.index.{variant}.json", transformer)
        write_sharded(model / "text_encoder", f"model.{variant}",
                      f"model.safetensors.index.{variant}.json", encoder)
        same(f"variant {variant} in shards", model, folder, expected)


def comfy(folder, expected):
    transformer = comfy_transformer(read(TINY / TRANSFORMER))
    transformer["norm_final.weight"] = ("BF16", (2,), b"\xff\x7f" * 2)  # NaN: never read
    encoder, vae = read(TINY / ENCODER), bfl_vae(read(TINY / VAE))
    model = without(folder / "split", TRANSFORMER, ENCODER, VAE)
    write(model / "transformer/z_image_turbo_bf16.safetensors", transformer)
    write(model / "text_encoder/qwen_3_4b.safetensors", encoder)
    write(model / "vae/ae.safetensors", vae)
    same("three files of ComfyUI's", model, folder, expected)

    for name in ("x_pad_token", "cap_pad_token"):
        dtype, shape, data = transformer[name]
        transformer[name] = (dtype, shape[1:], data)
    everything = (prefixed("model.diffusion_model.", transformer)
                  | prefixed("text_encoders.qwen3_4b.transformer.", encoder)
                  | {"text_encoders.qwen3_4b.logit_scale": ("F32", (), b"\0\0\0\0")}
                  | prefixed("vae.", vae))
    model = without(folder / "one", TRANSFORMER, ENCODER, VAE)
    whole = write(model / "transformer/all-in-one.safetensors", everything)
    for part in ("text_encoder", "vae"):
        (model / part / "all-in-one.safetensors").symlink_to(whole)
    same("one file of everything", model, folder, expected)


def matrices(name, shape):
    """What quantisers choose, of one block."""
    return len(shape) == 2 and name.startswith("layers.0.") and name.endswith(".weight")


def projections(name, shape):
    return len(shape) == 2 and name.endswith("_proj.weight")


def packed(folder, title, part, file, tensors, chosen, inspected, packer, metadata=None, **how):
    """A file with packed weights draws what its numbers in BF16 draw."""
    small, plain = pack(tensors, chosen, packer, **how)
    reference = write(copy_model(folder / f"{title} plain", **{part: None}) / file, plain)
    expected = draw(reference.parents[1], folder)
    check(title + " in BF16 draws", isinstance(expected, bytes), expected)
    if metadata is not None:
        small = {name: t for name, t in small.items() if not name.endswith(".comfy_quant")}
    model = write(copy_model(folder / title, **{part: None}) / file, small, metadata).parents[1]
    same(title, model, folder, expected)
    seen = run("inspect", model)
    check(title + " is named", inspected in seen.stdout, seen.stdout)
    return model


def expanded(folder):
    transformer = comfy_transformer(read(TINY / TRANSFORMER))
    file = "transformer/z_image_turbo.safetensors"

    def one(title, inspected, packer, chosen=matrices, tensors=transformer, **how):
        return packed(folder, title, TRANSFORMER, file, tensors, chosen, inspected, packer, **how)

    one("fp8 cast of everything", "FP8", fp8, lambda name, shape: True)
    one("fp8 e5m2", "FP8", fp8, pairs=E5M2, dtype="F8_E5M2")
    one("fp8 with a scale", "FP8", fp8_scaled)
    one("fp8 with a scale a row", "FP8", fp8_scaled, blocks=1)
    one("fp8 with blocks", "FP8", fp8_scaled, blocks=4)
    one("fp8 under the old names", "FP8", fp8_scaled,
        tensors=transformer | {"scaled_fp8": ("F8_E4M3", (2,), b"\0\0")}, old=True)
    one("mxfp8", "MXFP8", mxfp8)
    one("nvfp4", "NVFP4", nvfp4)
    one("int8", "INT8", int8)
    one("int8 rotated", "INT8", int8, group=64)
    layers = {name[:-len(".weight")]: {"format": "nvfp4"} for name, (_, shape, _) in
              transformer.items() if matrices(name, shape)}
    one("nvfp4 told in the metadata", "NVFP4", nvfp4,
        metadata={"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})})

    encoder = read(TINY / ENCODER)
    file = "text_encoder/qwen_3_4b_fp8_mixed.safetensors"
    packed(folder, "text encoder in fp8", ENCODER, file, encoder, projections, "FP8", fp8_scaled)
    packed(folder, "text encoder in fp8, cast whole", ENCODER, file, encoder,
           lambda name, shape: True, "FP8", fp8)
    packed(folder, "text encoder in nvfp4", ENCODER, file, encoder, projections, "NVFP4", nvfp4)


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        expected = draw(TINY, folder)
        check("the model draws", isinstance(expected, bytes), expected)
        diffusers(folder, expected)
        comfy(folder, expected)
        expanded(folder)
    finish()


main()
