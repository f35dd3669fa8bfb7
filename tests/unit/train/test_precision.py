"""Training with products in bfloat16: the loss follows that of float32, weights and the optimizer's state stay float32."""

from __future__ import annotations

import numpy as np

import mainspring as ms
from mainspring.base import tree
from mainspring.recipes import shakespeare
from mainspring.train import TrainState, initial_state, training_step

STEPS, SEEDS = 150, (1, 2, 3)


def trained(seed: int, precision: ms.Precision) -> tuple[np.ndarray, TrainState]:
    """(losses, the last state) of a small character GPT."""
    config = shakespeare.Config(steps=STEPS, batch=8, context=32, width=32, layers=2, heads=2, seed=seed, learning_rate=3e-3,
                                warmup=20)
    task = shakespeare.task(config)
    step = ms.jit(training_step(task.loss, task.optimizer, precision), donate=0)
    state, losses = initial_state(task.model, task.optimizer, seed), []
    with task.loader as batches:
        for _ in range(STEPS):
            state, measured = step(state, next(batches))
            losses.append(float(measured["loss"]))
    return np.array(losses), state


def test_the_loss_curve_is_that_of_float32_within_its_noise() -> None:
    plain, half = (np.array([trained(seed, precision)[0] for seed in SEEDS])
                   for precision in (ms.Precision(), ms.Precision(compute=ms.bfloat16)))
    ends, spread = plain[:, -50:].mean(1), plain[:, -50:].mean(1).std(ddof=1)
    assert (plain != half).any() and ends.max() < 3.0
    assert np.abs(half[:, -50:].mean(1) - ends).max() < spread  # for each seed, less than what another seed would have changed
    assert np.abs(half[:, -50:].mean(1) - ends).mean() < 0.01


def test_weights_and_moments_stay_float32() -> None:
    _, state = trained(1, ms.Precision(compute=ms.bfloat16))
    leaves = tree.leaves((state.model, state.optimizer))
    assert {leaf.dtype.name for leaf in leaves if leaf.dtype.kind == "float"} == {"float32"}
