# SPDX-License-Identifier: Apache-2.0
"""Draw the concepts' icons and pack them into one small file.

For every concept: the icon at 224 pixels, RGBA, and the coverage of its main
colour family (found by drawing it twice with those fills black and white), so
that any colour variant can be computed later without an SVG renderer.

    python sprites.py --icons fluent-emoji-flat/icons.json --out sprites.npz
"""
import argparse
import collections
import io
import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

import palette

SIZE = 224
FILL = re.compile(r'(?:fill|stroke)="(#[0-9a-fA-F]{3,6})"')
MIN_SHARE = 0.42  # of the opaque area that the main family must cover


def read_concepts(path):
    """[(icon, [names], countable)] of concepts.txt."""
    rows = []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            icon, _, names = line.partition(" = ")
            names = (names or icon.replace("-", " ")).split(", ")
            countable = not names[0].startswith("~")
            rows.append((icon, [n.lstrip("~") for n in names], countable))
    return rows


def draw(body, box, size=SIZE):
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{size}" height="{size}" viewBox="0 0 {box} {box}">{body}</svg>'
    )
    command = ["rsvg-convert", "-w", str(size), "-h", str(size)]
    png = subprocess.run(command, input=svg.encode(), capture_output=True, check=True)
    return np.asarray(Image.open(io.BytesIO(png.stdout)).convert("RGBA"))


def recolour_fills(body, fills, colour):
    for fill in fills:
        body = body.replace(f'"{fill}"', f'"{colour}"')
    return body


def shares(image, fills):
    """Share of the opaque area nearest to each fill."""
    opaque = image[image[..., 3] > 128][:, :3].astype(np.int32)
    table = np.array([palette.rgb_of_hex(f) for f in fills], np.int32)
    nearest = ((opaque[:, None] - table[None]) ** 2).sum(-1).argmin(1)
    return np.bincount(nearest, minlength=len(fills)) / max(len(opaque), 1)


def analyse(body, image):
    """(fills of the main colour family, main fill first) or []."""
    fills = list(dict.fromkeys(FILL.findall(body)))
    if not fills:
        return []
    area = shares(image, fills)
    family = collections.Counter()
    for fill, share in zip(fills, area):
        family[palette.family_of(palette.rgb_of_hex(fill))] += share
    best, share = family.most_common(1)[0]
    if share < MIN_SHARE:
        return []
    order = sorted(zip(area, fills), reverse=True)
    return [f for _, f in order if palette.family_of(palette.rgb_of_hex(f)) == best]


def make(icons, box, row):
    icon, names, countable = row
    body = icons[icon]["body"]
    image = draw(body, icons[icon].get("width", box))
    fills = analyse(body, image)
    coverage = np.zeros(image.shape[:2], np.uint8)
    if fills:
        light = draw(recolour_fills(body, fills, "#ffffff"), box)[..., 1]
        dark = draw(recolour_fills(body, fills, "#000000"), box)[..., 1]
        coverage = np.clip(light.astype(np.int32) - dark, 0, 255).astype(np.uint8)
    alpha = image[..., 3:] / 255.0
    mean = (image[..., :3] * alpha).sum((0, 1)) / alpha.sum()
    info = {
        "icon": icon,
        "names": names,
        "countable": countable,
        "fills": fills,
        "word": palette.nearest_word(mean),
        "light": bool(mean.min() > 205),
    }
    return info, image, coverage


def png_bytes(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--icons", required=True, help="icons.json of the collection")
    parser.add_argument("--concepts", default="concepts.txt")
    parser.add_argument("--out", default="sprites.npz")
    args = parser.parse_args()
    with open(args.icons, encoding="utf-8") as file:
        collection = json.load(file)
    rows = read_concepts(args.concepts)
    with ThreadPoolExecutor(2) as pool:
        made = list(
            pool.map(lambda r: make(collection["icons"], collection["width"], r), rows)
        )
    blobs, lengths = [], []
    for _, image, coverage in made:
        for array in (image, coverage):
            blobs.append(png_bytes(array))
            lengths.append(len(blobs[-1]))
    np.savez(
        args.out,
        blob=np.frombuffer(b"".join(blobs), np.uint8),
        lengths=np.array(lengths, np.int64),
        info=np.frombuffer(json.dumps([m[0] for m in made]).encode(), np.uint8),
    )
    recolourable = sum(bool(m[0]["fills"]) for m in made)
    print(f"{len(made)} concepts, {recolourable} take colours, {sum(lengths)} bytes")


if __name__ == "__main__":
    main()
