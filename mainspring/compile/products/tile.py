"""The register tile: rows × columns accumulators that stay in registers while k runs.

With this you can write the inner loop of a product: `clear`, then for each k `step` (acc += left · right), then read `value` of
each accumulator inside `over`. Contractions, attention and recurrent layers are made of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mainspring.compile.loops import LANES, Body, Buffer, For, Stmt, Store, Write, load
from mainspring.compile.rename import substitute_vars
from mainspring.ir import scalar as s
from mainspring.ir.scalar import Expr
from mainspring.types.dtype import DType, int64

TOGETHER = 12  # vectors of sums that the steps written out in a row may add to


@dataclass(frozen=True, eq=False)
class Tile:
    """`rows` × `vectors`·LANES accumulators of `dtype`; `half`: of the last vector there is the lower half. Inside `over`, an
    accumulator is at row `i`, `column`."""

    rows: int
    vectors: int
    dtype: DType
    name: str = "acc"
    half: bool = False
    acc: Buffer = field(init=False)
    i: Expr = field(init=False)
    v: Expr = field(init=False)
    lane: Expr = field(init=False)

    def __post_init__(self) -> None:
        places = {"acc": Buffer(self.name, self.dtype, self.rows * self.columns, "register"),
                  "i": s.var(f"{self.name}_i", self.rows), "v": s.var(f"{self.name}_v", self.vectors),
                  "lane": s.var(f"{self.name}_lane", LANES)}
        for name, value in places.items():
            object.__setattr__(self, name, value)

    @property
    def columns(self) -> int:
        """Columns of the tile."""
        return self.vectors * LANES - self.half * LANES // 2

    @property
    def column(self) -> Expr:
        """The column of an accumulator."""
        return self.v * LANES + self.lane

    @property
    def place(self) -> Expr:
        """The position of an accumulator, row by row: its place in any copy of the tile."""
        return self.i * self.columns + self.v * LANES + self.lane

    @property
    def value(self) -> Expr:
        """The accumulator."""
        return load(self.acc, self.place)

    def at(self, row: int) -> Expr:
        """The accumulator of `row`, inside `across`."""
        return load(self.acc, row * self.columns + self.column)

    def over(self, *stmts: Stmt) -> For:
        """`stmts` for each accumulator; a wide tile goes column by column, for fewer operands are then held at once."""
        if self.rows < self.vectors:
            return self._columns(self._rows(self._lanes(stmts)))
        return self._rows(self.across(*stmts))

    def across(self, *stmts: Stmt) -> For:
        """`stmts` for each column."""
        return self._columns(self._lanes(stmts))

    def _rows(self, body: Stmt) -> For:
        return For(self.i, s.const(0, int64), s.const(self.rows, int64), (body,), "unroll")

    def _columns(self, body: Stmt) -> For:
        return For(self.v, s.const(0, int64), s.const(self.vectors, int64), (body,), "unroll")

    def _lanes(self, stmts: Body) -> For:
        stop = s.apply("min", s.const(LANES, int64), self.columns - self.v * LANES) if self.half else s.const(LANES, int64)
        return For(self.lane, s.const(0, int64), stop, stmts, "vector")

    def set(self, value: Expr) -> For:
        """acc = value."""
        return self.over(Store((Write(self.acc, self.place, value),)))

    def clear(self) -> For:
        """acc = 0."""
        return self.set(s.const(0, self.dtype))

    def step(self, left: Expr, right: Expr, op: str = "") -> For:
        """acc += left · right: `left` of row `i`, `right` of `column`, at one k; words by the dot product `op`, if given."""
        if self.half and not op:
            left, right = (x if x.op == "load" and self.lane in s.walk(x) else s.apply("held", x) for x in (left, right))
        return self.set(s.apply(op, self.value, left, right) if op else multiply_add(left, right, self.value))


@dataclass(frozen=True, eq=False)
class Column(Tile):
    """A tile of one column, of scalars."""

    @property
    def columns(self) -> int:
        return 1

    @property
    def place(self) -> Expr:
        return self.i

    def over(self, *stmts: Stmt) -> For:
        return For(self.i, s.const(0, int64), s.const(self.rows, int64), stmts, "unroll")


def in_a_row(k: Expr, start: Expr, stop: Expr, extent: int, even: bool, tile: Tile, step: Stmt) -> Iterator[Stmt]:
    """`step` for k from `start` to `stop`, which are `extent` apart, or less where not `even`: as many written out in a row as
    add to `TOGETHER` vectors of sums, and those that are left."""
    together = max(1, TOGETHER // (tile.rows * tile.vectors))
    if together == 1:
        yield For(k, start, stop, (step,))
        return
    whole = s.const(extent // together, int64) if even else (stop - start) // together
    group, i = s.var("group", extent // together + 1), s.var("step", together)
    several = substitute_vars((step,), {k: start + group * together + i})
    yield For(group, s.const(0, int64), whole, (For(i, s.const(0, int64), s.const(together, int64), several, "unroll"),))
    if not (even and extent % together == 0):
        yield For(k, start + whole * together, stop, (step,))


def multiply_add(a: Expr, b: Expr, c: Expr) -> Expr:
    """a·b + c, fused for floats."""
    return s.apply("fma", a, b, c) if c.dtype.kind == "float" else s.apply("add", s.apply("mul", a, b), c)


def whole_lanes(extent: int) -> int:
    """`extent` up to a multiple of LANES."""
    return -(-extent // LANES) * LANES
