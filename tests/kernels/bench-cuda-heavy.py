#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Our heavy CUDA kernels beside cuBLAS and cuDNN, in one run on one card.

    bench-cuda-heavy.py BENCH OUT.json [--chosen]

BENCH is the program bench-cuda-heavy. It and PyTorch are asked in turn, three rounds, each after
a pause, and each for a recorded graph of launches of 8 ms replayed three times; the median round
counts. At the end the block shapes run for 800 ms each, ours and theirs by turns without a pause:
the speed that the card's power allows. --chosen times only what the backend picks.
"""
import json
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench_turns import REPLAY_MS, REPLAYS, Ours, Theirs

ROUNDS, ROTATION, SMALL_M = 3, 8, 128
PAUSE, SUSTAINED_MS = 0.02, 800.0
BLOCK = ((11520, 3840), (3840, 3840), (20480, 3840), (3840, 10240))
ENCODER = ((6144, 2560), (2560, 4096), (19456, 2560), (2560, 9728))
SWIGLU = (20480, 19456)


def random(*shape):
    return torch.randn(*shape, device='cuda', dtype=torch.bfloat16)


def their_gemm(m, n, k):
    x, copies = random(m, k), ROTATION if m <= SMALL_M else 1
    ws = [random(n, k) * 0.016 for _ in range(copies)]
    out = torch.empty(m, n, device='cuda', dtype=torch.bfloat16)
    return Theirs(lambda i: torch.mm(x, ws[i % copies].t(), out=out))


def their_attention(m, n_q, n_kv, d, causal):
    q = random(1, n_q, m, d)
    k, v = random(1, n_kv, m, d), random(1, n_kv, m, d)
    backend = SDPBackend.CUDNN_ATTENTION if d <= 128 else SDPBackend.EFFICIENT_ATTENTION
    with sdpa_kernel([backend]):
        return Theirs(lambda i: F.scaled_dot_product_attention(
            q, k, v, is_causal=bool(causal), enable_gqa=n_q != n_kv))


def compare(ours, op, args, theirs, contenders, rounds):
    """Rounds of everyone in turn: {name: median ms}."""
    times = {}
    for _ in range(rounds):
        if theirs is not None:
            time.sleep(PAUSE)
            times.setdefault('pytorch', []).append(theirs.ms())
        for name, variant in contenders:
            time.sleep(PAUSE)
            ms = ours.ms(op, variant, *args)
            if ms is not None:
                times.setdefault(name, []).append(ms)
    return {name: sorted(t)[len(t) // 2] for name, t in times.items()}


def gemm_contenders(names, m, only_chosen):
    yield 'chosen', -1
    if only_chosen:
        return
    for i, name in enumerate(names):
        rows, columns = (int(part) for part in name.split('x'))
        if (m > 2048 and rows * columns >= 128 * 160) or (m <= 64 and rows == 64) \
           or (64 < m <= 2048 and rows * columns >= 128 * 80):
            yield name, i
    yield 'mma.sync', -2
    if m <= 16:
        yield 'few rows', -3


def attention_contenders(names, d, only_chosen):
    yield 'chosen', -1
    if only_chosen:
        return
    for i, name in enumerate(names):
        if name.startswith(f'd{d} '):
            yield name, i
    if d <= 128:
        yield 'mma.sync', -2


def sustained(ours, m, n, k, swiglu):
    """Ours and theirs by turns without a pause; the first half only heats the card."""
    theirs = their_gemm(m, n, k)
    rounds = int(SUSTAINED_MS / (REPLAY_MS * (REPLAYS + 1)))
    times = {'pytorch': [], 'chosen': []}
    for _ in range(rounds):
        times['pytorch'].append(theirs.ms())
        times['chosen'].append(ours.ms('gemm', -1, m, n, k, swiglu))
    return {name: sorted(t[rounds // 2:])[rounds // 4] for name, t in times.items()}


def main():
    only_chosen = '--chosen' in sys.argv
    ours = Ours(sys.argv[1])
    gemms, attentions = (ours.ask('names', op).split('\t') for op in ('gemm', 'attention'))
    rows = []

    def show(op, args, flops, times):
        rows.append({'op': op, 'args': args, 'ms': times})
        base = times.get('pytorch', float('nan'))
        print(op, *args, f'| pytorch {base:.4f} ms')
        for name, ms in sorted(times.items(), key=lambda t: t[1]):
            print(f'   {base / ms:5.2f}x {ms:8.4f} ms {flops / ms * 1e-9:6.0f} TF  {name}')

    for args in ((4224, 30, 30, 128, 0), (4160, 30, 30, 128, 0), (1088, 30, 30, 128, 0),
                 (64, 32, 8, 128, 1), (512, 32, 8, 128, 1), (4224, 30, 30, 64, 0),
                 (16384, 1, 1, 512, 0)):
        m, n_q, _, d, causal = args
        theirs = their_attention(*args)
        show('attention', args, (2 if causal else 4) * m * m * n_q * d, compare(
            ours, 'attention', args, theirs, list(attention_contenders(attentions, d,
                                                                       only_chosen)), ROUNDS))
    for m, shapes in ((4224, BLOCK), (1088, BLOCK), (1, ENCODER), (16, ENCODER), (64, ENCODER),
                      (512, ENCODER)):
        for n, k in shapes:
            args = (m, n, k, int(n in SWIGLU))
            show('gemm', args, 2 * m * n * k, compare(
                ours, 'gemm', args, their_gemm(m, n, k),
                list(gemm_contenders(gemms, m, only_chosen)),
                ROUNDS if m > 512 or only_chosen else ROUNDS - 1))
    for n, k in BLOCK:
        args = (4224, n, k, int(n in SWIGLU))
        show('sustained gemm', args, 2 * 4224 * n * k, sustained(ours, *args))
    with open(sys.argv[2], 'w', encoding='utf-8') as file:
        json.dump({'device': torch.cuda.get_device_name(), 'torch': torch.__version__,
                   'rows': rows}, file, indent=0)


main()
