"""Composed functions against their formulas in NumPy, and their gradients against central differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special

import mainspring as ms
from mainspring.base.errors import ArgumentError, ShapeError
from mainspring.interpret.staged import evaluate, trace
from mainspring.ops import composed as c
from mainspring.ops import random
from tests.unit.numeric import assert_gradients

RNG = np.random.default_rng(3)
X = RNG.standard_normal((4, 6)) * 2
SOFTPLUS = lambda x: np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)  # noqa: E731


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def standardized(x, axes, eps=1e-5):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


TABLE = {
    "relu": (c.relu, lambda x: np.maximum(x, 0)),
    "relu6": (c.relu6, lambda x: np.clip(x, 0, 6)),
    "hard_tanh": (c.hard_tanh, lambda x: np.clip(x, -1, 1)),
    "hard_sigmoid": (c.hard_sigmoid, lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    "hard_swish": (c.hard_swish, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "leaky_relu": (lambda x: c.leaky_relu(x, 0.2), lambda x: np.where(x > 0, x, 0.2 * x)),
    "prelu": (lambda x: c.prelu(x, ms.full((6,), 0.3)), lambda x: np.where(x > 0, x, np.float32(0.3) * x)),
    "elu": (lambda x: c.elu(x, 1.5), lambda x: np.where(x > 0, x, 1.5 * np.expm1(np.minimum(x, 0)))),
    "celu": (lambda x: c.celu(x, 1.5), lambda x: np.where(x > 0, x, 1.5 * np.expm1(np.minimum(x, 0) / 1.5))),
    "selu": (c.selu, lambda x: c.SELU_SCALE * np.where(x > 0, x, c.SELU_ALPHA * np.expm1(np.minimum(x, 0)))),
    "softplus": (c.softplus, SOFTPLUS),
    "softplus beta": (lambda x: c.softplus(x, 3.0), lambda x: SOFTPLUS(3 * x) / 3),
    "log_sigmoid": (c.log_sigmoid, lambda x: -SOFTPLUS(-x)),
    "silu": (c.silu, lambda x: x * special.expit(x)),
    "gelu": (c.gelu, lambda x: x * special.ndtr(x)),
    "gelu tanh": (lambda x: c.gelu(x, approximate=True),
                  lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    "mish": (c.mish, lambda x: x * np.tanh(SOFTPLUS(x))),
    "softsign": (c.softsign, lambda x: x / (1 + np.abs(x))),
    "tanh_shrink": (c.tanh_shrink, lambda x: x - np.tanh(x)),
    "hard_shrink": (c.hard_shrink, lambda x: np.where(np.abs(x) > 0.5, x, 0)),
    "soft_shrink": (c.soft_shrink, lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0)),
    "glu": (c.glu, lambda x: x[:, :3] * special.expit(x[:, 3:])),
    "softmax": (c.softmax, softmax),
    "softmax 0": (lambda x: c.softmax(x, axis=0), lambda x: softmax(x, 0)),
    "softmin": (c.softmin, lambda x: softmax(-x)),
    "log_softmax": (c.log_softmax, lambda x: np.log(softmax(x))),
    "layer_norm": (c.layer_norm, lambda x: standardized(x, -1)),
    "rms_norm": (c.rms_norm, lambda x: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)),
    "group_norm": (lambda x: c.group_norm(x, 3), lambda x: standardized(x.reshape(4, 3, 2), 2).reshape(4, 6)),
    "batch_norm": (c.batch_norm, lambda x: standardized(x, 0)),
}


@pytest.mark.parametrize("name", TABLE)
def test_formula_and_gradient(name):
    function, formula = TABLE[name]
    out = function(ms.asarray(X))
    assert out.dtype is ms.float64
    assert np.allclose(out.numpy(), formula(X), rtol=1e-12, atol=1e-14)
    assert_gradients(function, X)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtype_and_shape_are_kept(name, dtype):
    function, formula = TABLE[name]
    x = ms.astype(ms.asarray(X), dtype)
    out = function(x) if name != "prelu" else c.prelu(x, ms.astype(ms.full((6,), 0.3), dtype))
    assert out.dtype is x.dtype
    want = formula(np.asarray(ms.astype(x, ms.float64)))
    tolerance = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 2e-6}[dtype]
    assert np.allclose(np.asarray(ms.astype(out, ms.float64)), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [n for n in TABLE if n not in ("layer_norm", "rms_norm", "group_norm", "batch_norm", "prelu")])
def test_large_inputs_give_finite_values_and_gradients(name):
    x = ms.asarray(np.array([[-1e4, -500.0, -90.0, 90.0, 500.0, 1e4]] * 2))
    value, gradient = ms.value_and_grad(lambda t: ms.sum(TABLE[name][0](t)))(x)
    assert np.isfinite(float(value)) and np.isfinite(gradient.numpy()).all()


@pytest.mark.parametrize("name", TABLE)
def test_traced_equals_eager(name):
    x = ms.astype(ms.asarray(X), ms.float32)
    traced = trace(lambda t: [TABLE[name][0](t)], [x._type])
    (out,) = evaluate(traced.graph, (x, *traced.captured))
    assert np.allclose(out.numpy(), TABLE[name][0](x).numpy(), rtol=1e-6)


def test_kinks_have_the_derivative_of_pytorch():
    x = ms.asarray([-1.0, 0.0, 6.0, float("nan")])
    assert ms.grad(lambda t: ms.sum(c.relu(t)[:3]))(x).numpy().tolist() == [0, 0, 1, 0]
    assert ms.grad(lambda t: ms.sum(c.relu6(t)[:3]))(x).numpy().tolist() == [0, 0, 0, 0]
    assert np.isnan(c.relu(x).numpy()[3]) and c.relu(ms.asarray([-2, 3])).dtype is ms.int64


def test_masked_softmax():
    mask = RNG.random((4, 6)) > 0.4
    mask[1] = False
    out = c.softmax(ms.asarray(X), where=mask).numpy()
    assert (out[~mask] == 0).all() and np.allclose(out.sum(-1), [1, 0, 1, 1])
    assert np.allclose(out[0][mask[0]], softmax(X[0][mask[0]]))
    assert_gradients(lambda x: c.softmax(x, where=mask), X)


def test_affine_norms():
    w, b, z = RNG.standard_normal(6), RNG.standard_normal(6), RNG.standard_normal((2, 3, 4, 6))
    assert np.allclose(c.layer_norm(z, w, b, axis=-1).numpy(), standardized(z, -1) * w + b)
    assert np.allclose(c.layer_norm(z, axis=(-2, -1)).numpy(), standardized(z, (2, 3)))
    assert np.allclose(c.instance_norm(z, w, b).numpy(), standardized(z, (1, 2)) * w + b)
    assert np.allclose(c.group_norm(z, 2, w, b).numpy(),
                       standardized(z.reshape(2, 3, 4, 2, 3), (1, 2, 4)).reshape(z.shape) * w + b)
    assert np.allclose(c.batch_norm(z, w, np.exp(b), w, b).numpy(), (z - w) / np.sqrt(np.exp(b) + 1e-5) * w + b)
    for function in (c.layer_norm, c.instance_norm, lambda z, w, b: c.group_norm(z, 2, w, b), lambda z, w,
                     b: c.batch_norm(z, None, None, w, b)):
        assert_gradients(function, z, w, b)
    assert_gradients(c.rms_norm, z, w)


def test_a_batch_of_none_is_normalized_to_none():
    for function in (c.layer_norm, c.instance_norm, lambda x: c.group_norm(x, 2)):
        assert function(ms.ones((0, 3, 4))).shape == (0, 3, 4)



def test_second_derivatives_of_norms_and_softmax():
    for function in (c.layer_norm, c.softmax, c.log_softmax, c.gelu):
        assert_gradients(ms.grad(lambda x, f=function: ms.sum(ms.sin(f(x)))), X)


def test_dropout():
    x, key = ms.ones((1000, 100)), random.key(5)
    assert c.dropout(x, 0.3) is x and c.dropout(x, 0.0, key) is x
    out = c.dropout(x, 0.3, key).numpy()
    assert set(np.unique(out)) == {0.0, np.float32(1 / 0.7)} and abs((out == 0).mean() - 0.3) < 0.01
    assert (c.dropout(x, 0.3, key).numpy() == out).all() and (c.dropout(x, 1.0, key).numpy() == 0).all()
    gradient = ms.grad(lambda t: ms.sum(c.dropout(t, 0.3, key)))(x)
    assert (gradient.numpy() == out).all()


@pytest.mark.parametrize("call, error", [
    (lambda: c.glu(X[:, :5]), ShapeError),
    (lambda: c.group_norm(X, 4), ShapeError),
    (lambda: c.instance_norm(X), ShapeError),
    (lambda: c.batch_norm(X, X[0]), ArgumentError),
    (lambda: c.dropout(X, 1.5, random.key(0)), ArgumentError),
])
def test_misuse(call, error):
    with pytest.raises(error):
        call()
