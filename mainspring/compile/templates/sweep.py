"""What the sweeps of recurrent layers share: how the batch and the units are dealt to tasks (`templates/dealing.py`), and the
order of their products (`templates/sweep_product.py`) and cells.

    alone    a task takes some rows of the batch and all units through all steps by itself
    rounds   a launch and a barrier for each step; a task makes some units, for some rows, out of the states of all units,
             which lie in two halves of `left`: the tasks of a round read one and write the other

A cell reads and writes memory that was not touched before, in runs too short for the processor to foresee: a task that is alone
brings it near while it goes through the panels of its product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mainspring.compile.loops import Buffer, If, Kernel, Let, Prefetch, Stmt, load
from mainspring.compile.target.caches import LINE
from mainspring.compile.template import Call, Rounds
from mainspring.compile.templates.dealing import Deal, deal
from mainspring.compile.templates.lines import loop, params, store
from mainspring.compile.templates.sweep_product import Place, Product
from mainspring.ir import scalar as s
from mainspring.ir.scalar import Expr
from mainspring.types.dtype import int64


@dataclass(frozen=True)
class Stream:
    """What a row reads, or writes, at a time: `length` neighbours of `buffer`, the first of them at ``place(time)``."""

    buffer: Buffer
    place: Callable[[Expr], Expr]
    length: int
    write: bool = False


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

    def place(self, gate: int = 0) -> Expr:
        """Where the product of row `r` with the column of unit `u` of a gate lies in `product.out`."""
        return self.r * self.product.out_stride + self.u + gate * self.how.units

    def made(self, gate: int = 0) -> Expr:
        """The product of row `r` with the column of unit `u` of a gate."""
        return load(self.product.out, self.place(gate))

    def over(self, *passes: Sequence[Stmt]) -> Stmt:
        """For each row `r` each of the `passes` for each unit `u`."""
        rows = _within(self.batch, self.how.rows, self.row - self.r)
        units = _within(self.units, self.how.units, self.unit - self.u)
        return loop(self.r, *[loop(self.u, *stmts, role="vector", stop=units) for stmts in passes], stop=rows)

    def carried(self) -> tuple[Buffer, Expr]:
        """A buffer for what a row and unit has from one step to the next, and its place there."""
        if self.how.rounds:
            return self.call.temporary("carried", self.product.dtype, self.batch * self.units), self.at(None)
        return (Buffer("carried", self.product.dtype, self.how.rows * self.units, "scratch"), self.r * self.units + self.u)

    def kernels(self, weight: Buffer, place: Place, cell: Callable[[Expr], Stmt], begin: Sequence[Stmt], end: Sequence[Stmt],
                streams: Sequence[Stream], carried: Sequence[Buffer] = ()) -> list[Kernel | Rounds]:
        """Packing, and the sweep: `begin`, ``cell(time)`` of all steps, `end`. `place`: of weights; `streams`: of the cell."""
        pack = self.product.pack(weight, place, across=self.back)
        name = "sweep_back" if self.back else "sweep"
        if not self.how.rounds:
            return [pack, self._kernel(name, self._alone(cell, begin, end, streams), carried, self.steps)]
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

    def _alone(self, cell: Callable[[Expr], Stmt], begin: Sequence[Stmt], end: Sequence[Stmt],
               streams: Sequence[Stream]) -> list[Stmt]:
        """All steps of a task."""
        step, zero = s.var("step", self.steps), s.const(0, int64)
        next_cell = self._time(step + 1 if self.back else step)
        product = self.product.run(s.compare("eq", step % 2, 1), zero, zero, lambda turn: self._ahead(next_cell, streams, turn))
        here = [cell(self._time(step))]
        return [*begin, loop(step, *here, *product) if self.back else loop(step, *product, *here), *end]

    def _ahead(self, time: Expr, streams: Sequence[Stream], turn: Expr) -> list[Stmt]:
        """Part `turn` of the lines that the cell at `time` reads and writes, into the second level."""
        stmts: list[Stmt] = []
        for x in streams:
            each = LINE // x.buffer.dtype.itemsize
            of_row = -(-x.length // each)
            line = s.var("line", -(-of_row * self.how.rows // turn.attr[1]))
            number = turn * line.attr[1] + line
            first = s.substitute(x.place(time), {self.r: number // of_row, self.u: s.const(0, int64)}.get)
            stmts.append(loop(line, Prefetch(x.buffer, first + number % of_row * each, x.write, level=2)))
        return stmts

    def _round(self, cell: Callable[[Expr], Stmt], begin: Sequence[Stmt], end: Sequence[Stmt]) -> list[Stmt]:
        """One of T + 1 rounds: `begin`, then product and cell; back: `begin` and cell, product and cell … and `end`."""
        block, group = self.task % self.how.blocks, self.task // self.how.blocks
        base = self._half(self.round + 1) + block * (self.how.rows * self.product.left_stride)
        product = self.product.run(s.compare("eq", self.round % 2, 1), group, base)
        first = s.compare("eq", self.round, 0)
        if not self.back:
            return [If(first, tuple(begin), (*product, cell(self._time(self.round - 1))))]
        return [If(first, tuple(begin), tuple(product)),
                If(s.compare("lt", self.round, self.steps), (cell(self._time(self.round)),), tuple(end))]


def _within(whole: int, share: int, first: Expr) -> Expr:
    """How many of a task's `share` there are, of those from `first` on."""
    return s.const(share, int64) if whole % share == 0 else s.minimum(share, whole - first)


def zeros(buffer: Buffer) -> Stmt:
    """A scratch buffer of zeros."""
    i = s.var("i", buffer.size)
    return loop(i, store(buffer, i, s.const(0, buffer.dtype)), role="vector")
