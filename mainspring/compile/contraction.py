"""Contractions: matmul, einsum and every convolution, from one template.

The result's dims are sorted by which operand they come from: rows (M, the left one alone), columns (N, the right one
alone) and batch (both, or kept apart). Legend: m row, n column, k reduced, b batch; MR × NR = MR × NV·16 the register tile.

    pack:  right operand -> panels[b][n / NR][k][NR]                     (its own kernel, all threads)
    tile:  for each MR rows × a group of panels                          (one task)
             left rows are read in place where they are affine, else copied: into columns[K][MR] where rows are
             neighbours in memory (a transposed operand), or into rows[MR][K] (a window, a guard, a cast)
             acc[MR][NR] += left[m][k] · panel[k][n], k in order, in registers
             epilogue on the tile, store

Small or thin products skip the packing: a *strip* of NV vectors of neighbouring results runs through k.

Numerics (docs/numerics.md): an element is one FMA chain over k in order within each of `chunk_count(K)` equal chunks, and the
chunks are summed by a fixed binary tree. The choice of kernel, tile or panel changes no bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mainspring.compile.canonical import canonical
from mainspring.compile.choose import Decide, Site, problem
from mainspring.compile.fuse import Group
from mainspring.compile.inline import at_flat, space_of
from mainspring.compile.loopnest import Nest, collapse, lets, value_ref
from mainspring.compile.loops import LANES, Buffer, For, Kernel, Let, Stmt, Store, Write, load
from mainspring.compile.sites import Product, product_site
from mainspring.compile.target import Target
from mainspring.compile.tile import Tile, multiply_add
from mainspring.ir import scalar as s
from mainspring.ir.graph import Node
from mainspring.ir.scalar import Expr
from mainspring.ops.movement import ravel, unravel
from mainspring.types.dtype import DType, int64

MAX_CHUNKS, MIN_CHUNK = 8, 128
PANEL_GROUP_BYTES = 512 << 10  # panels that a task keeps coming back to: half of a second-level cache
MIN_TASKS = 16
ROW_TILES = 4  # row tiles whose left operand is copied at once, where it must be copied
DEEP_BYTES = 64 << 10  # packed rows of a block of k that all row tiles of a task go through before the next block
MIN_DEEP = 2048  # shorter chunks are not worth a kernel of their own for their sums
IN_PLACE_STRIDE = 2048  # bytes between rows of a right operand up to which it is read without packing
STRIP_ROWS = 3  # up to this many rows, packing costs more than it brings


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
    return _Contraction(nest, group, target, decide).kernels()


class _Contraction:
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
        self.chunks = chunk_count(self.k)
        self.chunk = -(-self.k // self.chunks)
        self.steps: Buffer | None = None
        self.dtype: DType = self._product([s.var(f"d{i}", n) for i, n in enumerate(self.dims.domain)],
                                          s.var("k", self.k))[0].dtype

    # -------------------------------------------------------------------------------------------------- elements

    def _body(self, domain: tuple[int, ...], index: Sequence[Expr], k: Expr, guard: Expr | None) -> tuple[Expr, Expr]:
        element = self.nest.element(self.nest.external, self.group)
        flat = ravel(index, domain)
        product = element.body(self.root, at_flat(self.root, flat), guard, unravel(k, self.space.reduced))
        return product.args[0], product.args[1]

    def _product(self, index: Sequence[Expr], k: Expr, guard: Expr | None = None) -> tuple[Expr, Expr]:
        """(left, right) factors of one product, in the accumulator's dtype."""
        left, right = self._body(self.dims.domain, index, k, guard)
        return (right, left) if self.dims.swapped else (left, right)

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
        swapped = math.prod(domain[i] for i in columns) < 8 <= math.prod(domain[i] for i in rows)
        if swapped:
            rows, columns, right = columns, rows, left
            left = self._body(domain, dims, k, None)[1]
        rows = _by_distance(rows, dims, left)
        kept = _joint(columns, domain, dims, right)
        batch = [i for i in range(len(domain)) if i not in rows and i not in kept]
        return Dims(domain, rows, kept, batch, self.space.reduced, swapped)

    # --------------------------------------------------------------------------------------------------- choice

    def kernels(self) -> tuple[list[Kernel], list[Buffer]]:
        if self.m <= STRIP_ROWS or self.n < LANES // 2 or self.k < 4:
            return [self._strip()], []
        return self._tiled()

    # ---------------------------------------------------------------------------------------------------- strips

    def _strip(self) -> Kernel:
        """Neighbouring results along the last dim, NV vectors at a time, without packing."""
        domain, dims, k = self.dims.domain, [s.var(f"d{i}", n) for i, n in enumerate(self.dims.domain)], s.var("k", self.k)
        left, right = self._product(dims, k)
        domain = collapse(domain, dims, [Let(s.ref("a", left.dtype), left), Let(s.ref("b", right.dtype), right),
                                         *self._epilogue(domain, dims)])
        last = domain[-1]
        vectors = min(4, -(-last // LANES))
        strips = -(-last // (vectors * LANES))
        task = s.var("task", math.prod(domain[:-1]) * strips)
        outer = unravel(task // strips, domain[:-1]) if len(domain) > 1 else []
        tile = Tile(1, vectors, self.dtype)
        place = [*outer, (task % strips) * tile.columns + tile.column]
        inside = s.compare("lt", place[-1], last)
        parts = Buffer("parts", self.dtype, self.chunks * tile.acc.size, "scratch")
        body = self._chained(k, tile, parts, tile.set(multiply_add(*self._body(domain, place, k, inside), tile.value)))
        body.append(tile.over(*self._finish(tile, parts, domain, place, inside)))
        flops = 2 * math.prod(domain) * self.k
        return self.nest.kernel("strip", task.attr[1], task, tuple(body), self.group,
                                (tile.acc, *([parts] if self.chunks > 1 else [])), flops)

    def _chained(self, k: Expr, tile: Tile, parts: Buffer, step: Stmt) -> list[Stmt]:
        """The chains over k: one, or one a chunk, whose results go to `parts`."""
        if self.chunks == 1:
            return [tile.clear(), For(k, s.const(0, int64), s.const(self.k, int64), (step,))]
        c = s.var("c", self.chunks)
        stop = (c + 1) * self.chunk if self.k % self.chunks == 0 else s.apply("min", (c + 1) * self.chunk, self.k)
        keep = tile.over(Store((Write(parts, c * tile.acc.size + tile.place, tile.value),)))
        return [For(c, s.const(0, int64), s.const(self.chunks, int64),
                    (tile.clear(), For(k, c * self.chunk, stop, (step,)), keep))]

    def _finish(self, tile: Tile, parts: Buffer, domain: tuple[int, ...], place: Sequence[Expr],
                inside: Expr) -> list[Stmt]:
        """Sum the chunks, then the epilogue and the stores of one element."""
        total = tile.value if self.chunks == 1 else tree([load(parts, tile.place + c * tile.acc.size)
                                                          for c in range(self.chunks)])
        return [Let(self.refs[self.root], s.cast(total, self.root.dtype)), *self._epilogue(domain, place, inside)]

    def _epilogue(self, domain: tuple[int, ...], place: Sequence[Expr], inside: Expr | None = None) -> list[Stmt]:
        guard = None if inside is None or (inside.op == "const" and inside.attr) else inside
        flat = ravel(place, domain)

        def leaf(of: Node, index: tuple[Expr, ...], own: Expr | None) -> Expr:
            return self.refs[of] if of in self.refs else self.nest.external(of, index, own)

        element = self.nest.element(leaf, self.group)
        stmts = lets(self.group.members[1:], self.refs, lambda v: element.body(v, at_flat(v, flat), guard))
        stmts.append(Store(tuple(Write(self.nest.buffer_of(v), flat, self.refs[v], guard) for v in self.group.stored)))
        return stmts

    # ----------------------------------------------------------------------------------------------------- tiles

    def _tile_shape(self) -> tuple[int, int]:
        """(MR, NV): as many accumulators as the registers hold, with rows that divide M where they can."""
        registers = self.target.accumulators(self.dtype)
        vectors = 1 if self.n <= LANES or registers < 16 else 2
        most = max(1, registers // vectors)
        if self.m <= most:
            return self.m, vectors
        even = [mr for mr in range(most, most // 2, -1) if self.m % mr == 0]
        if not even:
            return -(-self.m // -(-self.m // most)), vectors
        return next((mr for mr in even if self._left_way(mr) != "bases"), even[0]), vectors

    def _problem(self) -> str:
        """The contraction as text in which names do not matter."""
        domain, k = self.dims.domain, s.var("k", self.k)
        dims = [s.var(f"d{i}", n) for i, n in enumerate(domain)]
        left, right = self._product(dims, k)
        body = (Let(s.ref("a", left.dtype), left), Let(s.ref("b", right.dtype), right), *self._epilogue(domain, dims))
        text = canonical(self.nest.kernel("problem", 1, s.var("task", 1), body, self.group))
        return problem(f"{self.batch}x{self.m}x{self.n}x{self.k} {self.dtype.name}", text)

    def _site(self, default: tuple[int, int]) -> Site:
        return product_site(Product(self._problem(), self.batch, self.m, self.n, self.k, self.chunks, self.dtype,
                                    len(self.group.members), self._left_way, self._right_in_place), self.target, default)

    def _tiled(self) -> tuple[list[Kernel], list[Buffer]]:
        heuristic = self._tile_shape()
        mr, vectors = self.decide(heuristic, lambda: self._site(heuristic))
        nr = vectors * LANES
        count = -(-self.n // nr)
        of_right = self._batch_of_right()
        kernels, between = self._steps()
        panels = None
        if not self._right_in_place(nr):
            batch = math.prod(self.dims.domain[i] for i in of_right)
            panels = Buffer("panels", self.dtype, batch * count * self.k * nr)
            kernels.append(self._pack(panels, nr, count, of_right))
            between = [*between, panels]
        if self._is_deep() and self._left_way(mr) in ("place", "bases"):
            parts, made = self._deep(panels, mr, vectors, count, of_right)
            return [*kernels, *made], [*between, parts]
        return [*kernels, self._tile(panels, mr, vectors, count, of_right)], between

    def _batch_of_right(self) -> list[int]:
        """The batch dims on which the right operand depends."""
        dims = [s.var(f"d{i}", n) for i, n in enumerate(self.dims.domain)]
        used = set(s.walk(self._product(dims, s.var("k", self.k))[1]))
        return [i for i in self.dims.batch if dims[i] in used]

    def _right_in_place(self, nr: int) -> bool:
        """Whether whole panels of the right operand lie in memory as the tiles read them, their rows not too far apart."""
        n, k = s.var("n", self.n), s.var("k", self.k)
        right = self._product(self.dims.index(s.var("b", self.batch), s.const(0, int64), n), k)[1]
        if self.n % nr or right.op != "load" or len(right.args) > 1:
            return False
        terms, _ = s.affine(right.args[0])
        alone = all(t is n or t is k or not {n, k} & set(s.walk(t)) for t in terms)
        return alone and terms.get(n) == 1 and terms.get(k, 0) * self.dtype.itemsize <= IN_PLACE_STRIDE

    def _pack(self, panels: Buffer, nr: int, count: int, of_right: list[int]) -> Kernel:
        batch = math.prod(self.dims.domain[i] for i in of_right)
        block = max(1, min(self.k, 4096 // nr))
        blocks = -(-self.k // block)
        task = s.var("task", batch * count * blocks)
        k, lane = s.var("k", self.k), s.var("lane", nr)
        panel = (task // blocks) % count
        places = dict(zip(of_right, unravel(task // (blocks * count), tuple(self.dims.domain[i] for i in of_right)),
                          strict=True))
        n = panel * nr + lane
        index = self.dims.index(s.const(0, int64), s.const(0, int64), n)
        index = [places.get(i, e) for i, e in enumerate(index)]
        right = self._product(index, k, s.compare("lt", n, self.n))[1]
        start = (task % blocks) * block
        stop = start + block if self.k % block == 0 else s.apply("min", start + block, self.k)
        at = (task // blocks) * (self.k * nr) + k * nr + lane
        inner = For(lane, s.const(0, int64), s.const(nr, int64), (Store((Write(panels, at, right),)),), "vector")
        return self.nest.kernel("pack", task.attr[1], task, (For(k, start, stop, (inner,)),), self.group)

    def _tile(self, panels: Buffer | None, mr: int, vectors: int, count: int, of_right: list[int]) -> Kernel:
        nr, dims = vectors * LANES, self.dims
        tiles = -(-self.m // mr)
        way = self._left_way(mr)
        deep = ROW_TILES if way in ("columns", "rows") else 1  # row tiles a task copies at once
        wide = max(1, min(count, PANEL_GROUP_BYTES // (self.k * nr * self.dtype.itemsize)))  # panels it goes through
        while max(deep, wide) > 1 and self.batch * -(-tiles // deep) * -(-count // wide) < MIN_TASKS:
            deep, wide = (-(-deep // 2), wide) if deep > 1 else (deep, -(-wide // 2))
        groups, blocks = -(-count // wide), -(-tiles // deep)
        task = s.var("task", self.batch * groups * blocks)
        b, first, block = task // (groups * blocks), (task // blocks) % groups * wide, task % blocks
        k, panel, reg = s.var("k", self.k), s.var("panel", count), Tile(mr, vectors, self.dtype)
        inner = s.var("tile", deep) if deep > 1 else s.const(0, int64)
        inners = s.const(deep, int64) if tiles % deep == 0 else s.apply("min", s.const(deep, int64), tiles - block * deep)
        tile = block * deep + inner
        m, n = tile * mr + reg.i, panel * nr + reg.column
        left, prepare, scratch = self._left_rows(way, b, (block * deep, inner, inners), (deep, mr), reg.i, k)
        right = self._panel_at(panels, (b, panel, k, reg.column), (count, nr), of_right)
        parts = Buffer("parts", self.dtype, self.chunks * mr * nr, "scratch")
        body = self._chained(k, reg, parts, self._step(reg, left, right))
        plain = self.chunks == 1 and len(self.group.members) == 1
        if plain:
            inside = s.both(s.compare("lt", m, self.m), s.compare("lt", n, self.n))
            body.append(reg.over(*self._finish(reg, parts, dims.domain, dims.index(b, m, n), inside)))
        else:
            body += self._by_rows(reg, parts, (b, tile, panel))
        if deep > 1:
            body = [For(inner, s.const(0, int64), inners, tuple(body))]
        stop = s.const(count, int64) if groups == 1 else s.apply("min", first + wide, count)
        loop = For(panel, first, stop, tuple(body))
        extra = ([] if plain else [parts]) + scratch
        return self.nest.kernel("tile", task.attr[1], task, (*prepare, loop), self.group, (reg.acc, *extra),
                                2 * self.batch * self.m * self.n * self.k)

    def _panel_at(self, panels: Buffer | None, place: tuple[Expr, Expr, Expr, Expr], extents: tuple[int, int],
                  of_right: list[int]) -> Expr:
        """The right operand, packed or in place, of batch, panel, k and column. `extents`: panels, columns of one."""
        (b, panel, k, column), (count, nr), dims = place, extents, self.dims
        if panels is None:
            return self._product(dims.index(b, s.const(0, int64), panel * nr + column), k)[1]
        of_batch = dims.index(b, s.const(0, int64), s.const(0, int64))
        base = ravel([of_batch[d] for d in of_right],
                     tuple(dims.domain[d] for d in of_right)) if of_right else s.const(0, int64)
        return load(panels, ((base * count + panel) * self.k + k) * nr + column)

    def _step(self, tile: Tile, left: Expr, right: Expr) -> Stmt:
        """acc += left · right."""
        return tile.step(*((right, left) if self.dims.swapped else (left, right)))

    # ------------------------------------------------------------------------------------------------ deep tiles

    def _is_deep(self) -> bool:
        """Whether the operands are long and the result small (the gradient of a window): chunks are then tasks of their own."""
        return self.k >= max(MIN_DEEP, self.m, self.n, 2 * self.m * self.n * self.chunks // (self.m + self.n))

    def _deep(self, panels: Buffer | None, mr: int, vectors: int, count: int,
              of_right: list[int]) -> tuple[Buffer, list[Kernel]]:
        """A task is a chunk and a group of row tiles. It goes through k in blocks that stay in cache for all its tiles."""
        nr, tiles, way = vectors * LANES, -(-self.m // mr), self._left_way(mr)
        wide = -(-tiles // -(-MIN_TASKS // (self.batch * self.chunks)))
        groups = -(-tiles // wide)
        block = min(self.chunk, max(64, DEEP_BYTES // (count * nr * self.dtype.itemsize)))
        task = s.var("task", self.batch * self.chunks * groups)
        b, c, first = task // (self.chunks * groups), (task // groups) % self.chunks, task % groups * wide
        k, panel, reg = s.var("k", self.k), s.var("panel", count), Tile(mr, vectors, self.dtype)
        turn, tile = s.var("block", -(-self.chunk // block)), s.var("tile", tiles)
        left, prepare, scratch = self._left_rows(way, b, (tile, s.const(0, int64), s.const(1, int64)), (1, mr), reg.i, k)
        right = self._panel_at(panels, (b, panel, k, reg.column), (count, nr), of_right)
        parts = Buffer("parts", self.dtype, self.batch * self.chunks * tiles * count * mr * nr)

        def home(b: Expr, tile: Expr, panel: Expr, c: Expr | int, place: Expr) -> Expr:
            return (((b * self.chunks + c) * tiles + tile) * count + panel) * (mr * nr) + place

        where = home(b, tile, panel, c, reg.place)
        begin = c * self.chunk + turn * block
        end = begin + block if self.k == self.chunks * self.chunk and self.chunk % block == 0 else \
            s.apply("min", s.apply("min", begin + block, (c + 1) * self.chunk), self.k)
        chain = (reg.set(load(parts, where, s.compare("lt", 0, turn))),
                 For(k, begin, end, (self._step(reg, left, right),)),
                 reg.over(Store((Write(parts, where, reg.value),))))
        stop = first + wide if tiles % wide == 0 else s.apply("min", first + wide, tiles)
        loop = For(tile, first, stop, (*prepare, For(panel, s.const(0, int64), s.const(count, int64), chain)))
        body = (For(turn, s.const(0, int64), s.const(turn.attr[1], int64), (loop,)),)
        product = self.nest.kernel("deep", task.attr[1], task, body, self.group, (reg.acc, *scratch),
                                   2 * self.batch * self.m * self.n * self.k)
        task = s.var("task", self.batch * tiles)
        b, row_tile = task // tiles, task % tiles
        finish = self._finish_rows(lambda i, j, c: load(parts, home(b, row_tile, panel, c, i * nr + j)), (mr, nr),
                                   (b, row_tile, panel))
        body = (For(panel, s.const(0, int64), s.const(count, int64), (finish,)),)
        return parts, [product, self.nest.kernel("finish", task.attr[1], task, body, self.group)]

    def _by_rows(self, tile: Tile, parts: Buffer, place: tuple[Expr, Expr, Expr]) -> list[Stmt]:
        """The epilogue of a tile, which lies in the first-level cache by now."""
        keep = [] if self.chunks > 1 else [tile.over(Store((Write(parts, tile.place, tile.value),)))]
        mr, nr = tile.rows, tile.columns
        return [*keep, self._finish_rows(lambda i, j, c: load(parts, i * nr + j + c * mr * nr), (mr, nr), place)]

    def _finish_rows(self, part: Callable[[Expr, Expr, int], Expr], tile: tuple[int, int],
                     place: tuple[Expr, Expr, Expr]) -> For:
        """Sum the chunks and the epilogue, as a small loop over the rows of the tile. `part`: row i, column j of chunk c."""
        (mr, nr), (b, row_tile, panel) = tile, place
        i, j = s.var("ei", mr), s.var("ej", nr)
        m, n = row_tile * mr + i, panel * nr + j
        total = tree([part(i, j, c) for c in range(self.chunks)])
        stmts = [Let(self.refs[self.root], s.cast(total, self.root.dtype)),
                 *self._epilogue(self.dims.domain, self.dims.index(b, m, n))]
        rows = s.const(mr, int64) if self.m % mr == 0 else s.apply("min", s.const(mr, int64), self.m - row_tile * mr)
        columns = s.const(nr, int64) if self.n % nr == 0 else s.apply("min", s.const(nr, int64), self.n - panel * nr)
        return For(i, s.const(0, int64), rows, (For(j, s.const(0, int64), columns, tuple(stmts), "vector"),))

    def _left_at(self, b: Expr, m: Expr, k: Expr) -> Expr:
        """The left operand of row `m` (the last row, where the tile reaches beyond) at `k`."""
        row = m if self.m == 0 or s.bounds(m)[1] < self.m else s.apply("min", m, self.m - 1)
        return self._product(self.dims.index(b, row, s.const(0, int64)), k)[0]

    def _left_way(self, mr: int) -> str:
        """How the left reaches the registers: "place" or "bases" (in place), "columns" or "rows" (copied); see above."""
        tile, i, k = s.var("t", -(-self.m // mr)), s.var("i", mr), s.var("k", self.k)
        left = self._left_at(s.var("b", self.batch), tile * mr + i, k)
        parts = _apart(left, k)
        if parts is None:
            return "rows"
        terms, _ = s.affine(parts[0])
        even = self.m % mr == 0
        if even and parts[1].op == "mul" and parts[1].args[0] is k and terms.get(i, 0) == 1:
            return "columns"
        return "place" if even and all(t is i or i not in set(s.walk(t)) for t in terms) else "bases"

    def _steps(self) -> tuple[list[Kernel], list[Buffer]]:
        """Where the left operand's places along k are no multiples of k (the windows of a convolution), a table of them."""
        k = s.var("k", self.k)
        parts = _apart(self._left_at(s.var("b", self.batch), s.var("m", self.m), k), k)
        if parts is None or not set(s.affine(parts[1])[0]) - {k}:
            return [], []
        self.steps = Buffer("steps", int64, self.k)
        loop = For(k, s.const(0, int64), s.const(self.k, int64), (Store((Write(self.steps, k, parts[1]),)),), "vector")
        return [self.nest.kernel("steps", 1, s.var("task", 1), (loop,), self.group)], [self.steps]

    def _left_rows(self, way: str, b: Expr, place: tuple[Expr, Expr, Expr], shape: tuple[int, int], i: Expr,
                   k: Expr) -> tuple[Expr, list[Stmt], list[Buffer]]:
        """(element of row i at k, statements before, scratch). `place`: the task's first row tile, this one, how many."""
        (start, tile, tiles), (deep, mr) = place, shape
        left = self._left_at(b, (start + tile) * mr + i, k)
        if way in ("place", "bases"):
            row, along = _apart(left, k)  # type: ignore[misc]
            if self.steps is not None:
                along = load(self.steps, k)
            if way == "place":
                return load(left.attr, row + along), [], []
            bases = Buffer("bases", int64, mr, "register")
            fill = For(i, s.const(0, int64), s.const(mr, int64), (Store((Write(bases, i, row),)),), "unroll")
            return load(left.attr, load(bases, i) + along), [fill], [bases]
        each, t, r = mr * self.k, s.var("rt", deep), s.var("ri", mr)
        copied = Buffer(way, self.dtype, deep * each, "scratch")
        if way == "columns":
            copy = Store((Write(copied, t * each + k * mr + r, self._left_at(b, (start + t) * mr + r, k)),))
            lanes = For(r, s.const(0, int64), s.const(mr, int64), (copy,), "vector")
            fill = For(k, s.const(0, int64), s.const(self.k, int64), (For(t, s.const(0, int64), tiles, (lanes,)),))
            return load(copied, tile * each + k * mr + i), [fill], [copied]
        width = self.dims.reduced[-1] if self.dims.reduced else 1
        outer, c = s.var("ko", self.k // width), s.var("kc", width)
        copy = Store((Write(copied, t * each + r * self.k + outer * width + c,
                            self._left_at(b, (start + t) * mr + r, outer * width + c)),))
        lanes = For(c, s.const(0, int64), s.const(width, int64), (copy,), "vector")
        rows = For(r, s.const(0, int64), s.const(mr, int64),
                   (For(outer, s.const(0, int64), s.const(self.k // width, int64), (lanes,)),))
        return load(copied, tile * each + i * self.k + k), [For(t, s.const(0, int64), tiles, (rows,))], [copied]


def _apart(x: Expr, k: Expr) -> tuple[Expr, Expr] | None:
    """The index of an unguarded load as (a part without `k`, a part of `k` alone); None when they cannot be told apart."""
    if x.op != "load" or len(x.args) > 1:
        return None
    terms, constant = s.affine(x.args[0])
    along, rest = s.const(0, int64), s.const(constant, int64)
    for term, step in terms.items():
        names = {e for e in s.walk(term) if e.op in ("var", "load")}
        if k not in names:
            rest = rest + term * step
        elif names == {k}:
            along = along + term * step
        else:
            return None
    return rest, along


def tree(values: list[Expr]) -> Expr:
    """The sum of a power of two of values by a balanced binary tree of neighbours."""
    while len(values) > 1:
        values = [a + b for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]


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
    """The trailing neighbours among `columns` that every load of `right` runs through as through one dim."""
    kept = columns[-1:]
    for i in reversed(columns[:-1]):
        if i + 1 != kept[0]:
            break
        if len(collapse((domain[i], domain[i + 1]), [dims[i], dims[i + 1]], [Let(s.ref("x", right.dtype), right)])) != 1:
            break
        kept.insert(0, i)
    return kept
