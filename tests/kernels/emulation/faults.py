#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Breaks one kernel after another on purpose, and shows that its emulated test notices.

    faults.py BUILD [NAME…]

BUILD is a build folder in which the emulated tests are built. Each fault changes one line of a copy
of a source, which is compiled as the build compiles the kernel and linked before the others. Says
what the test said; exits with 1 if one went unnoticed.
"""
import json
import os
import shlex
import subprocess
import sys
import tempfile

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.realpath(__file__)), "../../.."))
BARRIER = "__syncthreads ();"

# Name of the kernel's file, the file changed, what, into what, which of its occurrences; the test
# and the device it runs on.
FAULTS = [
    ("svdq_quantise", "svdq_quantise.cu", BARRIER, ";", 0, "cuda-svdq", 80),
    ("svdq_quantise", "svdq_quantise.cu", "cp_async_wait<R::STAGES - 2>",
     "cp_async_wait<R::STAGES - 1>", 0, "cuda-svdq", 80),
    ("svdq_quantise", "svdq_quantise.cu", BARRIER, ";", 1, "cuda-normed", 80),
    ("svdq_quantise", "svdq_quantise.cu", "v[j] * by_row[i] * columns[j]",
     "v[j] * (by_row[i] * columns[j])", 0, "cuda-normed", 80),
    ("norm", "norm.cu", "if (r == 0)", "if (r == 1)", 0, "cuda-normed", 80),
    ("svdq_int4", "svdq_tile.cuh", BARRIER, ";", 0, "cuda-svdq", 80),
    ("svdq_int4", "svdq_tile.cuh", BARRIER, ";", 1, "cuda-svdq", 80),
    ("svdq_int4", "svdq_tile.cuh", BARRIER, ";", 2, "cuda-svdq", 80),
    ("svdq_int4", "svdq_int4.cu", "b[j % 2 * 2], b[j % 2 * 2 + 1]", "b[j % 2 * 2 + 1], b[j % 2 * 2]",
     0, "cuda-svdq", 80),
    ("svdq_int4", "svdq_heads.cuh", "head < heads.n_q ?", "head <= heads.n_q ?", 0, "cuda-heads", 80),
    ("svdq_int4", "svdq_heads.cuh", "min (row_at (first + i)", "min (row_at (i)", 0, "cuda-heads", 80),
    ("svdq_int4", "svdq_heads.cuh", "heads.n_q + heads.n_kv", "heads.n_q + 2 * heads.n_kv", 0,
     "cuda-heads", 80),
    ("svdq_int4", "svdq_heads.cuh", BARRIER, ";", 0, "cuda-heads", 80),
    ("svdq_sm75", "svdq_sm75.cuh", BARRIER, ";", 2, "cuda-heads", 75),
    ("svdq_sm75", "svdq_sm75.cuh", BARRIER, ";", 3, "cuda-heads", 75),
    ("svdq_sm75", "svdq_sm75.cuh", "WARPS_DOWN * 16, T::WARP_ROWS", "WARPS_DOWN * 16, 16", 0, "cuda-heads", 75),
    ("linear_svdq", "linear_svdq.cu", "slab.table += row * SVDQ_HEAD", "", 0, "cuda-heads", 80),
    ("svdq_int8", "svdq_int8.cu", "b[j][2], b[j][3]", "b[j][3], b[j][2]", 0, "cuda-svdq-int8", 90),
    ("quantise_codes_sm90", "quantise_codes_sm90.cu", BARRIER, ";", 1, "quantise-sm90", 90),
    ("quantise_codes_sm90", "exact_sm90.cuh", "uint32_t)odd << 8 * j", "uint32_t)odd << 8", 0,
     "quantise-sm90", 90),
    ("quantise_e4m3_sm90", "quantise_e4m3_sm90.cu", "named_barrier (CODERS_MEET, S::CODERS);", ";", 0,
     "quantise-sm90", 90),
    ("quantise_e4m3_sm90", "quantise_e4m3_sm90.cu", "named_barrier (CODERS_MEET, S::CODERS);", ";", 1,
     "quantise-sm90", 90),
    ("quantise_e4m3_sm90", "quantise_e4m3_sm90.cu", "named_barrier (CODERS_MEET, S::CODERS);", ";", 2,
     "quantise-sm90", 90),
    ("quantise_e4m3_sm90", "quantise_e4m3_sm90.cu",
     "barrier_wait (shared_address (&block.empty[stage]), phase);", ";", 0, "quantise-sm90", 90),
    ("quantise_e4m3_sm90", "quantise_e4m3_sm90.cu", "__any_sync (0xffffffffu, other)", "false", 0,
     "quantise-sm90", 90),
    ("quantise_pairs_sm90", "quantise_pairs_sm90.cu", "cluster_wait (); /* nobody", "; /*", 0,
     "quantise-sm90", 90),
    ("quantise_pairs_sm90", "quantise_pairs_sm90.cu", BARRIER, ";", 1, "quantise-sm90", 90),
    ("quantise_pairs_sm90", "quantise_pairs_sm90.cu", "p.ranks.first * LOW_RANKS + rank", "rank", 0,
     "quantise-sm90", 90),
    ("svdq_fp4", "svdq_fp4.cuh", "half * 2 + t / 2", "half * 2 + t % 2", 0, "cuda-svdq-fp4", 120),
    ("svdq_fp4", "svdq_fp4.cuh", "run<TILE_A, 1> (d[j + 1], a, b[0][2]",
     "run<TILE_A, 2> (d[j + 1], a, b[0][2]", 0, "cuda-svdq-fp4", 120),
    ("gemm_sm80", "gemm_sm80.cu", "cp_async_wait<STAGES - 2>", "cp_async_wait<STAGES - 1>", 0,
     "cuda-heavy", 80),
    ("gemm_sm80", "gemm_sm80.cu", BARRIER, ";", 2, "cuda-heavy", 80),
    ("gemm_few_rows", "gemm_few_rows.cu", BARRIER, ";", 0, "cuda-heavy", 80),
    ("gemm_few_rows", "gemm_few_rows.cu", BARRIER, ";", 1, "cuda-heavy", 80),
    ("attention_mma", "attention_mma.cu", BARRIER, ";", 0, "cuda-f16", 75),
    ("attention_mma", "attention_mma.cu", BARRIER, ";", 1, "cuda-f16", 75),
    ("attention_mma", "attention_mma.cu", BARRIER, ";", 2, "cuda-f16", 75),
    ("attention_mma", "attention_mma.cu", BARRIER, ";", 3, "cuda-f16", 75),
    ("attention_mma", "attention_mma.cu", "column.finish (next_values, values)", "", 0, "cuda-f16", 75),
    ("attention_mma", "attention_mma.cu", "column.finish (next_keys, keys)", ";", 0, "cuda-f16", 75),
    ("attention_mma", "attention_mma.cu", "rows.sum[t][h] *= factor", "", 0, "cuda-f16", 75),
    ("attention_mma", "softmax.cuh", "if (key > last)", "if (key > last + 1)", 0, "cuda-f16", 75),
    ("attention_mma", "attention_mma.cu", BARRIER, ";", 2, "ops-cuda", 80),
    ("attention_mma", "attention_mma.cu", BARRIER, ";", 3, "ops-cuda", 89),
    ("attention_mma", "attention_mma.cu", "cp_async_wait<0> (); /* the values", "; /*", 0,
     "ops-cuda", 80),
    ("attention_mma", "attention_mma.cu", "rows.sum[t][h] *= factor", "", 0, "ops-cuda", 80),
    ("attention_wide", "attention_wide.cu", "team_barrier (team, S::TEAM_THREADS);", ";", 0,
     "ops-cuda", 80),
    ("attention_wide", "attention_wide.cu", "__syncthreads (); /* the values have been read", "; /*",
     0, "ops-cuda", 80),
    ("norm", "common.cuh", BARRIER, ";", 0, "ops-cuda", 80),
    ("group_norm", "group_norm.cu", BARRIER, ";", 0, "ops-cuda", 80),
    ("conv_mma", "conv_mma.cu", BARRIER, ";", 0, "ops-cuda", 80),
    ("conv_mma", "conv_mma.cu", "__syncwarp ();", ";", 0, "ops-cuda", 80),
    ("elementwise", "elementwise.cu", "if (i < n)", "if (i <= n)", 0, "ops-cuda", 80),
    ("transfer", "transfer.cu", "CUDA_CHECK (s, cudaStreamWaitEvent (s->transfers, s->used[slot], 0));",
     ";", 0, "memory", 80),
    ("transfer", "transfer.cu", "CUDA_CHECK (s, cudaStreamWaitEvent (s->compute, s->arrived[slot], 0));",
     ";", 0, "memory", 80),
    ("memory", "memory.cu", "CUDA_CHECK (s, cudaEventSynchronize (slot->done));", ";", 0, "ops-cuda", 80),
    ("memory", "memory.cu", "CUDA_CHECK (s, cudaStreamSynchronize (s->compute));", ";", 0, "ops-cuda", 80),
]

# Programs that are not beside the kernels' own tests.
PROGRAMS = {"memory": "tests/engine/emulated/test-emulated-memory"}
ENVIRONMENT = {
    "memory": {"EMULATED_ONCE": "1", "TESSERA_TEST_DATA": os.path.join(ROOT, "tests/data")},
    "ops-cuda": {"EMULATED_QUEUES": "late"},
}


def replaced(text, old, new, number):
    at = -1
    for _ in range(number + 1):
        at = text.find(old, at + 1)
        if at < 0:
            sys.exit(f"faults.py: {old!r} is not there {number + 1} times")
    return text[:at] + new + text[at + len(old):]


def last_command(build, target):
    lines = subprocess.run(["ninja", "-C", build, "-t", "commands", target], check=True,
                           capture_output=True, text=True).stdout.strip().split("\n")
    return lines[-1]


def verdict(build, folder, fault):
    kernel, path, old, new, number, test, sm = fault
    with open(os.path.join(ROOT, "kernels/cuda", path)) as source:
        text = replaced(source.read(), old, new, number)
    copy = os.path.join(folder, "kernels/cuda", path)
    os.makedirs(os.path.dirname(copy), exist_ok=True)
    with open(copy, "w") as out:
        out.write(text)

    with open(os.path.join(build, "compile_commands.json")) as commands:
        entry = next(e for e in json.load(commands)
                     if os.path.join(build, e["file"]).startswith(build + "/tests")
                     and e["file"].endswith(f"emulation/{kernel}.cpp"))
    words = shlex.split(entry["command"])
    target = os.path.join(folder, "broken.o")
    words[words.index("-o") + 1] = target
    for option in ("-MQ", "-MF"):
        del words[words.index(option):words.index(option) + 2]
    words.remove("-MD")
    first = next(i for i, word in enumerate(words) if word.endswith("emulation/include"))
    words[first + 1:first + 1] = ["-I" + folder]
    subprocess.run(words, cwd=build, check=True, capture_output=True)

    link = shlex.split(last_command(
        build, PROGRAMS.get(test, f"tests/kernels/emulation/test-emulated-{test}")))
    program = os.path.join(folder, "broken")
    link[link.index("-o") + 1] = program
    link.insert(link.index("-o") + 2, target)
    subprocess.run(link, cwd=build, check=True, capture_output=True)
    run = subprocess.run([program], capture_output=True, text=True,
                         env=dict(os.environ, EMULATED_SM=str(sm), **ENVIRONMENT.get(test, {})))
    for line in run.stdout.split("\n"):
        if line.startswith(("not ok", "FAILED", "Bail out!")):
            return line
    return "unnoticed"


def main():
    build = os.path.realpath(sys.argv[1])
    missed = 0
    for fault in FAULTS:
        if sys.argv[2:] and fault[0] not in sys.argv[2:]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            said = verdict(build, folder, fault)
        missed += said == "unnoticed"
        print(f"{fault[0]}: {fault[1]}, {fault[2]} [{fault[4]}] -> {fault[3]}\n    {said}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
