"""Gradient-boosted regression trees in NumPy: small data, quick to fit, a few arrays to keep.

Trees are complete, of one depth, grown level by level on histograms of binned features, for the squared error (Friedman 2001,
"Greedy function approximation"; histograms as in LightGBM, Ke et al. 2017). A few hundred rows fit in a tenth of a second
on one thread, which matters while something else is being timed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 32


@dataclass(frozen=True)
class Boosted:
    """Fitted trees. A node's children are 2i+1 (x ≤ threshold) and 2i+2.

    Attributes:
        base: the mean.
        feature, threshold: of each inner node, ``[trees, 2^depth - 1]``; a node that does not split has threshold infinity.
        leaf: ``[trees, 2^depth]``, the rate multiplied in.
    """

    base: float
    feature: np.ndarray
    threshold: np.ndarray
    leaf: np.ndarray

    def predict(self, x: np.ndarray) -> np.ndarray:
        """float64 ``[rows]`` for `x` float ``[rows, width]``."""
        trees, inner = self.feature.shape
        tree, row = np.arange(trees)[:, None], np.arange(len(x))[None, :]
        node = np.zeros((trees, len(x)), np.int64)
        while len(x) and trees and node[0, 0] < inner:
            node = 2 * node + 1 + (x[row, self.feature[tree, node]] > self.threshold[tree, node])
        total: np.ndarray = self.leaf[tree, node - inner].sum(axis=0)
        return self.base + total


def fit(x: np.ndarray, y: np.ndarray, weight: np.ndarray, *, rounds: int = 50, depth: int = 4, rate: float = 0.15,
        smooth: float = 2.0) -> Boosted:
    """Trees for `y` float ``[rows]`` of `x` float ``[rows, width]``, rows weighted; `smooth` is weight added to every leaf."""
    varying = np.flatnonzero((x != x[:1]).any(axis=0))  # of one problem, most numbers are the same
    if not len(varying):
        varying = np.zeros(1, np.int64)
    x = x[:, varying]
    edges = _edges(x)
    bins = 1 + max(len(e) for e in edges)
    binned = np.stack([np.searchsorted(e, column, side="left") for e, column in zip(edges, x.T, strict=True)], axis=1)
    base = float(np.average(y, weights=weight))
    rest, trees = y - base, []
    for _ in range(rounds):
        tree, place = _tree(binned, bins, rest, weight, depth, smooth)
        leaf = rate * _leaves(place, rest, weight, 2**depth, smooth)
        rest = rest - leaf[place]
        trees.append((tree, leaf))
    inner = 2**depth - 1
    feature = np.array([t[0] for t, _ in trees], np.int64).reshape(rounds, inner)
    at = np.array([t[1] for t, _ in trees], np.int64).reshape(rounds, inner)
    table = np.full((len(edges), bins + 1), np.inf)
    for i, e in enumerate(edges):
        table[i, : len(e)] = e
    leaves = np.array([leaf for _, leaf in trees]).reshape(rounds, inner + 1)
    return Boosted(base, varying[feature], table[feature, at], leaves)


def _edges(x: np.ndarray) -> list[np.ndarray]:
    """For each feature, thresholds between its values: all of them when few, else at quantiles."""
    edges = []
    for column in x.T:
        values = np.unique(column)
        middle = (values[1:] + values[:-1]) / 2
        if len(middle) > BINS - 1:
            middle = np.unique(np.quantile(column, np.linspace(0, 1, BINS + 1)[1:-1]))
        edges.append(middle)
    return edges


def _tree(binned: np.ndarray, bins: int, rest: np.ndarray, weight: np.ndarray, depth: int,
          smooth: float) -> tuple[tuple[list[int], list[int]], np.ndarray]:
    """((feature, bin) of the inner nodes, the leaf of each row)."""
    rows, width = binned.shape
    place = np.zeros(rows, np.int64)  # within the level
    feature: list[int] = []
    at: list[int] = []
    offset = np.arange(width) * bins + binned
    pull, share = np.repeat(rest * weight, width), np.repeat(weight, width)
    for level in range(depth):
        shape = (2**level, width, bins)
        cell = (place[:, None] * (width * bins) + offset).ravel()
        size = 2**level * width * bins
        sums, weights = (np.bincount(cell, x, size).reshape(shape) for x in (pull, share))
        best, last = _splits(sums, weights, smooth)
        feature += best.tolist()
        at += last.tolist()
        place = 2 * place + (binned[np.arange(rows), best[place]] > last[place])
    return (feature, at), place


def _splits(sums: np.ndarray, weights: np.ndarray, smooth: float) -> tuple[np.ndarray, np.ndarray]:
    """The best (feature, last bin that goes left) of each node; a bin that is none where no split gains."""
    count = sums.shape[2]
    left, left_weight = sums.cumsum(axis=2), weights.cumsum(axis=2)
    right, right_weight = left[:, :, -1:] - left, left_weight[:, :, -1:] - left_weight
    gain = left**2 / (left_weight + smooth) + right**2 / (right_weight + smooth)
    gain -= left[:, :, -1:] ** 2 / (left_weight[:, :, -1:] + smooth)
    gain[(left_weight <= 0) | (right_weight <= 1e-12)] = 0
    flat = gain.reshape(len(gain), -1)
    best = flat.argmax(axis=1)
    return best // count, np.where(flat.max(axis=1) > 1e-12, best % count, count)


def _leaves(place: np.ndarray, rest: np.ndarray, weight: np.ndarray, count: int, smooth: float) -> np.ndarray:
    return np.bincount(place, rest * weight, count) / (np.bincount(place, weight, count) + smooth)
