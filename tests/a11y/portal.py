#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Plays the part of the file chooser's portal: every question is answered with one path.

A bare X server has no portal, and a chooser's own window is nobody's test. Says "ready" once it
answers. Usage: portal.py PATH
"""
import pathlib
import sys

from gi.repository import Gio, GLib

PLACE = "/org/freedesktop/portal/desktop"
ARGUMENTS = "".join(f"<arg type='{kind}' direction='{way}'/>" for kind, way in
                    (("s", "in"), ("s", "in"), ("a{sv}", "in"), ("o", "out")))
INTERFACE = f"""
<node>
  <interface name='org.freedesktop.portal.FileChooser'>
    <method name='OpenFile'>{ARGUMENTS}</method>
    <method name='SaveFile'>{ARGUMENTS}</method>
    <property name='version' type='u' access='read'/>
  </interface>
</node>
"""


def main():
    uri = pathlib.Path(sys.argv[1]).as_uri()
    bus = Gio.bus_get_sync(Gio.BusType.SESSION)

    def on_call(bus, sender, path, interface, method, arguments, invocation):
        who = sender[1:].replace(".", "_")
        handle = f"{PLACE}/request/{who}/{arguments.unpack()[2]['handle_token']}"
        invocation.return_value(GLib.Variant("(o)", (handle,)))
        answer = (0, {"uris": GLib.Variant("as", [uri])})
        bus.emit_signal(sender, handle, "org.freedesktop.portal.Request", "Response",
                        GLib.Variant("(ua{sv})", answer))

    interface = Gio.DBusNodeInfo.new_for_xml(INTERFACE).interfaces[0]
    bus.register_object(PLACE, interface, on_call, lambda *_: GLib.Variant("u", 3), None)
    Gio.bus_own_name_on_connection(bus, "org.freedesktop.portal.Desktop",
                                   Gio.BusNameOwnerFlags.NONE,
                                   lambda *_: print("ready", flush=True), None)
    GLib.MainLoop().run()


main()
