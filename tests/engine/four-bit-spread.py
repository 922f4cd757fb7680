#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How far 4-bit pictures lie apart that begin one last place apart, beside the golden traces.

Each number of a golden trace's starting noise is moved to the next FP32 number above or below, by
chance; the same model draws both. If two such runs differ as much from each other as from the
golden trace, then no rounding order but the reference's own can come nearer to it.

    python3 tests/engine/four-bit-spread.py build/engine/cli/tessera-cli ../shared/fixtures [STEPS [RUNS]]
"""
import array
import json
import math
import pathlib
import random
import statistics
import struct
import subprocess
import sys
import tempfile


def read(path, name):
    data = pathlib.Path(path).read_bytes()
    length = struct.unpack_from("<Q", data)[0]
    entry = json.loads(data[8:8 + length])[name]
    begin, end = (8 + length + offset for offset in entry["data_offsets"])
    return entry["shape"], array.array("f", data[begin:end])


def write(path, name, shape, values):
    header = json.dumps({name: {"dtype": "F32", "shape": shape,
                                "data_offsets": [0, 4 * len(values)]}}).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(header)) + header + values.tobytes())


def moved(values, seed):
    """Each number one last place up or down; seed 0 moves none."""
    chance = random.Random(seed)
    bits = array.array("i", values.tobytes())
    if seed:
        bits = array.array("i", [b + chance.choice((-1, 1)) for b in bits])
    return array.array("f", bits.tobytes())


def distance(a, b):
    return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b))
                     / math.fsum(y * y for y in b))


def main():
    cli, fixtures = sys.argv[1], pathlib.Path(sys.argv[2])
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    runs = int(sys.argv[4]) if len(sys.argv) > 4 else 8
    key = "transformer.step01" if steps == 1 else f"latents.step{steps:02}"
    folder = pathlib.Path(tempfile.mkdtemp())
    model = fixtures / "svdq-zimage"
    print(f"| {key} | to golden | moved, to golden | among themselves | median |\n|---|---|---|---|---|")
    for case in ("int4-square", "int4-tall", "int4-pads", "fp4-square", "fp4-tall", "fp4-pads"):
        golden = fixtures / "svdq-zimage-golden" / f"{case}.safetensors"
        request = json.loads(golden.with_suffix(".json").read_text())
        shape, noise = read(golden, "latents.init")
        outputs = []
        for seed in range(runs):
            write(folder / "noise.safetensors", "latents.init", shape, moved(noise, seed))
            subprocess.run(
                [cli, "generate", "--model", model, "--transformer",
                 model / f"svdq-{case.split('-')[0]}_r32-svdq-zimage.safetensors",
                 "--precision", "svdquant", "--device", "cpu", "--prompt", request["prompt"],
                 "--size", f"{request['width']}x{request['height']}", "--steps", str(steps),
                 "--latents", folder / "noise.safetensors", "--trace", folder / "trace.safetensors",
                 "--output", folder / "picture.png"], check=True, stdout=subprocess.DEVNULL)
            outputs.append(read(folder / "trace.safetensors", key)[1])
        far = [distance(o, read(golden, key)[1]) for o in outputs]
        pairs = [distance(a, b) for i, a in enumerate(outputs) for b in outputs[:i]]
        print(f"| {case} | {far[0]:.2g} | {min(far[1:]):.2g} to {max(far[1:]):.2g} "
              f"| {min(pairs):.2g} to {max(pairs):.2g} | {statistics.median(pairs):.2g} |", flush=True)


if __name__ == "__main__":
    main()
