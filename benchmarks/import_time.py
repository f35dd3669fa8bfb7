"""How long `import mainspring` takes, beside `import torch` and `import numpy`.

    python benchmarks/import_time.py [--torch PYTHON] [--rounds 9]

Each import is a process of its own; the modules take turns, so that a busy machine is busy for all. Reported are medians of
wall time and of processor time (user and system), less those of an interpreter that imports nothing. PYTHON is an interpreter
that has torch, if this one has not. Byte code is cached, as it is in an installed package.
"""

from __future__ import annotations

import argparse
import compileall
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "mainspring"


def once(python: str, statement: str) -> tuple[float, float]:
    """Seconds of wall and of processor time of one interpreter that runs `statement`."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([python, "-c", statement], check=True, cwd=PACKAGE.parent, env=environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default=sys.executable, help="an interpreter that has torch")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    compileall.compile_dir(PACKAGE, quiet=1)
    cases = {
        "nothing": (sys.executable, "pass"),
        "numpy": (sys.executable, "import numpy"),
        "mainspring": (sys.executable, "import mainspring"),
        "torch": (options.torch, "import torch"),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for turn in range(options.rounds + 1):
        for name, case in cases.items():
            measured = once(*case)
            if turn:  # the first warms the file cache
                times[name].append(measured)
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    print("import       wall, ms   processor, ms")
    for name in list(cases)[1:]:
        wall, cpu = (1e3 * (a - b) for a, b in zip(medians[name], medians["nothing"], strict=True))
        print(f"{name:12} {wall:8.0f} {cpu:15.0f}")
    ratios = [(a - c) / (b - c) for a, b, c in zip(medians["mainspring"], medians["torch"], medians["nothing"], strict=True)]
    print(f"mainspring / torch: {ratios[0]:.2f} of the wall time, {ratios[1]:.2f} of the processor time")


if __name__ == "__main__":
    main()
