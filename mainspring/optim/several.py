"""Transforms over several updates: gradients accumulated between steps, and the average of the weights."""

from __future__ import annotations

from typing import Any, NamedTuple

from mainspring.autodiff.reverse import zeros_like
from mainspring.base import tree
from mainspring.base.errors import ArgumentError
from mainspring.interpret.eager import as_value
from mainspring.ops.common import cast_to
from mainspring.ops.control import cond
from mainspring.ops.elementwise import equal, where
from mainspring.optim.transform import Optimizer, counter, leafwise, mapped, stateful, wide, zeros


class AccumulateState(NamedTuple):
    """`count`: gradients gathered since the last step; `total`: their sum; `inner`: the state of what is wrapped."""

    count: Any
    total: Any
    inner: Any


def accumulate(optimizer: Optimizer, every: int) -> Optimizer:
    """`optimizer` applied to the mean of each `every` gradients: one step of a larger batch. The updates between are 0."""
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
    return tree.unflatten(treedef, [p if a is None else cast_to(a, as_value(p).dtype) for p,
                                    a in zip(leaves, averages, strict=True)])


def _find(state: Any, kind: type) -> Any:
    if isinstance(state, kind):
        return state
    return next((found for part in state if (found := _find(part, kind)) is not None), None) if isinstance(state,
                                                                                                           tuple) else None
