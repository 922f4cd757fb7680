#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that the program finds its translations. Usage: check-spoken.py TESSERA LOCALE_DIR

Its help, asked for in German and in Simplified Chinese, must be in that language.
"""
import os
import subprocess
import sys

SAID = {"de": "Version anzeigen", "zh_CN": "显示版本", "en": "Show the version"}

program, locale_dir = sys.argv[1:]
failed = False
for language, expected in SAID.items():
    environment = dict(os.environ, LC_ALL="C.UTF-8", LANGUAGE=language,
                       TESSERA_LOCALE_DIR=locale_dir)
    said = subprocess.run([program, "--help"], env=environment, capture_output=True, text=True,
                          check=False)
    if said.returncode or expected not in said.stdout:
        print(f"{language}: no \"{expected}\" in\n{said.stdout}{said.stderr}")
        failed = True
sys.exit(failed)
