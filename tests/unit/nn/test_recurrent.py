"""LSTM and GRU against their equations in NumPy, one step and one sequence at a time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

import mainspring as ms
from mainspring import nn
from mainspring.ops import random
from tests.unit.numeric import assert_gradients

RNG = np.random.default_rng(9)
KEY = random.key(4)
X = RNG.standard_normal((3, 5, 4))


def lstm(cell, x, reverse):
    """PyTorch's equations; x is (time, features)."""
    w, u, b = cell.input_weight.numpy(), cell.hidden_weight.numpy(), cell.bias.numpy()
    h = c = np.zeros(u.shape[0])
    out = [None] * len(x)
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        i, f, g, o = np.split(x[t] @ w + h @ u + b, 4)
        c = expit(f) * c + expit(i) * np.tanh(g)
        out[t] = h = expit(o) * np.tanh(c)
    return np.array(out), (h, c)


def gru(cell, x, reverse):
    w, u, b, bn = (p.numpy() for p in (cell.input_weight, cell.hidden_weight, cell.bias, cell.hidden_bias))
    h = np.zeros(u.shape[0])
    out = [None] * len(x)
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        (xr, xz, xn), (hr, hz, hn) = np.split(x[t] @ w + b, 3), np.split(h @ u, 3)
        r, z = expit(xr + hr), expit(xz + hz)
        out[t] = h = (1 - z) * np.tanh(xn + r * (hn + bn)) + z * h
    return np.array(out), h


KINDS = {"lstm": (nn.LSTM, lstm), "gru": (nn.GRU, gru)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers, bidirectional", [(1, False), (2, False), (2, True)])
def test_equations(kind, layers, bidirectional):
    create, equations = KINDS[kind]
    layer = create.create(KEY, 4, 3, layers=layers, bidirectional=bidirectional, dtype=ms.float64)
    y, state = layer.run(X)
    for row in range(len(X)):
        want = X[row]
        for cells, ends in zip(layer.cells, state, strict=True):
            results = [equations(cell, want, way == 1) for way, cell in enumerate(cells)]
            want = np.concatenate([r[0] for r in results], -1)
            for (_, last), end in zip(results, ends, strict=True):
                parts = zip(last, end, strict=True) if kind == "lstm" else [(last, end)]
                assert all(np.allclose(a, b.numpy()[row], rtol=1e-12) for a, b in parts)
        assert np.allclose(y.numpy()[row], want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_state_carries_on_and_a_cell_is_one_step(kind):
    layer = KINDS[kind][0].create(KEY, 4, 3, layers=2, dtype=ms.float64)
    whole, end = layer.run(X)
    first, state = layer.run(X[:, :2])
    second, last = layer.run(X[:, 2:], state)
    assert np.allclose(np.concatenate([first.numpy(), second.numpy()], 1), whole.numpy(), rtol=1e-13)
    assert np.allclose(np.asarray(end[1][0][0]), np.asarray(last[1][0][0]), rtol=1e-13)
    cell = layer.cells[0][0]
    state = cell.start(3, ms.float64)
    for t in range(5):
        state = cell(ms.asarray(X[:, t]), state)
    assert np.allclose(np.asarray(state[0] if kind == "lstm" else state),
                       np.asarray(end[0][0][0] if kind == "lstm" else end[0][0]), rtol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_options(kind):
    create = KINDS[kind][0].create
    assert_gradients(lambda layer, x: layer.run(x), create(KEY, 4, 3, layers=2, bidirectional=True), X)
    assert_gradients(lambda layer, x: layer(x), create(KEY, 4, 3, bias=False), X)
    layer = create(KEY, 4, 3, layers=2, dropout=0.5)
    x = X.astype(np.float32)
    assert not np.allclose(layer(x).numpy(), layer(x, key=KEY).numpy())
    assert layer(ms.astype(ms.asarray(x), ms.bfloat16)).dtype is ms.float32  # 16-bit data under float32 weights
