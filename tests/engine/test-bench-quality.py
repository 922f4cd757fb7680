#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tessera-cli bench quality: the reports, and that a run that was killed ends in the same ones.

Usage: test-bench-quality.py TESSERA_CLI [MODEL PROMPTS]   (with TESSERA_TEST_DATA set)

The tiny model goes through everything. MODEL and four PROMPTS go through one run. Both are
quantised here, from the weights alone.
"""
import base64
import html.parser
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

from cli_test import CLI, TINY, check, finish, run

PROMPTS = ["[apple] a red apple on a <table> & \"more\"", "# a comment", "", "two | pipes",
           "[sea] the sea at night", "[four] 四只猫"]
NAMES = ["apple", "prompt 2", "sea", "four"]
# What a second run of the same work may change.
MEASURED = {"seconds", "load_seconds", "step_seconds", "speedup", "system_peak",
            "system_reduction"}


def quantise(model, folder):
    """The model in both 4-bit formats, as arguments of the benchmark."""
    options = ["--model", str(model)]
    for precision in ("int4", "nvfp4"):
        file = folder / f"{model.name}-{precision}.safetensors"
        result = run("quantize", "--model", model, "--level", 0, "--rank", 16, "--precision",
                     precision, "-o", file)
        check(f"{model.name} in {precision}", result.returncode == 0, result.stderr)
        options += ["--transformer", str(file)]
    return options


def arguments(options, prompts, output, *more):
    return [str(v) for v in ("bench", "quality", *options, "--prompts", prompts, "--device",
                             "cpu", "-o", output, *more)]


def without_times(value):
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in MEASURED}
    if isinstance(value, list):
        return [without_times(v) for v in value]
    return value


def report(folder):
    return without_times(json.loads((folder / "report.json").read_text()))


class Page(html.parser.HTMLParser):
    """Counts what matters, and sees that every element that is opened is closed."""

    VOID = {"meta", "img", "input"}

    def __init__(self, text):
        super().__init__()
        self.open, self.counts, self.addresses, self.unbalanced = [], {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        kind = f"{tag} {attrs['type']}" if tag == "input" else tag
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.addresses += [attrs[name] for name in ("src", "href") if name in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)


def check_report(folder, names, least_ssim):
    rows = json.loads((folder / "report.json").read_text())["configurations"]
    compared = rows[1:]
    check("the baseline and both formats", [c["label"] for c in rows]
          == ["BF16", "SVDQuant INT4", "SVDQuant NVFP4"], [c["label"] for c in rows])
    check("each prompt has a row", all(
        [row["name"] for row in c["prompts"]] == names for c in rows), rows)
    check("all was drawn and compared", all(
        c["summary"]["drawn"] == 4 for c in rows) and all(
        0 < row["flip"] < 1 and row["ms_ssim"] is not None and row["lpips"] is None
        for c in compared for row in c["prompts"]))
    check("4 bits change pictures and save memory", all(
        c["summary"]["equal"] == 0 and least_ssim < c["summary"]["ssim"] < 1
        and c["summary"]["reduction"] > 0.02 for c in compared),
        [c["summary"] for c in compared])
    return len(compared)


def check_page(folder, n_compared):
    text = (folder / "report.html").read_text()
    page = Page(text)
    check("the page is balanced", not page.unbalanced and not page.open,
          page.unbalanced, page.open)
    check("a slider for each pair", page.counts.get("input range") == 4 * n_compared
          and page.counts.get("img") == 4 * n_compared and page.counts.get("table") == 3,
          page.counts)
    check("nothing comes from elsewhere", "http:" not in text and "https:" not in text
          and all(a.startswith("data:image/png;base64,") for a in page.addresses))
    files = sorted(f.read_bytes() for f in folder.glob("[1-9]*/*.png"))
    inside = sorted(base64.b64decode(a.split(",", 1)[1]) for a in page.addresses)
    check("the pictures are in the page, byte for byte", files == inside)
    check("the baseline's pictures are there once", text.count("background-image:url(data:") == 4)
    check("prompts are text, not markup", "on a &lt;table&gt; &amp; " in text)
    markdown = (folder / "report.md").read_text()
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    check("Markdown has a row for each", len(lines) == 3 * 2 + 2 * (n_compared + 1)
          + 4 * n_compared, lines)


def check_in_browser(folder, n_compared):
    """The page's own script has run, from a file, and the page can be photographed."""
    browser = shutil.which("chromium")
    if browser is None:
        check("in a browser # SKIP there is no chromium", True)
        return
    page = (folder / "report.html").as_uri()
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,2000",
               f"--user-data-dir={folder / 'browser'}"]
    for _ in range(3):  # a browser may fail to start for reasons of its own
        result = subprocess.run([browser, *options, "--dump-dom", page], capture_output=True,
                                text=True)
        if result.returncode == 0 and result.stdout:
            break
    else:
        check("in a browser # SKIP chromium does not start here", True)
        return
    check("each slider is set in a browser",
          result.stdout.count("--cut: 50%") == 4 * n_compared, result.stdout[-500:])
    photo = folder / "page.png"
    result = subprocess.run([browser, *options, f"--screenshot={photo}", page],
                            capture_output=True, text=True)
    check("the page is photographed", result.returncode != 0 or photo.stat().st_size > 20000,
          result.stderr[-500:])


def kill_after(command, folder, records):
    """Kills the command as soon as so many pictures are done; returns them."""
    process = subprocess.Popen([CLI, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(folder.glob("*/*.json"))) < records:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    return {f: f.read_bytes() for f in folder.glob("*/*.json")}


def check_resume(command, whole, folder):
    for records in (1, 4):
        kept = kill_after(command, folder, records)
        check(f"killed with {records} or more done", len(kept) >= records, len(kept))
    result = run(*command)
    check("taken up again", result.returncode == 0, result.stderr)
    check("what was done is kept", all(f.read_bytes() == b for f, b in kept.items()))
    check("the same report as in one go", report(folder) == report(whole))

    before = {f: f.read_bytes() for f in folder.glob("*/*.json")}
    written = (folder / "report.json").read_bytes()
    run(*command)
    check("once more: nothing is drawn again", written == (folder / "report.json").read_bytes())

    damaged, missing, lost = sorted(before)[:3]
    damaged.write_text('{"seconds": ')
    missing.unlink()
    lost.with_suffix(".png").unlink()
    result = run(*command)
    check("damaged, missing and lost rows are drawn again",
          result.returncode == 0 and report(folder) == report(whole), result.stderr)
    check("and only those", all(f.read_bytes() == b for f, b in before.items()
                                if f not in (damaged, missing, lost)))


def check_failures(command, whole, folder):
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("browser"))
    bad = sorted(folder.glob("1*/002.png"))[0]
    bad.write_bytes(b"not a picture")
    result = run(*command)
    rows = json.loads((folder / "report.json").read_text())["configurations"]
    check("a picture that cannot be read is a row that says so", result.returncode == 0
          and "002.png" in rows[1]["prompts"][1].get("error", "")
          and all("error" not in rows[1]["prompts"][i] for i in (0, 2, 3)), rows[1]["prompts"])
    check("and no pair", "there is no pair" in (folder / "report.html").read_text())

    result = run(*command, "--seed", "43")
    check("a folder of another run is refused", result.returncode == 2
          and "other models, prompts or settings" in result.stderr, result.stderr)


def check_nothing_fits(command, folder):
    result = run(*command, "--memory-budget", "1MB")
    summaries = [c["summary"] for c in
                 json.loads((folder / "report.json").read_text())["configurations"]]
    check("without any picture it fails, with a report", result.returncode == 1
          and all(s["failed"] == 4 and s["seconds"] is None and s["reduction"] is None
                  and s["speedup"] is None for s in summaries), result.stderr, summaries)


def check_usage(prompts, folder):
    empty = folder / "empty.txt"
    empty.write_text("# nothing\n")
    nameless = folder / "nameless.txt"
    nameless.write_text("one\n[two]\n")
    for title, error, more in (
            ("no prompt", "no prompt", ("--baseline-model", TINY, "--prompts", empty)),
            ("a name without a prompt", "line 2", ("--baseline-model", TINY, "--prompts",
                                                   nameless)),
            ("nothing to compare", "nothing to compare", ("--prompts", prompts))):
        result = run(*[str(v) for v in ("bench", "quality", "--model", TINY, "-o",
                                       folder / "never", *more)])
        check(f"refused: {title}", result.returncode == 2 and error in result.stderr
              and not (folder / "never").exists(), result.stderr)


def check_all(folder):
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS) + "\n")
    quantised = quantise(TINY, folder)
    whole = folder / "whole"

    def command(output):
        return arguments(quantised, prompts, output, "--size", "176x192", "--steps", "2")

    result = run(*command(whole))
    check("a run", result.returncode == 0, result.stdout, result.stderr)
    n_compared = check_report(whole, NAMES, 0.5)
    check_page(whole, n_compared)
    check_in_browser(whole, n_compared)
    check_resume(command(folder / "killed"), whole, folder / "killed")
    check_failures(command(folder / "failed"), whole, folder / "failed")
    check_nothing_fits(command(folder / "small"), folder / "small")
    check_usage(prompts, folder)


def check_model(folder, model, prompts):
    names = [line[1:line.index("]")] for line in prompts.read_text().splitlines()
             if line.startswith("[")]
    result = run(*arguments(quantise(model, folder), prompts, folder / "run"))
    check("a run", result.returncode == 0, result.stdout, result.stderr)
    check_report(folder / "run", names, 0.8)


with tempfile.TemporaryDirectory() as name:
    if len(sys.argv) > 2:
        check_model(pathlib.Path(name), *map(pathlib.Path, sys.argv[2:]))
    else:
        check_all(pathlib.Path(name))
finish()
