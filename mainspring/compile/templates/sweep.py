"""What the sweeps of recurrent layers share: rows of the batch in blocks, each a task that goes through all steps by itself, and
the product of a block's rows with the hidden weights.

The weights are packed once a call, as the product reads them: for a group of columns a panel [k][vectors·LANES]. The inner loop
runs down a chunk of one panel, which then lies in the first-level cache for all row tiles of the block.

Numerics are those of every product (compile/contraction.py): one FMA chain over k in each of `chunk_count(k)` chunks, and a tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mainspring.compile.contraction import chunk_count, tree
from mainspring.compile.loops import LANES, Buffer, For, Kernel, Stmt, load
from mainspring.compile.target import Target
from mainspring.compile.template import Call
from mainspring.compile.templates.lines import loop, number, store
from mainspring.compile.tile import Tile
from mainspring.ir import scalar as s
from mainspring.ir.scalar import Expr
from mainspring.types.dtype import DType

BLOCK_ROWS = 8  # rows of the batch that a task takes at most
PACK_ROWS = 64  # rows of a panel that a task packs


@dataclass(frozen=True, eq=False)
class Product:
    """left (rows × k, in scratch) times weights (k × columns); the columns of one panel at a time.

    A panel is `width` vectors, read in groups of as many as a row tile has. The chunks of its products go to `parts`.
    """

    rows: int
    k: int
    panels: int
    width: int
    dtype: DType
    target: Target
    packed: Buffer
    left: Buffer = field(init=False)
    parts: Buffer = field(init=False)
    tiles: tuple[Tile, ...] = field(init=False)

    def __post_init__(self) -> None:
        vectors, heights = tile_heights(self.rows, self.width, self.target.accumulators(self.dtype))
        tiles = tuple([Tile(h, vectors, self.dtype, f"acc{i}") for i, h in enumerate(heights)])
        parts = Buffer("parts", self.dtype, self.chunks * self.rows * self.width * LANES, "scratch")
        made = {"left": Buffer("left", self.dtype, self.rows * self.stride, "scratch"), "parts": parts, "tiles": tiles}
        for name, value in made.items():
            object.__setattr__(self, name, value)

    @property
    def chunks(self) -> int:
        return chunk_count(self.k)

    @property
    def stride(self) -> int:
        """From row to row of the left operand: rows begin in different sets of the cache."""
        return -(-self.k // LANES) * LANES + LANES

    @property
    def scratch(self) -> tuple[Buffer, ...]:
        return (self.left, self.parts, *[tile.acc for tile in self.tiles])

    @property
    def flops(self) -> int:
        """Of all rows of a block with all columns."""
        return 2 * self.rows * self.k * self.panels * self.width * LANES

    def pack(self, weight: Buffer, at: Callable[[Expr, Expr], tuple[Expr, Expr]]) -> Kernel:
        """The weights into panels. ``at(k, column) -> (place in weight, whether there is one)``, column = panel · width + …"""
        wide = self.tiles[0].columns
        groups, blocks = self.panels * self.width * LANES // wide, -(-self.k // PACK_ROWS)
        task, lane, k = s.var("task", groups * blocks), s.var("lane", wide), s.var("k", self.k)
        group, start = task // blocks, task % blocks * PACK_ROWS
        place, inside = at(k, group * wide + lane)
        stop = s.minimum(start + PACK_ROWS, self.k)
        body = loop(k, loop(lane, store(self.packed, (group * self.k + k) * wide + lane, load(weight, place, inside)),
                            role="vector"), start=start, stop=stop)
        return Kernel("pack_weights", (weight, self.packed), frozenset([self.packed]), groups * blocks, task, (body,))

    def panel(self, panel: Expr) -> Stmt:
        """The chunks of the products of `panel`, into `parts`."""
        wide = self.tiles[0].columns
        groups = self.width * LANES // wide
        group, c, k = s.var("group", groups), s.var("chunk", self.chunks), s.var("k", self.k)
        length = -(-self.k // self.chunks)
        stop = (c + 1) * length if self.k % self.chunks == 0 else s.minimum((c + 1) * length, self.k)
        stmts: list[Stmt] = []
        row = 0
        for tile in self.tiles:
            right = load(self.packed, ((panel * groups + group) * self.k + k) * wide + tile.column)
            step = tile.step(load(self.left, (tile.i + row) * self.stride + k), right)
            at = ((group * self.chunks + c) * self.rows + row) * wide + tile.place
            stmts += [tile.clear(), For(k, c * length, stop, (step,)), tile.over(store(self.parts, at, tile.value))]
            row += tile.rows
        return loop(group, loop(c, *stmts))

    def total(self, row: Expr, vector: int, lane: Expr) -> Expr:
        """The product of `row` with a column of the panel done last."""
        wide = self.tiles[0].columns
        group, column = divmod(vector * LANES, wide)
        return tree([load(self.parts, ((group * self.chunks + c) * self.rows + row) * wide + column + lane)
                     for c in range(self.chunks)])


def tile_heights(rows: int, width: int, accumulators: int) -> tuple[int, list[int]]:
    """(vectors of a row tile, heights of the row tiles of a block): few loads for a multiplication, tiles of like heights."""

    def loads(vectors: int) -> float:
        tiles = -(-rows // max(1, accumulators // vectors))
        return tiles * vectors + rows / vectors

    vectors = min([v for v in (1, 2, 3, 4) if width % v == 0 and v <= accumulators], key=loads)
    tiles = -(-rows // max(1, accumulators // vectors))
    return vectors, [rows // tiles + (i < rows % tiles) for i in range(tiles)]


@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep to be lowered: `steps` over rows of the batch, in blocks, of `units`; a task is a block.

    The number of blocks follows from the batch, whatever runs them. A block that reaches beyond the batch does its last row twice.
    """

    call: Call
    steps: int
    batch: int
    units: int
    reverse: bool
    task: Expr = field(init=False)
    r: Expr = field(init=False)
    lane: Expr = field(init=False)

    def __post_init__(self) -> None:
        for name, value in {"task": s.var("block", self.blocks), "r": s.var("r", self.rows),
                            "lane": s.var("lane", self.units)}.items():
            object.__setattr__(self, name, value)

    @property
    def blocks(self) -> int:
        return -(-self.batch // BLOCK_ROWS)

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return -(-self.batch // self.blocks)

    def product(self, k: int, width: int) -> Product:
        """A product of the rows of a block: for LANES units a panel of `width` vectors."""
        panels, dtype = -(-self.units // LANES), self.call.output_types[0].dtype
        packed = self.call.temporary("packed", dtype, panels * width * LANES * k)
        return Product(self.rows, k, panels, width, dtype, self.call.target, packed)

    def at(self, time: Expr | int | None, width: int, column: Expr) -> Expr:
        """The place of `column` of row `r` in a tensor (time, batch, width); without time in one (batch, width)."""
        row = self.task * self.rows + self.r
        if self.batch % self.rows:
            row = s.minimum(row, self.batch - 1)
        return (row if time is None else row + time * self.batch) * width + column

    def over(self, *stmts: Stmt, first: Expr | int = 0, count: int | None = None) -> Stmt:
        """`stmts` for each row `r` of the block and each `lane` of the units `first` + lane: `count` of them, or all."""
        stop = self.units if count is None else count
        left = stop if self.units % stop == 0 else s.minimum(number(stop), self.units - first)
        return loop(self.r, loop(self.lane, *stmts, stop=left, role="vector"))

    def kernel(self, product: Product, back: bool, begin: Sequence[Stmt], body: Callable[[Expr], Sequence[Stmt]],
               end: Sequence[Stmt], *scratch: Buffer) -> Kernel:
        """`begin`, then ``body(time)`` for each step, then `end`."""
        step = s.var("step", self.steps)
        time = self.steps - 1 - step if self.reverse != back else step
        params = tuple(dict.fromkeys((*self.call.inputs, *self.call.outputs, product.packed)))
        stmts = (*begin, loop(step, *body(time)), *end)
        return Kernel("sweep_back" if back else "sweep", params, frozenset(self.call.outputs), self.blocks, self.task, stmts,
                      (*product.scratch, *scratch), self.blocks * self.steps * product.flops)
