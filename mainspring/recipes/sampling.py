"""Choosing the next symbol from the scores of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mainspring as ms
from mainspring.base.errors import ArgumentError


@dataclass(frozen=True)
class Sampling:
    """How a text is written.

    Attributes:
        tokens: how many to write.
        temperature: the scores are divided by it; 0 always takes the likeliest.
        top_k: choose among the k likeliest only; None among all.
        seed: of the choice: symbol ``n`` depends on (seed, n) and the text before it.

    Raises:
        ArgumentError: a value is out of range.
    """

    tokens: int = 500
    temperature: float = 0.8
    top_k: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        example = "--tokens 500 --temperature 0.8 --top-k 20"
        for name, holds, rule in (
            ("tokens", self.tokens >= 0, "it must not be negative"),
            ("temperature", 0 <= self.temperature < math.inf, "it must be 0 or positive, and finite"),
            ("top_k", self.top_k is None or self.top_k >= 1, "it must be at least 1"),
            ("seed", 0 <= self.seed < 1 << 63, "it must be in 0..2⁶³-1"),
        ):
            if not holds:
                raise ArgumentError("generate", name, rule, str(getattr(self, name)), example)

    def choose(self, logits: Any, key: Any) -> Any:
        """A token, int32 ``[]``, for scores ``[symbols]``."""
        if self.temperature == 0:
            return ms.argmax(logits, axis=-1).astype(ms.int32)
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            kept, _ = ms.topk(logits, self.top_k)
            logits = ms.where(logits < ms.min(kept), -math.inf, logits)
        return ms.random.categorical(key, logits / self.temperature).astype(ms.int32)
