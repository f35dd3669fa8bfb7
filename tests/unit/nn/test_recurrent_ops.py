"""LSTM and GRU over time as one op: the bytes of its fallback, of any threads and any batch, and gradients of gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mainspring as ms
from mainspring import nn
from mainspring.autodiff.reverse import vjp
from mainspring.base import flags
from mainspring.compile.target import TARGETS, by_name
from mainspring.compile.templates import sweep
from mainspring.compile.templates.dealing import Deal, deal, row_tiles
from mainspring.ir.bind import bind
from mainspring.ir.op import OPS
from mainspring.types.dtype import float32
from tests.unit.numeric import assert_gradients

SIZES = [(4, 16, 32), (1, 1, 7), (3, 13, 20), (2, 3, 300)]


def operands(name: str, t: int, b: int, h: int, dtype: Any = np.float32) -> list[np.ndarray]:
    """Some operands of the op `name`."""
    rng = np.random.default_rng(t + b + h)
    gates = 4 if name.startswith("lstm") else 3
    shapes = {
        "lstm": [(t, b, 4 * h), (h, 4 * h), (b, h), (b, h)],
        "lstm_grad": [(t + 1, b, h), (h, 4 * h), (t, b, 4 * h), (t + 1, b, h), (t + 1, b, h)],
        "gru": [(t, b, 3 * h), (h, 3 * h), (b, h), (h,)],
        "gru_grad": [(t + 1, b, h), (h, 3 * h), (t, b, 4 * h), (t + 1, b, h)],
    }[name]
    weight = (h, gates * h)
    return [(rng.uniform(-1, 1, s) * (h**-0.5 if s == weight else 1)).astype(dtype) for s in shapes]


def results(name: str, arrays: list[np.ndarray], reverse: bool = False, fallback: bool = False) -> list[np.ndarray]:
    """What the compiled op, or its compiled fallback, makes of `arrays`."""
    op = OPS[name]
    static = {"reverse": reverse, **({} if name.endswith("grad") else {"save": True})}
    run = op.space.function if fallback else lambda *values, **static: bind(op, *values, **static)
    return [np.asarray(r) for r in ms.jit(lambda *values: list(run(*values, **static)))(*map(ms.asarray, arrays))]


NAMES = ("lstm", "lstm_grad", "gru", "gru_grad")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_bytes_of_the_fallback(name, size):
    for dtype, reverse in ((np.float32, False), (np.float64, True)):
        arrays = operands(name, *size, dtype)
        for a, b in zip(results(name, arrays, reverse), results(name, arrays, reverse, fallback=True), strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_bytes_of_any_threads_and_any_part_of_the_batch(name):
    arrays = operands(name, 3, 21, 40)
    want = results(name, arrays)
    for threads in (1, 3, 8):
        with flags.override(threads=threads):
            assert [r.tobytes() for r in results(name, arrays)] == [r.tobytes() for r in want]
    for start, stop in ((0, 1), (1, 18)):
        part = [a if i == 1 or a.ndim == 1 else np.ascontiguousarray(a[..., start:stop, :]) for i, a in enumerate(arrays)]
        for a, b in zip(results(name, part), want, strict=True):
            assert a.tobytes() == b[..., start:stop, :].tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_bytes_of_any_deal(name, monkeypatch):
    """Tasks of units and rows that do not come out even, a barrier after each step."""
    for steps, reverse, how in ((1, False, Deal(25, 16, 2, 3, True)), (3, True, Deal(17, 32, 3, 2, True))):
        arrays = operands(name, steps, 50, 40)
        want = results(name, arrays, reverse, fallback=True)
        with monkeypatch.context() as patch, flags.override(cache="", threads=3):
            patch.setattr(sweep, "deal", lambda *_, how=how: how)
            assert [r.tobytes() for r in results(name, arrays, reverse)] == [r.tobytes() for r in want]


def test_few_rows_and_many_units_are_dealt_by_units():
    small, wide, tall = (deal(by_name("x86-64-v3"), float32, *size, 4, False) for size in ((4, 32), (4, 512), (64, 512)))
    assert not small.rounds and wide.rounds and wide.tasks >= 4 and not tall.rounds


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_row_tiles_take_every_row_once_and_fit_the_registers(target):
    for rows in (1, 2, 3, 4, 5, 7, 8, 9, 16, 48):
        beside, tiles = row_tiles(target, float32, rows, 5)
        assert sum(tile.rows for tile in tiles) == rows
        assert all(tile.panels in (1, beside) and tile.rows * tile.panels <= target.accumulators(float32) for tile in tiles)


def test_rows_that_are_left_take_several_panels_at_once():
    assert [(t.rows, t.panels) for t in row_tiles(by_name("x86-64-v3"), float32, 8, 64)[1]] == [(6, 1), (2, 3)]


@pytest.mark.parametrize("create", [nn.LSTM.create, nn.GRU.create])
def test_gradients_of_a_jitted_layer_and_of_its_gradient(create):
    layer = create(ms.random.key(1), 3, 5, layers=2, bidirectional=True, dtype=ms.float64)
    x = np.random.default_rng(2).standard_normal((2, 4, 3))

    def gradient(layer, x):
        (y, state), pull = vjp(lambda layer, x: layer.run(x), layer, x)
        return pull((y, state))

    compiled, eager = ms.jit(gradient)(layer, x), gradient(layer, ms.asarray(x))
    for a, b in zip(ms.tree.leaves(compiled), ms.tree.leaves(eager), strict=True):
        assert np.allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-12)
    assert_gradients(gradient, layer, x)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_sixteen_bits_and_no_steps_take_the_scan(cell):
    low = cell.create(ms.random.key(0), 3, 4, dtype=ms.bfloat16)
    state, hs = low.sweep(low.start(2, ms.bfloat16), low.projected(ms.ones((3, 2, 3), dtype=ms.bfloat16)), False)
    assert hs.dtype is ms.bfloat16 and hs.shape == (3, 2, 4)
    single = cell.create(ms.random.key(0), 3, 4)
    state, hs = ms.jit(lambda: single.sweep(single.start(2, ms.float32), single.projected(ms.ones((0, 2, 3))), True))()
    assert hs.shape == (0, 2, 4) and not np.asarray(ms.tree.leaves(state)[0]).any()
