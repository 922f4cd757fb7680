#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A whole picture at full size by each way there is, ours alone, in one run on one card.

    bench_pictures.py TESSERA-CLI OUT.json [--rounds N] [--side PIXELS] [NAME...]

Round by round each NAME of OURS, all of them if none is given, is a process of its own with random
weights of full size (synthetic:z-image-turbo): from prompt to RGB in host memory. The median over
all rounds counts. bench-h200-whole.py runs them beside diffusers.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile

STEPS, TOKENS = 8, 128
PICTURES = 2  # that count, each round; one before them warms up
PHASES = ("encode", "step", "decode", "total")
OURS = {"bf16": ()}
for arithmetic in ("fast", "exact"):
    for precision in ("int4", "nvfp4"):
        for rank in (32, 128):
            OURS[f"{arithmetic}-{precision}" + ("-rank-128" if rank == 128 else "")] = (
                "--precision", precision, "--transformer", f"synthetic:{precision}:{rank}",
                "--arithmetic", arithmetic)


def ours(program, side, tokens=TOKENS, steps=STEPS, runs=PICTURES + 1, how=()):
    """(pictures, the program's whole report); the first warm picture only warms up."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "speed.json")
        subprocess.run([program, "bench", "speed", "--model", "synthetic:z-image-turbo",
                        "--device", "cuda", "--size", f"{side}x{side}", "--steps", str(steps),
                        "--tokens", str(tokens), "--runs", str(runs), "--json-file", path, *how],
                       check=True, stdout=subprocess.DEVNULL)
        with open(path) as file:
            report = json.load(file)
    return [{phase: w[phase] for phase in PHASES} for w in report["warm"][1:]], report


def median(pictures):
    return {phase: statistics.median(p[phase] for p in pictures) for phase in PHASES}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("json_file")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=1024)
    options = parser.parse_args()
    names = options.names or list(OURS)
    pictures = {name: [] for name in names}
    reports = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            counted, report = ours(options.program, options.side, how=OURS[name])
            pictures[name] += counted
            reports[name].append(report)
    medians = {name: median(p) for name, p in pictures.items()}
    result = {"device": reports[names[0]][0]["device"], "side": options.side, "steps": STEPS,
              "tokens": TOKENS, "median_s": medians, "pictures_s": pictures,
              "kernels": {name: r[0]["kernels"] for name, r in reports.items()},
              "weights": {name: r[0]["weights"] for name, r in reports.items()},
              "peak_memory": {name: r[0]["peak_memory"] for name, r in reports.items()}}
    with open(options.json_file, "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    print(f"{'':22}" + "".join(f"{phase:>12}" for phase in PHASES) + "   step of the first's")
    for name, times in medians.items():
        print(f"{name:22}" + "".join(f"{times[phase] * 1e3:9.2f} ms" for phase in PHASES)
              + f"{medians[names[0]]['step'] / times['step']:12.3f}")


if __name__ == "__main__":
    main()
