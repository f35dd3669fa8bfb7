"""The decision sites of kernels: which candidates there are, and the numbers by which their cost may be foretold.

A product's candidates are blockings (`blocking`), those of other kernels sizes of a task. The numbers are of two kinds: what
the problem is (extents, dtype, how the left operand reaches the registers) and what the candidate makes of it (waste at the
edges, loads a multiply-add, tasks). Extents are logarithms, so that what was learned of one shape says something of its
neighbours.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import replace

from mainspring.base import flags
from mainspring.compile.choose import Site, problem
from mainspring.compile.loops import LANES
from mainspring.compile.products.blocking import Blocking, Extents, candidates, cost
from mainspring.compile.target import Target
from mainspring.compile.target.costs import Costs

WAYS = ("place", "bases", "columns", "rows")
RIGHTS = ("place", "task", "kernel")
MOST = 192  # candidates of a product; there may be thousands, most of them hopeless


def product_site(text: str, e: Extents, target: Target, default: Blocking) -> Site:
    """The choice of a blocking, among those that should cost least on the threads there are; the cheapest first."""
    shares = (1 if e.alone else flags.threads(),)

    def expected(b: Blocking, costs: Costs | None = None) -> float:
        return cost(e, b, target if costs is None else replace(target, costs=costs), shares)

    def options() -> dict[str, Blocking]:
        found = heapq.nsmallest(MOST, candidates(e, target), key=lambda b: (expected(b), b.name))
        return {b.name: b for b in (default, *found)}

    return Site("tile", text, default.name, options, lambda b: _product_facts(e, target, b), expected)


def _product_facts(e: Extents, target: Target, b: Blocking) -> dict[str, float]:
    tiles, panels = -(-e.m // b.rows), -(-e.n // b.columns)
    tasks = e.batch * -(-tiles // b.tiles) * -(-panels // b.panels) * (e.chunks if b.deep else 1)
    each, vectors = LANES * e.dtype.itemsize / target.vector_bytes, b.columns / LANES
    log = {name: math.log2(value) for name, value in (
        ("batch", e.batch), ("m", e.m), ("n", e.n), ("k", e.k), ("work", e.batch * e.m * e.n * e.k), ("tasks", tasks),
        ("left block", b.tiles * b.rows * e.k * e.dtype.itemsize), ("panel", e.k * b.columns * e.dtype.itemsize),
        ("tiles of a task", b.tiles), ("panels of a task", b.panels), ("tasks of a thread", -(-tasks // flags.threads())),
        ("packed", 1 + (b.right != "place") * e.k * e.n))}
    return {
        **log,
        **{f"left in {name}": float(e.way == name) for name in WAYS},
        **{f"right in {name}": float(b.right == name) for name in RIGHTS},
        "itemsize": float(e.dtype.itemsize),
        "chunks": float(e.chunks),
        "plain": float(e.plain),
        "deep": float(b.deep),
        "rows": float(b.rows),
        "vectors": vectors,
        "registers": b.rows * vectors * each / target.vector_registers,
        "loads": (b.rows + vectors * each) / (b.rows * vectors * each),  # a multiply-add
        "waste of rows": tiles * b.rows / e.m - 1,
        "waste of columns": panels * b.columns / e.n - 1,
    }


def few_site(text: str, e: Extents, default: str, streams: bool) -> Site:
    """Whether a product of few rows or columns is made in register tiles of packed panels, or of its operands as they lie."""
    ways = ["tiles", "strip", *["stream"] * streams]

    def facts(way: str) -> dict[str, float]:
        log = {name: math.log2(value) for name, value in (("batch", e.batch), ("m", e.m), ("n", e.n), ("k", e.k))}
        return {**log, **{name: float(way == name) for name in ("tiles", "strip", "stream")},
                **{f"left in {name}": float(e.way == name) for name in WAYS},
                "direct": float(e.direct), "plain": float(e.plain)}

    return Site("few", text, default, lambda: {way: way for way in ways}, facts)


def team_site(label: str, text: str, work: float, alone: bool) -> Site:
    """Whether a small program of about `work` nanoseconds runs on the caller's thread alone, or wakes the team."""
    return Site("team", problem(label, text), "alone" if alone else "team", lambda: {"alone": True, "team": False},
                lambda chosen: {"work": math.log2(work), "team": float(not chosen)})


def task_site(kind: str, text: str, default: int, sizes: tuple[int, ...], domain: tuple[int, ...], flops: int) -> Site:
    """How many elements of the last dim of `domain` make one task: one of `sizes`; `flops`: of an element."""
    last, outer = domain[-1], math.prod(domain[:-1])

    def options() -> dict[str, int]:
        found = {-(-last // size): size for size in reversed(sizes)}  # sizes that give as many tasks are one
        return {str(size): size for size in sorted({default, *found.values()})}

    def facts(size: int) -> dict[str, float]:
        tasks = outer * -(-last // size)
        return {"elements": math.log2(outer * last), "last": math.log2(last), "flops": math.log2(1 + flops),
                "size": math.log2(size), "tasks": math.log2(tasks), "work of a task": math.log2(1 + flops * min(size, last)),
                "waste": -(-last // size) * size / last - 1}

    return Site(kind, text, str(default), options, facts)
