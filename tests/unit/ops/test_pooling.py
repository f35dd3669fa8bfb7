"""Pooling against plain loops; each op's iteration space against its reference; gradients by finite differences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import mainspring as ms
from mainspring.autodiff.reverse import vjp
from mainspring.base.errors import ArgumentError, ShapeError
from mainspring.ir import scalar
from mainspring.ir.op import OPS, Space
from mainspring.ir.primitives import SCALARS
from mainspring.ops import pooling
from mainspring.types.dtype import as_dtype
from mainspring.types.shape import TensorType

GEOMETRIES = [  # spatial extents, window, stride, padding, dilation
    ((7,), (3,), (2,), ((0, 0),), (1,)),
    ((6,), (2,), (3,), ((1, 1),), (2,)),
    ((5, 6), (3, 2), (2, 1), ((1, 1), (0, 1)), (1, 2)),
    ((4, 4), (1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1)),
    ((3, 4, 5), (2, 2, 3), (1, 2, 2), ((0, 1), (0, 0), (1, 1)), (1, 1, 1)),
    ((2,), (5,), (1,), ((0, 0),), (1,)),  # no window fits
    ((3,), (2,), (1,), ((3, 3),), (1,)),  # windows of padding only
]


def statics(window, stride, padding, dilation):
    return {"window": (1, *window, 1), "stride": (1, *stride, 1), "padding": ((0, 0), *padding, (0, 0)),
            "dilation": (1, *dilation, 1)}


def by_loops(x, combine, empty, window, stride, padding, dilation):
    """Windows one at a time: ``combine(list of elements inside)``, `empty` where there is none."""
    spatial = x.shape[1:-1]
    places = [max(0, (n + sum(p) - (k - 1) * d - 1) // st + 1)
              for n, p, k, d, st in zip(spatial, padding, window, dilation, stride, strict=True)]
    out = np.full((x.shape[0], *places, x.shape[-1]), empty, dtype=x.dtype)
    for place in itertools.product(*map(range, places)):
        taps = []
        for k in itertools.product(*map(range, window)):
            at = [o * st + i * d - p[0] for o, st, i, d, p in zip(place, stride, k, dilation, padding, strict=True)]
            if all(0 <= a < n for a, n in zip(at, spatial, strict=True)):
                taps.append(x[(slice(None), *at)])
        if taps:
            out[(slice(None), *place)] = combine(np.stack(taps))
    return out


def evaluate(space: Space, operands):
    """An iteration space computed by NumPy over its whole index grid: what the compiler must do."""
    types = tuple(TensorType(o.shape, as_dtype(o.dtype)) for o in operands)
    dims, reduced = space.indices()
    grid = np.meshgrid(*[np.arange(v.attr[1]) for v in (*dims, *reduced)], indexing="ij")
    values = dict(zip([*dims, *reduced], grid, strict=True))
    for e in scalar.walk(space.symbolic(types)):
        if e in values:
            continue
        args = [values[a] for a in e.args]
        if e.op == "const":
            values[e] = np.asarray(e.attr, e.dtype.numpy)
        elif e.op == "read":
            position, guarded = e.attr
            if guarded:
                *index, guard, fill = args
                inside = [np.where(guard, i, 0) for i in index]
                values[e] = np.where(guard, operands[position][tuple(inside)], fill) if operands[position].size else fill
            else:
                values[e] = operands[position][tuple(args)]
        else:
            values[e] = SCALARS[e.op].numpy(*args, *([e.dtype.numpy] if e.op == "cast" else []))
    full = np.broadcast_to(values[e], (*space.extents, *space.reduced))
    axes = tuple(range(len(space.extents), full.ndim))
    return {"sum": np.sum, "max": np.max, "min": np.min}[space.combine](full, axis=axes) if space.combine else full


def sample(shape, seed=0, dtype=np.float64):
    """Values with ties, so that "first" is put to the test."""
    return np.random.default_rng(seed).integers(-3, 4, size=shape).astype(dtype)


@pytest.mark.parametrize("spatial, window, stride, padding, dilation", GEOMETRIES)
def test_window_ops_equal_loops_and_their_spaces(spatial, window, stride, padding, dilation):
    static = statics(window, stride, padding, dilation)
    x = sample((2, *spatial, 3))
    for name, combine, empty in (("window_sum", lambda t: t.sum(0), 0), ("window_max", lambda t: t.max(0), -math.inf)):
        out = OPS[name].reference(x, **static)
        assert np.array_equal(out, by_loops(x, combine, empty, window, stride, padding, dilation))
        if out.size:
            assert np.array_equal(out, evaluate(OPS[name].space(TensorType(x.shape, as_dtype("float64")), **static), [x]))


@pytest.mark.parametrize("spatial, window, stride, padding, dilation", GEOMETRIES)
def test_the_spaces_of_the_gradient_of_max(spatial, window, stride, padding, dilation):
    static = statics(window, stride, padding, dilation)
    x = sample((2, *spatial, 3))
    types = TensorType(x.shape, as_dtype("float64"))
    greatest = OPS["window_max"].reference(x, **static)
    if not greatest.size:
        return
    first = OPS["window_first"].reference(x, greatest, **static)
    places = TensorType(greatest.shape, as_dtype("float64"))
    assert np.array_equal(first, evaluate(OPS["window_first"].space(types, places, **static), [x, greatest]))
    ct = sample(greatest.shape, 1)
    taps = TensorType(first.shape, as_dtype("int64"))
    spread = OPS["window_spread"].reference(ct, first, shape=x.shape, **static)
    assert np.array_equal(spread, evaluate(OPS["window_spread"].space(places, taps, shape=x.shape, **static), [ct, first]))
    picked = OPS["window_pick"].reference(x, first, **static)
    assert np.array_equal(picked, evaluate(OPS["window_pick"].space(types, taps, **static), [x, first]))
    assert np.array_equal(picked, np.where(np.isfinite(greatest), greatest, 0))
    v = sample(x.shape, 2)  # spread and pick are transposes of each other
    assert np.isclose((spread * v).sum(), (ct * OPS["window_pick"].reference(v, first, **static)).sum())


@pytest.mark.parametrize("spatial, window, stride, padding, dilation", GEOMETRIES)
def test_gradient_of_the_sum_is_its_transpose(spatial, window, stride, padding, dilation):
    static = statics(window, stride, padding, dilation)
    x, v = sample((2, *spatial, 3)), sample((2, *spatial, 3), 1)
    out, pullback = vjp(lambda t: pooling.bind(pooling.WINDOW_SUM, t, **static), ms.asarray(x))
    ct = sample(out.shape, 2)
    (back,) = pullback(ms.asarray(ct))
    assert np.isclose((back.numpy() * v).sum(), (ct * OPS["window_sum"].reference(v, **static)).sum())


def test_the_gradient_of_max_goes_to_the_first_of_equals():
    x = np.array([1.0, 1.0, 1.0, 0.0, 2.0, 2.0]).reshape(1, 6, 1)
    _, pullback = vjp(lambda t: pooling.max_pool(t, 3), ms.asarray(x))
    (back,) = pullback(ms.asarray(np.array([5.0, 7.0]).reshape(1, 2, 1)))
    assert back.numpy().ravel().tolist() == [5, 0, 0, 0, 7, 0]


def test_second_derivatives_of_max_pool():
    x, direction = (np.random.default_rng(s).standard_normal((1, 6, 2)) for s in (0, 1))

    def slope(t):
        return ms.sum(ms.grad(lambda u: ms.sum(pooling.max_pool(u, 3, stride=2) ** 3))(t) * direction)

    h = 1e-5
    numeric = np.array([(float(slope(ms.asarray(x + h * e))) - float(slope(ms.asarray(x - h * e)))) / (2 * h)
                        for e in np.eye(x.size).reshape(-1, *x.shape)]).reshape(x.shape)
    assert np.allclose(ms.grad(slope)(ms.asarray(x)).numpy(), numeric, atol=1e-6)


def test_nan_wins_and_takes_the_gradient():
    x = ms.asarray(np.array([1.0, np.nan, 3.0, 4.0]).reshape(1, 4, 1))
    out, pullback = vjp(lambda t: pooling.max_pool(t, 2), x)
    assert np.isnan(out.numpy()[0, 0, 0]) and out.numpy()[0, 1, 0] == 4
    assert pullback(ms.asarray(np.ones((1, 2, 1))))[0].numpy().ravel().tolist() == [0, 1, 0, 1]


def test_averages_minima_and_integers():
    x = sample((2, 5, 5, 3))
    pads = ((1, 1), (1, 1))
    total = by_loops(x, lambda t: t.sum(0), 0, (3, 3), (2, 2), pads, (1, 1))
    count = by_loops(np.ones_like(x), lambda t: t.sum(0), 0, (3, 3), (2, 2), pads, (1, 1))
    assert np.allclose(pooling.avg_pool(x, 3, stride=2, padding=1).numpy(), total / 9)
    assert np.allclose(pooling.avg_pool(x, 3, stride=2, padding=1, count_include_pad=False).numpy(), total / count)
    least = by_loops(x, lambda t: t.min(0), np.inf, (3, 3), (2, 2), pads, (1, 1))
    assert np.array_equal(pooling.min_pool(x, 3, stride=2, padding=1).numpy(), least)
    assert pooling.max_pool(x.astype(np.int8), 2).dtype is ms.int8
    assert pooling.max_pool(x, 2, padding="same").shape == (2, 3, 3, 3)


def test_global_and_adaptive():
    x = sample((2, 4, 6, 3))
    assert np.allclose(pooling.global_avg_pool(x).numpy(), x.mean((1, 2)))
    assert np.array_equal(pooling.global_max_pool(x, keepdims=True).numpy(), x.max((1, 2), keepdims=True))
    assert np.allclose(pooling.adaptive_avg_pool(x, (2, 3)).numpy(), pooling.avg_pool(x, 2).numpy())
    uneven = pooling.adaptive_avg_pool(x, (3, 4)).numpy()
    rows, columns = ((0, 2), (1, 3), (2, 4)), ((0, 2), (1, 3), (3, 5), (4, 6))
    want = [[x[:, a:b, c:d].mean((1, 2)) for c, d in columns] for a, b in rows]
    assert np.allclose(uneven, np.array(want).transpose(2, 0, 1, 3))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_sums_in_float32(dtype):
    x = ms.astype(ms.asarray(np.full((1, 4096, 1), 1.0 + 1 / 64)), dtype)
    mean = pooling.avg_pool(x, 4096)
    assert mean.dtype is as_dtype(dtype) and float(ms.astype(mean, ms.float32)[0, 0, 0]) == pytest.approx(1 + 1 / 64, rel=2**-7)


@pytest.mark.parametrize("call, error", [
    (lambda x: pooling.max_pool(x[0, 0], 2), ShapeError),
    (lambda x: pooling.max_pool(x, 0), ArgumentError),
    (lambda x: pooling.max_pool(x, (2, 2, 2)), ArgumentError),
    (lambda x: pooling.max_pool(x, 2, padding=-1), ArgumentError),
    (lambda x: pooling.avg_pool(x, 2, padding="full"), ArgumentError),
    (lambda x: pooling.adaptive_avg_pool(x, (3,)), ShapeError),
])
def test_misuse(call, error):
    with pytest.raises(error):
        call(ms.asarray(np.ones((1, 4, 4, 2))))
