# SPDX-License-Identifier: Apache-2.0
"""What the tests of tessera-cli share: running it, judging it, and models to damage.

The program is the first argument of the script; TESSERA_TEST_DATA is in the environment.
"""
import os
import pathlib
import subprocess
import sys

CLI = sys.argv[1]
DATA = pathlib.Path(os.environ["TESSERA_TEST_DATA"])
TINY = DATA / "tiny-zimage"
DAMAGED = DATA / "damaged"
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
_count = 0


def check(title, good, *details):
    global _count
    _count += 1
    print(f"{'ok' if good else 'not ok'} {_count} {title}")
    for detail in details if not good else ():
        print(f"# {detail!r}")


def run(*arguments, **options):
    return subprocess.run([CLI, *map(str, arguments)], capture_output=True, text=True, **options)


def expect(title, status, *arguments, error="", output="", **options):
    """Checks status, that an error is one line that says `error`, and what is printed."""
    result = run(*arguments, **options)
    lines = result.stderr.splitlines()
    good = result.returncode == status and output in result.stdout
    if status == 0:
        good = good and not lines
    else:
        good = good and len(lines) == 1 and lines[0].startswith("tessera-cli: error: ")
        good = good and error in lines[0]
    check(title, good, result.returncode, result.stdout, result.stderr)
    return result


def copy_model(folder, **replaced):
    """Links to the tiny model; `replaced` maps a file to another, or to None to leave it out."""
    for source in TINY.rglob("*"):
        name = str(source.relative_to(TINY))
        target = folder / name
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif replaced.get(name, source) is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(replaced.get(name, source))
    return folder


def finish():
    print(f"1..{_count}")
