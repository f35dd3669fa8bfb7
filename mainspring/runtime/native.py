"""A program as native code in this process: compiled or read back from bytes, and called with a row of addresses.

With this you can build a program (`NativeProgram(program)`), run it on the team of threads, and keep it between
processes (`to_bytes`, `from_bytes`: the objects and a few numbers, so that nothing is lowered or compiled again).
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from llvmlite import ir

from mainspring.base import flags
from mainspring.base.errors import ArgumentError, CompileError
from mainspring.compile.canonical import canonical
from mainspring.compile.emit import codegen, llvm
from mainspring.compile.emit.program import emit_entry, emit_program, kernel_table
from mainspring.compile.loops import Kernel
from mainspring.compile.program import Program, kernels
from mainspring.compile.target import Target, native
from mainspring.runtime import entry, team
from mainspring.runtime.buffers import aligned

PIECES = 4  # modules a core: the first is soon written, and none takes much memory
LOCKED_NS = 200_000  # work up to which a program may keep the interpreter's lock
_TABLE, _ENTRY, _PROGRAM = "ms_kernels", "ms_entry", "ms_program"
_ENTRY_TYPE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


@dataclass(frozen=True)
class Code:
    """What a program is once compiled. `kernels`: object and symbol of each entry of the program's table of kernels."""

    bases: int
    arena: int
    work: float
    alone: bool  # runs on the caller's thread
    stride: int  # bytes of scratch a thread
    kernels: tuple[tuple[int, str], ...]
    objects: tuple[bytes, ...]  # the first holds the program itself


def compile_program(program: Program, target: Target | None = None) -> Code:
    """Compile `program` for `target` (default: this machine): equal kernels once, in a few modules for each core.

    LLVM, which needs no lock, works on the modules that are written while the next is being written.
    """
    target = target or native()
    distinct, index = _distinct(kernels(program.instrs))
    stride = max([llvm.scratch_bytes(k) for k in distinct.values()], default=0)
    stride = -(-stride // 128) * 128 + program.own  # two threads never share a cache line
    cores, members = os.cpu_count() or 1, list(distinct.values())
    groups = _groups([len(text) for text in distinct], PIECES * cores)
    with ThreadPoolExecutor(cores) as pool:
        jobs = [pool.submit(_compile, str(_kernel_module([(i, members[i]) for i in group], target)), target)
                for group in groups]
        main = pool.submit(_compile, str(_program_module(program, index, stride)), target)
        objects = tuple([main.result(), *[job.result() for job in jobs]])
    places = {i: (1 + g, _symbol(i)) for g, group in enumerate(groups) for i in group}
    ordered = tuple([places[i] for i in range(len(distinct))])
    return Code(program.bases, program.arena, program.work, program.alone, stride, ordered, objects)


def _distinct(found: list[Kernel]) -> tuple[dict[str, Kernel], dict[Kernel, int]]:
    """One kernel for each canonical text, and the place of every kernel among them."""
    distinct: dict[str, Kernel] = {}
    numbers: dict[str, int] = {}
    index = {}
    for kernel in found:
        text = canonical(kernel)
        distinct.setdefault(text, kernel)
        index[kernel] = numbers.setdefault(text, len(numbers))
    return distinct, index


def _groups(sizes: list[int], count: int) -> list[list[int]]:
    """Indices dealt into at most `count` groups of about equal size, the largest first."""
    groups: list[list[int]] = [[] for _ in range(min(count, len(sizes)))]
    loads = [0] * len(groups)
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        lightest = loads.index(min(loads))
        groups[lightest].append(i)
        loads[lightest] += sizes[i]
    return groups


def _symbol(index: int) -> str:
    return f"ms_kernel_{index}"


def _program_module(program: Program, index: dict[Kernel, int], stride: int) -> ir.Module:
    module = ir.Module("program")
    table = kernel_table(module, _TABLE, len(set(index.values())))
    emit_entry(module, emit_program(module, program, _PROGRAM, table, index, stride), _ENTRY)
    return module


def _kernel_module(members: list[tuple[int, Kernel]], target: Target) -> ir.Module:
    module = ir.Module("kernels")
    for i, kernel in members:
        llvm.emit_kernel(module, kernel, _symbol(i), target)
    return module


def _compile(text: str, target: Target) -> bytes:
    if flags.debug() >= 5:
        print(text, file=sys.stderr)
    if flags.debug() >= 6:
        print(codegen.assembly(text, target), file=sys.stderr)
    return codegen.compile_module(text, target)


class NativeProgram:
    """A program loaded into this process. Safe to call from several threads: each call in flight has its own arena."""

    def __init__(self, program: Program, target: Target | None = None):
        self._load(compile_program(program, target))
        if not self.alone and flags.threads() > 1:
            team.team()  # now, while LLVM is at hand: it compiles the team's code, too

    def _load(self, code: Code) -> None:
        self.code = code
        self._objects = [codegen.load_object(data) for data in code.objects]
        main = self._objects[0]
        if code.kernels:
            addresses = [self._objects[i].address(symbol) for i, symbol in code.kernels]
            table = (ctypes.c_uint64 * len(addresses)).from_address(main.address(_TABLE))
            np.ctypeslib.as_array(table)[:] = addresses
        self._address = main.address(_ENTRY)
        self.alone = code.alone
        self._pack = struct.Struct(f"{code.bases}P").pack_into
        self._free: list[_Call] = []

    def run(self, pointers: Sequence[int]) -> None:
        """Run with the addresses of the bases; each must stay valid until the call returns.

        Raises ArgumentError when their number is not that of the program's pointer table.
        """
        call, threads = self._ready()
        try:
            self._pack(call.table, 0, *pointers)
            self._enter(self._address, call.args, threads)
        except struct.error as error:
            raise self._wrong(len(pointers), error) from error
        finally:
            self._free.append(call)

    def run_each(self, tables: Sequence[Sequence[int]]) -> None:
        """`run` with each of `tables`, in order, as one native call."""
        bases, (call, threads) = self.code.bases, self._ready()
        try:
            pointers = np.frombuffer(struct.pack(f"{len(tables) * bases}P", *chain.from_iterable(tables)), np.uint64)
            first = pointers.ctypes.data
            blocks = [(first + 8 * bases * i, *call.block[1:].tolist()) for i in range(len(tables))]
            args = np.array([self._address, len(tables), *chain.from_iterable(blocks)], np.uint64)
            self._enter(entry.repeat(), args.ctypes.data, threads)
        except struct.error as error:
            raise self._wrong(len(tables), error) from error
        finally:
            self._free.append(call)

    def _ready(self) -> tuple[_Call, int]:
        """Memory for a call, and how many threads are to run it."""
        threads = 1 if self.alone else flags.threads()
        try:
            call = self._free.pop()
        except IndexError:
            call = _Call(self.code)
        if threads > call.threads:
            call.reserve(threads)
        return call, threads

    def _enter(self, address: int, args: int, threads: int) -> None:
        if threads == 1:
            _ENTRY_TYPE(address)(args, None, 0, 1)
        else:
            team.dispatch(address, args, threads)

    def _wrong(self, count: int, error: struct.error) -> ArgumentError:
        rule = f"must be {self.code.bases} addresses"
        return ArgumentError("NativeProgram.run", "pointers", rule, f"{count}: {error}")

    @cached_property
    def _own(self) -> _Call:
        """The memory of calls that keep the interpreter's lock: one is in flight at a time."""
        return _Call(self.code)

    def function(self, fixed: Sequence[int]) -> Callable[..., Any]:
        """`run` as a function of addresses one by one, before those of `fixed`. It does not keep the program alive."""
        if self.alone and self.code.work < LOCKED_NS:
            own = self._own
            return entry.function(self._address, self.code.bases - len(fixed), own.arena.ctypes.data, own.scratch.ctypes.data,
                                  fixed)
        return lambda *pointers: self.run((*pointers, *fixed))

    def to_bytes(self) -> bytes:
        """The compiled program as bytes, for `from_bytes` in a process on the same kind of machine."""
        facts = asdict(self.code)
        facts["objects"] = [len(data) for data in self.code.objects]
        head = json.dumps(facts).encode()
        return b"".join([len(head).to_bytes(8, "little"), head, *self.code.objects])

    @classmethod
    def from_bytes(cls, data: bytes) -> NativeProgram:
        """The program that `to_bytes` wrote; raises CompileError when `data` is not whole."""
        loaded = cls.__new__(cls)
        loaded._load(_parse(data))
        return loaded


def _parse(data: bytes) -> Code:
    try:
        start = 8 + int.from_bytes(data[:8], "little")
        facts: dict[str, Any] = json.loads(data[8:start])
        objects = []
        for size in facts["objects"]:
            objects.append(data[start : start + size])
            start += size
        facts |= {"objects": tuple(objects), "kernels": tuple([(i, symbol) for i, symbol in facts["kernels"]])}
        code = Code(**facts)
    except (ValueError, KeyError, TypeError) as error:
        raise CompileError("NativeProgram.from_bytes", "data", "must be what to_bytes wrote", str(error)) from error
    if start != len(data):
        raise CompileError("NativeProgram.from_bytes", "data", f"must have {start} bytes", f"{len(data)} bytes")
    return code


class _Call:
    """The memory of one call in flight: pointer table, argument block, arena, and scratch for `threads` threads."""

    def __init__(self, code: Code):
        self.stride = code.stride
        self.table = bytearray(8 * max(code.bases, 1))
        self.arena = aligned(code.arena)
        self.block = np.array([np.frombuffer(self.table, np.uint8).ctypes.data, self.arena.ctypes.data, 0], np.uint64)
        self.args = self.block.ctypes.data
        self.reserve(1)

    def reserve(self, threads: int) -> None:
        self.scratch = aligned(threads * self.stride)
        self.block[2] = self.scratch.ctypes.data
        self.threads = threads
