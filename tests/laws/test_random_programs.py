"""200 random programs: compiling and optimizing change nothing, and gradients are derivatives, in either order with jit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import mainspring as ms
from mainspring.base import flags
from mainspring.compile.lower import prepare
from mainspring.interpret.reference import run_reference
from mainspring.types.dtype import as_dtype
from tests.laws.programs import Program, program

COUNT, BATCH = 200, 10
SEEDS = [range(i, i + BATCH) for i in range(0, COUNT, BATCH)]
RTOL = {"float64": 1e-9, "float32": 2e-4}  # of the greatest element: rounding differs, and grows through a program
DIFFERENCES = 2e-5


@pytest.fixture(autouse=True)
def _no_disk_cache() -> Any:
    with flags.override(cache="", verify=2):
        yield


def assert_same(got: Any, want: Any, what: str, rtol: float) -> None:
    """Equal structures of arrays, up to `rtol` of the greatest element of each."""
    for i, (a, b) in enumerate(zip(ms.tree.leaves(got), ms.tree.leaves(want), strict=True)):
        x, y = np.asarray(a), np.asarray(b)
        assert x.dtype == y.dtype and x.shape == y.shape, f"{what}: {i}: {x.dtype}{x.shape} for {y.dtype}{y.shape}"
        if as_dtype(y.dtype).kind != "float":
            assert (x == y).all(), f"{what}: {i}"
        elif y.size:
            scale = max(1.0, float(np.abs(y).max()))
            assert np.isfinite(y).all() and np.abs(x - y).max() <= rtol * scale, f"{what}: {i}: {np.abs(x - y).max() / scale}"


def copies(of: Program) -> list[Any]:
    return [ms.asarray(a) for a in of.inputs]


def jit_is_the_function(of: Program) -> Sequence[np.ndarray]:
    """The function and its gradients in one compiled function, some arguments handed over; gives the eager gradients."""
    every = tuple(range(len(of.inputs)))

    def both(*values: Any) -> tuple[Any, Any]:
        return of(*values), ms.grad(of.loss, every)(*values)

    want = both(*copies(of))
    compiled = ms.jit(both, donate=tuple(i for i in every if (of.seed >> i) & 1))
    rtol = RTOL[str(of.inputs[0].dtype)]
    for what in ("jit", "jit, called again"):
        got = compiled(*copies(of))
        assert_same(got[0], want[0], f"{what}(f) = f", rtol)
        assert_same(got[1], want[1], f"{what}(grad(f)) = grad(f)", rtol)
    if of.seed % 4 == 0:
        assert_same(ms.grad(ms.jit(of.loss), every)(*copies(of)), want[1], "grad(jit(f)) = grad(f)", rtol)
    return [np.asarray(g) for g in want[1]]


def optimizing_changes_no_bit(of: Program) -> None:
    graph = ms.jit(of).graph(*copies(of))
    before, after = run_reference(graph, of.inputs), run_reference(prepare(graph), of.inputs)
    for a, b in zip(before, after, strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b), "optimize(g) = g"


def gradients_are_differences(of: Program, found: Sequence[np.ndarray]) -> None:
    """At two steps, since a kink may lie within one of them; nothing to measure where a gradient was asked to stop."""
    if any(step.text in ("stop",) or step.text.startswith("by argmax") for step in of.steps):
        return
    rng = np.random.default_rng(of.seed)
    ways = [rng.standard_normal(a.shape) for a in of.inputs]
    analytic = sum(float((g * w).sum()) for g, w in zip(found, ways, strict=True))
    measured = []
    for step in (1e-6, 1e-7):
        ahead, behind = (
            float(of.loss(*[ms.asarray(a + h * w) for a, w in zip(of.inputs, ways, strict=True)])) for h in (step, -step)
        )
        measured.append((ahead - behind) / (2 * step))
    assert any(abs(m - analytic) <= DIFFERENCES * max(1.0, abs(m)) for m in measured), (analytic, measured)


def laws(of: Program) -> None:
    found = jit_is_the_function(of)
    optimizing_changes_no_bit(of)
    if of.inputs[0].dtype == np.float64:
        gradients_are_differences(of, found)


@pytest.mark.parametrize("seeds", SEEDS, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_random_programs(seeds: range) -> None:
    for seed in seeds:
        of = program(seed, "float32" if seed % 5 == 4 else "float64")
        try:
            laws(of)
        except Exception as error:
            raise AssertionError(f"{of}\n{type(error).__name__}: {error}") from error
