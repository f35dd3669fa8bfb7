"""Schedules against their formulas in Python floats; an int32 tensor gives what an int gives."""

from __future__ import annotations

import math

import numpy as np
import pytest

import mainspring as ms
from mainspring.base.errors import ArgumentError
from mainspring.optim import schedule as s


def one_cycle(t, peak=1.0, steps=20, rising=0.25):
    turn, last = rising * steps - 1, steps - 1
    if t < turn:
        a, b, p = peak / 25, peak, t / turn
    else:
        a, b, p = peak, peak / 25 / 1e4, min(1, (t - turn) / (last - turn))
    return b + (a - b) / 2 * (1 + math.cos(math.pi * p))


TABLE = [
    (s.constant(0.3), lambda t: 0.3),
    (s.linear(1.0, 0.5, 10), lambda t: max(0.5, 1 - 0.05 * t)),
    (s.cosine(2.0, 20, warmup=4, end=0.2, start=0.1),
     lambda t: 0.1 + 1.9 * t / 4 if t < 4 else 0.2 + 0.9 * (1 + math.cos(math.pi * min(1, (t - 4) / 16)))),
    (s.cosine(1.0, 8), lambda t: 0.5 * (1 + math.cos(math.pi * min(1, t / 8)))),
    (s.exponential(1.0, 0.5, 3), lambda t: 0.5 ** (t / 3)),
    (s.step_decay(1.0, 0.1, 6), lambda t: 0.1 ** (t // 6)),
    (s.piecewise(1.0, {5: 0.1, 9: 0.5}), lambda t: (0.1 if t >= 5 else 1) * (0.5 if t >= 9 else 1)),
    (s.one_cycle(1.0, 20, rising=0.25), one_cycle),
    (s.join([s.linear(0.0, 1.0, 3), s.step_decay(1.0, 0.5, 2)], [3]), lambda t: t / 3 if t < 3 else 0.5 ** ((t - 3) // 2)),
]


@pytest.mark.parametrize("row", range(len(TABLE)))
def test_formula(row):
    schedule, formula = TABLE[row]
    for step in range(24):
        value = schedule(step)
        assert value.shape == () and float(value) == pytest.approx(formula(step), rel=1e-12, abs=1e-15)
        assert float(schedule(ms.asarray(np.int32(step)))) == float(value)


def test_misuse():
    for call in (lambda: s.linear(0.1, 0.0, 0), lambda: s.cosine(1.0, 5, warmup=5), lambda: s.join([s.constant(1.0)], [3])):
        with pytest.raises(ArgumentError):
            call()
