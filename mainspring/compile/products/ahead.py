"""What a product in register tiles brings near before it needs it.

The processor foresees a stream only within a page of memory, and never where results go. So a product says two things itself:

    results     the lines that a register tile will be stored to, while its sums are made
    following   the panels that come after those at hand, into the second level, a part of them at each chunk of each tile

With this you can get these statements for a tile. They change no value (`loops.Prefetch`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mainspring.compile.loops import Buffer, For, Prefetch, Stmt
from mainspring.compile.target.caches import LINE
from mainspring.ir import scalar as s
from mainspring.ir.scalar import Expr
from mainspring.types.dtype import int64

ZERO = s.const(0, int64)
BURST = 24  # lines asked for at once; more would wait for each other


def results(stored: Sequence[Buffer], at: Expr, row: Expr, columns: int) -> Iterator[For]:
    """The lines of each `stored` buffer in which a tile's results lie: rows of `at`, by `row`, of so many `columns`."""
    for buffer in stored:
        yield from _lines(buffer, at, row, columns, True)


def operand(buffer: Buffer, at: Expr, row: Expr, columns: int) -> Iterator[For]:
    """The same of a `buffer` that the results are made with."""
    yield from _lines(buffer, at, row, columns, False)


def _lines(buffer: Buffer, at: Expr, row: Expr, columns: int, write: bool) -> Iterator[For]:
    for column in range(0, columns, LINE // buffer.dtype.itemsize):
        yield _each(row, Prefetch(buffer, at + column, write=write), "unroll")


def following(panels: Buffer, at: Expr, part: Expr, parts: int, size: int) -> tuple[For, ...]:
    """Lines of part `part` of `parts` of the `size` elements of `panels` from `at` on."""
    each = LINE // panels.dtype.itemsize
    lines = -(-size // (each * parts))
    if lines > BURST:
        return ()
    line = s.var("line", lines)
    return (_each(line, Prefetch(panels, at + (part * lines + line) * each, level=2)),)


def following_rows(right: Buffer, at: Expr, k: Expr, steps: int, columns: int, part: Expr, parts: int) -> tuple[For, ...]:
    """The same of `steps` rows (by `k`, of elements `at`) of `columns` each, where the right operand lies in place."""
    each = LINE // right.dtype.itemsize
    rows, lines = -(-steps // parts), -(-columns // each)
    if rows * lines > BURST:
        return ()
    row, line = s.var("row", rows), s.var("line", lines)
    here = s.substitute(at, {k: s.apply("min", part * rows + row, steps - 1)}.get)
    return (_each(row, _each(line, Prefetch(right, here + line * each, level=2))),)


def _each(var: Expr, stmt: Stmt, role: str = "serial") -> For:
    """`stmt` for every value of `var`."""
    return For(var, ZERO, s.const(var.attr[1], int64), (stmt,), role)
