#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How far BF16 is from FP32 after one step of the full-size transformer: ours and PyTorch's.

    step-error.py FOLDER OUT.json [--layers N] [--side PIXELS]

FOLDER holds tessera-cli and synthetic-weights (tests/gpu/bundle). Ours runs the model of random
weights and leaves a trace: embeddings, latents, what the transformer made of them. diffusers'
ZImageTransformer2DModel gets the same weights, embeddings and latents, and runs in FP32 (TF32 off,
attention by plain products) and in BF16 as people run it. The errors are relative to the FP32
result: |x - fp32| / |fp32|.
"""
import argparse
import json
import math
import os
import subprocess
import tempfile

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
import diffusers
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from safetensors.torch import load_file

PROMPT = " ".join(f"word{i}" for i in range(120))  # 128 tokens with the template's eight


def run_ours(folder, model, side, scratch):
    paths = [os.path.join(scratch, name) for name in ("trace", "block", "index", "out.png")]
    subprocess.run([os.path.join(folder, "tessera-cli"), "generate", "--model", model, "--device",
                    "cuda", "--size", f"{side}x{side}", "--steps", "1", "--seed", "42",
                    "--trace", paths[0], "--output", paths[3], "--prompt", PROMPT],
                   check=True, stdout=subprocess.DEVNULL)
    subprocess.run([os.path.join(folder, "synthetic-weights"), model, paths[1], paths[2]],
                   check=True)
    with open(paths[1], "rb") as file:
        block = torch.frombuffer(bytearray(file.read()), dtype=torch.bfloat16)
    with open(paths[2]) as file:
        index = [line.split() for line in file]
    return load_file(paths[0]), block, index


def state_dict(block, index, dtype):
    """Views of the block, laid end to end often enough for the largest tensor."""
    shapes = {name: [int(n) for n in shape] for name, _, *shape in index}
    largest = max(math.prod(shape) for shape in shapes.values())
    line = block.cuda().to(dtype).repeat(2 + largest // block.numel())
    return {name: (line[int(at):int(at) + math.prod(shapes[name])].view(shapes[name])
                   if int(at) >= 0 else torch.ones(shapes[name], dtype=dtype, device="cuda"))
            for name, at, *_ in index}


@torch.inference_mode()
def run_theirs(weights, layers, trace, dtype):
    with torch.device("meta"):
        model = ZImageTransformer2DModel(n_layers=layers, axes_lens=[1536, 512, 512])
    model.load_state_dict(weights, strict=True, assign=True)
    model.eval()
    latents = trace["latents.init"].cuda().to(dtype)[0].unsqueeze(1)
    caption = trace["prompt.embeds"].cuda().to(dtype)
    t = ((1000.0 - trace["scheduler.timesteps"][:1]) / 1000.0).cuda()
    return model([latents], t, [caption], return_dict=False)[0][0].squeeze(1).double().cpu()


def error(x, reference):
    return float((x - reference).norm() / reference.norm())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("json_file")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--side", type=int, default=1024)
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False

    model = f"synthetic:z-image-turbo:{options.layers}"
    with tempfile.TemporaryDirectory() as scratch:
        trace, block, index = run_ours(options.folder, model, options.side, scratch)
    ours = trace["transformer.step01"].squeeze().double()
    with sdpa_kernel(SDPBackend.MATH):
        full = run_theirs(state_dict(block, index, torch.float32), options.layers, trace,
                          torch.float32)
    half = run_theirs(state_dict(block, index, torch.bfloat16), options.layers, trace,
                      torch.bfloat16)
    result = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "diffusers": diffusers.__version__, "layers": options.layers, "side": options.side,
        "tokens": trace["prompt.embeds"].shape[0], "rms_of_fp32": float(full.square().mean().sqrt()),
        "ours_bf16": error(ours, full), "pytorch_bf16": error(half, full),
        "ours_against_pytorch_bf16": error(ours, half),
    }
    result["ratio"] = result["ours_bf16"] / result["pytorch_bf16"]
    with open(options.json_file, "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
