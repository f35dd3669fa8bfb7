"""The reduce family: sum, prod, max, min, any, all over axes, and what is composed of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mainspring.base.errors import ArgumentError, ShapeError
from mainspring.interpret.eager import as_value
from mainspring.ir import scalar
from mainspring.ir.bind import Value, bind
from mainspring.ir.op import Op, Space, register
from mainspring.ops.common import bind_sum, broadcast, cast_to, require_kind, widened
from mainspring.ops.elementwise import DISCRETE, equal, exp, isfinite, log, not_equal, sqrt, square, stop_gradient, where
from mainspring.ops.movement import concat, iota, reshape
from mainspring.types.dtype import DEFAULT_FLOAT, DEFAULT_INDEX, DEFAULT_INT, DType, as_dtype, bool_, float32, uint64
from mainspring.types.shape import Shape, TensorType, normalize_axes, normalize_axis

Axes = int | Sequence[int] | None


def _kept(shape: Shape, axes: tuple[int, ...]) -> Shape:
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def _space(combine: str) -> Callable[..., Space]:
    def rule(x: TensorType, axes: tuple[int, ...]) -> Space:
        kept = [i for i in range(len(x.shape)) if i not in axes]

        def element(read: Callable[..., Any], *index: Any) -> Any:
            position = dict(zip([*kept, *axes], index, strict=True))
            x_i = read(0, *[position[i] for i in range(len(x.shape))])
            return scalar.cast(x_i, float32) if wide else x_i

        wide = combine in ("sum", "prod") and x.dtype.kind == "float" and x.dtype.bits == 16
        return Space(_kept(x.shape, axes), element, tuple(x.shape[a] for a in axes), combine)

    return rule


def _reduction(name: str, numpy: Callable[..., Any], accepts: str, vjp: Any, needs_elements: bool = False, doc: str = "") -> Op:
    def infer(x: TensorType, axes: tuple[int, ...]) -> TensorType:
        require_kind(name, "x", x.dtype, accepts)
        if needs_elements and 0 in [x.shape[a] for a in axes]:
            raise ShapeError(name, "x", "must have elements along the reduced axes: there is no greatest or least of none",
                             str(x))
        return TensorType(_kept(x.shape, axes), x.dtype)

    def reference(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        return numpy(x, axis=axes).astype(x.dtype) if x.dtype.kind != "b" else numpy(x, axis=axes)

    return register(Op(name, infer, widened(reference), _space(name), vjp, doc))


def _spread(value: Value, axes: tuple[int, ...], shape: Shape) -> Value:
    """A reduced value put back over the axes it was reduced along."""
    return broadcast(reshape(value, tuple(1 if i in axes else n for i, n in enumerate(shape))), shape)


def _extremum_vjp(ct: Value, out: Value, x: Value, axes: tuple[int, ...]) -> tuple[Any]:
    def thunk() -> Value:
        hit = cast_to(equal(x, _spread(out, axes, x.shape)), ct.dtype)
        return hit * _spread(ct / bind(SUM, hit, axes=axes), axes, x.shape)

    return (thunk,)


def _prod_vjp(ct: Value, out: Value, x: Value, axes: tuple[int, ...]) -> tuple[Any]:
    """∂/∂xᵢ = the product of the others, by halving: exact where elements are 0, and differentiable again."""

    def thunk() -> Value:
        kept = [i for i in range(x.ndim) if i not in axes]
        count = math.prod(x.shape[a] for a in axes)
        flat = reshape(x.permute_dims((*kept, *axes)), (*[x.shape[i] for i in kept], count))  # type: ignore[attr-defined]
        others = reshape(_products_of_others(flat), (*[x.shape[i] for i in kept], *[x.shape[a] for a in axes]))
        order = [*kept, *axes]
        back = others.permute_dims(tuple(order.index(i) for i in range(x.ndim)))  # type: ignore[attr-defined]
        return back * _spread(ct, axes, x.shape)

    return (thunk,)


def _products_of_others(x: Value) -> Value:
    """For the last dim of `x`, the product of all elements but one: of the other half, times the others in this half."""
    n = x.shape[-1]
    if n <= 1:
        return broadcast(as_value(1.0).astype(x.dtype), x.shape)  # type: ignore[attr-defined]
    half = n // 2
    left, right = x[..., :half], x[..., half:]  # type: ignore[index]
    last = (x.ndim - 1,)
    of_left, of_right = (reshape(bind(PROD, part, axes=last), (*x.shape[:-1], 1)) for part in (left, right))
    return concat([_products_of_others(left) * of_right, _products_of_others(right) * of_left], axis=-1)


SUM = _reduction("sum", np.sum, "numeric", lambda ct, out, x, axes: (lambda: _spread(ct, axes, x.shape),))
PROD = _reduction("prod", np.prod, "numeric", _prod_vjp)
MAX = _reduction("max", np.max, "numeric", _extremum_vjp, needs_elements=True)
MIN = _reduction("min", np.min, "numeric", _extremum_vjp, needs_elements=True)
ANY = _reduction("any", np.any, "bool", DISCRETE)
ALL = _reduction("all", np.all, "bool", DISCRETE)


def _reduce(op: Op, x: Value, axis: Axes, keepdims: bool) -> Any:
    axes = tuple(sorted(normalize_axes(axis, x.ndim, op.name)))
    result = bind_sum(x, axes) if op is SUM and axes else bind(op, x, axes=axes)
    return reshape(result, tuple(1 if i in axes else n for i, n in enumerate(x.shape))) if keepdims else result


def accumulating(x: Any, dtype: Any, where_: str) -> Value:
    """`x` in the dtype sums and products are returned in: `dtype`, or at least the default integer for integers."""
    value = as_value(x, where_)
    if dtype is not None:
        return cast_to(value, as_dtype(dtype, where_))
    if value.dtype.kind in ("bool", "int"):
        return cast_to(value, DEFAULT_INT)
    return cast_to(value, uint64) if value.dtype.kind == "uint" else value


def sum(x: Any, /, *, axis: Axes = None, dtype: Any = None, keepdims: bool = False) -> Any:
    """Sum of `x` over `axis` (all by default). Integers are summed in 64 bits unless `dtype` says otherwise."""
    return _reduce(SUM, accumulating(x, dtype, "sum"), axis, keepdims)


def prod(x: Any, /, *, axis: Axes = None, dtype: Any = None, keepdims: bool = False) -> Any:
    """Product of `x` over `axis` (all by default). Integers are multiplied in 64 bits unless `dtype` says otherwise."""
    return _reduce(PROD, accumulating(x, dtype, "prod"), axis, keepdims)


def max(x: Any, /, *, axis: Axes = None, keepdims: bool = False) -> Any:
    """Greatest element over `axis`; NaN if any is NaN."""
    return _reduce(MAX, as_value(x, "max"), axis, keepdims)


def min(x: Any, /, *, axis: Axes = None, keepdims: bool = False) -> Any:
    """Least element over `axis`; NaN if any is NaN."""
    return _reduce(MIN, as_value(x, "min"), axis, keepdims)


def any(x: Any, /, *, axis: Axes = None, keepdims: bool = False) -> Any:
    """Whether any element over `axis` is not 0."""
    return _reduce(ANY, cast_to(as_value(x, "any"), bool_), axis, keepdims)


def all(x: Any, /, *, axis: Axes = None, keepdims: bool = False) -> Any:
    """Whether all elements over `axis` are not 0."""
    return _reduce(ALL, cast_to(as_value(x, "all"), bool_), axis, keepdims)


def count_nonzero(x: Any, /, *, axis: Axes = None, keepdims: bool = False) -> Any:
    """Number of elements over `axis` that are not 0, as int64."""
    return sum(cast_to(cast_to(as_value(x, "count_nonzero"), bool_), DEFAULT_INDEX), axis=axis, keepdims=keepdims)


def _float(x: Any, where_: str) -> Value:
    value = as_value(x, where_)
    return value if value.dtype.kind == "float" else cast_to(value, DEFAULT_FLOAT)


def _count(x: Value, axis: Axes, where_: str) -> int:
    return math.prod(x.shape[a] for a in normalize_axes(axis, x.ndim, where_))


def _mean_accumulator(dtype: DType) -> DType:
    return DEFAULT_FLOAT if dtype.bits < 32 else dtype


def mean(x: Any, /, *, axis: Axes = None, keepdims: bool = False) -> Any:
    """Arithmetic mean over `axis`; 16-bit floats are summed in float32, NaN for no elements."""
    value = _float(x, "mean")
    wide = cast_to(value, _mean_accumulator(value.dtype))
    count = _count(value, axis, "mean")
    return cast_to(sum(wide, axis=axis, keepdims=keepdims) * (1.0 / count if count else math.nan), value.dtype)


def var(x: Any, /, *, axis: Axes = None, correction: int | float = 0.0, keepdims: bool = False) -> Any:
    """Variance over `axis`: the mean squared deviation, divided by n - correction."""
    value = _float(x, "var")
    if not isinstance(correction, (int, float)):
        raise ArgumentError("var", "correction", "must be a number", repr(correction), "ms.var(x, correction=1)")
    wide = cast_to(value, _mean_accumulator(value.dtype))
    centred = wide - mean(wide, axis=axis, keepdims=True)
    count = _count(value, axis, "var") - correction
    return cast_to(sum(square(centred), axis=axis, keepdims=keepdims) * (1.0 / count if count > 0 else math.nan), value.dtype)


def std(x: Any, /, *, axis: Axes = None, correction: int | float = 0.0, keepdims: bool = False) -> Any:
    """Standard deviation over `axis`: √var."""
    return sqrt(var(x, axis=axis, correction=correction, keepdims=keepdims))


def logsumexp(x: Any, /, *, axis: Axes = None, keepdims: bool = False) -> Any:
    """log Σ exp(x) over `axis`, without overflow; -∞ for no elements."""
    value = _float(x, "logsumexp")
    axes = normalize_axes(axis, value.ndim, "logsumexp")
    if not _count(value, axis, "logsumexp"):
        return log(sum(value, axis=axis, keepdims=keepdims))
    high = stop_gradient(max(value, axis=axis, keepdims=True))
    high = where(isfinite(high), high, 0.0)
    total = log(sum(exp(value - high), axis=axis, keepdims=True)) + high
    return total if keepdims else reshape(total, _kept(value.shape, axes))


def _arg(op: Op, x: Any, axis: int | None, keepdims: bool, name: str) -> Any:
    value = as_value(x, name)
    if axis is None:
        flat = reshape(value, (value._type.size,))
        found = _arg(op, flat, 0, False, name)
        return reshape(found, (1,) * value.ndim) if keepdims else found
    place = normalize_axis(axis, value.ndim, name)
    if value.dtype.kind == "bool":
        value = cast_to(value, DEFAULT_INT)
    best = _spread(bind(op, value, axes=(place,)), (place,), value.shape)
    hit = equal(value, best) | not_equal(value, value)
    shape = tuple(n if i == place else 1 for i, n in enumerate(value.shape))
    positions = broadcast(reshape(iota(value.shape[place]), shape), value.shape)
    return _reduce(MIN, where(hit, positions, value.shape[place]), place, keepdims)


def argmax(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """Index (int64) of the first greatest element along `axis`, or of the flattened tensor; NaN counts as greatest."""
    return _arg(MAX, x, axis, keepdims, "argmax")


def argmin(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """Index (int64) of the first least element along `axis`, or of the flattened tensor; NaN counts as least."""
    return _arg(MIN, x, axis, keepdims, "argmin")

