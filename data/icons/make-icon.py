#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the app's icon: a mosaic of five by five tiles, a sun over hills.

The left of the picture is smooth, its right is laid from fewer colours: one picture in two
precisions. Usage: make-icon.py OUTPUT.svg
"""
import sys

SKY = ["#4c3a8c", "#8a4a9e", "#d9628c", "#f58f6c", "#ffc078"]
COARSE = ["#4c3a8c", "#8a4a9e", "#f0795f", "#f0795f", "#ffc078"]
HILL_FAR, HILL_NEAR, HILL_DEEP = "#2f8f8b", "#1f6f78", "#174e60"
HILLS = {  # (column, row) of tiles that are land
    (0, 3): HILL_FAR, (1, 3): HILL_FAR, (0, 4): HILL_NEAR, (1, 4): HILL_NEAR, (2, 4): HILL_NEAR,
    (3, 4): HILL_DEEP, (4, 4): HILL_DEEP, (4, 3): HILL_FAR,
}
FIRST, PITCH, TILE = 17, 19.2, 17.2


def tile(column, row, fill):
    x, y = FIRST + column * PITCH, FIRST + row * PITCH
    return (f'  <rect x="{x:.1f}" y="{y:.1f}" width="{TILE}" height="{TILE}" rx="3.2" '
            f'fill="{fill}"/>')


def icon():
    tiles = []
    for row in range(5):
        for column in range(5):
            sky = (SKY if column < 3 else COARSE)[row]
            tiles.append(tile(column, row, HILLS.get((column, row), sky)))
    centre = FIRST + 2 * PITCH + TILE / 2
    return "\n".join([
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<!-- SPDX-License-Identifier: Apache-2.0, made by make-icon.py -->',
        '<svg xmlns="http://www.w3.org/2000/svg" width="128" height="128" viewBox="0 0 128 128">',
        '  <defs>',
        '    <clipPath id="tiles">',
        *["  " + tile(c, r, "#000") for r in range(5) for c in range(5) if (c, r) not in HILLS],
        '    </clipPath>',
        '    <linearGradient id="grout" x1="0" y1="0" x2="0" y2="1">',
        '      <stop offset="0" stop-color="#2d2550"/>',
        '      <stop offset="1" stop-color="#191530"/>',
        '    </linearGradient>',
        '  </defs>',
        '  <rect x="10" y="10" width="108" height="108" rx="18" fill="url(#grout)"/>',
        *tiles,
        f'  <circle cx="{centre:.1f}" cy="{centre + 4:.1f}" r="22" fill="#fff1c9" '
        'clip-path="url(#tiles)"/>',
        '</svg>', ''])


if __name__ == "__main__":
    with open(sys.argv[1], "w", encoding="utf-8") as output:
        output.write(icon())
