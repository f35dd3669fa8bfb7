"""Initializers: ``init(key, shape, dtype) -> tensor``, the same bits for the same key everywhere.

Weights are stored [in, out] and [*window, in, out], so the fan-in of a shape is the product of all dims but the last and the
fan-out that of all but the second last. Give options with `functools.partial`: ``partial(init.normal, std=0.02)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from mainspring.base.errors import ArgumentError, ShapeError
from mainspring.ops import random, reduce
from mainspring.ops.common import broadcast, cast_to
from mainspring.ops.contract import matmul
from mainspring.ops.creation import full
from mainspring.ops.elementwise import erfinv, rsqrt, square
from mainspring.ops.movement import matrix_transpose, reshape
from mainspring.types.dtype import as_dtype, float32, float64

Initializer = Callable[..., Any]

__all__ = ["constant", "fans", "gain", "kaiming_normal", "kaiming_uniform", "lecun_normal", "lecun_uniform", "normal", "ones",
           "orthogonal",
           "truncated_normal", "uniform", "xavier_normal", "xavier_uniform", "zeros"]


def constant(key: Any, shape: Sequence[int], dtype: Any = float32, *, value: float = 0.0) -> Any:
    """`value` everywhere; `key` is not used and may be None."""
    return full(tuple(shape), float(value), dtype=dtype)


def zeros(key: Any, shape: Sequence[int], dtype: Any = float32) -> Any:
    """0 everywhere; `key` is not used and may be None."""
    return constant(key, shape, dtype)


def ones(key: Any, shape: Sequence[int], dtype: Any = float32) -> Any:
    """1 everywhere; `key` is not used and may be None."""
    return constant(key, shape, dtype, value=1.0)


def _as(x: Any, dtype: Any) -> Any:
    return cast_to(x, as_dtype(dtype))


def normal(key: Any, shape: Sequence[int], dtype: Any = float32, *, std: float = 1.0, mean: float = 0.0) -> Any:
    """Normal numbers of the given mean and standard deviation."""
    return _as(random.normal(key, tuple(shape)) * std + mean, dtype)


def uniform(key: Any, shape: Sequence[int], dtype: Any = float32, *, low: float = -1.0, high: float = 1.0) -> Any:
    """Numbers spread evenly over [low, high)."""
    return _as(random.uniform(key, tuple(shape)) * (high - low) + low, dtype)


def truncated_normal(key: Any, shape: Sequence[int], dtype: Any = float32, *, std: float = 1.0, bound: float = 2.0) -> Any:
    """Normal numbers within `bound` standard deviations, by the inverse distribution function; `std` is before truncation."""
    edge = math.erf(bound / math.sqrt(2.0))
    drawn = erfinv((random.uniform(key, tuple(shape)) * 2.0 - 1.0) * edge)
    return _as(drawn * (std * math.sqrt(2.0)), dtype)


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """(fan-in, fan-out) of a weight of `shape`, which has 2 dims or more."""
    if len(shape) < 2:
        raise ShapeError("init", "shape", "must have 2 dims or more for an initializer that looks at fan-in", str(tuple(shape)),
                         "(in, out)")
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


GAINS = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5.0 / 3.0, "relu": math.sqrt(2.0), "selu": 0.75}


def gain(nonlinearity: str, slope: float = 0.01) -> float:
    """The factor of a weight's standard deviation that suits what follows: PyTorch's table; `slope` is for "leaky_relu"."""
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1.0 + slope * slope))
    if nonlinearity not in GAINS:
        raise ArgumentError("gain", "nonlinearity", f"must be one of {', '.join(GAINS)}, leaky_relu", repr(nonlinearity),
                            'gain("relu")')
    return GAINS[nonlinearity]


def _scaled(draw: str, key: Any, shape: Sequence[int], dtype: Any, variance: float) -> Any:
    std = math.sqrt(variance)
    if draw == "normal":
        return normal(key, shape, dtype, std=std)
    return uniform(key, shape, dtype, low=-std * math.sqrt(3.0), high=std * math.sqrt(3.0))


def xavier_uniform(key: Any, shape: Sequence[int], dtype: Any = float32, *, gain: float = 1.0) -> Any:
    """Variance gain² · 2 / (fan-in + fan-out), uniform (Glorot & Bengio, 2010, equation 16)."""
    return _scaled("uniform", key, shape, dtype, gain**2 * 2.0 / sum(fans(shape)))


def xavier_normal(key: Any, shape: Sequence[int], dtype: Any = float32, *, gain: float = 1.0) -> Any:
    """Variance gain² · 2 / (fan-in + fan-out), normal (Glorot & Bengio, 2010)."""
    return _scaled("normal", key, shape, dtype, gain**2 * 2.0 / sum(fans(shape)))


def kaiming_uniform(key: Any, shape: Sequence[int], dtype: Any = float32, *, gain: float = math.sqrt(2.0),
                    fan: str = "in") -> Any:
    """Variance gain² / fan-in (or fan-out), uniform (He et al., 2015, equation 10)."""
    return _scaled("uniform", key, shape, dtype, gain**2 / fans(shape)[fan != "in"])


def kaiming_normal(key: Any, shape: Sequence[int], dtype: Any = float32, *, gain: float = math.sqrt(2.0),
                   fan: str = "in") -> Any:
    """Variance gain² / fan-in (or fan-out), normal (He et al., 2015, equation 10)."""
    return _scaled("normal", key, shape, dtype, gain**2 / fans(shape)[fan != "in"])


def lecun_uniform(key: Any, shape: Sequence[int], dtype: Any = float32) -> Any:
    """Variance 1 / fan-in, uniform (LeCun et al., "Efficient BackProp", 1998, equation 16)."""
    return _scaled("uniform", key, shape, dtype, 1.0 / fans(shape)[0])


def lecun_normal(key: Any, shape: Sequence[int], dtype: Any = float32) -> Any:
    """Variance 1 / fan-in, normal (LeCun et al., "Efficient BackProp", 1998, equation 16)."""
    return _scaled("normal", key, shape, dtype, 1.0 / fans(shape)[0])


ORTHOGONAL_STEPS = 50  # 1.5^k lifts a singular value of 1e-7 of the greatest to order 1 in 40; the rest converge quadratically


def orthogonal(key: Any, shape: Sequence[int], dtype: Any = float32, *, gain: float = 1.0) -> Any:
    """Orthonormal rows or columns (whichever are fewer) times `gain`; dims before the last are one (Saxe et al., 2014).

    The polar factor G (GᵀG)^(-1/2) of a normal matrix G is uniform over orthogonal matrices; it is found by Newton-Schulz
    steps X ← 1.5 X - 0.5 X XᵀX in float64, which are matrix products alone, so that this can be traced.
    """
    rows, columns = math.prod(shape[:-1]), shape[-1]
    fans(shape)
    x: Any = cast_to(random.normal(key, (max(rows, columns), min(rows, columns))), float64)
    x = x * broadcast(rsqrt(reduce.sum(square(x))), x.shape)
    for _ in range(ORTHOGONAL_STEPS):
        x = x * 1.5 - matmul(x, matmul(matrix_transpose(x), x)) * 0.5
    return _as(reshape(x if rows >= columns else matrix_transpose(x), tuple(shape)) * gain, dtype)
