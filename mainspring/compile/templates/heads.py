"""What the kernels of attention share: where rows of queries and keys lie, which keys a query sees, and their register tiles.

A *row* is a query of one of the G heads that share a key head: row r of a key head is query r div G of head r mod G, so that
grouped queries are one tall matrix over the same keys. Rows come in blocks of a multiple of LANES.

Two forms of product do all the work, both over operands that lie as they are read:

    across   lanes are rows, each step takes one element of a key:      scores[key][row]  = Σ_d k[key][d] · qT[d][row]
    along    lanes are the width, each step takes one row or one key:   out[row][d]       = Σ_key weights[key][row] · v[key][d]
                                                                        dk[key][d]        = Σ_row pulled[key][row] · q[row][d]
"""

from __future__ import annotations

from dataclasses import dataclass

from mainspring.compile.loops import LANES, Buffer, Stmt, Store, Write, load
from mainspring.compile.products.contraction import chunk_count
from mainspring.compile.products.tile import Tile
from mainspring.compile.products.tiled import tree
from mainspring.compile.target import Target
from mainspring.compile.template import Call
from mainspring.compile.templates.lines import loop
from mainspring.ir.scalar import Expr, cast, const, maximum, minimum, var
from mainspring.types.dtype import DType, int64

KEY_BLOCK = 64  # keys whose weights and values are in the first-level cache together


@dataclass(frozen=True)
class Heads:
    """The sizes of one application of attention, and which keys its queries see (`shift` and `offset`, see the op)."""

    batch: int
    length: int
    heads: int
    groups: int  # key heads
    keys: int
    width: int
    value_width: int
    dtype: DType
    shift: int | None
    offset: Buffer | None

    @staticmethod
    def of(call: Call, offset: int) -> Heads:
        """Of a call whose first operands are q, k and v, and whose operand number `offset`, if any, shifts what is seen."""
        q, k, v = (t.shape for t in call.input_types[:3])
        given = call.inputs[offset] if len(call.inputs) > offset else None
        return Heads(q[0], q[1], q[2], k[2], k[1], q[3], v[3], call.input_types[0].dtype, call.static["shift"], given)

    @property
    def share(self) -> int:
        """Query heads of a key head."""
        return self.heads // self.groups

    @property
    def rows(self) -> int:
        """Rows of a key head."""
        return self.length * self.share

    def row_at(self, b: Expr, group: Expr, row: Expr, width: int) -> Expr:
        """Where `row` begins in a (B, L, H, width)."""
        return ((b * self.length + row // self.share) * self.heads + group * self.share + row % self.share) * width

    def number_at(self, b: Expr, group: Expr, row: Expr) -> Expr:
        """The place of `row` in a (B, H, L)."""
        return (b * self.heads + group * self.share + row % self.share) * self.length + row // self.share

    def key_at(self, b: Expr, group: Expr, key: Expr, width: int) -> Expr:
        """Where `key` begins in a (B, S, K, width)."""
        return ((b * self.keys + key) * self.groups + group) * width

    def clipped(self, row: Expr) -> Expr:
        """`row`, or the last one where that is beyond it."""
        return minimum(row, self.rows - 1)

    @property
    def ahead(self) -> Expr:
        """Query i sees the keys up to i + `ahead`."""
        ahead = const(self.shift or 0, int64)
        return ahead if self.offset is None else ahead + cast(load(self.offset, 0), int64)

    def seen(self, row: Expr) -> Expr:
        """How many keys `row` sees."""
        if self.shift is None:
            return const(self.keys, int64)
        return maximum(minimum(self.clipped(row) // self.share + self.ahead + 1, self.keys), 0)

    def first_to_see(self, key: Expr) -> Expr:
        """The first row that sees `key`; it may be negative."""
        return const(0, int64) if self.shift is None else (key - self.ahead) * self.share


def across_tile(target: Target, dtype: DType, block: int, name: str) -> Tile:
    """The tile of an across product: keys × lanes of a block of rows."""
    most = target.accumulators(dtype)
    vectors = 2 if most >= 16 and block % (2 * LANES) == 0 else 1
    return Tile(tile_rows(KEY_BLOCK, max(1, most // vectors)), vectors, dtype, name)


def along_tile(target: Target, dtype: DType, rows: int, width: int, name: str) -> Tile:
    """The tile of an along product: of so many rows or keys × lanes of the width."""
    most = target.accumulators(dtype)
    vectors = 2 if most >= 16 and width > LANES else 1
    if rows < most // vectors:  # few rows: all the width that the registers hold
        vectors = min(-(-width // LANES), max(1, most // rows))
    return Tile(tile_rows(rows, max(1, most // vectors)), vectors, dtype, name)


def tile_rows(extent: int, most: int) -> int:
    """Rows of a register tile for `extent` rows: few of them beyond the end, few tiles."""
    if extent <= most:
        return extent
    return min(range(most, most // 2, -1), key=lambda rows: -(-extent // rows) * (rows + 1))


@dataclass(frozen=True)
class Chain:
    """A sum over a reduced extent: an FMA chain in each of its chunks, whose results are added by a tree (docs/numerics.md)."""

    extent: int

    @property
    def chunks(self) -> int:
        return chunk_count(self.extent)

    @property
    def chunk(self) -> int:
        """Elements of a chunk."""
        return -(-self.extent // self.chunks)

    def stop(self, c: Expr) -> Expr:
        """Where chunk `c` ends."""
        end = (c + 1) * self.chunk
        return end if self.extent % self.chunks == 0 else minimum(end, self.extent)

    def run(self, tile: Tile, k: Expr, left: Expr, right: Expr, parts: Buffer) -> tuple[list[Stmt], Expr]:
        """(statements that run the chain in registers, the total of an accumulator); `parts` keeps the chunks of a tile."""
        step = tile.step(left, right)
        if self.chunks == 1:
            return [tile.clear(), loop(k, step, stop=self.extent)], tile.value
        c = var(f"{tile.name}_c", self.chunks)
        keep = tile.over(Store((Write(parts, c * tile.acc.size + tile.place, tile.value),)))
        body = loop(c, tile.clear(), loop(k, step, start=c * self.chunk, stop=self.stop(c)), keep)
        return [body], tree([load(parts, tile.place + i * tile.acc.size) for i in range(self.chunks)])


def ceil_div(x: Expr, n: int) -> Expr:
    """x / n, rounded up."""
    return (x + (n - 1)) // n
