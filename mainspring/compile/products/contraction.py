"""Contractions: matmul, einsum and every convolution, from one template.

The result's dims are sorted by which operand they come from: rows (M, the left one alone), columns (N, the right one
alone) and batch (both, or kept apart). Legend: m row, n column, k reduced, b batch; MR × NR = MR × NV·16 the register tile.
`blocking` has the numbers.

    pack:  right operand -> panels[b][n / NR][k][NR]                     (its own kernel, or each task its own)
    tile:  for some row tiles × some panels                              (one task; `tiled`)
             left rows are read in place where they are affine, else copied: into columns[K][rows] where rows are
             neighbours in memory (a transposed operand), or into rows[rows][K] (a window, a guard, a cast)
             acc[MR][NR] += left[m][k] · panel[k][n], k in order, in registers
             epilogue on the tile, store

Small or thin products skip the packing: a *strip* of NV vectors of neighbouring results runs through k; where both operands run
along the lanes (depthwise convolutions), a tile of rows × lanes does (`lanes`).

Numerics (docs/numerics.md): an element is one FMA chain over k in order within each of `chunk_count(K)` equal chunks, and the
chunks are summed by a fixed binary tree. The choice of kernel, tile or panel changes no bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from mainspring.compile.choose import Decide
from mainspring.compile.fusion.grouping import Group
from mainspring.compile.inline import at_flat, flat_index, space_of
from mainspring.compile.loopnest import Nest, collapse, lets, value_ref
from mainspring.compile.loops import LANES, Buffer, For, Kernel, Let, Stmt, Store, Write, load
from mainspring.compile.products.blocking import Extents, blocking, is_deep
from mainspring.compile.products.dots import SHIFT, WORD, Dot, dot_for, grain, narrow, word
from mainspring.compile.products.few import few_rows
from mainspring.compile.products.lanes import by_lanes
from mainspring.compile.products.tile import Tile
from mainspring.compile.products.tiled import Tiled, apart, tree
from mainspring.compile.products.zeros import Zeros, zeros_of
from mainspring.compile.rename import substitute_vars
from mainspring.compile.sites import few_site, product_site
from mainspring.compile.target import Target
from mainspring.ir import scalar as s
from mainspring.ir.graph import Node
from mainspring.ir.scalar import Expr
from mainspring.ops.contract import CHAINS
from mainspring.ops.movement import ravel, unravel
from mainspring.types.dtype import DType, int64

MAX_CHUNKS, MIN_CHUNK = 8, 128
FEW = 8  # rows or columns up to which it is a question whether to pack


def chunk_count(k: int) -> int:
    """Chunks of the reduced extent: the largest power of two ≤ 8 that leaves at least 128 elements a chunk. By K alone."""
    count = 1
    while count < MAX_CHUNKS and k // (count * 2) >= MIN_CHUNK:
        count *= 2
    return count


@dataclass
class Dims:
    """The result's dims (extents without 1s) sorted by role; positions into `domain`."""

    domain: tuple[int, ...]
    rows: list[int]
    columns: list[int]
    batch: list[int]
    reduced: tuple[int, ...]
    swapped: bool = False  # rows come from the right operand

    def extent(self, which: list[int]) -> int:
        return math.prod(self.domain[i] for i in which)

    @property
    def k(self) -> int:
        return math.prod(self.reduced)

    def index(self, b: Expr, m: Expr, n: Expr) -> list[Expr]:
        """The index in `domain` of batch b, row m, column n."""
        place: dict[int, Expr] = {}
        for which, flat in ((self.batch, b), (self.rows, m), (self.columns, n)):
            place.update(zip(which, unravel(flat, tuple(self.domain[i] for i in which)), strict=True))
        return [place[i] for i in range(len(self.domain))]


def contraction_kernels(nest: Nest, group: Group, target: Target, decide: Decide) -> tuple[list[Kernel], list[Buffer]]:
    """The kernels of a contract group, in order, and the buffers that live between them."""
    return Contraction(nest, group, target, decide).kernels()


class Contraction:
    """One contract group: its operands' elements, its dims by role, its epilogue; and which kernels to make of it."""

    def __init__(self, nest: Nest, group: Group, target: Target, decide: Decide):
        self.nest, self.group, self.target, self.decide = nest, group, target, decide
        self.root = group.members[0]
        space = space_of(self.root)
        assert space is not None
        self.space = space
        self.refs = {v: value_ref(v, i) for i, v in enumerate(group.members)}
        self.dims = self._classify()
        self.m, self.n = self.dims.extent(self.dims.rows), self.dims.extent(self.dims.columns)
        self.batch, self.k = self.dims.extent(self.dims.batch), self.dims.k
        left, right = self.product([s.var(f"d{i}", n) for i, n in enumerate(self.dims.domain)], s.var("k", self.k))
        self.dtype: DType = left.dtype
        self.chunks = 1 if self.root.op is CHAINS else chunk_count(self.k)
        self.deep = is_deep(self.m, self.n, self.k, self.chunks)
        if self.dtype.kind != "float" and not self.deep:
            self.chunks = 1  # sums of integers are exact in any order
        self.dot = self._dot(left, right)
        self.width = self.dot.width if self.dot else 1  # elements along k in one step
        self.cell = WORD if self.dot else self.dtype  # what copies of operands are made of
        mixed = self.dot is not None and self.dot.mixed
        self.shifted = mixed and narrow(left).dtype.kind == narrow(right).dtype.kind == "int"  # the left one, by SHIFT
        self.right_first = narrow(right).dtype.kind == "uint" if mixed else self.dims.swapped  # in the product of a step
        self.steps = -(-self.k // self.width)
        size = grain(left, right)
        self.chunk = -(-self.k // (self.chunks * size)) * size // self.width  # steps

    # -------------------------------------------------------------------------------------------------- elements

    def _body(self, domain: tuple[int, ...], index: Sequence[Expr], k: Expr, guard: Expr | None) -> tuple[Expr, Expr]:
        element = self.nest.element(self.nest.external, self.group)
        flat = ravel(index, domain)
        product = element.body(self.root, at_flat(self.root, flat), guard, unravel(k, self.space.reduced))
        return product.args[0], product.args[1]

    def product(self, index: Sequence[Expr], k: Expr, guard: Expr | None = None) -> tuple[Expr, Expr]:
        """(left, right) factors of one product, in the accumulator's dtype."""
        left, right = self._body(self.dims.domain, index, k, guard)
        return (right, left) if self.dims.swapped else (left, right)

    def _dot(self, left: Expr, right: Expr) -> Dot | None:
        """The dot instruction to use. Where it changes bits, for all products; where not (integers), for those in tiles."""
        found = dot_for(left, right, self.target)
        plain = found is not None and found.accumulator.kind == "int" and (self._is_thin() or self.deep)
        return None if plain else found

    def at_step(self, index: Sequence[Expr], k: Expr, guard: Expr | None = None) -> tuple[Expr, Expr]:
        """(left, right) of step `k`: factors, or words of them."""
        return self._stepped(lambda at, inside: self.product(index, at, inside), k, guard)

    def _stepped(self, factors: Callable[[Expr, Expr | None], tuple[Expr, Expr]], k: Expr,
                 guard: Expr | None) -> tuple[Expr, Expr]:
        """What is at step `k`, of the two `factors` at each k under a guard."""
        if self.dot is None:
            return factors(k, guard)

        def factor(side: int, at: Expr, inside: Expr | None) -> Expr:
            return factors(at, inside if guard is None else guard if inside is None else s.both(guard, inside))[side]

        left, right = (word(self.dot, self.k, k, partial(factor, side)) for side in (0, 1))
        return s.apply("xor", left, SHIFT) if self.shifted else left, right

    def _classify(self) -> Dims:
        domain = tuple(n for n in self.root.shape if n != 1) or (1,)
        k = s.var("k", math.prod(self.space.reduced))
        while True:
            dims = [s.var(f"d{i}", n) for i, n in enumerate(domain)]
            left, right = self._body(domain, dims, k, None)
            split = _group_split(left, right, dims, domain)
            if split is None:
                break
            domain = split
        of_left, of_right = ({d for d in dims if d in set(s.walk(x))} for x in (left, right))
        rows = [i for i, d in enumerate(dims) if d in of_left and d not in of_right]
        columns = [i for i, d in enumerate(dims) if d in of_right and d not in of_left]
        few = math.prod(domain[i] for i in columns) < LANES // 2 <= math.prod(domain[i] for i in rows)
        swapped = few and not self._narrow(domain, columns)
        if swapped:
            rows, columns, right = columns, rows, left
            left = self._body(domain, dims, k, None)[1]
        rows = _by_distance(rows, dims, left)
        kept = _joint(columns, domain, dims, right)
        batch = [i for i in range(len(domain)) if i not in rows and i not in kept]
        return Dims(domain, rows, kept, batch, self.space.reduced, swapped)

    def _narrow(self, domain: tuple[int, ...], columns: list[int]) -> bool:
        """Whether windows give few columns side by side (the gradient to an image): a strip of them would be as narrow."""
        return len(self.space.reduced) > 1 and columns[-1:] == [len(domain) - 1] and domain[-1] < LANES // 2

    # --------------------------------------------------------------------------------------------------- choice

    def kernels(self) -> tuple[list[Kernel], list[Buffer]]:
        heuristic = self._way()
        if heuristic != "tiles" and (lanes := by_lanes(self)) is not None:
            return lanes
        few = self.dot is None and (heuristic != "tiles" or min(self.m, self.n) <= FEW)
        way = self.decide(heuristic, lambda: few_site(self._problem(), self._extents(), heuristic, self._streams())) if few \
            else heuristic
        if way == "tiles":
            return self._tiled()
        return [(few_rows(self) if way == "stream" else None) or self._strip()], []

    def _way(self) -> str:
        """How the heuristic makes the product: in "tiles", or without packing, as a "stream" of the right one or a "strip"."""
        if not self._is_thin():
            return "tiles"
        return "stream" if self.m <= self.target.costs.strip_rows and self._streams() else "strip"

    def _streams(self) -> bool:
        """Whether the right operand may be read as a stream."""
        return self.m <= FEW and min(self.n, self.k) >= LANES and self.dot is None

    def _is_thin(self) -> bool:
        """Whether packing costs more than it brings."""
        if self._narrow(self.dims.domain, self.dims.columns):
            return False
        return self.m <= self.target.costs.strip_rows or self.n < LANES // 2 or self.k < 4

    # ---------------------------------------------------------------------------------------------------- strips

    def _strip(self) -> Kernel:
        """Neighbouring results along the last dim, NV vectors at a time, without packing."""
        domain, k = self.dims.domain, s.var("k", self.steps)
        dims = [s.var(f"d{i}", n) for i, n in enumerate(domain)]
        left, right = self.product(dims, s.var("kk", self.k))
        domain = collapse(domain, dims, [Let(s.ref("a", left.dtype), left), Let(s.ref("b", right.dtype), right),
                                         *self.epilogue(domain, dims)])
        last = domain[-1]
        vectors = min(4, -(-last // LANES))
        strips = -(-last // (vectors * LANES))
        task = s.var("task", math.prod(domain[:-1]) * strips)
        outer = unravel(task // strips, domain[:-1]) if len(domain) > 1 else []
        tile = Tile(1, vectors, self.dtype)
        here, wide = (task % strips) * tile.columns + tile.column, s.var("wide", strips * tile.columns)
        place = [*outer, s.var("last", last)]  # in range, so that it is found without a remainder; `inside` says where it is
        inside = s.compare("lt", wide, last)
        parts = Buffer("parts", self.dtype, self.chunks * tile.acc.size, "scratch")
        factors = self._stepped(lambda at, guard: self._body(domain, place, at, guard), k, inside)
        body = self.chained(k, tile, parts, tile.step(*factors, self.op))
        body.append(tile.over(*self.finish(tile, parts, domain, place, inside)))
        flops = 2 * math.prod(domain) * self.k
        found = substitute_vars(tuple(body), {place[-1]: here, wide: here})
        return self.nest.kernel("strip", task.attr[1], task, found, self.group,
                                (tile.acc, *([parts] if self.chunks > 1 else [])), flops)

    @property
    def op(self) -> str:
        """The dot product of a step; "" for a multiplication."""
        return self.dot.op if self.dot else ""

    def chained(self, k: Expr, tile: Tile, parts: Buffer, step: Stmt) -> list[Stmt]:
        """The chains over k: one, or one a chunk, whose results go to `parts`."""
        if self.chunks == 1:
            return [tile.clear(), For(k, s.const(0, int64), s.const(self.steps, int64), (step,))]
        c = s.var("c", self.chunks)
        stop = self.until(c)
        keep = tile.over(Store((Write(parts, c * tile.acc.size + tile.place, tile.value),)))
        return [For(c, s.const(0, int64), s.const(self.chunks, int64),
                    (tile.clear(), For(k, c * self.chunk, stop, (step,)), keep))]

    def until(self, c: Expr) -> Expr:
        """The step behind chunk `c`."""
        stop = (c + 1) * self.chunk
        return stop if self.steps == self.chunks * self.chunk else s.apply("min", stop, self.steps)

    def finish(self, tile: Tile, parts: Buffer, domain: tuple[int, ...], place: Sequence[Expr],
                inside: Expr) -> list[Stmt]:
        """Sum the chunks, then the epilogue and the stores of one element."""
        total = tile.value if self.chunks == 1 else tree([load(parts, tile.place + c * tile.acc.size)
                                                          for c in range(self.chunks)])
        return [Let(self.refs[self.root], s.cast(total, self.root.dtype)), *self.epilogue(domain, place, inside)]

    def epilogue(self, domain: tuple[int, ...], place: Sequence[Expr], inside: Expr | None = None) -> list[Stmt]:
        guard = None if inside is None or (inside.op == "const" and inside.attr) else inside
        flat = ravel(place, domain)

        def leaf(of: Node, index: tuple[Expr, ...], own: Expr | None) -> Expr:
            return self.refs[of] if of in self.refs else self.nest.external(of, index, own)

        element = self.nest.element(leaf, self.group)
        stmts = lets(self.group.members[1:], self.refs, lambda v: element.body(v, at_flat(v, flat), guard))
        stmts.append(Store(tuple(self._kept(v, flat, guard) for v in self.group.stored)))
        return stmts

    def _kept(self, v: Node, flat: Expr, guard: Expr | None) -> Write:
        """The store of element `flat` of a value, within the zeros around it if it has any."""
        x = self.group.bordered.get(v)
        if x is None:
            return Write(self.nest.buffer_of(v), flat, self.refs[v], guard)
        index = [i + low for i, low in zip(at_flat(x, flat), v.static["low"], strict=True)]
        return Write(self.nest.buffer_of(v), flat_index(v, index), self.refs[x], guard)

    # ----------------------------------------------------------------------------------------------------- tiles

    def _tiled(self) -> tuple[list[Kernel], list[Buffer]]:
        heuristic = blocking(self._extents(), self.target)
        chosen = self.decide(heuristic, lambda: product_site(self._problem(), self._extents(), self.target, heuristic))
        return Tiled(self, chosen).deep() if chosen.deep else Tiled(self, chosen).kernels()

    def _problem(self) -> str:
        """The contraction as text in which names do not matter."""
        domain, k = self.dims.domain, s.var("k", self.k)
        dims = [s.var(f"d{i}", n) for i, n in enumerate(domain)]
        left, right = self.product(dims, k)
        body = (Let(s.ref("a", left.dtype), left), Let(s.ref("b", right.dtype), right), *self.epilogue(domain, dims))
        told = f"{' lasting' * self.lasting}{' alone' * self.nest.alone}"
        label = f"{self.batch}x{self.m}x{self.n}x{self.k} {self.dtype.name}{told}"
        return self.nest.problem(label, body, self.group)

    def _extents(self) -> Extents:
        terms = self._right_terms() or {}
        of_right = math.prod(self.dims.domain[i] for i in self.batch_of_right())
        splits = self.chunks > 1 and self.way != "rows" and not self.lasting  # what lasts need not be packed by tasks
        return Extents(self.batch, self.m, self.n, self.steps, self.chunks, self.dtype, self.way,
                       self.right_along == "n" and self.dot is None, terms.get("k", 0) * self.right_size, of_right,
                       len(self.group.members) == 1, self.run, (self.zeros.inner, self.zeros.share) if self.zeros else (1, 0.0),
                       self.nest.repeated or self.lasting, splits, self.nest.alone)

    @cached_property
    def lasting(self) -> bool:
        """Whether the right operand is the same in every call: a kernel that packs it runs once."""
        dims = [s.var(f"d{i}", n) for i, n in enumerate(self.dims.domain)]
        right = self.product(dims, s.var("k", self.k))[1]
        return all(x.attr in self.nest.lasting for x in s.walk(right) if x.op == "load")

    def batch_of_right(self) -> list[int]:
        """The batch dims on which the right operand depends."""
        dims = [s.var(f"d{i}", n) for i, n in enumerate(self.dims.domain)]
        used = set(s.walk(self.product(dims, s.var("k", self.k))[1]))
        return [i for i in self.dims.batch if dims[i] in used]

    def _right_terms(self) -> dict[str, int] | None:
        """Elements between neighbours along n and along k of the right operand; None when they are not evenly spaced."""
        n, k = s.var("n", self.n), s.var("k", self.k)
        right = narrow(self.product(self.dims.index(s.var("b", self.batch), s.const(0, int64), n), k)[1])
        if right.op != "load" or len(right.args) > 1:
            return None
        terms, _ = s.affine(right.args[0])
        alone = all(t is n or t is k or not {n, k} & set(s.walk(t)) for t in terms)
        return {"n": terms.get(n, 0), "k": terms.get(k, 0)} if alone else None

    @cached_property
    def right_along(self) -> str:
        """The direction in which the right operand is contiguous, "n" or "k"; "" when there is none."""
        terms = self._right_terms() or {}
        return next((name for name in ("n", "k") if terms.get(name) == 1), "")

    @cached_property
    def right_size(self) -> int:
        """Bytes of an element of the right operand, where it lies."""
        dims = [s.var(f"d{i}", n) for i, n in enumerate(self.dims.domain)]
        return narrow(self.product(dims, s.var("k", self.k))[1]).dtype.itemsize

    def left_at(self, b: Expr, m: Expr, k: Expr) -> Expr:
        """The left operand of row `m` at step `k`."""
        return self.at_step(self.dims.index(b, m, s.const(0, int64)), k)[0]

    @cached_property
    def way(self) -> str:
        """How the left reaches register tiles: "place" or "bases" (in place), "columns" or "rows" (copied)."""
        tile, i, k = s.var("t", max(1, self.m - 1)), s.var("i", min(2, self.m)), s.var("k", self.k)  # two rows in range
        left = self.product(self.dims.index(s.var("b", self.batch), tile + i, s.const(0, int64)), k)[0]
        parts = apart(narrow(left), k)
        if parts is None:
            return "rows"
        terms, _ = s.affine(parts[0])
        even = parts[1].op == "mul" and parts[1].args[0] is k
        if terms.get(i, 0) == 1 and (even or not self.deep):
            return "columns"
        if self.dot or left.op != "load":
            return "rows"
        return "place" if _even(terms, i) else "bases"

    @cached_property
    def zeros(self) -> Zeros | None:
        """The zeros around what rows read in place."""
        return zeros_of(self) if self.way in ("place", "bases") else None

    @cached_property
    def run(self) -> int:
        """Neighbouring rows that lie evenly spaced in the left operand, where not all do."""
        width = self.dims.domain[self.dims.rows[-1]] if self.dims.rows else 1
        run, i, k = s.var("t", self.m // width), s.var("i", width), s.var("k", self.k)
        parts = apart(narrow(self.left_at(s.var("b", self.batch), run * width + i, k)), k) if self.way == "bases" else None
        return width if parts is not None and _even(s.affine(parts[0])[0], i) else 1


def _even(terms: Iterable[Expr], i: Expr) -> bool:
    """Whether an index of these terms grows evenly with `i`."""
    return all(t is i or i not in set(s.walk(t)) for t in terms)


def _group_split(left: Expr, right: Expr, dims: Sequence[Expr], domain: tuple[int, ...]) -> tuple[int, ...] | None:
    """Channel groups: a dim that one factor sees only as its quotient by q is two dims, one of batch and one of columns."""
    for factor, other in ((left, right), (right, left)):
        for x in s.walk(factor):
            if x.op == "floordiv" and x.args[0] in dims and s.is_const(x.args[1]) and x.args[0] in set(s.walk(other)):
                i, q = dims.index(x.args[0]), x.args[1].attr
                if domain[i] % q == 0 and 1 < q < domain[i]:
                    return (*domain[:i], domain[i] // q, q, *domain[i + 1:])
    return None


def _by_distance(rows: list[int], dims: Sequence[Expr], left: Expr) -> list[int]:
    """`rows` with the dim whose neighbours are nearest in memory innermost."""
    terms = s.affine(left.args[0])[0] if left.op == "load" else {}
    return sorted(rows, key=lambda i: -terms[dims[i]]) if all(dims[i] in terms for i in rows) else rows


def _joint(columns: list[int], domain: tuple[int, ...], dims: Sequence[Expr], right: Expr) -> list[int]:
    """Neighbours among `columns` that every load of `right` runs through as through one dim: the trailing ones, or if they are
    few the most that lie side by side in memory."""
    runs: list[list[int]] = []
    for i in columns:
        joined = runs and runs[-1][-1] == i - 1 and \
            len(collapse((domain[i - 1], domain[i]), [dims[i - 1], dims[i]], [Let(s.ref("x", right.dtype), right)])) == 1
        runs = [*runs[:-1], [*runs[-1], i]] if joined else [*runs, [i]]
    extents = [math.prod(domain[i] for i in run) for run in runs]
    if not runs or extents[-1] >= LANES // 2 or right.op != "load":
        return runs[-1] if runs else []
    near = s.affine(right.args[0])[0]
    return max(zip(extents, runs, strict=True), key=lambda found: (near.get(dims[found[1][-1]]) == 1, found[0]))[1]
