"""Losses against their formulas in NumPy, over reductions, and their gradients against central differences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import mainspring as ms
from mainspring.base.errors import ArgumentError, DTypeError, ShapeError
from mainspring.ops import losses
from tests.unit.numeric import assert_gradients

RNG = np.random.default_rng(4)
A, B = RNG.standard_normal((5, 3)), RNG.standard_normal((5, 3))
P, T = RNG.uniform(0.05, 0.95, (5, 3)), RNG.uniform(0.05, 0.95, (5, 3))
D = np.abs(A - B)

TABLE = {
    "mse": (losses.mse, (A, B), D**2),
    "mae": (losses.mae, (A, B), D),
    "huber": (lambda a, b, **k: losses.huber(a, b, delta=0.7, **k), (A, B), np.where(D <= 0.7, D * D / 2, 0.7 * (D - 0.35))),
    "smooth_l1": (lambda a, b, **k: losses.smooth_l1(a, b, beta=0.7, **k), (A, B), np.where(D <= 0.7, D * D / 1.4, D - 0.35)),
    "smooth_l1 of 0": (lambda a, b, **k: losses.smooth_l1(a, b, beta=0.0, **k), (A, B), D),
    "bce": (losses.bce, (P, T), -(T * np.log(P) + (1 - T) * np.log(1 - P))),
    "bce_with_logits": (losses.bce_with_logits, (A, T), np.log1p(np.exp(A)) - T * A),
    "bce_with_logits weighted": (lambda a, t, **k: losses.bce_with_logits(a, t, pos_weight=np.float64(3.0) * np.ones(3), **k),
                                 (A, T),
                                 3 * T * np.log1p(np.exp(-A)) + (1 - T) * np.log1p(np.exp(A))),
    "kl_div": (losses.kl_div, (A, T), T * (np.log(T) - A)),
    "kl_div log": (lambda a, t, **k: losses.kl_div(a, t, log_target=True, **k), (A, B), np.exp(B) * (B - A)),
    "gaussian_nll": (losses.gaussian_nll, (A, B, P), 0.5 * (np.log(P) + (A - B) ** 2 / P)),
}


@pytest.mark.parametrize("name", TABLE)
def test_formula_reductions_and_gradients(name):
    function, arguments, elements = TABLE[name]
    for reduction, want in (("none", elements), ("mean", elements.mean()), ("sum", elements.sum())):
        assert np.allclose(function(*arguments, reduction=reduction).numpy(), want, rtol=1e-12)
    assert_gradients(function, *arguments)
    assert function(*[a.astype(np.float16) for a in arguments]).dtype is ms.float32


def classes(x, target, weight, smoothing, ignore, reduction):
    """Cross-entropy of (n, classes) one row at a time: PyTorch's definition."""
    n, c = x.shape
    weight = np.ones(c) if weight is None else weight
    logp = x - np.log(np.exp(x).sum(-1, keepdims=True))
    rows, weights = np.zeros(n), np.zeros(n)
    for i, label in enumerate(target):
        if label == ignore:
            continue
        weights[i] = weight[label]
        rows[i] = -(1 - smoothing) * weight[label] * logp[i, label] - smoothing / c * (weight * logp[i]).sum()
    return {"none": rows, "sum": rows.sum(), "mean": rows.sum() / max(weights.sum(), 1e-300)}[reduction]


LOGITS, LABELS, WEIGHT = RNG.standard_normal((7, 4)) * 3, np.array([0, 3, 1, 1, 2, 0, 3]), RNG.uniform(0.5, 2, 4)


@pytest.mark.parametrize("weight, smoothing, ignore, reduction",
                         list(itertools.product((None, WEIGHT), (0.0, 0.3), (None, 1), ("none", "mean", "sum"))))
def test_cross_entropy_of_labels(weight, smoothing, ignore, reduction):
    options = {"weight": weight, "label_smoothing": smoothing, "ignore_index": ignore, "reduction": reduction}
    want = classes(LOGITS, LABELS, weight, smoothing, ignore, reduction)
    assert np.allclose(losses.cross_entropy(LOGITS, LABELS, **options).numpy(), want, rtol=1e-12)
    moved = losses.cross_entropy(np.stack([LOGITS, -LOGITS]).transpose(2, 0, 1), np.stack([LABELS, LABELS]), axis=0, **options)
    if reduction == "none":
        assert np.allclose(moved.numpy()[0], want)
    assert_gradients(lambda x: losses.cross_entropy(x, LABELS, **options), LOGITS)


def test_cross_entropy_of_probabilities_and_nll():
    hot = np.eye(4)[LABELS]
    for smoothing in (0.0, 0.2):
        assert np.allclose(losses.cross_entropy(LOGITS, hot, label_smoothing=smoothing).numpy(),
                           losses.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing).numpy())
    logp = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    assert np.allclose(losses.nll(logp, LABELS, weight=WEIGHT).numpy(), classes(LOGITS, LABELS, WEIGHT, 0.0, None, "mean"))
    soft = np.abs(RNG.standard_normal((7, 4)))
    assert np.allclose(losses.cross_entropy(LOGITS, soft, weight=WEIGHT, reduction="sum").numpy(),
                       -(soft * WEIGHT * logp).sum())
    assert_gradients(lambda x, t: losses.cross_entropy(x, t, label_smoothing=0.1), LOGITS, soft)


def test_extremes():
    assert np.isclose(float(losses.cross_entropy(np.array([[1e4, -1e4]]), np.array([1]))), 2e4)
    assert float(losses.cross_entropy(LOGITS, np.full(7, 9), ignore_index=9)) == 0.0
    assert np.isfinite(float(losses.bce_with_logits(np.array([1e4, -1e4]), np.array([0.0, 1.0]))))
    assert float(losses.bce(np.array([0.0, 1.0]), np.array([1.0, 0.0]))) == 100.0
    assert float(losses.kl_div(np.array([[0.0, -1.0]]), np.array([[0.0, 1.0]]), reduction="batchmean")) == 1.0


@pytest.mark.parametrize("call, error", [
    (lambda: losses.mse(A, B[:, :1]), ShapeError),
    (lambda: losses.mse(A, B, reduction="average"), ArgumentError),
    (lambda: losses.cross_entropy(LOGITS, LABELS[:3]), ShapeError),
    (lambda: losses.cross_entropy(LOGITS, LABELS > 1), DTypeError),
    (lambda: losses.cross_entropy(LOGITS, LABELS, label_smoothing=2.0), ArgumentError),
    (lambda: losses.cross_entropy(LOGITS, np.eye(4)[LABELS], ignore_index=0), ArgumentError),
    (lambda: losses.nll(LOGITS, LOGITS), DTypeError),
])
def test_misuse(call, error):
    with pytest.raises(error):
        call()
