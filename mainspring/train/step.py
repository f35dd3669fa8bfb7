"""A training step as one pure function of trees, (state, batch) -> (state, metrics): what `ms.jit` compiles whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mainspring.autodiff.reverse import value_and_grad
from mainspring.ops import random
from mainspring.ops.precision import Precision
from mainspring.optim import Optimizer, apply_updates
from mainspring.train.state import TrainState

FULL = Precision()
Loss = Callable[[Any, Any, Any], tuple[Any, Any]]
Step = Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]]


def training_step(loss: Loss, optimizer: Optimizer, precision: Precision = FULL) -> Step:
    """The step that `loss` and `optimizer` make.

    Args:
        loss: ``loss(model, batch, key) -> (loss, metrics)``: a float scalar, and a dict of scalars to report. A model whose
            buffers change as it runs is given back, too: ``(loss, (metrics, model))``.
        optimizer: an init/update pair.
        precision: of the products in the loss and its gradient; weights, gradients and the optimizer are float32 in any case.

    Returns:
        A pure function ``(state, batch) -> (state, metrics)``; metrics hold ``"loss"`` and what the loss reports.
    """

    differentiated = precision(value_and_grad(loss, has_aux=True))

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        key = random.fold_in(state.key, state.step)
        (value, aux), gradient = differentiated(state.model, batch, key)
        metrics, model = (aux, state.model) if isinstance(aux, dict) else aux
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, model)
        following = TrainState(state.step + 1, apply_updates(model, updates), optimizer_state, state.key)
        return following, {"loss": value, **metrics}

    return step
