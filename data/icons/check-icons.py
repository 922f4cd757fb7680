#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that icons are what an icon theme expects. Usage: check-icons.py FILE.svg…

App icons are 128 x 128, symbolic ones 16 x 16; none links to a file, holds a bitmap or text.
"""
import re
import sys
import xml.etree.ElementTree as ET

SVG = "{http://www.w3.org/2000/svg}"
REFUSED = {SVG + name for name in ("image", "text", "script", "foreignObject", "filter")}


def problems(path):
    root = ET.parse(path).getroot()
    size = 16 if path.endswith("-symbolic.svg") else 128
    if root.tag != SVG + "svg":
        yield "is not an SVG"
    if root.get("viewBox") != f"0 0 {size} {size}":
        yield f"viewBox is {root.get('viewBox')}, not 0 0 {size} {size}"
    for element in root.iter():
        if element.tag in REFUSED:
            yield f"holds a {element.tag.removeprefix(SVG)}"
        for value in element.attrib.values():
            if re.search(r"^(https?|file|data):|url\((?!#)", value):
                yield f"links to {value}"
    fills = {e.get("fill") for e in root.iter() if e.get("fill")}
    if size == 16 and len(fills) != 1:
        yield f"symbolic icons have one colour, this one {sorted(fills)}"


failed = False
for svg in sys.argv[1:]:
    for problem in problems(svg):
        print(f"{svg}: {problem}")
        failed = True
sys.exit(failed or len(sys.argv) < 2)
