"""What a jitted call costs beyond its kernels, and what the first call of the GPT step costs: compiled, and from disk.

    python benchmarks/jit_call.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

import numpy as np


def call_cost(leaves: int, results: int) -> float:
    """Microseconds of a call of a function of `leaves` 4-element tensors giving `results`, the best of five medians."""
    import mainspring as ms

    tree = {f"w{i}": ms.asarray(np.ones(4, np.float32)) for i in range(leaves)}
    function = ms.jit(lambda t: {name: x * 2.0 for name, x in list(t.items())[:results]})
    for _ in range(100):
        function(tree)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(2000):
            function(tree)
        best = min(best, (time.perf_counter() - start) / 2000)
    return best * 1e6


FIRST = """
import time, sys
sys.path.insert(0, {folder!r})
from gpt_step import mainspring
run = mainspring(2)
start = time.perf_counter(); run(); print(time.perf_counter() - start)
"""


def first_call(cache: str) -> float:
    """Seconds of the first call of the GPT step in a new process."""
    code = FIRST.format(folder=os.path.dirname(os.path.abspath(__file__)))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "MS_CACHE": cache},
                            check=True)
    return float(result.stdout)


if __name__ == "__main__":
    print(f"50 leaves, 1 result:   {call_cost(50, 1):6.1f} µs a call")
    print(f"50 leaves, 50 results: {call_cost(50, 50):6.1f} µs a call")
    with tempfile.TemporaryDirectory() as cache:
        print(f"GPT step, first call compiled: {first_call(cache):6.2f} s")
        print(f"GPT step, first call from the disk cache: {first_call(cache):6.2f} s")
