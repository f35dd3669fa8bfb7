"""The product of a task's rows with its columns of the hidden weights, which each step of a recurrent sweep makes.

The weights are packed once a call, in panels [k][LANES]. A task meets a few panels at a time, for these chunk by chunk of k,
and for a chunk its register tiles (`dealing.row_tiles`): the chunk of the panels then lies in the first-level cache. Every
other step begins with the panels that were last, because weights that do not fit the second-level cache would otherwise never
be found there.

Numerics are those of every product (`products.contraction`): an FMA chain over k in each of `chunk_count(k)` chunks, a tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mainspring.compile.loops import LANES, Buffer, Kernel, Let, Stmt, load
from mainspring.compile.products.contraction import chunk_count, tree
from mainspring.compile.products.tile import Tile, in_a_row
from mainspring.compile.products.tiled import PACK_PANELS, PACK_ROWS
from mainspring.compile.template import Call
from mainspring.compile.templates.dealing import Deal, row_tiles
from mainspring.compile.templates.lines import block_of, loop, store
from mainspring.ir import scalar as s
from mainspring.ir.scalar import Expr
from mainspring.types.dtype import DType, int64

PACK_ALONG = PACK_ROWS, PACK_PANELS  # rows and panels that a task packs where panels lie along
PACK_ACROSS = 64, 1  # the same where they lie across
Place = Callable[[Expr, Expr, Expr], Expr]  # of a weight at k, a gate, and a column of the gate


@dataclass(frozen=True, eq=False)
class Product:
    """out (rows × columns of a task) = left (rows × k) · weights, rows of left and out `left_stride` and `out_stride` apart.

    The columns are those of `runs` gates, of each `length` neighbours: the whole of its `extent`, or the share of a task.
    """

    rows: int
    k: int
    runs: int
    length: int
    extent: int
    dtype: DType
    beside: int
    tiles: tuple[tuple[Tile, ...], ...]  # for panels met together, and for those that are left
    left: Buffer
    turned: Buffer | None
    parts: Buffer
    out: Buffer
    packed: Buffer
    left_stride: int
    out_stride: int

    @classmethod
    def of(cls, call: Call, how: Deal, k: int, runs: int, units: int) -> Product:
        """For a task of the deal; ``runs · units`` are the columns of the weights as this product sees them."""
        dtype = call.output_types[0].dtype
        length, extent = (how.units, units) if how.rounds else (runs * units, runs * units)
        runs = runs if how.rounds else 1
        panels = -(-runs * length // LANES)
        beside, found = row_tiles(call.target, dtype, how.rows, panels)
        left_stride = -(-k // LANES) * LANES + LANES  # rows begin in different sets of the cache
        tiles = tuple([tuple([Tile(t.rows, min(t.panels, count), dtype, f"acc{count}_{i}") for i, t in enumerate(found)])
                       for count in (beside, panels % beside) if count])
        turned = Buffer("turned", dtype, k * how.rows, "scratch") if call.target.lane_registers(dtype) > 1 else None
        parts = Buffer("parts", dtype, chunk_count(k) * how.rows * beside * LANES, "scratch")
        out = Buffer("out", dtype, how.rows * panels * LANES, "scratch")
        left = call.temporary("left", dtype, 2 * how.blocks * how.rows * left_stride) if how.rounds else \
            Buffer("left", dtype, how.rows * left_stride, "scratch")
        packed = call.temporary("packed", dtype, how.groups * k * panels * LANES)
        return cls(how.rows, k, runs, length, extent, dtype, beside, tiles, left, turned, parts, out, packed, left_stride,
                   panels * LANES)

    @property
    def scratch(self) -> tuple[Buffer, ...]:
        turned, parts = (self.turned,) if self.turned else (), (self.parts,) if self.chunks > 1 else ()
        return (*turned, *parts, self.out, *[tile.acc for tiles in self.tiles for tile in tiles])

    @property
    def chunks(self) -> int:
        return chunk_count(self.k)

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.k * self.runs * self.length

    @property
    def panels(self) -> int:
        """Panels of a task."""
        return self.out_stride // LANES

    def pack(self, weight: Buffer, at: Place, across: bool) -> Kernel:
        """The weights into panels; `across`: whether the columns of a panel are far apart in the weights."""
        rows, several = PACK_ACROSS if across else PACK_ALONG
        count, blocks = -(-self.extent // self.length) * self.panels, -(-self.k // rows)
        task = s.var("task", -(-count // several) * blocks)
        panel, first_panel, stop_panel = block_of(task // blocks, count, several, "panel")
        k, start, stop = block_of(task % blocks, self.k, rows, "k")
        lane = s.var("lane", LANES)
        first = (panel % self.panels) * LANES
        run, along = (first // self.length, first % self.length + lane) if self.length % LANES == 0 else \
            ((first + lane) // self.length, (first + lane) % self.length)
        if self.runs == 1:
            run, along = s.const(0, int64), first + lane
        column = (panel // self.panels) * self.length + along
        to, value = (panel * self.k + k) * LANES + lane, load(weight, at(k, run, column), self._inside(run, column))
        copy = loop(lane, loop(k, store(self.packed, to, value), start=start, stop=stop, role="vector")) if across else \
            loop(k, loop(lane, store(self.packed, to, value), role="vector"), start=start, stop=stop)
        body = loop(panel, copy, start=first_panel, stop=stop_panel)
        return Kernel("pack_weights", (weight, self.packed), frozenset([self.packed]), task.attr[1], task, (body,))

    def _inside(self, run: Expr, column: Expr) -> Expr:
        """Whether there is such a column."""
        inside = s.compare("lt", column, self.extent)
        return s.apply("and", inside, s.compare("lt", run, self.runs)) if self.runs > 1 else inside

    def run(self, odd: Expr, group: Expr, base: Expr, ahead: Callable[[Expr], Sequence[Stmt]] = lambda turn: ()) -> list[Stmt]:
        """out = left (from `base` on) · weights of `group`, from the last panels on where the step is `odd`.

        `ahead`: what else is done before each few panels, by their number.
        """
        whole, panel = self.panels // self.beside, s.ref("panel", int64)
        turn = s.var("turn", whole)
        order = Let(panel, s.where(odd, whole - 1 - turn, turn) * self.beside)
        turned = [self._turn(self.turned, base)] if self.turned else []
        stmts = [*turned, loop(turn, order, *ahead(turn), *self._panels(self.tiles[0], self.beside, panel, group, base))]
        for tiles in self.tiles[1:]:
            done = whole * self.beside
            stmts += self._panels(tiles, self.panels - done, s.const(done, int64), group, base)
        return stmts

    def _turn(self, to: Buffer, base: Expr) -> Stmt:
        """Rows of `left` as columns: elements of a column, whole lines apart, would share a bank of the cache. Where lanes are
        one register, a k takes so long that this does not matter."""
        r, k = s.var("row", self.rows), s.var("k", self.k)
        copy = store(to, k * self.rows + r, load(self.left, base + r * self.left_stride + k))
        return loop(r, loop(k, copy, role="vector"))

    def _panels(self, tiles: Sequence[Tile], count: int, panel: Expr, group: Expr, base: Expr) -> list[Stmt]:
        """The products with `count` panels from `panel` on."""
        home, first = panel * LANES, panel + group * self.panels
        if self.chunks == 1:
            return self._chain(tiles, count, first, base, s.const(0, int64), s.const(self.k, int64), self.out,
                               lambda row, column: row * self.out_stride + home + column)
        c, length, wide = s.var("chunk", self.chunks), -(-self.k // self.chunks), self.beside * LANES
        stop = (c + 1) * length if self.k % self.chunks == 0 else s.minimum((c + 1) * length, self.k)
        chain = loop(c, *self._chain(tiles, count, first, base, c * length, stop, self.parts,
                                     lambda row, column: (c * self.rows + row) * wide + column))
        r, lane = s.var("row", self.rows), s.var("lane", count * LANES)
        total = tree([load(self.parts, (c * self.rows + r) * wide + lane) for c in range(self.chunks)])
        add = loop(lane, store(self.out, r * self.out_stride + home + lane, total), role="vector")
        return [chain, loop(r, add)]

    def _chain(self, tiles: Sequence[Tile], count: int, panel: Expr, base: Expr, start: Expr, stop: Expr, to: Buffer,
               place: Callable[[Expr, Expr], Expr]) -> list[Stmt]:
        """The products of `count` panels with k from `start` to `stop`, each to its `place` (row, column)."""
        k, row = s.var("k", self.k), 0
        stmts: list[Stmt] = []
        for tile in tiles:
            one = s.var("one", count) if tile.vectors < count else s.const(0, int64)
            left = load(self.turned, k * self.rows + row + tile.i) if self.turned else \
                load(self.left, base + (row + tile.i) * self.left_stride + k)
            right = load(self.packed, ((panel + one + tile.v) * self.k + k) * LANES + tile.lane)
            steps = in_a_row(k, start, stop, -(-self.k // self.chunks), self.k % self.chunks == 0, tile, tile.step(left, right))
            chain = (tile.clear(), *steps, tile.over(store(to, place(tile.i + row, one * LANES + tile.column), tile.value)))
            stmts += chain if one.op == "const" else [loop(one, *chain)]
            row += tile.rows
        return stmts
