"""LSTM and GRU over time: a task takes a block of rows of the batch through all steps, so that no barrier stands between steps.

    forwards, each step:   left ← h;  for 16 units: left · panel of all their gates, then gates and state
    back, each step:       gradients of the gates of all units → left;  dh ← left · weightsᵀ

The state lies in the rows of the result that the sweep has written last. Arithmetic is that of the fallbacks (ops/recurrent.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mainspring.compile.loops import LANES, Buffer, Kernel, Let, Stmt, Store, Write, load
from mainspring.compile.template import Call, template
from mainspring.compile.templates.lines import loop, store
from mainspring.compile.templates.sweep import Product, Sweep
from mainspring.ir import scalar as s
from mainspring.ir.scalar import Expr
from mainspring.ops.elementwise import sigmoid_body as sigmoid


class _Names:
    """Values bound by name, as the statements that bind them."""

    def __init__(self) -> None:
        self.stmts: list[Stmt] = []

    def __call__(self, name: str, value: Expr) -> Expr:
        ref = s.ref(name, value.dtype)
        self.stmts.append(Let(ref, value))
        return ref

    def store(self, *writes: tuple[Buffer, Expr, Expr]) -> tuple[Stmt, ...]:
        """The statements, and then a store of all `writes`."""
        return (*self.stmts, Store(tuple([Write(*write) for write in writes])))


class _Forwards:
    """What the ways forwards share. `gates`: columns of the product for each unit."""

    def __init__(self, call: Call, gates: int):
        self.call, self.gates = call, gates
        (steps, batch, _), units = call.input_types[0].shape, call.input_types[1].shape[0]
        self.sweep = Sweep(call, steps, batch, units, call.static["reverse"])
        self.product = self.sweep.product(units, gates)

    def pack(self) -> Kernel:
        """For LANES units a panel with the columns of all their gates."""
        units, gates = self.sweep.units, self.gates

        def at(k: Expr, column: Expr) -> tuple[Expr, Expr]:
            unit = column // (gates * LANES) * LANES + column % LANES
            return (k * gates + column // LANES % gates) * units + unit, s.compare("lt", unit, units)

        return self.product.pack(self.call.inputs[1], at)

    def rows(self, time: Expr) -> tuple[Expr, Expr]:
        """The rows of the states before and after the step at `time`."""
        return (time + 1, time) if self.sweep.reverse else (time, time + 1)

    def load_state(self, states: Buffer, began: Expr) -> Stmt:
        """left ← h."""
        sweep, product = self.sweep, self.product
        return sweep.over(store(product.left, sweep.r * product.stride + sweep.lane,
                                load(states, sweep.at(began, sweep.units, sweep.lane))))

    def first_states(self, pairs: Sequence[tuple[Buffer, Buffer]]) -> list[Stmt]:
        """Each state that the sweep begins with, into its row of the result."""
        sweep = self.sweep
        place = sweep.at(sweep.steps if sweep.reverse else None, sweep.units, sweep.lane)
        return [sweep.over(store(rows, place, load(first, sweep.at(None, sweep.units, sweep.lane)))) for rows, first in pairs]

    def kernels(self, states: Sequence[tuple[Buffer, Buffer]], cell: object) -> list[Kernel]:
        """`cell(time, unit)`: the statements of one row and LANES units."""
        sweep, product = self.sweep, self.product
        if not sweep.batch * sweep.units:
            return []
        panel = s.var("panel", product.panels)

        def body(time: Expr) -> list[Stmt]:
            began, _ = self.rows(time)
            cells = sweep.over(*cell(time, panel * LANES + sweep.lane), first=panel * LANES, count=LANES)  # type: ignore[operator]
            return [self.load_state(states[0][0], began), loop(panel, product.panel(panel), cells)]

        return [self.pack(), sweep.kernel(product, False, self.first_states(states), body, ())]


@template("lstm")
def lstm(call: Call) -> list[Kernel]:
    """Gates i, f, g, o; c ← f · c + i · g; h ← o · tanh(c)."""
    x, _, h, c = call.inputs
    states, cells, *gates = call.outputs
    forwards = _Forwards(call, 4)
    sweep, product, units = forwards.sweep, forwards.product, forwards.sweep.units

    def cell(time: Expr, unit: Expr) -> tuple[Stmt, ...]:
        began, made = forwards.rows(time)
        names = _Names()
        a, b, g, d = (load(x, sweep.at(time, 4 * units, unit + q * units)) + product.total(sweep.r, q, sweep.lane)
                      for q in range(4))
        saved = [names("i", sigmoid(a)), names("f", sigmoid(b)), names("g", s.tanh(g)), names("o", sigmoid(d))]
        new = names("c", saved[1] * load(cells, sweep.at(began, units, unit)) + saved[0] * saved[2])
        place = sweep.at(made, units, unit)
        return names.store((cells, place, new), (states, place, saved[3] * s.tanh(new)),
                           *_saved(gates, sweep, time, unit, saved))

    return forwards.kernels([(states, h), (cells, c)], cell)


@template("gru")
def gru(call: Call) -> list[Kernel]:
    """Gates r, z; q = h · W_n + bias; n = tanh(x_n + r · q); h ← n + z · (h - n)."""
    x, _, h, *bias = call.inputs
    states, *gates = call.outputs
    forwards = _Forwards(call, 3)
    sweep, product, units = forwards.sweep, forwards.product, forwards.sweep.units

    def cell(time: Expr, unit: Expr) -> tuple[Stmt, ...]:
        began, made = forwards.rows(time)
        names = _Names()
        xr, xz, xn = (load(x, sweep.at(time, 3 * units, unit + q * units)) for q in range(3))
        hr, hz, hn = (product.total(sweep.r, q, sweep.lane) for q in range(3))
        r, z = names("r", sigmoid(xr + hr)), names("z", sigmoid(xz + hz))
        q = names("q", hn + load(bias[0], unit) if bias else hn)
        n = names("n", s.tanh(xn + r * q))
        new = n + z * (load(states, sweep.at(began, units, unit)) - n)
        return names.store((states, sweep.at(made, units, unit), new), *_saved(gates, sweep, time, unit, [r, z, n, q]))

    return forwards.kernels([(states, h)], cell)


def _saved(gates: Sequence[Buffer], sweep: Sweep, time: Expr, unit: Expr,
           values: Sequence[Expr]) -> Iterator[tuple[Buffer, Expr, Expr]]:
    for buffer in gates:
        for q, value in enumerate(values):
            yield buffer, sweep.at(time, len(values) * sweep.units, unit + q * sweep.units), value


# ------------------------------------------------------------------------------------------------------- the way back


class _Back:
    """What the ways back share: operands d_states, weights, gates, rows of a state; results d_gates, d_h and others."""

    def __init__(self, call: Call):
        self.call = call
        steps, batch, _ = call.input_types[2].shape
        units, self.columns = call.input_types[1].shape
        self.sweep = Sweep(call, steps, batch, units, call.static["reverse"])
        self.product = self.sweep.product(self.columns, 1)
        self.carry: list[Buffer] = []

    def carried(self, name: str) -> Buffer:
        """A value of each row and unit of the block that goes from step to step; 0 at first."""
        self.carry.append(Buffer(name, self.product.dtype, self.sweep.rows * self.sweep.units, "scratch"))
        return self.carry[-1]

    @property
    def place(self) -> Expr:
        """Of row `r`, unit `lane` in what is carried."""
        return self.sweep.r * self.sweep.units + self.sweep.lane

    def to_left(self, column: int) -> Expr:
        """The place in the product's left operand of unit `lane` of gate `column`."""
        return self.sweep.r * self.product.stride + self.sweep.lane + column * self.sweep.units

    def pack(self) -> Kernel:
        """The weights transposed: for LANES units a panel."""
        units = self.sweep.units
        return self.product.pack(self.call.inputs[1],
                                 lambda k, unit: (unit * self.columns + k, s.compare("lt", unit, units)))

    def kernels(self, cell: object, dh: Buffer, kept: Buffer | None, end: Sequence[tuple[Buffer, Buffer, Buffer | None]]) -> list[Kernel]:
        """`cell(time)`: the statements of a row and unit; dh ← kept + product; `end`: a result ← what is carried + a cotangent."""
        sweep, product = self.sweep, self.product
        if not sweep.batch * sweep.units:
            return []
        panel = s.var("panel", product.panels)
        unit = panel * LANES + sweep.lane

        def body(time: Expr) -> list[Stmt]:
            total, place = product.total(sweep.r, 0, sweep.lane), sweep.r * sweep.units + unit
            new = total if kept is None else load(kept, place) + total
            return [sweep.over(*cell(time)),  # type: ignore[operator]
                    loop(panel, product.panel(panel), sweep.over(store(dh, place, new), first=panel * LANES, count=LANES))]

        begin = [sweep.over(store(buffer, self.place, s.const(0, buffer.dtype))) for buffer in self.carry]
        first = sweep.at(sweep.steps if sweep.reverse else None, sweep.units, sweep.lane)
        ends = []
        for result, carried, given in end:
            value = load(carried, self.place)
            value = value if given is None else value + load(given, first)
            ends.append(sweep.over(store(result, sweep.at(None, sweep.units, sweep.lane), value)))
        return [self.pack(), sweep.kernel(product, True, begin, body, ends, *self.carry)]


@template("lstm_grad")
def lstm_grad(call: Call) -> list[Kernel]:
    """The cotangents of the gates i, f, g, o before σ and tanh."""
    d_states, _, gates, cells, *d_cells = call.inputs
    d_gates, d_h, d_c = call.outputs
    back = _Back(call)
    sweep, units, unit = back.sweep, back.sweep.units, back.sweep.lane
    carried_h, carried_c = back.carried("dh"), back.carried("dc")

    def cell(time: Expr) -> tuple[Stmt, ...]:
        made, began = (sweep.at(time + int(offset), units, unit) for offset in (not sweep.reverse, sweep.reverse))
        names = _Names()
        i, f, g, o = (names(name, load(gates, sweep.at(time, 4 * units, unit + q * units))) for q, name in enumerate("ifgo"))
        dh = names("dh", load(carried_h, back.place) + load(d_states, made))
        t = names("t", s.tanh(load(cells, made)))
        given = load(carried_c, back.place)
        dc = names("dc", (given + load(d_cells[0], made) if d_cells else given) + dh * o * (1.0 - t * t))
        values = (dc * g * (i * (1.0 - i)), dc * load(cells, began) * (f * (1.0 - f)), dc * i * (1.0 - g * g),
                  dh * t * (o * (1.0 - o)))
        writes = [(carried_c, back.place, dc * f)]
        for q, value in enumerate(values):
            d = names(f"d{q}", value)
            writes += [(d_gates, sweep.at(time, 4 * units, unit + q * units), d), (back.product.left, back.to_left(q), d)]
        return names.store(*writes)

    ends = [(d_h, carried_h, d_states), (d_c, carried_c, d_cells[0] if d_cells else None)]
    return back.kernels(cell, carried_h, None, ends)


@template("gru_grad")
def gru_grad(call: Call) -> list[Kernel]:
    """The cotangents of r, z and n before σ and tanh, and of q."""
    d_states, _, gates, states = call.inputs
    d_gates, d_h = call.outputs
    back = _Back(call)
    sweep, units, unit = back.sweep, back.sweep.units, back.sweep.lane
    carried, kept = back.carried("dh"), back.carried("kept")

    def cell(time: Expr) -> tuple[Stmt, ...]:
        made, began = (sweep.at(time + int(offset), units, unit) for offset in (not sweep.reverse, sweep.reverse))
        names = _Names()
        r, z, n, q = (names(name, load(gates, sweep.at(time, 4 * units, unit + g * units))) for g, name in enumerate("rznq"))
        dh = names("dh", load(carried, back.place) + load(d_states, made))
        dn = names("dn", dh * (1.0 - z) * (1.0 - n * n))
        dr = names("dr", dn * q * (r * (1.0 - r)))
        dz = names("dz", dh * (load(states, began) - n) * (z * (1.0 - z)))
        dq = names("dq", dn * r)
        results = [(d_gates, sweep.at(time, 4 * units, unit + g * units), d) for g, d in enumerate((dr, dz, dn, dq))]
        lefts = [(back.product.left, back.to_left(g), d) for g, d in enumerate((dr, dz, dq))]
        return names.store((kept, back.place, dh * z), *results, *lefts)

    return back.kernels(cell, carried, kept, [(d_h, carried, d_states)])
