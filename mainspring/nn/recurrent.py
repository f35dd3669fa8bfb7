"""Recurrent layers over (batch, time, features): one product for the inputs of all steps, then one op for all steps.

Gate order is PyTorch's: LSTM i, f, g, o; GRU r, z, n. Weights are [in, out]: transposes of PyTorch's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from mainspring.base.errors import ShapeError
from mainspring.base.tree import static
from mainspring.interpret.eager import as_value
from mainspring.nn import init
from mainspring.nn.module import Module, keys_for
from mainspring.ops import composed, recurrent
from mainspring.ops.contract import matmul
from mainspring.ops.movement import concat, permute_dims
from mainspring.ops.scan import scan
from mainspring.types.dtype import float32


def _uniform(hidden: int) -> init.Initializer:
    return partial(init.uniform, low=-(hidden**-0.5), high=hidden**-0.5)


@dataclass(frozen=True, eq=False)
class LSTMCell(Module):
    """One step of an LSTM (Hochreiter & Schmidhuber, 1997, with forget gates). The state is (h, c), both (batch, H).

    Fields: input_weight (in, 4H), hidden_weight (H, 4H), bias (4H,) or None; columns in the order i, f, g, o:
    c ← σ(f) · c + σ(i) · tanh(g), h ← σ(o) · tanh(c). PyTorch's two biases are added into one.
    """

    input_weight: Any
    hidden_weight: Any
    bias: Any = None

    @classmethod
    def create(cls, key: Any, in_size: int, hidden: int, *, bias: bool = True, dtype: Any = float32) -> LSTMCell:
        """Weights and biases uniform within ±1 / √hidden."""
        a, b, c = keys_for(key, 3)
        draw = _uniform(hidden)
        return cls(draw(a, (in_size, 4 * hidden), dtype), draw(b, (hidden, 4 * hidden), dtype),
                   draw(c, (4 * hidden,), dtype) if bias else None)

    def projected(self, x: Any) -> Any:
        """The input's share of the gates for all steps: (time, batch, in) to (time, batch, 4H)."""
        y = matmul(x, self.input_weight)
        return y if self.bias is None else y + self.bias

    def start(self, batch: int, dtype: Any) -> tuple[Any, Any]:
        """The state of zeros."""
        shape = (batch, self.hidden_weight.shape[0])
        return init.zeros(None, shape, dtype), init.zeros(None, shape, dtype)

    def step(self, state: tuple[Any, Any], projected: Any) -> tuple[tuple[Any, Any], Any]:
        """``(state, h)`` after a step whose input's share of the gates is `projected` (batch, 4H)."""
        h, c, _ = recurrent.lstm_step(state, projected + matmul(state[0], self.hidden_weight))
        return (h, c), h

    def sweep(self, state: tuple[Any, Any], projected: Any, reverse: bool) -> tuple[tuple[Any, Any], Any]:
        """``(state, h of all steps)`` after the steps of `projected` (time, batch, 4H), backwards if `reverse`."""
        if not recurrent.supported(projected, self.hidden_weight, *state):
            return scan(self.step, state, projected, reverse=reverse)
        hs, state = recurrent.lstm(projected, as_value(self.hidden_weight), *map(as_value, state), reverse=reverse)
        return state, hs

    def __call__(self, x: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
        """The state after the input x (batch, in)."""
        return self.step(state, self.projected(x))[0]


@dataclass(frozen=True, eq=False)
class GRUCell(Module):
    """One step of a gated recurrent unit (Cho et al., 2014, in PyTorch's form). The state is h, (batch, H).

    Fields: input_weight (in, 3H), hidden_weight (H, 3H), bias (3H,) or None, hidden_bias (H,) or None; columns in the order
    r, z, n: n = tanh(x_n + σ(r) · (h · W_n + hidden_bias)), h ← (1 - σ(z)) · n + σ(z) · h. Of PyTorch's two biases those of r
    and z are added into one; `hidden_bias` is b_hn.
    """

    input_weight: Any
    hidden_weight: Any
    bias: Any = None
    hidden_bias: Any = None

    @classmethod
    def create(cls, key: Any, in_size: int, hidden: int, *, bias: bool = True, dtype: Any = float32) -> GRUCell:
        """Weights and biases uniform within ±1 / √hidden."""
        a, b, c, d = keys_for(key, 4)
        draw = _uniform(hidden)
        biases = (draw(c, (3 * hidden,), dtype), draw(d, (hidden,), dtype)) if bias else (None, None)
        return cls(draw(a, (in_size, 3 * hidden), dtype), draw(b, (hidden, 3 * hidden), dtype), *biases)

    def projected(self, x: Any) -> Any:
        """The input's share of the gates for all steps: (time, batch, in) to (time, batch, 3H)."""
        y = matmul(x, self.input_weight)
        return y if self.bias is None else y + self.bias

    def start(self, batch: int, dtype: Any) -> Any:
        """The state of zeros."""
        return init.zeros(None, (batch, self.hidden_weight.shape[0]), dtype)

    def step(self, state: Any, projected: Any) -> tuple[Any, Any]:
        """``(state, h)`` after a step whose input's share of the gates is `projected` (batch, 3H)."""
        h, _ = recurrent.gru_step(state, projected, matmul(state, self.hidden_weight), *self._bias())
        return h, h

    def _bias(self) -> tuple[Any, ...]:
        return () if self.hidden_bias is None else (self.hidden_bias,)

    def sweep(self, state: Any, projected: Any, reverse: bool) -> tuple[Any, Any]:
        """``(state, h of all steps)`` after the steps of `projected` (time, batch, 3H), backwards if `reverse`."""
        if not recurrent.supported(projected, self.hidden_weight, state, *self._bias()):
            return scan(self.step, state, projected, reverse=reverse)
        hs, state = recurrent.gru(*map(as_value, (projected, self.hidden_weight, state, *self._bias())), reverse=reverse)
        return state, hs

    def __call__(self, x: Any, state: Any) -> Any:
        """The state after the input x (batch, in)."""
        return self.step(state, self.projected(x))[0]


@dataclass(frozen=True, eq=False)
class _Recurrent(Module):
    """Cells run over time, in layers. cells: for each layer one cell, or two (forwards, backwards)."""

    cells: tuple[tuple[Any, ...], ...]
    dropout: float = static(default=0.0)
    random = True

    @classmethod
    def _create(cls, cell: Any, key: Any, in_size: int, hidden: int, layers: int, bidirectional: bool, bias: bool,
                dropout: float,
                dtype: Any) -> Any:
        ways = 2 if bidirectional else 1
        keys = iter(keys_for(key, layers * ways))
        sizes = [in_size] + [hidden * ways] * (layers - 1)
        return cls(tuple(tuple(cell.create(next(keys), size, hidden, bias=bias,
                                           dtype=dtype) for _ in range(ways)) for size in sizes), dropout)

    def __call__(self, x: Any, *, key: Any = None) -> Any:
        """(batch, time, in) to (batch, time, H), or 2H when bidirectional; `key` turns dropout between layers on."""
        return self.run(x, key=key)[0]

    def run(self, x: Any, state: Any = None, *, key: Any = None) -> tuple[Any, Any]:
        """``(y, state)``: the outputs and the last states, a tuple (layers) of tuples (directions).

        `state` is what an earlier call gave; zeros by default.
        """
        value = as_value(x, type(self).__name__)
        if value.ndim != 3 or value.shape[-1] != self.cells[0][0].input_weight.shape[0]:
            raise ShapeError(type(self).__name__, "x", f"must be (batch, time, {self.cells[0][0].input_weight.shape[0]})",
                             str(value.shape))
        keys = keys_for(key, len(self.cells))
        y, final = permute_dims(value, (1, 0, 2)), []
        for number, cells in enumerate(self.cells):
            if number:
                y = composed.dropout(y, self.dropout, keys[number])
            ends, ys = [], []
            for way, cell in enumerate(cells):
                projected = cell.projected(y)
                start = cell.start(value.shape[0], projected.dtype) if state is None else state[number][way]
                end, out = cell.sweep(start, projected, reverse=way == 1)
                ends.append(end)
                ys.append(out)
            y = ys[0] if len(ys) == 1 else concat(ys, axis=2)
            final.append(tuple(ends))
        return permute_dims(y, (1, 0, 2)), tuple(final)


class LSTM(_Recurrent):
    """Long short-term memory over (batch, time, features); see `LSTMCell` for its equations."""

    @classmethod
    def create(cls, key: Any, in_size: int, hidden: int, *, layers: int = 1, bidirectional: bool = False, bias: bool = True,
               dropout: float = 0.0, dtype: Any = float32) -> LSTM:
        """`layers` layers of `hidden` units, each over the outputs of the one below; `dropout` lies between them."""
        return cls._create(LSTMCell, key, in_size, hidden, layers, bidirectional, bias, dropout, dtype)


class GRU(_Recurrent):
    """Gated recurrent units over (batch, time, features); see `GRUCell` for the equations."""

    @classmethod
    def create(cls, key: Any, in_size: int, hidden: int, *, layers: int = 1, bidirectional: bool = False, bias: bool = True,
               dropout: float = 0.0, dtype: Any = float32) -> GRU:
        """`layers` layers of `hidden` units, each over the outputs of the one below; `dropout` lies between them."""
        return cls._create(GRUCell, key, in_size, hidden, layers, bidirectional, bias, dropout, dtype)
