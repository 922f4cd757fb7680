#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What diffusers feeds its 4-bit linears where a small difference would move a code.

Runs the fixtures' transformer in diffusers (FP32, linears at level L1) for the first step of the
golden 4-bit traces, and says how near it comes to them. Of a run that arrives at the trace it writes
every number that goes into a quantiser within WINDOW of where another code or scale begins: whoever
takes those from here decides as the reference did, and has nothing left but smooth differences.

    pip install torch diffusers transformers accelerate
    python3 tests/engine/reference-ties.py ../shared/fixtures tests/data/svdq-ties [CASE…]
"""
import pathlib
import sys

import torch
from diffusers import ZImageTransformer2DModel
from safetensors.torch import load_file, save_file

CASES = ("int4-square", "int4-tall", "int4-pads", "fp4-square", "fp4-tall", "fp4-pads")
WINDOW = 2e-3    # of a row's root mean square
ROUNDED = 5e-6   # the same for what is only rounded to BF16
ARRIVED = 1e-4   # relative RMS from the golden step
SEEDS = 8        # noise moved by one last place: 0 is the trace's own
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E2M1_TIES = ((0.25, False), (0.75, True), (1.25, False), (1.75, True), (2.5, False), (3.5, True),
             (5.0, False))  # True: up, to the even code


def vector_position(i):
    x = i & 127
    return (i & ~127) + ((x & 0x70) | (((x >> 1) & 3) << 2) | (((x >> 3) & 1) << 1) | (x & 1))


def factor(t, rank):
    """A packed [rows, rank] factor in logical order (spec svdquant 2.4.5)."""
    a, b = torch.arange(t.shape[0])[:, None], torch.arange(rank)[None]
    # In tiles of P_down k is the column, in those of P_up the rank.
    def inside(a, b):
        return (a & 7) * 32 + ((b >> 1) & 3) * 8 + ((a >> 3) & 1) * 4 + ((b >> 3) & 1) * 2 + (b & 1)
    base = ((a >> 4) * (rank // 16) + (b >> 4)) * 256
    return lambda down: t.reshape(-1)[base + (inside(b & 15, a & 15) if down
                                              else inside(a & 15, b & 15))].float()


class QuantisedLinear(torch.nn.Module):
    def __init__(self, name, file, log):
        super().__init__()
        get = lambda part: file.get(f"{name}.{part}")
        self.name, self.log = name, log
        packed = get("qweight").view(torch.uint8)
        rows, columns = packed.shape[0], packed.shape[1] * 2
        n, k = torch.arange(rows)[:, None], torch.arange(columns)[None]
        tile = (n >> 7) * (columns // 64) + (k >> 6)
        byte = (tile * 4096 + ((n >> 4) & 7) * 512 + (n & 7) * 64 + ((k >> 3) & 3) * 16
                + ((n >> 3) & 1) * 8 + ((k >> 5) & 1) * 4 + ((k >> 1) & 3))
        codes = (packed.reshape(-1)[byte].int() >> ((k & 1) * 4)) & 15
        vector = lambda v: v[vector_position(torch.arange(v.numel()))].float()
        self.int4 = get("wscales").dtype == torch.bfloat16
        self.group = 64 if self.int4 else 16
        g = torch.arange(columns // self.group)[None]
        if self.int4:
            at = ((n >> 7) * (columns // 64) + g) * 128 + vector_position(n & 127)
            values = torch.where(codes > 7, codes - 16, codes).double()
            scales = get("wscales").reshape(-1)[at].double()
        else:
            at = (((n >> 7) * (columns // 64) + (g >> 2)) * 512 + (n & 7) * 64
                  + ((n >> 3) & 3) * 16 + ((n >> 5) & 3) * 4 + (g & 3))
            values = torch.cat((E2M1, -E2M1))[codes].double()
            scales = get("wscales").view(torch.uint8).reshape(-1)[at]
            scales = scales.view(torch.float8_e4m3fn).double()
        self.weight = values * scales.repeat_interleave(self.group, 1)
        self.outer = torch.ones(rows).double()
        if get("wtscale") is not None:
            self.outer = self.outer * get("wtscale").double().reshape(-1)
        if get("wcscales") is not None:
            self.outer = self.outer * vector(get("wcscales")).double()
        self.smooth = vector(get("smooth_factor"))
        rank = get("proj_down").shape[1]
        self.down, self.up = factor(get("proj_down"), rank)(True), factor(get("proj_up"), rank)(False)

    def quantise(self, x, smooth):
        """Values of the codes of x [..., G], a group each, times their scales."""
        xh = (x / smooth).bfloat16().float()
        largest = xh.abs().amax(-1, keepdim=True)
        if self.int4:
            scale = (largest * torch.tensor(1 / 7)).bfloat16().float()
        else:
            scale = (largest * torch.tensor(1 / 6)).clamp(max=448).to(torch.float8_e4m3fn).float()
        v = xh * torch.where(scale > 0, 1 / scale, 0.0)
        if self.int4:
            return v.round().clamp(-7, 7) * scale
        code = sum((v.abs() >= tie if up else v.abs() > tie).long() for tie, up in E2M1_TIES)
        return v.sign() * E2M1[code] * scale

    def groups(self, x):
        return x.reshape(*x.shape[:-1], -1, self.group)

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        self.log[self.name] = (self, flat)
        low = (flat.bfloat16().float() @ self.down).bfloat16().float()
        values = self.quantise(self.groups(flat), self.groups(self.smooth)).reshape(flat.shape)
        y = (values.double() @ self.weight.T * self.outer).float() + low @ self.up.T
        return y.reshape(*x.shape[:-1], -1)

    def undecided(self, x):
        """Indices of numbers of x that another code or scale begins within WINDOW of."""
        reach = x.pow(2).mean(-1, keepdim=True).sqrt() * WINDOW
        near = ((x - reach) / self.smooth).bfloat16() != ((x + reach) / self.smooth).bfloat16()
        row, column = near.nonzero(as_tuple=True)
        group, place = column // self.group, column % self.group
        x_groups, smooth = self.groups(x)[row, group], self.groups(self.smooth)[group]
        before = self.quantise(x_groups, smooth)
        move = torch.nn.functional.one_hot(place, self.group) * reach[row]
        decides = torch.zeros(len(row), dtype=torch.bool)
        for sign in (-1, 1):
            decides |= (self.quantise(x_groups + sign * move, smooth) != before).any(-1)
        # The low-rank branch sees x in BF16: a smooth difference, if not for what it grows to.
        rounds = (x - reach / WINDOW * ROUNDED).bfloat16() != (x + reach / WINDOW * ROUNDED).bfloat16()
        rounds[row[decides], column[decides]] = True
        return rounds.reshape(-1).nonzero().reshape(-1).int()


class Share(torch.nn.Module):
    """One of the linears that a quantised one has stacked."""

    def __init__(self, whole, index, count):
        super().__init__()
        self.whole, self.index, self.count = whole, index, count

    def forward(self, x):
        return self.whole(x).chunk(self.count, -1)[self.index]


def quantised_model(fixtures, precision, log):
    file = load_file(fixtures / f"svdq-zimage/svdq-{precision}_r32-svdq-zimage.safetensors")
    model = ZImageTransformer2DModel.from_pretrained(fixtures / "svdq-zimage/transformer",
                                                     torch_dtype=torch.float32).eval()
    for stack in ("noise_refiner", "context_refiner", "layers"):
        for i, block in enumerate(getattr(model, stack)):
            make = lambda name: QuantisedLinear(f"{stack}.{i}.{name}", file, log)
            qkv, w31 = make("attention.to_qkv"), make("feed_forward.net.0.proj")
            attention, mlp = block.attention, block.feed_forward
            attention.to_q, attention.to_k, attention.to_v = (Share(qkv, j, 3) for j in range(3))
            attention.to_out[0] = make("attention.to_out.0")
            mlp.w3, mlp.w1 = Share(w31, 0, 2), Share(w31, 1, 2)
            mlp.w2 = make("feed_forward.net.2")
    return model


def moved(values, seed):
    if seed == 0:
        return values
    sign = torch.randint(0, 2, values.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return (values.contiguous().view(torch.int32) + sign.int()).view(torch.float32)


def run(model, golden, seed):
    """Relative RMS distance of the first step from the golden trace's."""
    latents = [item.unsqueeze(1) for item in moved(golden["latents.init"], seed)]
    time = ((1000 - golden["scheduler.timesteps"][0].float()) / 1000).reshape(1)
    with torch.no_grad():
        y = model(latents, time, [golden["prompt.embeds"]], return_dict=False)[0][0].double()
    expected = golden["transformer.step01"].double()
    return float((y - expected).norm() / expected.norm())


def main():
    fixtures, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    for case in sys.argv[3:] or CASES:
        log = {}
        model = quantised_model(fixtures, case.split("-")[0], log)
        golden = load_file(fixtures / f"svdq-zimage-golden/{case}.safetensors")
        distances = []
        while len(distances) < SEEDS and (not distances or distances[-1] > ARRIVED):
            distances.append(run(model, golden, len(distances)))
        print(case, *(f"{d:.2g}" for d in distances), flush=True)
        if distances[-1] > ARRIVED:
            continue
        ties = {}
        for name, (linear, x) in log.items():
            name = name.replace("net.0.proj", "w13").replace("net.2", "w2")
            index = linear.undecided(x)
            ties[name + ".index"] = index
            ties[name + ".x"] = x.reshape(-1)[index.long()].contiguous()
            ties[name + ".rows"] = torch.tensor([x.shape[0]], dtype=torch.int32)
        save_file(ties, out / f"{case}.safetensors")


if __name__ == "__main__":
    main()
