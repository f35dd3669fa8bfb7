"""Loop nests of reduce groups: results side by side in the vector lanes, the reduced extent in order, then the epilogue.

A group has one reduction or several over one domain that read the same memory (the two sums of a norm's gradient): it is then
read once. A short extent goes through a `Reduce`, whose partials lie in registers. A long one is *streamed*: a strip of results
takes its rows in the order of memory, and the LANES partials of each result wait in the first-level cache.

    partials[p][strip] = identity
    for each block of rows, for p < LANES:   partials[p][strip] += row[p][strip] + row[p + LANES][strip] + …
    strip = the tree of its partials

The order is that of `loops.Reduce`: element r goes to partial r mod LANES.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mainspring.compile.choose import Decide
from mainspring.compile.fusion.grouping import Group
from mainspring.compile.inline import at_flat, space_of
from mainspring.compile.loopnest import Nest, fold_of, lets, value_ref
from mainspring.compile.loops import (
    COMBINES,
    LANES,
    Buffer,
    Fold,
    For,
    Kernel,
    Let,
    Reduce,
    Stmt,
    Store,
    Write,
    identity,
    load,
)
from mainspring.compile.rename import substitute_vars
from mainspring.compile.sites import task_site
from mainspring.ir import scalar as s
from mainspring.ir.graph import Node
from mainspring.ir.scalar import Expr
from mainspring.ops.movement import ravel, unravel
from mainspring.types.dtype import int64

STRIPS = (16, 32, 64, 128, 256)
STRIP = 64  # neighbouring results of a short extent that are computed together: four vectors, one or two cache lines
MIN_STRIPS = 16  # with fewer tasks than this, strips are made narrower
STREAMED = 8 * LANES  # an extent from which on rows are streamed, …
FAR = 4096  # … half of it where rows lie so many bytes apart: pages of their own, and often the same sets of a cache
PARTIAL_BYTES = 16384  # of the partials of a streamed strip, at most
MIN_STREAMS = 4  # MIN_STRIPS of streamed rows, which had better be long
AHEAD = 4  # rows that one partial takes at a time
ZERO = s.const(0, int64)


def reduce_kernel(nest: Nest, group: Group, decide: Decide) -> Kernel:
    """The kernel of a reduce group."""
    return _Reduction(nest, group).kernel(decide)


class _Reduction:
    """The pieces of a reduce group over fresh variables: `folds` along `along`, then the statements `rest`."""

    def __init__(self, nest: Nest, group: Group):
        self.nest, self.group = nest, group
        root = group.members[0]
        space = space_of(root)
        assert space is not None
        self.extent = math.prod(space.reduced)
        self.domain = tuple(n for n in root.shape if n != 1) or (1,)
        self.dims = [s.var(f"i{k}", n) for k, n in enumerate(self.domain)]
        self.along = s.var("r", self.extent)
        self.refs = {v: value_ref(v, k) for k, v in enumerate(group.members)}
        self.folds, self.rest = self._parts(ravel(self.dims, self.domain))
        self.lane = self._lane_dim()
        self.narrow = self.domain[self.lane] < LANES and self._rows_adjoin()

    def _parts(self, flat: Expr) -> tuple[list[Fold], list[Stmt]]:
        def leaf(of: Node, index: tuple[Expr, ...], guard: Expr | None) -> Expr:
            return self.refs[of] if of in self.refs else self.nest.external(of, index, guard)

        element = self.nest.element(leaf, self.group)
        folds, after, others = [], [], []
        for v in self.group.members:
            space = space_of(v)
            assert space is not None
            if not space.reduced:
                others.append(v)
                continue
            value = element.body(v, at_flat(v, flat), None, unravel(self.along, space.reduced))
            folds.append(fold_of(v, self.refs[v], space.combine, value, after))
        rest = [*after, *lets(others, self.refs, lambda v: element.body(v, at_flat(v, flat)))]
        rest.append(Store(tuple(Write(self.nest.buffer_of(v), flat, self.refs[v]) for v in self.group.stored)))
        return folds, rest

    def _lane_dim(self) -> int:
        """The dim for the vector lanes: along which the most elements that are read are neighbours; the last of equals."""
        near = dict.fromkeys(self.dims, 0)
        for x in s.walk(*[f.value for f in self.folds]):
            if x.op == "load":
                for term, step in s.affine(x.args[0])[0].items():
                    if step == 1 and term in near:
                        near[term] += x.attr.size
        return max(range(len(self.dims)), key=lambda i: (near[self.dims[i]], i))

    def _rows_adjoin(self) -> bool:
        """Whether rows of results lie one behind the other in what is read."""
        last = self.domain[self.lane]
        return last > 1 and any(c.get(self.dims[self.lane]) == 1 and c.get(self.along) == last for c, _ in self._reads())

    def _reads(self) -> list[tuple[dict[Expr, int], int]]:
        """The coefficients of every load of the folds, and the bytes of an element."""
        loads = [x for x in s.walk(*[f.value for f in self.folds]) if x.op == "load"]
        return [(s.affine(x.args[0])[0], x.attr.dtype.itemsize) for x in loads]

    def kernel(self, decide: Decide) -> Kernel:
        last = self.domain[self.lane]
        others = [i for i in range(len(self.domain)) if i != self.lane]
        outer = math.prod(self.domain[i] for i in others)
        strip = self._strip(decide, outer, last)
        strips = -(-last // strip)
        task = s.var("task", outer * strips)
        places = unravel(task // strips, tuple(self.domain[i] for i in others)) if others else []
        start = (task % strips) * strip
        stop = s.const(last, int64) if strips == 1 else start + strip if last % strip == 0 else \
            s.apply("min", start + strip, last)
        body, scratch = self._streamed(start, stop - start, strip) if self.streamed else self._whole(start, stop)
        inner = substitute_vars(body, {self.dims[i]: e for i, e in zip(others, places, strict=True)})
        flops = math.prod(self.domain) * self.extent * (len(self.folds) + s.flops(*[f.value for f in self.folds]))
        return self.nest.kernel("reduce", outer * strips, task, inner, self.group, scratch, flops)

    # -------------------------------------------------------------------------------------------------------- strips

    @property
    def streamed(self) -> bool:
        """Whether rows are taken as they lie in memory."""
        far = any(c.get(self.along, 0) * size >= FAR for c, size in self._reads())
        return self.extent >= STREAMED >> far and (self.narrow or self.domain[self.lane] >= LANES)

    def _strip(self, decide: Decide, outer: int, last: int) -> int:
        """Results of a task."""
        size = sum(f.value.dtype.itemsize for f in self.folds)
        strip, least = (PARTIAL_BYTES // (LANES * size), MIN_STREAMS) if self.streamed else (STRIP, MIN_STRIPS)
        strip = min(max(LANES, 1 << (strip.bit_length() - 1)), -(-last // LANES) * LANES)
        while strip > LANES and outer * -(-last // strip) < least:
            strip = max(LANES, -(-strip // 2 // LANES) * LANES)
        if last <= LANES:
            return last if self.narrow and self.streamed else strip
        label, stmts = f"{'x'.join(map(str, self.domain))} of {self.extent}", self._whole(ZERO, s.const(last, int64))[0]
        return decide(strip, lambda: task_site("strip", self.nest.problem(label, stmts, self.group), strip, STRIPS,
                                               (outer, last), s.flops(*[f.value for f in self.folds]) + self.extent))

    def _whole(self, start: Expr, stop: Expr) -> tuple[tuple[Stmt, ...], tuple[Buffer, ...]]:
        """Each result by itself, its partials in registers."""
        fold = Reduce(self.along, self.extent, (), tuple(self.folds), "serial")
        return (For(self.dims[self.lane], start, stop, (fold, *self.rest), "vector"),), ()

    def _streamed(self, start: Expr, count: Expr, strip: int) -> tuple[tuple[Stmt, ...], tuple[Buffer, ...]]:
        """A strip of results, row by row; LANES narrow rows, which lie one behind the other, at a time."""
        column, p, r = s.var("column", strip), s.var("p", LANES), s.var("row", self.extent)
        turn = s.var("turn", max(1, self.extent // (LANES * AHEAD)))
        partials = [Buffer(f"partials{i}", f.value.dtype, LANES * strip, "scratch") for i, f in enumerate(self.folds)]

        def over(*stmts: Stmt) -> For:
            """`stmts` for each result of the strip."""
            body = substitute_vars(stmts, {self.dims[self.lane]: start + column})
            return For(column, ZERO, count, body, "vector")

        def over_partials(each: For) -> For:
            """`each`, a loop over the strip, for all partials."""
            if not self.narrow:
                return For(p, ZERO, s.const(LANES, int64), (each,))
            flat = s.var("flat", LANES * strip)
            body = substitute_vars(each.body, {p: flat // strip, column: flat % strip})
            return For(flat, ZERO, s.const(LANES * strip, int64), body, "vector")

        def add(first: Expr, partial: Expr, rows: int) -> For:
            """Every LANES-th of so many rows from `first` on into `partial`."""
            at = partial * strip + column
            return over(Store(tuple(Write(b, at, self._combined(f, load(b, at), first, rows))
                                    for f, b in zip(self.folds, partials, strict=True))))

        clear = over(Store(tuple(Write(b, p * strip + column, s.const(identity(f.combine, b.dtype), b.dtype))
                                 for f, b in zip(self.folds, partials, strict=True))))
        done = self.extent // (LANES * AHEAD) * (LANES * AHEAD)
        each = over_partials(add(turn * (LANES * AHEAD) + p, p, AHEAD))
        totals = [Let(f.ref, _tree(f.combine, [load(b, j * strip + column) for j in range(LANES)]))
                  for f, b in zip(self.folds, partials, strict=True)]
        return (over_partials(clear),
                For(turn, ZERO, s.const(turn.attr[1], int64), (each,)),
                For(r, s.const(done, int64), s.const(self.extent, int64), (add(r, r % LANES, 1),)),
                over(*totals, *self.rest)), tuple(partials)

    def _combined(self, fold: Fold, total: Expr, first: Expr, rows: int) -> Expr:
        """`total` combined with every LANES-th of so many rows."""
        for j in range(rows):
            total = s.apply(COMBINES[fold.combine], total, s.substitute(fold.value, {self.along: first + j * LANES}.get, {}))
        return total


def _tree(combine: str, values: Sequence[Expr]) -> Expr:
    """LANES partials into one, halves folded onto each other."""
    while len(values) > 1:
        half = len(values) // 2
        values = [s.apply(COMBINES[combine], a, b) for a, b in zip(values[:half], values[half:], strict=True)]
    return values[0]
