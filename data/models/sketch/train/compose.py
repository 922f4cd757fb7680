# SPDX-License-Identifier: Apache-2.0
"""Turn packed scenes into pictures, many at a time, on any torch device.

The atlas holds every sprite variant at every size as premultiplied RGBA; a
scene is then a background and up to four integer-aligned pastes. Labels give
the concept seen in each 16-pixel cell, for the judge and for the transformer's
auxiliary loss.
"""
import io
import json

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import palette
from scenes import KINDS, SIZES, VARIANTS

EDGE = 256
CELL = 16


def load_sprites(path):
    """(infos, images [n,224,224,4] u8, coverage [n,224,224] u8)."""
    data = np.load(path)
    infos = json.loads(data["info"].tobytes())
    blob, ends = data["blob"].tobytes(), np.cumsum(data["lengths"])
    arrays, start = [], 0
    for end in ends:
        arrays.append(np.asarray(Image.open(io.BytesIO(blob[start:end]))))
        start = int(end)
    return infos, np.stack(arrays[0::2]), np.stack(arrays[1::2])


def variants(info, image, coverage, device):
    """All colour variants of one sprite, float [13,4,h,w] premultiplied."""
    def load(array):
        return torch.from_numpy(array.copy()).to(device).float() / 255

    rgb, alpha = load(image[..., :3]).permute(2, 0, 1), load(image[..., 3])[None]
    out = torch.empty(VARIANTS, 4, *alpha.shape[1:], device=device)
    out[:, 3:] = alpha
    out[:, :3] = rgb * alpha
    if info["fills"]:
        old = [palette.rgb_of_hex(f) for f in info["fills"]]
        table = torch.tensor(old, dtype=torch.float32, device=device) / 255
        share = load(coverage)[None]
        distance = ((rgb[None] - table[:, :, None, None]) ** 2).sum(1)
        nearest = distance.argmin(0)
        nearest = torch.where(share[0] > 0.5, nearest, torch.zeros_like(nearest))
        for k, target in enumerate(palette.OBJECT_COLOURS.values()):
            new = [palette.shade(c, old[0], target) for c in old]
            new = torch.tensor(new, dtype=torch.float32, device=device) / 255
            shift = (new - table)[nearest].permute(2, 0, 1)
            out[1 + k, :3] = ((rgb * alpha + share * shift)).clamp(0, 1)
            out[1 + k, :3] = torch.minimum(out[1 + k, :3], alpha)
    return out


class Atlas:
    """Sprites at every size on `device`.

    `limit` keeps the first few concepts, `only` the given sprite numbers
    (concept * VARIANTS + variant): enough for a fixed set of scenes.
    """

    def __init__(self, path, device, limit=None, only=None):
        self.infos, images, coverage = load_sprites(path)
        if limit:
            self.infos = self.infos[:limit]
        self.device = device
        table = list(palette.BACKGROUND_COLOURS.values())
        self.colours = torch.tensor(table, dtype=torch.float32, device=device) / 255
        self.at = [[] for _ in SIZES]
        row = torch.zeros(len(self.infos) * VARIANTS, dtype=torch.long)
        masks = torch.zeros(len(self.infos), len(SIZES), 14, 14, dtype=torch.bool)
        count = 0
        for n, info in enumerate(self.infos):
            first = n * VARIANTS
            wanted = [v for v in range(VARIANTS) if only is None or first + v in only]
            if not wanted:
                continue
            row[[first + v for v in wanted]] = torch.arange(count, count + len(wanted))
            count += len(wanted)
            drawn = variants(info, images[n], coverage[n], device)[wanted]
            for k, size in enumerate(SIZES):
                small = drawn
                if size != small.shape[-1]:
                    small = F.interpolate(small, (size, size), mode="bilinear",
                                          antialias=True, align_corners=False)
                self.at[k].append((small * 255 + 0.5).clamp(0, 255).byte())
                cells = F.avg_pool2d(small[:1, 3:], CELL)[0, 0] > 0.3
                masks[n, k, : size // CELL, : size // CELL] = cells.cpu()
        self.at = [torch.cat(parts) for parts in self.at]
        self.row, self.masks = row.to(device), masks.to(device)

    # -- backgrounds ---------------------------------------------------------
    def grounds(self, grounds):
        """Backgrounds [n,3,256,256] of packed grounds [n,4]."""
        n, dev = len(grounds), self.device
        kind, seed = grounds[:, 0], grounds[:, 3].float() / 32767
        wobble = torch.frac(seed[:, None] * torch.tensor([91.7, 57.3, 23.9], device=dev)) - 0.5
        a = (self.colours[grounds[:, 1]] + 0.03 * wobble).clamp(0, 1)[..., None, None]
        b = (self.colours[grounds[:, 2]] - 0.03 * wobble).clamp(0, 1)[..., None, None]
        y, x = torch.meshgrid(torch.arange(EDGE, device=dev), torch.arange(EDGE, device=dev),
                              indexing="ij")
        picture = a.expand(n, 3, EDGE, EDGE).clone()

        def use(name, mix):
            rows = (kind == KINDS.index(name)).nonzero()[:, 0]
            if len(rows):
                m = mix(rows)
                picture[rows] = a[rows] * (1 - m) + b[rows] * m

        use("gradient", lambda r: (y / (EDGE - 1.0)).expand(len(r), 1, EDGE, EDGE))
        use("stripes", lambda r: ((x // 32) % 2).float().expand(len(r), 1, EDGE, EDGE))
        use("checks", lambda r: ((x // 32 + y // 32) % 2).float().expand(len(r), 1, EDGE, EDGE))
        dots = ((x % 32 - 15.5) ** 2 + (y % 32 - 15.5) ** 2).float().sqrt()
        use("dots", lambda r: (8.5 - dots).clamp(0, 1).expand(len(r), 1, EDGE, EDGE))
        for name in KINDS[5:]:
            rows = (kind == KINDS.index(name)).nonzero()[:, 0]
            if len(rows):
                picture[rows] = landscape(name, seed[rows], y.float(), x.float())
        return picture

    # -- pictures and labels -------------------------------------------------
    def pictures(self, layers, grounds, styles):
        """Pictures in [0,1], [n,3,256,256], of packed scenes on the device."""
        picture = self.grounds(grounds.long())
        layers = layers.long()
        steps = torch.arange(EDGE, device=self.device)
        for k in range(layers.shape[1]):
            for size_index, size in enumerate(SIZES):
                chosen = (layers[:, k, 0] >= 0) & (layers[:, k, 1] == size_index)
                rows = chosen.nonzero()[:, 0]
                if not len(rows):
                    continue
                sprite, _, left, top = layers[rows, k].unbind(1)
                source = self.at[size_index][self.row[sprite]].float().div_(255)
                local = steps[:size]
                ys = (top[:, None] + local)[:, None, :, None]
                xs = (left[:, None] + local)[:, None, None, :]
                at = rows[:, None, None, None], torch.arange(3, device=self.device)[None, :, None, None]
                inside = picture[at[0], at[1], ys, xs]
                picture[at[0], at[1], ys, xs] = inside * (1 - source[:, 3:]) + source[:, :3]
        return stylise(picture, styles.long())

    def labels(self, layers):
        """Concept of each cell [n,16,16]; the number of concepts = background."""
        layers = layers.long()
        n = len(layers)
        grid = torch.full((n, 16, 16), len(self.infos), dtype=torch.long, device=self.device)
        colour = torch.zeros_like(grid)
        steps = torch.arange(16, device=self.device)
        for k in range(layers.shape[1]):
            sprite, size, left, top = layers[:, k].unbind(1)
            there = (sprite >= 0)[:, None, None]
            ys = (steps[None] - top[:, None] // CELL)[:, :, None]
            xs = (steps[None] - left[:, None] // CELL)[:, None, :]
            inside = (ys >= 0) & (ys < 14) & (xs >= 0) & (xs < 14) & there
            concept = (sprite.clamp(min=0) // VARIANTS)[:, None, None]
            mask = self.masks[concept, size.clamp(min=0)[:, None, None],
                              ys.clamp(0, 13), xs.clamp(0, 13)] & inside
            grid = torch.where(mask, concept.expand_as(grid), grid)
            colour = torch.where(mask, (sprite % VARIANTS)[:, None, None].expand_as(grid), colour)
        return grid, colour


def landscape(name, seed, y, x):
    """A two- or three-band scenery [n,3,256,256]; `seed` moves the horizon."""
    n, dev = len(seed), seed.device

    def colour(r, g, b):
        return torch.tensor([r, g, b], device=dev).view(1, 3, 1, 1) / 255

    phase = seed.view(n, 1, 1, 1) * 6.28
    horizon = 176 + 6 * torch.sin(x / 40 + phase)
    sky, ground = {
        "meadow": (colour(150, 212, 250), colour(94, 184, 76)),
        "beach": (colour(140, 208, 250), colour(240, 214, 150)),
        "snow": (colour(190, 220, 245), colour(246, 249, 253)),
        "night": (colour(16, 22, 62), colour(16, 22, 62)),
        "desert": (colour(250, 214, 150), colour(222, 164, 88)),
        "sea": (colour(40, 150, 220), colour(14, 70, 150)),
    }[name]
    if name == "sea":
        mix = (y / 255).expand(n, 1, EDGE, EDGE)
        light = 0.06 * torch.sin(x / 18 + y / 30 + phase)
        return (sky * (1 - mix) + ground * mix + light).clamp(0, 1)
    mix = (y - horizon).clamp(0, 1)
    out = sky * (1 - mix) + ground * mix
    if name == "beach":
        water = ((y - 132).clamp(0, 1) * (1 - mix))
        out = out * (1 - water) + colour(36, 130, 206) * water
    if name == "night":
        cx, cy = x % 32 - 8 - 16 * ((y // 32) % 2), y % 32 - 16
        star = (2.4 - (cx**2 + cy**2).sqrt()).clamp(0, 1)
        out = out * (1 - star) + colour(250, 240, 180) * star
    return out.expand(n, 3, EDGE, EDGE)


def noise(count, cells, channels, device):
    """Smooth random fields in about [-1,1], [count,channels,256,256]."""
    raw = torch.rand(count, channels, cells, cells, device=device) * 2 - 1
    return F.interpolate(raw, (EDGE, EDGE), mode="bicubic", align_corners=True)


def stylise(picture, styles):
    """Apply each picture's style (index in scenes.STYLES)."""
    rows = (styles == 1).nonzero()[:, 0]
    if len(rows):
        picture[rows] = watercolour(picture[rows])
    rows = (styles == 2).nonzero()[:, 0]
    if len(rows):
        picture[rows] = pencil(picture[rows])
    rows = (styles == 3).nonzero()[:, 0]
    if len(rows):
        picture[rows] = F.interpolate(F.avg_pool2d(picture[rows], 8), scale_factor=8)
    return picture


def watercolour(p):
    """Wavering outlines, pigment that pools at the edges, paper showing through."""
    dev, n = p.device, len(p)
    line = torch.linspace(-1, 1, EDGE, device=dev)
    gy, gx = torch.meshgrid(line, line, indexing="ij")
    shift = noise(n, 14, 2, dev) * (3.0 / 128)
    grid = torch.stack([gx, gy], -1)[None] + shift.permute(0, 2, 3, 1)
    p = F.grid_sample(p, grid, padding_mode="border", align_corners=True)
    soft = F.avg_pool2d(F.pad(p, (4,) * 4, mode="replicate"), 9, 1)
    edge = (p - soft).abs().mean(1, keepdim=True)
    pigment = 0.80 + 0.10 * noise(n, 8, 1, dev) + 1.2 * edge
    paper = torch.tensor([0.985, 0.97, 0.94], device=dev).view(1, 3, 1, 1)
    return (paper - (paper - p) * pigment.clamp(0.5, 1.15)).clamp(0, 1)


def pencil(p):
    """Grey outlines with light shading on paper."""
    weight = torch.tensor([0.3, 0.55, 0.15], device=p.device).view(1, 3, 1, 1)
    grey = (p * weight).sum(1, keepdim=True)
    soft = F.avg_pool2d(F.pad(p, (1,) * 4, mode="replicate"), 3, 1)
    dx = F.pad((soft[..., 2:] - soft[..., :-2]).abs().amax(1, keepdim=True), (1, 1))
    dy = F.pad((soft[:, :, 2:] - soft[:, :, :-2]).abs().amax(1, keepdim=True), (0, 0, 1, 1))
    line = (dx + dy).clamp(0, 0.55) * 1.5
    tone = 0.80 + 0.18 * grey - 0.75 * line
    return tone.clamp(0.08, 1).expand_as(p)
