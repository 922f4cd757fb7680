# SPDX-License-Identifier: Apache-2.0
"""What the training stages share: clock, state files, scenes in bulk."""
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch

import scenes

START = time.time()


def say(*words):
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"[{time.time() - START:6.1f}s]", *words, flush=True)


def device():
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def save(state, path):
    """Write tensors as float16 under a temporary name, then rename."""
    half = {k: v.detach().to("cpu", torch.float16) if v.is_floating_point() else v.cpu()
            for k, v in state.items()}
    torch.save(half, path + ".part")
    os.replace(path + ".part", path)


def load(path, where):
    state = torch.load(path, map_location=where, weights_only=True)
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


class Average:
    """Exponential moving average of a module's parameters."""

    def __init__(self, module, decay):
        self.decay, self.step = decay, 0
        self.module = module
        self.values = [p.detach().clone() for p in module.parameters()]

    @torch.no_grad()
    def update(self):
        self.step += 1
        rate = 1 - min(self.decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.module.parameters()], rate)

    def state(self):
        names = [name for name, _ in self.module.named_parameters()]
        return dict(zip(names, self.values))

    @torch.no_grad()
    def swap(self):
        """Exchange the averaged and the trained values."""
        for value, p in zip(self.values, self.module.parameters()):
            held = p.data.clone()
            p.data.copy_(value)
            value.copy_(held)


def _part(job):
    infos, count, seed, options = job
    made = scenes.many(infos, count, seed, **options)
    return [s["caption"] for s in made], scenes.pack(made, seed)


def crew(workers):
    """Worker processes, forked before the device is touched; None for one."""
    if workers <= 1:
        return None
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"))
    list(pool.map(abs, range(workers)))
    return pool


def bulk(infos, count, seed, pool=None, **options):
    """(captions, (layers, grounds, styles)) of many scenes."""
    if pool is None:
        return _part((infos, count, seed, options))
    parts = pool._max_workers
    share = -(-count // parts)
    jobs = [(infos, share, seed * 1000 + k, options) for k in range(parts)]
    done = list(pool.map(_part, jobs))
    captions = [c for part in done for c in part[0]]
    arrays = tuple(np.concatenate([part[1][k] for part in done]) for k in range(3))
    return captions[:count], tuple(a[:count] for a in arrays)


class PictureStream:
    """Endless composed pictures on the device, made in large chunks."""

    def __init__(self, atlas, seed, chunk):
        self.atlas, self.seed, self.chunk = atlas, seed, chunk
        self.position = self.size = 0

    def refill(self):
        self.seed += 1
        _, arrays = bulk(self.atlas.infos, self.chunk, self.seed)
        self.plan = [torch.from_numpy(a).to(self.atlas.device) for a in arrays]
        with torch.no_grad():
            parts = [self.atlas.pictures(*(a[k : k + 256] for a in self.plan))
                     for k in range(0, self.chunk, 256)]
        self.pictures = torch.cat([(p * 255 + 0.5).byte() for p in parts])
        self.position, self.size = 0, self.chunk

    def next(self, count):
        """(pictures in [0,1], (layers, grounds, styles)) of `count` scenes."""
        if self.position + count > self.size:
            self.refill()
        rows = slice(self.position, self.position + count)
        self.position += count
        return self.pictures[rows].float() / 255, [a[rows] for a in self.plan]


def sheet(pictures, columns, path, edge=None):
    """Save pictures [n,3,h,w] in [0,1] as one contact sheet."""
    from PIL import Image

    n, _, h, w = pictures.shape
    rows = -(-n // columns)
    canvas = np.full((rows * h, columns * w, 3), 255, np.uint8)
    data = (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    for k in range(n):
        y, x = k // columns * h, k % columns * w
        canvas[y : y + h, x : x + w] = data[k]
    image = Image.fromarray(canvas)
    if edge:
        image = image.resize((columns * edge, rows * edge), Image.LANCZOS)
        image = image.quantize(256, dither=Image.Dither.NONE)
    image.save(path, optimize=True)
