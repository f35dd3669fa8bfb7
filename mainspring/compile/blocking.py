"""How a product is cut: register tiles, rows and columns of a task, and where its right operand lies. Numbers only, no loops.

    for a few panels of a task at a time:      a panel is K × NR of the right operand, which lies in place,
      for each row tile of the task:             is packed by the task, or was packed by a kernel before
        for each of the few: for k: acc += left · right          MR × NR accumulators, in registers

With this you can ask for `candidates` of a product, what each would `cost` (a rough count of cycles of one core, from facts of
the target), and which the heuristic takes (`blocking`). No choice changes a bit of the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from mainspring.compile.loops import LANES
from mainspring.compile.target import Target
from mainspring.types.dtype import DType

COPIED = ("columns", "rows")  # ways of the left operand that copy it into the task's memory
SHARES = 8  # tasks are to be dealt evenly to this many threads and to its divisors
BARRIER = 4000  # cycles that a kernel more costs: a launch, a barrier, cold caches
AROUND = 24  # cycles around the loop of a register tile
TASK = 300  # cycles around a task
FAR = 0.08  # cycles a byte that comes from beyond the second-level cache
NEAR = 0.004  # the same for the second level
CROSSING = 0.04  # the same for rows of a right operand that lie far apart: few sets of the first level hold them
LINE = 64  # bytes that come together
COPY = 0.4  # cycles an element that a task copies


@dataclass(frozen=True)
class Extents:
    """A product: batch × rows × columns over k, in `chunks` chains.

    Args:
        way: how the left reaches register tiles: "place", "bases" (both in place), "columns", "rows" (copied).
        direct: whether the right can be read where it lies, in whole panels; `stride`: bytes between its rows.
        of_right: batches of which the right operand is another one.
        plain: whether results are stored as they are, without an epilogue.
        repeated: whether the product stands in a loop, out of which a kernel that packs a constant operand moves.
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
    repeated: bool = False


@dataclass(frozen=True)
class Blocking:
    """A register tile of `rows` × `vectors`·LANES; a task is `tiles` row tiles × `panels` panels of columns.

    right: "place" (read where it lies), "task" (packed by each task), or "kernel" (packed by a kernel before).
    """

    rows: int
    vectors: int
    tiles: int
    panels: int
    right: str

    @property
    def name(self) -> str:
        """As candidates are called."""
        return f"{self.rows}x{self.vectors} {self.tiles}x{self.panels} {self.right}"

    @property
    def columns(self) -> int:
        """Columns of a panel."""
        return self.vectors * LANES


@cache
def blocking(e: Extents, target: Target) -> Blocking:
    """The candidate that should cost least."""
    return min(candidates(e, target), key=lambda b: (cost(e, b, target), b.name))


def candidates(e: Extents, target: Target) -> Iterator[Blocking]:
    """Everything worth a thought."""
    for rows, vectors in _tiles(e, target):
        tiles, panels = -(-e.m // rows), -(-e.n // (vectors * LANES))
        for right in ("place", "task", "kernel"):
            if (right == "place" and not (e.direct and e.n % (vectors * LANES) == 0)) or (right == "task" and e.repeated):
                continue
            for t in _parts(tiles):
                for p in _parts(panels):
                    yield Blocking(rows, vectors, t, p, right)


def _tiles(e: Extents, target: Target) -> Iterator[tuple[int, int]]:
    """Register tiles: as many accumulators as fit, or a few less, so that rows come out even."""
    registers = target.accumulators(e.dtype)
    for vectors in range(1, min(2 if registers >= 16 else 1, -(-e.n // LANES)) + 1):
        most = max(1, registers // vectors)
        yield from ((rows, vectors) for rows in range(min(most, e.m), max(0, min(most, e.m) * 2 // 3 - 1), -1))


@cache
def _parts(whole: int) -> tuple[int, ...]:
    """Sizes of even parts: the whole, its half, …"""
    found = {whole}
    pieces = 2
    while whole // pieces:
        found.add(-(-whole // pieces))
        pieces += 1 if pieces < 4 else pieces // 2
    return tuple(sorted(found))


def cost(e: Extents, b: Blocking, target: Target) -> float:
    """Cycles that the product takes on one of SHARES threads."""
    size, each = e.dtype.itemsize, max(1, LANES * e.dtype.itemsize // target.vector_bytes)  # registers of one vector
    tiles, panels = -(-e.m // b.rows), -(-e.n // b.columns)
    tasks = e.batch * -(-tiles // b.tiles) * -(-panels // b.panels)
    inner = b.tiles * b.panels * (e.k * _step(e, b, each, target) + _ends(e, b, each))
    copies = e.k * (b.tiles * b.rows * COPY + (b.tiles * b.rows * size + LINE) * FAR) if e.way in COPIED else 0.0
    if b.right == "task":
        copies += b.panels * e.k * (b.vectors * each * 1.0 + b.columns * size * _distance(e, target) + 1)
    total = (inner + copies + TASK) * -(-tasks // SHARES)  # those of the slowest thread
    if b.right == "kernel" and not e.repeated:
        total += e.of_right * panels * e.k * b.vectors * each * 2.5 / SHARES + BARRIER
    return total


def _step(e: Extents, b: Blocking, each: int, target: Target) -> float:
    """Cycles of one k of a register tile."""
    size, registers = e.dtype.itemsize, b.vectors * each
    loads = b.rows * (2 if e.way == "bases" and b.rows > 8 else 1) + registers
    left, right = b.rows * size, b.columns * size
    cycles = max(b.rows * registers / 2, loads / 2, 4.0) + 0.25
    if b.right == "place" and e.k * max(e.stride, right) > target.l1_bytes // 2:
        cycles += right * CROSSING
    elif e.k * right > target.l1_bytes // 2:
        cycles += right * NEAR
    if b.panels > 1 and b.tiles * left * e.k > target.l2_bytes // 2:
        cycles += left * FAR
    return cycles


def _ends(e: Extents, b: Blocking, each: int) -> float:
    """Cycles of a register tile beside its steps: clearing, keeping the chunks, and what follows."""
    registers = b.rows * b.vectors * each
    direct = e.chunks == 1 and e.plain and e.m % b.rows == 0 and e.n % b.columns == 0
    finish = registers if direct else registers * (2 + e.chunks) + 6 * b.rows
    return AROUND * e.chunks + registers * e.chunks + finish


def _distance(e: Extents, target: Target) -> float:
    """Cycles a byte of the right operand, read for the first time."""
    return NEAR if e.k * e.n * e.dtype.itemsize <= target.l2_bytes // 2 else FAR
