"""A training step of a residual network: batch norm with running statistics, cross-entropy, SGD with momentum."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from benchmarks import steps
from benchmarks.harness import Case, Family, Workload
from benchmarks.models import cnn

RATE, MOMENTUM, CHECKS = 0.02, 0.9, 3


def _case(size: cnn.Size, extra: bool = False) -> Case:
    return Case(size.name, {"cnn": size}, size.step_operations(), extra=extra)


def mainspring(case: Case) -> Workload:
    import mainspring as ms
    from mainspring import nn, optim

    def loss(model: Any, batch: Any, key: Any) -> Any:
        scores, model = model.forward(batch["x"], training=True)
        return nn.cross_entropy(scores, batch["y"]), ({}, model)

    x, y = cnn.batch(case.sizes["cnn"])
    data = {"x": ms.asarray(x), "y": ms.asarray(y.astype(np.int32))}
    return steps.mainspring(loss, optim.sgd(RATE, MOMENTUM), cnn.mainspring(case.sizes["cnn"]), data, CHECKS)


def torch(case: Case, compiled: bool) -> Workload:
    import torch
    import torch.nn.functional as F

    size = case.sizes["cnn"]
    model = cnn.torch(size).train()
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, fused=True)
    x, y = cnn.torch_images(size), torch.from_numpy(cnn.batch(size)[1])

    def loss_of(x: Any, y: Any) -> Any:
        return F.cross_entropy(model(x), y)

    return steps.torch(loss_of, optimizer, (x, y), CHECKS, compiled)


def jax(case: Case) -> Workload:
    import jax
    import jax.numpy as jnp

    def loss(w: Any, statistics: Any, x: Any, y: Any) -> Any:
        scores, statistics = cnn.jax_forward(w, statistics, x, training=True)
        return -jnp.take_along_axis(jax.nn.log_softmax(scores), y[:, None], 1).mean(), statistics

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(w: Any, velocity: Any, statistics: Any, x: Any, y: Any) -> Any:
        (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(w, statistics, x, y)
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradient)
        return value, jax.tree.map(lambda w, v: w - RATE * v, w, velocity), velocity, statistics

    w, statistics = (jax.tree.map(jnp.array, tree) for tree in cnn.jax_parameters(case.sizes["cnn"]))
    x, y = (jnp.asarray(part) for part in cnn.batch(case.sizes["cnn"]))
    return steps.jax(step, [w, jax.tree.map(jnp.zeros_like, w), statistics], (x, y), CHECKS)


FAMILY = Family(
    "cnn_step",
    "training step of a residual network, SGD with momentum, float32",
    (
        _case(cnn.Size()),
        _case(cnn.Size((16, 32), 8, 16), extra=True),
        _case(cnn.Size((24, 48, 96), 20, 28), extra=True),
        _case(cnn.Size((64, 128), 16, 32), extra=True),
    ),
    {"mainspring": mainspring, "torch eager": partial(torch, compiled=False), "torch.compile": partial(torch, compiled=True),
     "jax": jax},
    tolerance=1e-3,
)
