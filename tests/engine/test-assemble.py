#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tessera-cli assemble: a model folder of ComfyUI's files. They have the published sizes, and no
contents: holes, which take no room on the disk.

Usage: test-assemble.py TESSERA_CLI   (with TESSERA_TEST_DATA in the environment)
"""
import json
import math
import pathlib
import struct
import tempfile

from cli_test import TINY, check, expect, finish, run
from layouts import bfl_vae, prefixed

SIZES = {"BF16": 2, "F32": 4}


def write_hollow(path, tensors):
    header, at = {}, 0
    for name, (dtype, shape, _) in tensors.items():
        size = SIZES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return path


def hollow(shapes, dtype="BF16"):
    return {name: (dtype, shape, None) for name, shape in shapes.items()}


def transformer():
    d, hidden = 3840, 10240
    shapes = {"x_pad_token": (1, d), "cap_pad_token": (1, d), "norm_final.weight": (d,),
              "x_embedder.weight": (d, 64), "x_embedder.bias": (d,), "cap_embedder.0.weight": (2560,),
              "cap_embedder.1.weight": (d, 2560), "cap_embedder.1.bias": (d,),
              "t_embedder.mlp.0.weight": (1024, 256), "t_embedder.mlp.0.bias": (1024,),
              "t_embedder.mlp.2.weight": (256, 1024), "t_embedder.mlp.2.bias": (256,),
              "final_layer.linear.weight": (64, d), "final_layer.linear.bias": (64,),
              "final_layer.adaLN_modulation.1.weight": (d, 256),
              "final_layer.adaLN_modulation.1.bias": (d,)}
    for stack, count in (("layers", 30), ("noise_refiner", 2), ("context_refiner", 2)):
        for block in (f"{stack}.{i}." for i in range(count)):
            shapes |= {block + "attention.qkv.weight": (3 * d, d),
                       block + "attention.out.weight": (d, d),
                       block + "attention.q_norm.weight": (128,),
                       block + "attention.k_norm.weight": (128,),
                       block + "feed_forward.w1.weight": (hidden, d),
                       block + "feed_forward.w2.weight": (d, hidden),
                       block + "feed_forward.w3.weight": (hidden, d)}
            for norm in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"):
                shapes[f"{block}{norm}.weight"] = (d,)
            if stack != "context_refiner":
                shapes[block + "adaLN_modulation.0.weight"] = (4 * d, 256)
                shapes[block + "adaLN_modulation.0.bias"] = (4 * d,)
    return hollow(shapes)


def text_encoder(width=2560, layers=36):
    shapes = {"model.embed_tokens.weight": (151936, width), "model.norm.weight": (width,)}
    for layer in (f"model.layers.{i}." for i in range(layers)):
        for name, shape in (("input_layernorm", (width,)), ("post_attention_layernorm", (width,)),
                            ("self_attn.q_proj", (4096, width)), ("self_attn.k_proj", (1024, width)),
                            ("self_attn.v_proj", (1024, width)), ("self_attn.o_proj", (width, 4096)),
                            ("self_attn.q_norm", (128,)), ("self_attn.k_norm", (128,)),
                            ("mlp.gate_proj", (9728, width)), ("mlp.up_proj", (9728, width)),
                            ("mlp.down_proj", (width, 9728))):
            shapes[f"{layer}{name}.weight"] = shape
    return hollow(shapes)


def vae():
    shapes = {}

    def conv(name, out, into, size=3):
        shapes[name + ".weight"], shapes[name + ".bias"] = (out, into, size, size), (out,)

    def norm(name, width):
        shapes[name + ".weight"] = shapes[name + ".bias"] = (width,)

    def resnet(name, out, into):
        norm(name + ".norm1", into)
        norm(name + ".norm2", out)
        conv(name + ".conv1", out, into)
        conv(name + ".conv2", out, out)
        if out != into:
            conv(name + ".conv_shortcut", out, into, 1)

    def level(half, kind, widths, blocks, sampler):
        into = widths[0]
        for i, width in enumerate(widths):
            for j in range(blocks):
                resnet(f"{half}.{kind}.{i}.resnets.{j}", width, into)
                into = width
            if i < 3:
                conv(f"{half}.{kind}.{i}.{sampler}.0.conv", width, width)

    for half, ends in (("encoder", (3, 32)), ("decoder", (16, 3))):
        first, last = (128, 512) if half == "encoder" else (512, 128)
        conv(f"{half}.conv_in", first, ends[0])
        resnet(f"{half}.mid_block.resnets.0", 512, 512)
        resnet(f"{half}.mid_block.resnets.1", 512, 512)
        norm(f"{half}.mid_block.attentions.0.group_norm", 512)
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            shapes[f"{half}.mid_block.attentions.0.{name}.weight"] = (512, 512)
            shapes[f"{half}.mid_block.attentions.0.{name}.bias"] = (512,)
        norm(f"{half}.conv_norm_out", last)
        conv(f"{half}.conv_out", ends[1], last)
    level("encoder", "down_blocks", (128, 256, 512, 512), 2, "downsamplers")
    level("decoder", "up_blocks", (512, 512, 256, 128), 3, "upsamplers")
    return hollow(shapes, "F32")


def comfyui(folder):
    models = folder / "models"
    write_hollow(models / "diffusion_models/z_image_turbo_bf16.safetensors", transformer())
    write_hollow(models / "text_encoders/qwen_3_4b.safetensors", text_encoder())
    write_hollow(models / "text_encoders/other.safetensors", text_encoder(4096))
    write_hollow(models / "vae/FLUX1/ae.safetensors", bfl_vae(vae()))
    write_hollow(models / "loras/style.safetensors", hollow({"a.lora_A.weight": (4, 4)}))
    words = folder / "comfy/text_encoders/qwen25_tokenizer"
    words.mkdir(parents=True)
    for name in ("vocab.json", "merges.txt"):
        (words / name).symlink_to(TINY / "tokenizer" / name)
    return models


def assembles(folder, models):
    for where, source in (("of ComfyUI", models.parent), ("of its models", models)):
        out = folder / where.replace(" ", "-")
        expect(f"the folder {where}", 0, "assemble", "--from", source, "-o", out, output=str(out))
        seen = run("inspect", out)
        check("is a whole model", seen.returncode == 0 and "shift 3" in seen.stdout, seen.stdout,
              seen.stderr)
        check("of links", all(path.is_symlink() for path in out.rglob("*.safetensors")))
    check("and nothing else was made", not list(folder.glob("of-*.*")))
    plan = run("plan", "--model", out, "--size", "1024x1024", "--device", "cpu")
    check("that can be planned", plan.returncode == 0 and "GiB" in plan.stdout, plan.stdout,
          plan.stderr)
    expect("not over what is there", 1, "assemble", "--from", models, "-o", out, error="there already")
    expect("with the other schedule", 0, "assemble", "--from", models, "--shift", 6, "-o",
           folder / "base")
    seen = run("inspect", folder / "base")
    check("as it says", "shift 6" in seen.stdout, seen.stdout)


def one_file(folder):
    everything = (prefixed("model.diffusion_model.", transformer())
                  | prefixed("text_encoders.qwen3_4b.transformer.", text_encoder())
                  | prefixed("vae.", bfl_vae(vae())))
    write_hollow(folder / "models/checkpoints/all.safetensors", everything)
    expect("one file of everything", 0, "assemble", "--from", folder / "models", "--tokenizer",
           TINY / "tokenizer", "-o", folder / "whole")
    seen = run("inspect", folder / "whole")
    check("serves for each part", seen.returncode == 0, seen.stdout, seen.stderr)


def fails(folder, models):
    def refuse(title, status, *arguments, error):
        out = folder / "none"
        expect(title, status, "assemble", *arguments, "-o", out, error=error)
        check("and nothing is left", not list(folder.glob("none*")))

    refuse("no such folder", 1, "--from", folder / "nowhere", error="no such folder")
    refuse("nothing named", 1, error="--from")
    refuse("no tokenizer there", 1, "--from", models, "--tokenizer", models,
           error="vocab.json and merges.txt")
    refuse("another text encoder", 1, "--from", models, "--text-encoder",
           models / "text_encoders/other.safetensors", error="no whole Z-Image model")
    refuse("a schedule out of range", 2, "--from", models, "--shift", 0, error="--shift")
    second = models / "diffusion_models/z_image_fine.safetensors"
    second.symlink_to("z_image_turbo_bf16.safetensors")
    refuse("two transformers", 1, "--from", models, error="more than one Z-Image transformer")
    expect("of which one is named", 0, "assemble", "--from", models, "--transformer", second, "-o",
           folder / "fine")
    (models / "vae/FLUX1/ae.safetensors").unlink()
    refuse("no VAE", 1, "--from", models, "--transformer", second, error="name one with --vae")
    expect("no output", 2, "assemble", "--from", models, error="-o DIR")


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        models = comfyui(folder / "ComfyUI")
        assembles(folder, models)
        one_file(folder / "single")
        fails(folder, models)
    finish()


main()
