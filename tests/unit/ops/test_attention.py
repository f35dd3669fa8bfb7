"""Attention against one head and one query at a time, its laws, and rotary positions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import mainspring as ms
from mainspring.base.errors import ArgumentError, ShapeError
from mainspring.ops import random
from mainspring.ops.attention import attention, rotary
from tests.unit.numeric import assert_gradients

RNG = np.random.default_rng(5)


def inputs(queries=4, keys=5, heads=4, kv_heads=2, width=6, value_width=3):
    return (RNG.standard_normal((2, queries, heads, width)), RNG.standard_normal((2, keys, kv_heads, width)),
            RNG.standard_normal((2, keys, kv_heads, value_width)))


def by_loops(q, k, v, causal=False, offset=0, mask=None, bias=None, scale=None):
    b, l, h, d = q.shape
    s, group = k.shape[1], h // k.shape[2]
    out = np.zeros((b, l, h, v.shape[-1]))
    mask = np.broadcast_to(True if mask is None else mask, (b, h, l, s))
    bias = np.broadcast_to(0.0 if bias is None else bias, (b, h, l, s))
    for n, i, j in itertools.product(range(b), range(l), range(h)):
        seen = [t for t in range(s) if mask[n, j, i, t] and (not causal or t <= i + offset)]
        if seen:
            score = np.array([q[n, i, j] @ k[n, t, j // group] * (d**-0.5 if scale is None else scale) + bias[n, j, i,
                                                                                                              t] for t in seen])
            weight = np.exp(score - score.max())
            out[n, i, j] = (weight / weight.sum()) @ v[n, seen, j // group]
    return out


MASK = RNG.random((2, 1, 4, 5)) > 0.4
MASK[0, :, 2] = False  # a query that may attend to nothing
OPTIONS = [{}, {"causal": True}, {"causal": True, "offset": 1}, {"mask": MASK}, {"causal": True, "mask": MASK}, {"scale": 0.3},
           {"bias": RNG.standard_normal((1, 4, 4, 5))}, {"bias": RNG.standard_normal((4, 5)), "mask": MASK}]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: " ".join(o) or "plain")
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_equals_loops(options, kv_heads):
    q, k, v = inputs(kv_heads=kv_heads)
    assert np.allclose(attention(q, k, v, **options).numpy(), by_loops(q, k, v, **options), rtol=1e-12, atol=1e-14)
    assert_gradients(lambda q, k, v: attention(q, k, v, **options), q, k, v)


def test_grouped_queries_are_repeated_heads():
    q, k, v = inputs()
    wide = attention(q, k.repeat(2, axis=2), v.repeat(2, axis=2), causal=True)
    assert np.allclose(attention(q, k, v, causal=True).numpy(), wide.numpy(), rtol=1e-13)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_scores_do_not_overflow(dtype):
    q, k, v = (ms.astype(ms.asarray(x * 30), dtype) for x in inputs(width=64))
    out = attention(q, k, v)
    want = by_loops(*[np.asarray(ms.astype(x, ms.float64)) for x in (q, k, v)])
    assert out.dtype is q.dtype
    assert np.allclose(np.asarray(ms.astype(out, ms.float64)), want, rtol=0.02, atol=0.4)


def test_dropout_keeps_the_mean():
    q, k, v = (x.astype(np.float32) for x in inputs(queries=64, keys=128))
    plain = attention(q, k, np.ones_like(v))
    assert np.allclose(attention(q, k, np.ones_like(v), dropout_rate=0.5).numpy(), plain.numpy(), rtol=1e-5)
    dropped = attention(q, k, np.ones_like(v), dropout_rate=0.5, key=random.key(1)).numpy()
    assert abs(dropped.mean() - 1) < 0.05 and dropped.std() > 0.01


def test_rotary_preserves_norms_and_depends_on_differences_of_positions():
    q, k = RNG.standard_normal((1, 1, 2, 8)), RNG.standard_normal((1, 1, 2, 8))

    def product(at_q, at_k):
        return (rotary(q, np.array([at_q])).numpy() * rotary(k, np.array([at_k])).numpy()).sum(-1)

    assert np.allclose(np.linalg.norm(rotary(q, np.array([17])).numpy(), axis=-1), np.linalg.norm(q, axis=-1))
    assert np.allclose(product(3, 1), product(103, 101)) and not np.allclose(product(3, 1), product(3, 2))
    assert np.array_equal(rotary(q, np.array([0])).numpy(), q)
    x = RNG.standard_normal((2, 5, 2, 8))
    assert np.allclose(rotary(x).numpy(), rotary(x, np.arange(5)[None].repeat(2, 0)).numpy())
    pair = rotary(x, base=100.0).numpy()[1, 3, 1, [1, 5]]
    angle = 3 * 100.0 ** (-2 * 1 / 8)
    assert np.allclose(pair, [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]] @ x[1, 3, 1, [1, 5]])
    assert_gradients(rotary, x)


@pytest.mark.parametrize("call, error", [
    (lambda q, k, v: attention(q[0], k[0], v[0]), ShapeError),
    (lambda q, k, v: attention(q[:, :, :3], k, v), ShapeError),
    (lambda q, k, v: attention(q, k, v[:, :3]), ShapeError),
    (lambda q, k, v: attention(q, k, v, mask=np.ones((2, 4, 5))), ArgumentError),
    (lambda q, k, v: attention(q, k, v, mask=np.ones((2, 2, 4, 5), bool)), ShapeError),
    (lambda q, k, v: attention(q, k, v, bias=np.ones((2, 2, 4, 4, 5))), ShapeError),
    (lambda q, k, v: attention(q, k, v, dropout_rate=-1.0), ArgumentError),
    (lambda q, k, v: rotary(q[..., :5]), ShapeError),
])
def test_misuse(call, error):
    with pytest.raises(error):
        call(*inputs())
