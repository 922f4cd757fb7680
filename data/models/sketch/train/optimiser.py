# SPDX-License-Identifier: Apache-2.0
"""Muon for the matrices of the blocks, AdamW for everything else.

Muon (Jordan et al. 2024) replaces a matrix's momentum by its nearest
orthogonal matrix, found with five Newton-Schulz steps; the update is scaled to
AdamW's usual size (Liu et al. 2025), so one learning rate serves both.
"""
import torch

STEPS = [(4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037),
         (2.8769, -3.1427, 1.2046), (2.8366, -3.0525, 1.2012)]


def orthogonal(g):
    """Nearest orthogonal matrices of a stack [k,m,n], in bfloat16."""
    x = g.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) * 1.01 + 1e-7)
    for a, b, c in STEPS:
        s = x @ x.mT
        x = a * x + (b * s + c * (s @ s)) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    def __init__(self, matrices, lr, momentum=0.95, decay=0.01):
        super().__init__(matrices, dict(lr=lr, momentum=momentum, decay=decay))
        self.stacks = {}
        for p in self.param_groups[0]["params"]:
            self.stacks.setdefault(tuple(p.shape), []).append(p)
        self.buffers = {}

    @torch.no_grad()
    def step(self):
        group = self.param_groups[0]
        for shape, members in self.stacks.items():
            g = torch.stack([p.grad for p in members])
            if shape not in self.buffers:
                self.buffers[shape] = torch.zeros_like(g)
            buffer = self.buffers[shape].lerp_(g, 1 - group["momentum"])
            update = orthogonal(g.lerp(buffer, group["momentum"])).float()
            update *= -0.2 * group["lr"] * max(shape) ** 0.5
            torch._foreach_mul_(members, 1 - group["lr"] * group["decay"])
            torch._foreach_add_(members, list(update.unbind(0)))


class Optimiser:
    """Both together; `rate` is set before every step."""

    def __init__(self, modules, muon_rate=3e-3, adam_rate=1.5e-3):
        matrices, rest = [], []
        for module in modules:
            for name, p in module.named_parameters():
                inner = "layers." in name or "refiner" in name
                if p.requires_grad:
                    matrix = p.ndim == 2 and inner and "adaLN" not in name
                    (matrices if matrix else rest).append(p)
        fused = rest[0].is_cuda
        self.parts = [(Muon(matrices, muon_rate), muon_rate),
                      (torch.optim.AdamW(rest, adam_rate, betas=(0.9, 0.97), weight_decay=0.0,
                                         fused=fused), adam_rate)]
        self.parameters = matrices + rest

    def step(self, fraction):
        for optimiser, rate in self.parts:
            for group in optimiser.param_groups:
                group["lr"] = rate * fraction
            optimiser.step()

    def zero(self):
        for p in self.parameters:
            p.grad = None
