"""Items to draw batches from: rows of arrays, or windows that slide over sequences.

With this you can make a source for the loader. A source is anything with `len(source)` and `source.take(indices)`, which
gives the items of those numbers stacked along a new first dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from mainspring.base import tree
from mainspring.base.errors import ArgumentError, DataError
from mainspring.base.treecode import builder


class Source(Protocol):
    """What a loader draws from."""

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> Any:
        """The items numbered `indices` (int64 ``[b]``): a tree of arrays ``[b, ...]``."""


class _Arrays:
    """A frozen dataclass with a tree of arrays: its leaves, and what puts others in their places, are found once."""

    arrays: Any

    @cached_property
    def _parts(self) -> tuple[list[np.ndarray], Callable[[Sequence[Any]], Any]]:
        leaves, treedef = tree.flatten(self.arrays)
        return leaves, builder(treedef)

    @property
    def _extent(self) -> int:
        return len(self._parts[0][0])

    def _rows(self, which: np.ndarray) -> Any:
        leaves, built = self._parts
        return built([leaf[which] for leaf in leaves])

    def __getstate__(self) -> dict[str, Any]:
        """Written code is not pickled or copied."""
        return {name: value for name, value in self.__dict__.items() if name != "_parts"}


@dataclass(frozen=True)
class Dataset(_Arrays):
    """A tree of arrays with equal leading extent; item ``i`` is row ``i`` of each.

    Args:
        arrays: for instance ``{"images": x, "labels": y}`` with ``x: [n, ...]`` and ``y: [n]``. Kept as read-only views.

    Raises:
        DataError: there is no array, one has no dim, or the leading extents differ.
    """

    arrays: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "arrays", _frozen(self.arrays, "Dataset"))

    def __len__(self) -> int:
        return self._extent

    def take(self, indices: np.ndarray) -> Any:
        """Rows `indices` (int64 ``[b]``) of every array."""
        return self._rows(indices)


@dataclass(frozen=True)
class Windows(_Arrays):
    """Windows of `length` rows over a tree of sequences; item ``i`` starts at row ``i * stride``.

    Args:
        arrays: sequences ``[n, ...]`` of equal leading extent.
        length: rows in a window.
        stride: rows from one start to the next. 1 gives every window there is (shuffle them for training), `length` gives
            windows that do not overlap (for evaluation).

    Raises:
        ArgumentError: `length` or `stride` is below 1.
        DataError: as for `Dataset`, or the sequences are shorter than one window.
    """

    arrays: Any
    length: int = tree.static()
    stride: int = tree.static(default=1)

    def __post_init__(self) -> None:
        for name in ("length", "stride"):
            if getattr(self, name) < 1:
                value = str(getattr(self, name))
                raise ArgumentError("Windows", name, "it must be at least 1", value, "Windows(tokens, length=64, stride=1)")
        object.__setattr__(self, "arrays", _frozen(self.arrays, "Windows"))
        if self._extent < self.length:
            got = f"{self._extent} rows, length={self.length}"
            raise DataError("Windows", "arrays", "they must be at least one window long", got, "Windows(tokens, length=8)")

    def __len__(self) -> int:
        return (self._extent - self.length) // self.stride + 1

    def take(self, indices: np.ndarray) -> Any:
        """The windows numbered `indices` (int64 ``[b]``): arrays ``[b, length, ...]``."""
        return self._rows((indices * self.stride)[:, None] + np.arange(self.length))


def next_symbol(tokens: np.ndarray, length: int, stride: int = 1) -> Windows:
    """Windows for language modelling over `tokens` ``[n]``: ``{"inputs", "targets"}``, targets one symbol ahead.

    With stride 1 there are ``n - length`` windows, the same that nanoGPT's `get_batch` draws from.
    """
    tokens = np.asarray(tokens)
    return Windows({"inputs": tokens[:-1], "targets": tokens[1:]}, length, stride)


def _frozen(arrays: Any, where: str) -> Any:
    leaves = tree.leaves(arrays)
    if not leaves:
        raise DataError(where, "arrays", "there must be at least one array", repr(arrays), f"{where}({{'inputs': x}})")
    extents = []
    for path, leaf in zip(tree.paths(arrays), leaves, strict=True):
        shape = np.shape(leaf)
        if not shape:
            raise DataError(where, f"arrays.{path}", "it must have a first dim to index", f"shape {shape}")
        extents.append((shape[0], path))
    if len({extent for extent, _ in extents}) > 1:
        got = ", ".join(f"{path or 'arrays'}: {extent}" for extent, path in extents)
        raise DataError(where, "arrays", "all must have the same leading extent", got, f"{where}({{'x': x[:n], 'y': y[:n]}})")
    return tree.map(_read_only, arrays)


def _read_only(leaf: Any) -> np.ndarray:
    view = np.asarray(leaf).view()
    view.flags.writeable = False
    return view
