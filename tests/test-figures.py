#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tables of the READMEs against the raw numbers beside the benchmarks.

Usage: test-figures.py SOURCE_ROOT

Every row that comes from a JSON file of this repository is written anew from it, and must be in the
page as it is written. A new measurement replaces its file, and then this says which rows to change.
"""
import json
import pathlib
import statistics
import sys

ROOT = pathlib.Path(sys.argv[1])
GIB = 2**30
_count = 0


def raw(name):
    return json.loads((ROOT / "tests" / name).read_text())


class Page:
    def __init__(self, name):
        self.name, self.lines = name, (ROOT / name).read_text().splitlines()

    def holds(self, *cells):
        """One row is, or begins with, these cells."""
        global _count
        row = "| " + " | ".join(cells) + " |"
        found = any(line.replace("|  |", "| |").startswith(row.replace("|  |", "| |"))
                    for line in self.lines)
        _count += 1
        print(f"{'ok' if found else 'not ok'} {_count} {self.name}: {row}")


    def says(self, text):
        """A sentence, wherever its lines break."""
        global _count
        _count += 1
        found = text in " ".join(" ".join(self.lines).split())
        print(f"{'ok' if found else 'not ok'} {_count} {self.name}: {text}")


def cpu():
    page = Page("tests/kernels/README.md")
    for row in raw("kernels/bench-cpu.json")["rows"]:
        cells = [row["kind"], row["name"], f"{row['seconds'] * 1e3:.3f}", f"{row['gflops']:.1f}"]
        if row.get("bare_seconds"):
            cells += [f"{row['bare_seconds'] * 1e3:.3f}", f"{row['share']:.2f}"]
        page.holds(*cells)


def way(cell):
    if cell["streamed"]:
        text = f"{cell['streamed']} of 34 blocks stream"
    elif cell["transformer_leaves"]:
        text = "turns"
    else:
        text = "encoder streams" if cell["encoder_streamed"] else "all stays"
    return text + (", decoder in bands" if cell["band"] else "")


def planned_seconds(cell):
    return f"{cell['planned_seconds']:.2f} s" if cell["planned_seconds"] else "none yet"


def held(cell):
    return [f"{cell['planned_peak'] / GIB:.2f} GiB", f"{cell['peak'] / GIB:.2f} GiB",
            planned_seconds(cell), f"{cell['seconds']:.2f} s", way(cell)]


def memory():
    page, numbers = Page("engine/memory/README.md"), raw("engine/memory-h200.json")
    later = {(cell["cap"], cell["type"], cell["size"]): cell
             for cell in raw("engine/memory-h200-cells.json")["cells"] if cell["planned_seconds"]}
    for first in numbers["cells"]:
        cell = later.get((first["cap"], first["type"], first["size"]), first)
        page.holds(f"{cell['cap'] // GIB} GiB", cell["type"].upper(), str(cell["size"]), *held(cell))
    for cap in numbers["random"]["caps"]:
        page.holds(f"{cap['cap'] // GIB} GiB", *(str(cap[key]) for key in (
            "requests", "drawn", "with_lora", "refused", "cancelled")))
    for cell in raw("engine/memory-h200-encoders.json")["encoders"]:
        page.holds(cell["encoder"].removeprefix("synthetic:") + " bit",
                   f"{cell['cap'] // GIB} GiB", cell["type"].upper(), *held(cell))
    for row in raw("engine/memory-h200-squeeze.json")["squeeze"]:
        leaves = f"{row['left'] / GIB:.2f} GiB" + (", takes what is freed" if row["grabs"] else "")
        resumed = f" from step {row['resumed_from']}" if row["resumed_from"] else ""
        page.holds(row["type"].upper(), "there" if row["loaded_before"] else "new",
                   f"{row['phase']} {row['step']}", f"{row['taken'] / GIB:.1f} GiB", leaves,
                   row["outcome"] + resumed, str(row["differs_by"]))


def heavy():
    """Products and attention of sm_90: ours now, theirs, and their ratio."""
    page = Page("kernels/cuda/measured.md")
    labels = {
        ("gemm", 4224, 11520, 3840): ("4224 x 11520 x 3840", "760 TFLOP/s", "743"),
        ("gemm", 4224, 3840, 3840): ("4224 x 3840 x 3840", "700", "678"),
        ("gemm", 4224, 3840, 10240): ("4224 x 3840 x 10240", "720", "713"),
        ("attention", 4224, 30, 128): ("attention 30 x 4224 x 128", "560 TFLOP/s", "686"),
        ("attention", 4160, 30, 128): ("attention 30 x 4160 x 128", "", "700"),
        ("attention", 1088, 30, 128): ("attention 30 x 1088 x 128", "", "351"),
        ("attention", 4224, 30, 64): ("attention 30 x 4224 x 64", "", "497"),
    }
    for row in raw("kernels/bench-h200-heavy.json")["rows"]:
        a, ms = row["args"], row["ms"]
        key = (row["op"], a[0], a[1], a[3] if row["op"] == "attention" else a[2])
        if key not in labels:
            continue
        work = 4 * a[0] ** 2 * a[1] * a[3] if row["op"] == "attention" else 2 * a[0] * a[1] * a[2]
        page.holds(*labels[key], f"{work / ms['chosen'] / 1e9:.0f}",
                   f"{work / ms['pytorch'] / 1e9:.0f}", f"{ms['pytorch'] / ms['chosen']:.2f}")


def attention_mma():
    """Attention by mma.sync: before and now, and as on a card with a quarter of the rate."""
    page = Page("kernels/cuda/measured.md")
    theirs, ours = ({tuple(row["args"]): {name: t[0] for name, t in row["ms"].items()}
                     for row in run if len(row["ms"]) > 3}
                    for run in raw("kernels/bench-h200-attention-mma.json")["runs"])
    tall, short = "4 warps of 32 rows, 48 keys, 2 blocks", "2 warps of 32 rows, 64 keys, 4 blocks"
    for args, label, shape in (
            ((4224, 30, 30, 128, 0), "30 x 4224 x 128", tall),
            ((4160, 30, 30, 128, 0), "30 x 4160 x 128", tall),
            ((1088, 30, 30, 128, 0), "30 x 1088 x 128", short),
            ((512, 32, 8, 128, 1), "causal 32/8 x 512 x 128", tall),
            ((4224, 30, 30, 64, 0), "30 x 4224 x 64", "4 warps of 32 rows, 64 keys, 2 blocks")):
        m, heads, _, d, causal = args
        ms, work = ours[args], (2 if causal else 4) * m * m * heads * d
        page.holds(label, f"{ms['before']:.3f} ms", f"{ms[shape]:.3f}",
                   f"{work / ms[shape] / 1e9:.0f}", f"{theirs[args]['FlashAttention 2']:.3f}",
                   f"{theirs[args]['cuDNN']:.3f}")
    ms = ours[4224, 30, 30, 128, 0]
    for label, shape in (
            ("before", "before"),
            ("4 warps, 32 keys, two blocks: taken",
             "4 warps of 32 rows, 32 keys, 2 blocks, memory for 2"),
            ("8 warps, 64 keys, one block", "8 warps of 32 rows, 64 keys, 1 blocks, memory for 1"),
            ("2 warps, 32 keys, three blocks: taken where blocks are few",
             "2 warps of 32 rows, 32 keys, 3 blocks, memory for 3"),
            ("4 warps, 64 keys, one block", "4 warps of 32 rows, 64 keys, 2 blocks, memory for 1"),
            ("2 warps, 64 keys, two blocks", "2 warps of 32 rows, 64 keys, 4 blocks, memory for 2"),
            ("4 warps, 64 keys, two blocks, which 100 KiB do not hold",
             "4 warps of 32 rows, 64 keys, 2 blocks")):
        t = ms["quarter rate: " + shape]
        page.holds(label, f"{t:.3f} ms" if shape == "before" else f"{t:.3f}", f"{2.05 / t:.2f}")


def operations():
    page = Page("kernels/cuda/measured.md")
    first, now = ({row["name"]: row for row in raw(f"kernels/bench-ops-h200{which}.json")["rows"]}
                  for which in ("-first", ""))
    for label, predicted, name, unit in (
            ("`rms_norm` [4224, 3840] with scale", "3.6 TB/s", "rms_norm [4224, 3840]", "gbps"),
            ("`layer_norm`", "3.6 TB/s", "layer_norm [4224, 3840]", "gbps"),
            ("`residual_norm`, four vectors", "3.5 TB/s", "residual_norm [4224, 3840]", "gbps"),
            ("`silu_mul` [4224, 20480]", "3.8 TB/s", "silu_mul [4224, 20480]", "gbps"),
            ("3x3, 512 -> 512 at 256, `wgmma`", "550 TFLOP/s", "conv 3x3 512 -> 512 at 256", "tflops"),
            ("3x3, 128 -> 128 at 1024, `wgmma`", "400 TFLOP/s", "conv 3x3 128 -> 128 at 1024",
             "tflops")):
        page.holds(label, predicted, *(f"{run[name][unit] / 1e3:.2f}" if unit == "gbps"
                                       else f"{run[name][unit]:.0f}" for run in (first, now)))
    for label, predicted, name in (
            ("all convolutions of the decoder, `wgmma`", "17 ms", "decoder's convolutions"),
            ("decoder without its attention, `wgmma`", "21 ms", "decoder without attention")):
        page.holds(label, predicted, *(f"{run[name]['ms']:.1f} ms" for run in (first, now)))


def pictures():
    page = Page("kernels/cuda/measured.md")
    runs = [raw(f"kernels/whole-h200-{side}.json") for side in (512, 1024, 2048)]

    def median(run, key):
        return statistics.median(warm[key] for warm in run["warm"])

    page.holds("text encoder", *(f"{median(run, 'encode') * 1e3:.1f} ms" for run in runs))
    page.holds("one step", *(f"{median(run, 'step') * 1e3:.{0 if i == 2 else 1}f} ms"
                             for i, run in enumerate(runs)))
    page.holds("program start to first picture, loading included",
               *(f"{run['open'] + run['first']['total']:.2f} s" for run in runs))
    page.holds(f"peak device memory (weights {runs[0]['weights'] / GIB:.2f} GiB)",
               *(f"{run['peak_memory'] / GIB:.2f} GiB" for run in runs))

    beside = raw("kernels/whole-h200-beside-diffusers.json")
    medians = beside["median_s"]
    ours, eager, compiled = (medians[who] for who in ("bf16", "eager", "compiled"))
    for label, key, unit in (("text encoder, 128 tokens", "encode", "ms"), ("one step", "step", "ms"),
                             ("VAE decode, to bytes in host memory", "decode", "ms"),
                             ("prompt to RGB", "total", "s")):
        times = [f"{who[key] * 1e3:.1f} ms" if unit == "ms" else f"{who[key]:.3f} s"
                 for who in (ours, eager, compiled)]
        page.holds(label, *times, f"{ours[key] / eager[key]:.2f}", f"{ours[key] / compiled[key]:.2f}")
    folder = Page("kernels/cuda/README.md")
    folder.says(f"a step takes {ours['step'] * 1e3:.1f} ms, and {compiled['step'] * 1e3:.1f} ms there")
    folder.says(f"of 8 steps {ours['total']:.3f} s, and {compiled['total']:.3f} s there")
    folder.says("A step takes {:.1f} ms in INT4 and {:.1f} ms in NVFP4, and {:.1f} and {:.1f} ms by the"
                .format(*(medians[name]["step"] * 1e3 for name in
                          ("fast-int4", "fast-nvfp4", "exact-int4", "exact-nvfp4"))))
    front = Page("README.md")
    front.holds("one step", *(f"{who['step'] * 1e3:.0f} ms" for who in (ours, compiled, eager)))
    front.holds("prompt to picture", *(f"{who['total']:.2f} s" for who in (ours, compiled, eager)))
    front.holds("the same in INT4, fast", f"{medians['fast-int4']['total']:.2f} s")
    alone = beside["encoder_64_tokens"]
    page.holds("text encoder, 64 tokens", f"{alone['ours_ms']:.1f} ms", f"{alone['theirs_ms']:.1f} ms",
               "", f"{alone['ours_ms'] / alone['theirs_ms']:.2f}")
    for name in ("fast-int4", "fast-nvfp4", "exact-int4", "exact-nvfp4"):
        way, kind = name.split("-")
        page.holds(f"{way} {kind.upper()}", f"{medians[name]['step'] * 1e3:.1f} ms",
                   f"{ours['step'] / medians[name]['step']:.2f}", f"{medians[name]['total']:.3f} s",
                   f"{eager['total'] / medians[name]['total']:.2f}")
    bare = beside["bare_step"]["median_s"]
    page.says(f"took {bare * 1e3:.1f} ms a step in that run, {bare / compiled['step']:.2f} of compiled")
    page.says(f"takes {ours['step'] / bare:.2f} times that")


def lora():
    page, runs = Page("kernels/cuda/measured.md"), raw("kernels/lora-h200.json")["runs"]
    for label, precision in (("BF16", "bf16"), ("INT4, fast", "int4"),
                             ("INT4, exact", "int4 --arithmetic exact"), ("NVFP4, fast", "nvfp4")):
        none, within, beside = (
            [run for run in runs if run["arguments"] == "--precision " + precision
             and run["lora"] == with_lora and run["way"] == way]
            for with_lora, way in ((False, "in the sums"), (True, "in the sums"), (True, "beside")))
        steps = [statistics.median(warm["step"] for run in which for warm in run["warm"])
                 if which else None for which in (none, within, beside)]
        loading, memory = (
            statistics.median(map(value, within)) - statistics.median(map(value, none))
            for value in (lambda run: run["first"]["encode"], lambda run: run["weights"]))
        page.holds(label, *(f"{step * 1e3:.1f} ms" if step else "" for step in steps),
                   f"{loading:.2f} s", f"{memory / GIB:.2f} GiB")


def four_bit():
    page = Page("kernels/cuda/svdquant-sm90.md")

    def linears(name):
        return {f"{row['args'][1]} x {row['args'][2]}": row["ms"]
                for row in raw(f"kernels/{name}.json")["rows"] if row["op"] == "linear"}

    def cells(shape, ms, ways):
        dense = ms["cublas bf16"]
        yield f"{dense:.3f}" + (" ms" if shape.startswith("11520") else "")
        yield f"{ms['cublas fp8']:.3f}"
        for way, product in ways:
            yield f"{ms[way]:.3f}, {dense / ms[way]:.2f}x"
            if product:
                yield f"{ms[product]:.3f}"

    for shape, ms in linears("bench-h200-svdq-lasting").items():
        page.holds(shape + ", lasting", *cells(shape, ms, (("fast", None), ("exact int4", None),
                                                           ("exact nvfp4", None))))
    for shape, ms in linears("bench-h200-svdq").items():
        page.holds(shape, *cells(shape, ms, (("fast", "turns r32"), ("exact int4", "int4 product"),
                                             ("exact nvfp4", "nvfp4 product"))))
    for way, label in (("fast", "fast"), ("exact int4", "INT4"), ("exact nvfp4", "NVFP4")):
        *before, last = (f"{ms['cublas bf16'] / ms[way]:.2f}" for ms in
                         raw("kernels/bench-h200-svdq-bursts.json")["runs"])
        page.says(f"{', '.join(before)} and {last}x {label}")
    kinds, older = ("E4M3", "INT4 in FP16", "NVFP4 in FP16"), {}
    for row in raw("kernels/bench-h200-svdq.json")["rows"]:
        if row["op"] == "quantise" and row["args"][0] == 4224:
            _, k, kind, rank = row["args"]
            page.holds(f"{kinds[kind]}, K = {k}, " + (f"rank {rank}" if rank else "no low rank"),
                       f"{row['ms'] * 1e3:.1f}")
            older[f"{kinds[kind].split()[0].lower()} K {k} rank {rank}: clusters"] = (
                f"{kinds[kind]}, K = {k}, rank {rank}", f"{row['ms'] * 1e3:.1f}", "")
    for name, times in raw("kernels/bench-h200-pairs.json")["quantise_us"].items():
        if name in older:
            page.holds(*older[name], f"{statistics.median(times):.1f}")
    few = raw("kernels/bench-h200-pairs-few.json")["rank_128_linear_ms"]
    by = {shape: {name: statistics.median(times) for name, times in of.items()}
          for shape, of in few.items()}
    for shape, ms in by.items():
        page.says("{} {:.2f}x and {:.2f}x".format(shape.replace("x", " x "), *(
            ms["cublas"] / ms["int4 r128 " + way] for way in ("pairs", "clusters"))))
    medians = raw("kernels/pictures-h200-svdq.json")["median_s"]
    for name, times in medians.items():
        label = name.replace("-rank-", ", rank ").replace("-", " ", 1)
        for kind in ("bf16", "int4", "nvfp4"):
            label = label.replace(kind, kind.upper())
        page.holds(label, f"{times['step'] * 1e3:.1f}" + (" ms" if name == "bf16" else ""),
                   f"{medians['bf16']['step'] / times['step']:.2f}x",
                   f"{times['total']:.3f}" + (" s" if name == "bf16" else ""))


def heads():
    """Norm and rotation of q and k behind a 4-bit product or in it: medians of what was run again."""
    page, runs = Page("kernels/cuda/svdquant.md"), {}
    for row in raw("kernels/heads-h200.json")["rows"]:
        key = f"{row['m']}, {row['compiled_for']}", row["by"]
        runs.setdefault(key, []).append([row[way + "_ms"] for way in ("product", "two_steps", "one_pass")])
    for key, times in runs.items():
        page.holds(*key, *(f"{statistics.median(column):.3f}" for column in zip(*times)))


def normed():
    """A norm and quantising, in two steps and with the norm made in quantising."""
    page = Page("kernels/cuda/svdquant.md")
    for row in raw("kernels/normed-h200.json")["rows"]:
        if row["sets"] > 1:
            times = [row[step + way][0] for way in (" rows", " apart")
                     for step in ("norm", "quantise", "norm quantise")]
            page.holds(f"{row['m']}, {row['format'].upper()}, {row['rank']}",
                       *(f"{us:.1f}" for us in times), f"{times[2] / times[5]:.2f}")


def attention_f16():
    """FP16's attention, and that of wide heads: before and now."""
    page = Page("kernels/cuda/measured.md")
    rows = {(row["type"], *row["args"]): {name: t[0] for name, t in row["ms"].items()}
            for row in raw("kernels/bench-h200-attention-f16.json")["rows"]}
    tall, small = ("4 warps of 16 rows, 64 keys, 2 blocks, queries in registers",
                   "4 warps of 32 rows, 64 keys, 2 blocks")
    for args, label, shape in (((4224, 30, 30, 128, 0), "30 x 4224 x 128", tall),
                               ((4160, 30, 30, 128, 0), "30 x 4160 x 128", tall),
                               ((1088, 30, 30, 128, 0), "30 x 1088 x 128", tall),
                               ((512, 32, 8, 128, 1), "causal 32/8 x 512 x 128", tall),
                               ((4224, 30, 30, 64, 0), "30 x 4224 x 64", small)):
        ms, cells = rows["FP16", *args], []
        for rate in ("", "half rate: ", "quarter rate: "):
            before, now = ms.get(rate + "before"), ms.get(rate + shape)
            cells += [f"{before:.3f}", f"{now:.3f}, {before / now:.2f}x"] if now else []
        page.holds(label + ", FP16", *cells)
    for kind, m, d, height in (("BF16", 16384, 512, 64), ("BF16", 16384, 512, 32),
                               ("BF16", 4096, 512, 64), ("BF16", 4096, 512, 32),
                               ("BF16", 4096, 256, 64), ("FP16", 16384, 512, 16),
                               ("FP16", 4096, 512, 16), ("FP16", 4096, 256, 32)):
        ms, shape = rows[kind, m, 1, 1, d, 0], f"{height} rows a block"
        before, now = ms["before, " + shape], ms[shape]
        page.holds(f"{m} x {d}, {kind}, {height} rows", f"{before:.3f} ms", f"{now:.3f}",
                   f"{before / now:.2f}")


for table in (cpu, memory, heavy, attention_mma, attention_f16, operations, pictures, lora, four_bit,
              heads, normed):
    table()
print(f"1..{_count}")
