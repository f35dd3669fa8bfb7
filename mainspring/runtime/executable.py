"""An executable: a compiled graph, called with NumPy arrays.

With this you can `build` a graph for this machine (from the memory of this process, from the disk cache, or by compiling) and
call it. MS_BACKEND chooses what runs: native code, the same loops as Python, or the references node by node.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakValueDictionary

import numpy as np

from mainspring.base import flags
from mainspring.base.errors import CompileError
from mainspring.compile.lower import Lowered, lower
from mainspring.compile.program import describe
from mainspring.compile.target import Target, native
from mainspring.interpret.reference import run_reference
from mainspring.ir.graph import Graph
from mainspring.runtime import kernel_cache
from mainspring.runtime.native import NativeProgram
from mainspring.runtime.python_program import PythonProgram
from mainspring.types.dtype import as_dtype


class Executable(Protocol):
    """A function of dense arrays. `aliases`: for each result the donated input whose memory it takes, or None."""

    aliases: Sequence[int | None]

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]: ...


def address(array: np.ndarray) -> int:
    """Where the elements begin."""
    return array.__array_interface__["data"][0]


class NativeExecutable:
    """Native code. Arguments must be C-contiguous; a donated argument's memory becomes the result's."""

    def __init__(self, graph: Graph, program: NativeProgram, constants: Sequence[np.ndarray], aliases: Sequence[int | None]):
        self.program, self.aliases = program, aliases
        self.constants = list(constants)
        self.fixed = [address(c) for c in self.constants]
        self.results = [(t.shape, t.dtype.numpy) for t in graph.output_types]

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        outs = [np.empty(*result) if alias is None else arrays[alias] for result, alias in zip(self.results, self.aliases, strict=True)]
        self.program.run([a.__array_interface__["data"][0] for a in (*arrays, *outs)] + self.fixed)
        return outs


class PythonExecutable:
    """The same program through the Python emitter."""

    def __init__(self, graph: Graph, lowered: Lowered):
        self.aliases: Sequence[int | None] = lowered.aliases
        self.program, self.constants = PythonProgram(lowered.program), lowered.constants
        self.results = [(t.shape, t.dtype.numpy) for t in graph.output_types]

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        outs = [np.empty(*result) if alias is None else arrays[alias] for result, alias in zip(self.results, self.aliases, strict=True)]
        for out in outs:
            out.setflags(write=True)
        with np.errstate(all="ignore"):
            self.program.run([*arrays, *outs, *self.constants])
        return outs


class ReferenceExecutable:
    """The references, node by node."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.aliases: Sequence[int | None] = [None] * len(graph.outputs)

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        with np.errstate(all="ignore"):
            results = run_reference(self.graph, arrays)
        types = self.graph.output_types
        return [np.array(r, dtype=t.dtype.numpy, order="C").reshape(t.shape) for r, t in zip(results, types, strict=True)]


_built: WeakValueDictionary[Any, Executable] = WeakValueDictionary()


def build(graph: Graph, donated: Sequence[int] = ()) -> Executable:
    """The executable of `graph` whose inputs at positions `donated` may be overwritten."""
    backend = flags.backend()
    key = (graph.digest, tuple(donated), backend, flags.target())
    found = _built.get(key)
    if found is None:
        found = _built[key] = _make(graph, tuple(donated), backend)
    return found


def _make(graph: Graph, donated: tuple[int, ...], backend: str) -> Executable:
    if backend == "reference":
        return ReferenceExecutable(graph)
    if backend == "python":
        return PythonExecutable(graph, lower(graph, native(), donated))
    started = time.perf_counter()
    target = native()
    key = kernel_cache.digest(f"graph {graph.digest} donated {donated}", target.key)
    stored = kernel_cache.get(key) if flags.debug() < 2 else None
    if stored is not None:
        executable = _unpack(graph, stored)
    else:
        executable, payload = _compile(graph, target, donated)
        kernel_cache.put(key, payload)
    if flags.debug() >= 1:
        origin = "compiled" if stored is None else "from the disk cache"
        print(f"[mainspring] {graph!r}: {origin} in {time.perf_counter() - started:.3f} s", file=sys.stderr)
    return executable


def _compile(graph: Graph, target: Target, donated: tuple[int, ...]) -> tuple[NativeExecutable, bytes]:
    lowered = lower(graph, target, donated)
    if flags.debug() >= 2:
        print(describe(lowered.program.instrs, loops=flags.debug() >= 4), file=sys.stderr)
    program = NativeProgram(lowered.program, target)
    return NativeExecutable(graph, program, lowered.constants, lowered.aliases), _pack(lowered, program)


def _pack(lowered: Lowered, program: NativeProgram) -> bytes:
    """Header, constants, native program: what the disk keeps of an executable."""
    facts = {"aliases": lowered.aliases, "constants": [[as_dtype(c.dtype).name, list(c.shape)] for c in lowered.constants]}
    head = json.dumps(facts).encode()
    return b"".join([len(head).to_bytes(8, "little"), head, *[c.tobytes() for c in lowered.constants], program.to_bytes()])


def _unpack(graph: Graph, data: bytes) -> NativeExecutable:
    try:
        at = 8 + int.from_bytes(data[:8], "little")
        facts = json.loads(data[8:at])
        constants = []
        for name, shape in facts["constants"]:
            array = np.empty(shape, as_dtype(name).numpy)
            array = np.frombuffer(data, array.dtype, array.size, at).reshape(shape).copy()
            at += array.nbytes
            constants.append(array)
    except (ValueError, KeyError) as error:
        raise CompileError("executable", "cache entry", "must be what was stored", str(error)) from error
    return NativeExecutable(graph, NativeProgram.from_bytes(data[at:]), constants, facts["aliases"])
