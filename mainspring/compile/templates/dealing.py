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


def tile_heights(rows: int, columns: int, accumulators: int) -> tuple[int, list[int]]:
    """(vectors of a row tile, heights of the row tiles of a task): as many as the registers hold, of like heights."""
    vectors = 1 if columns <= LANES or accumulators < 16 else 2
    while vectors < 4 and 2 * vectors * rows <= accumulators and 2 * vectors * LANES <= columns:
        vectors *= 2
    tiles = -(-rows // max(1, accumulators // vectors))
    return vectors, [rows // tiles + (i < rows % tiles) for i in range(tiles)]


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
    each = max(1, LANES * dtype.itemsize // target.vector_bytes)  # registers of one vector
    k, columns = (gates * units, d.units) if back else (units, gates * d.units)
    tasks = -(-d.tasks // threads)
    of_thread = k * columns * dtype.itemsize * (-(-tasks // d.blocks) if d.rounds else 1)
    far, near = of_thread > target.l2_bytes * 3 // 4, of_thread > target.l1_bytes // 2
    line = costs.line_far if far else costs.line_near if near else 1.0
    vectors, heights = tile_heights(d.rows, columns, target.accumulators(dtype))
    panels = -(-columns // (vectors * LANES))
    weights = vectors * LANES * dtype.itemsize / 64 * line
    chain = sum(max(rows * vectors * each * costs.multiply, costs.latency) for rows in heights)
    ends = len(heights) * chunk_count(k) * costs.tile
    task = panels * (k * max(chain, weights) + ends) + d.rows * -(-d.units // LANES) * each * costs.cell * gates + costs.task
    return WORTH * (tasks * task + costs.round) if d.rounds else tasks * task
