"""The loops of a product in register tiles: its left operand in place or copied by the task, its right one in panels.

A task goes through its panels a few at a time, for each few through its row tiles, for each tile through the few: panels stay
in the second-level cache, a tile's rows in the first, and results (and what an epilogue reads) are met in runs of several
lines. Chunks of K are innermost: a tile's sums lie in the first-level cache until they are added. (The other order, a chunk of
the panel for all tiles, was measured: it is slower, for streams are then short.) Where M is no multiple of the tile, the last
tile begins earlier, so that every tile is whole; only rows that are its own are stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mainspring.compile.loops import LANES, Buffer, For, Kernel, Let, Stmt, Store, Write, expressions, load
from mainspring.compile.products import ahead
from mainspring.compile.products.blocking import COPIED, DEEP_BLOCK, NEAR_BYTES, Blocking, way_of
from mainspring.compile.products.dots import SHIFT, WORD, narrow
from mainspring.compile.products.tile import Tile, in_a_row
from mainspring.compile.rename import substitute_vars
from mainspring.ir import scalar as s
from mainspring.ir.scalar import Expr
from mainspring.ops.movement import ravel, unravel
from mainspring.types.dtype import int64

PACK_BLOCK = 4096  # elements that a task of the packing kernel moves, where panels lie across
COPY_LANES = 8  # elements of which as many as hold MR are copied at once
PACK_ROWS, PACK_PANELS = 8, 64  # rows and panels of such a task where panels lie along: few streams are read, runs written
ZERO = s.const(0, int64)


@dataclass(frozen=True)
class Left:
    """The left operand for one row tile: `value` of row i at k, after `before`; `fill` once a task; their scratch."""

    value: Expr
    before: tuple[Stmt, ...]
    fill: tuple[Stmt, ...]
    scratch: tuple[Buffer, ...]


class Tiled:
    """One product (a `contraction.Contraction`) under one blocking."""

    def __init__(self, of: Any, blocking: Blocking):
        self.of, self.blocking = of, blocking
        self.reg = Tile(blocking.rows, blocking.vectors, of.dtype, half=blocking.half)
        self.mr, self.nr = blocking.rows, blocking.columns
        self.tiles, self.count = -(-of.m // self.mr), -(-of.n // self.nr)
        self.even = of.m % self.mr == 0
        self.of_right = of.batch_of_right()
        self.k = s.var("k", of.steps)
        self.flops = 2 * of.batch * of.m * of.n * of.k
        self.steps: Buffer | None = None

    def kernels(self) -> tuple[list[Kernel], list[Buffer]]:
        """The kernels in order, and the buffers that live between them."""
        of = self.of
        kernels, between = self._steps()
        panels = None
        if self.blocking.right == "kernel":
            batch = math.prod(of.dims.domain[i] for i in self.of_right)
            panels = Buffer("panels", of.cell, batch * self.count * of.steps * self.nr)
            kernels.append(self._pack(panels))
            between = [*between, panels]
        return [*kernels, self._tile(panels)], between

    # ------------------------------------------------------------------------------------------------- right operand

    def _pack(self, panels: Buffer) -> Kernel:
        """right -> panels[b][n / NR][k][NR], a kernel of its own."""
        of, nr, count = self.of, self.nr, self.count
        batch = math.prod(of.dims.domain[i] for i in self.of_right)
        along = of.right_along == "k"
        beside = 1 if along else min(PACK_PANELS, count)
        block = min(of.steps, max(1 if along else PACK_ROWS, PACK_BLOCK // (beside * nr)))
        groups = -(-count // beside)
        blocks = -(-of.steps // block)
        task, beyond = s.var("task", batch * groups * blocks), s.var("beside", beside) if beside > 1 else ZERO
        b, group = task // (blocks * groups), task // blocks % groups
        places = dict(zip(self.of_right, unravel(b, tuple(of.dims.domain[i] for i in self.of_right)), strict=True))
        first, last = _range(group, beside, count)
        start, stop = _range(task % blocks, block, of.steps)
        panel = first + beyond
        body = self._packing(panels, (b * count + panel) * (of.steps * nr), panel, places, start, stop,
                             around=lambda copy: copy if beyond is ZERO else For(beyond, ZERO, last - first, (copy,)))
        return of.nest.kernel("pack", task.attr[1], task, (body,), of.group)

    def _packing(self, panels: Buffer, base: Expr, panel: Expr, places: dict[int, Expr], start: Expr, stop: Expr,
                 within: Callable[[For], For] = lambda copy: copy, around: Callable[[For], For] = lambda copy: copy) -> For:
        """panels[base + k·NR + lane] = right[k][panel·NR + lane] for k in start … stop, along what is contiguous.

        A loop over panels goes `around` the copy of one, or `within` that over k: around the copy of one row.
        """
        of, lane = self.of, s.var("pl", self.nr)
        n, wide = s.var("column", of.n), s.var("wide", self.count * self.nr)  # an index in range is read without a remainder
        index = [places.get(i, e) for i, e in enumerate(of.dims.index(ZERO, ZERO, n))]
        along = of.right_along == "k"
        right = of.at_step(index, self.k, None if along else s.compare("lt", wide, of.n))[1]
        here = panel * self.nr + lane
        copy, = substitute_vars((Store((Write(panels, base + self.k * self.nr + lane, right),)),), {n: here, wide: here})
        if not along:
            row = For(lane, ZERO, s.const(self.nr, int64), (copy,), "vector")
            return around(For(self.k, start, stop, (within(row),)))
        columns = s.const(self.nr, int64) if of.n % self.nr == 0 else s.apply("min", s.const(self.nr, int64),
                                                                           of.n - panel * self.nr)
        return around(within(For(lane, ZERO, columns, (For(self.k, start, stop, (copy,), "vector"),))))

    def _right(self, panels: Buffer | None, b: Expr, panel: Expr,
               some: tuple[Expr, Expr, int]) -> tuple[Expr, list[Stmt], list[Buffer]]:
        """(the right operand at k and a column of the tile, statements for `some` panels (first, stop, how many), scratch)."""
        of, column = self.of, self.reg.column
        if self.blocking.right == "place":
            n = s.var("column", of.n)  # in range, so that it is found without a remainder
            right = of.product(of.dims.index(b, ZERO, n), self.k)[1]
            return s.substitute(right, {n: panel * self.nr + column}.get), [], []
        index = of.dims.index(b, ZERO, ZERO)
        if panels is not None:
            return load(panels, self._panel_base(b, panel) + self.k * self.nr + column), [], []
        first, stop, most = some
        wide = of.steps * self.nr + LANES  # panels a power of two apart would fall into the same few sets of the cache
        own = Buffer("panel", of.cell, most * wide, "scratch")
        places, base = {d: index[d] for d in self.of_right}, (panel - first) * wide
        fill = self._packing(own, base, panel, places, ZERO, s.const(of.steps, int64),
                             lambda copy: For(panel, first, stop, (copy,)))
        return load(own, base + self.k * self.nr + column), [fill], [own]

    def _panel_base(self, b: Expr, panel: Expr) -> Expr:
        """Where `panel` of batch `b` begins among those that a kernel packed."""
        of, index = self.of, self.of.dims.index(b, ZERO, ZERO)
        base = ravel([index[d] for d in self.of_right], tuple(of.dims.domain[d] for d in self.of_right)) \
            if self.of_right else ZERO
        return (base * self.count + panel) * (of.steps * self.nr)

    # -------------------------------------------------------------------------------------------------- left operand

    def first_row(self, tile: Expr) -> Expr:
        """The first row of a row tile; the last tile begins early where rows do not come out even."""
        return tile * self.mr if self.even else s.apply("min", tile * self.mr, self.of.m - self.mr)

    def _left(self, b: Expr, tile: Expr, first: Expr, tiles: int) -> Left:
        """The left operand of `tile`, in a task whose first row tile is `first`, of at most `tiles`."""
        copies = {"across": self._across, "columns": self._columns, "rows": self._rows}
        way = way_of(self.of.way, self.blocking)
        return copies[way](b, tile, first, tiles) if way in copies else self._in_place(b, tile)

    def _in_place(self, b: Expr, tile: Expr) -> Left:
        """The rows of `tile` where they lie: evenly spaced, or each from an address of its own."""
        of, i, k = self.of, self.reg.i, self.k
        shared = of.way == "bases" and of.run % self.mr == 0  # the tile lies in a run of evenly spaced rows
        tiles = of.run // self.mr  # of a run
        first = tile // tiles * of.run + tile % tiles * self.mr if shared else self.first_row(tile)
        left = of.left_at(b, first + i, k)
        row, along = apart(left, k)  # type: ignore[misc]
        if self.steps is not None:
            along = load(self.steps, k)
        if shared or of.way == "place":
            return Left(load(left.attr, row + along), (), (), ())
        bases = Buffer("bases", int64, self.mr, "register")
        fill = For(i, ZERO, s.const(self.mr, int64), (Store((Write(bases, i, row),)),), "unroll")
        return Left(load(left.attr, load(bases, i) + along), (fill,), (), (bases,))

    def _across(self, b: Expr, tile: Expr, first: Expr, tiles: int) -> Left:
        """The task's row tiles in scratch, each as k × MR, from rows that lie along k.

        In place, an element of each row at the same k falls into the same bank of the cache, where rows are whole lines apart.
        """
        of, k, t, i = self.of, self.k, s.var("lt", tiles), s.var("li", self.mr)
        each = self.mr * of.steps
        copied = Buffer("left", of.cell, tiles * each, "scratch")
        copy = Store((Write(copied, t * each + k * self.mr + i, of.left_at(b, self.first_row(first + t) + i, k)),))
        turned = For(i, ZERO, s.const(self.mr, int64), (For(k, ZERO, s.const(of.steps, int64), (copy,), "vector"),))
        fill = For(t, ZERO, self._tiles_from(first, tiles), (turned,))
        return Left(load(copied, (tile - first) * each + k * self.mr + self.reg.i), (), (fill,), (copied,))

    def _tiles_from(self, first: Expr, tiles: int) -> Expr:
        """How many row tiles a task of at most `tiles` has, whose first is `first`."""
        return s.const(tiles, int64) if self.tiles % tiles == 0 else s.apply("min", s.const(tiles, int64), self.tiles - first)

    def _columns(self, b: Expr, tile: Expr, first: Expr, tiles: int) -> Left:
        """The task's row tiles in scratch, each as k × MR, from rows that are neighbours in memory.

        A line of memory holds rows of several tiles, and lines of one tile fall into few sets of the cache: so all tiles take
        what is theirs of one k before the next. More than MR elements are stored, which the next k overwrites.
        """
        of, k, t, lane = self.of, self.k, s.var("lt", tiles), s.var("ll", -(-self.mr // COPY_LANES) * COPY_LANES)
        m, wide = s.var("row", of.m), s.var("wide", of.m + lane.attr[1])
        each, here = self.mr * of.steps + LANES, self.first_row(first + t) + lane
        copied, inside = Buffer("left", of.cell, tiles * each, "scratch"), s.compare("lt", wide, of.m)

        def copy(guard: Expr | None) -> For:
            left = of.at_step(of.dims.index(b, m, ZERO), k, guard)[0]
            store = Store((Write(copied, t * each + k * self.mr + lane, left),))
            return For(lane, ZERO, s.const(lane.attr[1], int64), substitute_vars((store,), {m: here, wide: here}), "vector")

        count, every = self._tiles_from(first, tiles), s.const(of.steps, int64)
        within = max(0, (of.m - lane.attr[1]) // self.mr + 1)  # tiles whose vectors end before the last row
        whole = count if within >= self.tiles else s.apply("max", ZERO, s.apply("min", count, within - first))
        fill = [For(k, ZERO, every, (For(t, ZERO, whole, (copy(None),)),))]
        if within < self.tiles:
            fill.append(For(t, whole, count, (For(k, ZERO, every, (copy(inside),)),)))
        return Left(load(copied, (tile - first) * each + k * self.mr + self.reg.i), (), tuple(fill), (copied,))

    def _rows(self, b: Expr, tile: Expr, first: Expr, tiles: int) -> Left:
        """The task's rows in scratch, each as it is along k."""
        of, k, rows = self.of, self.k, min(tiles * self.mr, self.of.m)
        start = first * self.mr if of.m % rows == 0 else s.apply("min", first * self.mr, of.m - rows)
        r, wide = s.var("lr", rows), _apart_in_cache(of.steps)
        copied = Buffer("left", of.cell, rows * wide, "scratch")
        last = of.dims.reduced[-1] if of.dims.reduced else 1
        width = last // of.width if last % of.width == 0 else of.steps
        outer, c = s.var("ko", of.steps // width), s.var("kc", width)
        copy = Store((Write(copied, r * wide + outer * width + c, of.left_at(b, start + r, outer * width + c)),))
        lanes = For(c, ZERO, s.const(width, int64), (copy,), "vector")
        fill = For(r, ZERO, s.const(rows, int64), (For(outer, ZERO, s.const(of.steps // width, int64), (lanes,)),))
        own = self.first_row(tile) - start + self.reg.i
        return Left(load(copied, own * wide + k), (), (fill,), (copied,))

    def _block(self, b: Expr, tile: Expr, begin: Expr, end: Expr, size: int) -> Left:
        """The rows of `tile` at steps `begin` … `end`, at most `size`, in scratch as k × MR."""
        of, k, lane = self.of, self.k, s.var("ll", max(LANES, self.mr))
        m, wide = s.var("row", of.m), s.var("wide", of.m + lane.attr[1])
        copied = Buffer("left", of.cell, size * self.mr + LANES, "scratch")
        left = of.at_step(of.dims.index(b, m, ZERO), k, s.compare("lt", wide, of.m))[0]
        here, place = self.first_row(tile) + lane, (k - begin) * self.mr
        copy, = substitute_vars((Store((Write(copied, place + lane, left),)),), {m: here, wide: here})
        lanes = For(lane, ZERO, s.const(lane.attr[1], int64), (copy,), "vector")
        return Left(load(copied, place + self.reg.i), (For(k, begin, end, (lanes,)),), (), (copied,))

    def _steps(self) -> tuple[list[Kernel], list[Buffer]]:
        """Where the left operand's places along k are no multiples of k (the windows of a convolution), a table of them."""
        of, k = self.of, self.k
        left = of.left_at(s.var("b", of.batch), s.var("m", of.m), k)
        found = None if of.way in COPIED else steps_table(of, left, k, "steps")
        if found is None:
            return [], []
        self.steps = found[1]
        return [found[0]], [self.steps]

    # -------------------------------------------------------------------------------------------------------- tiles

    def _tile(self, panels: Buffer | None) -> Kernel:
        of, tall, wide = self.of, self.blocking.tiles, self.blocking.panels
        blocks, groups = -(-self.tiles // tall), -(-self.count // wide)
        task = s.var("task", of.batch * groups * blocks)
        b, group, block = task // (groups * blocks), (task // blocks) % groups, task % blocks
        panel, tile = s.var("panel", self.count), s.var("tile", self.tiles)
        left = self._left(b, tile, block * tall, tall)
        near = min(wide, max(1, NEAR_BYTES // (of.steps * self.nr * of.dtype.itemsize)))
        first, last = _range(group, wide, self.count)
        piece = s.var("piece", -(-wide // near)) if near < wide else ZERO
        start = first + piece * near
        stop = start + near if self.count % wide == 0 and wide % near == 0 else s.apply("min", start + near, last)
        right, fill, scratch = self._right(panels, b, panel, (start, stop, near))
        parts = Buffer("parts", of.dtype, of.chunks * self.mr * self.nr, "scratch")
        shift, begin, sums = self._shift(right, panel, (start, stop, near))
        step = self._step(left.value, right)
        met = (tile - block * tall) * near + (panel - start)
        following = self._following(panels, b, start + near, near, met, tall) if near < wide else lambda c: ()
        whole = self._whole(parts, (b, tile, panel), begin, step, following)
        row = (*left.before, For(panel, start, stop, tuple(whole)))
        body: list[Stmt] = [*fill, *shift, For(tile, *_range(block, tall, self.tiles), row)]
        if near < wide:
            body = [For(piece, ZERO, s.const(piece.attr[1], int64), tuple(body))]
        used = [] if self._direct() else [parts]
        return of.nest.kernel("tile", task.attr[1], task, (*left.fill, *body), of.group,
                              (self.reg.acc, *used, *left.scratch, *scratch, *sums), self.flops)

    def _direct(self) -> bool:
        """Whether results go from the registers to where they belong."""
        of = self.of
        return of.chunks == 1 and len(of.group.members) == 1 and self.even and of.n % self.nr == 0

    def _step(self, left: Expr, right: Expr) -> Stmt:
        """acc += left · right."""
        return self.reg.step(*((right, left) if self.of.right_first else (left, right)), self.of.op)

    def _shift(self, right: Expr, panel: Expr, some: tuple[Expr, Expr, int]) -> tuple[list[Stmt], Stmt, list[Buffer]]:
        """(statements that find where the sums of `some` panels (first, stop, how many) begin, the begin of a tile, scratch):
        -SHIFT times the sum of the right operand, where the left one was shifted; else 0."""
        if not self.of.shifted:
            return [], self.reg.clear(), []
        first, stop, most = some
        one = Tile(1, self.blocking.vectors, self.of.dtype, "shift", self.blocking.half)
        begins = Buffer("begins", self.of.dtype, most * self.nr, "scratch")
        right, = substitute_vars((Let(s.ref("right", right.dtype), right),), {self.reg.v: one.v, self.reg.lane: one.lane})
        base = (panel - first) * self.nr
        step = one.step(s.const(SHIFT, WORD), right.value, self.of.op)
        sums = (one.clear(), For(self.k, ZERO, s.const(self.of.steps, int64), (step,)),
                one.over(Store((Write(begins, base + one.column, s.const(0, self.of.dtype) - one.value),))))
        return [For(panel, first, stop, sums)], self.reg.set(load(begins, base + self.reg.column)), [one.acc, begins]

    def _following(self, panels: Buffer | None, b: Expr, first: Expr, near: int, met: Expr,
                   tall: int) -> Callable[[Expr], tuple[Stmt, ...]]:
        """What brings near the panels from `first` on: a part at each chunk of each panel of `tall` tiles; `met` so far."""
        of, chunks = self.of, self.of.chunks
        parts = tall * near * chunks
        if panels is not None:
            at, size = self._panel_base(b, first), near * of.steps * self.nr
            return lambda c: ahead.following(panels, at, met * chunks + c, parts, size)
        n = s.var("column", of.n)
        right = narrow(of.at_step(of.dims.index(b, ZERO, n), self.k)[1])
        if right.op != "load" or of.right_along != "n":
            return lambda c: ()
        index = s.substitute(right.args[0], {n: first * self.nr}.get)
        return lambda c: ahead.following_rows(right.attr, index, self.k, of.steps, near * self.nr, met * chunks + c, parts)

    def _whole(self, parts: Buffer, place: tuple[Expr, Expr, Expr], begin: Stmt, step: Stmt,
               following: Callable[[Expr], tuple[Stmt, ...]]) -> list[Stmt]:
        """All of k, then the results."""
        of, reg = self.of, self.reg
        first = list(self._results_ahead(place))
        if of.chunks > 1:
            c, even = s.var("c", of.chunks), of.steps % of.chunk == 0
            keep = reg.over(Store((Write(parts, c * reg.acc.size + reg.place, reg.value),)))
            start, stop, even = self._steps_of(place[1], c * of.chunk, of.until(c), even)
            chunk = (*following(c), reg.clear(), *in_a_row(self.k, start, stop, of.chunk, even, reg, step), keep)
            return [*first, For(c, ZERO, s.const(of.chunks, int64), chunk), self._finish_parts(parts, place)]
        start, stop, even = self._steps_of(place[1], ZERO, s.const(of.steps, int64), True)
        all_steps = in_a_row(self.k, start, stop, of.steps, even, reg, step)
        chain = [*first, *following(ZERO), begin, *all_steps]
        if not self._direct():
            return [*chain, reg.over(Store((Write(parts, reg.place, reg.value),))), self._finish_parts(parts, place)]
        b, tile, panel = place
        n = s.var("column", of.n)
        value = Let(of.refs[of.root], s.cast(reg.value, of.root.dtype))
        results = (value, *of.epilogue(of.dims.domain, of.dims.index(b, tile * self.mr + reg.i, n)))
        return [*chain, reg.over(*substitute_vars(results, {n: panel * self.nr + reg.column}))]

    def _steps_of(self, tile: Expr, start: Expr, stop: Expr, even: bool) -> tuple[Expr, Expr, bool]:
        """The steps from `start` to `stop` that `tile` takes; whether these are as many for each, if they were (`even`)."""
        zeros = self.of.zeros
        if zeros is None or zeros.inner % self.mr:
            return start, stop, even
        return *zeros.within(tile * self.mr, start, stop), False

    def _results_ahead(self, place: tuple[Expr, Expr, Expr]) -> Iterator[Stmt]:
        """The lines that a tile's results go to, and those that its epilogue reads, if its columns are neighbours there."""
        of, (b, tile, panel) = self.of, place
        if of.dims.columns[-1:] != [len(of.dims.domain) - 1]:
            return
        i, n = s.var("ei", self.mr), s.var("column", of.n)
        index, begin = of.dims.index(b, self.first_row(tile) + i, n), {n: panel * self.nr}.get
        at = s.substitute(ravel(index, of.dims.domain), begin)
        yield from ahead.results([of.nest.buffer_of(v) for v in of.group.stored], at, i, self.nr)
        read = [x for x in s.walk(*[e for stmt in of.epilogue(of.dims.domain, index) for e in expressions(stmt)])
                if x.op == "load" and {i, n} <= set(s.walk(x.args[0])) and s.affine(x.args[0])[0].get(n) == 1]
        for x in dict.fromkeys(read):
            yield from ahead.operand(x.attr, s.substitute(x.args[0], begin), i, self.nr)

    def _finish_parts(self, parts: Buffer, place: tuple[Expr, Expr, Expr]) -> For:
        """The results of a tile whose chunks lie in `parts`."""
        return self.finish(lambda i, j, c: load(parts, i * self.nr + j + c * self.mr * self.nr), place)

    def finish(self, part: Callable[[Expr, Expr, int], Expr], place: tuple[Expr, Expr, Expr]) -> For:
        """Sum the chunks and the epilogue, as a small loop over the rows of the tile. `part`: row i, column j of chunk c."""
        of, (b, tile, panel) = self.of, place
        i, j = s.var("ei", self.mr), s.var("ej", self.nr)
        first = self.first_row(tile)
        n = s.var("column", of.n)  # in range, so that what the epilogue reads is found without a remainder
        total = tree([part(i, j, c) for c in range(of.chunks)])
        stmts = [Let(of.refs[of.root], s.cast(total, of.root.dtype)),
                 *of.epilogue(of.dims.domain, of.dims.index(b, first + i, n))]
        columns = s.const(self.nr, int64) if of.n % self.nr == 0 else s.apply("min", s.const(self.nr, int64),
                                                                            of.n - panel * self.nr)
        body = substitute_vars(tuple(stmts), {n: panel * self.nr + j})
        skipped = ZERO if self.even else tile * self.mr - first  # rows of the tile before
        return For(i, skipped, s.const(self.mr, int64), (For(j, ZERO, columns, body, "vector"),))

    # --------------------------------------------------------------------------------------------------- deep tiles

    def deep(self) -> tuple[list[Kernel], list[Buffer]]:
        """Chunks as tasks of their own, for operands that are long and a result that is small (the gradient of a window).

        A task goes through k in blocks that stay in cache for all its row tiles.
        """
        of, nr, mr, tiles, count = self.of, self.nr, self.mr, self.tiles, self.count
        kernels, between = self._steps()
        wide = self.blocking.tiles
        groups = -(-tiles // wide)
        block = min(of.chunk, DEEP_BLOCK)
        task = s.var("task", of.batch * of.chunks * groups)
        b, c, group = task // (of.chunks * groups), (task // groups) % of.chunks, task % groups
        panel, turn, tile = s.var("panel", count), s.var("block", -(-of.chunk // block)), s.var("tile", tiles)
        begin = c * of.chunk + turn * block
        end = begin + block if of.steps == of.chunks * of.chunk and of.chunk % block == 0 else \
            s.apply("min", s.apply("min", begin + block, (c + 1) * of.chunk), of.steps)
        lies = apart(of.left_at(b, self.first_row(tile), self.k), self.k) is not None
        left = self._in_place(b, tile) if lies else self._block(b, tile, begin, end, block)
        own = Buffer("panels", of.cell, count * block * nr, "scratch")
        index = of.dims.index(b, ZERO, ZERO)
        base = (panel * block - begin) * nr
        fill = For(panel, ZERO, s.const(count, int64),
                   (self._packing(own, base, panel, {d: index[d] for d in self.of_right}, begin, end),))
        right = load(own, base + self.k * nr + self.reg.column)
        parts = Buffer("parts", of.dtype, of.batch * of.chunks * tiles * count * mr * nr)

        def home(b: Expr, tile: Expr, panel: Expr, c: Expr | int, place: Expr) -> Expr:
            return (((b * of.chunks + c) * tiles + tile) * count + panel) * (mr * nr) + place

        where = home(b, tile, panel, c, self.reg.place)
        chain = (self.reg.set(load(parts, where, s.compare("lt", 0, turn))),
                 For(self.k, *self._steps_of(tile, begin, end, False)[:2], (self._step(left.value, right),)),
                 self.reg.over(Store((Write(parts, where, self.reg.value),))))
        loop = For(tile, *_range(group, wide, tiles), (*left.before, For(panel, ZERO, s.const(count, int64), chain)))
        body = (For(turn, ZERO, s.const(turn.attr[1], int64), (fill, loop)),)
        product = of.nest.kernel("deep", task.attr[1], task, body, of.group, (self.reg.acc, own, *left.scratch), self.flops)
        return [*kernels, product, self._finish_deep(parts, home)], [*between, parts]

    def _finish_deep(self, parts: Buffer, home: Callable[..., Expr]) -> Kernel:
        """The chunks of every tile summed, and the epilogue."""
        of = self.of
        task, panel = s.var("task", of.batch * self.tiles), s.var("panel", self.count)
        b, tile = task // self.tiles, task % self.tiles
        rows = self.finish(lambda i, j, c: load(parts, home(b, tile, panel, c, i * self.nr + j)), (b, tile, panel))
        return of.nest.kernel("finish", task.attr[1], task, (For(panel, ZERO, s.const(self.count, int64), (rows,)),), of.group)


def _range(part: Expr, size: int, whole: int) -> tuple[Expr, Expr]:
    """(start, stop) of piece `part` of `whole`, in pieces of `size`."""
    start = part * size
    return start, start + size if whole % size == 0 else s.apply("min", start + size, whole)


def _apart_in_cache(width: int) -> int:
    """A row length from `width` on, in whole vectors, whose rows do not fall into the same few sets of a cache."""
    padded = -(-width // 16) * 16
    return padded + 16 if padded % 64 == 0 else padded


def apart(x: Expr, k: Expr) -> tuple[Expr, Expr] | None:
    """The index of an unguarded load as (a part without `k`, a part of `k` alone); None when they cannot be told apart."""
    if x.op != "load" or len(x.args) > 1:
        return None
    terms, constant = s.affine(x.args[0])
    along, rest = s.const(0, int64), s.const(constant, int64)
    for term, step in terms.items():
        names = {e for e in s.walk(term) if e.op in ("var", "load")}
        if k not in names:
            rest = rest + term * step
        elif names == {k}:
            along = along + term * step
        else:
            return None
    return rest, along


def steps_table(of: Any, x: Expr, k: Expr, name: str) -> tuple[Kernel, Buffer] | None:
    """A table of the places along `k` of an operand `x` of a product, where these are no multiples of `k`; else None."""
    parts = apart(x, k)
    if parts is None or not set(s.affine(parts[1])[0]) - {k}:
        return None
    table = Buffer(name, int64, of.k)
    loop = For(k, ZERO, s.const(of.k, int64), (Store((Write(table, k, parts[1]),)),), "vector")
    return of.nest.kernel("steps", 1, s.var("task", 1), (loop,), of.group), table


def tree(values: Sequence[Expr]) -> Expr:
    """The sum of a power of two of values by a balanced binary tree of neighbours."""
    while len(values) > 1:
        values = [a + b for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]
