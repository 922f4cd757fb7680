# SPDX-License-Identifier: Apache-2.0
"""Train text encoder and transformer by flow matching, then distil.

Stage `flow`: plain flow matching on a pool of latents, a tenth of the captions
empty, with a small auxiliary loss (which concept each cell shows) on a middle
layer. Stage `distil`: the student learns, at the sigmas of a few-step schedule,
the mean velocity of two guided teacher steps, so that eight steps without
guidance suffice. Each stage stops after --seconds and saves what it has.

    torchrun --nproc-per-node 2 flow.py --stages flow distil --seconds 300 100
"""
import argparse
import os
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import common
import compose
import judge
from model import Autoencoder, TextEncoder, Transformer, compile_regions
from optimiser import Optimiser
from tokens import Encoder

TAP = 6  # layer whose image tokens feed the auxiliary loss
SHIFT = 3.0


def shifted(u):
    return SHIFT * u / (1 + (SHIFT - 1) * u)


class Generator(nn.Module):
    """Text encoder and transformer as one trainable module."""

    def __init__(self):
        super().__init__()
        self.text = TextEncoder()
        self.text.layers[-1].requires_grad_(False)  # the pipeline stops before it
        self.text.norm.requires_grad_(False)
        self.transformer = Transformer()

    def forward(self, x, sigma, ids, lengths, tap=None):
        return self.transformer(x, 1 - sigma, self.text(ids), lengths, tap)


class Pool:
    """Latents, captions and cell labels of many scenes, on the device."""

    def __init__(self, args, atlas, vae, encode, seed, count, padded):
        start = time.time()
        captions, arrays = common.bulk(atlas.infos, count, seed, args.crew,
                                       wordy=padded > 32)
        ids, lengths = encode(captions, padded)
        dev = atlas.device
        self.ids = torch.from_numpy(ids).to(dev)
        self.lengths = torch.from_numpy(lengths).to(dev)
        latents, labels = [], []
        half = torch.autocast(dev.type, torch.bfloat16, enabled=dev.type == "cuda")
        with torch.no_grad(), half:
            for first in range(0, count, args.chunk):
                part = [torch.from_numpy(a[first : first + args.chunk]).to(dev) for a in arrays]
                x = atlas.pictures(*part) * 2 - 1
                x = x.contiguous(memory_format=torch.channels_last)
                mean = vae.encode(x)[0]
                latents.append(((mean - vae.shift) * vae.scale).to(args.kind).contiguous())
                labels.append(atlas.labels(part[0])[0].flatten(1).short())
        self.latents, self.labels = torch.cat(latents), torch.cat(labels)
        common.say(f"pool: {count} scenes of {padded} tokens in {time.time() - start:.1f} s, "
                   f"latents {self.latents.float().mean():.3f} +- {self.latents.float().std():.3f}")

    def batch(self, count, drop, empty):
        rows = torch.randint(len(self.ids), (count,), device=self.ids.device)
        ids, lengths = self.ids[rows], self.lengths[rows]
        if drop:
            gone = torch.rand(count, device=ids.device) < drop
            ids = torch.where(gone[:, None], empty[: ids.shape[1]], ids)
            lengths = torch.where(gone, empty_length(empty), lengths)
        return self.latents[rows].float(), ids, lengths, self.labels[rows].long()


def empty_length(empty):
    return torch.full((), 8, device=empty.device, dtype=torch.long)


def load_vae(path, dev):
    state = common.load(path, dev)
    vae = Autoencoder().to(dev, memory_format=torch.channels_last).eval()
    vae.shift, vae.scale = state.pop("shift").item(), state.pop("scale").item()
    vae.load_state_dict(state)
    return vae.requires_grad_(False)


def average_gradients(parameters):
    grads = [p.grad for p in parameters]
    flat = torch._utils._flatten_dense_tensors(grads)
    dist.all_reduce(flat, op=dist.ReduceOp.AVG)
    torch._foreach_copy_(grads, torch._utils._unflatten_dense_tensors(flat, grads))


@torch.no_grad()
def sample(model, ids, lengths, noise, steps=8, guidance=None, empty=None):
    """Euler steps of the static shift-3 schedule, as the pipeline does them."""
    x = noise.clone()
    sigmas = shifted(torch.linspace(1, 1 / steps, steps)).tolist() + [0.0]
    for here, then in zip(sigmas, sigmas[1:]):
        sigma = torch.full((len(x),), here, device=x.device)
        v = guided(model, x, sigma, ids, lengths, guidance, empty)
        x = x - (then - here) * v
    return x


def guided(model, x, sigma, ids, lengths, guidance, empty):
    if not guidance or guidance == 1:
        return model(x, sigma, ids, lengths).float()
    none = empty[: ids.shape[1]].expand_as(ids)
    both = model(torch.cat([x, x]), torch.cat([sigma, sigma]), torch.cat([ids, none]),
                 torch.cat([lengths, torch.full_like(lengths, 8)])).float()
    with_text, without = both.chunk(2)
    return without + guidance * (with_text - without)


def flow_loss(model, head, batch, aux):
    x0, ids, lengths, labels = batch
    n = len(x0)
    u = (torch.rand(n, device=x0.device) + torch.arange(n, device=x0.device)) / n
    sigma = shifted(u)
    noise = torch.randn_like(x0)
    x = sigma[:, None, None, None] * noise + (1 - sigma[:, None, None, None]) * x0
    v, seen = model(x, sigma, ids, lengths, tap=TAP)
    loss = (v.float() - (x0 - noise)).square().mean()
    if not aux:
        return loss, loss
    named = F.cross_entropy(head(seen).flatten(0, 1), labels.flatten())
    return loss + aux * named, loss


def distil_loss(model, teacher, batch, guidance, empty, substeps=2):
    """Match the guided teacher's mean velocity over one step of a short schedule."""
    x0, ids, lengths, _ = batch
    n, dev = len(x0), x0.device
    steps = torch.where(torch.rand(n, device=dev) < 0.8, 8,
                        torch.randint(5, 21, (n,), device=dev))
    place = ((torch.rand(n, device=dev) + torch.arange(n, device=dev)) / n * steps).floor()
    u0, u1 = 1 - place / steps, 1 - (place + 1) / steps
    start = shifted(u0)[:, None, None, None]
    noise = torch.randn_like(x0)
    x = begin = start * noise + (1 - start) * x0
    with torch.no_grad():
        for k in range(substeps):
            now = shifted(u0 + (u1 - u0) * k / substeps)
            then = shifted(u0 + (u1 - u0) * (k + 1) / substeps)
            v = guided(teacher, x, now, ids, lengths, guidance, empty)
            x = x - (then - now)[:, None, None, None] * v
        target = (x - begin) / (shifted(u0) - shifted(u1))[:, None, None, None]
    v = model(begin, shifted(u0), ids, lengths).float()
    loss = (v - target).square().mean()
    return loss, loss


def preview(args, model, vae, atlas, encode, empty, name, guidance=None, steps=8, count=200):
    """Sample the held-out captions, judge them, save a sheet of the first 64."""
    made = judge.held_out_scenes(atlas.infos, count)
    ids, lengths = (torch.from_numpy(a).to(atlas.device)
                    for a in encode([s["caption"] for s in made], 32))
    noise = torch.randn(count, 16, 32, 32, generator=torch.Generator().manual_seed(7))
    half = torch.autocast(atlas.device.type, torch.bfloat16,
                          enabled=atlas.device.type == "cuda")
    with torch.no_grad(), half:
        x = sample(model, ids, lengths, noise.to(atlas.device), steps, guidance, empty)
        pictures = torch.cat([vae.decoder(p / vae.scale + vae.shift) for p in x.split(32)])
    pictures = (pictures.float() * 0.5 + 0.5).clamp(0, 1)
    path = os.path.join(args.state, "judge.pt")
    if os.path.exists(path):
        critic = judge.load(args.state, len(atlas.infos), atlas.device)
        figures, _ = judge.judge(critic, pictures, made)
        common.say(f"{name}: steps {steps} guidance {guidance}:", judge.show(figures))
    common.sheet(pictures[:64], 8, os.path.join(args.out, name + ".png"), 160)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", default="sprites.npz")
    parser.add_argument("--tokenizer", default="../tokenizer")
    parser.add_argument("--state", default="state")
    parser.add_argument("--out", default="state", help="folder for previews")
    parser.add_argument("--stages", nargs="+", choices=["flow", "distil"], default=["flow"])
    parser.add_argument("--seconds", nargs="+", type=float, default=[300], help="one a stage")
    parser.add_argument("--deadline", type=float, help="epoch time at which training ends anyway")
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--batch", type=int, default=256, help="per device")
    parser.add_argument("--pool", type=int, default=150000, help="scenes per device")
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--keep", help="folder that keeps the pools between runs")
    parser.add_argument("--decay", type=float, default=0.0, help="share of time with falling rate")
    parser.add_argument("--muon", type=float, default=3e-3)
    parser.add_argument("--adam", type=float, default=1.5e-3)
    parser.add_argument("--aux", type=float, default=0.02)
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=int)
    return parser.parse_args()


def build(args, dev):
    torch.manual_seed(args.seed)
    model = Generator().to(dev)
    head = nn.Linear(192, 1 + (args.limit or args.concepts)).to(dev)
    path = os.path.join(args.state, "flow.pt")
    if os.path.exists(path):
        model.load_state_dict(common.load(path, dev))
        common.say("flow: continuing")
    if dev.type == "cuda":
        compile_regions(model)
    return model, head


def build_teacher(args, model, dev):
    """The averaged weights of the first stage, frozen; the student starts there."""
    averaged = common.load(os.path.join(args.state, "flow-ema.pt"), dev)
    teacher = Generator().to(dev).requires_grad_(False)
    teacher.load_state_dict(averaged)
    model.load_state_dict(averaged)
    if dev.type == "cuda":
        compile_regions(teacher)
    return teacher


def make_pools(args, atlas, vae, encode, rank):
    """The pools of this rank, kept in the folder --keep between runs if given."""
    path = args.keep and os.path.join(args.keep, f"pool{rank}.pt")
    if path and os.path.exists(path):
        pools = torch.load(path, map_location=atlas.device, weights_only=False)
        common.say("pool: read back")
        return pools
    seed = args.seed * 100 + rank * 10
    pools = [Pool(args, atlas, vae, encode, seed, args.pool, 32),
             Pool(args, atlas, vae, encode, seed + 1, max(args.pool // 20, 64), 64)]
    if path:
        os.makedirs(args.keep, exist_ok=True)
        torch.save(pools, path)
    return pools


def run(args, stage, seconds, model, head, pools, empty, world):
    """One stage for `seconds`; returns the averaged weights."""
    dev = empty.device
    teacher = build_teacher(args, model, dev) if stage == "distil" else None
    decay = args.decay if stage == "flow" else 0.7
    optimiser = Optimiser([model, head] if stage == "flow" else [model],
                          *(r * (1 if stage == "flow" else 0.3) for r in (args.muon, args.adam)))
    average = common.Average(model, 0.9985 if stage == "flow" else 0.995)
    half = torch.autocast(dev.type, torch.bfloat16, enabled=dev.type == "cuda")
    start, step, total, done = time.time(), 0, 0.0, 0.0
    clock = torch.zeros(1, device=dev)
    while step < args.steps:
        if step == 20:
            common.say(f"{stage}: compiled")
        if step % 20 == 0:
            clock.fill_((time.time() - start) / seconds)
            if world > 1:
                dist.broadcast(clock, 0)
            done = clock.item()
            if done >= 1:
                break
        fade = min(1.0, (1 - done) / decay) if decay else 1.0
        pool = pools[1 if step % 16 == 15 else 0]
        with half:
            if stage == "flow":
                loss, main_loss = flow_loss(
                    model, head, pool.batch(args.batch, 0.1, empty), args.aux * fade)
            else:
                loss, main_loss = distil_loss(
                    model, teacher, pool.batch(args.batch, 0.02, empty), args.guidance, empty)
        loss.backward()
        live = [p for p in optimiser.parameters if p.grad is not None]
        if world > 1:
            average_gradients(live)
        torch.nn.utils.clip_grad_norm_(live, 1.0)
        optimiser.step(min(1, (step + 1) / 150) * max(fade, 0.02))
        optimiser.zero()
        average.update()
        step += 1
        total = total + main_loss.detach()
        if step % 500 == 0:
            common.say(f"{stage}: step {step} loss {total.item() / 500:.4f} "
                       f"({step / (time.time() - start):.1f} steps/s)")
            total = 0.0
    common.say(f"{stage}: {step} steps of {args.batch * world}")
    return average


def main():
    args = arguments()
    args.crew = common.crew(args.workers)
    dev = common.device()
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if world > 1:
        torch.cuda.set_device(dev)
        dist.init_process_group("nccl", device_id=dev)
    args.kind = torch.bfloat16 if dev.type == "cuda" else torch.float32
    atlas = compose.Atlas(args.sprites, dev, args.limit)
    args.concepts = len(atlas.infos)
    encode = Encoder(args.tokenizer)
    empty = torch.from_numpy(encode([""], 64)[0][0]).to(dev)
    vae = load_vae(os.path.join(args.state, "vae.pt"), dev)
    model, head = build(args, dev)
    pools = make_pools(args, atlas, vae, encode, rank)
    torch.manual_seed(1000 * args.seed + rank)
    for stage, seconds in zip(args.stages, args.seconds):
        if args.deadline:
            seconds = max(1.0, min(seconds, args.deadline - time.time()))
        average = run(args, stage, seconds, model, head, pools, empty, world)
        name = os.path.join(args.state, "flow" if stage == "flow" else "student")
        if rank == 0:
            if stage == "flow":
                common.save(model.state_dict(), name + ".pt")
            common.save(average.state(), name + "-ema.pt")
            average.swap()
            finish(args, stage, model.eval(), vae, atlas, encode, empty)
            model.train()
            average.swap()
        if world > 1:
            dist.barrier()
    if world > 1:
        dist.destroy_process_group()


def finish(args, stage, model, vae, atlas, encode, empty):
    """Pictures and figures of the averaged weights."""
    count = 200 if atlas.device.type == "cuda" else 8
    preview(args, model, vae, atlas, encode, empty, f"{stage}-8", count=count)
    if stage == "flow":
        for guidance in (1.7, 2.5, 3.5):
            preview(args, model, vae, atlas, encode, empty, f"{stage}-16-g{guidance}",
                    guidance, 16, count)


if __name__ == "__main__":
    main()
