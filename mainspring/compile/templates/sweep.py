"""What the sweeps of recurrent layers share: rows of the batch in blocks, each a task that goes through all steps by itself,
and the product of a block's rows with the hidden weights.

The weights are packed once a call, in panels [k][vectors·LANES] as the product reads them. The inner loop runs down a chunk of
one panel, which then lies in the first-level cache for all row tiles of the block.

Numerics are those of every product (compile/contraction.py): an FMA chain over k in each of `chunk_count(k)` chunks, a tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mainspring.compile.contraction import chunk_count, tree
from mainspring.compile.loops import LANES, Buffer, For, Kernel, Let, Stmt, load
from mainspring.compile.template import Call
from mainspring.compile.templates.lines import block_of, loop, params, store
from mainspring.compile.tile import Tile
from mainspring.ir import scalar as s
from mainspring.ir.scalar import Expr
from mainspring.types.dtype import DType, int64

BLOCK_ROWS = 8  # rows of the batch that a task takes at most
PACK_ROWS = 64  # rows of a panel that a task packs


def tile_heights(rows: int, columns: int, accumulators: int) -> tuple[int, list[int]]:
    """(vectors of a row tile, heights of the row tiles of a block): as many as the registers hold, of like heights."""
    vectors = 1 if columns <= LANES or accumulators < 16 else 2
    tiles = -(-rows // max(1, accumulators // vectors))
    return vectors, [rows // tiles + (i < rows % tiles) for i in range(tiles)]


@dataclass(frozen=True, eq=False)
class Product:
    """out (rows × columns) = left (rows × k) · weights; left and out are scratch, rows `left_stride`, `out_stride` apart."""

    rows: int
    k: int
    columns: int
    dtype: DType
    vectors: int
    tiles: tuple[Tile, ...]
    left: Buffer
    parts: Buffer
    out: Buffer
    packed: Buffer
    left_stride: int
    out_stride: int

    @classmethod
    def of(cls, call: Call, rows: int, k: int, columns: int) -> Product:
        """The product for a block of `rows`."""
        dtype = call.output_types[0].dtype
        vectors, heights = tile_heights(rows, columns, call.target.accumulators(dtype))
        wide = vectors * LANES
        left_stride = -(-k // LANES) * LANES + LANES  # rows begin in different sets of the cache
        out_stride = -(-columns // wide) * wide
        tiles = tuple([Tile(height, vectors, dtype, f"acc{i}") for i, height in enumerate(heights)])
        left, parts, out = (Buffer(name, dtype, size, "scratch") for name, size in (
            ("left", rows * left_stride), ("parts", chunk_count(k) * rows * wide), ("out", rows * out_stride)))
        packed = call.temporary("packed", dtype, k * out_stride)
        return cls(rows, k, columns, dtype, vectors, tiles, left, parts, out, packed, left_stride, out_stride)

    @property
    def scratch(self) -> tuple[Buffer, ...]:
        return (self.left, self.parts, self.out, *[tile.acc for tile in self.tiles])

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.k * self.columns

    @property
    def wide(self) -> int:
        """Columns of a panel."""
        return self.vectors * LANES

    def pack(self, weight: Buffer, at: Callable[[Expr, Expr], Expr]) -> Kernel:
        """The weights into panels; ``at(k, column)`` is the place in `weight`."""
        panels, blocks, lane = self.out_stride // self.wide, -(-self.k // PACK_ROWS), s.var("lane", self.wide)
        task = s.var("task", panels * blocks)
        panel, (k, start, stop) = task // blocks, block_of(task % blocks, self.k, PACK_ROWS, "k")
        column = panel * self.wide + lane
        value = load(weight, at(k, column), s.compare("lt", column, self.columns))
        copy = loop(lane, store(self.packed, (panel * self.k + k) * self.wide + lane, value), role="vector")
        return Kernel("pack_weights", (weight, self.packed), frozenset([self.packed]), panels * blocks, task,
                      (loop(k, copy, start=start, stop=stop),))

    def run(self, step: Expr) -> Stmt:
        """out = left · weights. Every other step begins with the panels that were last: some of them are still in the cache."""
        turn, r, lane = s.var("turn", self.out_stride // self.wide), s.var("row", self.rows), s.var("lane", self.wide)
        panel = s.ref("panel", int64)
        chunks = chunk_count(self.k)
        total = tree([load(self.parts, (c * self.rows + r) * self.wide + lane) for c in range(chunks)])
        add = loop(lane, store(self.out, r * self.out_stride + panel * self.wide + lane, total), role="vector")
        order = Let(panel, s.where(s.compare("eq", step % 2, 0), turn, turn.attr[1] - 1 - turn))
        return loop(turn, order, self._chunks(panel, chunks), loop(r, add))

    def _chunks(self, panel: Expr, chunks: int) -> Stmt:
        """The products of each chunk of a panel, into `parts`."""
        c, k, length = s.var("chunk", chunks), s.var("k", self.k), -(-self.k // chunks)
        stop = (c + 1) * length if self.k % chunks == 0 else s.minimum((c + 1) * length, self.k)
        stmts: list[Stmt] = []
        row = 0
        for tile in self.tiles:
            step = tile.step(load(self.left, (tile.i + row) * self.left_stride + k),
                             load(self.packed, (panel * self.k + k) * self.wide + tile.column))
            keep = tile.over(store(self.parts, (c * self.rows + row) * self.wide + tile.place, tile.value))
            stmts += [tile.clear(), For(k, c * length, stop, (step,)), keep]
            row += tile.rows
        return loop(c, *stmts)


@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep to be lowered: `steps` over the rows of a batch, in blocks, of `units`. A task is a block.

    How many blocks there are follows from the batch, whatever runs them. One that reaches beyond it does its last row again.
    """

    call: Call
    steps: int
    batch: int
    units: int
    reverse: bool
    block: Expr = field(init=False)
    r: Expr = field(init=False)
    unit: Expr = field(init=False)

    def __post_init__(self) -> None:
        for name, extent in (("block", -(-self.batch // BLOCK_ROWS)), ("r", self.rows), ("unit", self.units)):
            object.__setattr__(self, name, s.var(name, extent))

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return -(-self.batch // -(-self.batch // BLOCK_ROWS))

    def at(self, time: Expr | int | None, gates: int = 1, gate: int = 0) -> Expr:
        """The place of row `r` and `unit` of a gate in a tensor (time, batch, gates · units); without time in (batch, …)."""
        row = self.block * self.rows + self.r
        if self.batch % self.rows:
            row = s.minimum(row, self.batch - 1)
        return ((row if time is None else row + time * self.batch) * gates + gate) * self.units + self.unit

    def start(self) -> Expr:
        """The place of row `r` and `unit` of what the sweep begins with, in T + 1 rows of it."""
        return self.at(self.steps if self.reverse else 0)

    def around(self, time: Expr) -> tuple[Expr, Expr]:
        """The places of row `r` and `unit` before and after the step at `time`, in T + 1 rows."""
        return self.at(time + int(self.reverse)), self.at(time + int(not self.reverse))

    def left(self, product: Product, gate: int = 0) -> Expr:
        """The place of row `r` and `unit` of a gate in the product's left operand."""
        return self.r * product.left_stride + self.unit + gate * self.units

    def product(self, product: Product, gate: int = 0) -> Expr:
        """The product of row `r` with the column of `unit` of a gate."""
        return load(product.out, self.r * product.out_stride + self.unit + gate * self.units)

    def over(self, *stmts: Stmt) -> Stmt:
        """`stmts` for each row `r` and each `unit`."""
        return loop(self.r, loop(self.unit, *stmts, role="vector"))

    def kernel(self, product: Product, body: Callable[[Expr, Expr], Sequence[Stmt]],
               around: tuple[Sequence[Stmt], Sequence[Stmt]], carried: Sequence[Buffer] = (), back: bool = False) -> Kernel:
        """The first of `around`, ``body(step, time)`` for each step, from the last if `back`, and the second of `around`."""
        step = s.var("step", self.steps)
        time = self.steps - 1 - step if self.reverse != back else step
        stmts = (*around[0], loop(step, *body(step, time)), *around[1])
        tasks = self.block.attr[1]
        return Kernel("sweep_back" if back else "sweep", params(self.call, product.packed), frozenset(self.call.outputs), tasks,
                      self.block, stmts, (*product.scratch, *carried), tasks * self.steps * product.flops)


def zeros(buffer: Buffer) -> Stmt:
    """A scratch buffer of zeros."""
    i = s.var("i", buffer.size)
    return loop(i, store(buffer, i, s.const(0, buffer.dtype)), role="vector")


