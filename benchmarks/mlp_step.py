"""A training step of a small perceptron (784-256-128-10, batch 64, SGD with momentum), so short that its overhead shows."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks import steps
from benchmarks.harness import Case, Family, Workload

RATE, MOMENTUM, CHECKS = 0.05, 0.9, 5


def _case(batch: int, *widths: int, extra: bool = False) -> Case:
    products = sum(a * b for a, b in pairwise(widths))
    operations = 2.0 * batch * (3 * products - widths[0] * widths[1])  # the first layer needs no gradient of its input
    return Case(f"{'-'.join(map(str, widths))} batch {batch}", {"batch": batch, "widths": widths}, operations, extra=extra)


def weights(case: Case) -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(0)
    return [(generator.standard_normal(shape, np.float32) * (2 / shape[0]) ** 0.5, np.zeros(shape[1], np.float32))
            for shape in pairwise(case.sizes["widths"])]


def batch(case: Case) -> tuple[np.ndarray, np.ndarray]:
    generator, size, widths = np.random.default_rng(1), case.sizes["batch"], case.sizes["widths"]
    return generator.standard_normal((size, widths[0]), np.float32), generator.integers(0, widths[-1], size)


def mainspring(case: Case) -> Workload:
    import mainspring as ms
    from mainspring import nn, optim

    layers = [nn.Linear(ms.asarray(w), ms.asarray(b)) for w, b in weights(case)]
    model = nn.Sequential.create(*[part for layer in layers for part in (layer, nn.relu)][:-1])

    def loss(model: Any, batch: Any, key: Any) -> Any:
        return nn.cross_entropy(model(batch["x"]), batch["y"]), {}

    x, y = batch(case)
    data = {"x": ms.asarray(x), "y": ms.asarray(y.astype(np.int32))}
    return steps.mainspring(loss, optim.sgd(RATE, MOMENTUM), model, data, CHECKS)


def torch(case: Case, compiled: bool) -> Workload:
    import torch
    import torch.nn.functional as F
    from torch import nn

    layers: list[nn.Module] = []
    for w, b in weights(case):
        layer = nn.Linear(*w.shape)
        layer.load_state_dict({"weight": torch.from_numpy(w.T.copy()), "bias": torch.from_numpy(b)})
        layers += [layer, nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, fused=True)
    x, y = (torch.from_numpy(part) for part in batch(case))

    def loss_of(x: Any, y: Any) -> Any:
        return F.cross_entropy(model(x), y)

    return steps.torch(loss_of, optimizer, (x, y), CHECKS, compiled)


def jax(case: Case) -> Workload:
    import jax
    import jax.numpy as jnp

    def loss(layers: Any, x: Any, y: Any) -> Any:
        for w, b in layers[:-1]:
            x = jax.nn.relu(x @ w + b)
        scores = jax.nn.log_softmax(x @ layers[-1][0] + layers[-1][1])
        return -jnp.take_along_axis(scores, y[:, None], 1).mean()

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(layers: Any, velocity: Any, x: Any, y: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(layers, x, y)
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradient)
        return value, jax.tree.map(lambda w, v: w - RATE * v, layers, velocity), velocity

    layers = jax.tree.map(jnp.array, weights(case))
    x, y = (jnp.asarray(part) for part in batch(case))
    return steps.jax(step, [layers, jax.tree.map(jnp.zeros_like, layers)], (x, y), CHECKS)


FAMILY = Family(
    "mlp_step",
    "training step of a perceptron, SGD with momentum, float32",
    (
        _case(64, 784, 256, 128, 10),
        _case(1, 64, 32, 4, extra=True),
        _case(32, 100, 50, 7, extra=True),
        _case(128, 784, 512, 512, 10, extra=True),
        _case(256, 1024, 1024, 1024, 100, extra=True),
    ),
    {"mainspring": mainspring, "torch eager": partial(torch, compiled=False), "torch.compile": partial(torch, compiled=True),
     "jax": jax},
    tolerance=1e-4,
)
