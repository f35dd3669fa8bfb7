"""The cumulative family: running sums, products and extrema along a dim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mainspring.base.errors import ArgumentError, AxisError
from mainspring.interpret.eager import as_value
from mainspring.ir.bind import Value, bind
from mainspring.ir.op import Op, Opaque, register
from mainspring.ops.common import broadcast, promoted, require_kind, widened
from mainspring.ops.creation import full, zeros
from mainspring.ops.elementwise import add, equal, logical_or, multiply, not_equal, subtract, where
from mainspring.ops.indexing import put_along_axis
from mainspring.ops.movement import concat, iota, pad, reshape, slice_axis
from mainspring.ops.reduce import accumulating
from mainspring.types.dtype import bool_
from mainspring.types.shape import TensorType, as_int, normalize_axis

ORDERED = Opaque("every element needs the one before it")


def _cumulative(name: str, ufunc: Any, vjp: Callable[..., tuple[Any]], doc: str) -> Op:
    def infer(x: TensorType, axis: int, reverse: bool) -> TensorType:
        require_kind(name, "x", x.dtype, "numeric")
        return x

    def reference(x: np.ndarray, axis: int, reverse: bool) -> np.ndarray:
        if not reverse:
            return ufunc.accumulate(x, axis=axis, dtype=x.dtype)
        return np.flip(ufunc.accumulate(np.flip(x, axis), axis=axis, dtype=x.dtype), axis)

    return register(Op(name, infer, widened(reference), ORDERED, vjp, doc))


def _shifted(x: Value, by: int, axis: int, fill: float) -> Any:
    """Element i of the result is element i + by of `x`; `fill` where there is none."""
    ends = [(0, 0)] * x.ndim
    ends[axis] = (-by, by)
    return pad(x, ends, value=fill)


def _sum_vjp(ct: Value, out: Value, x: Value, axis: int, reverse: bool) -> tuple[Any]:
    return (lambda: bind(CUMULATIVE_SUM, ct, axis=axis, reverse=not reverse),)


def _prod_vjp(ct: Value, out: Value, x: Value, axis: int, reverse: bool) -> tuple[Any]:
    """∂/∂xᵢ = (product before i) · Sᵢ with Sᵢ = ctᵢ + xᵢ₊₁ Sᵢ₊₁: without division, so exact at zeros, and differentiable again.

    The recurrence is solved in log₂ n doubling steps (Hillis & Steele, "Data parallel algorithms", 1986).
    """

    def thunk() -> Any:
        sign = -1 if reverse else 1
        n = x.shape[axis]
        factor, total, step = _shifted(x, sign, axis, 0.0), ct, 1
        while step < n:
            total = add(total, multiply(factor, _shifted(total, sign * step, axis, 0.0)))
            factor = multiply(factor, _shifted(factor, sign * step, axis, 0.0))
            step *= 2
        return multiply(_shifted(out, -sign, axis, 1.0), total)

    return (thunk,)


def _extremum_vjp(ct: Value, out: Value, x: Value, axis: int, reverse: bool) -> tuple[Any]:
    """Each cotangent goes to the element that last set a new record."""

    def thunk() -> Any:
        n = x.shape[axis]
        sign = 1 if reverse else -1
        place = broadcast(reshape(iota(n), tuple(n if i == axis else 1 for i in range(x.ndim))), x.shape)
        record = logical_or(not_equal(out, _shifted(out, sign, axis, 0.0)), equal(place, n - 1 if reverse else 0))
        nearest = CUMULATIVE_MIN if reverse else CUMULATIVE_MAX
        latest = bind(nearest, where(record, place, n - 1 if reverse else 0), axis=axis, reverse=reverse)
        return put_along_axis(zeros(x.shape, dtype=ct.dtype), latest, ct, axis=axis, mode="add")

    return (thunk,)


CUMULATIVE_SUM = _cumulative("cumulative_sum", np.add, _sum_vjp,
                             "Element i: the sum of the elements up to i (with `reverse`: from i on).")
CUMULATIVE_PROD = _cumulative("cumulative_prod", np.multiply, _prod_vjp,
                              "Element i: the product of the elements up to (from) i.")
CUMULATIVE_MAX = _cumulative("cumulative_max", np.maximum, _extremum_vjp,
                             "Element i: the greatest of the elements up to (from) i.")
CUMULATIVE_MIN = _cumulative("cumulative_min", np.minimum, _extremum_vjp,
                             "Element i: the least of the elements up to (from) i.")


def _axis(value: Value, axis: int | None, name: str) -> int:
    if axis is None and value.ndim != 1:
        raise AxisError(name, "axis", "must be given unless x has one dim", str(value._type), f"ms.{name}(x, axis=-1)")
    return normalize_axis(0 if axis is None else axis, value.ndim, name)


def _accumulated(op: Op, value: Value, axis: int | None, initial: int | None) -> Any:
    place = _axis(value, axis, op.name)
    result = bind(op, value, axis=place, reverse=False)
    if initial is None:
        return result
    first = full(tuple(1 if i == place else n for i, n in enumerate(value.shape)), initial, dtype=value.dtype)
    return concat([first, result], axis=place)


def cumulative_sum(x: Any, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False) -> Any:
    """Running sums of `x` along `axis` (which may be left out for one dim).

    Integers are summed in 64 bits unless `dtype` says otherwise. With `include_initial` the result begins with 0 and is one
    longer.
    """
    return _accumulated(CUMULATIVE_SUM, accumulating(x, dtype, "cumulative_sum"), axis, 0 if include_initial else None)


def cumulative_prod(x: Any, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False) -> Any:
    """Running products of `x` along `axis`, as `cumulative_sum`; `include_initial` begins with 1."""
    return _accumulated(CUMULATIVE_PROD, accumulating(x, dtype, "cumulative_prod"), axis, 1 if include_initial else None)


def cumulative_max(x: Any, /, *, axis: int | None = None) -> Any:
    """The greatest element so far along `axis`; NaN from the first NaN on."""
    return _accumulated(CUMULATIVE_MAX, as_value(x, "cumulative_max"), axis, None)


def cumulative_min(x: Any, /, *, axis: int | None = None) -> Any:
    """The least element so far along `axis`; NaN from the first NaN on."""
    return _accumulated(CUMULATIVE_MIN, as_value(x, "cumulative_min"), axis, None)


def diff(x: Any, /, *, axis: int = -1, n: int = 1, prepend: Any = None, append: Any = None) -> Any:
    """The `n`-th differences of neighbours along `axis` (of bools: whether they differ).

    `prepend` and `append` are joined to `x` along `axis` first.
    """
    value = as_value(x, "diff")
    place = normalize_axis(axis, value.ndim, "diff")
    order = as_int(n, "diff", "n")
    if order < 0:
        raise ArgumentError("diff", "n", "must be ≥ 0", str(order), "ms.diff(x, n=1)")
    ends = [value if end is None else _end(value, end, place) for end in (prepend, append)]
    if order:
        value = concat([*ends[:1] * (prepend is not None), value, *ends[1:] * (append is not None)], axis=place)
    for _ in range(order):
        length = value.shape[place]
        later, earlier = slice_axis(value, place, min(1, length), length), slice_axis(value, place, 0, max(0, length - 1))
        value = not_equal(later, earlier) if value.dtype is bool_ else subtract(later, earlier)
    return value


def _end(x: Value, end: Any, axis: int) -> Value:
    """`end` with as many dims as `x`; a number or 0-d tensor becomes one slice."""
    value = promoted("diff", x, end)[1]
    return broadcast(value, tuple(1 if i == axis else m for i, m in enumerate(x.shape))) if not value.ndim else value

