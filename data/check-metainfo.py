#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks what the validator cannot know of the page. Usage: check-metainfo.py FILE ROOT VERSION

Its newest release is this version, and its pictures are files of this tree, at this version's tag.
"""
import pathlib
import sys
import xml.etree.ElementTree as ET

TREE = "https://raw.githubusercontent.com/tesseraimage/tessera/v"


def problems(page, root, version):
    newest = page.find("releases/release").get("version")
    if newest != version:
        yield f"the newest release is {newest}, not {version}"
    pictures = [image.text for image in page.findall("screenshots/screenshot/image")]
    if not pictures:
        yield "no screenshot"
    for url in pictures:
        name = url.removeprefix(f"{TREE}{version}/")
        if name == url:
            yield f"{url} is not at the tag v{version}"
        elif not (root / name).is_file() or (root / name).read_bytes()[:4] != b"\x89PNG":
            yield f"there is no PNG {name}"


found = list(problems(ET.parse(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]))
for problem in found:
    print(f"{sys.argv[1]}: {problem}")
sys.exit(bool(found))
