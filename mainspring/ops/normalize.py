"""`batch_norm` as one op: its derivative, written out, needs two sums over the batch instead of the five of its parts.

Legend: n elements a channel, x̂ = (x - mean) · s the standardized x, s = 1 / √(var + eps), g the cotangent of y.

    y = x̂ · weight + bias        dx = weight · s · (g - Σg / n - x̂ · Σ(g · x̂) / n)

The parts' own derivatives go through mean and var apart, where the first has a term, Σ(x - mean), that is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mainspring.base.errors import DTypeError, ShapeError
from mainspring.ir.bind import Value, bind
from mainspring.ir.op import Expand, Op, register
from mainspring.ops import reduce
from mainspring.ops.common import pulled_through
from mainspring.ops.elementwise import rsqrt, square
from mainspring.types.dtype import float32, float64
from mainspring.types.shape import TensorType


def channel_statistics(x: Any) -> tuple[Any, Any]:
    """Mean and variance (divided by n) of each channel of `x` (…, channels)."""
    axes = tuple(range(x.ndim - 1))
    mean = reduce.mean(x, axis=axes)
    return mean, reduce.mean(square(x - mean), axis=axes)


def standardized(x: Any, mean: Any, var: Any, eps: float) -> Any:
    """(x - mean) / √(var + eps)."""
    return (x - mean) * rsqrt(var + eps)


def _composed(x: Any, weight: Any, bias: Any, eps: float) -> tuple[Any, Any, Any]:
    mean, var = channel_statistics(x)
    return standardized(x, mean, var, eps) * weight + bias, mean, var


def _reference(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> tuple[np.ndarray, ...]:
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes, np.float64).astype(x.dtype)  # NumPy adds such columns one row after the other
    centred = x - mean
    var = np.square(centred).mean(axes, np.float64).astype(x.dtype)
    return centred * (1 / np.sqrt(var + x.dtype.type(eps))) * weight + bias, mean, var


def _infer(x: TensorType, weight: TensorType, bias: TensorType, eps: float) -> tuple[TensorType, ...]:
    if x.dtype not in (float32, float64):
        raise DTypeError("batch_norm", "x", "must be float32 or float64 (the public function casts)", str(x))
    channel = TensorType(x.shape[-1:], x.dtype)
    if len(x.shape) < 2 or weight != channel or bias != channel:
        raise ShapeError("batch_norm", "weight, bias", "must be of the type of a row of x, (…, channels)",
                         f"{x}, {weight}, {bias}", "ms.batch_norm(ms.ones((4, 3)))")
    return x, channel, channel


def _vjp(cts: Sequence[Value | None], outs: Sequence[Value], x: Value, weight: Value, bias: Value, eps: float) -> Any:
    if cts[0] is None or cts[1] is not None or cts[2] is not None:  # gradients of gradients, or of the statistics
        return pulled_through(_composed, cts, (x, weight, bias), {"eps": eps})
    _, mean, var = outs
    g: Any = cts[0]
    axes, share = tuple(range(x.ndim - 1)), x.shape[-1] / max(1, x._type.size)
    unit = standardized(x, mean, var, eps)
    total, product = reduce.sum(g, axis=axes), reduce.sum(g * unit, axis=axes)
    scale: Any = weight * rsqrt(var + eps)  # type: ignore[operator]
    return lambda: scale * (g - total * share - unit * (product * share)), product, total


BATCH_NORM = register(
    Op("batch_norm", _infer, _reference, Expand(_composed), _vjp,
       "(y, mean, var): each channel of `x` (…, channels) less its mean, over √(its variance + eps), times `weight`, plus "
       "`bias`; and the mean and variance (divided by n) of each channel.")
)


def batch_norm(x: Any, weight: Any, bias: Any, eps: float) -> tuple[Any, Any, Any]:
    """(y, mean, var) of the op; all operands of one dtype, float32 or float64."""
    return bind(BATCH_NORM, x, weight, bias, eps=eps)  # type: ignore[return-value]
