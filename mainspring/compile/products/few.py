"""Products of few rows, as when text is written token by token: the right operand is read once, in the order in which it lies.

    stream    neighbours along n are neighbours in memory:   for a few k: for n: sums[m][n] += left[m][k] · right[k][n]
    columns   neighbours along k are:                        a few columns at a time, a chain of scalars for each element

A stream's sums lie in the first-level cache, and its task reads long runs of memory (a strip of registers that goes through k
reads 256 bytes of each row instead, and reaches a third of the bandwidth). Neither packs anything.
"""

from __future__ import annotations

from typing import Any

from mainspring.compile.loops import Buffer, For, Kernel, Let, Stmt, Store, Write, load
from mainspring.compile.products.tile import Column, multiply_add, whole_lanes
from mainspring.compile.products.tiled import tree
from mainspring.compile.rename import substitute_vars
from mainspring.ir import scalar as s
from mainspring.ir.scalar import Expr
from mainspring.types.dtype import int64

RUN = 256  # columns of a task at least: a run of memory that is worth its beginning
MOST = 2048  # and at most, so that its sums stay in the first-level cache
TASKS = 8  # tasks that there should be
TOGETHER = 8  # rows of the right operand that a stream goes through at a time
CHAINS = 12  # of scalars, enough to hide the latency of an addition
ZERO = s.const(0, int64)


def few_rows(of: Any) -> Kernel | None:
    """The kernel of a product (a `contraction.Contraction`) of few rows; None where its right operand has no order for it."""
    along = _along(of)
    return None if along == "" else _Stream(of).kernel() if along == "n" else _columns(of)


def _along(of: Any) -> str:
    """The dim along which all that the right operand reads lies side by side, "n" or "k"; else ""."""
    n, k = s.var("n", of.n), s.var("k", of.k)
    right = of.product(of.dims.index(s.var("b", of.batch), ZERO, n), k)[1]
    found = {"n", "k"}
    for x in s.walk(right):
        if x.op == "load" and {n, k} & set(s.walk(x)):
            terms = s.affine(x.args[0])[0]
            found &= {name for name, dim in (("n", n), ("k", k)) if terms.get(dim) == 1 and _alone(terms, dim)}
    return "n" if "n" in found else "k" if "k" in found else ""


def _alone(terms: dict[Expr, int], dim: Expr) -> bool:
    return all(t is dim or dim not in set(s.walk(t)) for t in terms)


class _Stream:
    """The kernel whose lanes are columns. A task is a block of neighbouring ones."""

    def __init__(self, of: Any):
        self.of = of
        blocks = max(1, min(-(-of.n // RUN), -(-TASKS // of.batch)))
        self.width = min(whole_lanes(-(-of.n // blocks)), max(RUN, MOST // of.m))
        self.blocks = -(-of.n // self.width)
        together = TOGETHER
        while together > 1 and together * of.m > of.target.vector_registers * 3 // 4:
            together //= 2
        self.together = together
        self.sums = Buffer("sums", of.dtype, of.chunks * of.m * self.width, "scratch")
        self.task = s.var("task", of.batch * self.blocks)
        self.b, self.first = self.task // self.blocks, self.task % self.blocks * self.width
        self.count: Expr = s.const(self.width, int64)
        if of.n % self.width:
            self.count = s.apply("min", self.count, of.n - self.first)
        self.j = s.var("j", self.width)

    def kernel(self) -> Kernel:
        """The whole kernel."""
        of, c = self.of, s.var("c", self.of.chunks)
        body = self._chunk(ZERO) if of.chunks == 1 else (For(c, ZERO, s.const(of.chunks, int64), self._chunk(c)),)
        flops = 2 * of.batch * of.m * of.n * of.k
        return of.nest.kernel("stream", self.task.attr[1], self.task, (*body, *self._finish()), of.group, (self.sums,), flops)

    def _chunk(self, c: Expr) -> tuple[Stmt, ...]:
        """The sums of chunk `c` of k."""
        of, size = self.of, self.of.chunk
        begin = c * size
        stop = of.until(c)
        clear = self._lanes(Store(tuple(Write(self.sums, self._place(c, i), s.const(0, of.dtype)) for i in range(of.m))))
        group, rest = s.var("group", -(-size // self.together)), s.var("rest", of.k)
        whole = (stop - begin) // self.together
        stmts: list[Stmt] = [clear, For(group, ZERO, whole, self._step(c, begin + group * self.together, self.together))]
        if of.k != of.chunks * size or size % self.together:
            stmts.append(For(rest, begin + whole * self.together, stop, self._step(c, rest, 1)))
        return tuple(stmts)

    def _step(self, c: Expr, k: Expr, count: int) -> tuple[Stmt, ...]:
        """sums += left · right for `count` k from `k` on, in order."""
        of = self.of
        stmts: list[Stmt] = []
        rows: list[list[Expr]] = []
        for i in range(of.m):
            values = [of.left_at(self.b, s.const(i, int64), k + u) for u in range(count)]
            rows.append([s.ref(f"x{i}_{u}", of.dtype) for u in range(count)])
            stmts += [Let(name, value) for name, value in zip(rows[i], values, strict=True)]
        n = s.var("n", of.n)  # in range, so that it is found without a remainder
        right = [of.product(of.dims.index(self.b, ZERO, n), k + u)[1] for u in range(count)]
        writes = []
        for i, left in enumerate(rows):
            total = load(self.sums, self._place(c, i))
            for x, y in zip(left, right, strict=True):
                total = multiply_add(*((y, x) if of.dims.swapped else (x, y)), total)
            writes.append(Write(self.sums, self._place(c, i), total))
        return (*stmts, *substitute_vars((self._lanes(Store(tuple(writes))),), {n: self.first + self.j}))

    def _place(self, c: Expr | int, i: int | Expr) -> Expr:
        """Where the sum of row `i` and this column lies."""
        return (self.j + i * self.width) + c * (self.of.m * self.width)

    def _lanes(self, stmt: Stmt, *more: Stmt) -> For:
        return For(self.j, ZERO, self.count, (stmt, *more), "vector")

    def _finish(self) -> tuple[Stmt, ...]:
        """The chunks summed, and the epilogue."""
        of, n, i = self.of, s.var("n", self.of.n), s.var("i", self.of.m)
        total = tree([load(self.sums, self._place(c, i)) for c in range(of.chunks)])
        row = self._lanes(Let(of.refs[of.root], s.cast(total, of.root.dtype)),
                          *of.epilogue(of.dims.domain, of.dims.index(self.b, i, n)))
        return substitute_vars((For(i, ZERO, s.const(of.m, int64), (row,)),), {n: self.first + self.j})


def _columns(of: Any) -> Kernel:
    """The kernel of chains of scalars: `wide` columns and all rows at a time."""
    wide = max(1, min(CHAINS // of.m, of.n))
    turns = -(-of.n // wide)
    turns_a_task = max(1, turns // max(1, -(-TASKS // of.batch)))
    tasks = -(-turns // turns_a_task)
    task, t, k = s.var("task", of.batch * tasks), s.var("t", turns), s.var("k", of.k)
    b, start = task // tasks, task % tasks * turns_a_task
    stop = start + turns_a_task if turns % turns_a_task == 0 else s.apply("min", start + turns_a_task, turns)
    tile = Column(of.m * wide, 1, of.dtype)
    parts = Buffer("parts", of.dtype, of.chunks * tile.acc.size, "scratch")
    i, n, beyond = tile.i // wide, s.var("n", of.n), s.var("beyond", turns * wide)
    here = t * wide + tile.i % wide
    step = tile.set(multiply_add(*of.product(of.dims.index(b, i, n), k), tile.value))
    chained = substitute_vars(tuple(of.chained(k, tile, parts, step)),
                              {n: here if of.n % wide == 0 else s.apply("min", here, of.n - 1)})
    finish = tile.over(*of.finish(tile, parts, of.dims.domain, of.dims.index(b, i, n), s.compare("lt", beyond, of.n)))
    body = (*chained, *substitute_vars((finish,), {n: here, beyond: here}))
    flops = 2 * of.batch * of.m * of.n * of.k
    return of.nest.kernel("columns", task.attr[1], task, (For(t, start, stop, body),), of.group,
                          (tile.acc, *([parts] if of.chunks > 1 else [])), flops)
