"""A residual CNN on small images: scikit-learn's digits, or MNIST, Fashion-MNIST or CIFAR-10 from ``--data DIR``.

Source of the network: He et al., "Deep residual learning for image recognition", CVPR 2016, in its form for small images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import mainspring as ms
from mainspring import nn, optim
from mainspring.base.errors import DataError
from mainspring.data import Dataset, ImageData, Loader, digits, images
from mainspring.recipes.recipe import Recipe
from mainspring.train import Settings, Task, Validation

SHOWN = 512  # test images in the sample's table


@dataclass(frozen=True)
class Config(Settings):
    """`width`: channels of the first stage; each further one of `stages` doubles them and halves the picture."""

    steps: int = 600
    batch: int = 64
    learning_rate: float = 3e-3
    eval_every: int = 100
    width: int = 16
    stages: int = 2
    depth: int = 2
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "stages", "depth"):
            self.require(name, lambda value: value >= 1, "it must be at least 1")


@dataclass(frozen=True, eq=False)
class Residual(nn.Stateful):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(x)))))); the shortcut is x itself where the shape stays."""

    first: nn.Conv2d
    first_norm: nn.BatchNorm
    second: nn.Conv2d
    second_norm: nn.BatchNorm
    shortcut: nn.Conv2d | None

    @classmethod
    def create(cls, key: Any, inputs: int, outputs: int, stride: int) -> Residual:
        keys = ms.random.split(key, 3)
        return cls(
            nn.Conv2d.create(keys[0], inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm.create(outputs),
            nn.Conv2d.create(keys[1], outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm.create(outputs),
            None if stride == 1 and inputs == outputs else nn.Conv2d.create(keys[2], inputs, outputs, 1, stride=stride),
        )

    def forward(self, x: Any, *, training: bool = False, key: Any = None) -> tuple[Any, Residual]:
        h, first_norm = self.first_norm.forward(self.first(x), training=training)
        h, second_norm = self.second_norm.forward(self.second(nn.relu(h)), training=training)
        y = nn.relu(h + (x if self.shortcut is None else self.shortcut(x)))
        return y, replace(self, first_norm=first_norm, second_norm=second_norm)


def model(config: Config, channels: int, classes: int) -> nn.Sequential:
    """Images ``[b, height, width, channels]`` in -1..1 to class scores ``[b, classes]``."""
    keys = iter(ms.random.split(ms.random.key(config.seed), 2 + config.stages * config.depth))
    widths = [config.width * 2**stage for stage in range(config.stages)]
    layers: list[Any] = [nn.Conv2d.create(next(keys), channels, config.width, 3, padding=1)]
    inputs = config.width
    for stage, outputs in enumerate(widths):
        for place in range(config.depth):
            layers.append(Residual.create(next(keys), inputs, outputs, 2 if stage and not place else 1))
            inputs = outputs
    return nn.Sequential.create(*layers, nn.GlobalAvgPool(), nn.Linear.create(next(keys), inputs, classes))


def scaled(pictures: Any) -> Any:
    """uint8 0..255 as float32 -1..1."""
    return pictures.astype(ms.float32) * (2 / 255) - 1


def loss(model: Any, batch: dict[str, Any], key: Any) -> Any:
    scores, model = model.forward(scaled(batch["images"]), training=True, key=key)
    hits = ms.argmax(scores, axis=-1) == batch["labels"]
    return nn.cross_entropy(scores, batch["labels"]), ({"accuracy": ms.mean(hits.astype(ms.float32))}, model)


def measure(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    scores = model(scaled(batch["images"]))
    losses = nn.cross_entropy(scores, batch["labels"], reduction="none")
    return {"loss": losses, "accuracy": ms.argmax(scores, axis=-1) == batch["labels"]}


def task(config: Config) -> Task:
    data = images(config.data) if config.data else digits()
    _require_room(config, data)
    schedule = optim.schedule.cosine(config.learning_rate, config.steps, warmup=min(50, config.steps // 2))
    return Task(
        model=model(config, data.train_images.shape[-1], data.classes),
        optimizer=optim.adamw(schedule, weight_decay=config.weight_decay, mask=optim.matrices_only),
        loss=loss,
        loader=Loader(Dataset({"images": data.train_images, "labels": data.train_labels}), config.batch, key=config.seed),
        validation=Validation(measure, Dataset({"images": data.test_images, "labels": data.test_labels}), batch_size=128),
        schedule=schedule,
        metadata={"classes": data.classes, "data": data.name},
    )


def _require_room(config: Config, data: ImageData) -> None:
    smallest = min(data.train_images.shape[1:3])
    if data.test_images.shape[1:] != data.train_images.shape[1:]:
        got = f"{data.train_images.shape[1:]} and {data.test_images.shape[1:]}"
        raise DataError("digits", "data", "training and test images must have one shape", got)
    if smallest < 2 ** (config.stages - 1):
        rule = f"images must be large enough to halve {config.stages - 1} times"
        raise DataError("digits", "data", rule, f"{smallest} rows or columns", "--set stages=2")


def sample(config: Config, model: Any, task: Task) -> str:
    """How often each class of the first test images was taken for which."""
    held = task.validation.source.take(np.arange(min(SHOWN, len(task.validation.source))))
    taken_for = np.argmax(np.asarray(ms.jit(lambda model, pictures: model(scaled(pictures)))(model, held["images"])), axis=-1)
    classes = task.metadata["classes"]
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (held["labels"], taken_for), 1)
    width = max(3, len(str(counts.max())) + 1)
    rows = [f"{label:>4} |" + "".join(f"{count or '·':>{width}}" for count in row) for label, row in enumerate(counts)]
    head = " " * 6 + "".join(f"{label:>{width}}" for label in range(classes))
    right = f"{int(np.trace(counts))} of {counts.sum()} right"
    title = f"{task.metadata['data']}: {right}; rows are the labels, columns what the model says"
    return "\n".join([title, "", head, *rows]) + "\n"


RECIPE = Recipe("digits", "a residual CNN on small images", Config, task, sample)
