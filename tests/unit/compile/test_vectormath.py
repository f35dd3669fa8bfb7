"""How far each mathematical function may be from the truth, in units in the last place, and what it does at the edges.

The oracle of float32 is float64, that of float64 is long double, or libm and SciPy (themselves within an ulp or so) where
NumPy has no long double function. Every table entry was also swept densely when it was made; the bounds are what was found.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.special

from mainspring.compile.target import native
from mainspring.ir.primitives import SCALARS
from mainspring.types.dtype import as_dtype
from tests.unit.compile.native import elementwise

SAMPLES = 40_000


# op: (ulps in float32, ulps in float64, intervals swept evenly, whether all exponents and both signs are swept too)
TABLE: dict[str, tuple[float, float, list[tuple[float, float]], bool]] = {
    "exp": (1.1, 1.1, [(-110, 90), (-1, 1), (-745, 710)], True),
    "exp2": (1, 1, [(-150, 128), (-1, 1), (-1075, 1024)], True),
    "expm1": (1.5, 2, [(-20, 90), (-1, 1)], True),
    "log": (1, 1, [(0, 4), (0.7, 1.5), (0, 1e6)], True),
    "log1p": (1.5, 1.5, [(-1, 4), (-0.3, 0.5)], True),
    "log2": (1, 1, [(0, 4), (0.7, 1.5)], True),
    "log10": (1, 1, [(0, 4), (0.7, 1.5)], True),
    "tanh": (1.5, 1.5, [(-10, 10), (-1, 1)], True),
    "sinh": (1.7, 1.7, [(-90, 90), (-2, 2)], True),
    "cosh": (1.5, 1.5, [(-90, 90), (-2, 2)], True),
    "asinh": (2, 2, [(-10, 10)], True),
    "acosh": (2.2, 2.3, [(1, 10), (1, 1.01)], True),
    "atanh": (2, 2, [(-1, 1)], True),
    "sin": (1.5, 1.5, [(-10, 10), (-90000, 90000)], True),
    "cos": (1.5, 1.5, [(-10, 10), (-90000, 90000)], True),
    "tan": (2.5, 2.5, [(-10, 10), (-90000, 90000)], True),
    "asin": (2, 2, [(-1, 1)], True),
    "acos": (2, 2, [(-1, 1)], True),
    "atan": (2.1, 2.2, [(-10, 10)], True),
    "erf": (1.3, 2, [(-6, 6), (-1.2, 1.2)], True),
    "erfc": (4, 5, [(-6, 10), (-1, 1)], True),
    "erfinv": (2.1, 5, [(-1, 1)], True),
}

_NUMPY = {"asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "asinh": np.arcsinh, "acosh": np.arccosh,
          "atanh": np.arctanh, "atan2": np.arctan2, "pow": np.power}


def truth(op: str, *args: np.ndarray) -> np.ndarray:
    """`op` with more bits than the arguments have, or as good as it gets."""
    function = _NUMPY.get(op) or getattr(np, op, None)
    with np.errstate(all="ignore"):
        if function is not None:
            return function(*[a.astype(np.float64 if a.dtype == np.float32 else np.longdouble) for a in args])
        if op in ("erf", "erfc"):
            return np.array([getattr(math, op)(float(v)) for v in args[0]])
        name = {"lgamma": "gammaln", "digamma": "psi"}.get(op, op)
        return getattr(scipy.special, name)(*[a.astype(np.float64) for a in args])


def ulps(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """The distance from `want`, in units in the last place of its dtype; infinite where one is NaN or infinite alone."""
    with np.errstate(all="ignore"):
        rounded = want.astype(got.dtype)
        spacing = np.spacing(np.abs(rounded)).astype(want.dtype)
        distance = np.abs(got.astype(want.dtype) - want) / spacing
        same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
        finite = np.isfinite(got) & np.isfinite(rounded)
    overflow = np.isinf(got) != np.isinf(rounded)  # one rounding at the edge of the range
    largest = np.finfo(got.dtype).max
    near_edge = overflow & ~np.isnan(got) & ~np.isnan(rounded) & (np.abs(got) >= largest) & (np.abs(rounded) >= largest)
    return np.where(same & ~finite, 0, np.where(finite, distance, np.where(near_edge, 1, np.inf)))


def samples(dtype: type, intervals: list[tuple[float, float]], everywhere: bool, count: int = SAMPLES) -> np.ndarray:
    rng = np.random.default_rng(11)
    parts = [rng.uniform(low, high, count // (len(intervals) + 1)) for low, high in intervals]
    info = np.finfo(dtype)
    if everywhere:
        exponents = rng.uniform(math.log2(float(info.smallest_subnormal)), math.log2(float(info.max)), count // 4)
        parts.append(np.exp2(exponents) * rng.choice([-1, 1], exponents.size))
    edges = [0.0, -0.0, 1, -1, 0.5, -0.5, np.inf, -np.inf, np.nan, info.max, -info.max, info.tiny, info.smallest_subnormal]
    with np.errstate(all="ignore"):
        return np.concatenate([*parts, edges]).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("op", TABLE)
def test_within_its_bound_everywhere(op: str, dtype: type) -> None:
    single, double, intervals, everywhere = TABLE[op]
    x = samples(dtype, intervals, everywhere)
    distance = ulps(elementwise(op, x), truth(op, x))
    worst = int(np.argmax(distance))
    assert distance[worst] <= (single if dtype == np.float32 else double), (op, x[worst], distance[worst])


@pytest.mark.parametrize("op", [*TABLE, "lgamma", "digamma"])
def test_a_scalar_has_the_bits_of_a_lane(op: str) -> None:
    for dtype in (np.float32, np.float64):
        x = samples(dtype, TABLE.get(op, (0, 0, [(-4, 30)], True))[2], True, count=400)
        lanes, scalars = (elementwise(op, x, role=role).view(f"i{x.itemsize}") for role in ("vector", "serial"))
        np.testing.assert_array_equal(lanes, scalars)


@pytest.mark.parametrize("op", ["exp", "exp2", "sinh", "tanh", "log", "erf"])
def test_wider_instructions_give_the_same_bits(op: str) -> None:
    x = samples(np.float32, TABLE[op][2], True, count=4000)
    wide, narrow = (elementwise(op, x, target=target) for target in (native(), replace(native(), has=frozenset({"avx2"}))))
    np.testing.assert_array_equal(wide.view(np.int32), narrow.view(np.int32))


ODD = ["expm1", "log1p", "tanh", "sinh", "asinh", "atanh", "sin", "tan", "asin", "atan", "erf", "erfinv"]


@pytest.mark.parametrize("op", ODD)
def test_odd_functions_keep_the_sign_of_zero(op: str) -> None:
    for dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(np.signbit(elementwise(op, np.array([0.0, -0.0], dtype))), [False, True])


PAIRS = {"atan2": (2, 2), "pow": (1, 1), "hypot": (1, 1), "fmod": (0, 0)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("op", PAIRS)
def test_functions_of_two(op: str, dtype: type) -> None:
    edges = [0.0, -0.0, 1, -1, 2, 3, -3, 0.5, -2.5, np.inf, -np.inf, np.nan, 1e30, 1e-30, -1e-40]
    grid = [g.ravel() for g in np.meshgrid(edges, edges)]
    rng = np.random.default_rng(3)
    x = np.concatenate([grid[0], rng.uniform(-10, 10, 20000), np.exp(rng.uniform(-80, 80, 5000))]).astype(dtype)
    y = np.concatenate([grid[1], rng.uniform(-10, 10, 20000), rng.uniform(-1, 1, 5000)]).astype(dtype)
    got, want = elementwise(op, x, y), truth(op, x, y)
    distance = ulps(got, want)
    worst = int(np.argmax(distance))
    assert distance[worst] <= PAIRS[op][dtype == np.float64], (op, x[worst], y[worst], got[worst], want[worst])
    zero = want == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]))


@pytest.mark.parametrize("op", ["lgamma", "digamma"])
def test_gamma_family(op: str) -> None:
    """Relative to the larger of 1 and the value: near its zeros only the absolute error is small."""
    for dtype, bound in ((np.float32, 4e-7), (np.float64, 1e-14)):
        x = samples(dtype, [(0.01, 30), (-4, 4)], False, count=4000)[:-13]
        x = x[(x > 0) | (np.abs(x - np.round(x)) > 0.01)]
        got, want = elementwise(op, x), truth(op, x)
        assert (np.abs(got - want) / np.maximum(1, np.abs(want))).max() <= bound
        np.testing.assert_array_equal(elementwise(op, np.array([np.inf, np.nan], dtype)), [np.inf, np.nan])


@pytest.mark.parametrize("op", [*TABLE, *PAIRS, "lgamma", "digamma"])
def test_half_precision_is_float32_rounded_once(op: str) -> None:
    for name in ("float16", "bfloat16"):
        half = as_dtype(name).numpy
        args = [np.linspace(-3, 3, 99 + k, dtype=np.float32)[:99].astype(half) for k in range(SCALARS[op].arity)]
        wide = elementwise(op, *[a.astype(np.float32) for a in args])
        np.testing.assert_array_equal(elementwise(op, *args).astype(np.float32), wide.astype(half).astype(np.float32))
