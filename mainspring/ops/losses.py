"""Losses: plain functions of ops. All take ``reduction="mean"``, "sum" or "none", compute 16-bit floats in float32, and
give float32 (float64 for float64): the value is for gradients and people, who both want its digits.
"""

from __future__ import annotations

from typing import Any

from mainspring.base.errors import ArgumentError, DTypeError, ShapeError
from mainspring.interpret.eager import as_value
from mainspring.ir.bind import Value
from mainspring.ops import reduce
from mainspring.ops.common import cast_to
from mainspring.ops.composed import shifted_and_log_total, softplus, widen
from mainspring.ops.elementwise import abs, equal, exp, greater, less, log, maximum, not_equal, square, where
from mainspring.ops.movement import expand_dims, iota, reshape
from mainspring.types.shape import broadcast_shapes, normalize_axis

REDUCTIONS = ("mean", "sum", "none")


def _reduced(loss: Any, reduction: str, name: str) -> Any:
    if reduction not in REDUCTIONS:
        raise ArgumentError(name, "reduction", f"must be one of {', '.join(REDUCTIONS)}", repr(reduction), 'reduction="mean"')
    if reduction == "none":
        return loss
    return reduce.mean(loss) if reduction == "mean" else reduce.sum(loss)


def _pair(name: str, prediction: Any, target: Any) -> tuple[Any, Any]:
    """Both in the wide dtype; their shapes must be equal, since broadcasting here is nearly always a mistake."""
    a, b = widen(prediction, name), widen(target, name)
    if a.shape != b.shape:
        raise ShapeError(name, "target", "must have the shape of the prediction", f"{a.shape} and {b.shape}",
                         f"ms.{name}(ms.ones((4, 1)), ms.zeros((4, 1)))")
    return a, cast_to(b, a.dtype)


# ------------------------------------------------------------------------------------------------------- regression


def mse(prediction: Any, target: Any, /, *, reduction: str = "mean") -> Any:
    """(prediction - target)², two tensors of one shape."""
    a, b = _pair("mse", prediction, target)
    return _reduced(square(a - b), reduction, "mse")


def mae(prediction: Any, target: Any, /, *, reduction: str = "mean") -> Any:
    """|prediction - target|, two tensors of one shape."""
    a, b = _pair("mae", prediction, target)
    return _reduced(abs(a - b), reduction, "mae")


def huber(prediction: Any, target: Any, /, *, delta: float = 1.0, reduction: str = "mean") -> Any:
    """d² / 2 for a distance d ≤ delta, delta · (d - delta / 2) beyond (Huber, 1964)."""
    a, b = _pair("huber", prediction, target)
    difference = a - b
    distance = abs(difference)
    loss = where(greater(distance, delta), (distance - 0.5 * delta) * delta, square(difference) * 0.5)
    return _reduced(loss, reduction, "huber")


def smooth_l1(prediction: Any, target: Any, /, *, beta: float = 1.0, reduction: str = "mean") -> Any:
    """d² / (2 beta) for a distance d ≤ beta, d - beta / 2 beyond: `huber` divided by beta; `mae` for beta = 0."""
    if beta == 0.0:
        return mae(prediction, target, reduction=reduction)
    return huber(prediction, target, delta=beta, reduction=reduction) * (1.0 / beta)


# ---------------------------------------------------------------------------------------------------- distributions


def bce(probability: Any, target: Any, /, *, weight: Any = None, reduction: str = "mean") -> Any:
    """-(t log p + (1 - t) log(1 - p)) for probabilities p and targets t in [0, 1].

    Logarithms are limited at -100, as in PyTorch; `weight` multiplies each element.
    """
    p, t = _pair("bce", probability, target)
    loss = -(t * maximum(log(p), -100.0) + (1.0 - t) * maximum(log(1.0 - p), -100.0))
    return _reduced(loss if weight is None else loss * weight, reduction, "bce")


def bce_with_logits(logits: Any, target: Any, /, *, weight: Any = None, pos_weight: Any = None, reduction: str = "mean") -> Any:
    """`bce` of sigmoid(logits), without overflow: softplus(x) - t · x.

    Args:
        weight: multiplies each element. pos_weight: multiplies the positive term; both broadcast with `logits`.
    """
    x, t = _pair("bce_with_logits", logits, target)
    if pos_weight is None:
        loss = softplus(x) - t * x
    else:
        loss = (1.0 - t) * x + ((cast_to(as_value(pos_weight), x.dtype) - 1.0) * t + 1.0) * softplus(-x)
    return _reduced(loss if weight is None else loss * weight, reduction, "bce_with_logits")


def kl_div(log_probability: Any, target: Any, /, *, log_target: bool = False, reduction: str = "mean") -> Any:
    """target · (log target - log_probability) for each element; summed over classes it is KL(target ‖ prediction), in nats.

    Args:
        log_target: `target` holds log-probabilities. reduction: also "batchmean", the sum divided by the first extent, which is
            the mathematical mean over a batch.
    """
    q, t = _pair("kl_div", log_probability, target)
    if log_target:
        loss = exp(t) * (t - q)
    else:
        positive = greater(t, 0.0)
        loss = where(positive, t * (log(where(positive, t, 1.0)) - q), 0.0)
    if reduction == "batchmean":
        return reduce.sum(loss) * (1.0 / loss.shape[0])
    return _reduced(loss, reduction, "kl_div")


# -------------------------------------------------------------------------------------------------- classification


def _hits(labels: Value, classes: int, axis: int) -> Any:
    """Where the class index along `axis` equals the label: a comparison, so that no gather or scatter is needed."""
    ndim = labels.ndim + 1
    index = reshape(iota(classes, labels.dtype), tuple(classes if i == axis else 1 for i in range(ndim)))
    return equal(index, expand_dims(labels, axis=axis))


def _checked_labels(name: str, x: Any, labels: Value, axis: int) -> Value:
    wanted = x.shape[:axis] + x.shape[axis + 1:]
    if labels.dtype.kind not in ("int", "uint"):
        raise DTypeError(name, "labels", "must be integers (class numbers)", labels.dtype.name,
                         f"ms.{name}(x, ms.asarray([0, 2, 1]))")
    if labels.shape != wanted:
        raise ShapeError(name, "labels", f"must have the shape of the first argument without dim {axis} (classes)",
                         f"{labels.shape} for {x.shape}", f"ms.{name}(ms.zeros((4, 10)), ms.asarray([0, 9, 3, 3]))")
    return labels


def _weighted_mean(loss: Any, weights: Any, reduction: str, name: str) -> Any:
    """Reduce `loss`, already weighted: the mean divides by the sum of `weights` (bools: a count), and is 0 for none."""
    if reduction != "mean" or weights is None:
        return _reduced(loss, reduction, name)
    total = reduce.sum(cast_to(weights, loss.dtype))
    return reduce.sum(loss) / where(equal(total, 0.0), 1.0, total)


def _label_loss(name: str, x: Any, log_total: Any, labels: Any, axis: int, weight: Any, smoothing: float,
                ignore_index: int | None, reduction: str) -> Any:
    """Loss of log-probabilities ``x - log_total`` at integer labels; `log_total` (dims kept) may be None for 0."""
    labels = _checked_labels(name, x, labels, axis)
    classes = x.shape[axis]
    hits = _hits(labels, classes, axis)
    offset = 0.0 if log_total is None else reshape(log_total, labels.shape)
    loss = offset - reduce.sum(where(hits, x, 0.0), axis=axis)
    weights = None
    if weight is not None:
        column = reshape(cast_to(as_value(weight, name), x.dtype), tuple(classes if i == axis else 1 for i in range(x.ndim)))
        weights = reduce.sum(where(hits, column, 0.0), axis=axis)
        loss = loss * weights
    if smoothing:
        everywhere = -x if log_total is None else log_total - x
        spread = reduce.sum(everywhere if weight is None else everywhere * column, axis=axis)
        loss = loss * (1.0 - smoothing) + spread * (smoothing / classes)
    if ignore_index is not None:
        counted = not_equal(labels, ignore_index)
        loss = where(counted, loss, 0.0)
        weights = counted if weights is None else where(counted, weights, 0.0)
    return _weighted_mean(loss, weights, reduction, name)


def cross_entropy(logits: Any, labels: Any, /, *, axis: int = -1, weight: Any = None, label_smoothing: float = 0.0,
                  ignore_index: int | None = None, reduction: str = "mean") -> Any:
    """-Σ target · log_softmax(logits), in nats.

    Args:
        logits: float, classes along `axis`.
        labels: class numbers (integers, the shape of `logits` without `axis`) or probabilities (floats, the shape of `logits`).
        weight: (classes,), a factor for each class. With integer labels the mean divides by the sum of the labels' weights.
        label_smoothing: share in [0, 1] of the target that is spread over all classes (Szegedy et al., 2016).
        ignore_index: a label that gives no loss and does not count (integer labels only); all ignored: the mean is 0.
    """
    x, target = widen(logits, "cross_entropy"), as_value(labels, "cross_entropy")
    place = normalize_axis(axis, x.ndim, "cross_entropy")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ArgumentError("cross_entropy", "label_smoothing", "must lie in [0, 1]", str(label_smoothing),
                            "label_smoothing=0.1")
    if target.dtype.kind != "float":
        shifted, log_total = shifted_and_log_total(x, place)
        return _label_loss("cross_entropy", shifted, log_total, target, place, weight, label_smoothing, ignore_index, reduction)
    if ignore_index is not None:
        raise ArgumentError("cross_entropy", "ignore_index", "is for integer labels", "labels are probabilities",
                            "ms.cross_entropy(x, labels)")
    _, t = _pair("cross_entropy", x, target)
    return _probability_loss(x, t, place, weight, label_smoothing, reduction)


def _probability_loss(x: Any, target: Any, axis: int, weight: Any, smoothing: float, reduction: str) -> Any:
    shifted, log_total = shifted_and_log_total(x, axis)
    classes = x.shape[axis]
    if smoothing:
        target = target * (1.0 - smoothing) + smoothing / classes
    if weight is not None:
        target = target * reshape(cast_to(as_value(weight), x.dtype), tuple(classes if i == axis else 1 for i in range(x.ndim)))
    return _reduced(reduce.sum(target * (log_total - shifted), axis=axis), reduction, "cross_entropy")


def nll(log_probabilities: Any, labels: Any, /, *, axis: int = -1, weight: Any = None, ignore_index: int | None = None,
        reduction: str = "mean") -> Any:
    """-log_probabilities at the integer `labels`; arguments as for `cross_entropy`.

    ``cross_entropy(x, labels)`` is ``nll(log_softmax(x), labels)``.
    """
    x = widen(log_probabilities, "nll")
    place = normalize_axis(axis, x.ndim, "nll")
    return _label_loss("nll", x, None, as_value(labels, "nll"), place, weight, 0.0, ignore_index, reduction)


def gaussian_nll(mean: Any, target: Any, var: Any, /, *, eps: float = 1e-6, reduction: str = "mean") -> Any:
    """½ (log var + (mean - target)² / var), var limited to at least `eps`; without the constant ½ log 2π."""
    a, b = _pair("gaussian_nll", mean, target)
    v = widen(var, "gaussian_nll")
    broadcast_shapes(a.shape, v.shape, where="gaussian_nll")
    v = where(less(v, eps), eps, v)
    return _reduced((log(v) + square(a - b) / v) * 0.5, reduction, "gaussian_nll")
