"""What `mainspring info` prints: versions, the processor, what it can do at most, caches, and optional parts."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mainspring._version import __version__
from mainspring.base import flags
from mainspring.tools.report import environment

REQUIRED = ("numpy", "llvmlite", "ml_dtypes", "safetensors", "scipy", "typer", "rich", "jinja2")
OPTIONAL = {
    "scikit-learn": "the digits recipe without --data",
    "mpi4py": "parallel training",
    "openmpi": "parallel training",
    "onnx": "model exchange",
    "plotly": "pictures",
}
_PRODUCT = 1024  # rows and columns of the measured matrix product
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

Row = tuple[str, str]


def show(measure: bool) -> None:
    """Print all of it as a table that fits the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows(measure):
        table.add_row(name, value)
    console.print(table, highlight=False)


def rows(measure: bool) -> Iterator[Row]:
    """(name, value) of each fact; `measure` runs a compiled matrix product for about a second."""
    machine = environment()
    yield "mainspring", __version__
    yield "python", f"{platform.python_version()} ({machine['system']}, {platform.machine()})"
    yield "processor", str(machine["processor"])
    yield from _target_rows()
    yield "processor caches", ", ".join(processor_caches()) or "unknown"
    yield "threads", f"{flags.threads()} of {os.cpu_count()} logical processors"
    if measure:
        yield "measured peak", f"{measured_gflops():.0f} GFLOP/s, compiled float32 matrix product of {_PRODUCT}³"
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


def processor_caches() -> list[str]:
    """``["L1 data 48K", "L2 unified 1024K", ...]`` of one core, where the system tells."""
    found = []
    for index in sorted(_CACHES.glob("index*")) if _CACHES.is_dir() else []:
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        found.append(f"L{level} {kind.lower()} {size}")
    return found


def measured_gflops(seconds: float = 1.0) -> float:
    """The best rate of a compiled square product seen in `seconds`, in 10⁹ floating-point operations a second."""
    from mainspring.jit import jit
    from mainspring.ops.contract import matmul
    from mainspring.tensor import asarray

    rng = np.random.default_rng(0)
    a, b = (asarray(rng.standard_normal((_PRODUCT, _PRODUCT), np.float32)) for _ in range(2))
    product = jit(matmul)
    np.asarray(product(a, b))  # compiles
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        np.asarray(product(a, b))
        best = min(best, time.perf_counter() - start)
    return 2 * _PRODUCT**3 / best / 1e9


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
