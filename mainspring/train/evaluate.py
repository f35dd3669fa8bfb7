"""Evaluation over a fixed set of items: the same numbers for the same model, whatever was trained before.

With this you can write `Validation(measure, source)(model)` and get ``{"loss": 1.87}``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mainspring.base import tree
from mainspring.base.errors import ArgumentError
from mainspring.data.dataset import Source
from mainspring.jit import jit

Measure = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Validation:
    """Means of what `measure` gives, over the items of `source`.

    Args:
        measure: ``measure(model, batch) -> {name: values}``, floats or bools of shape ``[b, ...]`` for a batch of ``b`` items;
            compiled once.
        source: the items.
        batch_size: items measured at once; the result does not depend on it but for rounding.
        at_most: of more items than this, so many are taken at even distances.

    Raises:
        ArgumentError: a size is below 1, or the source is empty.
    """

    measure: Measure
    source: Source
    batch_size: int = 64
    at_most: int = 1 << 14
    _compiled: list[Measure] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        example = "Validation(measure, source, batch_size=64)"
        for name in ("batch_size", "at_most"):
            if getattr(self, name) < 1:
                raise ArgumentError("Validation", name, "it must be at least 1", str(getattr(self, name)), example)
        if not len(self.source):
            raise ArgumentError("Validation", "source", "it must hold at least one item", "none", example)
        self._compiled.append(jit(self.measure))

    def __call__(self, model: Any) -> dict[str, float]:
        """The means for `model`, summed in float64."""
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for batch, kept in self._batches():
            for name, values in self._compiled[0](model, batch).items():
                wide = np.asarray(values)[:kept].astype(np.float64)
                sums[name] = sums.get(name, 0.0) + float(wide.sum())
                counts[name] = counts.get(name, 0) + wide.size
        return {name: sums[name] / counts[name] for name in sums}

    def items(self) -> np.ndarray:
        """The numbers of the items that are measured, rising, int64."""
        count = len(self.source)
        if count <= self.at_most:
            return np.arange(count)
        return np.arange(self.at_most) * count // self.at_most

    def _batches(self) -> Iterator[tuple[Any, int]]:
        """Batches of one size, so that one compiled program serves all; the last repeats its last item, and how many count."""
        items = self.items()
        size = min(self.batch_size, len(items))
        for start in range(0, len(items), size):
            chosen = items[start : start + size]
            padded = np.concatenate([chosen, np.full(size - len(chosen), chosen[-1])])
            yield tree.map(np.ascontiguousarray, self.source.take(padded)), len(chosen)
