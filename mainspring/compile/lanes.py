"""Products whose two operands run side by side through the vector lanes: depthwise convolutions and their gradients.

One operand alone has rows (the places of a convolution, or the taps of a window's gradient), both have the last dim, in which
nothing is summed; a tile of neighbouring rows × lanes stays in registers, and each load of the other operand serves all rows.

    short k   for tiles of neighbouring rows:   acc[row][lane] += a[row, k, lane] · b[k, lane] for all k; epilogue, store
    long k    a task is one chunk of k and some lanes:   for blocks of k that stay in cache: for row tiles: for k of the block;
              a kernel after sums the chunks
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mainspring.compile.loops import LANES, Buffer, For, Kernel, Let, Stmt, Store, Write, load
from mainspring.compile.rename import substitute_vars
from mainspring.compile.tile import Tile
from mainspring.compile.tiled import apart, tree
from mainspring.ir import scalar as s
from mainspring.ir.scalar import Expr
from mainspring.ops.movement import unravel
from mainspring.types.dtype import int64

LONG = 512  # elements of k from which on its chunks are tasks
NEAR = 128  # lanes of a task: whole lines of memory, one beside the other
BLOCK_BYTES = 8192  # of an operand that all row tiles go through before the next
LITERAL = 64  # taps up to which k is written out, so that each is at a constant distance
ZERO = s.const(0, int64)

Made = tuple[list[Kernel], list[Buffer]]


@dataclass(frozen=True)
class Roles:
    """Dims of the result by their position: `rows` (of one operand alone), the nearest in memory last; `rest` but the last."""

    rows: list[int]
    rest: list[int]


def by_lanes(of: Any) -> Made | None:
    """The kernels of a product (a `contraction.Contraction`), and the buffers between; None where it is of another kind."""
    roles = _roles(of)
    return None if roles is None else _Lanes(of, roles).kernels()


def _roles(of: Any) -> Roles | None:
    domain = of.dims.domain
    if of.dot is not None or domain[-1] < LANES // 2:
        return None
    dims = [s.var(f"d{i}", n) for i, n in enumerate(domain)]
    sides = of._body(domain, dims, s.var("k", of.k), None)
    uses = [{i for i, d in enumerate(dims) if d in set(s.walk(x))} for x in sides]
    alone = [uses[0] - uses[1], uses[1] - uses[0]]
    if len(domain) - 1 not in uses[0] & uses[1] or bool(alone[0]) == bool(alone[1]):
        return None
    side = 0 if alone[0] else 1
    terms = s.affine(sides[side].args[0])[0] if sides[side].op == "load" else {}
    rows = sorted(alone[side], key=lambda i: -terms.get(dims[i], 0))
    return Roles(rows, [i for i in range(len(domain) - 1) if i not in rows])


class _Lanes:
    """One such product."""

    def __init__(self, of: Any, roles: Roles):
        self.of, self.roles, self.domain = of, roles, of.dims.domain
        self.near = self.domain[roles.rows[-1]]
        self.outer = [self.domain[i] for i in roles.rows[:-1]]
        self.rest = [self.domain[i] for i in roles.rest]
        most = of.target.accumulators(of.dtype)
        rows = self._rows(most)
        wide = -(-self.domain[-1] // LANES)
        self.reg = Tile(rows, min(wide, max(1, most // rows)), of.dtype)
        self.strips = -(-wide // self.reg.vectors)
        self.beside = min(self.strips, max(1, NEAR // self.reg.columns))
        self.groups = -(-self.strips // self.beside)
        self.tiles = -(-self.near // rows)
        self.even = self.near % rows == 0
        self.k = s.var("k", of.k)
        self.flops = 2 * math.prod(self.domain) * of.k

    def _rows(self, most: int) -> int:
        """Rows of a tile: such that they come out even, if they may be no fewer than two thirds of the registers."""
        whole = [n for n in range(min(most, self.near), 0, -1) if self.near % n == 0]
        return whole[0] if whole[0] * 3 >= 2 * min(most, self.near) else -(-self.near // -(-self.near // most))

    def kernels(self) -> Made:
        """By the length of k."""
        long = self.of.chunks > 1 and self.of.k >= max(LONG, 4 * math.prod([*self.outer, self.near]))
        return self._long() if long else ([self._short()], [])

    # -------------------------------------------------------------------------------------------------------- places

    def _strips(self, group: Expr, strip: Expr, body: Sequence[Stmt], lane: Expr, wide: Expr) -> For:
        """`body` for each strip of lanes of `group`."""
        here = strip * self.reg.columns + self.reg.column
        start = group * self.beside
        stop = start + self.beside if self.strips % self.beside == 0 else s.apply("min", start + self.beside, self.strips)
        return For(strip, start, stop, substitute_vars(tuple(body), {lane: here, wide: here}))

    def _first(self, tile: Expr) -> Expr:
        """The first row of a tile along the nearest dim; the last one begins early where they do not come out even."""
        return tile * self.reg.rows if self.even else s.apply("min", tile * self.reg.rows, self.near - self.reg.rows)

    def _place(self, rest: Expr, outer: Expr, row: Expr, lane: Expr) -> list[Expr]:
        """The index in the domain."""
        place = dict(zip(self.roles.rest, unravel(rest, tuple(self.rest)) if self.rest else [], strict=True))
        place.update(zip(self.roles.rows, [*(unravel(outer, tuple(self.outer)) if self.outer else []), row], strict=True))
        return [*[place[i] for i in range(len(self.domain) - 1)], lane]

    def _step(self, place: Sequence[Expr], inside: Expr, steps: dict[int, Buffer]) -> Stmt:
        """acc += left · right at k; `steps`: tables of the places along k of an operand."""
        factors = list(self.of._body(self.domain, place, self.k, None if s.is_const(inside) else inside))
        for side, table in steps.items():
            plain = self.of._body(self.domain, place, self.k, None)[side]
            factors[side] = load(plain.attr, apart(plain, self.k)[0] + load(table, self.k), inside)  # type: ignore[index]
        return self.reg.step(factors[0], factors[1])

    # -------------------------------------------------------------------------------------------------------- short k

    def _short(self) -> Kernel:
        """A task has the rows along the nearest dim, and some lanes."""
        of, reg = self.of, self.reg
        task = s.var("task", math.prod(self.rest) * math.prod(self.outer) * self.groups)
        group, row, strip = task % self.groups, task // self.groups, s.var("strip", self.strips)
        rest, outer = row // math.prod(self.outer), row % math.prod(self.outer)
        tile, lane = s.var("tile", self.tiles), s.var("last", self.domain[-1])
        wide = s.var("wide", self.strips * reg.columns)
        inside = s.compare("lt", wide, self.domain[-1])
        place = self._place(rest, outer, self._first(tile) + reg.i, lane)
        parts = Buffer("parts", of.dtype, of.chunks * reg.acc.size, "scratch")
        chain = of.chained(self.k, reg, parts, self._step(place, inside, {}))
        if of.chunks == 1 and of.k <= LITERAL:
            chain = [reg.clear(), For(self.k, ZERO, s.const(of.k, int64), (self._step(place, inside, {}),), "unroll")]
        if self.even:
            chain.append(reg.over(*of.finish(reg, parts, self.domain, place, inside)))
        else:
            chain += self._store_own(parts, rest, outer, tile, lane, inside)
        loop = For(tile, ZERO, s.const(self.tiles, int64), (self._strips(group, strip, chain, lane, wide),))
        used = [parts] if of.chunks > 1 or not self.even else []
        return of.nest.kernel("lanes", task.attr[1], task, (loop,), of.group, (reg.acc, *used), self.flops)

    def _store_own(self, parts: Buffer, rest: Expr, outer: Expr, tile: Expr, lane: Expr, inside: Expr) -> list[Stmt]:
        """The rows of a tile that are not those of the tile before."""
        of, reg, i = self.of, self.reg, s.var("row", self.reg.rows)
        keep = [reg.over(Store((Write(parts, reg.place, reg.value),)))] if of.chunks == 1 else []
        first = self._first(tile)
        total = tree([load(parts, c * reg.acc.size + i * reg.columns + reg.column) for c in range(of.chunks)])
        stmts = self._results(total, self._place(rest, outer, first + i, lane), inside)
        own = For(i, tile * reg.rows - first, s.const(reg.rows, int64), (reg.across(*stmts),))
        return [*keep, own]

    def _results(self, total: Expr, place: Sequence[Expr], inside: Expr) -> list[Stmt]:
        of = self.of
        return [Let(of.refs[of.root], s.cast(total, of.root.dtype)), *of.epilogue(self.domain, place, inside)]

    # --------------------------------------------------------------------------------------------------------- long k

    def _long(self) -> Made:
        """Chunks as tasks."""
        of, reg, outers, rests = self.of, self.reg, math.prod(self.outer), math.prod(self.rest)
        kernels, tables = self._steps()
        block = min(of.chunk, max(LANES, BLOCK_BYTES // (self.beside * reg.columns * of.dtype.itemsize)))
        each, strip = reg.acc.size, s.var("strip", self.strips)
        task = s.var("task", of.chunks * rests * self.groups)
        c, rest, group = task // (rests * self.groups), task // self.groups % rests, task % self.groups
        turn, row, tile = s.var("block", -(-of.chunk // block)), s.var("outer", outers), s.var("tile", self.tiles)
        begin = c * of.chunk + turn * block
        whole = of.chunk % block == 0 and of.steps == of.chunks * of.chunk
        end = begin + block if whole else s.apply("min", begin + block, of.until(c))
        lane, wide = s.var("last", self.domain[-1]), s.var("wide", self.strips * reg.columns)
        inside = s.compare("lt", wide, self.domain[-1])
        parts = Buffer("parts", of.dtype, of.chunks * rests * self.strips * outers * self.tiles * each)

        def home(c: Expr | int, rest: Expr, strip: Expr, row: Expr, tile: Expr) -> Expr:
            return ((((c * rests + rest) * self.strips + strip) * outers + row) * self.tiles + tile) * each

        where = home(c, rest, strip, row, tile) + reg.place
        step = self._step(self._place(rest, row, self._first(tile) + reg.i, lane), inside, tables)
        chain = (reg.set(load(parts, where, s.compare("lt", 0, turn))), For(self.k, begin, end, (step,)),
                 reg.over(Store((Write(parts, where, reg.value),))))
        loop = For(row, ZERO, s.const(outers, int64), (For(tile, ZERO, s.const(self.tiles, int64), chain),))
        body = For(turn, ZERO, s.const(turn.attr[1], int64), (self._strips(group, strip, (loop,), lane, wide),))
        product = of.nest.kernel("lanes", task.attr[1], task, (body,), of.group, (reg.acc,), self.flops)

        done = s.var("task", rests * outers * self.strips)
        strip, row, rest = done % self.strips, done // self.strips % outers, done // (self.strips * outers)
        i, first = s.var("row", reg.rows), self._first(tile)
        total = tree([load(parts, home(c, rest, strip, row, tile) + i * reg.columns + reg.column) for c in range(of.chunks)])
        stmts = self._results(total, self._place(rest, row, first + i, lane), inside)
        own = ZERO if self.even else tile * reg.rows - first
        sums = For(tile, ZERO, s.const(self.tiles, int64), (For(i, own, s.const(reg.rows, int64), (reg.across(*stmts),)),))
        finish = of.nest.kernel("finish", done.attr[1], done, substitute_vars((sums,), {
            lane: strip * reg.columns + reg.column, wide: strip * reg.columns + reg.column}), of.group)
        return [*kernels, product, finish], [*tables.values(), parts]

    def _steps(self) -> tuple[list[Kernel], dict[int, Buffer]]:
        """Tables of the places along k of the operands where these are no multiples of k."""
        kernels, tables = [], {}
        dims = [s.var(f"d{i}", n) for i, n in enumerate(self.domain)]
        for side, x in enumerate(self.of._body(self.domain, dims, self.k, None)):
            parts = apart(x, self.k)
            if parts is not None and set(s.affine(parts[1])[0]) - {self.k}:
                table = tables[side] = Buffer(f"steps{side}", int64, self.of.k)
                loop = For(self.k, ZERO, s.const(self.of.k, int64), (Store((Write(table, self.k, parts[1]),)),), "vector")
                kernels.append(self.of.nest.kernel("steps", 1, s.var("task", 1), (loop,), self.of.group))
        return kernels, tables
