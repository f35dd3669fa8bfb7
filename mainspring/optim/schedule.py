"""Schedules of the learning rate: functions of the step (an int, or an int32 tensor, traced too), giving a float64 scalar.

The first update is step 0. They are made of ops, so a compiled training step computes its own rate; in float64, so that
long runs and float64 models lose no digits (`scale_by_schedule` rounds to the dtype of each leaf).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mainspring.base.errors import ArgumentError
from mainspring.interpret.eager import as_value
from mainspring.ops.common import cast_to
from mainspring.ops.elementwise import clip, cos, floor, greater_equal, less, power, where
from mainspring.types.dtype import float64

Schedule = Callable[[Any], Any]


def _number(x: float) -> Any:
    return as_value(np.asarray(x, np.float64))


def _step(step: Any) -> Any:
    return cast_to(as_value(step, "schedule"), float64)


def _progress(step: Any, begin: float, steps: float) -> Any:
    """How far `step` is from `begin` on its way through `steps`, in [0, 1]."""
    return clip((_step(step) - begin) / max(steps, 1e-9), 0.0, 1.0)


def _require_steps(where_: str, argument: str, steps: float) -> None:
    if steps < 1:
        raise ArgumentError(where_, argument, "must be ≥ 1", str(steps), f"{argument}=1000")


def constant(value: float) -> Schedule:
    """`value` at every step."""
    return lambda step: _number(value)


def linear(begin: float, end: float, steps: int) -> Schedule:
    """From `begin` to `end` in a straight line over `steps`, then `end`."""
    _require_steps("linear", "steps", steps)
    return lambda step: begin + (end - begin) * _progress(step, 0, steps)


def _cosine(begin: float, end: float, progress: Any) -> Any:
    return end + (begin - end) * 0.5 * (1.0 + cos(math.pi * progress))


def cosine(peak: float, steps: int, *, warmup: int = 0, end: float = 0.0, start: float = 0.0) -> Schedule:
    """Linear from `start` to `peak` over `warmup` steps, then half a cosine to `end` at `steps` (Loshchilov & Hutter, 2017)."""
    _require_steps("cosine", "steps", steps - warmup)

    def schedule(step: Any) -> Any:
        down = _cosine(peak, end, _progress(step, warmup, steps - warmup))
        return where(less(_step(step), warmup), start + (peak - start) * _progress(step, 0, warmup), down) if warmup else down

    return schedule


def exponential(begin: float, rate: float, steps: int = 1, *, staircase: bool = False) -> Schedule:
    """begin · rate^(step / steps); the exponent is rounded down with `staircase`."""
    _require_steps("exponential", "steps", steps)

    def schedule(step: Any) -> Any:
        exponent = _step(step) / steps
        return begin * power(_number(rate), floor(exponent) if staircase else exponent)

    return schedule


def step_decay(begin: float, factor: float, every: int) -> Schedule:
    """`begin`, times `factor` after each `every` steps."""
    return exponential(begin, factor, every, staircase=True)


def piecewise(begin: float, factors: dict[int, float]) -> Schedule:
    """`begin`, times ``factors[b]`` from each step b on."""

    def schedule(step: Any) -> Any:
        value = _number(begin)
        for boundary, factor in sorted(factors.items()):
            value = value * where(greater_equal(_step(step), boundary), _number(factor), _number(1.0))
        return value

    return schedule


def one_cycle(peak: float, steps: int, *, rising: float = 0.3, start_factor: float = 25.0, end_factor: float = 1e4) -> Schedule:
    """Half a cosine from peak / start_factor up to `peak` over the share `rising` of `steps`, then one down.

    Smith & Topin, 2018. It ends at peak / start_factor / end_factor at the last step, number ``steps - 1``, as PyTorch's
    OneCycleLR.
    """
    _require_steps("one_cycle", "steps", steps)
    begin, turn, last = peak / start_factor, rising * steps - 1.0, steps - 1.0

    def schedule(step: Any) -> Any:
        up = _cosine(begin, peak, _progress(step, 0.0, turn))
        return where(less(_step(step), turn), up, _cosine(peak, begin / end_factor, _progress(step, turn, last - turn)))

    return schedule


def join(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """The schedules one after another: number i + 1 begins, counting from 0 again, at ``boundaries[i]``."""
    if len(boundaries) != len(schedules) - 1 or list(boundaries) != sorted(boundaries):
        raise ArgumentError("join", "boundaries", f"must be {len(schedules) - 1} increasing steps", str(boundaries),
                            "join([warm, rest], [100])")

    def schedule(step: Any) -> Any:
        value = as_value(schedules[0](step))
        for boundary, later in zip(boundaries, schedules[1:], strict=True):
            value = where(less(_step(step), boundary), value, later(_step(step) - boundary))
        return value

    return schedule
