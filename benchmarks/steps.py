"""Training steps as things to run: what the steps of all families have in common, for each library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.harness import Workload


def mainspring(loss: Any, optimizer: Any, model: Any, data: Any, checks: int, precision: Any = None) -> Workload:
    """Our step, compiled whole, its state donated. `checks`: first losses that peers must agree on."""
    import mainspring as ms
    from mainspring.train import initial_state, training_step

    step = ms.jit(training_step(loss, optimizer, precision or ms.Precision()), donate=0)
    state = [initial_state(model, optimizer, 0)]

    def run() -> float:
        state[0], metrics = step(state[0], data)
        return float(metrics["loss"])

    return Workload(run, checks)


def torch(loss_of: Any, optimizer: Any, data: Sequence[Any], checks: int, compiled: bool,
          before_update: Callable[[], object] = lambda: None) -> Workload:
    """PyTorch's step, eager or with its loss compiled; `before_update` may clip the gradients."""
    import torch

    loss_function = torch.compile(loss_of) if compiled else loss_of

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_function(*data)
        loss.backward()
        before_update()
        optimizer.step()
        return loss.item()

    return Workload(run, checks)


def jax(step: Any, state: Sequence[Any], data: Sequence[Any], checks: int) -> Workload:
    """JAX's step: ``step(*state, *data)`` gives the loss and the new state."""
    import jax

    current = list(state)

    def run() -> float:
        value, *current[:] = step(*current, *data)
        jax.block_until_ready(current)
        return float(value)

    return Workload(run, checks)
