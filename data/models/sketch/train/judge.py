# SPDX-License-Identifier: Apache-2.0
"""A separately trained classifier that says what a picture shows.

For each 16-pixel cell it names the concept (or background) and the object's
colour; for the whole picture, the background's colours and scenery. It learns
from composed pictures only, shifted, blurred and made noisy, and never sees
the generator. `judge` turns its answers into the figures of the README.

    python judge.py --sprites sprites.npz --state state --seconds 100
"""
import argparse
import os
import time

import torch
import torch.nn.functional as F
from torch import nn

import common
import compose
import palette
import scenes

GROUNDS = palette.BACKGROUND_NAMES + scenes.KINDS[5:]


class Residual(nn.Module):
    def __init__(self, a, b, stride=1, dilation=1):
        super().__init__()
        self.a = nn.Conv2d(a, b, 3, stride, dilation, dilation, bias=False)
        self.b = nn.Conv2d(b, b, 3, 1, 1, bias=False)
        self.norm_a, self.norm_b = nn.BatchNorm2d(b), nn.BatchNorm2d(b)
        self.short = nn.Conv2d(a, b, 1, stride) if stride > 1 or a != b else nn.Identity()

    def forward(self, x):
        y = F.relu(self.norm_a(self.a(x)))
        return F.relu(self.norm_b(self.b(y)) + self.short(x))


class Judge(nn.Module):
    """Pictures [n,3,256,256] in [0,1] -> concept, colour logits per cell; grounds."""

    def __init__(self, concepts):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 4, 2, 1)
        self.body = nn.Sequential(
            Residual(32, 64, 2), Residual(64, 128, 2), Residual(128, 128),
            Residual(128, 192, 2), Residual(192, 192, 1, 2), Residual(192, 192))
        self.concept = nn.Conv2d(192, concepts + 1, 1)
        self.colour = nn.Conv2d(192, scenes.VARIANTS, 1)
        self.ground = nn.Linear(192, len(GROUNDS))

    def forward(self, x):
        y = self.body(F.relu(self.stem(x - 0.5)))
        return self.concept(y), self.colour(y), self.ground(y.mean((2, 3)))


def ground_targets(grounds):
    """Multi-label targets [n,21]: the background's colours, or its scenery."""
    kind, a, b = grounds[:, 0].long(), grounds[:, 1].long(), grounds[:, 2].long()
    out = torch.zeros(len(grounds), len(GROUNDS), device=grounds.device)
    rows = torch.arange(len(grounds), device=grounds.device)
    scenery = kind >= 5
    first = torch.where(scenery, len(palette.BACKGROUND_NAMES) + kind - 5, a)
    out[rows, first] = 1
    two = (kind >= 1) & ~scenery
    out[rows[two], b[two]] = 1
    return out


def disturb(x):
    """Shift, blur, tint and noise, so that small flaws do not decide."""
    dy, dx = torch.randint(-6, 7, (2,)).tolist()
    x = F.pad(x, (6, 6, 6, 6), mode="replicate")[..., 6 + dy : 262 + dy, 6 + dx : 262 + dx]
    if torch.rand(()) < 0.5:
        soft = F.avg_pool2d(F.pad(x, (2,) * 4, mode="replicate"), 5, 1)
        mix = torch.rand(len(x), 1, 1, 1, device=x.device)
        x = x * (1 - mix) + soft * mix
    tint = 1 + 0.08 * torch.randn(len(x), 3, 1, 1, device=x.device)
    noise = 0.06 * torch.rand(len(x), 1, 1, 1, device=x.device) * torch.randn_like(x)
    return (x * tint + noise).clamp(0, 1)


def train(args):
    dev = common.device()
    atlas = compose.Atlas(args.sprites, dev, args.limit)
    stream = common.PictureStream(atlas, 200, args.chunk)
    model = Judge(len(atlas.infos)).to(dev, memory_format=torch.channels_last)
    half = torch.autocast(dev.type, torch.bfloat16, enabled=dev.type == "cuda")
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.02)
    start, step = time.time(), 0
    while step < args.steps:
        done = (time.time() - start) / args.seconds
        if done >= 1:
            break
        optimiser.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 200) * (1.02 - done)
        x, (layers, grounds, styles) = stream.next(args.batch)
        label, colour = atlas.labels(layers)
        with half:
            concept, hue, ground = model(
                disturb(x).contiguous(memory_format=torch.channels_last))
        there = (label < len(atlas.infos)) & (styles != 2)[:, None, None]
        hues = F.cross_entropy(hue.float(), colour, reduction="none")
        loss = (F.cross_entropy(concept.float(), label)
                + 0.3 * (hues * there).sum() / there.sum().clamp(min=1)
                + F.binary_cross_entropy_with_logits(ground.float(), ground_targets(grounds)))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        step += 1
        if step % 500 == 0:
            common.say(f"judge: step {step} loss {loss.item():.4f}")
    common.say(f"judge: {step} steps")
    common.save(model.state_dict(), os.path.join(args.state, "judge.pt"))
    return atlas, model.eval()


def groups(cells):
    """Number of 4-connected groups of at least three cells in a 16x16 mask."""
    rest = {(y, x) for y, x in cells.nonzero().tolist()}
    count = 0
    while rest:
        stack, size = [rest.pop()], 0
        while stack:
            y, x = stack.pop()
            size += 1
            for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if near in rest:
                    rest.remove(near)
                    stack.append(near)
        count += size >= 3
    return count


@torch.no_grad()
def judge(model, pictures, made):
    """Shares right, for pictures [n,3,256,256] in [0,1] of the scenes `made`.

    object: each named concept holds at least 4 cells; caption: all of them;
    relation: of pairs, both present and their centres in the named order by
    more than a cell; count, colour: of those that name one.
    """
    sums = {k: [0, 0] for k in ("object", "caption", "background", "relation", "count", "colour")}
    right = []

    def add(key, value):
        sums[key][0] += bool(value)
        sums[key][1] += 1

    for first in range(0, len(made), 32):
        x = pictures[first : first + 32]
        concept, hue, ground = model(x.float().contiguous(memory_format=torch.channels_last))
        cells, colours, ground = concept.argmax(1).cpu(), hue.float().cpu(), ground.cpu() > 0
        for k, scene in enumerate(made[first : first + 32]):
            named = list(dict.fromkeys((o[0], o[1]) for o in scene["objects"]))
            masks = [cells[k] == c for c, _ in named]
            present = [m.sum().item() >= 4 for m in masks]
            for (_, variant), mask, there in zip(named, masks, present):
                add("object", there)
                if variant:
                    add("colour", there and colours[k][:, mask].mean(1).argmax() == variant)
            add("caption", all(present))
            ok = all(present)
            kind, a, b, said = scene["background"]
            if said:
                truth = {kind} if kind in GROUNDS else {a, b}
                seen = {GROUNDS[i] for i in ground[k].nonzero()[:, 0].tolist()}
                add("background", seen == truth)
                ok = ok and seen == truth
            if scene["kind"] == "pair":
                good = all(present)
                if good:
                    (ax, ay), (bx, by) = (m.nonzero().float().mean(0).flip(0) for m in masks)
                    stacked = scene["objects"][0][4] < scene["objects"][1][4] - 40
                    good = by - ay > 1 if stacked else bx - ax > 1
                add("relation", good)
                ok = ok and good
            if scene["kind"] == "several":
                good = groups(masks[0]) == len(scene["objects"])
                add("count", good)
                ok = ok and good
            right.append(bool(ok))
    return {k: a / b for k, (a, b) in sums.items() if b}, right


def show(figures):
    return "  ".join(f"{k} {100 * v:.1f} %" for k, v in figures.items())


def load(state, concepts, dev):
    model = Judge(concepts)
    model.load_state_dict(common.load(os.path.join(state, "judge.pt"), "cpu"))
    return model.eval().to(dev, memory_format=torch.channels_last)


def held_out_scenes(infos, count=200, seed=4242):
    """The scenes of the judgement: compositions kept out of the training."""
    return scenes.many(infos, count, seed, evaluation=True)


def composed(atlas, made, seed=4242):
    """The true pictures of such scenes."""
    count = len(made)
    arrays = [torch.from_numpy(a).to(atlas.device) for a in scenes.pack(made, seed)]
    return torch.cat([atlas.pictures(*(a[k : k + 64] for a in arrays))
                      for k in range(0, count, 64)])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", default="sprites.npz")
    parser.add_argument("--state", default="state")
    parser.add_argument("--seconds", type=float, default=100)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--chunk", type=int, default=4096)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    os.makedirs(args.state, exist_ok=True)
    atlas, model = train(args)
    made = held_out_scenes(atlas.infos)
    figures, _ = judge(model, composed(atlas, made), made)
    common.say("judge: on composed held-out pictures:", show(figures))


if __name__ == "__main__":
    main()
