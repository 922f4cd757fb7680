# SPDX-License-Identifier: Apache-2.0
"""Judge the exported tree on 200 held-out captions and draw the contact sheet.

Everything is computed in FP32 from the BF16 files, 8 steps, no guidance; with
--engine the pictures come from tessera-cli instead of PyTorch.

    python evaluate.py --tree .. --state state --sheet ../contact-sheet.png
"""
import argparse
import json
import os
import subprocess
import tempfile

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

import common
import compose
import flow
import judge
import scenes
from model import Autoencoder
from tokens import Encoder


def load_tree(tree):
    """(generator, autoencoder with shift and scale) of an exported tree."""
    model = flow.Generator().eval()
    text = load_file(os.path.join(tree, "text_encoder", "model.safetensors"))
    model.text.load_state_dict({k[6:]: v.float() for k, v in text.items()})
    name = "diffusion_pytorch_model.safetensors"
    image = load_file(os.path.join(tree, "transformer", name))
    model.transformer.load_state_dict({k: v.float() for k, v in image.items()})
    vae = Autoencoder().eval()
    state = load_file(os.path.join(tree, "vae", name))
    vae.load_state_dict({k: v.float() for k, v in state.items()})
    with open(os.path.join(tree, "vae", "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    vae.shift, vae.scale = config["shift_factor"], config["scaling_factor"]
    return model, vae


@torch.no_grad()
def draw(model, vae, encode, captions, first_seed, steps=8):
    """Pictures in [0,1] of captions, each from its own seed."""
    pictures = []
    for start in range(0, len(captions), 8):
        part = captions[start : start + 8]
        ids, lengths = (torch.from_numpy(a) for a in encode(part, 32))
        noise = torch.cat([
            torch.randn(1, 16, 32, 32, generator=torch.Generator().manual_seed(first_seed + start + k))
            for k in range(len(part))])
        x = flow.sample(model, ids, lengths, noise, steps)
        pictures.append(vae.decoder(x / vae.scale + vae.shift) * 0.5 + 0.5)
    return torch.cat(pictures).clamp(0, 1)


def draw_with_engine(program, tree, captions, first_seed):
    """The same pictures, drawn by tessera-cli."""
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "picture.png")
        for number, caption in enumerate(captions):
            command = [program, "generate", "--model", tree, "--device", "cpu", "--prompt",
                       caption, "--seed", str(first_seed + number), "--steps", "8",
                       "--size", "256x256", "--output", path]
            subprocess.run(command, check=True, capture_output=True)
            with Image.open(path) as image:
                array = np.asarray(image.convert("RGB")).copy()
            pictures.append(torch.from_numpy(array).permute(2, 0, 1).float() / 255)
    return torch.stack(pictures)


@torch.no_grad()
def reconstruction(vae, pictures):
    """PSNR in dB of each picture rebuilt from its latent mean, 8-bit rounded."""
    values = []
    for x in pictures.split(8):
        y = vae.decoder(vae.encode(x * 2 - 1)[0]) * 0.5 + 0.5
        y = (y.clamp(0, 1) * 255).round() / 255
        values.append(-10 * (y - x).square().mean((1, 2, 3)).clamp(min=1e-10).log10())
    return torch.cat(values)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", default="sprites.npz")
    parser.add_argument("--tree", default="..")
    parser.add_argument("--state", default="state", help="folder with judge.pt")
    parser.add_argument("--sheet")
    parser.add_argument("--engine", help="path of tessera-cli")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rebuilt", type=int, default=200, help="pictures for the PSNR")
    args = parser.parse_args()
    infos = compose.load_sprites(args.sprites)[0]
    made = judge.held_out_scenes(infos, args.count)
    used = {o[0] * scenes.VARIANTS + o[1] for scene in made for o in scene["objects"]}
    atlas = compose.Atlas(args.sprites, torch.device("cpu"), only=used)
    truth = judge.composed(atlas, made)
    critic = judge.load(args.state, len(infos), "cpu")
    common.say("judge on composed pictures:", judge.show(judge.judge(critic, truth, made)[0]))
    model, vae = load_tree(args.tree)
    values = reconstruction(vae, truth[: args.rebuilt])
    common.say(f"autoencoder: PSNR {values.mean():.2f} dB on {len(values)} held-out pictures, "
               f"worst {values.min():.2f}")
    captions = [scene["caption"] for scene in made]
    if args.engine:
        pictures = draw_with_engine(args.engine, args.tree, captions, 1000)
    else:
        encode = Encoder(os.path.join(args.tree, "tokenizer"))
        pictures = draw(model, vae, encode, captions, 1000)
    figures, right = judge.judge(critic, pictures, made)
    common.say(f"{args.count} held-out captions, 8 steps:", judge.show(figures))
    common.say(f"everything right in {sum(right)} of {len(right)}")
    if args.sheet:
        common.sheet(pictures[:64], 8, args.sheet, 128)
        with open(os.path.splitext(args.sheet)[0] + ".txt", "w", encoding="utf-8") as file:
            file.writelines(f"{k // 8 + 1}.{k % 8 + 1} {c}\n" for k, c in enumerate(captions[:64]))


if __name__ == "__main__":
    main()
