#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the INT4 linears of a Z-Image block can take on cards that nobody here has.

    svdq-arithmetic.py SASS [FUNCTION]

SASS is `cuobjdump -sass` of the object of svdq_int4.cu, or of svdq_sm75.cu for sm_75. Prints the
instructions of the loop over groups in the kernel whose name contains FUNCTION, and for each card
the milliseconds of its tensor cores, of its schedulers and of its memory, and the floor. All of it
is arithmetic; nothing is measured.
"""
import collections
import re
import sys

TILE, WARPS = 128, 4  # of a block; an iteration of the loop is one group of 64 k

# (multiprocessors, boost clock in GHz, memory in GB/s) as sold.
CARDS = {
    "RTX 3060": (28, 1.777, 360),
    "RTX 3090": (82, 1.695, 936),
    "RTX 4060": (24, 2.460, 272),
    "RTX 4090": (128, 2.520, 1008),
}
INT4_RATE, HALF_RATE = 2048, 256  # multiplications a clock and multiprocessor; 16 bit: FP32 sums

# There a scheduler starts one instruction a clock and has 16 lanes for multiply-adds, of integers
# too: two clocks for each of those.
TURING = {
    "RTX 2060": (30, 1.680, 336),
    "RTX 2080 Ti": (68, 1.545, 616),
}
MULTIPLY_ADDS = ("FFMA", "FMUL", "FADD", "IMAD")

# The quantised linears of a block: N, K, columns of the output.
LAYERS = [(11520, 3840, 11520), (3840, 3840, 3840), (20480, 3840, 10240), (3840, 10240, 3840)]
ROWS, RANK = 4224, 32


def loop(text, function):
    """Instructions by kind of the smallest loop with 4-bit products in it."""
    found = None
    for body in text.split("Function : ")[1:]:
        if not re.search(function, body.split("\n", 1)[0]):
            continue
        lines = re.findall(r"/\*([0-9a-f]{4,5})\*/\s+(.*?);", body)
        place = {int(at, 16): i for i, (at, _) in enumerate(lines)}
        for i, (_, line) in enumerate(lines):
            jump = re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", line)
            first = place.get(int(jump.group(1), 16), i + 1) if jump else i + 1
            inside = [line for _, line in lines[first:i + 1]]
            if any("IMMA" in line for line in inside) and (not found or len(inside) < len(found)):
                found = inside
    if not found:
        sys.exit(f"no loop with IMMA in a function named {function}")
    turing = any("IMMA.8832" in line for line in found)
    return turing, collections.Counter(
        re.sub(r"^@!?U?P\w+\s+", "", line).split()[0].split(".")[0] for line in found)


def main():
    text = open(sys.argv[1]).read()
    usual = r"SvdqTileILi128ELi128ELi2ELi2ELi[25]ELi2ELi2EE(4Int4Lb0|8Int4Sm75L10Sm75Output0)"
    turing, counts = loop(text, sys.argv[2] if len(sys.argv) > 2 else usual)
    each = sum(counts.values())
    print(f"a group and warp: {each} instructions:",
          ", ".join(f"{n} {name}" for name, n in counts.most_common()))
    lanes = 2 * sum(counts[name] for name in MULTIPLY_ADDS) if turing else 0
    issue = max(each, lanes) * WARPS / 4
    tensor = TILE * TILE * 64 / INT4_RATE
    print(f"{TILE}x{TILE}x64: tensor cores {tensor:.0f} clocks, schedulers {each * WARPS / 4:.0f}"
          + (f", multiply-adds {lanes * WARPS / 4:.0f}" if turing else "") + "\n")

    steps = sum((n // TILE) * (k // 64) for n, k, _ in LAYERS) * (ROWS // TILE)
    low = [sum(k * RANK for _, k, _ in LAYERS) * ROWS, sum(n * RANK for n, _, _ in LAYERS) * ROWS]
    codes = sum(k for _, k, _ in LAYERS) * ROWS * (0.5 + 2 / 64)
    quantise_bytes = sum(k for _, k, _ in LAYERS) * ROWS * 2 + codes
    weights = sum(n * k * (0.5 + 2 / 64) + (n + k) * RANK * 2 for n, k, _ in LAYERS)
    product_bytes = weights + codes + sum(columns for _, _, columns in LAYERS) * ROWS * 2
    macs = sum(n * k for n, k, _ in LAYERS) * ROWS

    print("| card | tensor cores | schedulers | low-rank up | memory | quantise | floor | 16 bit |")
    print("|---|---|---|---|---|---|---|---|")
    for card, (sms, clock, memory) in (TURING if turing else CARDS).items():
        ms = 1e-6 / (sms * clock)  # of a clock of all multiprocessors
        products = [steps * tensor * ms, steps * issue * ms]
        up = low[1] / HALF_RATE * ms
        moved = product_bytes / memory * 1e-6
        # Reading x and writing codes, or its product with proj_down if that takes longer.
        quantise = max(quantise_bytes / memory * 1e-6, low[0] / HALF_RATE * ms)
        floor = max(max(products) + up, moved) + quantise
        print(f"| {card} | {products[0]:.2f} | {products[1]:.2f} | {up:.2f} | {moved:.2f} "
              f"| {quantise:.2f} | {floor:.2f} | {macs / HALF_RATE * ms:.1f} |")


main()
