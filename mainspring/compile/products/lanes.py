"""Products whose two operands run side by side through the vector lanes: depthwise convolutions and their gradients.

One operand alone has rows (the places of a convolution, or the taps of a window's gradient), both have the last dim, in which
nothing is summed; a tile of neighbouring rows × lanes stays in registers, and each load of the other operand serves all rows.

    short k   for tiles of neighbouring rows:   acc[row][lane] += a[row, k, lane] · b[k, lane] for all k; epilogue, store
    long k    a task is one chunk of k and some lanes:   for blocks of k that stay in cache: for row tiles: for k of the block;
              a kernel after sums the chunks
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mainspring.compile.loops import LANES, Buffer, For, Kernel, Let, Stmt, Store, Write, load
from mainspring.compile.products.tile import Tile
from mainspring.compile.products.tiled import apart, steps_table, tree
from mainspring.compile.rename import substitute_vars
from mainspring.ir import scalar as s
from mainspring.ir.scalar import Expr
from mainspring.ops.movement import unravel
from mainspring.types.dtype import bool_, int64

LONG = 128  # elements of k from which on it is taken in blocks
NEAR = 128  # lanes of a task: whole lines of memory, one beside the other
BLOCK_BYTES = 8192  # of an operand that all row tiles go through before the next
LITERAL = 64  # taps up to which k is written out, so that each is at a constant distance
ZERO, TRUE = s.const(0, int64), s.const(True, bool_)

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
        self.near, self.lanes = self.domain[roles.rows[-1]], self.domain[-1]
        self.outer = [self.domain[i] for i in roles.rows[:-1]]
        self.rest = [self.domain[i] for i in roles.rest]
        most = of.target.accumulators(of.dtype)
        rows = self._rows(most)
        self.reg = Tile(rows, max(1, min(self.lanes // LANES, most // rows)), of.dtype)
        self.strips = -(-self.lanes // self.reg.columns)
        self.beside = min(self.strips, max(1, NEAR // self.reg.columns))
        self.groups = -(-self.strips // self.beside)
        self.tiles = -(-self.near // rows)
        self.even = self.near % rows == 0
        self.k, self.strip, self.lane = s.var("k", of.k), s.var("strip", self.strips), s.var("last", self.lanes)
        self.flops = 2 * math.prod(self.domain) * of.k

    def _rows(self, most: int) -> int:
        """Rows of a tile: such that they come out even, if they may be no fewer than two thirds of the registers."""
        whole = [n for n in range(min(most, self.near), 0, -1) if self.near % n == 0]
        return whole[0] if whole[0] * 3 >= 2 * min(most, self.near) else -(-self.near // -(-self.near // most))

    def kernels(self) -> Made:
        """By the length of k."""
        long = self.of.k >= max(LONG, 4 * math.prod([*self.outer, self.near]))
        return self._long() if long else ([self._short()], [])

    # -------------------------------------------------------------------------------------------------------- places

    def _strips(self, group: Expr, body: Callable[[Expr], Sequence[Stmt]]) -> list[Stmt]:
        """`body` for each strip of lanes of `group`; its argument says which lanes of a strip are to be stored.

        The last strip begins early where lanes do not come out even, so that nothing is read under a mask.
        """
        wide, whole = self.reg.columns, self.lanes // self.reg.columns
        start = group * self.beside
        stop = start + self.beside if self.strips % self.beside == 0 else s.apply("min", start + self.beside, self.strips)
        here = self.strip * wide + self.reg.column
        if whole == self.strips:
            return [For(self.strip, start, stop, self._at(here, body(TRUE)))]
        first = max(0, self.lanes - wide)
        own = s.compare("le", whole * wide, first + self.reg.column) if whole else s.compare("lt", self.reg.column, self.lanes)
        last = For(self.strip, s.apply("max", start, whole), stop, self._at(first + self.reg.column, body(own)))
        return [*([For(self.strip, start, s.apply("min", stop, whole), self._at(here, body(TRUE)))] if whole else []), last]

    def _at(self, here: Expr, body: Sequence[Stmt]) -> tuple[Stmt, ...]:
        return substitute_vars(tuple(body), {self.lane: here})

    def _first(self, tile: Expr) -> Expr:
        """The first row of a tile along the nearest dim; the last one begins early where they do not come out even."""
        return tile * self.reg.rows if self.even else s.apply("min", tile * self.reg.rows, self.near - self.reg.rows)

    def _place(self, rest: Expr, outer: Expr, row: Expr) -> list[Expr]:
        """The index in the domain."""
        place = dict(zip(self.roles.rest, unravel(rest, tuple(self.rest)) if self.rest else [], strict=True))
        place.update(zip(self.roles.rows, [*(unravel(outer, tuple(self.outer)) if self.outer else []), row], strict=True))
        return [*[place[i] for i in range(len(self.domain) - 1)], self.lane]

    def _step(self, place: Sequence[Expr], own: Expr, steps: dict[int, Buffer]) -> Stmt:
        """acc += left · right at k; `steps`: tables of the places along k of an operand."""
        guard = own if self.lanes < self.reg.columns else None
        factors = list(self.of._body(self.domain, place, self.k, guard))
        for side, table in steps.items():
            plain = self.of._body(self.domain, place, self.k, None)[side]
            factors[side] = load(plain.attr, apart(plain, self.k)[0] + load(table, self.k), guard)  # type: ignore[index]
        return self.reg.step(factors[0], factors[1])

    def _results(self, total: Expr, place: Sequence[Expr], own: Expr) -> list[Stmt]:
        of = self.of
        return [Let(of.refs[of.root], s.cast(total, of.root.dtype)), *of.epilogue(self.domain, place, own)]

    # -------------------------------------------------------------------------------------------------------- short k

    def _short(self) -> Kernel:
        """A task has the rows along the nearest dim, and some lanes."""
        of, outers = self.of, math.prod(self.outer)
        task, tile = s.var("task", math.prod(self.rest) * outers * self.groups), s.var("tile", self.tiles)
        group, row = task % self.groups, task // self.groups
        parts = Buffer("parts", of.dtype, of.chunks * self.reg.acc.size, "scratch")
        body = self._strips(group, lambda own: self._chain(parts, row // outers, row % outers, tile, own))
        used = [parts] if of.chunks > 1 or not self.even else []
        loop = For(tile, ZERO, s.const(self.tiles, int64), tuple(body))
        return of.nest.kernel("lanes", task.attr[1], task, (loop,), of.group, (self.reg.acc, *used), self.flops)

    def _chain(self, parts: Buffer, rest: Expr, outer: Expr, tile: Expr, own: Expr) -> list[Stmt]:
        """All of k for one tile, then its results."""
        of, reg = self.of, self.reg
        place = self._place(rest, outer, self._first(tile) + reg.i)
        step = self._step(place, own, {})
        chain = of.chained(self.k, reg, parts, step)
        if of.chunks == 1 and of.k <= LITERAL:
            chain = [reg.clear(), For(self.k, ZERO, s.const(of.k, int64), (step,), "unroll")]
        if self.even:
            return [*chain, reg.over(*of.finish(reg, parts, self.domain, place, own))]
        keep = [reg.over(Store((Write(parts, reg.place, reg.value),)))] if of.chunks == 1 else []
        return [*chain, *keep, self._own_rows(lambda at, c: load(parts, c * reg.acc.size + at), rest, outer, tile, own)]

    def _own_rows(self, part: Callable[[Expr, int], Expr], rest: Expr, outer: Expr, tile: Expr, own: Expr) -> For:
        """The results of the rows of a tile that are not those of the tile before; `part`: a place of the tile in chunk c."""
        i, first = s.var("row", self.reg.rows), self._first(tile)
        total = tree([part(i * self.reg.columns + self.reg.column, c) for c in range(self.of.chunks)])
        stmts = self._results(total, self._place(rest, outer, first + i), own)
        start = ZERO if self.even else tile * self.reg.rows - first
        return For(i, start, s.const(self.reg.rows, int64), (self.reg.across(*stmts),))

    # --------------------------------------------------------------------------------------------------------- long k

    def _long(self) -> Made:
        """Chunks as tasks."""
        of, rests = self.of, math.prod(self.rest)
        kernels, tables = self._steps()
        task = s.var("task", of.chunks * rests * self.groups)
        c, rest, group = task // (rests * self.groups), task // self.groups % rests, task % self.groups
        sums = of.chunks * rests * self.strips * math.prod(self.outer) * self.tiles
        parts = Buffer("parts", of.dtype, sums * self.reg.acc.size)
        body = self._blocks(parts, tables, c, rest, group)
        product = of.nest.kernel("lanes", task.attr[1], task, (body,), of.group, (self.reg.acc,), self.flops)
        return [*kernels, product, self._sums(parts)], [*tables.values(), parts]

    def _blocks(self, parts: Buffer, tables: dict[int, Buffer], c: Expr, rest: Expr, group: Expr) -> For:
        """Chunk `c` in blocks of k, each for all row tiles before the next; the sums so far lie in `parts`."""
        of, reg, outers = self.of, self.reg, math.prod(self.outer)
        block = min(of.chunk, max(LANES, BLOCK_BYTES // (self.beside * reg.columns * of.dtype.itemsize)))
        turn, row, tile = s.var("block", -(-of.chunk // block)), s.var("outer", outers), s.var("tile", self.tiles)
        begin = c * of.chunk + turn * block
        whole = of.chunk % block == 0 and of.steps == of.chunks * of.chunk
        end = begin + block if whole else s.apply("min", begin + block, of.until(c))

        def chains(own: Expr) -> list[Stmt]:
            where = self._home(c, rest, row, tile) + reg.place
            step = self._step(self._place(rest, row, self._first(tile) + reg.i), own, tables)
            chain = (reg.set(load(parts, where, s.compare("lt", 0, turn))), For(self.k, begin, end, (step,)),
                     reg.over(Store((Write(parts, where, reg.value),))))
            return [For(row, ZERO, s.const(outers, int64), (For(tile, ZERO, s.const(self.tiles, int64), chain),))]

        return For(turn, ZERO, s.const(turn.attr[1], int64), tuple(self._strips(group, chains)))

    def _home(self, c: Expr | int, rest: Expr, row: Expr, tile: Expr) -> Expr:
        """Where the sums of chunk `c` for a tile of the strip begin among the parts."""
        line = ((c * math.prod(self.rest) + rest) * self.strips + self.strip) * math.prod(self.outer) + row
        return (line * self.tiles + tile) * self.reg.acc.size

    def _sums(self, parts: Buffer) -> Kernel:
        """The chunks of every tile summed, and the epilogue."""
        of, outers = self.of, math.prod(self.outer)
        task, tile = s.var("task", math.prod(self.rest) * outers * self.groups), s.var("tile", self.tiles)
        group, row, rest = task % self.groups, task // self.groups % outers, task // (self.groups * outers)

        def results(own: Expr) -> list[Stmt]:
            rows = self._own_rows(lambda at, c: load(parts, self._home(c, rest, row, tile) + at), rest, row, tile, own)
            return [For(tile, ZERO, s.const(self.tiles, int64), (rows,))]

        return of.nest.kernel("finish", task.attr[1], task, tuple(self._strips(group, results)), of.group)

    def _steps(self) -> tuple[list[Kernel], dict[int, Buffer]]:
        """Tables of the places along k of the operands where these are no multiples of k."""
        kernels, tables = [], {}
        dims = [s.var(f"d{i}", n) for i, n in enumerate(self.domain)]
        for side, x in enumerate(self.of._body(self.domain, dims, self.k, None)):
            found = steps_table(self.of, x, self.k, f"steps{side}")
            if found is not None:
                kernels.append(found[0])
                tables[side] = found[1]
        return kernels, tables
