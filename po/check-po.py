#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that every text that the app shows is translated. Usage: check-po.py SOURCE_ROOT

POTFILES names every file with a text in it and no other; each language of LINGUAS is well formed
and has every text that is in the sources now, none of them fuzzy or empty.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

root = pathlib.Path(sys.argv[1])
TEXT = re.compile(r'\b(?:_|N_|C_|Q_|ngettext)\s?\(\s*"|translatable="(?:yes|true)"')
XGETTEXT = ["xgettext", "--from-code=UTF-8", "--add-comments", "--keyword=_", "--keyword=N_",
            "--keyword=C_:1c,2", "--keyword=ngettext:1,2", "--keyword=g_dngettext:2,3",
            "--keyword=g_dpgettext2:2c,3"]


def lines(name):
    text = (root / "po" / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def with_texts():
    for pattern in ("app/**/*.c", "app/**/*.h", "app/**/*.ui", "engine/**/*.c"):
        for path in root.glob(pattern):
            if TEXT.search(path.read_text(encoding="utf-8")):
                yield str(path.relative_to(root))
    for pattern in ("data/*.desktop.in", "data/*.metainfo.xml.in"):
        yield from (str(path.relative_to(root)) for path in root.glob(pattern))


def run(*command):
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if result.returncode:
        print(" ".join(map(str, command)), result.stdout, result.stderr, sep="\n")
    return result.returncode == 0


listed, found = set(lines("POTFILES")), set(with_texts())
ok = listed == found
for name in sorted(found - listed):
    print(f"po/POTFILES lacks {name}")
for name in sorted(listed - found):
    print(f"po/POTFILES lists {name}, which has no text")

with tempfile.TemporaryDirectory() as folder:
    template = pathlib.Path(folder) / "tessera.pot"
    ok &= run(*XGETTEXT, "-o", template, "-f", "po/POTFILES")
    for language in lines("LINGUAS"):
        po = root / "po" / f"{language}.po"
        ok &= run("msgfmt", "--check", "-o", "/dev/null", po)
        ok &= run("msgcmp", "--no-fuzzy-matching", po, template)
sys.exit(not ok)
