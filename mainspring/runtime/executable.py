"""An executable: a compiled graph, called with concrete values.

With this you can `build` a graph for this machine (from the memory of this process, from the disk cache, or by compiling) and
call it. MS_BACKEND chooses what runs: native code, the same loops as Python, or the references node by node.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Self
from weakref import WeakValueDictionary

import numpy as np

from mainspring.base import flags
from mainspring.base.errors import CompileError
from mainspring.base.treecode import Writer
from mainspring.compile import choose
from mainspring.compile.choose import HEURISTIC, Chooser
from mainspring.compile.lower import Lowered, lower
from mainspring.compile.program import describe
from mainspring.compile.target import Target, chosen
from mainspring.interpret.eager import escaped, wrap
from mainspring.interpret.reference import run_reference
from mainspring.ir.bind import Value, memory_value, write_memory_value
from mainspring.ir.graph import Graph
from mainspring.ir.text import show
from mainspring.runtime import kernel_cache, tuning
from mainspring.runtime.buffers import ALIGNMENT, aligned, allocate, supplier
from mainspring.runtime.footprint import give_back
from mainspring.runtime.native import NativeProgram
from mainspring.runtime.python_program import PythonProgram
from mainspring.types.dtype import as_dtype
from mainspring.types.shape import TensorType


class Executable(Protocol):
    """A function of concrete values. `donated`: positions of the inputs it may take over."""

    def __call__(self, values: Sequence[Value]) -> list[Value]: ...

    def write(self, operands: Sequence[str], writer: Writer) -> list[str]:
        """The call as lines of a written function, on the values so named; gives names of the results."""
        ...

    def bound(self, lasting: Sequence[Value]) -> Executable:
        """The executable whose last inputs are `lasting` in every call: what is computed of them alone is computed now."""

    def repeat(self, state: Sequence[Value], others: Sequence[Sequence[Value]]) -> tuple[list[Value], list[list[Value]]]:
        """A call for each of `others`, of the first results of the call before (first: of `state`) and these.

        Gives as many first results of the last call as `state` has values, and the other results of each.
        """
        ...


SHARED_BYTES = 1 << 14  # results up to this size share one piece of memory, larger ones get their own
LARGE = 1 << 16  # bytes of code that take LLVM so long, and so much memory, that cleaning up afterwards costs nothing
REPEATED_BYTES = 1 << 16  # new memory up to which calls are repeated natively: each has its own


def _address(value: Value) -> int:
    """Where the elements of `value` begin, dense and in row-major order."""
    if value._frame is not None:
        raise escaped("jit")
    array = value._data
    if not array.flags.c_contiguous or array.flags.writeable:
        array = value._held = np.array(array, order="C").reshape(array.shape)
        array.setflags(write=False)
    value._address = array.__array_interface__["data"][0]
    return value._address


def _empty(values: Sequence[Value]) -> None:
    """Take the memory away from `values`, which were donated."""
    for value in values:
        value._held = value._memory = None
        value._address = 0


def private(value: Value) -> Value:
    """A copy of `value` in memory that nobody else can see, as a compiled function would have made it: it can be donated."""
    return memory_value(*_copied(value._address or _address(value), value._type.nbytes), value._type)


@dataclass(frozen=True)
class Once:
    """A program with the bases of another, that fills the memory behind the last of them: `kept` bytes each."""

    program: NativeProgram
    kept: tuple[int, ...]


class NativeExecutable:
    """Native code. A donated input's memory becomes the result's where the plan says so. With `once`, it must be `bound`."""

    def __init__(self, graph: Graph, program: NativeProgram, constants: Sequence[np.ndarray], aliases: Sequence[int | None],
                 donated: Sequence[int], once: Once | None = None):
        self.graph, self.program, self.aliases, self.donated, self.once = graph, program, list(aliases), donated, once
        self.constants = list(constants)
        self.inputs, self.types = len(graph.inputs), graph.output_types
        self.fixed = [c.__array_interface__["data"][0] for c in self.constants]

    @cached_property
    def run(self) -> Callable[..., Any]:
        """The program as a function of the addresses of inputs and results."""
        return self.program.function(self.fixed)

    def bound(self, lasting: Sequence[Value]) -> NativeExecutable:
        """With the memory that `once` fills among its constants."""
        if self.once is None:
            return self
        kept = [aligned(nbytes) for nbytes in self.once.kept]
        result = NativeExecutable(self.graph, self.program, [*self.constants, *kept], self.aliases, self.donated)
        addresses = [v._address or _address(v) for v in lasting]
        unread = [0] * (self.inputs - len(lasting)), [0] * len(self.types)
        self.once.program.run([*unread[0], *addresses, *unread[1], *result.fixed])
        return result

    def __call__(self, values: Sequence[Value]) -> list[Value]:
        return self._call(values)

    @cached_property
    def _call(self) -> Callable[[Sequence[Value]], list[Value]]:
        writer = Writer()
        results = self.write(writer.unpack("values", self.inputs), writer)
        writer.lines.append(f"return [{', '.join(results)}]")
        return writer.function("def function(values):")

    def write(self, operands: Sequence[str], writer: Writer) -> list[str]:
        """Addresses of the operands, memory for the results, the call, and the results as values."""
        find, run = writer.constant(_address), writer.constant(self.run)
        writer.constant(self)  # keeps the program and its constants
        addresses = [f"{x}._address or {find}({x})" for x in operands]
        if self.donated:
            addresses = self._named(addresses, writer)
        places = self._memory(writer) | self._taken_over(operands, addresses, writer)
        writer.lines.append(f"{run}({', '.join([*addresses, *[places[i][1] for i in range(len(self.types))]])})")
        if self.donated:  # only now: memory that no result took over is read until here
            emptied = ", ".join([operands[source] for source in self.donated])
            writer.lines.append(f"{writer.constant(_empty)}(({emptied},))")
        results = [writer.fresh() for _ in self.types]
        for i, (name, type_) in enumerate(zip(results, self.types, strict=True)):
            write_memory_value(name, type_, *places[i], writer)
        return results

    def repeat(self, state: Sequence[Value], others: Sequence[Sequence[Value]]) -> tuple[list[Value], list[list[Value]]]:
        """As `Executable` says, in one native call: results that take over no memory lie in a piece for each run."""
        offsets, shared = self._offsets(range(len(self.types)))
        if shared > REPEATED_BYTES or list(self.donated) != list(range(len(state))):
            return _one_by_one(self, state, others)
        taken = self._own(state, others)
        memory, start = allocate(shared * len(others))
        places = [(value._memory, value._address) for value in taken]
        tables, rest = [], []
        for values in others:
            results = [(memory, start + offsets[i]) if alias is None else places[alias] for i, alias in enumerate(self.aliases)]
            addresses = [a for _, a in places] + [v._address or _address(v) for v in values] + [a for _, a in results]
            tables.append(addresses + self.fixed)
            rest.append([memory_value(*where, type_) for where, type_ in
                         zip(results[len(state) :], self.types[len(state) :], strict=True)])
            places, start = results[: len(state)], start + shared
        self.program.run_each(tables)
        _empty(state)
        return [memory_value(*where, type_) for where, type_ in zip(places, self.types[: len(state)], strict=True)], rest

    def _own(self, state: Sequence[Value], others: Sequence[Sequence[Value]]) -> list[Value]:
        """Values in memory that may be written to: of `state`, what nobody else can see, and copies of the rest."""
        addresses = [v._address or _address(v) for v in state]
        twice = _repeated(addresses) | {v._address or _address(v) for values in others for v in values}
        return [v if v._held is None and not a % ALIGNMENT and a not in twice else private(v)
                for v, a in zip(state, addresses, strict=True)]

    def _offsets(self, results: Iterable[int]) -> tuple[dict[int, int], int]:
        """Where those of `results` that take over no memory lie in a shared piece, each on cache lines of its own; its size."""
        offsets, end = {}, 0
        for i in results:
            if self.aliases[i] is None:
                offsets[i] = end
                end += -(-max(self.types[i].nbytes, 1) // ALIGNMENT) * ALIGNMENT
        return offsets, end

    def _named(self, expressions: list[str], writer: Writer) -> list[str]:
        names = [writer.fresh() for _ in expressions]
        writer.lines += [f"{name} = {x}" for name, x in zip(names, expressions, strict=True)]
        return names

    def _memory(self, writer: Writer) -> dict[int, tuple[str, str]]:
        """New memory for the results that take over none: (memory, address) of each as expressions."""
        memory, start = writer.fresh(), writer.fresh()
        offsets, shared = self._offsets([i for i, t in enumerate(self.types) if t.nbytes <= SHARED_BYTES])
        places = {i: (memory, f"{start} + {offset}") for i, offset in offsets.items()}
        if places:
            writer.lines.append(f"{memory}, {start} = {writer.constant(supplier(shared))}()")
        for i, t in enumerate(self.types):
            if self.aliases[i] is None and i not in places:
                places[i] = writer.fresh(), writer.fresh()
                writer.lines.append(f"{', '.join(places[i])} = {writer.constant(supplier(t.nbytes))}()")
        return places

    def _taken_over(self, operands: Sequence[str], addresses: list[str], writer: Writer) -> dict[int, tuple[str, str]]:
        """Donated memory that nobody else can see is used in place; what was seen, or came from outside, is copied once."""
        reused = [(i, source) for i, source in enumerate(self.aliases) if source is not None]
        if not reused:
            return {}
        twice, repeated, copy = writer.fresh(), writer.constant(_repeated), writer.constant(_copied)
        every = ", ".join(addresses)
        writer.lines.append(f"{twice} = () if len({{{every}}}) == {len(addresses)} else {repeated}(({every},))")
        places = {}
        for i, source in reused:
            x, address, memory, old = operands[source], addresses[source], writer.fresh(), writer.fresh()
            mine = f"{x}._held is None and not {address} % {ALIGNMENT} and {address} not in {twice}"
            writer.lines += [
                f"if {mine}: {memory} = {x}._memory",
                "else:",
                f"    {old}, ({memory}, {address}) = {address}, {copy}({address}, {self.types[i].nbytes})",
                f"    if {old} not in {twice}: {x}._held = {x}._memory = None",  # at once: not all of a state is there twice
            ]
            places[i] = memory, address
        return places


def _one_by_one(executable: Executable, state: Sequence[Value],
                others: Sequence[Sequence[Value]]) -> tuple[list[Value], list[list[Value]]]:
    """`Executable.repeat` as calls."""
    rest: list[list[Value]] = []
    for values in others:
        results = executable([*state, *values])
        state, further = results[: len(state)], results[len(state) :]
        rest.append(further)
    return list(state), rest


def _repeated(addresses: Sequence[int]) -> set[int]:
    """Those that are there more than once."""
    return {a for a, count in Counter(addresses).items() if count > 1}


def _copied(address: int, nbytes: int) -> tuple[np.ndarray, int]:
    """New memory with what lies at `address`."""
    memory, own = allocate(nbytes)
    ctypes.memmove(own, address, nbytes)
    return memory, own


class _Called:
    """An executable that written code calls with its operands as a list; what could be done once, it does in every call."""

    types: tuple[TensorType, ...]

    def write(self, operands: Sequence[str], writer: Writer) -> list[str]:
        """One line, the call."""
        results = writer.fresh()
        writer.lines.append(f"{results} = {writer.constant(self)}([{', '.join(operands)}])")
        return [f"{results}[{i}]" for i in range(len(self.types))]

    def bound(self, lasting: Sequence[Value]) -> Self:
        """Itself."""
        return self

    repeat = _one_by_one


class PythonExecutable(_Called):
    """The same program through the Python emitter; donated inputs are copied, so that results never share memory."""

    def __init__(self, graph: Graph, lowered: Lowered, donated: Sequence[int]):
        self.aliases, self.donated = lowered.aliases, donated
        self.program, self.constants = PythonProgram(lowered.program), lowered.constants
        self.once = lowered.once and PythonProgram(lowered.once)
        self.kept, self.types = lowered.kept, graph.output_types

    def __call__(self, values: Sequence[Value]) -> list[Value]:
        arrays = [np.array(v._data, order="C").reshape(v.shape) for v in values]
        outs = [np.empty(t.shape, t.dtype.numpy) if alias is None else arrays[alias]
                for t, alias in zip(self.types, self.aliases, strict=True)]
        every = [*arrays, *outs, *self.constants, *[np.empty(nbytes, np.uint8) for nbytes in self.kept]]
        with np.errstate(all="ignore"):
            for program in (self.once, self.program):
                if program is not None:
                    program.run(every)
        return _given(values, self.donated, outs, self.types)


class ReferenceExecutable(_Called):
    """The references, node by node."""

    def __init__(self, graph: Graph, donated: Sequence[int]):
        self.graph, self.donated, self.types = graph, donated, graph.output_types

    def __call__(self, values: Sequence[Value]) -> list[Value]:
        with np.errstate(all="ignore"):
            results = run_reference(self.graph, [v._data for v in values])
        outs = [np.array(r, dtype=t.dtype.numpy, order="C").reshape(t.shape) for r, t in zip(results, self.types, strict=True)]
        return _given(values, self.donated, outs, self.types)


def _given(values: Sequence[Value], donated: Sequence[int], outs: Sequence[np.ndarray],
           types: Sequence[TensorType]) -> list[Value]:
    """Results as values, donated inputs emptied."""
    _empty([values[source] for source in donated])
    return [wrap(a, t) for a, t in zip(outs, types, strict=True)]


_built: WeakValueDictionary[Any, Executable] = WeakValueDictionary()


def build(graph: Graph, donated: Sequence[int] = (), lasting: int = 0) -> Executable:
    """The executable of `graph` whose inputs at positions `donated` may be overwritten, as the chooser in force decides.

    With `lasting`, so many of the last inputs are the same in every call, and the executable must be `bound` to them.
    """
    backend, chooser, target = flags.backend(), chooser_in_force(), target_in_force()
    key = (graph.digest, tuple(donated), lasting, backend, flags.target(), target.costs.key, chooser.key)
    found = _built.get(key)
    if found is None:
        found = _built[key] = _make(graph, tuple(donated), lasting, backend, target, chooser)
    return found


def chooser_in_force() -> Chooser:
    """The chooser in force; else whatever was learned; else the heuristic."""
    named, learned = choose.in_force(), tuning()
    return named or (HEURISTIC if learned is None else learned.chooser())


def target_in_force() -> Target:
    """The machine that MS_TARGET names, with what was learned of its costs."""
    learned = tuning()
    return chosen() if learned is None else learned.target()


def _make(graph: Graph, donated: tuple[int, ...], lasting: int, backend: str, target: Target, chooser: Chooser) -> Executable:
    if backend == "reference":
        return ReferenceExecutable(graph, donated)
    if backend == "python":
        return PythonExecutable(graph, lower(graph, target, donated, chooser, lasting), donated)
    started = time.perf_counter()
    source = _Source(graph, target, donated, lasting, chooser)
    key = source.key("program", source.decided())
    stored = kernel_cache.get(key) if flags.debug() < 2 else None
    if stored is not None:
        executable = _unpack(graph, stored, donated)
    else:
        executable, payload = _compile(source)
        kernel_cache.put(key, payload)
        if len(payload) >= LARGE:
            give_back()
    if flags.debug() >= 1:
        origin = "compiled" if stored is None else "from the disk cache"
        print(f"[mainspring] {graph!r}: {origin} in {time.perf_counter() - started:.3f} s", file=sys.stderr)
    return executable


@dataclass
class _Source:
    """What a program is compiled from. A program is kept under what deviates from the heuristic: a chooser that has learned
    something else compiles only what comes out otherwise. The costs that lead the heuristic are part of the key.
    """

    graph: Graph
    target: Target
    donated: tuple[int, ...]
    lasting: int
    chooser: Chooser

    def key(self, *what: str) -> str:
        """The key of an entry of the disk cache about this graph."""
        what = (f"lasting {self.lasting}", *what) if self.lasting else what
        machine = self.target.key, self.target.costs.key
        return kernel_cache.digest(f"graph {self.graph.digest} donated {self.donated}", *machine, *what)

    @cached_property
    def lowered(self) -> Lowered:
        return lower(self.graph, self.target, self.donated, self.chooser, self.lasting)

    def decided(self) -> str:
        """Where the chooser deviates from the heuristic."""
        if self.chooser is HEURISTIC:
            return ""
        key = self.key("decided", self.chooser.key)
        stored = kernel_cache.get(key)
        if stored is None:
            stored = choose.deviations(self.lowered.decisions).encode()
            kernel_cache.put(key, stored)
        return stored.decode()


def _compile(source: _Source) -> tuple[NativeExecutable, bytes]:
    graph, target, donated = source.graph, source.target, source.donated
    if flags.debug() >= 3:
        print(show(graph), file=sys.stderr)
    lowered = source.lowered
    if flags.debug() >= 2:
        for part in (lowered.once, lowered.program):
            print(describe(part.instrs, loops=flags.debug() >= 4) if part else "", file=sys.stderr)
    program = NativeProgram(lowered.program, target)
    once = lowered.once and Once(NativeProgram(lowered.once, target), lowered.kept)
    executable = NativeExecutable(graph, program, lowered.constants, lowered.aliases, donated, once)
    return executable, _pack(executable)


def _pack(of: NativeExecutable) -> bytes:
    """Header, constants, native programs: what the disk keeps of an executable."""
    once = of.once.program.to_bytes() if of.once else b""
    facts = {"aliases": of.aliases, "constants": [[as_dtype(c.dtype).name, list(c.shape)] for c in of.constants],
             "once": len(once), "kept": of.once.kept if of.once else ()}
    head = json.dumps(facts).encode()
    return b"".join([len(head).to_bytes(8, "little"), head, *[c.tobytes() for c in of.constants], once,
                     of.program.to_bytes()])


def _unpack(graph: Graph, data: bytes, donated: tuple[int, ...]) -> NativeExecutable:
    try:
        at = 8 + int.from_bytes(data[:8], "little")
        facts = json.loads(data[8:at])
        constants = []
        for name, shape in facts["constants"]:
            array = np.empty(shape, as_dtype(name).numpy)
            array = np.frombuffer(data, array.dtype, array.size, at).reshape(shape).copy()
            at += array.nbytes
            constants.append(array)
        middle = at + facts["once"]
        once = Once(NativeProgram.from_bytes(data[at:middle]), tuple(facts["kept"])) if facts["once"] else None
    except (ValueError, KeyError) as error:
        raise CompileError("executable", "cache entry", "must be what was stored", str(error)) from error
    return NativeExecutable(graph, NativeProgram.from_bytes(data[middle:]), constants, facts["aliases"], donated, once)
