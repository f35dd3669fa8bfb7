"""What tests of derivatives share: directional derivatives by central differences in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

import mainspring as ms
from mainspring.autodiff.reverse import is_float, vjp
from mainspring.base import tree


def float64_tree(of: Any) -> Any:
    """`of` with its float leaves as float64 tensors."""
    return tree.map(lambda x: ms.astype(ms.asarray(x), ms.float64) if is_float(x) else ms.asarray(x), of)


def assert_gradients(function: Any, *primals: Any, step: float = 1e-6, rtol: float = 1e-6, seed: int = 0) -> None:
    """The vjp of ``function(*trees) -> tree`` along a random direction equals a central difference."""
    rng = np.random.default_rng(seed)
    primals = float64_tree(primals)
    out, pullback = vjp(function, *primals)
    cts = tree.map(lambda o: ms.asarray(rng.standard_normal(o.shape)), out)
    direction = tree.map(lambda p: rng.standard_normal(p.shape) if is_float(p) else None, primals)
    leaves, treedef = tree.flatten(primals)
    ways = tree.leaves_at(treedef, direction)

    def moved(by: float) -> Any:
        return function(*tree.unflatten(treedef, [p if d is None else ms.asarray(p.numpy() + by * d) for p,
                                                  d in zip(leaves, ways, strict=True)]))

    def inner(a: Any, b: Any) -> float:
        return float(sum((np.asarray(x) * np.asarray(y)).sum() for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True)))

    numeric = (inner(moved(step), cts) - inner(moved(-step), cts)) / (2 * step)
    back = tree.leaves_at(treedef, pullback(cts))
    analytic = float(sum((np.asarray(g) * d).sum() for g, d in zip(back, ways, strict=True) if d is not None))
    assert abs(numeric - analytic) <= rtol * max(1.0, abs(numeric), abs(analytic)), (numeric, analytic)
