"""A peer's process: builds the workloads it is told to, and times them, answering each order with a line of JSON."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import math
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import IMPORTS, Workload, load

_LONG = 0.5  # seconds; so long a run needs no other to warm up for it
_STATUS = Path("/proc/self/status")


def main() -> None:
    """Answer orders from standard input until it ends. What libraries print goes to standard error."""
    _die_with_parent()
    module, name, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(module, name, threads)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = getattr(worker, order.pop("do"))(**order)
        except ImportError as error:
            answer = {"failed": f"not installed: {error}"}
        except Exception as error:
            first, *_ = [*str(error).strip().splitlines(), ""]
            answer = {"failed": f"{type(error).__name__}: {first}"[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _die_with_parent() -> None:
    """A stopped process would not see its input end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Worker:
    """One peer of one family."""

    def __init__(self, module: str, name: str, threads: int):
        self.module, self.name, self.threads = module, name, threads
        self.workload: Workload | None = None
        self.each, self.before = 0.0, 0

    def build(self, case: str, numbers: str) -> dict[str, Any]:
        """Set the case up, run it as often as its numbers are compared, and save them; `first` is the first run's time."""
        self.workload = None
        gc.collect()
        _limit(self.name, self.threads)
        family = load(self.module)
        _forget_peak()
        self.before = _memory("VmRSS")
        self.workload = family.peers[self.name](next(c for c in family.cases if c.name == case))
        start = time.perf_counter()
        results = _arrays(self.workload.run())
        first = time.perf_counter() - start
        for _ in range(self.workload.checks - 1):
            results += _arrays(self.workload.run())
        np.savez(numbers, *results)
        self.each = 0.0
        return {"first": first, **self.memory()}

    def time(self, seconds: float) -> dict[str, Any]:
        """Seconds of one run, from as many as take `seconds`."""
        assert self.workload is not None
        run = self.workload.run
        if not self.each:
            self.each = _each(run)
        elif self.each < _LONG:
            run()  # the caches, and the threads that slept, are as in a program that does this all the time
        count = max(1, math.ceil(seconds / self.each))
        start = time.perf_counter()
        for _ in range(count):
            run()
        return {"seconds": (time.perf_counter() - start) / count}

    def memory(self) -> dict[str, Any]:
        """Bytes taken at most since the case was set up, above what the process held before."""
        return {"bytes": max(0, _memory("VmHWM") - self.before)}


def _each(run: Any) -> float:
    """About how long a run takes, after it has warmed up."""
    times, end = [], time.perf_counter() + 0.05
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 1000):
        if times and times[0] > _LONG:
            break
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return max(sorted(times)[len(times) // 2], 1e-7)


def _limit(name: str, threads: int) -> None:
    """Bind the process to `threads` cores, which libraries heed, import its library, and tell it if it wants to be told."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    if name not in IMPORTS:
        return
    library = importlib.import_module(IMPORTS[name])
    if IMPORTS[name] == "torch":
        library.set_num_threads(threads)
    elif IMPORTS[name] == "jax":
        library.devices()  # starts it


def _arrays(result: Any) -> list[np.ndarray]:
    """The numbers of a result, at most 2¹⁶ of each array."""
    items = result if isinstance(result, (tuple, list)) else [result]
    return [_array(item).ravel()[: 1 << 16] for item in items if item is not None]


def _array(item: Any) -> np.ndarray:
    if hasattr(item, "detach"):
        item = item.detach().float().numpy()
    elif hasattr(item, "numpy") and not hasattr(item, "__array__"):
        item = item.numpy()
    return np.asarray(item, np.float64)


def _memory(line: str) -> int:
    """VmRSS, or VmHWM (its peak), in bytes."""
    try:
        text = _STATUS.read_text()
        return int(text.partition(f"{line}:")[2].split()[0]) << 10
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _forget_peak() -> None:
    with contextlib.suppress(OSError):  # the peak is then that of the whole process
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
