#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes expected.json: what the public implementations say of 30 pairs of pictures.

The pictures are integer formulas, the same here and in tests/engine/metrics-pictures.c, and so are
the weights that stand in for AlexNet's. See README.md for the packages.
"""
import contextlib
import json
import os
import warnings

import flip_evaluator
import lpips
import numpy as np
import torch
from pytorch_msssim import ms_ssim
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


def mix(a, b, c, seed):
    """A number from 0 to 255 for every (a, b, c)."""
    h = (np.uint64(a) * np.uint64(2654435761) + np.uint64(b) * np.uint64(2246822519)
         + np.uint64(c) * np.uint64(3266489917) + np.uint64(seed) * np.uint64(668265263))
    h &= np.uint64(0xFFFFFFFF)
    h ^= h >> np.uint64(15)
    h = h * np.uint64(2246822519) & np.uint64(0xFFFFFFFF)
    h ^= h >> np.uint64(13)
    h = h * np.uint64(3266489917) & np.uint64(0xFFFFFFFF)
    return ((h >> np.uint64(16)) & np.uint64(255)).astype(np.int64)


def triangle(v, period):
    """0 to 255 and back."""
    v = v % (2 * period)
    return np.where(v < period, v, 2 * period - v) * 255 // period


def scene(name, width, height):
    """One picture, int64 [height, width, 3], 0 to 255."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    if name == "black":
        return 0 * x
    if name == "white":
        return 0 * x + 255
    if name == "grey":
        return 0 * x + 119
    if name == "noise":
        return mix(x, y, c, 1)
    if name == "checker":
        return ((x // 4 + y // 4) % 2) * 255
    if name == "ramp":
        return x * 255 // max(width - 1, 1)
    waves = triangle(x * (c + 1) + y * 2, 37)
    if name == "waves":
        return waves
    if name == "hills":  # smooth ground, discs with hard edges, a little grain
        out = (waves + triangle(y * (3 - c) + x, 61)) // 2
        for i in range(4):
            inside = (x - width * (2 * i + 1) // 8) ** 2 + (y - height * (i % 2 + 1) // 3) ** 2
            radius = min(width, height) * (i + 2) // 16
            out = np.where(inside < radius * radius, mix(i, 7, c, 3), out)
        return np.clip(out + mix(x, y, c, 2) // 32 - 4, 0, 255)
    raise ValueError(name)


def change(name, a):
    """The other picture of a pair."""
    height, width, _ = a.shape
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    if name == "equal":
        return a
    if name == "shift":
        return a[y, np.maximum(x - 1, 0), c]
    if name == "pixel":
        b = a.copy()
        b[height // 2, width // 2] = 255 - b[height // 2, width // 2]
        return b
    if name == "grain":
        return np.clip(a + mix(x, y, c, 9) // 16 - 8, 0, 255)
    if name == "bright":
        return np.clip(a + 16, 0, 255)
    if name == "flat":
        return (a + 128) // 2
    if name == "poster":
        return a // 32 * 32
    if name == "swap":
        return a[:, :, ::-1]
    if name == "invert":
        return 255 - a
    if name == "blur":
        total = 0
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                total = total + a[np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1), c]
        return total // 9
    return scene(name, width, height)


PAIRS = [
    # edges: equal, opposite, flat, a single pixel
    ("hills", "equal", 176, 161), ("black", "black", 64, 64), ("black", "white", 64, 48),
    ("black", "white", 176, 176), ("white", "grey", 33, 40), ("grey", "pixel", 64, 64),
    ("black", "pixel", 31, 31), ("noise", "equal", 11, 11),
    # sizes: too small for some, odd, long
    ("noise", "grain", 1, 1), ("noise", "invert", 7, 5), ("hills", "grain", 10, 64),
    ("hills", "blur", 11, 12), ("waves", "shift", 31, 33), ("hills", "shift", 163, 165),
    ("hills", "grain", 161, 162), ("ramp", "flat", 257, 32), ("hills", "poster", 40, 191),
    # kinds of difference
    ("hills", "shift", 192, 192), ("hills", "blur", 192, 176), ("hills", "bright", 177, 180),
    ("hills", "flat", 168, 168), ("hills", "swap", 200, 169), ("hills", "invert", 165, 172),
    ("hills", "noise", 170, 170), ("waves", "poster", 180, 164), ("waves", "grain", 128, 96),
    ("checker", "shift", 164, 164), ("checker", "blur", 96, 128), ("ramp", "grain", 162, 162),
    ("noise", "shift", 171, 163),
]


def fill(tensor, kind, layer, scale):
    """Numbers of -1 to 1 times scale, from their place alone."""
    i = np.arange(tensor.numel())
    values = (mix(i, layer, kind, 5) - 128) / 128.0 * scale
    if kind == 2:  # the linear layers hold no negative weights
        values = np.abs(values)
    tensor.copy_(torch.from_numpy(values.astype(np.float32)).reshape(tensor.shape))


def stand_in():
    """LPIPS' network with made-up weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    slices = [net.net.slice1[0], net.net.slice2[1], net.net.slice3[1], net.net.slice4[0],
              net.net.slice5[0]]
    for i, (conv, scale) in enumerate(zip(slices, (1 / 8, 1 / 16, 1 / 16, 1 / 32, 1 / 16))):
        with torch.no_grad():
            fill(conv.weight, 0, i, scale)
            fill(conv.bias, 1, i, 1 / 16)
            fill(net.lins[i].model[1].weight, 2, i, 1.0)
    return net


def measure(net, a, b):
    """All metrics of a pair; None where the reference has no value."""
    height, width, _ = a.shape
    side = min(width, height)
    a, b = a.astype(np.uint8), b.astype(np.uint8)
    ta, tb = (torch.from_numpy(v).permute(2, 0, 1)[None].double() for v in (a, b))
    out = dict.fromkeys(("psnr", "ssim", "ms_ssim", "flip", "lpips"))
    if not np.array_equal(a, b):
        out["psnr"] = float(peak_signal_noise_ratio(a, b, data_range=255))
    if side >= 11:
        out["ssim"] = float(structural_similarity(
            a, b, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            data_range=255))
    if side > 160:
        out["ms_ssim"] = ms_ssim(ta, tb).item()
    out["flip"] = float(flip_evaluator.evaluate(
        a.astype(np.float32) / 255, b.astype(np.float32) / 255, "LDR", applyMagma=False)[1])
    if side >= 31:
        with torch.no_grad():
            out["lpips"] = net(ta.float() / 127.5 - 1, tb.float() / 127.5 - 1).item()
    return out


def main():
    net = stand_in()
    rows = []
    for first, second, width, height in PAIRS:
        a = scene(first, width, height)
        b = change(second, a)
        row = {"scene": first, "change": second, "width": width, "height": height,
               "sums": [int(a.sum()), int(b.sum())]}
        row.update(measure(net, a, b))
        rows.append(row)
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "expected.json")
    with open(path, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
