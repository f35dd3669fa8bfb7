"""Loops that transpose: done in square blocks that are turned in registers, where lane by lane they would scatter.

With this you can find such a loop (`turning`) and turn a block of vectors (`transposed`). The loop is

    for i:  let …  for j in lanes:  buffer[i + j·pitch] = value(i, j)

whose value is read along j. A scatter stores one element at a time, each to a cache line of its own; a block of LANES × LANES
is as many loads, shuffles and stores of whole vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from mainspring.compile.loops import LANES, For, Let, Store, Write
from mainspring.compile.vectormath.values import I32
from mainspring.ir.scalar import Expr, affine, is_const, walk

_BLOCK_BYTES = 32  # a row of the square that is turned at once
_LANE_BYTES = 16  # within which shuffles are cheap on every machine


@dataclass(frozen=True)
class Turning:
    """`write` for each i of `outer`, after `lets`, and each j of `inner`."""

    outer: For
    lets: tuple[Let, ...]
    inner: For
    write: Write


def turning(stmt: For) -> Turning | None:
    """`stmt` as a loop that transposes; None when it is another."""
    if stmt.role != "serial" or not stmt.body:
        return None
    *lets, inner = stmt.body
    if not (isinstance(inner, For) and inner.role == "vector" and all(isinstance(x, Let) for x in lets)):
        return None
    only = inner.body[0] if len(inner.body) == 1 else None
    if not isinstance(only, Store) or len(only.writes) != 1:
        return None
    found = Turning(stmt, tuple(lets), inner, only.writes[0])  # type: ignore[arg-type]
    return found if _fits(found) else None


def _fits(t: Turning) -> bool:
    write, i, j = t.write, t.outer.var, t.inner.var
    of_rows = {i, *(x.ref for x in t.lets)}
    values = (*(x.value for x in t.lets), write.value)
    if write.guard is not None or write.buffer.dtype.itemsize not in (2, 4, 8):
        return False
    if of_rows & set(walk(t.inner.start, t.inner.stop)):
        return False
    if _few(t.outer, LANES // 4) or _few(t.inner, LANES // 2):
        return False
    if any(x.op == "load" and x.attr is write.buffer for x in walk(*values)):
        return False
    terms = affine(write.index)[0]
    mixed = any(of_rows & set(walk(x)) or j in set(walk(x)) for x in terms if x not in (i, j))
    apart = abs(terms.get(j, 0)) >= max(i.attr[1], 2)  # no element is written twice, so that the order does not matter
    return not mixed and terms.get(i) == 1 and apart and any(_along(x, j) for x in walk(write.value))


def _few(loop: For, least: int) -> bool:
    return is_const(loop.start) and is_const(loop.stop) and loop.stop.attr - loop.start.attr < least


def _along(x: Expr, j: Expr) -> bool:
    """Whether `x` is a load of neighbours along `j`: of elements, or of as many as fill a wider one."""
    return x.op == "load" and affine(x.args[0])[0].get(j) == x.dtype.itemsize // x.attr.dtype.itemsize


def transposed(b: ir.IRBuilder, rows: list[ir.Value], itemsize: int, vector_bytes: int) -> list[ir.Value]:
    """The columns of LANES rows of LANES elements, for registers of so many bytes."""
    within = _LANE_BYTES // itemsize
    n = _BLOCK_BYTES // itemsize
    wide = vector_bytes >= 2 * _BLOCK_BYTES and 2 * n <= LANES
    columns = []
    for c in range(0, LANES, n):
        blocks = [_square(b, _two_by_two(b, rows[r : r + 2 * n], within, c), within) for r in range(0, LANES, 2 * n)] if wide \
            else [_square(b, [_part(b, row, c, n) for row in rows[r : r + n]], within) for r in range(0, LANES, n)]
        columns += [_joined(b, list(parts)) for parts in zip(*blocks, strict=True)]
    return columns


def _two_by_two(b: ir.IRBuilder, rows: list[ir.Value], within: int, start: int) -> list[ir.Value]:
    """Two lanes of a row and of the row `within` below it side by side, from element `start` on: a square of wide registers.

    A load brings the second half beside the first, so that a stage of shuffles is saved.
    """
    n = 2 * within
    picks = [*range(start, start + n), *range(LANES + start, LANES + start + n)]
    upper = [r for r in range(len(rows)) if r % n < within]
    return [_shuffle(b, rows[r], rows[r + within], picks) for r in upper]


def _square(b: ir.IRBuilder, rows: list[ir.Value], within: int) -> list[ir.Value]:
    """Rows transposed: in stages within lanes of so many elements, then by whole lanes."""
    n, width = rows[0].type.count, 1
    while width < within:
        lanes = [[base + i for i in range(within)] for base in range(0, n, within)]
        low, high = (_riffle(lanes, half, width, n) for half in (0, within // 2))
        after: list[ir.Value] = [None] * len(rows)
        for g in range(0, len(rows), 2 * width):
            for p in range(width):
                pair = rows[g + p], rows[g + p + width]
                after[g + 2 * p], after[g + 2 * p + 1] = _shuffle(b, *pair, low), _shuffle(b, *pair, high)
        rows, width = after, 2 * width
    half = len(rows) // 2
    even, odd = ([i for i in range(2 * n) if i // within % 2 == which] for which in (0, 1))
    pairs = [(rows[i], rows[i + half]) for i in range(half)]
    return [_shuffle(b, *pair, even) for pair in pairs] + [_shuffle(b, *pair, odd) for pair in pairs]


def _riffle(lanes: list[list[int]], half: int, width: int, n: int) -> list[int]:
    """In each lane, groups of `width` elements from `half` on, in turns of the first vector and the second."""
    picks = []
    for lane in lanes:
        for start in range(half, half + len(lane) // 2, width):
            group = lane[start : start + width]
            picks += [*group, *(n + x for x in group)]
    return picks


def _shuffle(b: ir.IRBuilder, x: ir.Value, y: ir.Value, picks: list[int]) -> ir.Value:
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(picks)), picks))


def _part(b: ir.IRBuilder, row: ir.Value, start: int, n: int) -> ir.Value:
    return row if n == LANES else _shuffle(b, row, row, list(range(start, start + n)))


def _joined(b: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    while len(parts) > 1:
        size = parts[0].type.count
        parts = [_shuffle(b, x, y, list(range(2 * size))) for x, y in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]
