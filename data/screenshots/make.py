#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of the software centre's page: the app itself, with its built-in model.

Nothing in them is made up: what is drawn, how long it took and how far the precisions are apart is
what this computer did. Needs ImageMagick and a build of the app with the 4-bit files of the model.
Usage: tests/app/run-x.sh /usr/bin/python3 data/screenshots/make.py BUILD_FOLDER
"""
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests" / "a11y"))
from flow import LIMIT, Atspi, wait, walk  # noqa: E402

BUILD = pathlib.Path(sys.argv[1]).resolve()
PROMPTS = ["3 red apples on white",
           "a cat to the left of a house in a meadow"]
VIEWS = {"Slider": "slider", "Side by Side": "side-by-side", "Difference": "difference"}
SETTINGS = """
[io/github/tesseraimage/Tessera]
width=256
height=256
new-seed=false
precision='both'
"""


def find(root, roles, name):
    states = (Atspi.StateType.VISIBLE, Atspi.StateType.SENSITIVE)
    for node in walk(root):
        if node.get_role_name() in roles and name in (node.get_name() or ""):
            if all(node.get_state_set().contains(state) for state in states):
                return node
    return None


def press(app, name):
    roles = ("push button", "toggle button", "radio button")
    wait(name, lambda: find(app, roles, name)).do_action(0)


def draw(app, history):
    for prompt in PROMPTS:
        entry = wait("prompt", lambda: find(app, ("text",), "Prompt"))
        Atspi.EditableText.set_text_contents(entry, prompt)
        before = len(list(history.glob("*.png")))
        press(app, "nerate")
        wait("pair", lambda: len(list(history.glob("*.png"))) == before + 2)


def shoot(app, name):
    """The window, on the black of a screen without a window manager."""
    wait("figures", lambda: find(app, ("label",), "PSNR"))
    time.sleep(2)
    path = HERE / f"{name}.png"
    subprocess.run(["import", "-window", "root", "-trim", "+repage", "-strip", str(path)], check=True)
    print(path)


def main():
    settings = pathlib.Path(os.environ["XDG_CONFIG_HOME"]) / "glib-2.0/settings/keyfile"
    settings.write_text(SETTINGS)
    os.environ["GSETTINGS_BACKEND"] = "keyfile"
    os.environ["GSETTINGS_SCHEMA_DIR"] = str(BUILD / "data")
    history = pathlib.Path(os.environ["XDG_DATA_HOME"]) / "tessera" / "history"
    Atspi.get_desktop(0).get_child_count()  # starts the bus before the app looks for it
    process = subprocess.Popen([BUILD / "app" / "tessera", "--model", BUILD / "data/models/sketch"])
    desktop = Atspi.get_desktop(0)
    app = wait("window", lambda: next(
        (node for node in walk(desktop) if node.get_role_name() == "application"
         and node.get_process_id() == process.pid), None))
    draw(app, history)
    for view, name in VIEWS.items():
        press(app, view)
        shoot(app, name)
    press(app, "Close")
    process.wait(timeout=LIMIT)


main()
