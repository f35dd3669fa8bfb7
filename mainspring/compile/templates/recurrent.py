"""LSTM and GRU over time: each step is a product with the hidden weights and a cell; `templates/sweep.py` deals them to tasks.

    forwards, each step:   h · weights, then the gates and the state of all units; h is the product's next left operand
    back, each step:       the gradients of the gates of all units, then these · weightsᵀ: the gradient of h

The halves of a step are kept apart: what the gates read and write streams past, and would push the weights out of the cache.
Arithmetic is that of the fallbacks (ops/recurrent.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mainspring.compile.loops import Buffer, Kernel, Let, Stmt, Store, Write, load
from mainspring.compile.template import Call, Rounds, template
from mainspring.compile.templates.lines import store
from mainspring.compile.templates.sweep import Stream, Sweep, zeros
from mainspring.ir import scalar as s
from mainspring.ir.scalar import Expr, tanh
from mainspring.ops.elementwise import sigmoid_body as sigmoid

Kernels = list[Kernel | Rounds]
Cell = Callable[[Expr], Sequence[Sequence[Stmt]]]  # at a time, the passes over a row: the statements of one unit


class _Names:
    """Values bound by name, as the statements that bind them."""

    def __init__(self) -> None:
        self.stmts: list[Stmt] = []

    def __call__(self, name: str, value: Expr) -> Expr:
        ref = s.ref(name, value.dtype)
        self.stmts.append(Let(ref, value))
        return ref

    def store(self, *writes: tuple[Buffer, Expr, Expr]) -> list[Stmt]:
        """The statements, and then a store of all `writes`."""
        return [*self.stmts, Store(tuple([Write(*write) for write in writes]))]


# ---------------------------------------------------------------------------------------------------------- forwards


def _forwards(call: Call, gates: int) -> Sweep:
    """Operands: the inputs' share (T, B, G · H), weights (H, G · H), states (B, H), that of h first."""
    (steps, batch, _), units = call.input_types[0].shape, call.input_types[1].shape[0]
    return Sweep.of(call, steps, batch, units, gates, back=False)


def _forwards_kernels(sweep: Sweep, gates: int, cell: Cell, states: Sequence[tuple[Buffer, Buffer]]) -> Kernels:
    """`states`: for each where it is first, and the T + 1 rows it goes to; that of h comes first."""
    begin = [sweep.over([store(rows, sweep.start(), load(first, sweep.at(None)))]) for first, rows in states]
    begin.append(sweep.over([store(sweep.product.left, sweep.left(), load(states[0][0], sweep.at(None)))]))
    x, saved, units = sweep.call.inputs[0], sweep.call.outputs[len(states):], sweep.units
    streams = [Stream(x, lambda time: sweep.at(time, gates), gates * units),
               *[Stream(rows, lambda time: sweep.around(time)[1], units, write=True) for _, rows in states],
               *[Stream(buffer, lambda time: sweep.at(time, 4), 4 * units, write=True) for buffer in saved]]
    return sweep.kernels(sweep.call.inputs[1], lambda k, gate, unit: (k * gates + gate) * units + unit,
                         lambda time: sweep.over(*cell(time)), begin, (), streams)


def _gate(sweep: Sweep, gate: int, place: Expr, value: Expr, saved: Sequence[Buffer]) -> list[Stmt]:
    """A pass that leaves the value of a gate where its product was, and in what is saved, if anything is."""
    names = _Names()
    value = names("gate", value)
    return names.store((sweep.product.out, sweep.place(gate), value), *[(buffer, place, value) for buffer in saved])


@template("lstm")
def lstm(call: Call) -> Kernels:
    """Gates i, f, g, o; c ← f · c + i · g; h ← o · tanh(c)."""
    x, _, h, c = call.inputs
    states, cells, *gates = call.outputs
    if not states.size:
        return []
    sweep = _forwards(call, 4)

    def cell(time: Expr) -> list[list[Stmt]]:
        began, made = sweep.around(time)
        places = [sweep.at(time, 4, q) for q in range(4)]
        passes = [_gate(sweep, q, places[q], act(load(x, places[q]) + sweep.made(q)), gates)
                  for q, act in enumerate((sigmoid, sigmoid, tanh, sigmoid))]
        names = _Names()
        i, f, g, o = (sweep.made(q) for q in range(4))
        new_c = names("c", f * load(cells, began) + i * g)
        new_h = names("h", o * tanh(new_c))
        return [*passes, names.store((cells, made, new_c), (states, made, new_h), (sweep.product.left, sweep.left(), new_h))]

    return _forwards_kernels(sweep, 4, cell, [(h, states), (c, cells)])


@template("gru")
def gru(call: Call) -> Kernels:
    """Gates r, z; q = h · W_n + bias; n = tanh(x_n + r · q); h ← n + z · (h - n)."""
    x, _, h, *bias = call.inputs
    states, *gates = call.outputs
    if not states.size:
        return []
    sweep = _forwards(call, 3)

    def cell(time: Expr) -> list[list[Stmt]]:
        began, made = sweep.around(time)
        passes = [_gate(sweep, q, sweep.at(time, 4, q), sigmoid(load(x, sweep.at(time, 3, q)) + sweep.made(q)), gates)
                  for q in range(2)]
        names = _Names()
        r, z, q = (sweep.made(g) for g in range(3))
        q = names("q", q + load(bias[0], sweep.unit) if bias else q)
        n = names("n", tanh(load(x, sweep.at(time, 3, 2)) + r * q))
        new = names("h", n + z * (load(states, began) - n))
        return [*passes, names.store((states, made, new), (sweep.product.left, sweep.left(), new),
                                     *[(b, sweep.at(time, 4, g), value) for b in gates for g, value in ((2, n), (3, q))])]

    return _forwards_kernels(sweep, 3, cell, [(h, states)])


# ------------------------------------------------------------------------------------------------------ the way back


def _back(call: Call) -> tuple[Sweep, Buffer, Expr]:
    """(the sweep, what a state has beside the product, its place). Operands: cotangents of the states (T + 1, B, H), weights
    (H, G · H), saved gates (T, B, 4H), rows of a state."""
    (steps, batch, _), (units, columns) = call.input_types[2].shape, call.input_types[1].shape
    sweep = Sweep.of(call, steps, batch, units, columns // units, back=True)
    return sweep, *sweep.carried()


def _gates(sweep: Sweep, names: _Names, time: Expr) -> list[Expr]:
    """The saved gates."""
    return [names(f"gate{q}", load(sweep.call.inputs[2], sweep.at(time, 4, q))) for q in range(4)]


def _back_kernels(sweep: Sweep, carried: Buffer, place: Expr, cell: Cell, ends: Sequence[tuple[Buffer, Expr]],
                  first: int = 0) -> Kernels:
    """`ends`: the results of a row and unit that are there after the last step. `first`: the gate that `left` has first."""
    columns = sweep.product.k
    d_states, weight, gates, rows, *d_cells = sweep.call.inputs
    streams = [Stream(gates, lambda time: sweep.at(time, 4), 4 * sweep.units),
               Stream(rows, lambda time: sweep.around(time)[0], sweep.units),
               *[Stream(x, lambda time: sweep.around(time)[1], sweep.units) for x in (d_states, *d_cells)],
               Stream(sweep.call.outputs[0], lambda time: sweep.at(time, 4), 4 * sweep.units, write=True)]
    begin = [sweep.over([store(carried, place, s.const(0, carried.dtype))]), zeros(sweep.product.out)]
    end = [sweep.over([store(buffer, sweep.at(None), value)]) for buffer, value in ends]
    return sweep.kernels(weight, lambda k, _, unit: unit * columns + (k + first * sweep.units) % columns,
                         lambda time: sweep.over(*cell(time)), begin, end, streams, [carried])


@template("lstm_grad")
def lstm_grad(call: Call) -> Kernels:
    """The cotangents of the gates i, f, g, o before σ and tanh; that of c is carried."""
    d_states, _, _, cells, *d_cells = call.inputs
    d_gates, d_h, d_c = call.outputs
    if not cells.size:
        return []
    sweep, carried, here = _back(call)
    left = sweep.product.left

    def with_cells(dc: Expr, place: Expr) -> Expr:
        return dc + load(d_cells[0], place) if d_cells else dc

    def cell(time: Expr) -> list[list[Stmt]]:
        began, made = sweep.around(time)
        names = _Names()
        i, f, g, o = _gates(sweep, names, time)
        dh = names("dh", sweep.made() + load(d_states, made))
        t = names("t", tanh(load(cells, made)))
        dc = names("dc", with_cells(load(carried, here), made) + dh * o * (1.0 - t * t))
        values = (dc * g * (i * (1.0 - i)), dc * load(cells, began) * (f * (1.0 - f)), dc * i * (1.0 - g * g),
                  dh * t * (o * (1.0 - o)))
        d = [names(f"d{q}", value) for q, value in enumerate(values)]
        return [names.store((carried, here, dc * f), *[(d_gates, sweep.at(time, 4, q), d[q]) for q in range(4)],
                            *[(left, sweep.left(q), d[q]) for q in range(4)])]

    return _back_kernels(sweep, carried, here, cell, [(d_h, sweep.made() + load(d_states, sweep.start())),
                                                      (d_c, with_cells(load(carried, here), sweep.start()))])


@template("gru_grad")
def gru_grad(call: Call) -> Kernels:
    """The cotangents of q, and of r, z and n before σ and tanh; z · dh goes past the product of the first three."""
    d_states, _, _, states = call.inputs
    d_gates, d_h = call.outputs
    if not states.size:
        return []
    sweep, carried, here = _back(call)
    dh_after = load(carried, here) + sweep.made()

    def cell(time: Expr) -> list[list[Stmt]]:
        began, made = sweep.around(time)
        names = _Names()
        r, z, n, q = _gates(sweep, names, time)
        dh = names("dh", dh_after + load(d_states, made))
        dn = names("dn", dh * (1.0 - z) * (1.0 - n * n))
        dr = names("dr", dn * q * (r * (1.0 - r)))
        dz = names("dz", dh * (load(states, began) - n) * (z * (1.0 - z)))
        dq = names("dq", dn * r)
        return [names.store((carried, here, dh * z),
                            *[(d_gates, sweep.at(time, 4, g), d) for g, d in enumerate((dq, dr, dz, dn))],
                            *[(sweep.product.left, sweep.left(g), d) for g, d in enumerate((dq, dr, dz))])]

    return _back_kernels(sweep, carried, here, cell, [(d_h, dh_after + load(d_states, sweep.start()))], first=2)
