#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What lies beside the straight way, as an assistive technology sees it, by names and roles only.

Adds a LoRA file through the file chooser's portal, changes its strength, makes a picture with it
and removes it; opens the main menu, and from it the page Speed, where the
benchmark is started and cancelled. Usage: extras.py TESSERA MODEL
"""
import json
import os
import pathlib
import struct
import subprocess
import sys

from flow import LIMIT, Atspi, Walk, find, ok, press, read_png_json, wait

ALT = 64  # the key's code on X
F10 = 0xffc7
LAYER = "layers.0.attention.to_q"


def write_lora(model, path):
    """A LoRA of rank 1 for one layer of the model, whose size its own file tells."""
    weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
    with weights.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    rows, columns = header[f"{LAYER}.weight"]["shape"]
    parts = {"lora_A": [1, columns], "lora_B": [rows, 1]}
    offset, described, data = 0, {}, b""
    for name, shape in parts.items():
        count = shape[0] * shape[1]
        data += struct.pack(f"<{count}f", *(0.01 * (i % 5) for i in range(count)))
        described[f"transformer.{LAYER}.{name}.weight"] = {
            "dtype": "F32", "shape": shape, "data_offsets": [offset, len(data)]}
        offset = len(data)
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def type_mnemonic(letter):
    """Alt and a letter: rows of a list cannot be pressed by name before GTK 4.10."""
    Atspi.generate_keyboard_event(ALT, None, Atspi.KeySynthType.PRESS)
    Atspi.generate_keyboard_event(ord(letter), None, Atspi.KeySynthType.SYM)
    Atspi.generate_keyboard_event(ALT, None, Atspi.KeySynthType.RELEASE)


def has_text(root, role, text):
    return lambda: find(root, role, text)


def walk_loras(run, model):
    file = pathlib.Path(os.environ["XDG_RUNTIME_DIR"]) / "ink wash.safetensors"
    write_lora(model, file)
    portal = subprocess.Popen([sys.executable, pathlib.Path(__file__).parent / "portal.py", file],
                              stdout=subprocess.PIPE)
    assert portal.stdout.readline() == b"ready\n"
    wait("prompt", has_text(run.app, "text", "Prompt"))
    type_mnemonic("l")
    wait("open row", has_text(run.app, "list item", "Add File"))
    type_mnemonic("f")
    wait("what the model says of it", has_text(run.app, "label", "Applied to 1 layer"))
    portal.terminate()
    portal.wait(timeout=LIMIT)
    file.unlink()
    ok(1, "adds a LoRA file, which is copied")

    slider = wait("strength", lambda: find(run.app, "slider", "Strength of ink wash"))
    assert Atspi.Value.get_current_value(slider) == 1
    Atspi.Value.set_current_value(slider, -0.5)
    wait("other strength", lambda: Atspi.Value.get_current_value(slider) == -0.5)
    run.type_prompt()
    made = run.generate(1)[0]
    loras = read_png_json(made)["loras"]
    assert loras == [{"name": file.name, "strength": -0.5}], loras
    ok(2, "makes a picture with it, which says so")

    press(run.app, "push button", "Remove ink wash")
    wait("gone row", lambda: not find(run.app, "push button", "Remove ink wash"))
    ok(3, "removes it")


def cancelled_or_done(app):
    """Starts the benchmark where none ran yet, and presses Cancel where one runs. A page that is
    still coming up takes no press, and a quick computer is done between two looks."""
    if find(app, "label", "Not measured yet"):
        press(app, "push button", "Start")
    bar = find(app, "progress bar", "Progress of the benchmark")
    page = bar.get_parent() if bar else None
    while page and find(page, "push button", "Cancel") is None:
        page = page.get_parent()
    cancel = find(page, "push button", "Cancel") if page else None
    if cancel:
        cancel.do_action(0)
    return find(app, "label", "Cancelled") or find(app, "label", "An image of 8 steps")


def walk_menu(run):
    Atspi.generate_keyboard_event(F10, None, Atspi.KeySynthType.SYM)
    for name in ("Open Model Folder", "Models and Computer", "Give Memory Back",
                 "Keyboard Shortcuts", "About Tessera"):
        wait(f"menu item {name}", has_text(run.app, "menu item", name))
    ok(4, "opens the main menu, which names all that is in it")

    press(run.app, "menu item", "Models and Computer")
    press(run.app, "page tab", "Speed")
    wait("end of it", lambda: cancelled_or_done(run.app))
    ok(5, "starts the benchmark of the page Speed, and cancels it while it runs")


def main():
    program, model = sys.argv[1], pathlib.Path(sys.argv[2])
    os.environ["GDK_DEBUG"] += ",portals"
    os.environ.pop("XDG_CURRENT_DESKTOP", None)
    print("1..6")
    Atspi.get_desktop(0).get_child_count()  # starts the bus before the app looks for it
    run = Walk(program, str(model))
    walk_loras(run, model)
    walk_menu(run)
    run.check_names()
    ok(6, "every control has a name")
    run.process.terminate()
    run.process.wait(timeout=LIMIT)


if __name__ == "__main__":
    main()
