#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The first run as an assistive technology sees it: from nothing to a picture, twice.

First with the built-in model; then with a small one that is downloaded from a server in this
program, after its licence was shown, though the app is killed meanwhile; and that one is moved to
another folder. Usage: first-run.py TESSERA MODEL
"""
import functools
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from flow import Atspi, LIMIT, PROMPT, Walk, children, find, ok, press, read_png_json, wait, walk

ID = "io.github.tesseraimage.Tessera"


HELD = "transformer/diffusion_pytorch_model.safetensors"
asked, released = threading.Event(), threading.Event()


class Server(SimpleHTTPRequestHandler):
    """Gives nothing of one file until it is released; is its own proxy, too."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        if self.path.startswith("http://"):
            self.path = "/" + self.path.split("/", 3)[3]
        if self.path.endswith(HELD):
            asked.set()
            released.wait(LIMIT)
        try:
            super().do_GET()
        except (BrokenPipeError, ConnectionResetError):  # whoever asked was killed
            self.close_connection = True


def serve(folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def write_catalogue(model, port, path):
    files = []
    for file in sorted(model.rglob("*")):
        if file.is_file():
            data = file.read_bytes()
            files.append({"path": str(file.relative_to(model)), "repository": "owner/name",
                          "size": len(data), "md5": hashlib.md5(data).hexdigest()}
                         if data else None)
    entry = {"id": "tiny", "name": "Tiny", "precision": "bf16", "licence": "Apache-2.0",
             "page": "https://example.org/tiny", "files": [file for file in files if file]}
    mirror = {"name": "here", "url": f"http://127.0.0.1:{port}/{{path}}"}
    path.write_text(json.dumps({"version": 1, "mirrors": [mirror], "models": [entry]}))


class FirstRun(Walk):
    def __init__(self, program):
        self.history = pathlib.Path(os.environ["XDG_DATA_HOME"]) / "tessera" / "history"
        self.process = subprocess.Popen([program])
        desktop = Atspi.get_desktop(0)
        self.app = wait("window", lambda: next(
            (c for c in children(desktop) if c.get_process_id() == self.process.pid), None))


def has_text(root, text):
    return any(text in (node.get_name() or "") for node in walk(root))


def main():
    program, model = sys.argv[1], pathlib.Path(sys.argv[2])
    catalogue = pathlib.Path(os.environ["XDG_RUNTIME_DIR"]) / "catalogue.json"
    port = serve(model)
    write_catalogue(model, port, catalogue)
    for name in list(os.environ):  # the proxy shall be this program's own
        if name.lower().endswith("_proxy") or name == "XDG_CURRENT_DESKTOP":
            del os.environ[name]
    os.environ["TESSERA_CATALOGUE"] = str(catalogue)
    os.environ["GDK_DEBUG"] += ",portals"
    print("1..7")
    Atspi.get_desktop(0).get_child_count()  # starts the bus before the app looks for it
    run = FirstRun(program)
    run.type_prompt()
    first = run.generate(1)[0]
    assert read_png_json(first)["prompt"] == PROMPT
    ok(1, "draws with the built-in model, without a question asked")

    subprocess.run(["gapplication", "action", ID, "show-models"], check=True)
    wait("models", lambda: find(run.app, "label", "Tiny"))
    press(run.app, "push button", "Download")
    wait("licence", lambda: has_text(run.app, "licence Apache-2.0"))
    wait("answer", lambda: next(
        (node for node in walk(run.app) if node.get_role_name() == "push button"
         and (node.get_name() or "").endswith("Download")), None)).do_action(0)
    folder = pathlib.Path(os.environ["XDG_DATA_HOME"]) / "tessera" / "models" / "tiny"
    assert asked.wait(LIMIT), "the download did not come to the file that is held"
    run.process.kill()
    run.process.wait(timeout=LIMIT)
    assert not (folder / "model_index.json").exists(), "whole too early"
    ok(2, "downloads a model after its licence was shown, and is killed")

    os.environ["http_proxy"] = f"http://localhost:{port}"
    run = FirstRun(program)
    released.set()
    wait("model", (folder / "model_index.json").exists)
    subprocess.run(["gapplication", "action", ID, "show-models"], check=True)
    wait("end of the download", lambda: find(run.app, "label", "On this computer"))
    assert not list(folder.rglob("*.part*")) and not list(folder.glob(".*")), "leftovers"
    ok(3, "goes on by itself at the next start")

    wait("host", lambda: has_text(run.app, "127.0.0.1"))
    wait("proxy", lambda: has_text(run.app, "Through the proxy localhost"))
    ok(4, "names the host it contacted, and the proxy on the way")

    other = pathlib.Path(os.environ["XDG_RUNTIME_DIR"]) / "other disk"
    other.mkdir()
    portal = subprocess.Popen([sys.executable, pathlib.Path(__file__).parent / "portal.py", other],
                              stdout=subprocess.PIPE)
    assert portal.stdout.readline() == b"ready\n"
    press(run.app, "push button", "Move to Another Folder")
    wait("place", lambda: has_text(run.app, f"On this computer, in {other / 'tiny'}"))
    portal.terminate()
    portal.wait(timeout=LIMIT)
    assert (other / "tiny" / "model_index.json").exists() and folder.is_symlink()
    ok(5, "moves it to another folder")

    next(node for node in walk(run.app) if node.get_role_name() == "push button"
         and "Use" in (node.get_name() or "") and node.get_description() == "Tiny").do_action(0)
    wait("use", lambda: find(run.app, "push button", "In Use"))
    second = run.generate(1)[0]
    assert read_png_json(second)["model"] != read_png_json(first)["model"], "the same model"
    ok(6, "draws with the model that was downloaded")

    run.process.terminate()
    run.process.wait(timeout=60)
    again = FirstRun(program)
    again.type_prompt()
    again.generate(1)
    again.end()
    ok(7, "uses it again at the next start")


if __name__ == "__main__":
    main()
