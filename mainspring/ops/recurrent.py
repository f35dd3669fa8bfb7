"""LSTM and GRU over time as ops: what comes after the product of the inputs of all steps, up to the gradients of the gates.

Shape legend: T steps, B batch, H units, G gates. A sweep goes from step 0 to T - 1, or back when `reverse`. What it carries it
writes into T + 1 rows, of which one is the state it began with (the first, or the last when `reverse`): the states after the
steps and those before them are then both slices, and the gradient of the weights is one product over all steps at once.

The compiler has a template for each (compile/templates/recurrent.py); the fallback is a `scan`, and second derivatives are its.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mainspring.autodiff.reverse import linearize_back, zeros_like
from mainspring.autodiff.tape import wanted
from mainspring.base.errors import DTypeError, ShapeError
from mainspring.interpret.eager import as_value
from mainspring.interpret.staged import appliers
from mainspring.ir.bind import Value, bind
from mainspring.ir.op import Expand, Op, register
from mainspring.ops.contract import CONTRACT
from mainspring.ops.elementwise import sigmoid, tanh
from mainspring.ops.movement import concat, expand_dims, permute_dims, reshape, slice_axis
from mainspring.ops.reduce import sum as sum_over
from mainspring.ops.scan import scan
from mainspring.types.dtype import float32, float64
from mainspring.types.shape import TensorType

Fallback = Callable[..., Sequence[Value]]


def supported(*operands: Any) -> bool:
    """Whether the ops take these: one dtype, float32 or float64."""
    dtypes = {as_value(x).dtype for x in operands}
    return len(dtypes) == 1 and dtypes <= {float32, float64}


def _check(name: str, types: Sequence[TensorType], shapes: Sequence[tuple[int, ...]]) -> None:
    if any(t.dtype is not types[0].dtype or t.dtype not in (float32, float64) for t in types):
        raise DTypeError(name, "operands", "must all be float32 or all float64", ", ".join(t.dtype.name for t in types))
    for place, (t, shape) in enumerate(zip(types, shapes, strict=True)):
        if t.shape != shape:
            raise ShapeError(name, f"operand {place}", f"must have the shape {shape}", str(t.shape))


def _extents(name: str, types: Sequence[TensorType], of_states: int, of_weight: int) -> tuple[int, int, int]:
    """(T + 1 or T, B, H) of the operands: a tensor over steps, and the hidden weight."""
    if len(types[of_states].shape) != 3 or len(types[of_weight].shape) != 2:
        raise ShapeError(name, "operands", "must be (steps, batch, …) and a weight (units, gates · units)",
                         ", ".join(str(t.shape) for t in types))
    return (*types[of_states].shape[:2], types[of_weight].shape[0])  # type: ignore[return-value]


def _trips(steps: int, reverse: bool) -> Any:
    return reversed(range(steps)) if reverse else range(steps)


def _rows(start: Value, after: Value, reverse: bool) -> Value:
    """T + 1 rows of the state before and those after the steps."""
    first = expand_dims(start)
    return concat([after, first] if reverse else [first, after])


def after(states: Value, reverse: bool) -> Value:
    """Of T + 1 rows those that the steps made."""
    return slice_axis(states, 0, int(not reverse), states.shape[0] - int(reverse))


def before(states: Value, reverse: bool) -> Value:
    """Of T + 1 rows those that the steps began with."""
    return after(states, not reverse)


def _row(states: Value, index: int) -> Value:
    return reshape(slice_axis(states, 0, index, index + 1), states.shape[1:])


def _first(states: Value, reverse: bool) -> Value:
    return _row(states, states.shape[0] - 1 if reverse else 0)


def last(states: Value, reverse: bool) -> Value:
    """The state at the end of the sweep."""
    return _row(states, 0 if reverse else states.shape[0] - 1)


def _parts(x: Value, count: int) -> list[Value]:
    size = x.shape[-1] // count
    return [slice_axis(x, x.ndim - 1, i * size, (i + 1) * size) for i in range(count)]


def _product(a: Value, b: Value, spec: str) -> Value:
    return bind(CONTRACT, a, b, spec=spec, dtype=a.dtype)


def _through(fallback: Fallback) -> Callable[..., tuple[Any, ...]]:
    """The gradient of a fallback."""

    def vjp(cts: Sequence[Value | None], outs: Sequence[Value], *args: Value, **static: Any) -> tuple[Any, ...]:
        pull = linearize_back(lambda *values: fallback(*values, **static), args)[1]
        return tuple(pull(cts))

    return vjp


# ------------------------------------------------------------------------------------------------------------ LSTM


def lstm_step(state: tuple[Any, Any], gates: Any) -> tuple[Any, Any, list[Any]]:
    """(h, c, σ and tanh of the gates) after a step; `gates` before them, columns i, f, g, o."""
    a, b, g, d = _parts(gates, 4)
    i, f, g, o = sigmoid(a), sigmoid(b), tanh(g), sigmoid(d)
    c = f * state[1] + i * g
    return o * tanh(c), c, [i, f, g, o]


def _lstm(x: Any, w: Any, h: Any, c: Any, *, reverse: bool, save: bool) -> list[Any]:
    def step(state: Any, x: Any) -> Any:
        h, c, gates = lstm_step(state, x + _product(state[0], w, "bh,hg->bg"))
        return (h, c), (h, c, *([concat(gates, axis=1)] if save else []))

    hs, cs, *gates = scan(step, (h, c), x, reverse=reverse)[1]
    return [_rows(h, hs, reverse), _rows(c, cs, reverse), *gates]


def _lstm_infer(*types: TensorType, reverse: bool, save: bool) -> tuple[TensorType, ...]:
    t, b, h = _extents("lstm", types, 0, 1)
    _check("lstm", types, [(t, b, 4 * h), (h, 4 * h), (b, h), (b, h)])
    rows = TensorType((t + 1, b, h), types[0].dtype)
    return (rows, rows, types[0]) if save else (rows, rows)


def _sigma(x: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-x))).astype(x.dtype)


def _lstm_reference(x: Any, w: Any, h: Any, c: Any, *, reverse: bool, save: bool) -> tuple[np.ndarray, ...]:
    (steps, batch, _), units = x.shape, w.shape[0]
    states, cells = np.empty((2, steps + 1, batch, units), x.dtype)
    states[-reverse], cells[-reverse] = h, c
    gates = np.empty_like(x)
    for t in _trips(steps, reverse):
        i, f, g, o = np.split(x[t] + h @ w, 4, axis=1)
        i, f, g, o = _sigma(i), _sigma(f), np.tanh(g), _sigma(o)
        c = f * c + i * g
        h = o * np.tanh(c)
        gates[t] = np.concatenate([i, f, g, o], axis=1)
        states[t + (not reverse)], cells[t + (not reverse)] = h, c
    return (states, cells, gates) if save else (states, cells)


def _lstm_vjp(cts: Sequence[Value | None], outs: Sequence[Value], x: Value, w: Value, h: Value, c: Value, *, reverse: bool,
              save: bool) -> tuple[Any, ...]:
    if save and cts[2] is not None:  # a derivative of the gradient
        return _through(_lstm)(cts, outs, x, w, h, c, reverse=reverse, save=save)
    states, cells, gates = outs if save else bind(LSTM, x, w, h, c, reverse=reverse, save=True)
    given = zeros_like(states) if cts[0] is None else cts[0]
    further = [] if cts[1] is None else [cts[1]]
    d_x, d_h, d_c = bind(LSTM_GRAD, given, w, gates, cells, *further, reverse=reverse)
    return d_x, lambda: _product(before(states, reverse), d_x, "tbh,tbg->hg"), d_h, d_c


LSTM = register(Op("lstm", _lstm_infer, _lstm_reference, Expand(_lstm), _lstm_vjp,
                   "An LSTM over time: the inputs' share of the gates (T, B, 4H), hidden weights (H, 4H), h and c (B, H) to "
                   "the states and cells (T + 1, B, H), and with `save` the gates i, f, g, o (T, B, 4H)."))


def _lstm_grad(d_states: Any, w: Any, gates: Any, cells: Any, *d_cells: Any, reverse: bool) -> list[Any]:
    back = permute_dims(w, (1, 0))

    def step(state: Any, xs: Any) -> Any:
        (dh, dc), (d_state, gates, c, c_before, *d_cell) = state, xs
        i, f, g, o = _parts(gates, 4)
        dh, t = dh + d_state, tanh(c)
        dc = (dc + d_cell[0] if d_cell else dc) + dh * o * (1.0 - t * t)
        d_gates = concat([dc * g * (i * (1.0 - i)), dc * c_before * (f * (1.0 - f)), dc * i * (1.0 - g * g),
                          dh * t * (o * (1.0 - o))], axis=1)
        return (_product(d_gates, back, "bg,gh->bh"), dc * f), d_gates

    xs = (after(d_states, reverse), gates, after(cells, reverse), before(cells, reverse),
          *[after(d, reverse) for d in d_cells])
    zero = zeros_like(_row(cells, 0))
    (dh, dc), d_gates = scan(step, (zero, zero), xs, reverse=not reverse)
    return [d_gates, dh + _first(d_states, reverse), dc + _first(d_cells[0], reverse) if d_cells else dc]


def _lstm_grad_infer(*types: TensorType, reverse: bool) -> tuple[TensorType, ...]:
    t, b, h = _extents("lstm_grad", types, 2, 1)
    rows = (t + 1, b, h)
    _check("lstm_grad", types, [rows, (h, 4 * h), (t, b, 4 * h), rows, *[rows for _ in types[4:5]]])
    state = TensorType((b, h), types[0].dtype)
    return types[2], state, state


def _lstm_grad_reference(d_states: Any, w: Any, gates: Any, cells: Any, *d_cells: Any, reverse: bool) -> tuple[np.ndarray, ...]:
    d_gates = np.empty_like(gates)
    dh, dc = np.zeros((2, *cells.shape[1:]), cells.dtype)
    for t in _trips(len(gates), not reverse):
        made, began = t + (not reverse), t + reverse
        i, f, g, o = np.split(gates[t], 4, axis=1)
        dh, tc = dh + d_states[made], np.tanh(cells[made])
        dc = (dc + d_cells[0][made] if d_cells else dc) + dh * o * (1 - tc * tc)
        d_gates[t] = np.concatenate([dc * g * (i * (1 - i)), dc * cells[began] * (f * (1 - f)), dc * i * (1 - g * g),
                                     dh * tc * (o * (1 - o))], axis=1)
        dh, dc = d_gates[t] @ w.T, dc * f
    return d_gates, dh + d_states[-reverse], dc + d_cells[0][-reverse] if d_cells else dc


LSTM_GRAD = register(Op("lstm_grad", _lstm_grad_infer, _lstm_grad_reference, Expand(_lstm_grad), _through(_lstm_grad),
                        "The way back of `lstm`: from the cotangents of the states (and of the cells), the weights, gates and "
                        "cells to the cotangents of the gates before σ and tanh, of h and of c."))


def lstm(x: Value, w: Value, h: Value, c: Value, *, reverse: bool = False) -> tuple[Value, tuple[Value, Value]]:
    """``(states after the steps (T, B, H), (h, c) at the end)`` of the op `lstm`."""
    states, cells = _lstm_again(x, w, h, c, reverse=reverse, save=False)
    return after(states, reverse), (last(states, reverse), last(cells, reverse))


def _lstm_again(*args: Value, reverse: bool, save: bool) -> tuple[Value, ...]:
    """The op, saving what the way back needs when a tape follows any argument."""
    results = bind(LSTM, *args, reverse=reverse, save=save or wanted(args))
    return results if save else results[:2]


# ------------------------------------------------------------------------------------------------------------- GRU


def gru_step(h: Any, x: Any, product: Any, *bias: Any) -> tuple[Any, list[Any]]:
    """(h, [r, z, n, q]) after a step: `x` and `product` are the shares of the input and of h; q = h · W_n + bias."""
    (xr, xz, xn), (hr, hz, hn) = _parts(x, 3), _parts(product, 3)
    r, z = sigmoid(xr + hr), sigmoid(xz + hz)
    q = hn + bias[0] if bias else hn
    n = tanh(xn + r * q)
    return n + z * (h - n), [r, z, n, q]


def _gru(x: Any, w: Any, h: Any, *bias: Any, reverse: bool, save: bool) -> list[Any]:
    def step(h: Any, x: Any) -> Any:
        h, gates = gru_step(h, x, _product(h, w, "bh,hg->bg"), *bias)
        return h, (h, *([concat(gates, axis=1)] if save else []))

    hs, *gates = scan(step, h, x, reverse=reverse)[1]
    return [_rows(h, hs, reverse), *gates]


def _gru_infer(*types: TensorType, reverse: bool, save: bool) -> tuple[TensorType, ...]:
    t, b, h = _extents("gru", types, 0, 1)
    _check("gru", types, [(t, b, 3 * h), (h, 3 * h), (b, h), *[(h,) for _ in types[3:4]]])
    rows, gates = (TensorType(shape, types[0].dtype) for shape in ((t + 1, b, h), (t, b, 4 * h)))
    return (rows, gates) if save else (rows,)


def _gru_reference(x: Any, w: Any, h: Any, *bias: Any, reverse: bool, save: bool) -> tuple[np.ndarray, ...]:
    (steps, batch, _), units = x.shape, w.shape[0]
    states, gates = np.empty((steps + 1, batch, units), x.dtype), np.empty((steps, batch, 4 * units), x.dtype)
    states[-reverse] = h
    for t in _trips(steps, reverse):
        (xr, xz, xn), (hr, hz, q) = np.split(x[t], 3, axis=1), np.split(h @ w, 3, axis=1)
        r, z = _sigma(xr + hr), _sigma(xz + hz)
        q = q + bias[0] if bias else q
        n = np.tanh(xn + r * q)
        h = n + z * (h - n)
        states[t + (not reverse)], gates[t] = h, np.concatenate([r, z, n, q], axis=1)
    return (states, gates) if save else (states,)


def _gru_vjp(cts: Sequence[Value | None], outs: Sequence[Value], x: Value, w: Value, h: Value, *bias: Value, reverse: bool,
             save: bool) -> tuple[Any, ...]:
    if save and cts[1] is not None:  # a derivative of the gradient
        return _through(_gru)(cts, outs, x, w, h, *bias, reverse=reverse, save=save)
    states, gates = outs if save else bind(GRU, x, w, h, *bias, reverse=reverse, save=True)
    given = zeros_like(states) if cts[0] is None else cts[0]
    d_gates, d_h = bind(GRU_GRAD, given, w, gates, states, reverse=reverse)
    units = w.shape[0]
    d_q, of_product, of_input = (slice_axis(d_gates, 2, *places) for places in ((0, units), (0, 3 * units), (units, 4 * units)))

    def d_w() -> Value:
        q, r, z = _parts(_product(before(states, reverse), of_product, "tbh,tbg->hg"), 3)
        return concat([r, z, q], axis=1)

    return of_input, d_w, d_h, *[lambda: sum_over(d_q, axis=(0, 1)) for _ in bias]


GRU = register(Op("gru", _gru_infer, _gru_reference, Expand(_gru), _gru_vjp,
                  "A GRU over time: the inputs' share of the gates (T, B, 3H), hidden weights (H, 3H), h (B, H) and perhaps "
                  "the bias of n (H,) to the states (T + 1, B, H), and with `save` r, z, n and q, the product's share of n "
                  "(T, B, 4H)."))


def _gru_grad(d_states: Any, w: Any, gates: Any, states: Any, *, reverse: bool) -> list[Any]:
    r, z, n = _parts(w, 3)
    back = permute_dims(concat([n, r, z], axis=1), (1, 0))

    def step(dh: Any, xs: Any) -> Any:
        d_state, gates, h = xs
        r, z, n, q = _parts(gates, 4)
        dh = dh + d_state
        dn = dh * (1.0 - z) * (1.0 - n * n)
        dr, dz, dq = dn * q * (r * (1.0 - r)), dh * (h - n) * (z * (1.0 - z)), dn * r
        kept = dh * z
        return kept + _product(concat([dq, dr, dz], axis=1), back, "bg,gh->bh"), concat([dq, dr, dz, dn], axis=1)

    xs = (after(d_states, reverse), gates, before(states, reverse))
    dh, d_gates = scan(step, zeros_like(_row(states, 0)), xs, reverse=not reverse)
    return [d_gates, dh + _first(d_states, reverse)]


def _gru_grad_infer(*types: TensorType, reverse: bool) -> tuple[TensorType, ...]:
    t, b, h = _extents("gru_grad", types, 2, 1)
    _check("gru_grad", types, [(t + 1, b, h), (h, 3 * h), (t, b, 4 * h), (t + 1, b, h)])
    return types[2], TensorType((b, h), types[0].dtype)


def _gru_grad_reference(d_states: Any, w: Any, gates: Any, states: Any, *, reverse: bool) -> tuple[np.ndarray, ...]:
    d_gates, dh = np.empty_like(gates), np.zeros(states.shape[1:], states.dtype)
    for t in _trips(len(gates), not reverse):
        r, z, n, q = np.split(gates[t], 4, axis=1)
        dh = dh + d_states[t + (not reverse)]
        dn = dh * (1 - z) * (1 - n * n)
        dr, dz, dq = dn * q * (r * (1 - r)), dh * (states[t + reverse] - n) * (z * (1 - z)), dn * r
        d_gates[t] = np.concatenate([dq, dr, dz, dn], axis=1)
        dh = dh * z + np.concatenate([dr, dz, dq], axis=1) @ w.T
    return d_gates, dh + d_states[-reverse]


GRU_GRAD = register(Op("gru_grad", _gru_grad_infer, _gru_grad_reference, Expand(_gru_grad), _through(_gru_grad),
                       "The way back of `gru`: from the cotangents of the states, the weights, what was saved and the states "
                       "to the cotangents of q, and of r, z and n before σ and tanh (neighbours are those of the product of h, "
                       "and those of the input), and that of h."))


def gru(x: Value, w: Value, h: Value, *bias: Value, reverse: bool = False) -> tuple[Value, Value]:
    """``(states after the steps (T, B, H), h at the end)`` of the op `gru`."""
    states = _gru_again(x, w, h, *bias, reverse=reverse, save=False)[0]
    return after(states, reverse), last(states, reverse)


def _gru_again(*args: Value, reverse: bool, save: bool) -> tuple[Value, ...]:
    results = bind(GRU, *args, reverse=reverse, save=save or wanted(args))
    return results if save else results[:1]


appliers["lstm"], appliers["gru"] = _lstm_again, _gru_again
