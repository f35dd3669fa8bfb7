"""What the sweeps of recurrent layers share: how the batch and the units are dealt to tasks (`templates/dealing.py`), and the
product of a task's rows with its columns of the hidden weights.

    alone    a task takes some rows of the batch and all units through all steps by itself
    rounds   a launch and a barrier for each step; a task makes some units, for some rows, out of the states of all units,
             which lie in two halves of `left`: the tasks of a round read one and write the other

The weights are packed once a call, in panels [k][vectors·LANES] as the product reads them. The inner loop runs down a chunk of
one panel, which then lies in the first-level cache for all row tiles of the task. Every other step begins with the panels (and
tasks) that were last, because weights that do not fit the second-level cache would otherwise never be found there.

Numerics are those of every product (`products.contraction`): an FMA chain over k in each of `chunk_count(k)` chunks, a tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mainspring.compile.loops import LANES, Buffer, For, If, Kernel, Let, Stmt, load
from mainspring.compile.products.contraction import chunk_count, tree
from mainspring.compile.products.tile import Tile
from mainspring.compile.template import Call, Rounds
from mainspring.compile.templates.dealing import Deal, deal, tile_heights
from mainspring.compile.templates.lines import block_of, loop, params, store
from mainspring.ir import scalar as s
from mainspring.ir.scalar import Expr
from mainspring.types.dtype import DType, int64

PACK_ROWS = 64  # rows of a panel that a task packs
Place = Callable[[Expr, Expr, Expr], Expr]  # of a weight at k, a gate, and a column of the gate


@dataclass(frozen=True, eq=False)
class Product:
    """out (rows × columns of a task) = left (rows × k) · weights, rows of left and out `left_stride` and `out_stride` apart.

    The columns are those of `runs` gates, of each `length` neighbours: the whole of its `extent`, or the share of a task.
    """

    rows: int
    k: int
    runs: int
    length: int
    extent: int
    dtype: DType
    vectors: int
    tiles: tuple[Tile, ...]
    left: Buffer
    parts: Buffer
    out: Buffer
    packed: Buffer
    left_stride: int
    out_stride: int

    @classmethod
    def of(cls, call: Call, how: Deal, k: int, runs: int, units: int) -> Product:
        """For a task of the deal; ``runs · units`` are the columns of the weights as this product sees them."""
        dtype = call.output_types[0].dtype
        length, extent = (how.units, units) if how.rounds else (runs * units, runs * units)
        runs = runs if how.rounds else 1
        vectors, heights = tile_heights(how.rows, runs * length, call.target.accumulators(dtype))
        wide = vectors * LANES
        left_stride = -(-k // LANES) * LANES + LANES  # rows begin in different sets of the cache
        out_stride = -(-runs * length // wide) * wide
        tiles = tuple([Tile(height, vectors, dtype, f"acc{i}") for i, height in enumerate(heights)])
        parts, out = (Buffer(name, dtype, size, "scratch") for name, size in (
            ("parts", chunk_count(k) * how.rows * wide), ("out", how.rows * out_stride)))
        left = call.temporary("left", dtype, 2 * how.blocks * how.rows * left_stride) if how.rounds else \
            Buffer("left", dtype, how.rows * left_stride, "scratch")
        packed = call.temporary("packed", dtype, how.groups * k * out_stride)
        return cls(how.rows, k, runs, length, extent, dtype, vectors, tiles, left, parts, out, packed, left_stride, out_stride)

    @property
    def scratch(self) -> tuple[Buffer, ...]:
        parts = (self.parts,) if self.chunks > 1 else ()
        return (*parts, self.out, *[tile.acc for tile in self.tiles])

    @property
    def chunks(self) -> int:
        return chunk_count(self.k)

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.k * self.runs * self.length

    @property
    def wide(self) -> int:
        """Columns of a panel."""
        return self.vectors * LANES

    @property
    def panels(self) -> int:
        """Panels of a task."""
        return self.out_stride // self.wide

    def pack(self, weight: Buffer, at: Place) -> Kernel:
        """The weights into panels."""
        groups, blocks = -(-self.extent // self.length), -(-self.k // PACK_ROWS)
        task = s.var("task", groups * self.panels * blocks)
        panel, (k, start, stop) = task // blocks, block_of(task % blocks, self.k, PACK_ROWS, "k")
        v, lane = s.var("v", self.vectors), s.var("lane", LANES)
        first = (panel % self.panels) * self.wide + v * LANES
        run, along = (first // self.length, first % self.length + lane) if self.length % LANES == 0 else \
            ((first + lane) // self.length, (first + lane) % self.length)
        if self.runs == 1:
            run, along = s.const(0, int64), first + lane
        column = (panel // self.panels) * self.length + along
        inside = s.compare("lt", column, self.extent)
        if self.runs > 1:
            inside = s.apply("and", inside, s.compare("lt", run, self.runs))
        copy = loop(lane, store(self.packed, (panel * self.k + k) * self.wide + v * LANES + lane,
                                load(weight, at(k, run, column), inside)), role="vector")
        return Kernel("pack_weights", (weight, self.packed), frozenset([self.packed]), task.attr[1], task,
                      (loop(k, loop(v, copy, role="unroll"), start=start, stop=stop),))

    def run(self, odd: Expr, group: Expr, base: Expr) -> Stmt:
        """out = left (from `base` on) · weights of `group`, from the last panel on where the step is `odd`."""
        turn = s.var("turn", self.panels)
        panel = s.ref("panel", int64)
        order = Let(panel, s.where(odd, self.panels - 1 - turn, turn) + group * self.panels)
        home = self.wide * (panel - group * self.panels)
        if self.chunks == 1:
            return loop(turn, order, *self._chain(panel, base, s.const(0, int64), s.const(self.k, int64), self.out,
                                                  lambda tile, row: (tile.i + row) * self.out_stride + home + tile.column))
        c, length = s.var("chunk", self.chunks), -(-self.k // self.chunks)
        stop = (c + 1) * length if self.k % self.chunks == 0 else s.minimum((c + 1) * length, self.k)
        chain = loop(c, *self._chain(panel, base, c * length, stop, self.parts,
                                     lambda tile, row: (c * self.rows + row) * self.wide + tile.place))
        r, lane = s.var("row", self.rows), s.var("lane", self.wide)
        total = tree([load(self.parts, (c * self.rows + r) * self.wide + lane) for c in range(self.chunks)])
        add = loop(lane, store(self.out, r * self.out_stride + home + lane, total), role="vector")
        return loop(turn, order, chain, loop(r, add))

    def _chain(self, panel: Expr, base: Expr, start: Expr, stop: Expr, to: Buffer,
               place: Callable[[Tile, int], Expr]) -> list[Stmt]:
        """The products of a panel with k from `start` to `stop`, each tile's to its `place`."""
        k = s.var("k", self.k)
        stmts: list[Stmt] = []
        row = 0
        for tile in self.tiles:
            step = tile.step(load(self.left, base + (tile.i + row) * self.left_stride + k),
                             load(self.packed, (panel * self.k + k) * self.wide + tile.column))
            stmts += [tile.clear(), For(k, start, stop, (step,)), tile.over(store(to, place(tile, row), tile.value))]
            row += tile.rows
        return stmts


@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep to be lowered: `steps` over the rows of a batch and some `units`, dealt to tasks as `how` says.

    Statements speak of row `r` and unit `u` of a task. `back`: whether it is the way back, from the last step to the first.
    """

    call: Call
    steps: int
    batch: int
    units: int
    reverse: bool
    back: bool
    how: Deal
    product: Product
    task: Expr = field(init=False)
    r: Expr = field(init=False)
    u: Expr = field(init=False)
    round: Expr = field(init=False)

    @classmethod
    def of(cls, call: Call, steps: int, batch: int, units: int, gates: int, back: bool) -> Sweep:
        """The product of the way there has as many columns as there are gates, that of the way back as many k."""
        how = deal(call.target, call.output_types[0].dtype, batch, units, gates, back)
        product = Product.of(call, how, gates * units if back else units, 1 if back else gates, units)
        return cls(call, steps, batch, units, call.static["reverse"], back, how, product)

    def __post_init__(self) -> None:
        for name, value in (("task", s.var("task", self.how.tasks)), ("r", s.var("r", self.how.rows)),
                            ("u", s.var("unit", self.how.units)), ("round", s.ref("round", int64))):
            object.__setattr__(self, name, value)

    @property
    def row(self) -> Expr:
        """Row `r` as a row of the batch."""
        return (self.task % self.how.blocks) * self.how.rows + self.r

    @property
    def unit(self) -> Expr:
        """Unit `u` as one of all."""
        return (self.task // self.how.blocks) * self.how.units + self.u

    def at(self, time: Expr | int | None, gates: int = 1, gate: int = 0) -> Expr:
        """The place of row `r` and unit `u` of a gate in a tensor (time, batch, gates · units); without time in (batch, …)."""
        return ((self.row if time is None else self.row + time * self.batch) * gates + gate) * self.units + self.unit

    def start(self) -> Expr:
        """The place of row `r` and unit `u` of what the sweep begins with, in T + 1 rows of it."""
        return self.at(self.steps if self.reverse else 0)

    def around(self, time: Expr) -> tuple[Expr, Expr]:
        """The places of row `r` and unit `u` before and after the step at `time`, in T + 1 rows."""
        return self.at(time + int(self.reverse)), self.at(time + int(not self.reverse))

    def left(self, gate: int = 0) -> Expr:
        """The place of row `r` and unit `u` of a gate in the left operand of the product that is next."""
        row = self._half(self.round) + self.row * self.product.left_stride if self.how.rounds else \
            self.r * self.product.left_stride
        return row + self.unit + gate * self.units

    def _half(self, number: Expr) -> Expr:
        """Where the half of `left` begins that is written in round `number`."""
        return (number % 2) * (self.product.left.size // 2)

    def made(self, gate: int = 0) -> Expr:
        """The product of row `r` with the column of unit `u` of a gate."""
        return load(self.product.out, self.r * self.product.out_stride + self.u + gate * self.how.units)

    def over(self, *stmts: Stmt) -> Stmt:
        """`stmts` for each row `r` and each unit `u`."""
        rows = _within(self.batch, self.how.rows, self.row - self.r)
        units = _within(self.units, self.how.units, self.unit - self.u)
        return loop(self.r, loop(self.u, *stmts, role="vector", stop=units), stop=rows)

    def carried(self) -> tuple[Buffer, Expr]:
        """A buffer for what a row and unit has from one step to the next, and its place there."""
        if self.how.rounds:
            return self.call.temporary("carried", self.product.dtype, self.batch * self.units), self.at(None)
        return (Buffer("carried", self.product.dtype, self.how.rows * self.units, "scratch"), self.r * self.units + self.u)

    def kernels(self, weight: Buffer, place: Place, cell: Callable[[Expr], Stmt], begin: Sequence[Stmt], end: Sequence[Stmt],
                carried: Sequence[Buffer] = ()) -> list[Kernel | Rounds]:
        """Packing, and the sweep: `begin`, ``cell(time)`` of all steps, `end`. `place`: of the weights."""
        pack = self.product.pack(weight, place)
        name = "sweep_back" if self.back else "sweep"
        if not self.how.rounds:
            return [pack, self._kernel(name, self._alone(cell, begin, end), carried, self.steps)]
        clock, numbers = Buffer("clock", int64, 1), self.call.temporary("numbers", int64, self.steps + 1)
        i = s.var("i", numbers.size)
        count = Kernel("clock", (numbers,), frozenset([numbers]), 1, s.var("task", 1), (loop(i, store(numbers, i, i)),))
        body = (Let(self.round, load(clock, 0)), *self._round(cell, begin, end))
        return [pack, count, Rounds(self._kernel(name, body, carried, 1, clock), clock, numbers)]

    def _kernel(self, name: str, body: Sequence[Stmt], carried: Sequence[Buffer], steps: int, *clock: Buffer) -> Kernel:
        call, product = self.call, self.product
        buffers = (product.left, *carried)
        scratch = (*product.scratch, *[b for b in buffers if b.kind == "scratch"])
        between = [b for b in buffers if b.kind == "param"]
        return Kernel(name, params(call, product.packed, *between, *clock), frozenset([*call.outputs, *between]),
                      self.how.tasks, self.task, tuple(body), scratch, self.how.tasks * steps * product.flops,
                      turn=clock[0] if clock else None)

    def _time(self, step: Expr) -> Expr:
        return self.steps - 1 - step if self.reverse != self.back else step

    def _alone(self, cell: Callable[[Expr], Stmt], begin: Sequence[Stmt], end: Sequence[Stmt]) -> list[Stmt]:
        """All steps of a task."""
        step = s.var("step", self.steps)
        zero = s.const(0, int64)
        halves = [self.product.run(s.compare("eq", step % 2, 1), zero, zero), cell(self._time(step))]
        return [*begin, loop(step, *(reversed(halves) if self.back else halves)), *end]

    def _round(self, cell: Callable[[Expr], Stmt], begin: Sequence[Stmt], end: Sequence[Stmt]) -> list[Stmt]:
        """One of T + 1 rounds: `begin`, then product and cell; back: `begin` and cell, product and cell … and `end`."""
        block, group = self.task % self.how.blocks, self.task // self.how.blocks
        base = self._half(self.round + 1) + block * (self.how.rows * self.product.left_stride)
        product = self.product.run(s.compare("eq", self.round % 2, 1), group, base)
        first = s.compare("eq", self.round, 0)
        if not self.back:
            return [If(first, tuple(begin), (product, cell(self._time(self.round - 1))))]
        return [If(first, tuple(begin), (product,)),
                If(s.compare("lt", self.round, self.steps), (cell(self._time(self.round)),), tuple(end))]


def _within(whole: int, share: int, first: Expr) -> Expr:
    """How many of a task's `share` there are, of those from `first` on."""
    return s.const(share, int64) if whole % share == 0 else s.minimum(share, whole - first)


def zeros(buffer: Buffer) -> Stmt:
    """A scratch buffer of zeros."""
    i = s.var("i", buffer.size)
    return loop(i, store(buffer, i, s.const(0, buffer.dtype)), role="vector")
