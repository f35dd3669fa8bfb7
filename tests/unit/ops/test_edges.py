"""Values and derivatives where formulas have edges: kinks, infinities, whole numbers, nothing at all. Eager and compiled."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special

import mainspring as ms
from tests.unit.numeric import assert_gradients

INF = math.inf


def both(function, *xs):
    """The eager result, to which the compiled one is equal."""
    eager, compiled = (np.asarray(f(*[ms.asarray(x) for x in xs])) for f in (function, ms.jit(function)))
    np.testing.assert_allclose(compiled, eager, rtol=1e-6)
    return eager


def gradients(function, *xs):
    return [both(lambda *t, i=i: ms.grad(lambda *u: ms.sum(function(*u)), argnums=i)(*t), *xs) for i in range(len(xs))]


def test_remainder_with_the_sign_of_the_dividend_of_whole_numbers():
    x, y = np.array([7, -7, 7, -7, -(2**63), 6]), np.array([3, 3, -3, -3, -1, 0])
    assert both(ms.fmod, x, y).tolist() == [1, -1, 1, -1, 0, 0]
    assert both(ms.fmod, x[:4].astype(np.uint8), np.full(4, 4, np.uint8)).dtype == np.uint8


def test_derivative_of_digamma():
    x = np.array([-3.3, -0.5, 0.1, 0.6, 1.0, 2.5, 30.0])
    np.testing.assert_allclose(gradients(ms.digamma, x)[0], special.polygamma(1, x), rtol=1e-12)
    assert_gradients(ms.grad(lambda t: ms.sum(ms.lgamma(t))), x)


def test_derivatives_at_kinks_and_infinities():
    x = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert gradients(lambda t: ms.clip(t, -1.0, 1.0), x)[0].tolist() == [0, 1, 1, 1, 0]
    assert gradients(ms.softplus, np.array([-INF, 0.0, INF]))[0].tolist() == [0, 0.5, 1]
    assert gradients(ms.logaddexp, np.array([INF, 0.0]), np.array([0.0, INF]))[0].tolist() == [1, 0]
    assert [g.tolist() for g in gradients(ms.atan2, np.zeros(1), np.zeros(1))] == [[0], [0]]
    assert gradients(ms.pow, np.zeros(3), np.array([2.0, 0.0, -1.0]))[1].tolist() == [0, 0, -INF]


def test_tensor_bounds_of_clip_share_nothing():
    low, x = np.array([0.0, 1.0, 2.0]), np.ones(3)
    assert [g.tolist() for g in gradients(lambda a, b: ms.clip(a, min=b), x, low)] == [[1, 1, 0], [0, 0, 1]]
    assert np.isnan(both(lambda a, b: ms.clip(a, min=b), x, np.full(3, math.nan))).all()


@pytest.mark.parametrize("function, wanted", [
    (lambda x: ms.exp(ms.sum(x, axis=1)), 1.0), (lambda x: ms.prod(x, axis=1) + 1.0, 2.0),
    (lambda x: ms.logsumexp(x, axis=1), -INF),
    (lambda x: x @ ms.ones((0, 2)) + 1.0, 1.0), (lambda x: ms.softmax(x) + 1.0, None), (lambda x: ms.log_softmax(x), None),
])
def test_reductions_of_nothing(function, wanted):
    result = both(function, np.zeros((3, 0), np.float32))
    assert (result == wanted).all() if wanted is not None else result.shape == (3, 0)


def test_an_empty_constant_compiles():
    nothing = np.zeros((0, 3), np.float32)
    assert both(lambda x: x * ms.asarray(nothing), nothing).shape == (0, 3)


def test_padding_by_copies_of_empty_and_cut_tensors():
    x = np.arange(4)
    assert both(lambda t: ms.pad(t, ((-2, 1),), mode="edge"), x).tolist() == [2, 3, 3]
    assert both(lambda t: ms.pad(t, ((-4, 5),), mode="edge"), x).tolist() == [3] * 5
    assert both(lambda t: ms.pad(t, ((0, 0), (1, 1)), mode="reflect"), np.zeros((0, 3))).shape == (0, 5)
    with pytest.raises(ms.MainspringError, match="pad"):
        ms.pad(ms.zeros((0,)), 1, mode="edge")


def test_take_along_axis_broadcasts_both_ways():
    x, index = np.arange(5.0)[None], np.array([[0, 4], [1, 2]])
    assert both(lambda a, i: ms.take_along_axis(a, i, axis=1), x, index).tolist() == [[0, 4], [1, 2]]
