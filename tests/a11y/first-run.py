#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The first run as an assistive technology sees it: from nothing to a picture, twice.

First with the built-in model; then with a small one that is downloaded from a server in this
program, after its licence was shown. Usage: first-run.py TESSERA MODEL
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

from flow import Atspi, PROMPT, Walk, children, find, ok, press, read_png_json, wait, walk

ID = "io.github.tesseraimage.Tessera"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def serve(folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
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
    write_catalogue(model, serve(model), catalogue)
    os.environ["TESSERA_CATALOGUE"] = str(catalogue)
    print("1..5")
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
    wait("model", (folder / "model_index.json").exists)
    wait("end of the download", lambda: find(run.app, "label", "On this computer"))
    assert not list(folder.rglob("*.part*")), "leftovers"
    ok(2, "downloads a model after its licence was shown")

    wait("host", lambda: has_text(run.app, "127.0.0.1"))
    ok(3, "names the host it contacted")

    uses = [node for node in walk(run.app) if node.get_role_name() == "push button"
            and "Use" in (node.get_name() or "")]
    uses[-1].do_action(0)
    second = run.generate(1)[0]
    assert read_png_json(second)["model"] != read_png_json(first)["model"], "the same model"
    ok(4, "draws with the model that was downloaded")

    run.process.terminate()
    run.process.wait(timeout=60)
    again = FirstRun(program)
    again.type_prompt()
    again.generate(1)
    again.end()
    ok(5, "uses it again at the next start")


if __name__ == "__main__":
    main()
