#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tessera-cli generate where it must fail: exit status, one line, and nothing half-written.

Usage: test-cli-generate.py TESSERA_CLI   (with TESSERA_TEST_DATA in the environment)
"""
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import tempfile

from cli_test import CLI, DAMAGED, TINY, TRANSFORMER, check, copy_model, expect, finish


def arguments(model, *more, size="64x64", steps=1):
    return ("generate", "--model", model, "--prompt", "a cat", "--size", size, "--steps", steps,
            "--device", "cpu", *more)


def is_empty(folder):
    return not list(folder.iterdir())


def draw(folder):
    path = folder / "cat.png"
    result = expect("a picture", 0, *arguments(TINY, "--json", "--output", path))
    check("is told as JSON", isinstance(json.loads(result.stdout), dict), result.stdout)
    expect("and says how it was made", 0, "inspect", path, output="a cat")
    check("and nothing else is written", list(folder.iterdir()) == [path])
    path.unlink()


def quantised_encoder(folder):
    path, picture = folder / "encoder.safetensors", folder / "cat.png"
    expect("a text encoder in 5 bit", 2, "quantize", "--part", "text-encoder", "--bits", 5,
           "--model", TINY, "--output", path, error="--bits is 5")
    expect("an unknown part", 2, "quantize", "--part", "vae", "--model", TINY, "--output", path,
           error="--part")
    expect("a text encoder in 4 bit", 0, "quantize", "--part", "text-encoder", "--bits", 4,
           "--model", TINY, "--output", path, output=str(path))
    report = json.loads((folder / "encoder.safetensors.json").read_text())
    check("has a report", report["bits"] == 4 and report["prompts"] and report["calibrated"])
    expect("is named", 0, "inspect", path, output="Qwen3 text encoder, 4 bit")
    expect("it draws", 0, *arguments(TINY, "--json", "--text-encoder", path, "--output", picture),
           output='"text_encoder_bits":4')
    plan = expect("it is planned", 0, "plan", "--json", "--model", TINY, "--text-encoder", path,
                  "--size", "64x64", "--device", "cpu")
    check("as what it is", json.loads(plan.stdout)["text_encoder_bits"] == 4, plan.stdout)
    expect("a transformer is none", 1,
           *arguments(TINY, "--text-encoder", TINY / TRANSFORMER, "--output", picture),
           error="not a text encoder of")
    expect("nor can it be quantised again", 1, "quantize", "--part", "text-encoder", "--bits", 8,
           "--model", copy_model(folder / "again", **{
               "text_encoder/model.safetensors": path}), "--output", folder / "twice.safetensors",
           error="quantised already")


def quantised_transformer(folder):
    path, picture = folder / "int4.safetensors", folder / "cat.png"
    expect("a transformer in 4 bit", 0, "quantize", "--level", 0, "--rank", 16, "--model", TINY,
           "--output", path, output=str(path))
    for told, kernels in ((), "cpu-svdq"), (("--precision", "bf16"), "cpu"):
        result = expect(f"it draws, told {told}", 0,
                        *arguments(TINY, "--json", "--transformer", path, "--output", picture, *told))
        used = json.loads(result.stdout)["kernels"]
        check("by what it is unless told", used.startswith(kernels)
              and ("svdq" in used) == ("svdq" in kernels), used)
    plan = expect("it is planned", 0, "plan", "--json", "--model", TINY, "--transformer", path,
                  "--size", "64x64", "--device", "cpu")
    check("as what it is, too", json.loads(plan.stdout)["precision"] == "svdquant", plan.stdout)


def wrong_usage(folder):
    cases = [
        ("--size", "65x64", "width"),
        ("--size", "big", "big"),
        ("--steps", "0", "steps"),
        ("--seed", "-1", "--seed"),
        ("--precision", "fp1", "fp1"),
        ("--noise", "white", "white"),
        ("--guidance", "nan", "guidance"),
        ("--threads", "-1", "--threads"),
        ("--threads", "100000", "--threads"),
        ("--size", "100000x64", "the width is 100000"),
        ("--output", "cat.jpg", "only PNG"),
    ]
    for option, value, cause in cases:
        expect(f"{option} {value}", 2, *arguments(TINY, "--output", folder / "cat.png", option,
                                                  value), error=cause)
    expect("a prompt without quotes", 2, *arguments(TINY, "on", "a", "chair"), error="quotes")
    expect("no prompt", 2, "generate", "--model", TINY, error="--prompt")
    check("wrong usage writes nothing", is_empty(folder))


def damaged(folder, output):
    cases = [
        ("transformer/config.json", "config-wrong-type.json", '"dim" is "192"'),
        ("transformer/config.json", None, "transformer/config.json"),
        (TRANSFORMER, "truncated.safetensors", "truncated or damaged"),
        (TRANSFORMER, "offset-outside.safetensors", "tensor a lies at bytes 4096"),
        (TRANSFORMER, "header-100mb.safetensors", "claims 100000000 bytes"),
        (TRANSFORMER, "good.safetensors", "is missing"),
        ("vae/diffusion_pytorch_model.safetensors", None, "vae: no weights here"),
        ("tokenizer/tokenizer.json", "tokenizer-unknown-model.json", "WordPiece"),
    ]
    for i, (name, by, cause) in enumerate(cases):
        model = copy_model(folder / str(i), **{name: by and DAMAGED / by})
        expect(f"model with {by or 'no'} {name}", 1,
               *arguments(model, "--output", output / "cat.png"), error=cause)
    bare = copy_model(folder / "bare", **{"tokenizer/tokenizer.json": None,
                                          "tokenizer/vocab.json": None})
    expect("model without a tokenizer", 1, *arguments(bare, "--output", output / "cat.png"),
           error="tokenizer.json")
    tokens = folder / "tokens.json"
    tokens.write_text((TINY / "tokenizer/tokenizer.json").read_text().replace('"id": 616',
                                                                              '"id": 70000'))
    other = copy_model(folder / "other", **{"tokenizer/tokenizer.json": tokens})
    cause = "the tokenizer says 70000, the text encoder knows ids below 704"
    expect("another model's tokenizer", 1, *arguments(other, "--output", output / "cat.png"),
           error=cause)
    expect("nor is it planned", 1, "plan", "--model", other, "--size", "64x64", "--device", "cpu",
           error=cause)
    expect("no such model", 1, *arguments("/nowhere", "--output", output / "cat.png"),
           error="/nowhere: no such model folder")
    expect("a folder of something else", 1, *arguments(output, "--output", output / "cat.png"),
           error="not a model folder")
    expect("no such transformer", 1, *arguments(TINY, "--transformer", "no.safetensors", "--output",
                                                output / "cat.png"),
           error="no.safetensors: no such file")
    expect("damaged latents", 1, *arguments(TINY, "--latents", DAMAGED / "truncated.safetensors",
                                            "--output", output / "cat.png"), error="truncated")
    check("damaged models leave no picture", is_empty(output))


def limit_files():
    """A file of at most 4 kB stands for a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def unwritable(folder):
    path = folder / "cat.png"
    expect("no folder for the picture", 1, *arguments(TINY, "--output", "/nowhere/cat.png"),
           error="/nowhere/cat.png")
    expect("a folder in its place", 1, *arguments(TINY, "--output", folder), error=str(folder))
    expect("full disk", 1, *arguments(TINY, "--output", path), error=str(path),
           preexec_fn=limit_files)
    check("a full disk leaves nothing", is_empty(folder), list(folder.iterdir()))
    expect("full disk for the trace", 1,
           *arguments(TINY, "--output", path, "--trace", folder / "trace.safetensors"),
           error=str(folder), preexec_fn=limit_files)
    weights = folder / "weights.safetensors"
    expect("full disk while learning", 1, "quantize", "--model", TINY, "--output", weights, "--level",
           1, "--rank", 16, "--size", 64, "--steps", 1, error=".rows: cannot be written",
           preexec_fn=limit_files)
    shutil.rmtree(f"{weights}.parts")
    check("nor does the trace", is_empty(folder), list(folder.iterdir()))


def refused_beforehand(folder):
    """What cannot be written is said before the model is looked at, not after the picture."""
    expect("no folder, said first", 1, *arguments("/nowhere", "--output", "/nowhere/cat.png"),
           error="/nowhere/cat.png")
    expect("nor for the trace", 1, *arguments("/nowhere", "--output", folder / "cat.png",
                                              "--trace", "/nowhere/t"), error="/nowhere/t")
    expect("nor for weights", 1, "quantize", "--model", "/nowhere", "--output", "/nowhere/x",
           error="/nowhere/x")
    pipe = folder / "pipe.png"
    os.mkfifo(pipe)
    expect("a pipe is not overwritten", 1, *arguments(TINY, "--output", pipe),
           error="not a regular file")
    expect("nor waited for", 1, "compare", pipe, pipe, error="not a regular file")
    pipe.unlink()


def catches(pid, number):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return int(line.split()[1], 16) >> (number - 1) & 1
    return False


def interrupted(folder):
    """Ctrl+C as soon as the program listens; the picture would take it minutes."""
    command = [CLI, *map(str, arguments(TINY, "--output", folder / "cat.png", size="1024x1024",
                                        steps=100))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not catches(process.pid, signal.SIGINT):
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    check("interrupt", process.returncode == 130 and errors.count("\n") == 1, process.returncode,
          errors)
    check("an interrupt leaves nothing", is_empty(folder), list(folder.iterdir()))


def file_cut_short(folder):
    """What the kernel sends when a mapped file ends early; a real fault comes again by itself."""
    process = subprocess.Popen(
        [CLI, *map(str, arguments(TINY, "--output", folder / "cat.png", size="1024x1024",
                                  steps=100))], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (catches(process.pid, signal.SIGBUS)
                                          and catches(process.pid, signal.SIGINT)):
        pass
    process.send_signal(signal.SIGBUS)
    line = process.stderr.readline()
    process.send_signal(signal.SIGBUS)
    process.communicate()
    check("a file that is cut short is named as the cause", "cut short" in line, line)
    check("and ends the program", process.returncode == -signal.SIGBUS, process.returncode)
    check("which leaves nothing", is_empty(folder), list(folder.iterdir()))


with tempfile.TemporaryDirectory() as name:
    base = pathlib.Path(name)
    pictures = base / "pictures"
    pictures.mkdir()
    draw(pictures)
    (base / "encoder").mkdir()
    quantised_encoder(base / "encoder")
    (base / "transformer").mkdir()
    quantised_transformer(base / "transformer")
    wrong_usage(pictures)
    damaged(base / "models", pictures)
    unwritable(pictures)
    refused_beforehand(pictures)
    interrupted(pictures)
    file_cut_short(pictures)
finish()
