"""A training step of a character LSTM (2 layers of 256, embedding 128, batch 16, 64 steps), Adam: many small steps in a row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks import steps
from benchmarks.harness import Case, Family, Workload

RATE, B1, B2, EPS, CHECKS = 1e-3, 0.9, 0.999, 1e-8, 3


@dataclass(frozen=True)
class Size:
    """How large it is; products have no biases, for PyTorch has two where one is enough, and Adam would move both."""

    layers: int = 2
    hidden: int = 256
    embedding: int = 128
    batch: int = 16
    steps: int = 64
    symbols: int = 65

    def inputs(self) -> list[int]:
        """Features that each layer reads."""
        return [self.embedding] + [self.hidden] * (self.layers - 1)

    def case(self, extra: bool = False) -> Case:
        tokens = self.batch * self.steps
        products = sum(4 * self.hidden * (size + self.hidden) for size in self.inputs()) + self.hidden * self.symbols
        name = f"{self.layers} layers of {self.hidden}, embedding {self.embedding}, batch {self.batch}, {self.steps} steps"
        return Case(name, {"lstm": self}, 3 * 2.0 * tokens * products, extra=extra)


def weights(size: Size) -> dict[str, Any]:
    """Matrices are [in, out], gates in PyTorch's order i, f, g, o."""
    generator, bound = np.random.default_rng(0), size.hidden**-0.5

    def matrix(*shape: int) -> np.ndarray:
        return generator.uniform(-bound, bound, shape).astype(np.float32)

    cells = [(matrix(inputs, 4 * size.hidden), matrix(size.hidden, 4 * size.hidden)) for inputs in size.inputs()]
    return {"embedding": matrix(size.symbols, size.embedding), "cells": cells, "head": matrix(size.hidden, size.symbols)}


def tokens(size: Size) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(1).integers(0, size.symbols, (size.batch, size.steps + 1))
    return drawn[:, :-1].copy(), drawn[:, 1:].copy()


def mainspring(case: Case) -> Workload:
    import mainspring as ms
    from mainspring import nn, optim

    @dataclass(frozen=True, eq=False)
    class Model(nn.Module):
        embedding: nn.Embedding
        lstm: nn.LSTM
        head: nn.Linear

        def __call__(self, tokens: Any) -> Any:
            return self.head(self.lstm(self.embedding(tokens)))

    def loss(model: Any, batch: Any, key: Any) -> Any:
        return nn.cross_entropy(model(batch["inputs"]), batch["targets"]), {}

    w = weights(case.sizes["lstm"])
    cells = tuple((nn.LSTMCell(ms.asarray(a), ms.asarray(b)),) for a, b in w["cells"])
    model = Model(nn.Embedding(ms.asarray(w["embedding"])), nn.LSTM(cells), nn.Linear(ms.asarray(w["head"])))
    inputs, targets = (ms.asarray(x.astype(np.int32)) for x in tokens(case.sizes["lstm"]))
    return steps.mainspring(loss, optim.adam(RATE, B1, B2, EPS), model, {"inputs": inputs, "targets": targets}, CHECKS)


def torch(case: Case, compiled: bool) -> Workload:
    import torch
    import torch.nn.functional as F
    from torch import nn

    size, w = case.sizes["lstm"], weights(case.sizes["lstm"])

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding.from_pretrained(torch.from_numpy(w["embedding"]), freeze=False)
            self.lstm = nn.LSTM(size.embedding, size.hidden, size.layers, bias=False, batch_first=True)
            self.head = nn.Linear(size.hidden, size.symbols, bias=False)
            for layer, cell in enumerate(w["cells"]):
                for kind, value in zip(("ih", "hh"), cell, strict=True):
                    getattr(self.lstm, f"weight_{kind}_l{layer}").data.copy_(torch.from_numpy(value.T))
            self.head.weight.data.copy_(torch.from_numpy(w["head"].T))

        def forward(self, tokens: Any) -> Any:
            return self.head(self.lstm(self.embedding(tokens))[0])

    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), RATE, (B1, B2), EPS, fused=True)
    inputs, targets = (torch.from_numpy(x) for x in tokens(size))

    def loss_of(inputs: Any, targets: Any) -> Any:
        return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    return steps.torch(loss_of, optimizer, (inputs, targets), CHECKS, compiled)


def jax(case: Case) -> Workload:
    import jax
    import jax.numpy as jnp

    size = case.sizes["lstm"]

    def layer(cell: Any, x: Any) -> Any:
        def one(state: Any, projected: Any) -> Any:
            h, c = state
            i, f, g, o = jnp.split(projected + h @ cell[1], 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((size.batch, size.hidden))
        return jax.lax.scan(one, (zero, zero), x @ cell[0])[1]

    def loss(w: Any, inputs: Any, targets: Any) -> Any:
        x = w["embedding"][inputs.T]
        for cell in w["cells"]:
            x = layer(cell, x)
        return -jnp.take_along_axis(jax.nn.log_softmax(x @ w["head"]), targets.T[..., None], -1).mean()

    @partial(jax.jit, donate_argnums=(0, 1, 2, 3))
    def step(w: Any, mean: Any, square: Any, count: Any, inputs: Any, targets: Any) -> Any:
        value, g = jax.value_and_grad(loss)(w, inputs, targets)
        count = count + 1
        mean = jax.tree.map(lambda m, x: B1 * m + (1 - B1) * x, mean, g)
        square = jax.tree.map(lambda v, x: B2 * v + (1 - B2) * x * x, square, g)

        def update(w: Any, m: Any, v: Any) -> Any:
            return w - RATE * (m / (1 - B1**count)) / (jnp.sqrt(v / (1 - B2**count)) + EPS)

        return value, jax.tree.map(update, w, mean, square), mean, square, count

    w = jax.tree.map(jnp.array, weights(size))
    inputs, targets = (jnp.asarray(x) for x in tokens(size))
    moments = [jax.tree.map(jnp.zeros_like, w) for _ in range(2)]
    return steps.jax(step, [w, *moments, jnp.zeros(())], (inputs, targets), CHECKS)


FAMILY = Family(
    "lstm_step",
    "training step of a character LSTM, Adam, float32",
    (
        Size().case(),
        Size(1, 64, 32, 4, 20).case(extra=True),
        Size(1, 200, 100, 10, 50).case(extra=True),
        Size(2, 512, 256, 32, 32).case(extra=True),
    ),
    {"mainspring": mainspring, "torch eager": partial(torch, compiled=False), "torch.compile": partial(torch, compiled=True),
     "jax": jax},
    tolerance=2e-4,
)
