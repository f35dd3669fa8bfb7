"""The training loop with a model of your own: progress, metrics, checkpoints, early stopping; run again, it goes on.

python examples/use_the_loop.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import mainspring as ms
from mainspring import nn, optim
from mainspring.data import Dataset, Loader
from mainspring.train import RunFolder, Settings, Task, Validation, fit


def waves(count: int, seed: int) -> Dataset:
    """Noisy sine waves ``[count, 32, 1]`` and their frequencies ``[count]``."""
    rng = np.random.default_rng(seed)
    frequency = rng.uniform(1, 4, count)
    phase = rng.uniform(0, 2 * np.pi, count)
    time = np.linspace(0, 1, 32)
    x = np.sin(2 * np.pi * frequency[:, None] * time + phase[:, None]) + rng.normal(0, 0.2, (count, 32))
    return Dataset({"x": x[..., None].astype(np.float32), "y": frequency.astype(np.float32)})


def errors(model: Any, batch: dict[str, Any]) -> Any:
    return ms.square(model(batch["x"])[:, 0] - batch["y"])


def loss(model: Any, batch: dict[str, Any], key: Any) -> Any:
    return ms.mean(errors(model, batch)), {}


def main(folder: Path) -> None:
    keys = ms.random.split(ms.random.key(0), 3)
    model = nn.Sequential.create(
        nn.Conv1d.create(keys[0], 1, 16, 5, stride=2, padding=2),
        nn.gelu,
        nn.Conv1d.create(keys[1], 16, 32, 5, stride=2, padding=2),
        nn.gelu,
        nn.Flatten(),
        nn.Linear.create(keys[2], 8 * 32, 1),
    )
    settings = Settings(steps=600, batch=64, eval_every=100, patience=3)
    task = Task(
        model=model,
        optimizer=optim.adam(2e-3),
        loss=loss,
        loader=Loader(waves(4096, seed=1), settings.batch, key=settings.seed),
        validation=Validation(lambda model, batch: {"loss": errors(model, batch)}, waves(512, seed=2)),
    )
    resume = (folder / "config.json").exists()
    run = RunFolder(folder) if resume else RunFolder.create(folder, settings.as_json())
    outcome = fit(task, settings, run, resume=resume)
    print(f"best mean squared error {outcome.progress.best_loss:.4f} at step {outcome.progress.best_step}; see {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/waves"))
