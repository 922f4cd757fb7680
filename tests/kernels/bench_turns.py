# SPDX-License-Identifier: Apache-2.0
"""Ours and PyTorch in turn: what bench-cuda-heavy.py and bench-svdq-sm90.py share.

Each side times a recorded graph of launches of REPLAY_MS, replayed REPLAYS times; the median counts.
"""
import subprocess

import torch

REPLAYS, REPLAY_MS = 3, 8.0


def record(run, launches):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(launches):
            run(i)
    return graph


def replay_ms(graph, replays):
    times = []
    for _ in range(replays + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times[1:])[replays // 2]


class Theirs:
    """An operation of PyTorch, recorded; run(i) is launch i and holds the tensors."""

    def __init__(self, run):
        self.run = run  # else what the recording reads would be freed
        for i in range(2):
            run(i)
        torch.cuda.synchronize()
        self.launches = max(4, min(64, int(REPLAY_MS / (replay_ms(record(run, 2), 1) / 2))))
        self.graph = record(run, self.launches)

    def ms(self):
        return replay_ms(self.graph, REPLAYS) / self.launches


class Ours:
    """A program of ours that answers a line for each line."""

    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, bufsize=1)

    def ask(self, *words):
        self.process.stdin.write(' '.join(str(int(w) if isinstance(w, bool) else w)
                                          for w in words) + '\n')
        return self.process.stdout.readline().strip()

    def ms(self, *words):
        try:
            return float(self.ask(*words))
        except ValueError:
            return None
