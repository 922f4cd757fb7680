# SPDX-License-Identifier: Apache-2.0
"""A server that misbehaves in every way a server may, and a client that must get the right bytes.

Each case is a function that answers requests under /NAME; `ask` runs fetch-tool against it. What
must never happen is a file under its final name with other bytes than the ones meant.
"""
import hashlib
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOOL = sys.argv[1]
CHUNK = 65536
rng = random.Random(7)
DATA = rng.randbytes(1_000_003)
OTHER = rng.randbytes(1_000_003)
cases, checks = {}, []
# Whoever runs this may need a proxy; what is on this machine needs none.
ENVIRONMENT = {name: value for name, value in os.environ.items()
               if not name.lower().endswith("_proxy") and name != "XDG_CURRENT_DESKTOP"}
stop = threading.Event()


class Log:
    """What one case has seen; `n` numbers the requests."""

    def __init__(self):
        self.lock = threading.Lock()
        self.n = 0
        self.sent = 0
        self.forwarded = 0
        self.seen = threading.Event()
        self.over = threading.Event()

    def count(self):
        with self.lock:
            self.n += 1
            self.seen.set()
            return self.n


log = Log()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        if self.path.startswith("http://"):  # asked as a proxy
            self.path = "/" + self.path.split("/", 3)[3]
            with log.lock:
                log.forwarded += 1
        try:
            cases[self.path.split("/")[1]](self, log.count())
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_CONNECT(self):
        log.count()
        self.reply(403)

    def wanted(self, data, etag):
        """(first, last) if the request's range is to be honoured."""
        text = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        if text is None or (condition is not None and condition != etag):
            return None
        first, last = text[len("bytes="):].split("-")
        return int(first), min(int(last or len(data) - 1), len(data) - 1)

    def reply(self, status, headers=(), length=0):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def pour(self, body, piece=4096, pause=0.0):
        for at in range(0, len(body), piece):
            self.wfile.write(body[at : at + piece])
            self.wfile.flush()
            with log.lock:
                log.sent += len(body[at : at + piece])
            if pause:
                time.sleep(pause)

    def serve(self, data=DATA, etag='"one"', total=None, cut=None, pause=0.0, headers=()):
        """As a good server would, but for what the arguments spoil."""
        tag = [("ETag", etag)] if etag else []
        wanted = self.wanted(data, etag)
        if wanted is None:
            self.reply(200, [*tag, *headers], len(data))
            body = data
        elif wanted[0] >= len(data):
            self.reply(416, [("Content-Range", f"bytes */{len(data)}")])
            return
        else:
            body = data[wanted[0] : wanted[1] + 1]
            span = f"bytes {wanted[0]}-{wanted[1]}/{total or len(data)}"
            self.reply(206, [*tag, ("Content-Range", span), *headers], len(body))
        self.pour(body[:cut], pause=pause)
        if cut is not None and cut < len(body):
            self.close_connection = True

    def is_probe(self):
        return self.headers.get("Range") == "bytes=0-0"


class Server(ThreadingHTTPServer):
    def handle_error(self, request, address):
        pass  # clients that are killed break connections off


server = Server(("127.0.0.1", 0), Handler)
server.daemon_threads = True
PORT = server.server_address[1]


def case(function):
    cases[function.__name__.replace("_", "-")] = function
    return function


def check(function):
    checks.append(function)
    return function


def sha(data):
    return hashlib.sha256(data).hexdigest()


class Attempt:
    def __init__(self, folder, *names, host="127.0.0.1", **options):
        self.path = os.path.join(folder, "file.bin")
        self.command = [TOOL, f"--path={self.path}"]
        self.command += [f"--{key}={value}" for key, value in options.items()]
        self.command += [f"http://{host}:{PORT}/{name}" for name in names]

    def run(self, **environment):
        done = subprocess.run(self.command, capture_output=True, text=True, timeout=120,
                              env={**ENVIRONMENT, **environment})
        lines = done.stdout.splitlines()
        if not lines:
            raise AssertionError(f"exit status {done.returncode}: {done.stderr}")
        self.hosts = {line[5:] for line in lines if line.startswith("host ")}
        self.result = lines[-1]
        return self

    def gives(self, data):
        assert self.result == "ok", self.result
        with open(self.path, "rb") as file:
            assert file.read() == data, "other bytes"
        assert os.listdir(os.path.dirname(self.path)) == ["file.bin"], "leftovers"

    def fails(self, text):
        assert self.result != "ok" and text in self.result, self.result
        assert not os.path.exists(self.path), "a file that is not right has the final name"


# -- servers ---------------------------------------------------------------------------------------


@case
def good(h, n):
    h.serve()


@case
def drops(h, n):
    h.serve(cut=None if h.is_probe() else rng.randrange(1, 50_000))


@case
def stalls(h, n):
    if n in (2, 4, 5):
        h.reply(206, [("ETag", '"one"'), ("Content-Range", f"bytes 0-65535/{len(DATA)}")], 65536)
        stop.wait(20)
        h.close_connection = True
        return
    h.serve()


@case
def no_ranges(h, n):
    del h.headers["Range"]
    h.serve()


@case
def no_ranges_broken(h, n):
    del h.headers["Range"]
    h.serve(cut=None if n > 4 else 300_000)


@case
def no_ranges_no_length(h, n):
    h.send_response(200)
    h.send_header("Connection", "close")
    h.end_headers()
    h.pour(DATA)
    h.close_connection = True


@case
def lies_about_total(h, n):
    h.serve(total=len(DATA) + (5 if h.is_probe() else 0))


@case
def lies_about_length(h, n):
    h.reply(200, [], len(DATA) + 1000)
    h.pour(DATA)
    h.close_connection = True


@case
def lies_about_range(h, n):
    first = 0 if h.is_probe() else 7
    span = f"bytes {first}-{len(DATA) - 1}/{len(DATA)}"
    h.reply(206, [("ETag", '"one"'), ("Content-Range", span)], len(DATA) - first)
    h.pour(DATA[first:])


@case
def huge(h, n):
    h.reply(206, [("Content-Range", f"bytes 0-0/{1 << 43}")], 1)
    h.pour(b"x")


@case
def busy(h, n):
    if n % 3:
        h.reply(429 if n % 2 else 503, [("Retry-After", "0")])
    else:
        h.serve()


@case
def always_503(h, n):
    h.reply(503)


@case
def missing(h, n):
    h.reply(404)


@case
def redirects(h, n):
    h.reply(302, [("Location", f"http://localhost:{PORT}/good")])


@case
def redirects_relative(h, n):
    h.reply(307, [("Location", "/good")])


@case
def redirects_for_ever(h, n):
    h.reply(302, [("Location", "/redirects-for-ever")])


@case
def redirects_off_https(h, n):
    h.reply(302, [("Location", "http://example.invalid/good")])


@case
def redirects_to_file(h, n):
    h.reply(302, [("Location", "file:///etc/passwd")])


@case
def signs(h, n):
    h.reply(302, [("Location", f"/signed/{n}")])


@case
def signed(h, n):
    if n > 8 and rng.random() < 0.3:
        h.reply(403)
    else:
        h.serve()


@case
def changes_once(h, n):
    h.serve(*((DATA, '"one"') if n < 6 else (OTHER, '"two"')))


@case
def changes_unmarked(h, n):
    h.serve(DATA if n < 6 else OTHER, None)


@case
def changes_always(h, n):
    h.serve(DATA, f'"{n}"')


@case
def other(h, n):
    h.serve(OTHER, '"two"')


@case
def slow(h, n):
    h.serve(pause=0.0 if h.is_probe() else 0.005)


@case
def empty(h, n):
    h.serve(b"")


@case
def linked(h, n):
    h.serve(headers=[("X-Linked-ETag", f'"{sha(DATA)}"'), ("X-Linked-Size", str(len(DATA)))])


@case
def linked_wrong(h, n):
    h.serve(OTHER, headers=[("X-Linked-ETag", f'"{sha(DATA)}"')])


# -- what must come of them ------------------------------------------------------------------------


def gives(*names, data=DATA, **options):
    def function(folder):
        Attempt(folder, *names, **options).run().gives(data)

    function.__name__ = names[0]
    checks.append(function)


def fails(text, *names, **options):
    def function(folder):
        Attempt(folder, *names, **options).run().fails(text)

    function.__name__ = names[0] + "-fails"
    checks.append(function)


HASH = {"sha256": sha(DATA)}
gives("good")
gives("good", size=len(DATA), md5=hashlib.md5(DATA).hexdigest())
gives("good", connections=1, chunk=4096, patience=2)
gives("drops", **HASH)
gives("stalls", **HASH)
gives("no-ranges")
gives("no-ranges-broken", **HASH)
gives("no-ranges-no-length", **HASH)
gives("no-ranges-no-length", size=len(DATA))
fails("which nothing confirms", "no-ranges-no-length")
fails("the file changed meanwhile", "lies-about-total")
fails("were published", "good", size=len(DATA) + 1)
fails("terminated", "lies-about-length", patience=2)
fails("another range", "lies-about-range", patience=2)
fails("and the disk has", "huge", chunk=1 << 24)
gives("busy", patience=50)
fails("503", "always-503", patience=3)
fails("404", "missing")
gives("always-503", "missing", "good", patience=2, **HASH)
gives("redirects-relative")
fails("redirected too often", "redirects-for-ever")
fails("no HTTPS address", "redirects-off-https")
fails("no HTTPS address", "redirects-to-file")
fails("no HTTPS address", "good", host="127.0.0.1.example.invalid")
gives("signs", **HASH)
gives("changes-once", data=OTHER)
fails("the file changed meanwhile", "changes-always")
gives("changes-unmarked", data=OTHER, sha256=sha(OTHER))
fails("was published", "changes-unmarked", sha256=sha(DATA[:-1]))
fails("was published", "other", **HASH)
gives("other", "good", **HASH)
gives("slow")
gives("empty", data=b"", sha256=sha(b""))
gives("linked")
fails("was published", "linked-wrong")


@check
def every_host_is_noted(folder):
    attempt = Attempt(folder, "redirects").run()
    attempt.gives(DATA)
    assert attempt.hosts == {"127.0.0.1", "localhost"}, attempt.hosts


def through_proxy(folder, **environment):
    """Nobody listens on the port of the address: only the proxy can have the file."""
    attempt = Attempt(folder, "good", **HASH)
    attempt.command[-1] = "http://localhost:1/good"
    attempt.run(**environment).gives(DATA)
    assert attempt.hosts == {"localhost via 127.0.0.1"}, attempt.hosts
    assert log.forwarded == log.n > 1, (log.forwarded, log.n)


@check
def proxy_of_the_environment(folder):
    through_proxy(folder, http_proxy=f"http://127.0.0.1:{PORT}")


@check
def proxy_of_the_settings(folder):
    with tempfile.TemporaryDirectory() as config:
        place = os.path.join(config, "glib-2.0", "settings")
        os.makedirs(place)
        with open(os.path.join(place, "keyfile"), "w", encoding="utf-8") as file:
            file.write("[system/proxy]\nmode='manual'\nignore-hosts=@as []\n"
                       f"[system/proxy/http]\nhost='127.0.0.1'\nport={PORT}\n")
        through_proxy(folder, XDG_CURRENT_DESKTOP="GNOME", GSETTINGS_BACKEND="keyfile",
                      XDG_CONFIG_HOME=config)


@check
def proxy_that_refuses(folder):
    attempt = Attempt(folder, "good")
    attempt.command[-1] = "https://models.example.invalid/good"
    attempt.run(https_proxy=f"http://127.0.0.1:{PORT}")
    attempt.fails("models.example.invalid through the proxy 127.0.0.1 answered 403")
    assert attempt.hosts == {"models.example.invalid via 127.0.0.1"}, attempt.hosts


@check
def nobody_listens(folder):
    attempt = Attempt(folder, "good", patience=2)
    attempt.command[-1] = "http://127.0.0.1:1/good"
    attempt.run().fails("127.0.0.1")


@case
def half(h, n):
    """Nothing more once four tenths are out."""
    if not h.is_probe() and log.sent > len(DATA) * 2 // 5:
        log.over.wait(60)
        h.close_connection = True
    else:
        h.serve()


def load_a_part(folder):
    log.sent = 0
    attempt = Attempt(folder, "half", pause=300_000, stall=60).run()
    log.over.set()
    attempt.fails("cancelled")
    with log.lock:
        sent, log.sent = log.sent, 0
    assert 0 < sent < len(DATA), sent
    log.over.clear()
    return sent


@check
def pause_and_resume(folder):
    sent = load_a_part(folder)
    Attempt(folder, "good").run().gives(DATA)
    assert log.sent <= len(DATA) - sent + 5 * CHUNK, (log.sent, sent)


@check
def changed_between_resumes(folder):
    load_a_part(folder)
    Attempt(folder, "other").run().gives(OTHER)


@check
def shrunk_between_resumes(folder):
    load_a_part(folder)
    cases["shrunk"] = lambda h, n: h.serve(DATA[:1000])
    Attempt(folder, "shrunk").run().gives(DATA[:1000])


@check
def damaged_journals(folder):
    path = os.path.join(folder, "file.bin.part.journal")
    for damage in range(6):
        load_a_part(folder)
        with open(path, "r+b") as file:
            journal = file.read()
            if damage == 0:
                file.truncate(100)
            elif damage == 1:
                file.seek(0)
                file.write(rng.randbytes(len(journal)))
            elif damage == 2:  # more bytes than a chunk has
                file.seek(-8, 2)
                file.write(struct.pack("=II", 0xFFFFFFFF, 1))
            elif damage == 3:
                file.seek(0, 2)
                file.write(b"more")
            elif damage == 4:  # another run of the machine, and nothing flushed
                file.seek(32)
                file.write(bytes(48))
            else:
                os.unlink(path)
                os.symlink("/etc/hostname", path)
        attempt = Attempt(folder, "good").run()
        if damage == 5:
            attempt.fails("cannot be written")
            os.unlink(path)
        else:
            attempt.gives(DATA)
            os.unlink(attempt.path)


@check
def killed_twenty_times(folder):
    """Bytes that were sent twice are what the kills cost."""
    data = rng.randbytes(6_000_000)
    cases["steady"] = lambda h, n: h.serve(data, pause=0.0 if h.is_probe() else 0.005)
    kills = 0
    while kills < 20:
        log.seen.clear()
        attempt = Attempt(folder, "steady", sha256=sha(data))
        process = subprocess.Popen(attempt.command, stdout=subprocess.DEVNULL)
        assert log.seen.wait(60)
        time.sleep(rng.uniform(0.0, 0.1))
        assert process.poll() is None, "done too early to be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert not os.path.exists(attempt.path)
    Attempt(folder, "steady", sha256=sha(data)).run().gives(data)
    wasted = log.sent - len(data)
    print(f"# {kills} kills cost {wasted} bytes, {wasted / kills / CHUNK:.2f} chunks each")
    assert wasted <= kills * CHUNK, wasted


def main():
    global log
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"1..{len(checks)}")
    failed = 0
    for number, function in enumerate(checks, 1):
        log = Log()
        complaint = ""
        with tempfile.TemporaryDirectory() as folder:
            try:
                function(folder)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                complaint = str(error) or repr(error)
                failed += 1
        print(f"{'not ok' if complaint else 'ok'} {number} {function.__name__}", flush=True)
        if complaint:
            print(f"# {complaint}", flush=True)
    stop.set()
    sys.exit(failed > 0)


main()
