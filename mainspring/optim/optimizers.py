"""Optimizers: each one chain of transforms. `learning_rate` is a number or a schedule (`mainspring.optim.schedule`).

`mask(path, parameter)` chooses the leaves that weight decay (and a trust ratio) applies to, e.g. `matrices_only`.
"""

from __future__ import annotations

from mainspring.optim.adaptive import (
    add_decayed_weights,
    scale_by_adagrad,
    scale_by_adam,
    scale_by_lars,
    scale_by_lion,
    scale_by_rms,
    scale_by_trust_ratio,
    trace,
)
from mainspring.optim.transform import Mask, Optimizer, Schedule, chain, scale_by_learning_rate

Rate = float | Schedule


def _decay(weight_decay: float, mask: Mask | None) -> list[Optimizer]:
    return [add_decayed_weights(weight_decay, mask)] if weight_decay else []


def _momentum(momentum: float, nesterov: bool = False) -> list[Optimizer]:
    return [trace(momentum, nesterov)] if momentum else []


def sgd(learning_rate: Rate, momentum: float = 0.0, *, nesterov: bool = False, weight_decay: float = 0.0,
        mask: Mask | None = None) -> Optimizer:
    """Stochastic gradient descent: g ← g + weight_decay · w, v ← momentum · v + g, w ← w - lr · v (PyTorch's SGD)."""
    return chain(*_decay(weight_decay, mask), *_momentum(momentum, nesterov), scale_by_learning_rate(learning_rate))


def adam(learning_rate: Rate, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, *, weight_decay: float = 0.0,
         mask: Mask | None = None) -> Optimizer:
    """Adam (Kingma & Ba, 2015); `weight_decay` is added to the gradient, as an L2 penalty would."""
    return chain(*_decay(weight_decay, mask), scale_by_adam(b1, b2, eps), scale_by_learning_rate(learning_rate))


def adamw(learning_rate: Rate, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, *, weight_decay: float = 1e-2,
          mask: Mask | None = None) -> Optimizer:
    """Adam with decoupled weight decay: w ← w - lr · (m̂ / (√v̂ + eps) + weight_decay · w) (Loshchilov & Hutter, 2019)."""
    return chain(scale_by_adam(b1, b2, eps), *_decay(weight_decay, mask), scale_by_learning_rate(learning_rate))


def rmsprop(learning_rate: Rate, decay: float = 0.99, eps: float = 1e-8, *, momentum: float = 0.0, centered: bool = False,
            weight_decay: float = 0.0, mask: Mask | None = None) -> Optimizer:
    """RMSProp (Tieleman & Hinton, 2012), with eps outside the root and momentum behind the division, as PyTorch's."""
    return chain(*_decay(weight_decay, mask), scale_by_rms(decay, eps, centered), *_momentum(momentum),
                 scale_by_learning_rate(learning_rate))


def adagrad(learning_rate: Rate, eps: float = 1e-10, *, initial: float = 0.0, weight_decay: float = 0.0,
            mask: Mask | None = None) -> Optimizer:
    """Adagrad (Duchi et al., 2011): w ← w - lr · g / (√Σg² + eps)."""
    return chain(*_decay(weight_decay, mask), scale_by_adagrad(initial, eps), scale_by_learning_rate(learning_rate))


def lion(learning_rate: Rate, b1: float = 0.9, b2: float = 0.99, *, weight_decay: float = 0.0,
         mask: Mask | None = None) -> Optimizer:
    """Lion (Chen et al., 2023): w ← w - lr · (sign(b1 · m + (1 - b1) · g) + weight_decay · w)."""
    return chain(scale_by_lion(b1, b2), *_decay(weight_decay, mask), scale_by_learning_rate(learning_rate))


def lars(learning_rate: Rate, momentum: float = 0.9, *, weight_decay: float = 0.0, trust: float = 0.001,
         mask: Mask | None = None,
         nesterov: bool = False, eps: float = 0.0) -> Optimizer:
    """LARS (You et al., 2017, algorithm 1): v ← momentum · v + lr · λ (g + weight_decay · w), w ← w - v, λ each leaf's."""
    return chain(scale_by_lars(weight_decay, trust, mask, eps), scale_by_learning_rate(learning_rate),
                 *_momentum(momentum, nesterov))


def lamb(learning_rate: Rate, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6, *, weight_decay: float = 0.0,
         mask: Mask | None = None) -> Optimizer:
    """LAMB (You et al., 2020, algorithm 2): an adamw update, scaled for each leaf to the norm of its parameter."""
    return chain(scale_by_adam(b1, b2, eps), *_decay(weight_decay, mask), scale_by_trust_ratio(mask),
                 scale_by_learning_rate(learning_rate))
