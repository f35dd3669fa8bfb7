"""What a recipe consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainspring.recipes.sampling import Sampling
from mainspring.train import Settings, Task


@dataclass(frozen=True)
class Recipe:
    """A job as the command line runs it.

    Attributes:
        name, summary: what it is called, and a line about it.
        config: its settings, each with a default.
        task: ``task(config)`` reads the data and makes the model.
        sample: ``sample(config, model, task)``: text for sample.txt that shows what the model has learned.
        generate: ``generate(config, checkpoints, prompt, sampling)``: pieces of what the trained model writes, for a recipe
            that can write.
    """

    name: str
    summary: str
    config: type[Settings]
    task: Callable[[Any], Task]
    sample: Callable[[Any, Any, Task], str]
    generate: Callable[[Any, Path, str, Sampling], Iterator[str]] | None = None
