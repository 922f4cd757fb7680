# SPDX-License-Identifier: Apache-2.0
"""The three networks in plain PyTorch, for training in whole batches.

Parameter names and arithmetic are those of the published classes (Qwen3Model,
ZImageTransformer2DModel, AutoencoderKL), so a state dict saved here is the
file that they, and the engine, read. Batches share one padded caption length.
"""
import math

import torch
import torch._dynamo
import torch.nn.functional as F
from torch import nn

TEXT = dict(vocab=2048, dim=192, layers=4, heads=3, kv_heads=1, head_dim=64, hidden=384)
IMAGE = dict(dim=192, heads=3, layers=13, refiners=1, axes=(16, 24, 24), theta=256.0)
LATENT = dict(channels=(32, 64, 96, 96), latent=16, groups=32)


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return (y * self.weight).to(x.dtype)


def linear(a, b, bias=False):
    return nn.Linear(a, b, bias=bias)


# -- text encoder ------------------------------------------------------------
class TextAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q_proj = linear(c["dim"], c["heads"] * c["head_dim"])
        self.k_proj = linear(c["dim"], c["kv_heads"] * c["head_dim"])
        self.v_proj = linear(c["dim"], c["kv_heads"] * c["head_dim"])
        self.o_proj = linear(c["heads"] * c["head_dim"], c["dim"])
        self.q_norm = RMSNorm(c["head_dim"], 1e-6)
        self.k_norm = RMSNorm(c["head_dim"], 1e-6)

    def forward(self, x, cos, sin):
        c, n = self.c, x.shape[0]

        def heads(y, count):
            return y.view(n, -1, count, c["head_dim"]).transpose(1, 2)

        def rotate(y):
            a, b = y.chunk(2, -1)
            return (y * cos + torch.cat([-b, a], -1) * sin).to(y.dtype)

        q = rotate(self.q_norm(heads(self.q_proj(x), c["heads"])))
        k = rotate(self.k_norm(heads(self.k_proj(x), c["kv_heads"])))
        v = heads(self.v_proj(x), c["kv_heads"])
        repeat = c["heads"] // c["kv_heads"]
        k, v = (y.repeat_interleave(repeat, 1) for y in (k, v))
        o = F.scaled_dot_product_attention(q, k, v.to(q.dtype), is_causal=True)
        return self.o_proj(o.transpose(1, 2).flatten(2))


class TextMLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = linear(c["dim"], c["hidden"])
        self.up_proj = linear(c["dim"], c["hidden"])
        self.down_proj = linear(c["hidden"], c["dim"])

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class TextLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn = TextAttention(c)
        self.mlp = TextMLP(c)
        self.input_layernorm = RMSNorm(c["dim"], 1e-6)
        self.post_attention_layernorm = RMSNorm(c["dim"], 1e-6)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class TextEncoder(nn.Module):
    """Token ids [n,t] -> the state before the last layer [n,t,dim]."""

    def __init__(self, c=TEXT):
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c["vocab"], c["dim"])
        self.layers = nn.ModuleList([TextLayer(c) for _ in range(c["layers"])])
        self.norm = RMSNorm(c["dim"], 1e-6)
        nn.init.normal_(self.embed_tokens.weight, std=0.5)

    def forward(self, ids):
        half = self.c["head_dim"] // 2
        powers = torch.arange(half, device=ids.device, dtype=torch.float32) / half
        angle = torch.arange(ids.shape[1], device=ids.device)[:, None] * 1e6 ** -powers
        angle = torch.cat([angle, angle], -1)
        x = self.embed_tokens(ids)
        for layer in self.layers[:-1]:
            x = layer(x, angle.cos(), angle.sin())
        return x


# -- transformer -------------------------------------------------------------
class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (linear(dim, dim) for _ in range(3))
        self.to_out = nn.ModuleList([linear(dim, dim)])
        self.norm_q = RMSNorm(dim // heads, 1e-5)
        self.norm_k = RMSNorm(dim // heads, 1e-5)

    def forward(self, x, cos, sin):
        def heads(y):
            return y.unflatten(-1, (self.heads, -1))

        def rotate(y):
            a, b = y.float().unflatten(-1, (-1, 2)).unbind(-1)
            c, s = cos[:, None], sin[:, None]
            return torch.stack([a * c - b * s, a * s + b * c], -1).flatten(-2).to(y.dtype)

        q = rotate(self.norm_q(heads(self.to_q(x)))).transpose(1, 2)
        k = rotate(self.norm_k(heads(self.to_k(x)))).transpose(1, 2)
        v = heads(self.to_v(x)).transpose(1, 2)
        o = F.scaled_dot_product_attention(q, k, v.to(q.dtype))
        return self.to_out[0](o.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, dim):
        super().__init__()
        hidden = int(dim / 3 * 8)
        self.w1, self.w3 = linear(dim, hidden), linear(dim, hidden)
        self.w2 = linear(hidden, dim)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self, dim, heads, modulated=True):
        super().__init__()
        self.attention = Attention(dim, heads)
        self.feed_forward = FeedForward(dim)
        for name in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"):
            setattr(self, name, RMSNorm(dim, 1e-5))
        if modulated:
            self.adaLN_modulation = nn.Sequential(linear(min(dim, 256), 4 * dim, bias=True))
            nn.init.zeros_(self.adaLN_modulation[0].weight)
            bias = torch.zeros(4, dim)
            bias[1::2] = 0.2  # gates start a little open
            self.adaLN_modulation[0].bias.data = bias.flatten()

    def forward(self, x, cos, sin, c=None):
        if c is None:
            x = x + self.attention_norm2(self.attention(self.attention_norm1(x), cos, sin))
            return x + self.ffn_norm2(self.feed_forward(self.ffn_norm1(x)))
        s1, g1, s2, g2 = self.adaLN_modulation(c)[:, None].chunk(4, -1)
        a = self.attention(self.attention_norm1(x) * (1 + s1), cos, sin)
        x = x + g1.tanh() * self.attention_norm2(a)
        f = self.feed_forward(self.ffn_norm1(x) * (1 + s2))
        return x + g2.tanh() * self.ffn_norm2(f)


class TimestepEmbedder(nn.Module):
    def __init__(self, out):
        super().__init__()
        self.mlp = nn.Sequential(linear(256, 1024, True), nn.SiLU(), linear(1024, out, True))

    def forward(self, t):
        powers = torch.arange(128, device=t.device, dtype=torch.float32) / 128
        angle = t.float()[:, None] * torch.exp(-math.log(10000.0) * powers)
        return self.mlp(torch.cat([angle.cos(), angle.sin()], -1))


class FinalLayer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.linear = linear(dim, 64, True)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), linear(min(dim, 256), dim, True))
        for layer in (self.linear, self.adaLN_modulation[1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x, c):
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        return self.linear(x * (1 + self.adaLN_modulation(c)[:, None]))


class Transformer(nn.Module):
    """(latents [n,16,h,w], 1-sigma [n], text [n,P,d], real tokens [n]) -> x0 - noise.

    `tap` names the layer whose image tokens come back too, for the auxiliary
    loss; P is the common padded caption length, h*w/4 a multiple of 32.
    """

    def __init__(self, c=IMAGE, text_dim=TEXT["dim"]):
        super().__init__()
        self.c = c
        dim, heads = c["dim"], c["heads"]
        self.all_x_embedder = nn.ModuleDict({"2-1": linear(64, dim, True)})
        self.all_final_layer = nn.ModuleDict({"2-1": FinalLayer(dim)})
        self.noise_refiner = nn.ModuleList([Block(dim, heads) for _ in range(c["refiners"])])
        self.context_refiner = nn.ModuleList(
            [Block(dim, heads, modulated=False) for _ in range(c["refiners"])])
        self.t_embedder = TimestepEmbedder(min(dim, 256))
        self.cap_embedder = nn.Sequential(RMSNorm(text_dim, 1e-5), linear(text_dim, dim, True))
        self.x_pad_token = nn.Parameter(torch.randn(1, dim) * 0.02)
        self.cap_pad_token = nn.Parameter(torch.randn(1, dim) * 0.02)
        self.layers = nn.ModuleList([Block(dim, heads) for _ in range(c["layers"])])
        self.tables = {}

    def rope(self, padded, h, w, device):
        """cos, sin [P + h*w/4, head_dim/2]: captions first, then image tokens."""
        key = (padded, h, w, str(device))
        if key not in self.tables:
            caption = torch.zeros(padded, 3)
            caption[:, 0] = torch.arange(padded) + 1
            y, x = torch.meshgrid(torch.arange(h // 2), torch.arange(w // 2), indexing="ij")
            image = torch.stack([torch.full_like(y, padded + 1), y, x], -1).view(-1, 3).float()
            ids = torch.cat([caption, image]).double()
            angles = []
            for axis, d in enumerate(self.c["axes"]):
                powers = torch.arange(0, d, 2, dtype=torch.float64) / d
                angles.append(ids[:, axis : axis + 1] * self.c["theta"] ** -powers)
            angle = torch.cat(angles, -1).float().to(device)
            self.tables[key] = angle.cos(), angle.sin()
        return self.tables[key]

    def forward(self, latents, t, text, lengths, tap=None):
        n, ch, h, w = latents.shape
        padded = text.shape[1]
        cos, sin = self.rope(padded, h, w, latents.device)
        c = self.t_embedder(t * 1000.0)
        x = latents.view(n, ch, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(n, -1, 64)
        x = self.all_x_embedder["2-1"](x)
        for block in self.noise_refiner:
            x = block(x, cos[padded:], sin[padded:], c)
        text = self.cap_embedder(text)
        real = torch.arange(padded, device=text.device)[None, :, None] < lengths[:, None, None]
        text = torch.where(real, text, self.cap_pad_token.to(text.dtype))
        for block in self.context_refiner:
            text = block(text, cos[:padded], sin[:padded])
        count = x.shape[1]
        u = torch.cat([x, text.to(x.dtype)], 1)
        cos, sin = (torch.cat([y[padded:], y[:padded]]) for y in (cos, sin))
        seen = None
        for number, block in enumerate(self.layers):
            u = block(u, cos, sin, c)
            if number == tap:
                seen = u[:, :count]
        out = self.all_final_layer["2-1"](u[:, :count], c)
        out = out.view(n, h // 2, w // 2, 2, 2, ch).permute(0, 5, 1, 3, 2, 4).reshape(n, ch, h, w)
        return (out, seen) if tap is not None else out


# -- autoencoder -------------------------------------------------------------
def norm(channels):
    return nn.GroupNorm(LATENT["groups"], channels, eps=1e-6)


class Resnet(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.norm1, self.conv1 = norm(a), nn.Conv2d(a, b, 3, padding=1)
        self.norm2, self.conv2 = norm(b), nn.Conv2d(b, b, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(a, b, 1) if a != b else None

    def forward(self, x):
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + y


class MidAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.group_norm = norm(channels)
        self.to_q, self.to_k, self.to_v = (linear(channels, channels, True) for _ in range(3))
        self.to_out = nn.ModuleList([linear(channels, channels, True)])

    def forward(self, x):
        n, c, h, w = x.shape
        y = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (f(y)[:, None] for f in (self.to_q, self.to_k, self.to_v))
        o = self.to_out[0](F.scaled_dot_product_attention(q, k, v)[:, 0])
        return x + o.transpose(1, 2).view(n, c, h, w)


class Mid(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(channels, channels) for _ in range(2)])
        self.attentions = nn.ModuleList([MidAttention(channels)])

    def forward(self, x):
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Sampler(nn.Module):
    def __init__(self, channels, up):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, 1 if up else 2, 1 if up else 0)

    def forward(self, x):
        if self.up:
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Level(nn.Module):
    def __init__(self, a, b, count, sampler, up):
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(a if k == 0 else b, b) for k in range(count)])
        if sampler:
            setattr(self, "upsamplers" if up else "downsamplers", nn.ModuleList([Sampler(b, up)]))
        self.last = "upsamplers" if up else "downsamplers"

    def forward(self, x):
        for block in self.resnets:
            x = block(x)
        for sampler in getattr(self, self.last, []):
            x = sampler(x)
        return x


class Encoder(nn.Module):
    def __init__(self, channels, latent):
        super().__init__()
        pairs = list(zip((channels[0],) + channels, channels))
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            [Level(a, b, 1, k < len(pairs) - 1, False) for k, (a, b) in enumerate(pairs)])
        self.mid_block = Mid(channels[-1])
        self.conv_norm_out = norm(channels[-1])
        self.conv_out = nn.Conv2d(channels[-1], 2 * latent, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    def __init__(self, channels, latent):
        super().__init__()
        back = tuple(reversed(channels))
        pairs = list(zip((back[0],) + back, back))
        self.conv_in = nn.Conv2d(latent, back[0], 3, padding=1)
        self.mid_block = Mid(back[0])
        self.up_blocks = nn.ModuleList(
            [Level(a, b, 2, k < len(pairs) - 1, True) for k, (a, b) in enumerate(pairs)])
        self.conv_norm_out = norm(back[-1])
        self.conv_out = nn.Conv2d(back[-1], 3, 3, padding=1)

    def forward(self, z):
        z = self.mid_block(self.conv_in(z))
        for level in self.up_blocks:
            z = level(z)
        return self.conv_out(F.silu(self.conv_norm_out(z)))


class Autoencoder(nn.Module):
    """Pictures in [-1,1] <-> latents [n,16,h/8,w/8] (not yet shifted, scaled)."""

    def __init__(self, c=LATENT):
        super().__init__()
        self.encoder = Encoder(c["channels"], c["latent"])
        self.decoder = Decoder(c["channels"], c["latent"])

    def encode(self, x):
        mean, logvar = self.encoder(x).float().chunk(2, 1)
        return mean, logvar.clamp(-30, 20)


def compile_regions(module, kinds=(Block, Resnet)):
    """Compile each block on its own: equal blocks share one compilation."""
    torch._dynamo.config.recompile_limit = 64
    for part in module.modules():
        if isinstance(part, kinds):
            part.compile(dynamic=False)
    return module


def parameters(module):
    return sum(p.numel() for p in module.parameters())
