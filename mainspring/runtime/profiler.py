"""Where the time of a compiled function goes: cycles of every launch on every thread, taken inside the program.

With this you can `profile` a graph on real values and print the table: per kernel its share of the time, arithmetic and memory
rates, and what is spent outside kernels (barriers, waiting for the slower thread). The names and estimates are those by which
the compiler knows the kernels before they run.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from mainspring.base import flags
from mainspring.compile.canonical import canonical
from mainspring.compile.emit import codegen
from mainspring.compile.loops import Kernel
from mainspring.compile.lower import lower
from mainspring.compile.program import TIMED_THREADS, Instr, Launch, Repeat, launches
from mainspring.ir.bind import Value
from mainspring.ir.graph import Graph
from mainspring.runtime.executable import NativeExecutable, Once, chooser_in_force, private, target_in_force
from mainspring.runtime.native import NativeProgram

_CLOCK = """
declare i64 @llvm.readcyclecounter()
define i64 @ms_cycles() {
  %now = call i64 @llvm.readcyclecounter()
  ret i64 %now
}
"""


@dataclass(frozen=True)
class Row:
    """One kernel: how often it is launched in a run, nanoseconds a run (the sum over threads), FLOPs and bytes a run."""

    name: str
    launches: int
    tasks: int
    ns: float
    flops: float
    nbytes: float


@dataclass(frozen=True)
class Profile:
    """Time a run. `wall`: nanoseconds; `rows`: kernels, the most expensive first; `threads`: how many shared the work."""

    wall: float
    threads: int
    rows: tuple[Row, ...]

    @property
    def outside(self) -> float:
        """Share of the threads' time that is spent in no kernel: launching, barriers, waiting for each other."""
        return 1 - sum(r.ns for r in self.rows) / (self.wall * self.threads)

    def __str__(self) -> str:
        head = f"{self.wall / 1e6:.3f} ms a run on {self.threads} threads, {100 * self.outside:.1f} % of it outside kernels"
        lines = [head, f"{'share':>6} {'ms':>9} {'GFLOP/s':>8} {'GB/s':>6} {'launches':>8} {'tasks':>6}  kernel"]
        total = self.wall * self.threads
        for r in self.rows:
            lines.append(f"{100 * r.ns / total:5.1f}% {r.ns / 1e6:9.3f} {r.flops / max(r.ns, 1):8.1f} "
                         f"{r.nbytes / max(r.ns, 1):6.1f} {r.launches:8d} {r.tasks:6d}  {r.name}")
        return "\n".join(lines)


def profile(graph: Graph, values: Sequence[Value], donated: Sequence[int] = (), runs: int = 10, lasting: int = 0) -> Profile:
    """Run the native program of `graph` on `values` and measure each kernel; `values` stay whole, donated or not.

    The last `lasting` of them are the same in every call: what is done once for them is not measured.
    """
    lowered = lower(graph, target_in_force(), donated, chooser_in_force(), lasting)
    program = replace(lowered.program, bases=lowered.program.bases + 1, timed=True)
    every = list(launches(program.instrs))
    cycles = np.zeros((len(every), TIMED_THREADS), np.int64)
    native = NativeProgram(program)
    once = lowered.once and Once(NativeProgram(lowered.once), lowered.kept)
    plain = NativeExecutable(graph, native, lowered.constants, lowered.aliases, donated, once)
    executable = plain.bound(values[len(values) - lasting :])
    executable = NativeExecutable(graph, native, [*executable.constants, cycles], lowered.aliases, donated)
    wall = 0.0
    for number in range(runs + 2):
        operands = [private(v) if i in donated else v for i, v in enumerate(values)]
        if number == 2:  # two runs to warm up
            cycles[:] = 0
        start = time.perf_counter_ns()
        executable(operands)
        if number >= 2:
            wall += time.perf_counter_ns() - start
    threads = 1 if native.alone else flags.threads()
    return Profile(wall / runs, threads, _rows(every, list(_times(program.instrs)), cycles.sum(axis=1) / _frequency() / runs))


@cache
def _frequency() -> float:
    """Cycles of the processor's counter a nanosecond."""
    code = codegen.load_object(codegen.compile_module(_CLOCK))
    clock = ctypes.CFUNCTYPE(ctypes.c_int64)(code.address("ms_cycles"))
    start, cycles = time.perf_counter_ns(), clock()
    time.sleep(0.02)
    return (clock() - cycles) / (time.perf_counter_ns() - start)


def _times(instrs: tuple[Instr, ...], rounds: int = 1) -> Iterator[int]:
    """How often a run does each launch, in the order of `launches`; the body of a loop without a count is counted once."""
    for instr in instrs:
        count = rounds * instr.count if isinstance(instr, Repeat) else rounds
        yield from (_times(instr.body, count) if isinstance(instr, Repeat) else [count for _ in launches((instr,))])


def _rows(every: list[Launch], times: list[int], ns: np.ndarray) -> tuple[Row, ...]:
    """Equal kernels as one row."""
    rows: dict[str, Row] = {}
    for launch, count, spent in zip(every, times, ns, strict=True):
        kernel = launch.kernel
        nbytes = sum(p.size * p.dtype.itemsize for p in kernel.params)
        before = rows.get(key := canonical(kernel), Row(_name(kernel), 0, kernel.tasks, 0.0, 0.0, 0.0))
        rows[key] = replace(before, launches=before.launches + count, ns=before.ns + float(spent),
                            flops=before.flops + count * kernel.flops, nbytes=before.nbytes + count * nbytes)
    return tuple(sorted(rows.values(), key=lambda r: -r.ns))


def _name(kernel: Kernel) -> str:
    sizes = " ".join(f"{'→' if p in kernel.written else ''}{p.dtype.name}[{p.size}]" for p in kernel.params[:6])
    return f"{kernel.name} {sizes}{' …' if len(kernel.params) > 6 else ''}"
