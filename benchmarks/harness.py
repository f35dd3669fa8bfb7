"""Peers side by side: each in a process of its own, run in turn, compared pair by pair.

A benchmark file gives a table name -> builder; ``builder(threads)`` sets a workload up and gives a function that runs it once.
`main` starts the file once more for each peer, tells them in turn to run, and prints medians and the median of the ratios, so
that a drift of the machine's speed meets both sides alike. A peer that is not installed is left out by name.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

Builder = Callable[[int], Callable[[], object]]


def main(doc: str, builders: dict[str, Builder], runs: int) -> None:
    """Compare `builders`; `runs` is how often a workload runs in one timing. The first is ours."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9, help="timings of each peer, interleaved")
    parser.add_argument("--worker", choices=list(builders), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        _work(builders[args.worker], args.threads, runs)
    else:
        _compare(list(builders), args.threads, args.rounds, runs)


def _work(builder: Builder, threads: int, runs: int) -> None:
    """A peer's process: set up, warm up, then one timing for each line on standard input."""
    try:
        run = builder(threads)
    except ImportError as error:
        print(f"absent {error}", flush=True)
        return
    for _ in range(3):
        run()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(runs):
            run()
        print((time.perf_counter() - start) / runs, flush=True)


def _start(name: str, threads: int) -> subprocess.Popen[str] | None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MS_THREADS": str(threads)}
    command = [sys.executable, sys.argv[0], "--worker", name, "--threads", str(threads)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    answer = process.stdout.readline().strip()
    if answer != "ready":
        print(f"{name}: left out ({answer or 'it failed'})")
        return None
    return process


def _time(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def _compare(names: list[str], threads: int, rounds: int, runs: int) -> None:
    started = {name: process for name in names if (process := _start(name, threads)) is not None}
    times: dict[str, list[float]] = {name: [] for name in started}
    for _ in range(rounds):
        for name, process in started.items():
            times[name].append(_time(process))
    ours = names[0]
    print(f"{threads} threads, median of {rounds} interleaved rounds of {runs} runs")
    for name, values in times.items():
        ratio = statistics.median(b / a for a, b in zip(times[ours], values, strict=True)) if ours in times else float("nan")
        print(f"{name:14s} {statistics.median(values) * 1e3:9.3f} ms   time / ours {ratio:5.2f}")
    for process in started.values():
        process.terminate()
