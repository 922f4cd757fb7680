#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# run-x.sh COMMAND…: runs it on a private X server and a private session bus, in a home of its own
#
# Private even where there is a display: what a test sees must not depend on whose desktop it is.
# Exit status of the command; 77 (skipped) where there is no X server to start.
for tool in Xvfb dbus-run-session; do
  if ! command -v "$tool" >/dev/null; then
    echo "1..0 # SKIP $tool is not installed"
    exit 77
  fi
done
home=$(mktemp -d)
Xvfb -displayfd 3 -screen 0 1280x800x24 -dpi 96 -nolisten tcp 3>"$home/display" 2>/dev/null &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null; rm -rf "$home"' EXIT
until [ -s "$home/display" ]; do
  kill -0 $server 2>/dev/null || { echo "Bail out! Xvfb did not start"; exit 1; }
  sleep 0.05
done
DISPLAY=:$(cat "$home/display")
export DISPLAY
unset WAYLAND_DISPLAY
mkdir -p "$home/config/gtk-4.0" "$home/run"
chmod 700 "$home/run"
cat >"$home/config/gtk-4.0/settings.ini" <<'END'
[Settings]
gtk-font-name=Cantarell 11
gtk-cursor-blink=false
gtk-enable-animations=false
END
# Small pictures, for the tests that run the whole app.
mkdir -p "$home/config/glib-2.0/settings"
cat >"$home/config/glib-2.0/settings/keyfile" <<'END'
[io/github/tesseraimage/Tessera]
width=128
height=128
steps=2
END
export XDG_CONFIG_HOME=$home/config XDG_DATA_HOME=$home/data XDG_CACHE_HOME=$home/cache
export XDG_RUNTIME_DIR=$home/run HOME=$home
# Without GL: cairo draws, and a GL driver that is loaded for nothing leaks when it is unloaded.
export GDK_BACKEND=x11 GSK_RENDERER=cairo GDK_DEBUG=gl-disable
# The bus and what it starts would talk into the test's output.
exec 4>&1 5>&2
dbus-run-session -- bash -c 'exec "$@" >&4 2>&5 4>&- 5>&-' run "$@" >/dev/null 2>&1
