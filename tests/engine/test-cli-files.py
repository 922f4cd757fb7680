#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tessera-cli on files of weights: convert, inspect, quantize's prompts; and what bench speed writes.

Usage: test-cli-files.py TESSERA_CLI   (with TESSERA_TEST_DATA in the environment)
"""
import json
import os
import pathlib
import tempfile

from cli_test import DAMAGED, TINY, TRANSFORMER, check, expect, finish

FOUR_BIT = pathlib.Path(os.environ.get("TESSERA_FIXTURES", "")) / "svdq-zimage"


def converted(folder):
    source, path = FOUR_BIT / "svdq-int4_r32-svdq-zimage.safetensors", folder / "int4.safetensors"
    expect("a published file in our order", 0, "convert", source, "-o", path, output=str(path))
    check("and nothing besides", list(folder.iterdir()) == [path])
    expect("is told apart", 0, "inspect", path, output="Tessera canonical; 4-bit weights 2.7 MB")
    before, after = (json.loads(expect("as JSON", 0, "inspect", "--json", f).stdout)["components"][0]
                     for f in (source, path))
    check("no number is lost", before["svdquant"]["weight_bytes"] == after["svdquant"]["weight_bytes"]
          and before["svdquant"]["rank"] == after["svdquant"]["rank"] == 32, before, after)
    first = path.read_bytes()[-after["bytes"]:]
    expect("once more, onto itself", 0, "convert", path, "-o", path)
    check("has the same numbers", path.read_bytes()[-after["bytes"]:] == first)
    path.unlink()


def not_converted(folder):
    path = folder / "out.safetensors"
    expect("nothing to convert", 2, "convert", error="PATH is missing")
    expect("convert where to", 2, "convert", TINY / TRANSFORMER, error="-o FILE is missing")
    expect("weights of 16 bit", 1, "convert", TINY / TRANSFORMER, "-o", path,
           error="no SVDQuant weights here")
    expect("a damaged file", 1, "convert", DAMAGED / "truncated.safetensors", "-o", path,
           error="truncated or damaged")
    expect("no such file", 1, "convert", folder / "none.safetensors", "-o", path,
           error="none.safetensors")
    check("leave nothing", not list(folder.iterdir()))


def prompts(folder):
    path, out = folder / "prompts.txt", folder / "out.safetensors"
    for title, contents, cause in (("no prompt", b" \n\n", "no prompt in it"),
                                   ("other bytes", b"\xff\xfe\n", "not UTF-8 text")):
        path.write_bytes(contents)
        expect(f"to learn from {title}", 2, "quantize", "--model", TINY, "--output", out,
               "--prompts", path, error=cause)
    path.unlink()
    expect("from a file that is not there", 1, "quantize", "--model", TINY, "--output", out,
           "--prompts", path, error="prompts.txt")
    check("make nothing", not list(folder.iterdir()))


def bench_speed(folder):
    path = folder / "speed.json"
    small = ("bench", "speed", "--model", TINY, "--size", "64x64", "--steps", 2, "--device", "cpu",
             "--runs", 1)
    expect("how fast it is", 0, *small, "--json-file", path, output="warm, median of 1")
    report = json.loads(path.read_text())
    check("is written", report["steps"] == 2 and len(report["warm"]) == 1
          and report["median"]["total"] > 0 and report["floor"]["product_rate"] > 0, report)
    path.unlink()
    expect("but not anywhere", 1, *small, "--json-file", folder / "no" / "speed.json",
           error="speed.json: cannot be written")
    expect("no runs", 2, *small, "--runs", 0, error="--runs is 1 to 100")
    expect("no such random model", 1, "bench", "speed", "--model", "synthetic:none",
           error="synthetic:none")


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        not_converted(folder)
        prompts(folder)
        bench_speed(folder)
        if FOUR_BIT.is_dir():
            converted(folder)
        else:
            print("# no converting: the shared fixtures are not here")
    finish()


main()
