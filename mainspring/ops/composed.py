"""Composed functions: activations, softmax and norms, each a plain function of ops, so gradients and compiled code follow.

Softmax and norms compute 16-bit floats in float32 and round once. Where a branch of `where` could overflow, its argument
is limited first, so that no 0 × ∞ enters a gradient. Derivatives at kinks are those of PyTorch (relu'(0) = 0).
"""

from __future__ import annotations

import math
from typing import Any

from mainspring.base.errors import ArgumentError, ShapeError
from mainspring.interpret.eager import as_value
from mainspring.ir.bind import Value
from mainspring.ops import normalize, reduce
from mainspring.ops.common import broadcast, cast_to
from mainspring.ops.elementwise import (
    abs,
    erf,
    exp,
    expm1,
    greater,
    greater_equal,
    isfinite,
    less_equal,
    log,
    logaddexp,
    rsqrt,
    sigmoid,
    square,
    stop_gradient,
    tanh,
    where,
)
from mainspring.ops.movement import reshape, split
from mainspring.ops.random import uniform
from mainspring.types.dtype import DEFAULT_FLOAT, DType
from mainspring.types.shape import normalize_axes, normalize_axis


def as_float(x: Any, name: str) -> Any:
    """`x` as a value of a float dtype: integers become float32."""
    value = as_value(x, name)
    return value if value.dtype.kind == "float" else cast_to(value, DEFAULT_FLOAT)


def wide_dtype(dtype: DType) -> DType:
    """The dtype in which norms, softmax and losses are computed: float32 for 16-bit floats, else the dtype itself."""
    return DEFAULT_FLOAT if dtype.bits < 32 else dtype


def widen(x: Any, name: str) -> Any:
    """`x` as a float value in its `wide_dtype`."""
    value = as_float(x, name)
    return cast_to(value, wide_dtype(value.dtype))


# ----------------------------------------------------------------------------------------------------- activations


def relu(x: Any, /) -> Any:
    """max(x, 0) of any shape, NaN kept; the derivative at 0 is 0."""
    value = as_value(x, "relu")
    return where(less_equal(value, 0), 0, value)


def hard_tanh(x: Any, /, low: float = -1.0, high: float = 1.0) -> Any:
    """`x` limited to [low, high]; the derivative at both ends is 0."""
    value = as_float(x, "hard_tanh")
    return where(less_equal(value, low), low, where(greater_equal(value, high), high, value))


def relu6(x: Any, /) -> Any:
    """min(max(x, 0), 6)."""
    return hard_tanh(x, 0.0, 6.0)


def hard_sigmoid(x: Any, /) -> Any:
    """relu6(x + 3) / 6 (Howard et al., "Searching for MobileNetV3", 2019)."""
    return relu6(as_float(x, "hard_sigmoid") + 3.0) * (1.0 / 6.0)


def hard_swish(x: Any, /) -> Any:
    """x · hard_sigmoid(x) (Howard et al., "Searching for MobileNetV3", 2019)."""
    value = as_float(x, "hard_swish")
    return value * hard_sigmoid(value)


def leaky_relu(x: Any, /, slope: float = 0.01) -> Any:
    """`x` where positive, slope · x elsewhere."""
    value = as_float(x, "leaky_relu")
    return where(greater(value, 0.0), value, value * slope)


def prelu(x: Any, slope: Any, /) -> Any:
    """`leaky_relu` with a learned `slope`, a tensor that broadcasts with `x` (one slope a channel: shape (channels,))."""
    value = as_float(x, "prelu")
    return where(greater(value, 0.0), value, value * slope)


def elu(x: Any, /, alpha: float = 1.0) -> Any:
    """`x` where positive, alpha · (exp(x) - 1) elsewhere (Clevert et al., 2015)."""
    value = as_float(x, "elu")
    positive = greater(value, 0.0)
    return where(positive, value, expm1(where(positive, 0.0, value)) * alpha)


def celu(x: Any, /, alpha: float = 1.0) -> Any:
    """`x` where positive, alpha · (exp(x / alpha) - 1) elsewhere (Barron, 2017)."""
    return elu(as_float(x, "celu") * (1.0 / alpha)) * alpha


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al., 2017, section 2


def selu(x: Any, /) -> Any:
    """scale · elu(x, alpha) with the constants that keep mean 0 and variance 1 (Klambauer et al., 2017)."""
    return elu(x, SELU_ALPHA) * SELU_SCALE


def softplus(x: Any, /, beta: float = 1.0) -> Any:
    """log(1 + exp(beta · x)) / beta, without overflow."""
    value = as_float(x, "softplus")
    return logaddexp(value, 0.0) if beta == 1.0 else logaddexp(value * beta, 0.0) * (1.0 / beta)


def log_sigmoid(x: Any, /) -> Any:
    """log(sigmoid(x)) = -softplus(-x), without overflow."""
    return -softplus(-as_float(x, "log_sigmoid"))


def silu(x: Any, /) -> Any:
    """x · sigmoid(x), also called swish."""
    value = as_float(x, "silu")
    return value * sigmoid(value)


swish = silu


def gelu(x: Any, /, *, approximate: bool = False) -> Any:
    """x · Φ(x), Φ the normal distribution function (Hendrycks & Gimpel, 2016); `approximate` uses their tanh formula."""
    value = as_float(x, "gelu")
    if approximate:
        inner = (value + value * square(value) * 0.044715) * math.sqrt(2.0 / math.pi)
        return value * (tanh(inner) + 1.0) * 0.5
    return value * (erf(value * math.sqrt(0.5)) + 1.0) * 0.5


def mish(x: Any, /) -> Any:
    """x · tanh(softplus(x)) (Misra, 2019)."""
    value = as_float(x, "mish")
    return value * tanh(softplus(value))


def softsign(x: Any, /) -> Any:
    """x / (1 + |x|)."""
    value = as_float(x, "softsign")
    return value / (abs(value) + 1.0)


def tanh_shrink(x: Any, /) -> Any:
    """x - tanh(x)."""
    value = as_float(x, "tanh_shrink")
    return value - tanh(value)


def hard_shrink(x: Any, /, threshold: float = 0.5) -> Any:
    """`x` where |x| > threshold, 0 elsewhere."""
    value = as_float(x, "hard_shrink")
    return where(less_equal(abs(value), threshold), 0.0, value)


def soft_shrink(x: Any, /, threshold: float = 0.5) -> Any:
    """`x` moved towards 0 by `threshold`, 0 where |x| is not greater."""
    value = as_float(x, "soft_shrink")
    negative_side = where(greater(-value, threshold), value + threshold, value * 0.0)
    return where(greater(value, threshold), value - threshold, negative_side)


def glu(x: Any, /, *, axis: int = -1) -> Any:
    """a · sigmoid(b) for the halves a, b of `x` along `axis`, whose extent must be even (Dauphin et al., 2016)."""
    value = as_float(x, "glu")
    place = normalize_axis(axis, value.ndim, "glu")
    if value.shape[place] % 2:
        raise ShapeError("glu", "x", f"must have an even extent in dim {place}", str(value.shape), "ms.glu(ms.ones((2, 6)))")
    first, gate = split(value, 2, axis=place)
    return first * sigmoid(gate)


# --------------------------------------------------------------------------------------------------------- softmax


def softmax(x: Any, /, *, axis: int = -1, where: Any = None) -> Any:
    """exp(x) / Σ exp(x) along `axis`, in the shape and dtype of `x`; computed in float32 for 16-bit floats.

    Args:
        where: bool, broadcastable to `x`: elements where it is false count as -∞ and give 0; a row without any gives zeros.
    """
    value = as_float(x, "softmax")
    if not value._type.size:
        return value
    wide = cast_to(value, wide_dtype(value.dtype))
    if where is not None:
        return cast_to(_masked_softmax(wide, as_value(where, "softmax"), axis), value.dtype)
    raised = exp(wide - stop_gradient(reduce.max(wide, axis=axis, keepdims=True)))
    return cast_to(raised * (1.0 / reduce.sum(raised, axis=axis, keepdims=True)), value.dtype)  # one division a row


def _masked_softmax(x: Any, mask: Value, axis: int) -> Any:
    kept = where(mask, x, -math.inf)
    high = stop_gradient(reduce.max(kept, axis=axis, keepdims=True))
    raised = exp(kept - where(isfinite(high), high, 0.0))
    total = reduce.sum(raised, axis=axis, keepdims=True)
    return raised * (1.0 / where(greater(total, 0.0), total, 1.0))


def softmin(x: Any, /, *, axis: int = -1) -> Any:
    """softmax(-x) along `axis`."""
    return softmax(-as_float(x, "softmin"), axis=axis)


def shifted_and_log_total(x: Any, axis: int) -> tuple[Any, Any]:
    """(x - max x, log Σ exp(x - max x)) along `axis`, dims kept: their difference is `log_softmax`."""
    shifted = x - stop_gradient(reduce.max(x, axis=axis, keepdims=True))
    return shifted, log(reduce.sum(exp(shifted), axis=axis, keepdims=True))


def log_softmax(x: Any, /, *, axis: int = -1) -> Any:
    """log(softmax(x)) along `axis`, in the shape and dtype of `x`, without overflow."""
    value = as_float(x, "log_softmax")
    if not value._type.size:
        return value
    shifted, log_total = shifted_and_log_total(cast_to(value, wide_dtype(value.dtype)), axis)
    return cast_to(shifted - log_total, value.dtype)


def dropout(x: Any, rate: float, /, key: Any = None) -> Any:
    """`x` with a share `rate` of its elements, drawn from `key`, set to 0 and the rest divided by 1 - rate.

    Srivastava et al., 2014. Without a `key`, or with rate 0, it gives `x`: evaluation.
    """
    if not 0.0 <= rate <= 1.0:
        raise ArgumentError("dropout", "rate", "must lie in [0, 1]", str(rate), "ms.dropout(x, 0.1, key)")
    value = as_float(x, "dropout")
    if key is None or rate == 0.0:
        return value
    kept = greater_equal(uniform(key, value.shape), rate)
    return where(kept, value * (1.0 / (1.0 - rate) if rate < 1.0 else 0.0), 0.0)


# ----------------------------------------------------------------------------------------------------------- norms


def _affine(y: Any, weight: Any, bias: Any, dtype: DType) -> Any:
    """y · weight + bias in the dtype of `y`, then as `dtype`."""
    if weight is not None:
        y = y * cast_to(as_value(weight), y.dtype)
    if bias is not None:
        y = y + cast_to(as_value(bias), y.dtype)
    return cast_to(y, dtype)


def _standardized(wide: Any, axes: tuple[int, ...], eps: float) -> Any:
    """(x - mean) / √(var + eps) over `axes`."""
    centred = wide - reduce.mean(wide, axis=axes, keepdims=True)
    return centred * rsqrt(reduce.mean(square(centred), axis=axes, keepdims=True) + eps)


def layer_norm(x: Any, weight: Any = None, bias: Any = None, /, *, axis: int | tuple[int, ...] = -1, eps: float = 1e-5) -> Any:
    """(x - mean) / √(var + eps) · weight + bias over `axis` (Ba et al., 2016), in the shape and dtype of `x`.

    Args:
        x: any shape. weight, bias: broadcastable to `x`, e.g. the extents of `axis`; None for 1 and 0.
        eps: added to the variance, which divides by n.
    """
    value = as_float(x, "layer_norm")
    axes = normalize_axes(axis, value.ndim, "layer_norm")
    return _affine(_standardized(cast_to(value, wide_dtype(value.dtype)), axes, eps), weight, bias, value.dtype)


def rms_norm(x: Any, weight: Any = None, /, *, axis: int | tuple[int, ...] = -1, eps: float = 1e-6) -> Any:
    """x / √(mean x² + eps) · weight over `axis` (Zhang & Sennrich, 2019), in the shape and dtype of `x`."""
    value = as_float(x, "rms_norm")
    wide = cast_to(value, wide_dtype(value.dtype))
    scale = rsqrt(reduce.mean(square(wide), axis=axis, keepdims=True) + eps)
    return _affine(wide * scale, weight, None, value.dtype)


def group_norm(x: Any, groups: int, weight: Any = None, bias: Any = None, /, *, eps: float = 1e-5) -> Any:
    """`layer_norm` over the positions and each of `groups` equal groups of channels (Wu & He, 2018).

    Args:
        x: (batch, *spatial, channels). weight, bias: (channels,).
    """
    value = as_float(x, "group_norm")
    if value.ndim < 2 or groups < 1 or value.shape[-1] % groups:
        raise ShapeError("group_norm", "groups", "x is (batch, *spatial, channels), and groups must divide the channels",
                         f"x.shape={value.shape}, groups={groups}", "ms.group_norm(ms.ones((1, 8, 8, 6)), 3)")
    batch, channels = value.shape[0], value.shape[-1]
    positions = math.prod(value.shape[1:-1])
    wide = reshape(cast_to(value, wide_dtype(value.dtype)), (batch, positions, channels))

    def mean(x: Any) -> Any:
        """The mean of each channel's group: channels stay side by side, as they lie in memory."""
        of_groups = reduce.sum(reshape(reduce.sum(x, axis=1), (batch, groups, channels // groups)), axis=-1, keepdims=True)
        of_channels = broadcast(of_groups, (batch, groups, channels // groups))
        return reshape(of_channels, (batch, 1, channels)) / (positions * channels // groups)

    centred = wide - mean(wide)
    return _affine(reshape(centred * rsqrt(mean(square(centred)) + eps), value.shape), weight, bias, value.dtype)


def instance_norm(x: Any, weight: Any = None, bias: Any = None, /, *, eps: float = 1e-5) -> Any:
    """`layer_norm` over the positions of each channel: x (batch, *spatial, channels), weight and bias (channels,)."""
    value = as_float(x, "instance_norm")
    axes = tuple(range(1, value.ndim - 1))
    if not axes:
        raise ShapeError("instance_norm", "x", "must be (batch, *spatial, channels)", str(value.shape),
                         "ms.instance_norm(ms.ones((1, 8, 8, 3)))")
    return _affine(_standardized(cast_to(value, wide_dtype(value.dtype)), axes, eps), weight, bias, value.dtype)


def _channelled(x: Any, name: str) -> Any:
    value = as_float(x, name)
    if value.ndim < 2:
        raise ShapeError(name, "x", "must be (batch, *spatial, channels)", str(value.shape), "ms.batch_norm(ms.ones((4, 3)))")
    return value


def batch_statistics(x: Any, /) -> tuple[Any, Any]:
    """Mean and variance (divided by n) of each channel of `x` (…, channels), in float32 for 16-bit floats."""
    value = _channelled(x, "batch_statistics")
    return normalize.channel_statistics(cast_to(value, wide_dtype(value.dtype)))


def batch_normalized(x: Any, weight: Any = None, bias: Any = None, /, *, eps: float = 1e-5) -> tuple[Any, Any, Any]:
    """(`batch_norm` of `x` by its own statistics, their mean, their variance): what training needs, in one op."""
    value = _channelled(x, "batch_norm")
    wide, channel = cast_to(value, wide_dtype(value.dtype)), value.shape[-1:]
    given = [broadcast(cast_to(as_value(default if v is None else v), wide.dtype), channel)
             for v, default in ((weight, 1.0), (bias, 0.0))]
    y, mean, var = normalize.batch_norm(wide, *given, eps)
    return cast_to(y, value.dtype), mean, var


def batch_norm(x: Any, mean: Any = None, var: Any = None, weight: Any = None, bias: Any = None, /, *, eps: float = 1e-5) -> Any:
    """(x - mean) / √(var + eps) · weight + bias for each channel (Ioffe & Szegedy, 2015), in the shape and dtype of `x`.

    Args:
        x: (batch, *spatial, channels). mean, var: (channels,); both None take those of `x` itself (`batch_statistics`).
        weight, bias: (channels,) or None.
    """
    value = as_float(x, "batch_norm")
    if (mean is None) != (var is None):
        raise ArgumentError("batch_norm", "var" if var is None else "mean", "give both mean and var, or neither", "one of them",
                            "ms.batch_norm(x, mean, var)")
    if mean is None:
        return batch_normalized(value, weight, bias, eps=eps)[0]
    wide = cast_to(value, wide_dtype(value.dtype))
    unit = normalize.standardized(wide, *[cast_to(as_value(v), wide.dtype) for v in (mean, var)], eps)
    return _affine(unit, weight, bias, value.dtype)
