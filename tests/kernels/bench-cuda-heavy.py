#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Our heavy CUDA kernels beside cuBLAS and cuDNN, in one run on one card.

    bench-cuda-heavy.py BENCH OUT.json [--skip NAME]...

BENCH is the program bench-cuda-heavy. PyTorch is timed before and after it, the same way (a
recorded graph of launches, replayed five times, median), and the better of the two counts.
Writes every number to OUT.json and prints a table: the kernel the backend picks and the best one.
"""
import json
import subprocess
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

REPLAYS, REPLAY_MS, ROTATION = 5, 8.0, 8


def replay_ms(run, launches, replays):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(launches):
            run(i)
    times = []
    for i in range(replays + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times[1:])[replays // 2]


def measure(run):
    for i in range(2):
        run(i)
    torch.cuda.synchronize()
    launches = max(4, min(64, int(REPLAY_MS / (replay_ms(run, 2, 1) / 2))))
    return replay_ms(run, launches, REPLAYS) / launches


def random(*shape):
    return torch.randn(*shape, device='cuda', dtype=torch.bfloat16)


def gemm_ms(m, n, k):
    x, copies = random(m, k), ROTATION if m <= 128 else 1
    ws = [random(n, k) * 0.016 for _ in range(copies)]
    out = torch.empty(m, n, device='cuda', dtype=torch.bfloat16)
    return measure(lambda i: torch.mm(x, ws[i % copies].t(), out=out))


def attention_ms(m, n_q, n_kv, d, causal):
    q = random(1, n_q, m, d)
    k, v = random(1, n_kv, m, d), random(1, n_kv, m, d)
    backends = [SDPBackend.CUDNN_ATTENTION] if d <= 128 else [SDPBackend.EFFICIENT_ATTENTION]
    with sdpa_kernel(backends):
        return measure(lambda i: F.scaled_dot_product_attention(
            q, k, v, is_causal=causal, enable_gqa=n_q != n_kv))


def torch_times(jobs):
    times = {}
    for job in jobs:
        try:
            times[job] = gemm_ms(*job[1:]) if job[0] == 'gemm' else attention_ms(*job[1:])
        except RuntimeError as error:
            print('pytorch:', job, str(error).splitlines()[0])
    return times


def job_of(row):
    if row['op'] == 'gemm':
        return ('gemm', row['m'], row['n'], row['k'])
    return ('attention', row['m'], row['n_q'], row['n_kv'], row['d'], row['causal'])


JOBS = ([('attention', m, 30, 30, 128, False) for m in (4224, 4160, 1088)]
        + [('attention', m, 32, 8, 128, True) for m in (64, 512)]
        + [('attention', 4224, 30, 30, 64, False)]
        + [('attention', m, 1, 1, 512, False) for m in (16384, 4096)]
        + [('gemm', m, n, k) for m in (4224, 1088)
           for n, k in ((11520, 3840), (3840, 3840), (20480, 3840), (3840, 10240))]
        + [('gemm', m, n, k) for m in (1, 16, 64, 512)
           for n, k in ((6144, 2560), (2560, 4096), (19456, 2560), (2560, 9728))])


def main():
    before = torch_times(JOBS)
    output = subprocess.run(sys.argv[1:2] + sys.argv[3:], stdout=subprocess.PIPE, text=True,
                            timeout=100, check=False).stdout
    after = torch_times(JOBS)
    rows = [json.loads(line) for line in output.splitlines() if line.startswith('{')]
    with open(sys.argv[2], 'w', encoding='utf-8') as file:
        json.dump({'device': torch.cuda.get_device_name(), 'torch': torch.__version__,
                   'rows': rows,
                   'pytorch': [{'job': job, 'before_ms': before[job], 'after_ms': after.get(job)}
                               for job in before]}, file, indent=0)
    groups = {}
    for row in rows:
        groups.setdefault((job_of(row), row.get('swiglu', False)), []).append(row)
    for (job, swiglu), group in groups.items():
        theirs = min((t[job] for t in (before, after) if job in t), default=float('nan'))
        print(*job, 'swiglu' if swiglu else '', f'| pytorch {theirs:.4f} ms')
        for row in sorted(group, key=lambda r: r['ms']):
            print(f"   {theirs / row['ms']:5.2f}x {row['ms']:8.4f} ms {row['tflops']:6.0f} TF "
                  f"{row.get('weight_gb_s', 0):6.0f} GB/s  {row['kernel']}")


main()
