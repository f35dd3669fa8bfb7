"""LSTM and GRU over time: a task takes a block of rows of the batch through all steps, so that no barrier stands between steps.

    forwards, each step:   h · weights, then the gates and the state of all units; h is the product's next left operand
    back, each step:       the gradients of the gates of all units, then these · weightsᵀ: the gradient of h

The halves of a step are kept apart: what the gates read and write streams past, and would push the weights out of the cache.
Arithmetic is that of the fallbacks (ops/recurrent.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mainspring.compile.loops import Buffer, Kernel, Let, Stmt, Store, Write, load
from mainspring.compile.template import Call, template
from mainspring.compile.templates.lines import store
from mainspring.compile.templates.sweep import Product, Sweep, zeros
from mainspring.ir import scalar as s
from mainspring.ir.scalar import Expr, tanh
from mainspring.ops.elementwise import sigmoid_body as sigmoid

Cell = Callable[[Expr], Sequence[Stmt]]  # the statements of one row and unit at a time


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


@dataclass(frozen=True)
class _Forwards:
    """Operands: the inputs' share (T, B, G · H), weights (H, G · H), states (B, H), that of h first."""

    sweep: Sweep
    gates: int
    product: Product

    @classmethod
    def of(cls, call: Call, gates: int) -> _Forwards:
        (steps, batch, _), units = call.input_types[0].shape, call.input_types[1].shape[0]
        sweep = Sweep(call, steps, batch, units, call.static["reverse"])
        return cls(sweep, gates, Product.of(call, sweep.rows, units, gates * units))

    def kernels(self, cell: Cell, states: Sequence[tuple[Buffer, Buffer]]) -> list[Kernel]:
        """`states`: for each where it is first, and the T + 1 rows it goes to; that of h comes first."""
        sweep, product, columns = self.sweep, self.product, self.gates * self.sweep.units
        begin = [sweep.over(store(rows, sweep.start(), load(first, sweep.at(None)))) for first, rows in states]
        begin.append(sweep.over(store(product.left, sweep.left(product), load(states[0][0], sweep.at(None)))))
        return [product.pack(sweep.call.inputs[1], lambda k, column: k * columns + column),
                sweep.kernel(product, lambda step, time: (product.run(step), sweep.over(*cell(time))), (begin, ()))]

    def saved(self, gates: Sequence[Buffer], time: Expr, values: Sequence[Expr]) -> list[tuple[Buffer, Expr, Expr]]:
        """What is saved of a row and unit, if anything is."""
        return [(buffer, self.sweep.at(time, 4, q), value) for buffer in gates for q, value in enumerate(values)]


@template("lstm")
def lstm(call: Call) -> list[Kernel]:
    """Gates i, f, g, o; c ← f · c + i · g; h ← o · tanh(c)."""
    x, _, h, c = call.inputs
    states, cells, *gates = call.outputs
    if not states.size:
        return []
    forwards = _Forwards.of(call, 4)
    sweep, product = forwards.sweep, forwards.product

    def cell(time: Expr) -> list[Stmt]:
        began, made = sweep.around(time)
        names = _Names()
        pre = [load(x, sweep.at(time, 4, q)) + sweep.product(product, q) for q in range(4)]
        i, f, g, o = (names(n, v) for n, v in zip("ifgo", (sigmoid(pre[0]), sigmoid(pre[1]), tanh(pre[2]), sigmoid(pre[3])),
                                                  strict=True))
        new_c = names("c", f * load(cells, began) + i * g)
        new_h = names("h", o * tanh(new_c))
        return names.store((cells, made, new_c), (states, made, new_h), (product.left, sweep.left(product), new_h),
                           *forwards.saved(gates, time, (i, f, g, o)))

    return forwards.kernels(cell, [(h, states), (c, cells)])


@template("gru")
def gru(call: Call) -> list[Kernel]:
    """Gates r, z; q = h · W_n + bias; n = tanh(x_n + r · q); h ← n + z · (h - n)."""
    x, _, h, *bias = call.inputs
    states, *gates = call.outputs
    if not states.size:
        return []
    forwards = _Forwards.of(call, 3)
    sweep, product = forwards.sweep, forwards.product

    def cell(time: Expr) -> list[Stmt]:
        began, made = sweep.around(time)
        names = _Names()
        xr, xz, xn = (load(x, sweep.at(time, 3, q)) for q in range(3))
        hr, hz, hn = (sweep.product(product, q) for q in range(3))
        r, z = names("r", sigmoid(xr + hr)), names("z", sigmoid(xz + hz))
        q = names("q", hn + load(bias[0], sweep.unit) if bias else hn)
        n = names("n", tanh(xn + r * q))
        new = names("h", n + z * (load(states, began) - n))
        return names.store((states, made, new), (product.left, sweep.left(product), new),
                           *forwards.saved(gates, time, (r, z, n, q)))

    return forwards.kernels(cell, [(h, states)])


# ------------------------------------------------------------------------------------------------------ the way back


@dataclass(frozen=True)
class _Back:
    """Operands: cotangents of the states (T + 1, B, H), weights (H, columns), saved gates (T, B, 4H), rows of a state."""

    sweep: Sweep
    columns: int
    product: Product
    carried: Buffer  # what a state has beside the product, for each row and unit of the block

    @classmethod
    def of(cls, call: Call) -> _Back:
        (steps, batch, _), (units, columns) = call.input_types[2].shape, call.input_types[1].shape
        sweep = Sweep(call, steps, batch, units, call.static["reverse"])
        product = Product.of(call, sweep.rows, columns, units)
        return cls(sweep, columns, product, Buffer("carried", product.dtype, sweep.rows * units, "scratch"))

    @property
    def place(self) -> Expr:
        """The place of row `r` and `unit` in `carried`."""
        return self.sweep.r * self.sweep.units + self.sweep.unit

    def saved(self, names: _Names, time: Expr) -> list[Expr]:
        """The saved gates."""
        return [names(f"gate{q}", load(self.sweep.call.inputs[2], self.sweep.at(time, 4, q))) for q in range(4)]

    def kernels(self, cell: Cell, ends: Sequence[tuple[Buffer, Expr]]) -> list[Kernel]:
        """`ends`: the results of a row and unit that are there after the last step."""
        sweep, product = self.sweep, self.product
        begin = [zeros(self.carried), zeros(product.out)]
        end = [sweep.over(store(buffer, sweep.at(None), value)) for buffer, value in ends]
        return [product.pack(sweep.call.inputs[1], lambda k, unit: unit * self.columns + k),
                sweep.kernel(product, lambda step, time: (sweep.over(*cell(time)), product.run(step)), (begin, end),
                             [self.carried], back=True)]


@template("lstm_grad")
def lstm_grad(call: Call) -> list[Kernel]:
    """The cotangents of the gates i, f, g, o before σ and tanh; that of c is carried."""
    d_states, _, _, cells, *d_cells = call.inputs
    d_gates, d_h, d_c = call.outputs
    if not cells.size:
        return []
    back = _Back.of(call)
    sweep, product = back.sweep, back.product

    def with_cells(dc: Expr, place: Expr) -> Expr:
        return dc + load(d_cells[0], place) if d_cells else dc

    def cell(time: Expr) -> list[Stmt]:
        began, made = sweep.around(time)
        names = _Names()
        i, f, g, o = back.saved(names, time)
        dh = names("dh", sweep.product(product) + load(d_states, made))
        t = names("t", tanh(load(cells, made)))
        dc = names("dc", with_cells(load(back.carried, back.place), made) + dh * o * (1.0 - t * t))
        values = (dc * g * (i * (1.0 - i)), dc * load(cells, began) * (f * (1.0 - f)), dc * i * (1.0 - g * g),
                  dh * t * (o * (1.0 - o)))
        d = [names(f"d{q}", value) for q, value in enumerate(values)]
        return names.store((back.carried, back.place, dc * f), *[(d_gates, sweep.at(time, 4, q), d[q]) for q in range(4)],
                           *[(product.left, sweep.left(product, q), d[q]) for q in range(4)])

    return back.kernels(cell, [(d_h, sweep.product(product) + load(d_states, sweep.start())),
                               (d_c, with_cells(load(back.carried, back.place), sweep.start()))])


@template("gru_grad")
def gru_grad(call: Call) -> list[Kernel]:
    """The cotangents of r, z and n before σ and tanh, and of q; z · dh goes past the product."""
    d_states, _, _, states = call.inputs
    d_gates, d_h = call.outputs
    if not states.size:
        return []
    back = _Back.of(call)
    sweep, product = back.sweep, back.product
    dh_after = load(back.carried, back.place) + sweep.product(product)

    def cell(time: Expr) -> list[Stmt]:
        began, made = sweep.around(time)
        names = _Names()
        r, z, n, q = back.saved(names, time)
        dh = names("dh", dh_after + load(d_states, made))
        dn = names("dn", dh * (1.0 - z) * (1.0 - n * n))
        dr = names("dr", dn * q * (r * (1.0 - r)))
        dz = names("dz", dh * (load(states, began) - n) * (z * (1.0 - z)))
        dq = names("dq", dn * r)
        return names.store((back.carried, back.place, dh * z),
                           *[(d_gates, sweep.at(time, 4, g), d) for g, d in enumerate((dr, dz, dn, dq))],
                           *[(product.left, sweep.left(product, g), d) for g, d in enumerate((dr, dz, dq))])

    return back.kernels(cell, [(d_h, dh_after + load(d_states, sweep.start()))])
