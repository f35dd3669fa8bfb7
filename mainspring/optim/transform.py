"""Gradient transforms: init/update pairs that chain into optimizers.

With this you can write an optimizer as a column: ``chain(clip_by_global_norm(1.0), scale_by_adam(), scale(-3e-4))``.
A state is a tree of tensors, counters are int32 tensors, and every update is a pure function: it can be traced, sharded
and saved. Trees of gradients may hold None: such leaves, those that are no floats, and buffers (`tree.buffer`) pass through
untouched. Moments of 16-bit parameters are kept in float32.
"""

from __future__ import annotations

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
from mainspring.ops.elementwise import clip as clip_elements
from mainspring.ops.elementwise import greater, sqrt, square, where

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
    return tree.unflatten(treedef, [p if u is None else _added(p, u) for p,
                                    u in zip(leaves, tree.leaves_at(treedef, updates), strict=True)])


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


def stateful(init: Callable[[Any], Any], update: Callable[[Any, Any, Any], tuple[Any, Any]],
             needs_params: str = "") -> Optimizer:
    """An Optimizer whose functions see trainable leaves only."""

    def full_update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if needs_params and params is None:
            raise ArgumentError(needs_params, "params", "this update needs the parameters", "None",
                                "optimizer.update(grads, state, params)")
        return update(trainable(grads), state, None if params is None else trainable(params))

    return Optimizer(lambda params: init(trainable(params)), full_update)


def leafwise(function: Callable[..., tuple[Any, ...]], grads: Any, *states: Any) -> tuple[Any, ...]:
    """``function(g, *s) -> (update, *new_s)`` at each leaf, as one tree each; for a gradient None: None, and s unchanged."""
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
    """The sum by pairs of neighbours: a chain of additions would be as many steps, one waiting for the other."""
    while len(terms) > 1:
        terms = [a + b for a, b in zip(terms[::2], terms[1::2], strict=False)] + terms[len(terms) & ~1 :]
    return terms[0]


def clip_by_global_norm(limit: float) -> Optimizer:
    """Updates scaled down to a `global_norm` of at most `limit`; smaller ones stay as they are (Pascanu et al., 2013)."""

    def update(grads: Any, params: Any) -> Any:
        norm = global_norm(grads)
        large = greater(norm, limit)
        factor = where(large, limit / where(large, norm, 1.0), 1.0)
        return mapped(lambda g: cast_to(wide(g) * cast_to(factor, wide_dtype(g.dtype)), g.dtype), grads)

    return stateless(update)
