"""Training with products in bfloat16: the loss follows that of float32, weights and the optimizer's state stay float32."""

from __future__ import annotations

import dataclasses

import numpy as np

import mainspring as ms
from mainspring.base import flags, tree
from mainspring.recipes import shakespeare
from mainspring.train import TrainState, initial_state, training_step

STEPS, SEEDS = 120, (1, 2, 3)
SMALL = shakespeare.Config(steps=STEPS, batch=8, context=32, width=32, layers=2, heads=2, learning_rate=3e-3, warmup=20)


def trained(precision: ms.Precision) -> tuple[np.ndarray, TrainState]:
    """The losses (seeds, steps) of a small character GPT, and the last state."""
    tasks = [shakespeare.task(dataclasses.replace(SMALL, seed=seed)) for seed in SEEDS]
    step = ms.jit(training_step(tasks[0].loss, tasks[0].optimizer, precision), donate=0)
    losses = np.empty((len(SEEDS), STEPS))
    for task, seed, curve in zip(tasks, SEEDS, losses, strict=True):
        state = initial_state(task.model, task.optimizer, seed)
        with task.loader as batches, flags.override(threads=1):
            for i in range(STEPS):
                state, measured = step(state, next(batches))
                curve[i] = float(measured["loss"])
    return losses, state


def test_the_loss_curve_is_that_of_float32_within_its_noise() -> None:
    (plain, _), (half, state) = trained(ms.Precision()), trained(ms.Precision(compute=ms.bfloat16))
    ends, halves = plain[:, -40:].mean(1), half[:, -40:].mean(1)
    assert (plain != half).any() and ends.max() < 3.0
    assert np.abs(halves - ends).max() < ends.std(ddof=1)  # for each seed, less than what another seed would have changed
    assert np.abs(halves - ends).mean() < 0.01
    leaves = tree.leaves((state.model, state.optimizer))
    assert {leaf.dtype.name for leaf in leaves if leaf.dtype.kind == "float"} == {"float32"}
