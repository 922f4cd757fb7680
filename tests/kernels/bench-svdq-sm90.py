#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""SVDQuant linears on sm_90 beside cuBLAS, in one run on one card.

    bench-svdq-sm90.py BENCH OUT.json [--chosen | --alternatives | --sustained] [--before OLD_BENCH]

BENCH is the program bench-svdq-sm90. It and PyTorch are asked in turn, nine rounds, each after a
pause, and each for a recorded graph of launches of 8 ms replayed three times; the median round
counts. Each round has an order of its own: who follows the hottest of them is slower by up to 4 %.
OLD_BENCH, of another build, is asked for what its backend picks. Linears include the quantising of
their activations and the low-rank branch of rank 32. --chosen times only what the backend picks;
--alternatives, every product of E4M3 in turns, and says which is the fastest for each shape.

After a pause the card runs at a clock that it does not keep: a linear that goes on for a second is
slowed by the limit of the card's power, as the steps of a picture are. --sustained asks each
contender for SECONDS in a row, three rounds in turn, and counts what was answered in the second
half; it says the clock and the power of that time, too.
"""
import atexit
import json
import random
import subprocess
import sys
import threading
import time
from functools import partial

import torch

from bench_turns import Ours, Theirs

PAUSE, ROUNDS = 0.02, 9
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


LASTING_ROUNDS, SECONDS = 3, 0.8


def alternatives(turns, codes):
    found = [('fast, ring', 'fast', -1, 32)]
    for i, name in enumerate(turns):
        found += [(f'turns {name} r{rank}', 'turns', i, rank) for rank in (0, 32)]
        found.append((f'fast, turns {name}', 'fastturns', i, 32))
    for i, name in enumerate(codes):
        for f, file in enumerate(('int4', 'nvfp4')):
            found.append((f'{file} {name}', f'codes{f}', i, 32))
            found.append((f'exact {file} {name}', f'exact{f}', i, 32))
    return found


class Meter:
    """The card's clock and power, every 20 ms."""

    def __init__(self):
        self.process = subprocess.Popen(
            ['nvidia-smi', '--query-gpu=clocks.sm,power.draw.instant', '--format=csv,noheader,nounits',
             '-lms', '20'], stdout=subprocess.PIPE, text=True)
        self.seen = []
        atexit.register(self.process.kill)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.seen.append((time.time(), *(float(v) for v in line.split(','))))

    def since(self, begin):
        """Medians of what was seen since then, MHz and W; None where nothing was."""
        seen = [s for s in list(self.seen) if s[0] >= begin]
        return [middle(s[i] for s in seen) for i in (1, 2)] if seen else None


def middle(values):
    values = sorted(values)
    return values[len(values) // 2]


def in_rounds(contest, order, meter, row):
    """Answers of each contender; with a meter, of SECONDS in a row, and in `row` what it saw."""
    times = {}
    for _ in range(ROUNDS if meter is None else LASTING_ROUNDS):
        order.shuffle(contest)
        for name, ask in contest:
            time.sleep(PAUSE)
            if meter is None:
                answers = [ask()]
            else:
                begin, answers = time.time(), []
                while time.time() < begin + SECONDS:
                    ms = ask()
                    if time.time() > begin + SECONDS / 2:
                        answers.append(ms)
                row.setdefault('clock and power', {})[name] = meter.since(begin + SECONDS / 2)
            times.setdefault(name, []).extend(ms for ms in answers if ms is not None)
    return {name: t for name, t in times.items() if t}


def main():
    meter = Meter() if '--sustained' in sys.argv else None
    chosen = '--chosen' in sys.argv or meter is not None
    every = '--alternatives' in sys.argv
    ours = Ours(sys.argv[1])
    before = Ours(sys.argv[sys.argv.index('--before') + 1]) if '--before' in sys.argv else None
    order = random.Random(1)
    names = ours.ask('names', 'e4m3').split('\t')
    turns, codes = (ours.ask('names', of).split('\t') for of in ('turns', 'codes'))
    rows = []
    for m, k, kind, rank in ((4224, 3840, 0, 32), (4224, 10240, 0, 32), (4224, 3840, 0, 0),
                             (4224, 3840, 0, 128), (4224, 3840, 1, 32), (4224, 3840, 2, 32),
                             (4224, 10240, 1, 32), (4224, 10240, 2, 32), (4224, 3840, 1, 128),
                             (4224, 3840, 2, 128), (4224, 10240, 1, 128), (1088, 3840, 0, 32),
                             (128, 3840, 1, 128)):
        ms = middle(ours.ms('quantise', m, k, kind, rank) for _ in range(ROUNDS))
        rows.append({'op': 'quantise', 'args': [m, k, kind, rank], 'ms': ms})
        print(f'quantise {m}x{k} kind {kind} rank {rank}: {ms * 1e3:.1f} us')
    for n, k in BLOCK:
        m, swiglu = 4224, n == 20480
        contenders = [('ours bf16', 'gemm', -1, 0), ('fast', 'fastturns', -1, 32),
                      ('turns r32', 'turns', -1, 32),
                      ('int4 product', 'codes0', -1, 32), ('nvfp4 product', 'codes1', -1, 32),
                      ('exact int4', 'exact0', -1, 32),
                      ('exact nvfp4', 'exact1', -1, 32)]
        if meter is not None:
            contenders = [c for c in contenders if 'product' not in c[0] and c[0] != 'turns r32']
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
        contest = [(name, graph.ms) for name, graph in theirs.items()]
        contest += [(name, partial(who.ms, op, variant, m, n, k, swiglu, rank))
                     for who, some in ((ours, contenders), (before, old))
                     for name, op, variant, rank in some]
        row = {'op': 'linear', 'args': [m, n, k, swiglu]}
        times = in_rounds(contest, order, meter, row)
        times = {name: middle(t) for name, t in times.items()}
        rows.append({**row, 'ms': times})
        base = times['cublas bf16']
        print(f'{m} x {n} x {k}')
        for name, ms in sorted(times.items(), key=lambda t: t[1]):
            seen = row.get('clock and power', {}).get(name)
            at = f'  {seen[0]:.0f} MHz, {seen[1]:.0f} W' if seen else ''
            print(f'   {base / ms:5.3f}x {ms:8.4f} ms {2e-9 * m * n * k / ms:6.0f} TF  {name}{at}')
        for way in ('fast', 'exact int4', 'exact nvfp4'):
            whole = {name: ms for name, ms in times.items() if name.startswith(way)}
            best = min(whole, key=whole.get)
            print(f'   best: {best}, {base / whole[best]:.3f}x')
    with open(sys.argv[2], 'w', encoding='utf-8') as file:
        json.dump({'device': torch.cuda.get_device_name(), 'torch': torch.__version__,
                   'rows': rows}, file, indent=0)


main()
