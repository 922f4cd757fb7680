#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the installed app in its sandbox and looks at it from outside.

The built-in model draws a picture; it is saved through a portal, of which this program plays the
part, since a bare X server has none; what lies outside the sandbox must be out of reach, and the
translations within it.
Usage: look.py APP_ID
"""
import os
import pathlib
import subprocess
import sys
import time

import gi

gi.require_version("Atspi", "2.0")
from gi.repository import Atspi, Gio, GLib  # noqa: E402

LIMIT = 180  # seconds before a wait counts as hung
PROMPT = "a red apple"
ID = sys.argv[1]
HOME = pathlib.Path(os.environ["HOME"])
DATA = HOME / ".var" / "app" / ID / "data"
SAVED = DATA / "saved.png"

PORTAL = """
<node>
  <interface name='org.freedesktop.portal.FileChooser'>
    <method name='SaveFile'>
      <arg type='s' direction='in'/><arg type='s' direction='in'/>
      <arg type='a{sv}' direction='in'/><arg type='o' direction='out'/>
    </method>
    <property name='version' type='u' access='read'/>
  </interface>
</node>
"""


class Portal:
    """Answers SaveFile with one path, as if the user had chosen it."""

    def __init__(self):
        self.asked = 0
        self.bus = Gio.bus_get_sync(Gio.BusType.SESSION)
        interface = Gio.DBusNodeInfo.new_for_xml(PORTAL).interfaces[0]
        self.bus.register_object("/org/freedesktop/portal/desktop", interface, self.on_call,
                                 lambda *_: GLib.Variant("u", 3), None)
        Gio.bus_own_name_on_connection(self.bus, "org.freedesktop.portal.Desktop",
                                       Gio.BusNameOwnerFlags.NONE, None, None)

    def on_call(self, bus, sender, path, interface, method, arguments, invocation):
        options = arguments.unpack()[2]
        who = sender[1:].replace(".", "_")
        handle = f"/org/freedesktop/portal/desktop/request/{who}/{options['handle_token']}"
        invocation.return_value(GLib.Variant("(o)", (handle,)))
        result = {"uris": GLib.Variant("as", [SAVED.as_uri()])}
        bus.emit_signal(sender, handle, "org.freedesktop.portal.Request", "Response",
                        GLib.Variant("(ua{sv})", (0, result)))
        self.asked += 1


def turn():
    while GLib.MainContext.default().iteration(False):
        pass


def wait(what, look):
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        turn()
        try:
            found = look()
        except GLib.Error:  # nodes vanish while the tree is read
            found = None
        if found:
            return found
        time.sleep(0.05)
    raise TimeoutError(f"no {what} within {LIMIT} s")


def walk(node):
    yield node
    for i in range(node.get_child_count()):
        child = node.get_child_at_index(i)
        if child is not None:
            yield from walk(child)


def find(root, role, name):
    states = (Atspi.StateType.VISIBLE, Atspi.StateType.SENSITIVE)
    for node in walk(root):
        if node.get_role_name() == role and name in (node.get_name() or ""):
            if all(node.get_state_set().contains(state) for state in states):
                return node
    return None


def find_app():
    desktop = Atspi.get_desktop(0)
    for i in range(desktop.get_child_count()):
        app = desktop.get_child_at_index(i)
        if app is not None and app.get_child_count() > 0:
            return app
    return None


def in_sandbox(*command):
    return subprocess.run(["flatpak", "run", "--user", f"--command={command[0]}", ID, *command[1:]],
                          capture_output=True, text=True, timeout=LIMIT)


def check_walls():
    secret = HOME / "secret.txt"
    secret.write_text("not for the app\n")
    got = in_sandbox("cat", str(secret))
    assert got.returncode != 0 and "not for the app" not in got.stdout, got
    got = in_sandbox("sh", "-c", f"echo spoiled > {secret}")
    assert secret.read_text() == "not for the app\n", "the sandbox wrote outside"
    got = in_sandbox("sh", "-c", "ls /root /home /var/lib /etc/shadow 2>/dev/null | grep -c secret")
    assert got.stdout.strip() == "0", got
    print("what lies outside is out of reach")


def check_doctor():
    got = in_sandbox("tessera-cli", "doctor", "--json")
    assert '"simd"' in got.stdout or '"no-simd"' in got.stdout, got
    print("the doctor runs inside")


def check_language():
    got = in_sandbox("env", "LC_ALL=C.UTF-8", "LANGUAGE=de", "tessera", "--help")
    assert "Version anzeigen" in got.stdout, got
    print("it speaks German to who asks for it")


def draw(portal):
    Atspi.get_desktop(0).get_child_count()  # starts the bus before the app looks for it
    started = time.monotonic()
    process = subprocess.Popen(["flatpak", "run", "--user", ID])
    app = wait("window", find_app)
    print(f"the window is there after {time.monotonic() - started:.1f} s")
    prompt = wait("prompt", lambda: find(app, "text", "Prompt"))
    Atspi.EditableText.set_text_contents(prompt, PROMPT)
    wait("button", lambda: find(app, "push button", "nerate")).do_action(0)
    history = DATA / "tessera" / "history"
    wait("picture", lambda: list(history.glob("*.png")))
    print(f"a picture is there after {time.monotonic() - started:.1f} s")
    wait("save button", lambda: find(app, "push button", "Save")).do_action(0)
    wait("saved file", lambda: SAVED.exists() and SAVED.stat().st_size > 0)
    assert portal.asked == 1, portal.asked
    assert SAVED.read_bytes().startswith(b"\x89PNG"), "not a PNG"
    print("it is saved where the portal said")
    wait("close button", lambda: find(app, "push button", "Close")).do_action(0)
    wait("end", lambda: process.poll() is not None)
    assert process.returncode == 0, process.returncode


def main():
    check_walls()
    check_doctor()
    check_language()
    try:
        draw(Portal())
    except BaseException:
        subprocess.run(["flatpak", "kill", ID], check=False)
        raise


main()
