"""The loop IR: a kernel's loop nest, as a grammar on one screen.

    kernel := Kernel(name, params, tasks, task, body, scratch)
    stmt   := For(var, start, stop, body, role) | Let(ref, value) | Store(writes) | Reduce(...) | If(...) | While(...)
            | Prefetch(buffer, index)
    expr   := mainspring.ir.scalar.Expr, with load(buffer, index[, guard, fill]); a load whose dtype is not the buffer's reads
              the elements from `index` on that fill it

A kernel is a function of pointers. Its outermost dim is `tasks`: tasks are independent of each other and may run in
any order on any thread; what a task computes does not depend on how tasks are dealt out.

Roles of a `For`:
  serial   an ordinary loop
  unroll   repeated literally (constant bounds), so that its index is a constant in every copy
  vector   iterations are independent and may be done LANES at a time; inside it, expressions that depend on the index
           are vectors. Nothing but Let, Store, Prefetch, serial or unroll For, and serial Reduce may stand inside.

The numerics contract (docs/numerics.md) lives in `Reduce` alone: element r of the reduced extent goes to partial r mod LANES,
each partial takes its elements in order, the partials are combined by the fixed tree
((0+8)+(4+12)) …: halves are folded onto each other, 8, 4, 2, 1. A reduction of role "vector" does the LANES partials in
the lanes of one vector; one of role "serial" keeps LANES separate accumulators; the bits are the same. For a sum or a
product the partials start from the identity (0 or 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from mainspring.ir import scalar
from mainspring.ir.scalar import Expr, const, show
from mainspring.types.dtype import DType, int64

LANES = 16
COMBINES = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}  # a fold's primitive


@dataclass(frozen=True, eq=False)
class Buffer:
    """`size` elements of `dtype`. kind: "param" (a pointer argument), "scratch" (memory of the running thread, kept in
    cache), "register" (an array indexed only by constants once loops are unrolled; becomes registers)."""

    name: str
    dtype: DType
    size: int
    kind: str = "param"

    def __repr__(self) -> str:
        return f"{self.name}:{self.dtype.name}[{self.size}]"


def load(buffer: Buffer, index: Expr | int, guard: Expr | None = None, fill: Expr | None = None) -> Expr:
    """Element `index` of `buffer`; with a guard, `fill` where it is false, the address then not touched."""
    return scalar.load(buffer, index if isinstance(index, Expr) else const(index, int64), buffer.dtype, guard, fill)


def load_wide(buffer: Buffer, index: Expr, dtype: DType, guard: Expr | None = None) -> Expr:
    """The elements of `buffer` from `index` on that fill an unsigned integer of `dtype`; 0 where the guard is false."""
    return scalar.load(buffer, index, dtype, guard)


class Stmt:
    """A statement of the loop IR."""


Body = tuple[Stmt, ...]


@dataclass(frozen=True, eq=False)
class For(Stmt):
    """Run `body` for `var` from `start` to `stop` (exclusive)."""

    var: Expr
    start: Expr
    stop: Expr
    body: Body
    role: str = "serial"


@dataclass(frozen=True, eq=False)
class Let(Stmt):
    """Bind the scalar `ref` (Expr of op "ref") to `value` for the statements that follow in this body."""

    ref: Expr
    value: Expr


@dataclass(frozen=True, eq=False)
class Write:
    """buffer[index] = value, where `guard` (if any) holds; add: buffer[index] += value."""

    buffer: Buffer
    index: Expr
    value: Expr
    guard: Expr | None = None


@dataclass(frozen=True, eq=False)
class Store(Stmt):
    """All values are evaluated, then all are written."""

    writes: tuple[Write, ...]


@dataclass(frozen=True, eq=False)
class Prefetch(Stmt):
    """Element `index` of `buffer` (which may lie outside of it) will be read soon, or written; this changes no value.

    level: the cache to bring it to, 1 for the nearest.
    """

    buffer: Buffer
    index: Expr
    write: bool = False
    level: int = 1


@dataclass(frozen=True, eq=False)
class Fold:
    """One reduction of a `Reduce`: bind `ref` to all `value`s combined by sum, prod, max, min, any or all."""

    ref: Expr
    combine: str
    value: Expr


def identity(combine: str, dtype: DType) -> bool | int | float:
    """What a partial starts from."""
    if combine in ("sum", "any"):
        return 0
    if combine in ("prod", "all"):
        return 1
    if dtype.kind == "float":
        return -math.inf if combine == "max" else math.inf
    bits = dtype.bits
    least, greatest = (-(1 << bits - 1), (1 << bits - 1) - 1) if dtype.kind == "int" else (0, -1)
    return least if combine == "max" else greatest


@dataclass(frozen=True, eq=False)
class Reduce(Stmt):
    """For `var` in [0, extent): run `body` (Let and Store), then fold. The refs of the folds are bound afterwards.

    max and min give NaN if any element is NaN. `extent` is a constant. Role "vector" or "serial" as in the module text.
    """

    var: Expr
    extent: int
    body: Body
    folds: tuple[Fold, ...]
    role: str = "vector"


@dataclass(frozen=True, eq=False)
class If(Stmt):
    """Run `body` where the scalar `condition` holds, else `other`. Not inside a vector For."""

    condition: Expr
    body: Body
    other: Body = ()


@dataclass(frozen=True, eq=False)
class While(Stmt):
    """Run `body` as long as `condition` (evaluated anew each time; typically of loads) holds. Not inside a vector For."""

    condition: Expr
    body: Body


@dataclass(frozen=True, eq=False)
class Kernel:
    """A loop nest over `params`, run for each `task` in [0, tasks)."""

    name: str
    params: tuple[Buffer, ...]  # in the order of the pointer arguments
    written: frozenset[Buffer]  # the params it stores to
    tasks: int
    task: Expr
    body: Body
    scratch: tuple[Buffer, ...] = ()  # buffers of kind "scratch" and "register" used by the body
    flops: int = 0
    attributes: dict[str, object] = field(default_factory=dict)
    turn: Buffer | None = None  # an int64 param: where it holds an odd number, a thread does its tasks from the last on


def children(stmt: Stmt) -> Iterator[Body]:
    """The bodies nested directly in `stmt`."""
    if isinstance(stmt, (For, Reduce, While)):
        yield stmt.body
    elif isinstance(stmt, If):
        yield stmt.body
        yield stmt.other


def expressions(stmt: Stmt) -> Iterator[Expr]:
    """The expressions that stand directly in `stmt`."""
    if isinstance(stmt, For):
        yield from (stmt.start, stmt.stop)
    elif isinstance(stmt, Let):
        yield stmt.value
    elif isinstance(stmt, Store):
        for w in stmt.writes:
            yield from (w.index, w.value)
            if w.guard is not None:
                yield w.guard
    elif isinstance(stmt, Prefetch):
        yield stmt.index
    elif isinstance(stmt, Reduce):
        yield from (f.value for f in stmt.folds)
    elif isinstance(stmt, (If, While)):
        yield stmt.condition


def all_expressions(stmt: Stmt) -> list[Expr]:
    """The expressions that stand in `stmt`, at any depth."""
    return [*expressions(stmt), *(x for body in children(stmt) for inner in body for x in all_expressions(inner))]


def show_kernel(kernel: Kernel) -> str:
    """The kernel as indented text: the form that is hashed, cached and shown at MS_DEBUG=4."""
    params = ", ".join(f"{'*' if p in kernel.written else ''}{p!r}" for p in kernel.params)
    lines = [f"kernel {kernel.name}({params}) for {show(kernel.task)} < {kernel.tasks}:"]
    lines += [f"  {b.kind} {b!r}" for b in kernel.scratch]
    _show_body(kernel.body, "  ", lines)
    return "\n".join(lines)


def _show_body(body: Body, indent: str, lines: list[str]) -> None:
    for stmt in body:
        lines += _HEADS[type(stmt)](stmt, indent)
        for inner in children(stmt):
            _show_body(inner, indent + "  ", lines)


def _show_store(stmt: Store, indent: str) -> list[str]:
    return [
        f"{indent}{w.buffer.name}[{show(w.index)}] = {show(w.value)}" + (f" if {show(w.guard)}" if w.guard is not None else "")
        for w in stmt.writes
    ]


_HEADS = {
    For: lambda s, i: [f"{i}for {show(s.var)} in {show(s.start)}..{show(s.stop)} {s.role}:"],
    Let: lambda s, i: [f"{i}{show(s.ref)} = {show(s.value)}"],
    Store: _show_store,
    Prefetch: lambda s, i: [f"{i}prefetch {s.buffer.name}[{show(s.index)}]" + " to write" * s.write
                        + f" into level {s.level}" * (s.level > 1)],
    Reduce: lambda s, i: [f"{i}reduce {show(s.var)} < {s.extent} {s.role}: "
                          + ", ".join(f"{show(f.ref)} = {f.combine}({show(f.value)})" for f in s.folds)],
    If: lambda s, i: [f"{i}if {show(s.condition)}:" + (" (else below)" if s.other else "")],
    While: lambda s, i: [f"{i}while {show(s.condition)}:"],
}
