"""Optimizers against the recurrences of their papers, written out in NumPy; and the laws of transforms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import mainspring as ms
from mainspring import optim
from mainspring.base import tree
from mainspring.base.errors import ArgumentError, TreeError
from mainspring.interpret.staged import evaluate, trace

RNG = np.random.default_rng(7)
START = {"b": RNG.standard_normal(3), "w": RNG.standard_normal((2, 3))}
GRADS = [{"b": RNG.standard_normal(3), "w": RNG.standard_normal((2, 3))} for _ in range(6)]
LR = 0.1


def tensors(values):
    return tree.map(ms.asarray, values)


def run(optimizer, params=START, grads=GRADS):
    params = tensors(params)
    state = optimizer.init(params)
    for g in grads:
        updates, state = optimizer.update(tensors(g), state, params)
        params = optim.apply_updates(params, updates)
    return params, state


def same(a, b, **tolerance):
    for path, x, y in zip(tree.paths(a), tree.leaves(a), tree.leaves(b), strict=True):
        assert np.allclose(np.asarray(x), np.asarray(y), **tolerance), path


# Each recurrence: w, list of gradients -> w. `n` counts from 1.

def sgd(w, gs, mu=0.0, nesterov=False, wd=0.0):
    v = np.zeros_like(w)
    for g in gs:
        g = g + wd * w
        v = mu * v + g
        w = w - LR * (g + mu * v if nesterov else v)
    return w


def adam(w, gs, b1=0.9, b2=0.999, eps=1e-8, l2=0.0, decoupled=0.0):
    m, v = np.zeros_like(w), np.zeros_like(w)
    for n, g in enumerate(gs, 1):
        g = g + l2 * w
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        w = w - LR * (m / (1 - b1**n) / (np.sqrt(v / (1 - b2**n)) + eps) + decoupled * w)
    return w


def rmsprop(w, gs, decay=0.99, eps=1e-8, mu=0.0, centered=False):
    v, a, buffer = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    for g in gs:
        v, a = decay * v + (1 - decay) * g * g, decay * a + (1 - decay) * g
        buffer = mu * buffer + g / (np.sqrt(v - a * a if centered else v) + eps)
        w = w - LR * buffer
    return w


def adagrad(w, gs, eps=1e-10):
    s = np.zeros_like(w)
    for g in gs:
        s = s + g * g
        w = w - LR * g / (np.sqrt(s) + eps)
    return w


def lion(w, gs, b1=0.9, b2=0.99, wd=0.05):
    m = np.zeros_like(w)
    for g in gs:
        w = w - LR * (np.sign(b1 * m + (1 - b1) * g) + wd * w)
        m = b2 * m + (1 - b2) * g
    return w


def lars(w, gs, mu=0.9, wd=0.05, trust=0.02):
    v = np.zeros_like(w)
    for g in gs:
        local = trust * np.linalg.norm(w) / (np.linalg.norm(g) + wd * np.linalg.norm(w))
        v = mu * v + LR * local * (g + wd * w)
        w = w - v
    return w


def lamb(w, gs, b1=0.9, b2=0.999, eps=1e-6, wd=0.05):
    m, v = np.zeros_like(w), np.zeros_like(w)
    for n, g in enumerate(gs, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        u = m / (1 - b1**n) / (np.sqrt(v / (1 - b2**n)) + eps) + wd * w
        w = w - LR * np.linalg.norm(w) / np.linalg.norm(u) * u
    return w


TABLE = {
    "sgd": (optim.sgd(LR), sgd),
    "momentum": (optim.sgd(LR, 0.9, weight_decay=0.05), lambda w, gs: sgd(w, gs, 0.9, wd=0.05)),
    "nesterov": (optim.sgd(LR, 0.9, nesterov=True), lambda w, gs: sgd(w, gs, 0.9, True)),
    "adam": (optim.adam(LR), adam),
    "adam l2": (optim.adam(LR, 0.8, 0.9, 1e-3, weight_decay=0.05), lambda w, gs: adam(w, gs, 0.8, 0.9, 1e-3, 0.05)),
    "adamw": (optim.adamw(LR, weight_decay=0.05), lambda w, gs: adam(w, gs, decoupled=0.05)),
    "rmsprop": (optim.rmsprop(LR), rmsprop),
    "rmsprop centered": (optim.rmsprop(LR, momentum=0.5, centered=True), lambda w, gs: rmsprop(w, gs, mu=0.5, centered=True)),
    "adagrad": (optim.adagrad(LR), adagrad),
    "lion": (optim.lion(LR, weight_decay=0.05), lion),
    "lars": (optim.lars(LR, weight_decay=0.05, trust=0.02), lars),
    "lamb": (optim.lamb(LR, weight_decay=0.05), lamb),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_recurrence_of_the_paper(name):
    optimizer, recurrence = TABLE[name]
    params, _ = run(optimizer)
    same(params, {k: recurrence(START[k], [g[k] for g in GRADS]) for k in START}, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtypes_structure_and_tracing(name, dtype):
    optimizer = TABLE[name][0]
    params = tree.map(lambda x: ms.astype(ms.asarray(x), dtype), START)
    grads = tree.map(lambda x: ms.astype(ms.asarray(x), dtype), GRADS[0])
    state = optimizer.init(params)
    assert all(leaf.dtype in (ms.float32, ms.int32) for leaf in tree.leaves(state))
    leaves, treedef = tree.flatten((grads, state, params))
    eager = optimizer.update(grads, state, params)
    new = optim.apply_updates(params, eager[0])
    assert [(x.shape, x.dtype) for x in tree.leaves(new)] == [(x.shape, x.dtype) for x in tree.leaves(params)]
    assert [(x.shape, x.dtype) for x in tree.leaves(eager[1])] == [(x.shape, x.dtype) for x in tree.leaves(state)]
    assert tree.flatten(eager[1])[1] == tree.flatten(state)[1]
    traced = trace(lambda *xs: tree.leaves(optimizer.update(*tree.unflatten(treedef, xs))), [x._type for x in leaves])
    same(evaluate(traced.graph, (*leaves, *traced.captured)), tree.leaves(eager), rtol=1e-6, atol=1e-7)


def test_chain_is_associative():
    a, b, c = optim.clip_by_global_norm(1.0), optim.scale_by_adam(), optim.scale(-LR)
    left, _ = run(optim.chain(optim.chain(a, b), c))
    right, _ = run(optim.chain(a, optim.chain(b, c)))
    flat, _ = run(optim.chain(a, b, c))
    for other in (left, right):
        assert all((x.numpy() == y.numpy()).all() for x, y in zip(tree.leaves(flat), tree.leaves(other), strict=True))


@pytest.mark.parametrize("limit", [0.5, 1e3])
def test_clipping_bounds_large_norms_and_leaves_small_ones(limit):
    clipped, _ = optim.clip_by_global_norm(limit).update(tensors(GRADS[0]), ())
    norm = np.sqrt(sum((g**2).sum() for g in GRADS[0].values()))
    assert float(optim.global_norm(tensors(GRADS[0]))) == pytest.approx(norm)
    same(clipped, tree.map(lambda g: g * min(1.0, limit / norm), GRADS[0]), rtol=1e-12)
    if norm < limit:
        assert all((x.numpy() == y).all() for x, y in zip(tree.leaves(clipped), tree.leaves(GRADS[0]), strict=True))
    each, _ = optim.clip(0.3).update(tensors(GRADS[0]), ())
    same(each, tree.map(lambda g: np.clip(g, -0.3, 0.3), GRADS[0]))


@pytest.mark.parametrize("traced", [False, True])
def test_accumulating_equals_one_big_batch(traced):
    inner = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(LR))
    means = [tree.map(lambda *gs: sum(gs) / 3, *GRADS[i:i + 3]) for i in (0, 3)]
    want, _ = run(inner, grads=means)
    optimizer = optim.accumulate(inner, 3)
    if traced:
        plain = optimizer

        def update(grads, state, params):
            leaves, treedef = tree.flatten((grads, state, params))
            out = []

            def flat(*xs):
                result, structure = tree.flatten(plain.update(*tree.unflatten(treedef, xs)))
                out.append(structure)
                return result

            made = trace(flat, [x._type for x in leaves])
            return tree.unflatten(out[0], evaluate(made.graph, (*leaves, *made.captured)))

        optimizer = optim.Optimizer(plain.init, update)
    got, state = run(optimizer)
    same(got, want, rtol=1e-12)
    assert int(state.count) == 0
    waiting, _ = run(optimizer, grads=GRADS[:2])
    same(waiting, START)


def test_average_of_weights():
    optimizer = optim.chain(optim.sgd(LR), optim.ema(0.9))
    params, state = run(optimizer)
    w, average = START, START
    for g in GRADS:
        w = tree.map(lambda a, b: a - LR * b, w, g)
        average = tree.map(lambda a, b: 0.9 * a + 0.1 * b, average, w)
    same(params, w)
    same(optim.averaged(state, params), average)
    with pytest.raises(ArgumentError, match="ema"):
        optim.averaged(optim.sgd(LR).init(params), params)


@dataclass(frozen=True)
class Layer:
    w: Any
    steps: Any
    running: Any = tree.buffer()


def test_leaves_that_are_not_trained_pass_through():
    layer = Layer(ms.asarray([1.0, 2.0]), ms.asarray(3), ms.asarray([5.0, 6.0]))
    for optimizer in (entry[0] for entry in TABLE.values()):
        state = optimizer.init(layer)
        grads = ms.grad(lambda m: ms.sum(m.w * m.w + 0.0 * m.running))(layer)
        updates, state = optimizer.update(grads, state, layer)
        new = optim.apply_updates(layer, updates)
        assert updates.steps is None and updates.running is None
        assert new.steps is layer.steps and new.running is layer.running and (new.w.numpy() != layer.w.numpy()).any()


def test_a_frozen_leaf_keeps_its_state():
    optimizer = optim.chain(optim.clip_by_global_norm(9.0), optim.adamw(LR), optim.ema(0.5))
    params = tensors(START)
    state = optimizer.init(params)
    updates, new = optimizer.update({"b": None, "w": ms.asarray(GRADS[0]["w"])}, state, params)
    assert updates["b"] is None and optim.apply_updates(params, updates)["b"] is params["b"]
    assert new[1][0].mean["b"] is state[1][0].mean["b"]


def test_masks_choose_leaves():
    params, _ = run(optim.adamw(LR, weight_decay=0.05, mask=optim.matrices_only))
    same(params, {"b": adam(START["b"], [g["b"] for g in GRADS]),
                  "w": adam(START["w"], [g["w"] for g in GRADS], decoupled=0.05)})


def test_a_schedule_is_the_learning_rate():
    rate = optim.schedule.linear(0.1, 0.0, 5)
    params, _ = run(optim.sgd(rate))
    w = START["w"]
    for n, g in enumerate(GRADS):
        w = w - 0.1 * max(0.0, 1 - n / 5) * g["w"]
    same({"w": params["w"]}, {"w": w}, rtol=1e-13)


@pytest.mark.parametrize("call, error", [
    (lambda p: optim.adamw(LR).update(p, optim.adamw(LR).init(p)), ArgumentError),
    (lambda p: optim.accumulate(optim.sgd(LR), 0), ArgumentError),
    (lambda p: optim.adam(LR).update({"w": p["w"]}, optim.adam(LR).init(p)), TreeError),
    (lambda p: optim.apply_updates(p, {"w": p["w"]}), TreeError),
])
def test_misuse(call, error):
    with pytest.raises(error):
        call(tensors(START))
