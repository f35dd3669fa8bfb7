"""How a product is cut: register tiles, rows and columns of a task, and where its right operand lies. Numbers only, no loops.

    for a few panels of a task at a time:      a panel is K × NR of the right operand, which lies in place,
      for each row tile of the task:             is packed by the task, or was packed by a kernel before
        for each of the few: for k: acc += left · right          MR × NR accumulators, in registers

With this you can ask for `candidates` of a product, what each would `cost` (a rough count of cycles of one core, from the
target's table of costs), and which the heuristic takes (`blocking`). No choice changes a bit of the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from mainspring.compile.loops import LANES
from mainspring.compile.target import Target
from mainspring.types.dtype import DType

COPIED = ("across", "columns", "rows")  # ways of the left operand that copy it into the task's memory
ACROSS_COLUMNS = 96  # from so many columns of a task on, rows that lie in place are copied across
ADDRESSES = 8  # rows of a tile, each with an address of its own: general registers hold no more
MOST_VECTORS = 3  # of a register tile, where there are registers enough
SHARES = (2, 8)  # threads that tasks are to be dealt to evenly
MIN_DEEP = 2048  # a shorter k is not worth kernels of their own for its chunks, unless measured
DEEP_BLOCK = 128  # rows of k that all row tiles of such a kernel go through before the next: in the first-level cache
WAYS = 8  # of a second-level cache: lines that lie its size / WAYS apart share a set of so many
PAGE = 4096  # bytes of a way of the first-level cache, which is found by addresses within a page
NEAR_BYTES = 128 << 10  # panels that a row tile goes through before the next tile


@dataclass(frozen=True)
class Extents:
    """A product: batch × rows × columns over k, in `chunks` chains.

    Args:
        way: how the left reaches register tiles: "place", "bases" (both in place), "columns", "rows" (copied).
        direct: whether the right can be read where it lies, in whole panels; `stride`: bytes between its rows.
        of_right: batches of which the right operand is another one.
        plain: whether results are stored as they are, without an epilogue.
        run: neighbouring rows that lie evenly spaced, where not all do ("bases").
        zeros: (r, the share of steps that a tile leaves out whose rows divide r).
        repeated: whether the product stands in a loop, out of which a kernel that packs a constant operand moves.
        splits: whether chunks may be tasks of their own.
        alone: whether one thread has all tasks.
    """

    batch: int
    m: int
    n: int
    k: int
    chunks: int
    dtype: DType
    way: str
    direct: bool
    stride: int
    of_right: int
    plain: bool
    run: int = 1
    zeros: tuple[int, float] = (1, 0.0)
    repeated: bool = False
    splits: bool = False
    alone: bool = False

    @property
    def shares(self) -> tuple[int, ...]:
        """Threads that tasks are to be dealt to evenly."""
        return (1,) if self.alone else SHARES


@dataclass(frozen=True)
class Blocking:
    """A register tile of `rows` × `vectors`·LANES; a task is `tiles` row tiles × `panels` panels of columns.

    half: of the last vector of a panel there is the lower half.
    right: "place" (read where it lies), "task" (packed by each task), or "kernel" (packed by a kernel before).
    deep: a task is one chunk of k alone, for all panels; a kernel after sums the chunks.
    """

    rows: int
    vectors: int
    tiles: int
    panels: int
    right: str
    deep: bool = False
    half: bool = False

    @property
    def name(self) -> str:
        """As candidates are called."""
        return f"{self.rows}x{self.columns / LANES:g} {self.tiles}x{self.panels} {self.right}{' deep' * self.deep}"

    @property
    def columns(self) -> int:
        """Columns of a panel."""
        return self.vectors * LANES - self.half * LANES // 2


def way_of(way: str, b: Blocking) -> str:
    """How the left operand of extents with this way reaches the tiles of `b`."""
    return "across" if way == "place" and not b.deep and b.panels * b.columns >= ACROSS_COLUMNS else way


@cache
def blocking(e: Extents, target: Target) -> Blocking:
    """The candidate that should cost least. Where operands are long and the result is small (the gradient of a window), chunks
    are tasks of their own."""
    deep = e.splits and is_deep(e.m, e.n, e.k, e.chunks)
    found = [(cost(e, b, target), b) for b in (_deep if deep else _whole)(e, target)]
    least, _ = min(found, key=lambda pair: pair[0])
    return min([b for cycles, b in found if cycles == least], key=lambda b: b.name)


def is_deep(m: int, n: int, k: int, chunks: int) -> bool:
    """Whether the operands are long and the result small."""
    return k >= max(MIN_DEEP, m, n, 2 * m * n * chunks // (m + n))


def candidates(e: Extents, target: Target) -> Iterator[Blocking]:
    """Everything worth a thought."""
    yield from _whole(e, target)
    if e.splits:
        yield from _deep(e, target)


def _deep(e: Extents, target: Target) -> Iterator[Blocking]:
    for tile in _tiles(e, target):
        if DEEP_BLOCK * tile.columns * e.dtype.itemsize <= target.l1_bytes * 3 // 4:
            yield from (replace(tile, tiles=t, right="task", deep=True) for t in _parts(tile.tiles))


def _whole(e: Extents, target: Target) -> Iterator[Blocking]:
    for tile in _tiles(e, target):
        for right in ("place", "task", "kernel"):
            if (right == "place" and not (e.direct and e.n % tile.columns == 0)) or (right == "task" and e.repeated):
                continue
            for t in _parts(tile.tiles):
                for p in _parts(tile.panels):
                    yield Blocking(tile.rows, tile.vectors, t, p, right, half=tile.half)


def _tiles(e: Extents, target: Target) -> Iterator[Blocking]:
    """Register tiles, in a task of all: as many accumulators as fit, or a few less, so that rows come out even."""
    each = target.lane_registers(e.dtype)
    registers = target.accumulators(e.dtype) * each
    for vectors, half in _widths(e, target):
        most = min(e.m, max(1, registers // (vectors * each - half * (each // 2))))
        few = min(most, ADDRESSES) if e.way == "bases" else most
        evenly = [rows for rows in range(few + 1, most + 1) if e.run % rows == 0]
        for rows in (*range(few, max(0, few * 2 // 3 - 1), -1), *evenly):
            tile = Blocking(rows, vectors, -(-e.m // rows), 1, "kernel", half=half)
            yield replace(tile, panels=-(-e.n // tile.columns))


def _widths(e: Extents, target: Target) -> Iterator[tuple[int, bool]]:
    """Vectors of a register tile, and whether the last is half a one: where columns do not fill a whole one."""
    most, filled = (MOST_VECTORS if target.accumulators(e.dtype) >= 16 else 1), -(-e.n // LANES)
    for vectors in range(1, min(most, filled) + 1):
        if vectors <= 2 or -filled % vectors <= filled % 2:  # three, where they waste no more than two
            yield vectors, False
    if 0 < e.n % LANES <= LANES // 2:
        yield from ((vectors, True) for vectors in range(1, min(max(most, 2), filled) + 1))


@cache
def _parts(whole: int) -> tuple[int, ...]:
    """Sizes of even parts: the whole, its half, …"""
    found = {whole}
    pieces = 2
    while whole // pieces:
        found.add(-(-whole // pieces))
        pieces += 1 if pieces < 4 else pieces // 2
    return tuple(sorted(found))


def cost(e: Extents, b: Blocking, target: Target, shares: tuple[int, ...] = ()) -> float:
    """Cycles that the product takes, summed over teams of so many threads, those of `e` unless told otherwise."""
    costs, shares = target.costs, shares or e.shares
    each = target.lane_registers(e.dtype)
    tiles, panels = -(-e.m // b.rows), -(-e.n // b.columns)
    tasks = e.batch * -(-tiles // b.tiles) * -(-panels // b.panels)
    if e.zeros[1]:
        left_out = e.zeros[1] if e.zeros[0] % b.rows == 0 else 0.0
        return cost(replace(e, k=round(e.k * (1 - left_out)), zeros=(1, 0.0)), b, target, shares)
    if b.deep:
        chunk = replace(e, batch=e.batch * e.chunks, k=-(-e.k // e.chunks), chunks=1, of_right=e.of_right * e.chunks,
                        way="place" if e.way == "columns" else e.way)
        sums = e.batch * tiles * panels * _ends(e, b, each, target)
        return cost(chunk, replace(b, deep=False), target, shares) + sum([sums / n + costs.barrier for n in shares])
    task = b.tiles * b.panels * (e.k * _step(e, b, each, target) + _ends(e, b, each, target)) \
        + _first(e, b, each, target) + costs.task
    total = task * sum([-(-tasks // n) for n in shares])  # those of the slowest thread
    if b.right == "kernel" and not e.repeated:
        packed = e.of_right * panels * e.k * b.columns / LANES * each * (costs.kernel if e.direct else costs.kernel_across)
        total += sum([packed / n + costs.barrier for n in shares])
    return total


def _step(e: Extents, b: Blocking, each: int, target: Target) -> float:
    """Cycles of one k of a register tile."""
    costs = target.costs
    size, registers = e.dtype.itemsize, b.columns / LANES * each
    left, right = b.rows * size, b.columns * size
    way = way_of(e.way, b)
    many = max(0, b.rows - ADDRESSES) if way == "bases" else 0
    loads = b.rows + registers
    cycles = max(b.rows * registers * costs.multiply, loads * costs.load, costs.chain) + costs.step + many * costs.base
    if way not in COPIED:
        cycles += b.rows * costs.bank
    if way == "place":
        cycles += _crowded(b.rows, e.k * size, target) * costs.crowd
    if b.right == "place" and e.k * max(e.stride, right) > target.l1_bytes // 2:
        colliding = e.k * math.gcd(e.stride, target.l2_bytes // WAYS) > target.l2_bytes
        cycles += right * (costs.colliding if colliding else costs.crossing)
    if e.k * right > target.l1_bytes // 2:
        cycles += right * costs.right
    if e.k * (left + right) > target.l1_bytes // 2 and way != "bases":  # windows overlap
        cycles += left * (costs.near if way in COPIED else costs.left)
    return cycles


def _crowded(rows: int, stride: int, target: Target) -> int:
    """Of rows that lie `stride` bytes apart, those beyond what the first level holds of each: where a stride divides a way of
    it, few sets have lines of all rows, and every line is fetched again for each of its elements."""
    sets = PAGE // math.gcd(stride, PAGE)
    return max(0, rows - target.l1_bytes // PAGE * sets)


def _first(e: Extents, b: Blocking, each: int, target: Target) -> float:
    """Cycles in which a task meets its operands for the first time, and copies what it copies."""
    costs = target.costs
    left, right = b.tiles * b.rows * e.k, b.panels * e.k * b.columns  # elements
    size = e.dtype.itemsize
    again = -(-right * size // NEAR_BYTES) if left * size > target.l2_bytes // 2 else 1
    way = way_of(e.way, b)
    once_more = costs.left_again if way in COPIED else costs.left_first
    cycles = left * size * (costs.left_first + (again - 1) * once_more) \
        + right * size * (costs.right_far if right * size > target.l2_bytes else costs.right_first)
    far = e.of_right * e.n * e.k * size > target.l2_bytes
    if b.right == "place" and far:
        cycles += right * size * costs.lines_first
    if way in COPIED:
        cycles += left * {"across": costs.across, "columns": costs.columns, "rows": costs.rows}[way]
    if b.right == "task":
        cycles += right // LANES * each * (costs.pack_across if not e.direct else costs.pack_far if far else costs.pack)
    return cycles


def _ends(e: Extents, b: Blocking, each: int, target: Target) -> float:
    """Cycles of a register tile beside its steps: clearing, keeping the chunks, and what follows."""
    costs = target.costs
    registers = b.rows * b.columns / LANES * each
    direct = e.chunks == 1 and e.plain and e.m % b.rows == 0 and e.n % b.columns == 0
    finish = 0.0 if direct else registers * (1 + e.chunks) * costs.finish + costs.row * b.rows
    return e.chunks * (costs.chunk + registers * costs.keep) + finish
