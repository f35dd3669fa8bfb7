"""Transforms that shape an update by the gradients before it (momentum, Adam, …) or by the parameters (decay, trust ratios)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mainspring.base import tree
from mainspring.ops import reduce
from mainspring.ops.common import cast_to
from mainspring.ops.elementwise import equal, expm1, greater, logical_and, sign, sqrt, square, where
from mainspring.optim.transform import Mask, Optimizer, counter, leafwise, mapped, stateful, stateless, wide, zeros
from mainspring.types.dtype import float64


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
    """x / (1 - decay^count): times the reciprocal, one for all elements, found without cancellation and in float64 before it is
    rounded to the dtype of `x`."""
    steps: Any = cast_to(count, float64)
    return x * cast_to(-1.0 / expm1(steps * math.log(decay)), x.dtype) if decay else x


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
        return mapped(lambda g, p, chosen: wide(g) + wide(p) * weight_decay if chosen else g, grads, params,
                      _flags(params, mask))

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
