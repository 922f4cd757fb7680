#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tessera-cli compare: keys, empty values, the map, and what is refused.

Usage: test-cli-compare.py TESSERA_CLI   (with TESSERA_TEST_DATA in the environment)
"""
import json
import pathlib
import struct
import tempfile
import zlib

from cli_test import check, finish, run

def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def write_png(path, width, height, value):
    """An RGB picture; value (x, y) gives three bytes."""
    rows = b"".join(b"\0" + b"".join(bytes(value(x, y)) for x in range(width))
                    for y in range(height))
    path.write_bytes(b"\x89PNG\r\n\x1a\n"
                     + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


def main(folder):
    a = write_png(folder / "a.png", 40, 32, lambda x, y: (x * 6, y * 7, 90))
    b = write_png(folder / "b.png", 40, 32, lambda x, y: (x * 6, y * 7, 90 + 64 * (x >= 20)))
    small = write_png(folder / "small.png", 32, 40, lambda x, y: (0, 0, 0))

    result = run("compare", a, a, "--json")
    report = json.loads(result.stdout)
    check("an equal pair has no PSNR", report["psnr"] is None and report["ssim"] == 1, report)
    check("an equal pair does not differ", report["flip"] == 0 and report["pixels_changed"] == 0,
          report)
    check("what needs larger pictures or weights is null",
          report["ms_ssim"] is None and report["lpips"] is None, report)

    report = json.loads(run("compare", a, b, "--json", "--heatmap", folder / "map.png").stdout)
    check("numbers of a changed pair", abs(report["psnr"] - 19.7887) < 1e-3
          and report["mean_difference"] == 64 / 6 and report["max_difference"] == 64
          and report["pixels_changed"] == 640, report)
    report = json.loads(run("compare", folder / "map.png", a, "--json").stdout)
    check("the map has the pictures' size", report["max_difference"] > 0, report)
    result = run("compare", a, b)
    check("text", result.returncode == 0 and "PSNR     19.79 dB" in result.stdout, result.stdout)

    for title, status, error, arguments in (
            ("two pictures are needed", 2, "two pictures", (a,)),
            ("three are too many", 2, "two pictures", (a, b, a)),
            ("sizes must agree", 2, "40 x 32", (a, small)),
            ("a picture must be there", 1, "none.png", (a, folder / "none.png")),
            ("weights must be there", 1, "none.safetensors",
             (a, b, "--lpips-weights", folder / "none.safetensors"))):
        result = run("compare", *arguments)
        lines = result.stderr.splitlines()
        check(title, result.returncode == status and len(lines) == 1 and error in lines[0],
              result.returncode, result.stderr)


with tempfile.TemporaryDirectory() as name:
    main(pathlib.Path(name))
finish()
