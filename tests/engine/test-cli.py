#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tessera-cli on whole and damaged files: exit status, one line of error, what is printed.

Usage: test-cli.py TESSERA_CLI   (with TESSERA_TEST_DATA in the environment)
"""
import json
import os
import pathlib
import subprocess
import tempfile

from cli_test import CLI, DAMAGED, DATA, TINY, TRANSFORMER, check, copy_model, expect, finish, run


def usage():
    expect("no command", 2, error="no command given")
    expect("unknown command", 2, "paint", error="no command paint")
    expect("unknown option", 2, "inspect", "--loud", error="--loud")
    expect("no path", 2, "inspect", error="PATH is missing")
    expect("two paths", 2, "inspect", TINY, TINY, error="unexpected argument")
    expect("no prompt", 2, "tokenize", "--tokenizer", TINY / "tokenizer", error="--prompt")
    expect("version", 0, "--version", output="tessera-cli ")
    expect("help", 0, "--help", output="inspect")
    for command in "inspect", "tokenize", "devices":
        expect(f"help of {command}", 0, command, "--help", output=f"tessera-cli {command}")
    expect("help as a word", 0, "help", output="inspect")
    expect("help of bench", 0, "bench", "--help", output="quality")
    expect("bench what", 2, "bench", error="speed or quality")
    for kind in "speed", "quality":
        expect(f"help of bench {kind}", 0, "bench", kind, "--help",
               output=f"tessera-cli bench {kind}")
    with open("/dev/full", "w") as full:
        result = subprocess.run([CLI, "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    check("full disk", result.returncode == 1 and "standard output" in result.stderr, result)


def tokenize():
    request = json.loads((DATA / "tiny-zimage-golden/chinese.json").read_text())
    result = expect("tokenize", 0, "tokenize", "--tokenizer", TINY / "tokenizer", "--prompt",
                    request["prompt"], "--json")
    ids = json.loads(result.stdout)["ids"]
    check("ids", len(ids) > 8 and all(isinstance(i, int) for i in ids), ids)
    plain = run("tokenize", "--tokenizer", TINY / "tokenizer", "--prompt", request["prompt"],
                env={**os.environ, "LC_ALL": "C"})
    check("ids in any locale", json.loads(plain.stdout)["ids"] == ids, plain)
    expect("no tokenizer", 1, "tokenize", "--tokenizer", "/nowhere", "--prompt", "",
           error="/nowhere/tokenizer.json")


def inspect():
    result = expect("inspect a model", 0, "inspect", TINY, "--json")
    report = json.loads(result.stdout)
    parts = {part["name"]: part for part in report["components"]}
    check("its parts", set(parts) == {"transformer", "text_encoder", "vae", "tokenizer",
                                      "scheduler"}, report)
    check("its precision", parts["transformer"]["precision"] == "BF16", parts)
    check("its parameters", parts["transformer"]["parameters"] == 2764864, parts)
    check("its bytes", parts["vae"]["bytes"] == 2099206, parts)
    check("nothing is missing", report["problems"] == [], report)
    expect("inspect as text", 0, "inspect", TINY, output="2,764,864 parameters")
    expect("inspect a file", 0, "inspect", TINY / TRANSFORMER, output="Z-Image transformer")
    expect("nothing there", 1, "inspect", "/nowhere", error="/nowhere: no such file or folder")
    with tempfile.TemporaryDirectory() as folder:
        for name, start, kind in (("weights.gguf", b"GGUF\3\0\0\0", "a GGUF file"),
                                  ("weights.ckpt", b"PK\3\4\0\0\0\0", "a PyTorch checkpoint")):
            path = pathlib.Path(folder, name)
            path.write_bytes(start + bytes(32))
            expect(name, 1, "inspect", path, error=kind)
    expect("not a model folder", 1, "inspect", DATA, error="not a model folder")
    expect("not a model file", 1, "inspect", DATA / "README.md", error="README.md: neither")
    for path in sorted(DAMAGED.glob("*.safetensors*")):
        if path.name not in ("good.safetensors",):
            expect(f"damaged {path.name}", 1, "inspect", path, error=str(DAMAGED))


def damaged_models(folder):
    cases = [
        ("transformer/config.json", "config-wrong-type.json", '"dim" is "192"'),
        ("transformer/config.json", None, "transformer/config.json"),
        (TRANSFORMER, "truncated.safetensors", "truncated or damaged"),
        (TRANSFORMER, "header-100mb.safetensors", "claims 100000000 bytes"),
        (TRANSFORMER, "good.safetensors", "tensor x_pad_token is missing"),
        (TRANSFORMER, None, "no weights here"),
        ("tokenizer/tokenizer.json", "tokenizer-unknown-model.json", "WordPiece"),
    ]
    for i, (name, by, cause) in enumerate(cases):
        model = copy_model(folder / str(i), **{name: by and DAMAGED / by})
        expect(f"model with {by or 'no'} {name}", 1, "inspect", model, error=cause)
    report = json.loads(run("inspect", "--json", folder / "4").stdout)
    check("all missing tensors are told", len(report["problems"]) == 22, report["problems"])


def devices():
    expect("devices", 0, "devices", output="cpu")
    report = json.loads(run("devices", "--json").stdout)
    check("the CPU comes last", report["devices"][-1]["id"] == "cpu", report)


def plan():
    """What fits where, without drawing anything, and without the card that is asked about."""
    with tempfile.TemporaryDirectory() as cache:
        env = {**os.environ, "XDG_CACHE_HOME": cache}
        tiny = ("plan", "--model", TINY, "--size", "256x256", "--json")
        here = json.loads(run(*tiny, "--device", "cpu", env=env).stdout)
        check("plan: fits", here["fits"] and 0 < here["peak"] <= here["available"], here)
        check("plan: phases", max(here["phase_peak"].values()) == here["peak"], here)
        check("plan: no time before a picture", here["seconds"] == 0, here)
        small = json.loads(run(*tiny, "--device", "cpu", "--memory-budget", "45MiB", env=env).stdout)
        check("plan: does not fit", not small["fits"] and small["available"] == 45 << 20, small)
        check("plan: and what does", small["suggestion"]["width"] < 256, small)
        expect("plan: as text", 0, *tiny[:-1], "--device", "cpu", output="fits", env=env)
        expect("plan: a wrong level", 2, *tiny, "--offload", "most", error="--offload", env=env)
        expect("plan: a wrong arithmetic", 2, *tiny, "--arithmetic", "slow", error="--arithmetic",
               env=env)
        expect("plan: a wrong card", 2, *tiny, "--card", "fast", error="--card", env=env)
        expect("plan: a card of what size", 2, *tiny, "--card", "8.9", error="--memory-budget",
               env=env)
        card = run("plan", "--model", "synthetic:z-image-turbo", "--card", "8.9", "--size",
                   "1024x1024", "--memory-budget", "24GiB", "--json", env=env)
        if "no kernels" in card.stderr:  # a build without CUDA
            check("plan: no such card", card.returncode == 1, card)
            return
        card = json.loads(card.stdout)
        check("plan: 24 GiB hold everything", card["fits"] and card["pinned"] == 0, card)
        check("plan: the published sizes", 12.2e9 < card["parts"]["transformer"]["bytes"] < 12.4e9
              and 7.0e9 < card["parts"]["text_encoder"]["bytes"] < 7.1e9, card)
        four_bit = ("plan", "--model", "synthetic:z-image-turbo", "--card", "9.0", "--size",
                    "1024x1024", "--memory-budget", "24GiB", "--precision", "nvfp4",
                    "--transformer", "synthetic:nvfp4:128", "--json", "--arithmetic")
        exact, fast = (json.loads(run(*four_bit, how, env=env).stdout)["parts"]["transformer"]
                       for how in ("exact", "fast"))
        check("plan: exact keeps 4 bit", 4.1e9 < exact["bytes"] < 4.3e9 < fast["bytes"], exact)


usage()
tokenize()
plan()
inspect()
devices()
with tempfile.TemporaryDirectory() as name:
    damaged_models(pathlib.Path(name))
finish()
