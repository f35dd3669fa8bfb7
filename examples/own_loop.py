"""A training step of your own, compiled whole: a small network learns which of two spirals a point lies on.

python examples/own_loop.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

import mainspring as ms
from mainspring import nn, optim


def spirals(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points float32 ``[count, 2]`` and which spiral each belongs to, int32 ``[count]``."""
    rng = np.random.default_rng(seed)
    which = rng.integers(0, 2, count)
    radius = np.sqrt(rng.random(count)) * 3
    angle = radius * 2 + which * np.pi + rng.normal(0, 0.1, count)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return points.astype(np.float32), which.astype(np.int32)


def loss(model: nn.Module, points: Any, which: Any) -> Any:
    return nn.cross_entropy(model(points), which)


def main() -> None:
    first, second, third = ms.random.split(ms.random.key(0), 3)
    model: Any = nn.Sequential.create(
        nn.Linear.create(first, 2, 64), ms.tanh, nn.Linear.create(second, 64, 64), ms.tanh, nn.Linear.create(third, 64, 2)
    )
    optimizer = optim.adamw(optim.schedule.cosine(1e-2, steps=500))
    state = optimizer.init(model)

    @ms.jit(donate=(0, 1))
    def step(model: Any, state: Any, points: Any, which: Any) -> Any:
        value, gradient = ms.value_and_grad(loss)(model, points, which)
        updates, state = optimizer.update(gradient, state, model)
        return optim.apply_updates(model, updates), state, value

    for number in range(500):
        points, which = spirals(256, seed=number)
        model, state, value = step(model, state, points, which)
        if number % 100 == 99:
            print(f"step {number + 1} loss {float(value):.4f}")

    points, which = spirals(2000, seed=1_000_000)
    hits = np.argmax(np.asarray(model(points)), axis=1) == which
    print(f"right on {hits.mean():.1%} of new points")


if __name__ == "__main__":
    main()
