"""A training step of a GPT: cross-entropy, gradients clipped by their global norm, AdamW that decays matrices only."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from benchmarks import steps
from benchmarks.harness import Case, Family, Workload
from benchmarks.models import gpt

RATE, B1, B2, EPS, DECAY, CLIP, CHECKS = 1e-3, 0.9, 0.99, 1e-8, 0.1, 1.0, 3


def case_of(size: gpt.Size, extra: bool = False) -> Case:
    return Case(size.name, {"gpt": size}, size.step_operations(), extra=extra)


def mainspring(case: Case, precision: Any = None) -> Workload:
    """`precision`: of the products, an `ms.Precision`; float32 by default."""
    import mainspring as ms
    from mainspring import nn, optim

    size = case.sizes["gpt"]

    def loss(model: Any, batch: Any, key: Any) -> Any:
        return nn.cross_entropy(model(batch["inputs"]), batch["targets"]), {}

    optimizer = optim.chain(optim.clip_by_global_norm(CLIP),
                            optim.adamw(RATE, B1, B2, EPS, weight_decay=DECAY, mask=optim.matrices_only))
    inputs, targets = (ms.asarray(x.astype(np.int32)) for x in gpt.tokens(size))
    return steps.mainspring(loss, optimizer, gpt.mainspring(size), {"inputs": inputs, "targets": targets}, CHECKS, precision)


def torch(case: Case, compiled: bool) -> Workload:
    import torch
    import torch.nn.functional as F

    model = gpt.torch(case.sizes["gpt"])
    matrices, others = ([p for p in model.parameters() if (p.dim() >= 2) == wanted] for wanted in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}],
                                  RATE, (B1, B2), EPS, fused=True)
    inputs, targets = (torch.from_numpy(x) for x in gpt.tokens(case.sizes["gpt"]))

    def loss_of(inputs: Any, targets: Any) -> Any:
        return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    return steps.torch(loss_of, optimizer, (inputs, targets), CHECKS, compiled,
                       lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP))


def jax(case: Case) -> Workload:
    import jax
    import jax.numpy as jnp

    size = case.sizes["gpt"]

    def loss(w: Any, inputs: Any, targets: Any) -> Any:
        scores = jax.nn.log_softmax(gpt.jax_forward(w, inputs, size.heads))
        return -jnp.take_along_axis(scores, targets[..., None], -1).mean()

    @partial(jax.jit, donate_argnums=(0, 1, 2, 3))
    def step(w: Any, mean: Any, square: Any, count: Any, inputs: Any, targets: Any) -> Any:
        value, g = jax.value_and_grad(loss)(w, inputs, targets)
        norm = jnp.sqrt(sum((x * x).sum() for x in jax.tree.leaves(g)))
        g = jax.tree.map(lambda x: x * jnp.minimum(1.0, CLIP / (norm + 1e-6)), g)
        count = count + 1
        mean = jax.tree.map(lambda m, x: B1 * m + (1 - B1) * x, mean, g)
        square = jax.tree.map(lambda v, x: B2 * v + (1 - B2) * x * x, square, g)

        def update(w: Any, m: Any, v: Any) -> Any:
            adam = (m / (1 - B1**count)) / (jnp.sqrt(v / (1 - B2**count)) + EPS)
            return w - RATE * (adam + (DECAY * w if w.ndim >= 2 else 0))

        return value, jax.tree.map(update, w, mean, square), mean, square, count

    w = jax.tree.map(jnp.array, gpt.weights(size))
    inputs, targets = (jnp.asarray(x) for x in gpt.tokens(size))
    moments = [jax.tree.map(jnp.zeros_like, w) for _ in range(2)]
    return steps.jax(step, [w, *moments, jnp.zeros(())], (inputs, targets), CHECKS)


RECIPE = gpt.Size(width=128, context=64, batch=12)  # the size of `mainspring train`
FAMILY = Family(
    "gpt_step",
    "training step of a GPT, AdamW, float32",
    (
        case_of(gpt.Size()),
        case_of(RECIPE),
        case_of(gpt.Size(layers=2, width=64, heads=2, context=32, batch=4), extra=True),
        case_of(gpt.Size(layers=3, width=192, heads=6, context=96, batch=5), extra=True),
        case_of(gpt.Size(layers=2, width=512, heads=8, context=128, batch=4), extra=True),
        case_of(gpt.Size(layers=2, width=256, heads=4, context=512, batch=2), extra=True),
    ),
    {"mainspring": mainspring, "torch eager": partial(torch, compiled=False), "torch.compile": partial(torch, compiled=True),
     "jax": jax},
    tolerance=2e-4,
)
