"""A character GPT: it learns to write like the tiny Shakespeare text, or like ``--data FILE``.

The settings are nanoGPT's for a CPU, which reports a validation loss of 1.88 after 2,000 steps. Positions enter by rotation of
queries and keys (Su et al., 2021), so a window can begin anywhere. Source: github.com/karpathy/nanoGPT.

Shape legend: B batch, T positions, C width, V symbols.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import mainspring as ms
from mainspring import nn, optim
from mainspring.base.errors import DataError
from mainspring.data import Loader, Vocabulary, next_symbol, read_text, shakespeare, split
from mainspring.nn.init import normal
from mainspring.recipes.recipe import Recipe
from mainspring.recipes.sampling import Sampling
from mainspring.train import Settings, Task, Validation, checkpoint, load_model


@dataclass(frozen=True)
class Config(Settings):
    """`context`: characters the model sees; `width`, `layers`, `heads`: its size; `final_rate`: the last learning rate."""

    steps: int = 2000
    batch: int = 12
    learning_rate: float = 1e-3
    final_rate: float = 1e-4
    warmup: int = 100
    weight_decay: float = 0.1
    clip: float = 1.0
    dropout: float = 0.0
    context: int = 64
    width: int = 128
    layers: int = 4
    heads: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("context", "width", "layers", "heads"):
            self.require(name, lambda value: value >= 1, "it must be at least 1")
        fits = f"it must be a multiple of twice the heads ({self.heads})"
        self.require("width", lambda value: value % (2 * self.heads) == 0, fits)
        self.require("dropout", lambda value: 0 <= value < 1, "it must be at least 0 and below 1")
        for name in ("warmup", "weight_decay", "final_rate"):
            self.require(name, lambda value: value >= 0, "it must not be negative")
        self.require("clip", lambda value: value > 0, "it must be positive")


@dataclass(frozen=True, eq=False)
class GPT(nn.Module):
    """A causal transformer over characters whose output layer shares the embedding's table."""

    embedding: nn.Embedding
    blocks: tuple[nn.TransformerBlock, ...]
    norm: nn.LayerNorm
    dropout: float = ms.tree.static(default=0.0)
    random = True

    @classmethod
    def create(cls, key: Any, symbols: int, config: Config) -> GPT:
        """Weights normal with deviation 0.02, less where they lead back into the residual stream (GPT-2, section 2.3)."""
        first, *rest = ms.random.split(key, 1 + config.layers)
        small, smaller = partial(normal, std=0.02), partial(normal, std=0.02 * (2 * config.layers) ** -0.5)
        blocks = tuple(
            nn.TransformerBlock.create(
                own, config.width, config.heads, causal=True, rotary=True, bias=False, dropout=config.dropout,
                weight_init=small, out_init=smaller,
            )
            for own in rest
        )  # fmt: skip
        table = nn.Embedding.create(first, symbols, config.width, weight_init=small)
        return cls(table, blocks, nn.LayerNorm.create(config.width), config.dropout)

    def __call__(self, tokens: Any, *, key: Any = None) -> Any:
        """Tokens ``[B, T]`` to scores ``[B, T, V]`` of the symbol that follows each; `key` turns dropout on."""
        keys = [None] * len(self.blocks) if key is None else ms.random.split(key, len(self.blocks))
        x = self.embedding(tokens)
        for block, own in zip(self.blocks, keys, strict=True):
            x = block(x, key=own)
        return self.embedding.logits(self.norm(x))

    def caches(self, capacity: int) -> tuple[Any, ...]:
        """Empty key-value caches for one text of at most `capacity` characters."""
        return tuple(block.cache(1, capacity) for block in self.blocks)

    def decode(self, tokens: Any, caches: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """``(scores, caches)`` for the next tokens ``[B, T]``, seeing what the caches hold."""
        x, grown = self.embedding(tokens), []
        for block, cache in zip(self.blocks, caches, strict=True):
            x, cache = block.decode(x, cache)
            grown.append(cache)
        return self.embedding.logits(self.norm(x)), tuple(grown)


def loss(model: GPT, batch: dict[str, Any], key: Any) -> Any:
    scores = model(batch["inputs"], key=key if model.dropout else None)
    return nn.cross_entropy(scores, batch["targets"]), {}


def measure(model: GPT, batch: dict[str, Any]) -> dict[str, Any]:
    return {"loss": nn.cross_entropy(model(batch["inputs"]), batch["targets"], reduction="none")}


def model(config: Config, vocabulary: Vocabulary) -> GPT:
    return GPT.create(ms.random.key(config.seed), len(vocabulary), config)


def schedule(config: Config) -> Callable[[Any], Any]:
    warmup, end = min(config.warmup, config.steps // 2), min(config.final_rate, config.learning_rate)
    return optim.schedule.cosine(config.learning_rate, config.steps, warmup=warmup, end=end)


def optimizer(config: Config) -> optim.Optimizer:
    return optim.chain(
        optim.clip_by_global_norm(config.clip),
        optim.adamw(schedule(config), b1=0.9, b2=0.99, weight_decay=config.weight_decay, mask=optim.matrices_only),
    )


def task(config: Config) -> Task:
    text = read_text(config.data) if config.data else shakespeare()
    vocabulary = Vocabulary.of(text)
    training, validation = split(vocabulary.encode(text))
    held = next_symbol(validation, config.context, stride=config.context)
    return Task(
        model=model(config, vocabulary),
        optimizer=optimizer(config),
        loss=loss,
        loader=Loader(next_symbol(training, config.context), config.batch, key=config.seed),
        validation=Validation(measure, held, batch_size=64, at_most=4096),
        schedule=schedule(config),
        metadata={"vocabulary": vocabulary.symbols},
    )


def write(model: GPT, context: int, prompt: np.ndarray, sampling: Sampling) -> Iterator[int]:
    """The tokens that follow `prompt` (int32 ``[n]``, n ≥ 1), one at a time.

    Keys and values of what was read are kept. When the window of `context` characters is full, its later half is read anew
    and begins the next window: a token depends on the window before it alone, with a cache or without.
    """
    key = ms.random.key(sampling.seed)

    @partial(ms.jit, donate=(0,))
    def read(caches: Any, token: Any, number: Any) -> Any:  # closes over the model: its weights are packed once
        scores, caches = model.decode(ms.reshape(token, (1, 1)), caches)
        return sampling.choose(scores[0, 0], ms.random.fold_in(key, number)), caches

    window, caches = prompt[-context:].tolist(), model.caches(context)
    unread = list(window)
    for number in range(sampling.tokens):
        if len(window) > context:
            window, caches = window[-max(1, context // 2) :], model.caches(context)
            unread = list(window)
        for token in unread:
            chosen, caches = read(caches, np.int32(token), np.int32(number))
        yield int(chosen)
        window.append(int(chosen))
        unread = [int(chosen)]


def sample(config: Config, model: GPT, task: Task) -> str:
    vocabulary = Vocabulary(task.metadata["vocabulary"])
    start = "\n" if "\n" in vocabulary.symbols else vocabulary.symbols[0]
    tokens = list(write(model, config.context, vocabulary.encode(start), Sampling(seed=config.seed)))
    return vocabulary.decode(np.array(tokens, np.int32)) + "\n"


def generate(config: Config, checkpoints: Path, prompt: str, sampling: Sampling) -> Iterator[str]:
    metadata = checkpoint.load(checkpoint.latest_valid(checkpoints)).metadata
    vocabulary = Vocabulary(metadata["vocabulary"])
    tokens = vocabulary.encode(prompt)
    if not len(tokens):
        raise DataError("generate", "prompt", "it must hold at least one character", repr(prompt), "--prompt 'O Romeo'")
    trained, _ = load_model(checkpoints, model(config, vocabulary), optimizer(config), config.ema)
    yield prompt
    for token in write(trained, config.context, tokens, sampling):
        yield vocabulary.symbols[token]


RECIPE = Recipe("shakespeare", "a character GPT", Config, task, sample, generate)
