#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""SVDQuant linears on sm_90 beside cuBLAS, in one run on one card.

    bench-svdq-sm90.py BENCH OUT.json [--chosen | --alternatives] [--before OLD_BENCH]

BENCH is the program bench-svdq-sm90. It and PyTorch are asked in turn, three rounds, each after a
pause, and each for a recorded graph of launches of 8 ms replayed three times; the median round
counts. Each round has an order of its own: who follows the hottest of them is slower by up to 4 %.
OLD_BENCH, of another build, is asked for what its backend picks. Linears include the quantising of their activations and the low-rank branch of rank 32.
--chosen times only what the backend picks; --alternatives, every way to quantise with every product
of E4M3 in turns, and says which pair is the fastest for each shape.
"""
import json
import random
import sys
import time
from functools import partial

import torch

from bench_turns import Ours, Theirs

PAUSE, ROUNDS = 0.02, 3
BLOCK = ((11520, 3840), (3840, 3840), (20480, 3840), (3840, 10240))


def their_bf16(m, n, k):
    x = torch.randn(m, k, device='cuda', dtype=torch.bfloat16)
    w = torch.randn(n, k, device='cuda', dtype=torch.bfloat16) * 0.016
    out = torch.empty(m, n, device='cuda', dtype=torch.bfloat16)
    return Theirs(lambda _: torch.mm(x, w.t(), out=out))


def their_fp8(m, n, k):
    x = (torch.randn(m, k, device='cuda') * 80).to(torch.float8_e4m3fn)
    w = (torch.randn(n, k, device='cuda') * 80).to(torch.float8_e4m3fn)
    one = torch.ones((), device='cuda')
    return Theirs(lambda _: torch._scaled_mm(x, w.t(), scale_a=one, scale_b=one,
                                             out_dtype=torch.bfloat16, use_fast_accum=True))


WAYS = ('clusters', 'rows')
ROWS_RANK = 32  # the most that quantising by rows takes


def alternatives(turns, codes):
    found = [('fast, clusters', 'fast', -1, 32), ('fast, rows', 'fastrows', -1, 32)]
    for i, name in enumerate(turns):
        found += [(f'turns {name} r{rank}', 'turns', i, rank) for rank in (0, 32)]
        found.append((f'fast, turns {name}, rows', 'turnsrows', i, 32))
    for i, name in enumerate(codes):
        for f, file in enumerate(('int4', 'nvfp4')):
            found.append((f'{file} {name}', f'codes{f}', i, 32))
            found.append((f'exact {file} {name}, rows', f'exactrows{f}', i, 32))
    return found


def main():
    chosen, every = '--chosen' in sys.argv, '--alternatives' in sys.argv
    ours = Ours(sys.argv[1])
    before = Ours(sys.argv[sys.argv.index('--before') + 1]) if '--before' in sys.argv else None
    order = random.Random(1)
    names = ours.ask('names', 'e4m3').split('\t')
    turns, codes = (ours.ask('names', of).split('\t') for of in ('turns', 'codes'))
    rows = []
    for m, k, kind, rank in ((4224, 3840, 0, 32), (4224, 10240, 0, 32), (4224, 3840, 0, 0),
                             (4224, 3840, 0, 128), (4224, 3840, 1, 32), (4224, 3840, 2, 32),
                             (4224, 10240, 1, 32), (4224, 10240, 2, 32)):
        for way in range(len(WAYS) if rank <= ROWS_RANK else 1):
            ms = sorted(ours.ms('quantise', way, m, k, kind, rank) for _ in range(ROUNDS))
            ms = ms[ROUNDS // 2]
            rows.append({'op': 'quantise', 'args': [m, k, kind, rank], 'way': WAYS[way], 'ms': ms})
            print(f'quantise {m}x{k} kind {kind} rank {rank} by {WAYS[way]}: {ms * 1e3:.1f} us')
    for n, k in BLOCK:
        m, swiglu = 4224, n == 20480
        contenders = [('ours bf16', 'gemm', -1, 0), ('fast', 'turnsrows', -1, 32),
                      ('turns r32', 'turns', -1, 32),
                      ('int4 product', 'codes0', -1, 32), ('nvfp4 product', 'codes1', -1, 32),
                      ('exact int4', 'exactrows0', -1, 32),
                      ('exact nvfp4', 'exactrows1', -1, 32)]
        old = [(f'before: {name}', *asked) for name, *asked in contenders] if before else []
        if every:
            contenders += alternatives(turns, codes)
        elif not chosen:
            contenders += [('e4m3 r0', 'e4m3', -1, 0), ('e4m3 r128', 'e4m3', -1, 128)]
            contenders += [(f'e4m3 {name}', 'e4m3', i, 32) for i, name in enumerate(names)
                           if not name.startswith('64x')]
            contenders += [('int4 128x' + str(64 * i + 64), 'codes0', i, 32) for i in (2, 3)]
            contenders += [('int4 r0', 'codes0', -1, 0), ('int4 r128', 'codes0', -1, 128)]
        theirs = {'cublas bf16': their_bf16(m, n, k), 'cublas fp8': their_fp8(m, n, k)}
        times = {}
        contest = [(name, graph.ms) for name, graph in theirs.items()]
        contest += [(name, partial(who.ms, op, variant, m, n, k, swiglu, rank))
                     for who, some in ((ours, contenders), (before, old))
                     for name, op, variant, rank in some]
        for _ in range(ROUNDS):
            order.shuffle(contest)
            for name, ask in contest:
                time.sleep(PAUSE)
                ms = ask()
                if ms is not None:
                    times.setdefault(name, []).append(ms)
        times = {name: sorted(t)[len(t) // 2] for name, t in times.items()}
        rows.append({'op': 'linear', 'args': [m, n, k, swiglu], 'ms': times})
        base = times['cublas bf16']
        print(f'{m} x {n} x {k}')
        for name, ms in sorted(times.items(), key=lambda t: t[1]):
            print(f'   {base / ms:5.2f}x {ms:8.4f} ms {2e-9 * m * n * k / ms:6.0f} TF  {name}')
        for way in ('fast', 'exact int4', 'exact nvfp4'):
            whole = {name: ms for name, ms in times.items() if name.startswith(way)}
            best = min(whole, key=whole.get)
            print(f'   best: {best}, {base / whole[best]:.2f}x')
    with open(sys.argv[2], 'w', encoding='utf-8') as file:
        json.dump({'device': torch.cuda.get_device_name(), 'torch': torch.__version__,
                   'rows': rows}, file, indent=0)


main()
