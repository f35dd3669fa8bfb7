"""Every op's gradient is its derivative: ⟨c, J t⟩ by central differences equals ⟨Jᵀ c, t⟩ in float64; first and second order.

And forward mode, which is the transpose of the transpose, agrees: ⟨c, jvp(t)⟩ = ⟨vjp(c), t⟩.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import mainspring as ms
from mainspring.base.errors import GradientError
from mainspring.ir.op import OPS, NoGradient
from mainspring.types.dtype import float64
from tests.laws.samples import MAKERS, Sample, samples

LARGEST = 600  # elements of a sample whose derivative is measured
RTOL = 2e-6  # of central differences with STEP, relative to what is added up
STEP = 1e-6
#: ops whose gradient exists, and that of the gradient not
FIRST_ORDER = {"lgamma": "its gradient is digamma, whose own gradient is not an op"}


def smooth_samples(name: str) -> list[Sample]:
    """Samples of `name` with derivatives that differences can measure."""
    found = []
    for sample in samples(name, float64):
        types = OPS[name].infer(*sample.types, **sample.static)
        floats = [t.dtype is float64 for t in (types if isinstance(types, tuple) else (types,)) if t.dtype.kind == "float"]
        if sample.smooth and floats and all(floats) and sum(a.size for a in sample.arrays) <= LARGEST:
            found.append(sample)
    return found


def as_function(sample: Sample) -> tuple[Callable[..., list[Any]], list[np.ndarray]]:
    """The sample as a function of its float operands, giving its float results."""
    moving = [i for i, a in enumerate(sample.stored) if a.dtype == np.float64]

    def function(*floats: Any) -> list[Any]:
        operands = list(map(ms.asarray, sample.stored))
        for i, x in zip(moving, floats, strict=True):
            operands[i] = x
        return [r for r in sample.apply(*operands) if r.dtype is float64]

    return function, [sample.stored[i] for i in moving]


def inner(a: Sequence[Any], b: Sequence[Any]) -> tuple[float, float]:
    """⟨a, b⟩, and the sum of the sizes of its terms."""
    terms = [np.asarray(x) * np.asarray(y) for x, y in zip(a, b, strict=True)]
    return float(sum(t.sum() for t in terms)), float(sum(np.abs(t).sum() for t in terms))


def disagreement(
    function: Callable[..., list[Any]], at: Sequence[np.ndarray], rng: np.random.Generator, forward: bool = False
) -> str:
    """How the derivative of `function` at `at` differs from what differences (or forward mode) say; or nothing."""
    out, pullback = ms.vjp(function, *map(ms.asarray, at))
    cts = [rng.standard_normal(o.shape) for o in out]
    ways = [rng.standard_normal(a.shape) for a in at]
    got, size = inner(pullback(list(map(ms.asarray, cts))), ways)
    if forward:
        pushed = ms.jvp(function, list(map(ms.asarray, at)), list(map(ms.asarray, ways)))[1]
        want, rtol = inner(pushed, cts)[0], 1e-11
    else:
        ahead, behind = (function(*[ms.asarray(a + h * w) for a, w in zip(at, ways, strict=True)]) for h in (STEP, -STEP))
        want = inner([(np.asarray(a) - np.asarray(b)) / (2 * STEP) for a, b in zip(ahead, behind, strict=True)], cts)[0]
        rtol, size = RTOL, size + inner(cts, [np.abs(np.asarray(o)) for o in out])[1] * 1e-3
    if abs(got - want) <= rtol * max(1.0, size):
        return ""
    return f"⟨Jᵀc, t⟩ = {got!r}, {'forward mode' if forward else 'differences'} {want!r}"


def gradient_of(
    function: Callable[..., list[Any]], at: Sequence[np.ndarray], rng: np.random.Generator
) -> Callable[..., list[Any]]:
    """The pullback of a fixed cotangent, as a function of where it is taken."""
    cts = [ms.asarray(rng.standard_normal(o.shape)) for o in function(*map(ms.asarray, at))]
    return lambda *floats: list(ms.vjp(function, *floats)[1](cts))


DIFFERENTIABLE = [name for name in MAKERS if not isinstance(OPS[name].vjp, NoGradient)]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_derivatives(name: str) -> None:
    rng = np.random.default_rng(5)
    some = smooth_samples(name)
    assert some, "at least one float64 sample must be smooth"
    wrong = []
    for sample in some:
        function, at = as_function(sample)
        found = {"first order": disagreement(function, at, rng), "forward": disagreement(function, at, rng, forward=True)}
        if name not in FIRST_ORDER:
            found["second order"] = disagreement(gradient_of(function, at, rng), at, rng)
        wrong += [
            f"{name} {order} {', '.join(map(str, sample.types))} {sample.static} {sample.view}: {text}"
            for order, text in found.items()
            if text
        ]
    assert not wrong, "\n".join([f"{len(wrong)} disagreements", *wrong[:8]])


@pytest.mark.parametrize("name", [n for n in MAKERS if isinstance(OPS[n].vjp, NoGradient)])
def test_what_has_no_gradient_says_so_or_is_flat(name: str) -> None:
    some = smooth_samples(name)
    if not some or name == "iota":
        return
    function, at = as_function(some[-1])

    def total(*floats: Any) -> Any:
        return sum((ms.sum(r) for r in function(*floats)), start=ms.asarray(0.0, dtype=ms.float64))

    if OPS[name].vjp.zero:
        for g in ms.vjp(total, *map(ms.asarray, at))[1](1.0):
            assert not np.asarray(g).any()
    else:
        with pytest.raises(GradientError, match=name):
            ms.vjp(total, *map(ms.asarray, at))[1](1.0)
