"""`TrainState`: everything a training step reads and writes, as one tree that is compiled, donated and saved whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mainspring import optim
from mainspring.base import tree
from mainspring.ops import random
from mainspring.tensor import asarray
from mainspring.train import checkpoint


@dataclass(frozen=True)
class TrainState:
    """The state between two steps.

    Attributes:
        step: int32 ``[]``, optimizer steps done.
        model: the model that is trained, a tree; its buffers (running statistics) are part of it.
        optimizer: the state of its optimizer, a tree.
        key: the random key of the run; step ``k`` uses ``fold_in(key, k)``, so it never changes.
    """

    step: Any
    model: Any
    optimizer: Any
    key: Any


def initial_state(model: Any, optimizer: optim.Optimizer, seed: int) -> TrainState:
    """The state before the first step, in buffers of its own, so that a step may take them over and finds none twice."""
    state = TrainState(np.int32(0), model, optimizer.init(model), random.key(seed))
    return tree.map(lambda leaf: asarray(np.asarray(leaf)), state)


def with_average(optimizer: optim.Optimizer, decay: float | None) -> optim.Optimizer:
    """`optimizer`, keeping a moving average of the weights where a decay is given."""
    return optimizer if decay is None else optim.chain(optimizer, optim.ema(decay))


def model_to_use(state: TrainState, decay: float | None) -> Any:
    """The model to evaluate and to use: the averaged one where `with_average` keeps it."""
    return state.model if decay is None else optim.averaged(state.optimizer, state.model)


def load_model(
    path: checkpoint.PathLike, model: Any, optimizer: optim.Optimizer, decay: float | None = None
) -> tuple[Any, checkpoint.Checkpoint]:
    """The trained model of a checkpoint and the checkpoint.

    Args:
        path: a checkpoint, or a folder of them, of which the newest whole one is read.
        model: one of the same shapes; its values do not matter.
        optimizer, decay: as the run had them.

    Raises:
        CheckpointError: there is none, it is damaged, or it holds another model.
    """
    whole = path if (Path(path) / checkpoint.MANIFEST).exists() else checkpoint.latest_valid(path)
    found = checkpoint.load(whole, initial_state(model, with_average(optimizer, decay), 0), wrap=asarray)
    return model_to_use(found.state, decay), found
