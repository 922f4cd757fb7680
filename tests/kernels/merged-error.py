#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What merging the low-rank branch of 4-bit layers into E4M3 weights costs (svdquant-sm90.md).

    merged-error.py [TABLE.md]

Relative errors of one linear against its unquantised weights (level L0), for the 4-bit arithmetic
of the file (L1), the fast path of sm_90, which keeps the branch in 16 bit, and three ways to merge
it. Wants NumPy and ml_dtypes.
"""
import sys

import ml_dtypes
import numpy as np

TOKENS, N, K, RANK = 96, 512, 3840, 32
E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6])
rng = np.random.default_rng(7)


def normal(*shape):
    return rng.standard_normal(shape)


def bf16(a):
    return np.asarray(a, np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)


def e4m3(a):
    return np.clip(a, -448, 448).astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(float)


def codes(rows, kind):
    """4-bit codes times scales of their groups, along the rows."""
    groups = rows.reshape(len(rows), -1, 64 if kind == 'INT4' else 16)
    most = np.abs(groups).max(-1, keepdims=True)
    scale = bf16(most / 7) if kind == 'INT4' else e4m3(most / 6)
    v = groups / np.where(scale > 0, scale, 1)
    if kind == 'INT4':
        v = np.clip(np.rint(v), -7, 7)
    else:
        v = np.sign(v) * E2M1[np.searchsorted((E2M1[1:] + E2M1[:-1]) / 2, np.abs(v))]
    return (v * scale).reshape(rows.shape)


def weight_codes(w, kind):
    outer = 1 if kind == 'INT4' else np.abs(w).max() / 6 / 448
    return codes(w / outer, kind) * outer


def rows_e4m3(a, power=True, headroom=0):
    most = np.abs(a).max(-1, keepdims=True) / 448
    scale = np.exp2(np.ceil(np.log2(most)) + headroom) if power else most
    return e4m3(a / scale) * scale


def svdquant(w, x, kind):
    """W as an SVDQuant file holds it: residual codes, smoothing, up, down."""
    s = bf16(np.sqrt(np.abs(x).max(0) / np.abs(w).max(0)))
    wide = w * s
    u, sigma, v = np.linalg.svd(wide, full_matrices=False)
    up, low = bf16(u[:, :RANK] * sigma[:RANK]), v[:RANK]
    return weight_codes(wide - up @ low, kind), s, up, bf16((low / s).T)


def errors(x, residual, s, up, down, kind):
    """The branch's share of the output's energy; the errors of each way."""
    x = bf16(x)
    xh = bf16(x / s)
    branch, rest = x @ down @ up.T, (x / s) @ residual.T
    want, kept = branch + rest, bf16(x @ down) @ up.T
    merged, smooth = residual / s + up @ down.T, residual + up @ (down.T * s)
    ways = (codes(xh, kind) @ residual.T + kept,
            rows_e4m3(xh, headroom=4) @ rows_e4m3(residual).T + kept,
            rows_e4m3(x) @ rows_e4m3(merged).T,
            rows_e4m3(x, False) @ rows_e4m3(merged, False).T,
            rows_e4m3(xh) @ rows_e4m3(smooth).T)
    energy = (branch ** 2).sum()
    return [energy / (energy + (rest ** 2).sum())] + [
        np.linalg.norm(bf16(y) - want) / np.linalg.norm(want) for y in ways]


def cases(kind):
    """Layers as test-linear-svdq-sm90 makes them, then as a decomposition gives them."""
    s = bf16(.25 + rng.integers(0, 1000, K) * .003)
    residual = weight_codes(normal(N, K) * .02, kind)
    for size in (.02, .5):
        up, down = bf16(normal(N, RANK) * size), bf16(normal(K, RANK) / np.sqrt(K))
        yield f'random, `up` of {size}', (normal(TOKENS, K) * s, residual, s, up, down)
    for part in (0, .3, .6, .9):
        for outliers in (False, True):
            w = normal(N, K) * .02
            low = normal(N, 24) @ normal(24, K)
            w += low * np.linalg.norm(w) / np.linalg.norm(low) * np.sqrt(part / (1 - part))
            channels = np.exp(normal(K) * .7)
            if outliers:
                channels[rng.choice(K, 12, False)] *= rng.uniform(30, 100, 12)
            x = normal(TOKENS, K) * channels
            yield (f'{part:.0%} of W of rank 24' + ', 12 channels 30 to 100 times' * outliers,
                   (x, *svdquant(w, x, kind)))
    w, x = normal(N, K) * .02, normal(TOKENS, K)
    x[:6, 7], x[3:9, 1000] = 3000, -2000
    yield 'two channels of 2000 to 3000 in 9 tokens', (x, *svdquant(w, x, kind))


def main():
    lines = ['| layer | branch | L1 | fast | merged | FP32 scales | smoothed |',
             '|---|---|---|---|---|---|---|']
    for kind in ('INT4', 'NVFP4'):
        for name, layer in cases(kind):
            share, *of = errors(*layer, kind)
            lines.append(f'| {kind}, {name} | {share:.0%} | '
                         + ' | '.join(f'{e:.4f}' for e in of) + ' |')
            print(lines[-1], flush=True)
    if len(sys.argv) > 1:
        with open(sys.argv[1], 'w', encoding='utf-8') as file:
            file.write('\n'.join(lines) + '\n')


main()
