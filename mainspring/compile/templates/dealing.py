"""How the work of a recurrent sweep is dealt to tasks: rows of the batch alone, or units too, with a barrier after each step.

Numbers only, no loops. A sweep whose tasks are rows has no barriers, but each task reads all hidden weights in each step: from
the third-level cache or from memory if they are many, for few rows. One whose tasks are units reads only its own ones, which
may then stay in the second level, for all rows, and meets a barrier a step. `deal` counts the cycles of a step for each way,
for two threads and for more, and takes the cheapest. No choice changes a bit of the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from mainspring.compile.loops import LANES
from mainspring.compile.products.contraction import chunk_count
from mainspring.compile.target import Target
from mainspring.types.dtype import DType

TEAMS = (2, 4)  # threads to think of
WORTH = 1.4  # by how much rounds must seem better: whoever stops one thread stops all
ALONE_ROWS = 8  # rows of a task that goes through all steps by itself, at most
BESIDE = 3  # panels met together, at most: their chunks should lie in the first-level cache
ROUND_ROWS = 48  # rows of a task in a round, at most


@dataclass(frozen=True)
class Deal:
    """`blocks` of `rows` of the batch × `groups` of `units`; `rounds`: whether each step is a launch of its own."""

    rows: int
    units: int
    blocks: int
    groups: int
    rounds: bool

    @property
    def tasks(self) -> int:
        return self.blocks * self.groups


@dataclass(frozen=True)
class RowTile:
    """A register tile: some rows × some panels of LANES columns."""

    rows: int
    panels: int


@cache
def deal(target: Target, dtype: DType, batch: int, units: int, gates: int, back: bool) -> Deal:
    """The deal that should cost least."""
    size = (batch, units, gates, back)
    return min(_deals(batch, units), key=lambda d: (_cost(target, dtype, size, d), d.tasks, d.rounds))


def _deals(batch: int, units: int) -> Iterator[Deal]:
    least = -(-batch // ALONE_ROWS)
    for blocks in {least, min(batch, 2 * least), min(batch, 4 * least)}:
        rows = -(-batch // blocks)
        yield Deal(rows, units, -(-batch // rows), 1, False)
    blocks = -(-batch // ROUND_ROWS)
    rows = -(-batch // blocks)
    for pieces in (2, 4, 8, 16):
        share = max(1, -(-units // pieces // LANES)) * LANES
        yield Deal(rows, share, -(-batch // rows), -(-units // share), True)


@cache
def row_tiles(target: Target, dtype: DType, rows: int, panels: int) -> tuple[int, tuple[RowTile, ...]]:
    """(panels of LANES columns that are met together, the register tiles of a task's rows), of the fewest cycles.

    A tile of few rows has few sums, which wait for themselves, so it takes all those panels at once: 8 rows of AVX2 are 6 rows
    for each of three panels, and 2 rows for the three.
    """
    ways = [_best(target, dtype, rows, beside) for beside in range(1, min(BESIDE, panels) + 1)]
    _, beside, tiles = min(ways, key=lambda way: way[0])
    return beside, tiles


def _best(target: Target, dtype: DType, rows: int, beside: int) -> tuple[float, int, tuple[RowTile, ...]]:
    """(cycles for a k and a panel, `beside`, the tiles), for panels met `beside` each other."""
    most = target.accumulators(dtype)
    tiles = [RowTile(height, panels) for height in range(1, most + 1) for panels in {1, beside} if height * panels <= most]
    best: list[tuple[float, tuple[RowTile, ...]]] = [(0.0, ())]
    for r in range(1, rows + 1):
        ways = [(best[r - tile.rows][0] + _chain(target, dtype, tile), (*best[r - tile.rows][1], tile))
                for tile in tiles if tile.rows <= r]
        best.append(min(ways, key=lambda way: (way[0], len(way[1]))))
    return best[rows][0], beside, tuple(sorted(best[rows][1], key=lambda tile: -tile.rows))


def _chain(target: Target, dtype: DType, tile: RowTile) -> float:
    """Cycles for a k and a panel."""
    costs, each = target.costs, target.lane_registers(dtype)
    sums, operands = tile.rows * tile.panels * each, tile.panels * each + tile.rows
    return max(sums * costs.multiply, operands * costs.load, costs.chain) / tile.panels


def _cost(target: Target, dtype: DType, size: tuple[int, int, int, bool], d: Deal) -> float:
    """Cycles of a step, those for the teams multiplied."""
    total = 1.0
    for threads in TEAMS:
        total *= _step(target, dtype, size, d, threads)
    return total


def _step(target: Target, dtype: DType, size: tuple[int, int, int, bool], d: Deal, threads: int) -> float:
    """Cycles of a step of the slowest of so many threads."""
    _, units, gates, back = size
    costs = target.costs
    k, columns = (gates * units, d.units) if back else (units, gates * d.units)
    tasks = -(-d.tasks // threads)
    of_thread = k * columns * dtype.itemsize * (-(-tasks // d.blocks) if d.rounds else 1)
    far, near = of_thread > target.l2_bytes * 3 // 4, of_thread > target.l1_bytes // 2
    line = costs.line_far if far else costs.line_near if near else 1.0
    panels = -(-columns // LANES)
    tiles = row_tiles(target, dtype, d.rows, panels)[1]
    chain, weights = sum(_chain(target, dtype, tile) for tile in tiles), LANES * dtype.itemsize / 64 * line
    ends = sum(1 / tile.panels for tile in tiles) * chunk_count(k) * costs.tile
    cells = d.rows * -(-d.units // LANES) * target.lane_registers(dtype) * costs.cell * gates
    task = panels * (k * max(chain, weights) + ends) + cells + costs.task
    return WORTH * (tasks * task + costs.round) if d.rounds else tasks * task
