"""What `mainspring info` prints: versions, the processor, what it can do at most, caches, and optional parts."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from mainspring._version import __version__
from mainspring.base import flags
from mainspring.compile.target.caches import caches
from mainspring.tools.peak import Rate, measure
from mainspring.tools.report import environment

REQUIRED = ("numpy", "llvmlite", "ml_dtypes", "safetensors", "scipy", "typer", "rich", "jinja2")
OPTIONAL = {
    "scikit-learn": "the digits recipe without --data",
    "mpi4py": "parallel training",
    "openmpi": "parallel training",
    "onnx": "model exchange",
    "plotly": "pictures",
}

Row = tuple[str, str]


def show(measured: bool, memory: bool) -> None:
    """Print all of it as a table that fits the terminal; see `rows`."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows(measured, memory):
        table.add_row(name, value)
    console.print(table, highlight=False)


def rows(measured: bool, memory: bool) -> Iterator[Row]:
    """(name, value) of each fact; `measured` finds the peak for about a second, with `memory` for two more."""
    machine = environment()
    yield "mainspring", __version__
    yield "python", f"{platform.python_version()} ({machine['system']}, {platform.machine()})"
    yield "processor", str(machine["processor"])
    yield from _target_rows()
    yield "processor caches", ", ".join(map(str, caches())) or "unknown"
    yield "threads", f"{flags.threads()} of {os.cpu_count()} logical processors"
    if measured or memory:
        yield from _peak_rows(memory)
    yield "compiled objects", compiled_objects()
    yield "needed parts", ", ".join(f"{name} {_installed(name) or 'missing!'}" for name in REQUIRED)
    for name, use in OPTIONAL.items():
        yield f"optional: {name}", f"{_installed(name) or 'not installed'} ({use})"


def _target_rows() -> Iterator[Row]:
    from mainspring.compile.target import by_name

    target = by_name(flags.target())
    yield "compiles for", f"{target.cpu}, {target.triple}"
    registers = f"{target.vector_registers} vector registers of {8 * target.vector_bytes} bits"
    yield "features", f"{', '.join(sorted(target.has)) or 'baseline'}; {registers}"


def _peak_rows(memory: bool) -> Iterator[Row]:
    peak = measure(memory=memory)
    for name, rate in peak.arithmetic.items():
        yield f"peak {name}", _rate(rate, "GFLOP/s" if "float" in name else "GOP/s", peak.threads)
    for name, rate in peak.memory.items():
        yield f"memory, {name}", _rate(rate, "GB/s", peak.threads)


def _rate(rate: Rate, unit: str, threads: int) -> str:
    digits = 0 if rate.all >= 100 else 1
    return f"{rate.one:.{digits}f} {unit} on one core, {rate.all:.{digits}f} on {threads} threads"


def compiled_objects() -> str:
    """The folder of compiled objects, how many there are, and their size."""
    folder = flags.cache()
    if not folder:
        return "not kept (MS_CACHE is empty)"
    sizes = [path.stat().st_size for path in Path(folder).glob("*.bin")]
    return f"{folder}: {len(sizes)} of {sum(sizes) / 2**20:.1f} MB (at most {flags.cache_mb()} MB)"


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
