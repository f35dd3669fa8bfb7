"""An LSTM that restores capitals and punctuation: it reads bare lower-case text and labels each character.

The text is the tiny Shakespeare text, or ``--data FILE``; `mainspring generate RUN --prompt "speak speak you are all resolved"`
restores a text of yours. Source of the task: see `mainspring.data.tagged`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import mainspring as ms
from mainspring import nn, optim
from mainspring.base.errors import DataError
from mainspring.data import NUM_LABELS, Loader, Vocabulary, Windows, read_text, restore, shakespeare, split, tag
from mainspring.recipes.recipe import Recipe
from mainspring.recipes.sampling import Sampling
from mainspring.train import Settings, Task, Validation, checkpoint, load_model

SHOWN = 600  # characters in the sample


@dataclass(frozen=True)
class Config(Settings):
    """`context`: characters read at once; `embedding`, `width` (of each direction), `layers`: sizes of the network."""

    steps: int = 800
    batch: int = 32
    learning_rate: float = 4e-3
    eval_every: int = 200
    context: int = 64
    embedding: int = 32
    width: int = 96
    layers: int = 1
    clip: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("context", "embedding", "width", "layers"):
            self.require(name, lambda value: value >= 1, "it must be at least 1")
        self.require("clip", lambda value: value > 0, "it must be positive")


@dataclass(frozen=True, eq=False)
class Tagger(nn.Module):
    """Characters ``[b, t]`` to label scores ``[b, t, NUM_LABELS]``: embedding, LSTM in both directions, linear."""

    embedding: nn.Embedding
    lstm: nn.LSTM
    output: nn.Linear

    @classmethod
    def create(cls, key: Any, symbols: int, config: Config) -> Tagger:
        first, second, third = ms.random.split(key, 3)
        return cls(
            nn.Embedding.create(first, symbols, config.embedding),
            nn.LSTM.create(second, config.embedding, config.width, layers=config.layers, bidirectional=True),
            nn.Linear.create(third, 2 * config.width, NUM_LABELS),
        )

    def __call__(self, tokens: Any) -> Any:
        return self.output(self.lstm(self.embedding(tokens)))


def model(config: Config, vocabulary: Vocabulary) -> Tagger:
    return Tagger.create(ms.random.key(config.seed), len(vocabulary), config)


def optimizer(config: Config) -> optim.Optimizer:
    return optim.chain(optim.clip_by_global_norm(config.clip), optim.adam(_schedule(config)))


def _schedule(config: Config) -> Any:
    return optim.schedule.cosine(config.learning_rate, config.steps, warmup=min(50, config.steps // 2))


def loss(model: Tagger, batch: dict[str, Any], key: Any) -> Any:
    scores = model(batch["inputs"])
    hits = ms.argmax(scores, axis=-1) == batch["labels"]
    return nn.cross_entropy(scores, batch["labels"]), {"accuracy": ms.mean(hits.astype(ms.float32))}


def measure(model: Tagger, batch: dict[str, Any]) -> dict[str, Any]:
    scores = model(batch["inputs"])
    losses = nn.cross_entropy(scores, batch["labels"], reduction="none")
    return {"loss": losses, "accuracy": ms.argmax(scores, axis=-1) == batch["labels"]}


def task(config: Config) -> Task:
    tagged = tag(read_text(config.data) if config.data else shakespeare())
    (inputs, held_inputs), (labels, held_labels) = split(tagged.inputs), split(tagged.labels)
    held = {"inputs": held_inputs, "labels": held_labels}
    return Task(
        model=model(config, tagged.vocabulary),
        optimizer=optimizer(config),
        loss=loss,
        loader=Loader(Windows({"inputs": inputs, "labels": labels}, config.context), config.batch, key=config.seed),
        validation=Validation(measure, Windows(held, config.context, stride=config.context), batch_size=64, at_most=4096),
        schedule=_schedule(config),
        metadata={"vocabulary": tagged.vocabulary.symbols},
    )


def restored(model: Tagger, context: int, tokens: np.ndarray, vocabulary: Vocabulary) -> str:
    """The text that the model makes of `tokens` (int32 ``[n]``), read in pieces of `context`, the last one filled up."""
    pieces = -(-len(tokens) // context)
    filled = np.pad(tokens, (0, pieces * context - len(tokens)), "edge").reshape(pieces, context)
    labels = np.argmax(np.asarray(ms.jit(lambda model, tokens: model(tokens))(model, filled)), axis=-1)
    return restore(vocabulary.decode(tokens), labels.reshape(-1)[: len(tokens)])


def sample(config: Config, model: Tagger, task: Task) -> str:
    """The beginning of the held-out text: what the model reads, what it makes of it, and what was there."""
    vocabulary = Vocabulary(task.metadata["vocabulary"])
    windows = task.validation.source.take(np.arange(min(-(-SHOWN // config.context), len(task.validation.source))))
    inputs, labels = windows["inputs"].reshape(-1), windows["labels"].reshape(-1)
    plain = vocabulary.decode(inputs)
    parts = {"read": plain, "restored": restored(model, config.context, inputs, vocabulary), "original": restore(plain, labels)}
    return "\n\n".join(f"[{name}]\n{text}" for name, text in parts.items()) + "\n"


def generate(config: Config, checkpoints: Path, prompt: str, sampling: Sampling) -> Iterator[str]:
    """The prompt with capitals and punctuation; nothing is drawn, so `sampling` does not matter."""
    metadata = checkpoint.load(checkpoint.latest_valid(checkpoints)).metadata
    vocabulary = Vocabulary(metadata["vocabulary"])
    if not prompt.strip():
        raise DataError("generate", "prompt", "it must hold the text to restore", repr(prompt), "--prompt 'to be or not to be'")
    tagged = tag(prompt, vocabulary)
    trained, _ = load_model(checkpoints, model(config, vocabulary), optimizer(config), config.ema)
    yield restored(trained, config.context, tagged.inputs, vocabulary)


RECIPE = Recipe("tagger", "an LSTM that restores capitals and punctuation", Config, task, sample, generate)
