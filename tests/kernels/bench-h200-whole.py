#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A whole picture at full size: ours beside diffusers, in one run on one card.

    bench-h200-whole.py TESSERA-CLI OUT.json [--rounds N] [--side PIXELS] [--eager] [--bare]
                                      [--ours NAME...]

Needs PyTorch, diffusers (ZImageTransformer2DModel, AutoencoderKL) and transformers (Qwen3Model).
Their models get random weights on the card; ours makes its own (synthetic:z-image-turbo). Round
by round: ours as a process of its own, theirs eager, theirs with compiled blocks, each from prompt
to RGB in host memory, by the host's clock with the card idle at both ends of every phase. The
median over all rounds counts. --eager leaves the compiled blocks out, which take 15 seconds; --ours
names what of ours to run, of OURS. --bare also times what no step of either can go without, by
cuBLAS and cuDNN: the products of all blocks and their attention, nothing between them.
"""
import argparse
import contextlib
import json
import statistics
import subprocess
import time

import torch
import transformers
import diffusers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel

from bench_pictures import OURS, PHASES, PICTURES, STEPS, TOKENS, median, ours

SHIFT = 3.0
SCALING, SHIFTING = 0.3611, 0.1159  # of the VAE's latents


def make(build):
    """A model in BF16 on the card, its matrices random, its norms' weights ones."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = build().eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, p in model.named_parameters():
        if not (p.ndim == 1 and "norm" in name and name.endswith("weight")):
            p.normal_(0.0, 0.02)
    return model


def make_encoder():
    return make(lambda: transformers.Qwen3Model(transformers.Qwen3Config(
        hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, vocab_size=151936, rms_norm_eps=1e-6,
        rope_theta=1e6, max_position_embeddings=40960, tie_word_embeddings=True)))


def make_vae():
    return make(lambda: AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=16,
        norm_num_groups=32, sample_size=1024, use_quant_conv=False, use_post_quant_conv=False))


def sigmas():
    plain = [1.0 - i / STEPS for i in range(STEPS)]
    return [SHIFT * s / (1 + (SHIFT - 1) * s) for s in plain] + [0.0]


class Theirs:
    """The pipeline of diffusers without its checks: the same models, the same calls."""

    def __init__(self, side):
        self.side = side
        self.encoder = make_encoder()
        self.transformer = make(lambda: ZImageTransformer2DModel(axes_lens=[1536, 512, 512]))
        self.vae = make_vae()
        self.stance = contextlib.nullcontext
        self.peak_decode = 0

    def compile(self):
        start = time.perf_counter()
        self.transformer.compile_repeated_blocks(fullgraph=True, dynamic=False)
        self.picture()
        return time.perf_counter() - start

    def encode(self, tokens):
        ids = torch.randint(0, 151936, (1, tokens), device="cuda")
        return self.encoder(input_ids=ids, attention_mask=torch.ones_like(ids),
                            output_hidden_states=True).hidden_states[-2][0]

    def step(self, latents, sigma, caption):
        time_in = torch.tensor([1.0 - sigma], device="cuda")
        out = self.transformer([latents.to(torch.bfloat16)], time_in, [caption],
                               return_dict=False)[0][0]
        return -out.float()

    def decode(self, latents):
        z = latents.permute(1, 0, 2, 3).to(torch.bfloat16) / SCALING + SHIFTING
        rgb = self.vae.decode(z, return_dict=False)[0][0]
        rgb = (rgb.float() / 2 + 0.5).clamp(0, 1) * 255
        return rgb.round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu()

    @torch.inference_mode()
    def picture(self):
        clock = Clock()
        caption = self.encode(TOKENS)
        clock.lap("encode")
        latents = torch.randn(16, 1, self.side // 8, self.side // 8, device="cuda")
        schedule, steps = sigmas(), []
        for i in range(STEPS):
            velocity = self.step(latents, schedule[i], caption)
            latents += (schedule[i + 1] - schedule[i]) * velocity
            steps.append(clock.lap("last step"))
        clock.times["step"] = statistics.mean(steps[1:])
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.decode(latents)
        clock.lap("decode")
        self.peak_decode = torch.cuda.max_memory_allocated() - before
        return clock.finish()


class Clock:
    def __init__(self):
        torch.cuda.synchronize()
        self.start = self.last = time.perf_counter()
        self.times = {}

    def lap(self, name):
        torch.cuda.synchronize()
        now = time.perf_counter()
        self.times[name], self.last = now - self.last, now
        return self.times[name]

    def finish(self):
        self.times["total"] = self.last - self.start
        return {phase: self.times[phase] for phase in PHASES}


def eager_pictures(theirs):
    with torch.compiler.set_stance("force_eager"):
        return [theirs.picture() for _ in range(PICTURES + 1)][1:]


@torch.inference_mode()
def encoder_64(program, theirs):
    """Milliseconds for 64 tokens, ours and theirs."""
    _, report = ours(program, 64, tokens=64, steps=1, runs=9)
    times = []
    for _ in range(9):
        clock = Clock()
        theirs.encode(64)
        times.append(clock.lap("encode") * 1e3)
    return {"ours_ms": statistics.median(w["encode"] for w in report["warm"]) * 1e3,
            "theirs_ms": statistics.median(times)}


def bare_weights(block):
    """The four matrices of a block as one product each reads them."""
    a, f = block.attention, block.feed_forward
    return (torch.cat([a.to_q.weight, a.to_k.weight, a.to_v.weight]), a.to_out[0].weight,
            torch.cat([f.w1.weight, f.w3.weight]), f.w2.weight)


@torch.inference_mode()
def bare_step(theirs, rounds):
    """Seconds of the bare products and attention of one step, as long as pictures take; and what
    the card said of its clock and power meanwhile."""
    t, image = theirs.transformer, (theirs.side // 16) ** 2
    blocks = [(bare_weights(b), rows) for rows, part in
              ((image, t.noise_refiner), (image + TOKENS, t.layers)) for b in part]
    rows = image + TOKENS
    inputs = {k: torch.randn(rows, k, device="cuda").bfloat16() for k in (3840, 10240)}
    outputs = {n: torch.empty(rows, n, dtype=torch.bfloat16, device="cuda")
               for n in (11520, 3840, 20480)}
    q, k, v = torch.randn(3, 1, 30, rows, 128, device="cuda").bfloat16()

    def step():
        for weights, m in blocks:
            for w in weights:
                torch.mm(inputs[w.shape[1]][:m], w.t(), out=outputs[w.shape[0]][:m])
            scaled_dot_product_attention(q[:, :, :m], k[:, :, :m], v[:, :, :m])

    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
    times = []
    for _ in range(3 * rounds):
        clock = Clock()
        for i in range(STEPS):
            graph.replay()
            if i == STEPS // 2:
                said = subprocess.Popen(["nvidia-smi", "--format=csv,noheader", "--query-gpu="
                                         "clocks.sm,power.draw.instant,power.limit"],
                                        stdout=subprocess.PIPE, text=True)
        times.append(clock.lap("steps") / STEPS)
        said = said.communicate()[0].strip()
    return {"median_s": statistics.median(times), "all_s": times, "card": said}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("json_file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("--ours", nargs="+", choices=OURS, default=["bf16"])
    options = parser.parse_args()

    theirs = Theirs(options.side)
    pictures = {name: [] for name in [*options.ours, "eager", "compiled"]}
    reports = {name: [] for name in options.ours}
    eager_pictures(theirs)
    compile_s = None if options.eager else theirs.compile()
    for _ in range(options.rounds):
        for name in options.ours:
            counted, report = ours(options.program, options.side, how=OURS[name])
            pictures[name] += counted
            reports[name].append(report)
        pictures["eager"] += eager_pictures(theirs)
        if not options.eager:
            pictures["compiled"] += [theirs.picture() for _ in range(PICTURES + 1)][1:]
    pictures = {who: p for who, p in pictures.items() if p}

    result = {
        "device": torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__,
                     "transformers": transformers.__version__},
        "side": options.side, "steps": STEPS, "tokens": TOKENS,
        "median_s": {who: median(p) for who, p in pictures.items()},
        "compilation_s": compile_s,
        "cold_start_s": {name: [r["open"] + r["first"]["total"] for r in reports[name]]
                         for name in reports},
        "ours_activations": {name: r[0]["peak_memory"] - r[0]["weights"]
                             for name, r in reports.items()},
        "theirs_decode_activations": theirs.peak_decode,
        "pictures_s": pictures,
        "reports": reports,
    }
    if options.bare:
        result["bare_step"] = bare_step(theirs, options.rounds)
    if not options.eager:
        result["encoder_64_tokens"] = encoder_64(options.program, theirs)
    with open(options.json_file, "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")

    medians = result["median_s"]
    print(f"{'':12}" + "".join(f"{phase:>12}" for phase in PHASES) + "   of eager's total")
    for who, times in medians.items():
        print(f"{who:12}" + "".join(f"{times[phase] * 1e3:9.2f} ms" for phase in PHASES)
              + f"{times['total'] / medians['eager']['total']:12.3f}")
    print({k: result[k] for k in result if k.endswith(("_s", "activations", "tokens", "bare_step"))
           and k not in ("median_s", "pictures_s")})


if __name__ == "__main__":
    main()
