#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The manual page and bash's completion against what the program says of itself.

Usage: test-cli-manual.py TESSERA_CLI MANUAL COMPLETION
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys

from cli_test import CLI, check, finish, run

MANUAL, COMPLETION = map(pathlib.Path, sys.argv[2:4])
OPTION = re.compile(r"--([a-z][a-z-]*)")


def words(text):
    """What a help lists under Commands or Kinds."""
    return re.findall(r"^  ([a-z]+)  ", text, re.MULTILINE)


def commands():
    for name in words(run("--help").stdout):
        if name == "bench":
            yield from (("bench", kind) for kind in words(run("bench", "--help").stdout))
        else:
            yield (name,)


def options(command):
    lines = run(*command, "--help").stdout.splitlines()
    found = {OPTION.search(line).group(1) for line in lines
             if re.match(r"  (-\w, )?--", line)}
    return found - {"help"}


def manual():
    """{command: its options}, as the page has them: each after a line .TP."""
    page = MANUAL.read_text().replace("\\-", "-")
    body = page[page.index(".SH COMMANDS"):page.index(".SH EXIT STATUS")]
    sections = re.split(r"^\.SS (.*)$", body, flags=re.MULTILINE)[1:]
    return {name: [OPTION.search(item).group(1) for item in re.findall(r"^\.TP\n(.*)", text, re.M)]
            for name, text in zip(sections[::2], sections[1::2])}


def complete(*typed):
    """What is offered for the last of the words, which may be empty."""
    script = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
              '_tessera_cli "$1"; printf "%s\\n" "${COMPREPLY[@]}"')
    result = subprocess.run(["bash", "-c", script, "bash", COMPLETION, CLI, *typed],
                            capture_output=True, text=True)
    return set(result.stdout.split())


page = manual()
names = [" ".join(command) for command in commands()]
check("every command is in the manual", sorted(page) == sorted(names), page.keys(), names)
for command in commands():
    name, told = " ".join(command), options(command)
    listed = page.get(name, [])
    check(f"options of {name}", sorted(listed) == sorted(told), set(listed) ^ told, listed)
    check(f"are completed for {name}",
          {f"--{option}" for option in told} <= complete(*command, "--"), complete(*command, "--"))
check("commands are completed", {"generate", "bench"} <= complete(""), complete(""))
check("by what was typed", complete("gen") == {"generate"}, complete("gen"))
check("kinds of bench, too", complete("bench", "") == {"speed", "quality"}, complete("bench", ""))
if shutil.which("groff"):
    result = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-z", MANUAL], text=True,
                            capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    check("the page is well-formed", result.returncode == 0 and not result.stderr, result.stderr)
finish()
