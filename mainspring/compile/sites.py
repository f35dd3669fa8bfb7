"""The decision sites of kernels: which candidates there are, and the numbers by which their cost may be foretold.

A product's candidates are register tiles: rows × vectors·LANES accumulators. The numbers are of two kinds: what the problem is
(extents, dtype, how the left operand reaches the registers) and what the candidate makes of it (waste at the edges, loads
a multiply-add, tasks and how evenly they are dealt). Extents are logarithms, so that what was learned of one shape says
something of its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mainspring.compile.choose import Candidate, Site
from mainspring.compile.loops import LANES
from mainspring.compile.target import Target
from mainspring.types.dtype import DType

MAX_VECTORS = 4
WAYS = ("place", "bases", "columns", "rows")


@dataclass(frozen=True)
class Product:
    """A contraction, for its site. `way`: how the left reaches tiles of so many rows; `in_place`: whether the right lies as
    panels of so many columns read it."""

    problem: str
    batch: int
    m: int
    n: int
    k: int
    chunks: int
    dtype: DType
    members: int
    way: Callable[[int], str]
    in_place: Callable[[int], bool]


def product_site(product: Product, target: Target, default: tuple[int, int]) -> Site:
    """The choice of a register tile, (rows, vectors)."""
    registers = target.registers(product.dtype)
    found = {(rows, vectors) for vectors in range(1, min(MAX_VECTORS, -(-product.n // LANES)) + 1)
             for rows in range(1, registers // vectors + 1)
             if rows <= product.m and 2 * rows * vectors >= min(registers, product.m * vectors)}
    tiles = sorted(found | {default})
    numbers = [_product_features(product, target, *tile) for tile in tiles]
    candidates = [Candidate(f"{rows}x{vectors}", (rows, vectors), tuple(facts.values()))
                  for (rows, vectors), facts in zip(tiles, numbers, strict=True)]
    return Site("tile", product.problem, tuple(candidates), tiles.index(default), tuple(numbers[0]))


def _product_features(p: Product, target: Target, rows: int, vectors: int) -> dict[str, float]:
    columns = vectors * LANES
    tiles, panels = -(-p.m // rows), -(-p.n // columns)
    way, each = p.way(rows), LANES * p.dtype.itemsize / target.vector_bytes
    log = {name: math.log2(value) for name, value in (("batch", p.batch), ("m", p.m), ("n", p.n), ("k", p.k),
                                                      ("work", p.batch * p.m * p.n * p.k), ("tiles", p.batch * tiles),
                                                      ("panel", p.k * columns * p.dtype.itemsize))}
    return {
        **log,
        **{f"left in {name}": float(way == name) for name in WAYS},
        "itemsize": float(p.dtype.itemsize),
        "chunks": float(p.chunks),
        "members": float(p.members),
        "rows": float(rows),
        "vectors": float(vectors),
        "registers": rows * vectors * each / target.vector_registers,
        "loads": (rows + vectors * each) / (rows * vectors * each),  # a multiply-add
        "waste of rows": tiles * rows / p.m - 1,
        "waste of columns": panels * columns / p.n - 1,
        "packed": float(not p.in_place(columns)),
        "passes": math.log2(tiles),
        "panels": math.log2(panels),
    }
