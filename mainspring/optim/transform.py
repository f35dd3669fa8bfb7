"""Gradient transforms: init/update pairs that chain into optimizers.

With this you can write an optimizer as a column: ``chain(clip_by_global_norm(1.0), scale_by_adam(), scale(-3e-4))``.
A state is a tree of tensors, counters are int32 tensors, and every update is a pure function: it can be traced, sharded
and saved. Trees of gradients may hold None: such leaves, those that are no floats, and buffers (`tree.buffer`) pass through
untouched. Moments of 16-bit parameters are kept in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mainspring.autodiff.reverse import zeros_like
from mainspring.base import tree
from mainspring.base.errors import ArgumentError
from mainspring.interpret.eager import as_value
from mainspring.nn.module import trainable
from mainspring.ops import reduce
from mainspring.ops.common import cast_to
from mainspring.ops.composed import wide_dtype
from mainspring.ops.control import cond
from mainspring.ops.elementwise import clip as clip_elements
from mainspring.ops.elementwise import equal, expm1, greater, logical_and, sign, sqrt, square, where
from mainspring.types.dtype import float64

Schedule = Callable[[Any], Any]
Mask = Callable[[str, Any], bool]


@dataclass(frozen=True)
class Optimizer:
    """``init(params) -> state`` and ``update(grads, state, params) -> (updates, state)``; `apply_updates` adds the updates.

    `params` may be left out of `update` where a transform does not need it.
    """

    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, Any]]


def apply_updates(params: Any, updates: Any) -> Any:
    """params + updates, in the dtypes of `params`; a leaf whose update is None stays."""
    leaves, treedef = tree.flatten(params)
    return tree.unflatten(treedef, [p if u is None else _added(p, u) for p, u in zip(leaves, tree.leaves_at(treedef, updates), strict=True)])


def _added(p: Any, u: Any) -> Any:
    p = as_value(p, "apply_updates")
    return cast_to(wide(p) + cast_to(u, wide_dtype(p.dtype)), p.dtype)


def wide(x: Any) -> Any:
    """`x` in float32 where it has 16 bits."""
    value = as_value(x, "optim")
    return cast_to(value, wide_dtype(value.dtype))


def stateless(function: Callable[[Any, Any], Any], needs_params: str = "") -> Optimizer:
    """The transform ``function(grads, params) -> updates`` of whole trees; `needs_params` names a transform that needs them."""
    return stateful(lambda params: (), lambda grads, state, params: (function(grads, params), ()), needs_params)


def stateful(init: Callable[[Any], Any], update: Callable[[Any, Any, Any], tuple[Any, Any]], needs_params: str = "") -> Optimizer:
    """An Optimizer whose functions see trainable leaves only."""

    def full_update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if needs_params and params is None:
            raise ArgumentError(needs_params, "params", "this update needs the parameters", "None", "optimizer.update(grads, state, params)")
        return update(trainable(grads), state, None if params is None else trainable(params))

    return Optimizer(lambda params: init(trainable(params)), full_update)


def leafwise(function: Callable[..., tuple[Any, ...]], grads: Any, *states: Any) -> tuple[Any, ...]:
    """``function(g, *s) -> (update, *new_s)`` at each leaf, as one tree each; where a gradient is None: None, and s unchanged."""
    _, treedef = tree.flatten(states[0] if states else grads)
    columns = [tree.leaves_at(treedef, t) for t in (grads, *states)]
    rows = [function(g, *s) if g is not None else (None, *s) for g, *s in zip(*columns, strict=True)]
    return tuple(tree.unflatten(treedef, [row[i] for row in rows]) for i in range(len(states) + 1))


def mapped(function: Callable[..., Any], grads: Any, *others: Any) -> Any:
    """``function(g, *others)`` at each leaf of `grads`."""
    leaves, treedef = tree.flatten(grads)
    columns = [tree.leaves_at(treedef, t) for t in others]
    return tree.unflatten(treedef, [function(*row) for row in zip(leaves, *columns, strict=True)])


def zeros(params: Any) -> Any:
    """A tree of zeros like `params`, at least float32."""
    return tree.map(lambda p: zeros_like(wide(p)), params)


def counter() -> Any:
    """The step counter: int32 0."""
    return as_value(np.int32(0))


def chain(*transforms: Optimizer) -> Optimizer:
    """The transforms one after another; the state is the tuple of theirs."""

    def init(params: Any) -> tuple[Any, ...]:
        return tuple(t.init(params) for t in transforms)

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        new = []
        for transform, own in zip(transforms, state, strict=True):
            grads, own = transform.update(grads, own, params)
            new.append(own)
        return grads, tuple(new)

    return Optimizer(init, update)


# ------------------------------------------------------------------------------------------------- size of the step


def scale(factor: float) -> Optimizer:
    """Updates times `factor`."""
    return stateless(lambda grads, params: mapped(lambda g: g * factor, grads))


class ScheduleState(NamedTuple):
    """`count`: updates made."""

    count: Any


def scale_by_schedule(schedule: Schedule) -> Optimizer:
    """Updates times ``schedule(count)``, where the first update has count 0."""

    def update(grads: Any, state: ScheduleState, params: Any) -> tuple[Any, ScheduleState]:
        factor = as_value(schedule(state.count))
        return mapped(lambda g: g * cast_to(factor, g.dtype), grads), ScheduleState(state.count + 1)

    return stateful(lambda params: ScheduleState(counter()), update)


def scale_by_learning_rate(learning_rate: float | Schedule) -> Optimizer:
    """Updates times -learning_rate, a number or a schedule: the last link of most chains."""
    if callable(learning_rate):
        return scale_by_schedule(lambda count: -learning_rate(count))
    return scale(-learning_rate)


def clip(limit: float) -> Optimizer:
    """Each element of the updates limited to [-limit, limit]."""
    return stateless(lambda grads, params: mapped(lambda g: clip_elements(g, -limit, limit), grads))


def global_norm(of: Any) -> Any:
    """√ of the sum of squares over all float leaves of a tree, in float32 (float64 where a leaf has it)."""
    squares = [reduce.sum(square(wide(x))) for x in tree.leaves(trainable(of))]
    return sqrt(_total(squares)) if squares else as_value(0.0)


def _total(terms: list[Any]) -> Any:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def clip_by_global_norm(limit: float) -> Optimizer:
    """Updates scaled down so that their `global_norm` is at most `limit`; smaller ones stay as they are (Pascanu et al., 2013)."""

    def update(grads: Any, params: Any) -> Any:
        norm = global_norm(grads)
        large = greater(norm, limit)
        factor = where(large, limit / where(large, norm, 1.0), 1.0)
        return mapped(lambda g: cast_to(wide(g) * cast_to(factor, wide_dtype(g.dtype)), g.dtype), grads)

    return stateless(update)


# --------------------------------------------------------------------------------------------------------- moments


class TraceState(NamedTuple):
    """`trace`: the velocity."""

    trace: Any


def trace(momentum: float, nesterov: bool = False) -> Optimizer:
    """v ← momentum · v + g; the update is v, or g + momentum · v with `nesterov` (Sutskever et al., 2013)."""

    def one(g: Any, v: Any) -> tuple[Any, Any]:
        g = wide(g)
        v = v * momentum + g
        return (g + v * momentum if nesterov else v), v

    def update(grads: Any, state: TraceState, params: Any) -> tuple[Any, TraceState]:
        updates, new = leafwise(one, grads, state.trace)
        return updates, TraceState(new)

    return stateful(lambda params: TraceState(zeros(params)), update)


class AdamState(NamedTuple):
    """`count`: updates made; `mean`, `square`: running averages of the gradient and its square."""

    count: Any
    mean: Any
    square: Any


def _unbiased(x: Any, decay: float, count: Any) -> Any:
    """x / (1 - decay^count), the denominator without cancellation and in float64 before it is rounded to the dtype of `x`."""
    return x / cast_to(-expm1(cast_to(count, float64) * math.log(decay)), x.dtype) if decay else x


def scale_by_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Optimizer:
    """m̂ / (√v̂ + eps) with bias-corrected averages of the gradient and its square (Kingma & Ba, 2015, algorithm 1)."""

    def update(grads: Any, state: AdamState, params: Any) -> tuple[Any, AdamState]:
        count = state.count + 1

        def one(g: Any, m: Any, v: Any) -> tuple[Any, Any, Any]:
            g = wide(g)
            m = m * b1 + g * (1.0 - b1)
            v = v * b2 + square(g) * (1.0 - b2)
            return _unbiased(m, b1, count) / (sqrt(_unbiased(v, b2, count)) + eps), m, v

        updates, mean, squares = leafwise(one, grads, state.mean, state.square)
        return updates, AdamState(count, mean, squares)

    return stateful(lambda params: AdamState(counter(), zeros(params), zeros(params)), update)


class RmsState(NamedTuple):
    """`square`: running average (or sum) of the squared gradient; `mean`: of the gradient, or None."""

    square: Any
    mean: Any


def scale_by_rms(decay: float = 0.99, eps: float = 1e-8, centered: bool = False) -> Optimizer:
    """g / (√v + eps), v the running average of g², minus the squared average of g with `centered` (Tieleman & Hinton, 2012)."""

    def one(g: Any, v: Any, m: Any = None) -> tuple[Any, ...]:
        g = wide(g)
        v = v * decay + square(g) * (1.0 - decay)
        if m is None:
            return g / (sqrt(v) + eps), v
        m = m * decay + g * (1.0 - decay)
        return g / (sqrt(v - square(m)) + eps), v, m

    def update(grads: Any, state: RmsState, params: Any) -> tuple[Any, RmsState]:
        updates, *new = leafwise(one, grads, *(state if centered else state[:1]))
        return updates, RmsState(*new, *([] if centered else [None]))

    return stateful(lambda params: RmsState(zeros(params), zeros(params) if centered else None), update)


def scale_by_adagrad(initial: float = 0.0, eps: float = 1e-10) -> Optimizer:
    """g / (√s + eps), s the sum of all g² (Duchi et al., 2011), beginning at `initial`."""

    def one(g: Any, s: Any) -> tuple[Any, Any]:
        g = wide(g)
        s = s + square(g)
        return g / (sqrt(s) + eps), s

    def update(grads: Any, state: RmsState, params: Any) -> tuple[Any, RmsState]:
        updates, new = leafwise(one, grads, state.square)
        return updates, RmsState(new, None)

    return stateful(lambda params: RmsState(tree.map(lambda z: z + initial, zeros(params)), None), update)


def scale_by_lion(b1: float = 0.9, b2: float = 0.99) -> Optimizer:
    """sign(b1 · m + (1 - b1) · g), then m ← b2 · m + (1 - b2) · g (Chen et al., 2023, algorithm 2)."""

    def one(g: Any, m: Any) -> tuple[Any, Any]:
        g = wide(g)
        return sign(m * b1 + g * (1.0 - b1)), m * b2 + g * (1.0 - b2)

    def update(grads: Any, state: TraceState, params: Any) -> tuple[Any, TraceState]:
        updates, new = leafwise(one, grads, state.trace)
        return updates, TraceState(new)

    return stateful(lambda params: TraceState(zeros(params)), update)


# ------------------------------------------------------------------------------------ what looks at the parameters


def matrices_only(path: str, p: Any) -> bool:
    """A mask: leaves of two dims or more, so not biases and the weights of norms."""
    return p.ndim >= 2


def _flags(params: Any, mask: Mask | None) -> Any:
    leaves, treedef = tree.flatten(params)
    return tree.unflatten(treedef, [mask is None or mask(path, p) for path, p in zip(tree.paths(params), leaves, strict=True)])


def add_decayed_weights(weight_decay: float, mask: Mask | None = None) -> Optimizer:
    """Updates plus weight_decay · parameter, at the leaves for which ``mask(path, parameter)`` holds (all by default)."""

    def update(grads: Any, params: Any) -> Any:
        return mapped(lambda g, p, chosen: wide(g) + wide(p) * weight_decay if chosen else g, grads, params, _flags(params, mask))

    return stateless(update, "add_decayed_weights")


def _norm(x: Any) -> Any:
    return sqrt(reduce.sum(square(wide(x))))


def _ratio(top: Any, bottom: Any, eps: float) -> Any:
    """top / (bottom + eps), and 1 where either is 0."""
    usable = logical_and(greater(top, 0.0), greater(bottom, 0.0))
    return where(usable, top / where(usable, bottom + eps, 1.0), 1.0)


def scale_by_trust_ratio(mask: Mask | None = None, eps: float = 0.0) -> Optimizer:
    """Each leaf's update times ‖parameter‖ / ‖update‖, 1 where either is 0 (You et al., 2020, "LAMB", algorithm 2)."""

    def one(g: Any, p: Any, chosen: bool) -> Any:
        return g * cast_to(_ratio(_norm(p), _norm(g), eps), g.dtype) if chosen else g

    return stateless(lambda grads, params: mapped(one, grads, params, _flags(params, mask)), "scale_by_trust_ratio")


def scale_by_lars(weight_decay: float = 0.0, trust: float = 0.001, mask: Mask | None = None, eps: float = 0.0) -> Optimizer:
    """λ (g + β w) with the local rate λ = trust · ‖w‖ / (‖g‖ + β ‖w‖) (You et al., 2017, equation 6 and algorithm 1).

    Leaves outside `mask` keep g: neither decayed nor scaled.
    """

    def one(g: Any, p: Any, chosen: bool) -> Any:
        if not chosen:
            return g
        size, (g, p) = _norm(p), (wide(g), wide(p))
        local = _ratio(size * trust, _norm(g) + size * weight_decay, eps)
        return (g + p * weight_decay) * cast_to(where(equal(size, 0.0), 1.0, local), g.dtype)

    return stateless(lambda grads, params: mapped(one, grads, params, _flags(params, mask)), "scale_by_lars")


# ------------------------------------------------------------------------------------------- across several updates


class AccumulateState(NamedTuple):
    """`count`: gradients gathered since the last step; `total`: their sum; `inner`: the state of what is wrapped."""

    count: Any
    total: Any
    inner: Any


def accumulate(optimizer: Optimizer, every: int) -> Optimizer:
    """`optimizer` applied to the mean of each `every` gradients: one step of a batch `every` times as large. Other updates are 0."""
    if every < 1:
        raise ArgumentError("accumulate", "every", "must be ≥ 1", str(every), "optim.accumulate(optim.adam(1e-3), 4)")

    def update(grads: Any, state: AccumulateState, params: Any) -> tuple[Any, AccumulateState]:
        total, _ = leafwise(lambda g, t: (t + wide(g), t), grads, state.total)
        total = mapped(lambda t, new: t if new is None else new, state.total, total)
        count = state.count + 1

        def step(total: Any, inner: Any, params: Any) -> tuple[Any, Any, Any]:
            updates, inner = optimizer.update(tree.map(lambda t: t * (1.0 / every), total), inner, params)
            return mapped(lambda t, u: cast_to(wide(u), t.dtype), total, updates), inner, tree.map(zeros_like, total)

        def wait(total: Any, inner: Any, params: Any) -> tuple[Any, Any, Any]:
            return tree.map(zeros_like, total), inner, total

        due = equal(count, every)
        updates, inner, total = cond(due, step, wait, total, state.inner, params)
        return updates, AccumulateState(where(due, 0, count), total, inner)

    return stateful(lambda params: AccumulateState(counter(), zeros(params), optimizer.init(params)), update)


class AverageState(NamedTuple):
    """`average`: running average of the parameters, at least float32."""

    average: Any


def ema(decay: float) -> Optimizer:
    """Updates unchanged; keeps a ← decay · a + (1 - decay) · (params + updates). Last in a chain; read it with `averaged`."""

    def update(grads: Any, state: AverageState, params: Any) -> tuple[Any, AverageState]:
        def one(u: Any, a: Any, p: Any) -> tuple[Any, Any, Any]:
            return u, a * decay + (wide(p) + cast_to(u, a.dtype)) * (1.0 - decay), p

        updates, average, _ = leafwise(one, grads, state.average, params)
        return updates, AverageState(average)

    return stateful(lambda params: AverageState(tree.map(wide, params)), update, "ema")


def averaged(state: Any, params: Any) -> Any:
    """`params` with the averages that an `ema` in `state` keeps, in the dtypes of `params`."""
    found = _find(state, AverageState)
    if found is None:
        raise ArgumentError("averaged", "state", "must come from a chain that holds optim.ema", type(state).__name__,
                            "optim.chain(optim.adam(1e-3), optim.ema(0.999))")
    leaves, treedef = tree.flatten(params)
    averages = tree.leaves_at(treedef, found.average)
    return tree.unflatten(treedef, [p if a is None else cast_to(a, as_value(p).dtype) for p, a in zip(leaves, averages, strict=True)])


def _find(state: Any, kind: type) -> Any:
    if isinstance(state, kind):
        return state
    return next((found for part in state if (found := _find(part, kind)) is not None), None) if isinstance(state, tuple) else None

