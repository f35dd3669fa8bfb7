"""A program run by Python: the same instructions and loops as native code, on one thread, through `emit.python`.

With this you can run a compiled function without a compiler (MS_BACKEND=python) and compare every bit of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mainspring.base.errors import ArgumentError
from mainspring.compile.emit.python import compile_kernel
from mainspring.compile.loops import Kernel
from mainspring.compile.program import PLACES, Barrier, Branch, Instr, Launch, Loop, Program, Ref, Repeat, kernels
from mainspring.types.dtype import DType, bool_

Counters = dict[str, int]


class PythonProgram:
    """`program` ready to run over NumPy arrays. Safe to call from several threads: each call has its own arena."""

    def __init__(self, program: Program):
        self.program = program
        self.functions: dict[Kernel, Callable[..., None]] = {k: compile_kernel(k) for k in kernels(program.instrs)}

    def run(self, arrays: Sequence[np.ndarray]) -> None:
        """Run on `arrays`, one contiguous array of any dtype for each entry of the pointer table."""
        if len(arrays) != self.program.bases:
            raise ArgumentError("PythonProgram.run", "arrays", f"needs {self.program.bases} arrays", f"{len(arrays)} arrays")
        memory = [a.reshape(-1).view(np.uint8) for a in arrays]
        memory += [np.empty(self.program.own, np.uint8), np.empty(self.program.arena, np.uint8)]  # OWN is -2, ARENA -1
        _Run(self.functions, memory).block(self.program.instrs, {})


class _Run:
    """One run: the memory of every base, and what each instruction does with it."""

    def __init__(self, functions: dict[Kernel, Callable[..., None]], memory: list[np.ndarray]):
        self.functions, self.memory = functions, memory

    def view(self, ref: Ref, size: int, dtype: DType, counters: Counters) -> np.ndarray:
        start = ref.offset + sum(stride * counters[name] for name, stride in ref.strides)
        stop = start + size * dtype.itemsize
        whole = self.memory[ref.base]
        if start < 0 or stop > len(whole):
            where = PLACES.get(ref.base, f"base {ref.base}")
            raise IndexError(f"{ref} needs bytes {start}..{stop} of {where}, which has {len(whole)}")
        return whole[start:stop].view(dtype.numpy)

    def flag(self, ref: Ref, counters: Counters) -> bool:
        return bool(self.view(ref, 1, bool_, counters)[0])

    def block(self, instrs: tuple[Instr, ...], counters: Counters) -> None:
        for instr in instrs:
            _RUN[type(instr)](self, instr, counters)

    def launch(self, instr: Launch, counters: Counters) -> None:
        kernel = instr.kernel
        views = [self.view(r, p.size, p.dtype, counters) for r, p in zip(instr.refs, kernel.params, strict=True)]
        self.functions[kernel](*views, 0, kernel.tasks)

    def barrier(self, instr: Barrier, counters: Counters) -> None:
        """One thread waits for nobody."""

    def repeat(self, instr: Repeat, counters: Counters) -> None:
        steps = range(instr.count)
        for value in reversed(steps) if instr.reverse else steps:
            self.block(instr.body, {**counters, instr.var: value})

    def loop(self, instr: Loop, counters: Counters) -> None:
        self.block(instr.test, counters)
        while self.flag(instr.flag, counters):
            self.block(instr.body, counters)
            self.block(instr.test, counters)

    def branch(self, instr: Branch, counters: Counters) -> None:
        self.block(instr.then if self.flag(instr.flag, counters) else instr.other, counters)


_RUN: dict[type, Callable[[_Run, Any, Counters], None]] = {
    Launch: _Run.launch, Barrier: _Run.barrier, Repeat: _Run.repeat, Loop: _Run.loop, Branch: _Run.branch,
}
