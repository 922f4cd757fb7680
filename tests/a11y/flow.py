#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""One walk through the app as an assistive technology sees it, by names and roles only.

Types a prompt, presses Generate, waits for a real picture from a small model on the CPU, saves it
through the file chooser and reads its request back, changes to Both, moves the divider of the slider.
Usage: flow.py TESSERA CLI MODEL [MODEL_OF_BOTH]
"""
import json
import os
import pathlib
import subprocess
import sys
import time
import zlib

try:
    import gi
    gi.require_version("Atspi", "2.0")
    from gi.repository import Atspi, GLib
except (ImportError, ValueError):
    print("1..0 # SKIP the accessibility bindings are not installed")
    sys.exit(77)

LIMIT = 120  # seconds before a wait counts as hung
PROMPT = "a red apple on a yellow background"


def children(node):
    for i in range(node.get_child_count()):
        child = node.get_child_at_index(i)
        if child is not None:
            yield child


def walk(node):
    yield node
    for child in children(node):
        yield from walk(child)


def wait(what, look):
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        try:
            found = look()
        except GLib.Error:  # nodes vanish while the tree is read
            found = None
        if found:
            return found
        time.sleep(0.05)
    raise TimeoutError(f"no {what} within {LIMIT} s")


def find(root, role, name=None):
    """The first visible node of a role whose name contains `name` (a mnemonic may precede it)."""
    for node in walk(root):
        if node.get_role_name() != role or (name is not None and name not in (node.get_name() or "")):
            continue
        if node.get_state_set().contains(Atspi.StateType.VISIBLE):
            return node
    return None


def press(root, role, name):
    def ready():
        node = find(root, role, name)
        return node if node and node.get_state_set().contains(Atspi.StateType.SENSITIVE) else None
    wait(f"{role} {name} that can be pressed", ready).do_action(0)


def read_png_json(path):
    """The text of the chunk `tessera`, whether tEXt or iTXt."""
    data = path.read_bytes()
    offset = 8
    while offset < len(data):
        length, kind = int.from_bytes(data[offset:offset + 4], "big"), data[offset + 4:offset + 8]
        body = data[offset + 8:offset + 8 + length]
        if kind == b"tEXt" and body.startswith(b"tessera\0"):
            return json.loads(body[8:].decode())
        if kind == b"iTXt" and body.startswith(b"tessera\0"):
            packed, text = body[8], body[10:].split(b"\0", 2)[2]
            return json.loads(zlib.decompress(text) if packed else text)
        offset += 12 + length
    raise ValueError(f"{path} does not say how it was made")


class Walk:
    def __init__(self, program, model):
        self.history = pathlib.Path(os.environ["XDG_DATA_HOME"]) / "tessera" / "history"
        self.program = program
        self.process = subprocess.Popen([program, "--model", model])
        desktop = Atspi.get_desktop(0)
        self.app = wait("window", lambda: next(
            (c for c in children(desktop) if c.get_process_id() == self.process.pid), None))

    def files(self):
        return sorted(self.history.glob("*.png")) if self.history.exists() else []

    def type_prompt(self):
        entry = wait("prompt", lambda: find(self.app, "text", "Prompt"))
        Atspi.EditableText.set_text_contents(entry, PROMPT)
        length = Atspi.Text.get_character_count(entry)
        assert Atspi.Text.get_text(entry, 0, length) == PROMPT

    def generate(self, pictures):
        before = len(self.files())
        press(self.app, "push button", "nerate")
        wait(f"{pictures} new files", lambda: len(self.files()) == before + pictures)
        return self.files()[before:]

    def save_as(self, path):
        """Through GTK's own file chooser: there is no portal on the test's bus."""
        press(self.app, "push button", "Save Image")
        name = wait("name of the file", lambda: find(self.app, "text", "Name"))
        if not Atspi.EditableText.set_text_contents(name, str(path)):
            raise RuntimeError("the name of the file cannot be typed")
        press(self.app, "push button", "_Save")
        wait("saved file", path.exists)

    def check_names(self):
        unnamed = [node.get_role_name() for node in walk(self.app)
                   if node.get_role_name() in ("push button", "toggle button", "slider", "text",
                                               "spin button", "check box", "combo box")
                   and node.get_state_set().contains(Atspi.StateType.VISIBLE)
                   and (not node.get_name() or node.get_name().startswith("Gtk"))
                   # A toast's own button has none before libadwaita 1.3.
                   and node.get_parent().get_name() != "AdwToastWidget"]
        assert not unnamed, f"controls without a name: {unnamed}"

    def send(self, *arguments):
        """Starts the program again: what it is given must reach the window that is there."""
        subprocess.run([self.program, *arguments], check=True, timeout=LIMIT)

    def end(self):
        press(self.app, "push button", "Close")
        assert self.process.wait(timeout=LIMIT) == 0, "the app did not end well"


def ok(number, what):
    print(f"ok {number} {what}", flush=True)


def check_request(path, precision):
    request = read_png_json(path)
    assert request["prompt"] == PROMPT, request
    assert request["precision"] == precision, request
    assert request["device"], request


def main():
    program, cli, model = sys.argv[1:4]
    both = sys.argv[4] if len(sys.argv) > 4 and os.path.isdir(sys.argv[4]) else None
    print("1..8")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("Tessera "), version.stdout
    ok(1, "says its version")

    Atspi.get_desktop(0).get_child_count()  # starts the bus before the app looks for it
    flow = Walk(program, both or model)
    flow.type_prompt()
    made = flow.generate(1)
    check_request(made[0], "bf16")
    picture = wait("picture", lambda: find(flow.app, "image", PROMPT))
    ok(2, "types a prompt and gets a picture: " + picture.get_name())

    target = flow.history.parent / "saved" / "an apple.png"
    target.parent.mkdir()
    flow.save_as(target)
    check_request(target, "bf16")
    shown = subprocess.run([cli, "inspect", str(target)], capture_output=True, text=True, check=False)
    assert PROMPT in shown.stdout, shown.stdout + shown.stderr
    ok(3, "saves it elsewhere, and the file's request is readable")

    flow.send(str(target))
    wait("report of what was taken over", lambda: find(flow.app, "label", target.name))
    settings = pathlib.Path(os.environ["XDG_CONFIG_HOME"]) / "glib-2.0/settings/keyfile"
    if both:
        flow.send("--model", model)
        wait("other model", lambda: f"model='{os.path.normpath(model)}'" in settings.read_text())
        flow.send("--model", both)
        wait("first model again", lambda: f"model='{os.path.normpath(both)}'" in settings.read_text())
    windows = [c for c in children(flow.app) if c.get_role_name() == "frame"]
    assert len(windows) == 1, windows
    ok(4, "takes a file and a model from a second start")

    if both:
        press(flow.app, "push button", "Bo_th")
        pair = flow.generate(2)
        check_request(pair[0], "bf16")
        check_request(pair[1], "svdquant")
        ok(5, "makes a pair")
        slider = wait("divider", lambda: find(flow.app, "slider", "Divider"))
        before = Atspi.Value.get_current_value(slider)
        Atspi.Value.set_current_value(slider, 0.25)
        wait("moved divider", lambda: abs(Atspi.Value.get_current_value(slider) - 0.25) < 1e-6)
        assert before != 0.25
        wait("figures", lambda: find(flow.app, "label", "PSNR"))
        ok(6, "moves the divider")
    else:
        ok(5, "makes a pair # SKIP no model of both precisions")
        ok(6, "moves the divider # SKIP no model of both precisions")

    flow.check_names()
    ok(7, "every control has a name")

    flow.end()
    inspected = subprocess.run([cli, "inspect", model], capture_output=True, text=True, check=False)
    assert inspected.returncode == 0, inspected.stderr
    ok(8, "ends, with its pictures on the disk")


if __name__ == "__main__":
    main()
