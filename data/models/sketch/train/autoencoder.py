# SPDX-License-Identifier: Apache-2.0
"""Train the autoencoder on composed pictures for a given number of seconds.

Loss: L1, squared error and gradient error, and a small KL term. A quarter of
each batch decodes mosaics of half-size latents against mosaics of half-size
pictures, which keeps the latents smooth, so that flow matching learns them
faster (the idea of EQ-VAE, Kouzelis et al. 2025).

    python autoencoder.py --sprites sprites.npz --state state --seconds 200
"""
import argparse
import math
import os
import time

import torch
import torch.nn.functional as F

import common
import compose
from model import Autoencoder, compile_regions, parameters


def mosaic(batch):
    """Every four pictures (or latents), at half size, as one."""
    small = F.avg_pool2d(batch, 2)
    n, c, h, w = small.shape
    small = small.view(n // 4, 2, 2, c, h, w).permute(0, 3, 1, 4, 2, 5)
    return small.reshape(n // 4, c, 2 * h, 2 * w)


def refine_loss(model, x):
    """The decoder alone, on latents as inexact as generated ones."""
    with torch.no_grad():
        mean, logvar = model.encode(x)
    error = model.decoder(mean + 0.05 * torch.randn_like(mean)).float() - x
    gradient = ((error[..., 1:] - error[..., :-1]).abs().mean()
                + (error[..., 1:, :] - error[..., :-1, :]).abs().mean())
    squared = error.square().mean()
    return error.abs().mean() + 4 * squared + 0.5 * gradient, squared, logvar.mean()


def loss_of(model, x):
    mean, logvar = model.encode(x)
    z = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
    cut = len(x) // 4
    z = torch.cat([z[cut:], mosaic(z)])
    target = torch.cat([x[cut:], mosaic(x)])
    y = model.decoder(z).float()
    error = y - target
    gradient = ((error[..., 1:] - error[..., :-1]).abs().mean()
                + (error[..., 1:, :] - error[..., :-1, :]).abs().mean())
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    squared = error.square().mean()
    return error.abs().mean() + 4 * squared + 0.5 * gradient + 1e-3 * kl, squared, kl


@torch.no_grad()
def psnr(model, stream, count, half):
    """Mean PSNR of reconstructions from the latent mean, after 8-bit rounding."""
    values, latents = [], []
    for _ in range(0, count, 32):
        x, _ = stream.next(32)
        with half:
            mean, _ = model.encode(x * 2 - 1)
            y = model.decoder(mean).float()
        y = ((y * 0.5 + 0.5).clamp(0, 1) * 255).round() / 255
        values.append(-10 * (y - x).square().mean((1, 2, 3)).clamp(min=1e-10).log10())
        latents.append(mean)
    latents = torch.cat(latents)
    return torch.cat(values), latents.mean().item(), latents.std().item(), x, y


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", default="sprites.npz")
    parser.add_argument("--state", default="state")
    parser.add_argument("--out", default="state", help="folder for the preview")
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--chunk", type=int, default=2048)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--decoder", action="store_true",
                        help="refine the decoder alone: the latents stay as they are")
    parser.add_argument("--limit", type=int, help="concepts, for a quick test")
    args = parser.parse_args()
    os.makedirs(args.state, exist_ok=True)
    dev = common.device()
    atlas = compose.Atlas(args.sprites, dev, args.limit)
    stream = common.PictureStream(atlas, 100, args.chunk)
    stream.next(1)
    common.say("autoencoder: atlas and first pictures ready")
    torch.manual_seed(1)
    model = Autoencoder().to(dev, memory_format=torch.channels_last)
    path = os.path.join(args.state, "vae.pt")
    held = common.load(path, dev) if os.path.exists(path) else {}
    if held:
        model.load_state_dict({k: v for k, v in held.items() if "." in k})
    if dev.type == "cuda":
        compile_regions(model)
    half = torch.autocast(dev.type, torch.bfloat16, enabled=dev.type == "cuda")
    average = common.Average(model, 0.998)
    part = model.decoder if args.decoder else model
    optimiser = torch.optim.AdamW(part.parameters(), args.rate, betas=(0.9, 0.99),
                                  weight_decay=1e-4, fused=dev.type == "cuda")
    start, step = None, 0
    while step < args.steps:
        now = time.time()
        if step == 5:
            common.say("autoencoder: compiled")
        start = start or now
        done = (now - start) / args.seconds
        if done >= 1:
            break
        rate = min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        optimiser.param_groups[0]["lr"] = args.rate * rate
        x, _ = stream.next(args.batch)
        x = (x * 2 - 1).contiguous(memory_format=torch.channels_last)
        with half:
            loss, squared, kl = (refine_loss if args.decoder else loss_of)(model, x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        average.update()
        step += 1
        if step % 500 == 0:
            common.say(f"autoencoder: step {step} loss {loss.item():.4f} "
                       f"psnr {-10 * math.log10(squared.item() / 4):.2f} kl {kl.item():.3f}")
    average.swap()
    fresh = common.PictureStream(atlas, 990000, min(args.chunk, 512))
    count = 512 if dev.type == "cuda" else 32
    values, mean, std, x, y = psnr(model, fresh, count, half)
    common.say(f"autoencoder: {step} steps, {parameters(model)} parameters, PSNR "
               f"{values.mean():.2f} dB (worst {values.min():.2f}), latents {mean:.4f} +- {std:.4f}")
    state = dict(model.state_dict(), shift=torch.tensor(mean), scale=torch.tensor(1 / std))
    if args.decoder:
        state.update({k: held[k] for k in ("shift", "scale")})
    common.save(state, path)
    common.sheet(torch.stack([x[:16], y[:16]], 1).flatten(0, 1), 8,
                 os.path.join(args.out, "reconstructions.png"), 192)


if __name__ == "__main__":
    main()
