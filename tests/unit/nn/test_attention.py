"""Attention layers: against an explicit computation, with a cache, grouped, causal, across."""

from __future__ import annotations

import numpy as np
import pytest

import mainspring as ms
from mainspring import nn
from mainspring.base import tree
from mainspring.base.errors import ArgumentError, ShapeError
from mainspring.interpret.staged import evaluate, trace
from mainspring.ops import random

RNG = np.random.default_rng(8)
KEY = random.key(3)
X = RNG.standard_normal((2, 6, 12)).astype(np.float32)


def explicit(layer, x, context=None):
    """Heads one at a time, no rotary positions."""
    w, b, d = layer.qkv.weight.numpy(), layer.qkv.bias.numpy(), layer.head_size
    context = x if context is None else context
    group, parts = layer.heads // layer.kv_heads, []
    for head in range(layer.heads):
        columns = [head * d, (layer.heads + head // group) * d, (layer.heads + layer.kv_heads + head // group) * d]
        q, k, v = (t @ w[:, c:c + d] + b[c:c + d] for t, c in zip((x, context, context), columns, strict=True))
        score = q @ k.transpose(0, 2, 1) / np.sqrt(d)
        if layer.causal:
            score = np.where(np.tri(*score.shape[1:], dtype=bool), score, -np.inf)
        weight = np.exp(score - score.max(-1, keepdims=True))
        parts.append(weight / weight.sum(-1, keepdims=True) @ v)
    return np.concatenate(parts, -1) @ layer.out.weight.numpy() + layer.out.bias.numpy()


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("causal", [False, True])
def test_equals_the_explicit_computation(kv_heads, causal):
    layer = nn.MultiHeadAttention.create(KEY, 12, 4, kv_heads=kv_heads, causal=causal)
    assert np.allclose(layer(X).numpy(), explicit(layer, X), atol=1e-5)
    context = RNG.standard_normal((2, 6, 12)).astype(np.float32)
    assert np.allclose(layer(X, context=context).numpy(), explicit(layer, X, context), atol=1e-5)
    assert np.allclose(layer(X, context=X).numpy(), layer(X).numpy(), atol=1e-6)


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1, 1), (4, 2), (3, 1, 2)])
def test_with_a_cache_equals_without(rotary, sizes):
    block = nn.TransformerBlock.create(KEY, 12, 2, kv_heads=1, rotary=rotary)
    cache, at, parts = block.cache(2, 9), 0, []
    for size in sizes:
        y, cache = block.decode(ms.asarray(X[:, at:at + size]), cache)
        parts.append(y.numpy())
        at += size
    assert np.allclose(np.concatenate(parts, 1), block(X).numpy(), atol=2e-6)
    assert int(cache.length) == 6 and cache.length.dtype is ms.int32 and cache.keys.shape == (2, 9, 1, 6)


def test_decoding_is_one_graph_for_every_position():
    block = nn.TransformerBlock.create(KEY, 12, 2, rotary=True)
    x, cache = ms.asarray(X[:, :1]), block.cache(2, 9)
    leaves, treedef = tree.flatten((x, cache))
    traced = trace(lambda *values: tree.leaves(block.decode(*tree.unflatten(treedef, values))), [v._type for v in leaves])
    for at in range(6):
        eager = block.decode(ms.asarray(X[:, at:at + 1]), cache)
        staged = evaluate(traced.graph, [ms.asarray(X[:, at:at + 1]), *tree.leaves(cache), *traced.captured])
        assert all(np.allclose(a.numpy(), b.numpy(), atol=1e-6) for a, b in zip(tree.leaves(eager), staged, strict=True))
        cache = eager[1]


def test_causal_positions_do_not_see_later_ones():
    block = nn.TransformerBlock.create(KEY, 12, 2, rotary=True)
    changed = X.copy()
    changed[:, 4:] += 1
    assert np.allclose(block(X).numpy()[:, :4], block(changed).numpy()[:, :4], atol=1e-6)
    assert not np.allclose(block(X).numpy()[:, 4:], block(changed).numpy()[:, 4:], atol=1e-2)


def test_rotary_layers_depend_on_differences_of_positions():
    layer = nn.MultiHeadAttention.create(KEY, 12, 2, rotary=True)
    shifted = layer(X, positions=np.arange(6) + 50)
    assert np.allclose(layer(X).numpy(), shifted.numpy(), atol=1e-4)
    assert not np.allclose(layer(X).numpy(), layer(X[:, ::-1]).numpy()[:, ::-1], atol=1e-3)


def test_masks_and_dropout():
    layer = nn.MultiHeadAttention.create(KEY, 12, 4, dropout=0.5)
    mask = np.ones((2, 1, 1, 6), bool)
    mask[:, ..., 4:] = False
    changed = X.copy()
    changed[:, 4:] += 1
    assert np.allclose(layer(X, mask=mask).numpy()[:, :4], layer(changed, mask=mask).numpy()[:, :4], atol=1e-6)
    assert not np.allclose(layer(X).numpy(), layer(X, key=KEY).numpy())
    block = nn.TransformerBlock.create(KEY, 12, 4, dropout=0.5)
    first, second = (block.forward(X, training=True, key=k)[0].numpy() for k in random.split(KEY))
    assert not np.allclose(first, second) and np.allclose(block.forward(X)[0].numpy(), block(X).numpy())


@pytest.mark.parametrize("call, error", [
    (lambda: nn.MultiHeadAttention.create(KEY, 12, 5), ShapeError),
    (lambda: nn.MultiHeadAttention.create(KEY, 12, 4, kv_heads=3), ShapeError),
    (lambda: nn.MultiHeadAttention.create(KEY, 12, 4)(X[0]), ShapeError),
    (lambda: nn.MultiHeadAttention.create(KEY, 12, 4).decode(X, None), ArgumentError),
    (lambda: nn.TransformerBlock.create(KEY, 12, 4).decode(X, nn.KeyValueCache.create(2, 5, 4, 3)), ShapeError),
])
def test_misuse(call, error):
    with pytest.raises(error):
        call()
