"""The indexing family: elements by position (take, dynamic slices, one_hot), and positions by element (nonzero, unique)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mainspring.base.errors import ArgumentError, AxisError, ShapeError, TraceError
from mainspring.interpret.eager import as_value, wrap
from mainspring.ir.bind import Value, bind
from mainspring.ops.along import PUT_ALONG, TAKE_ALONG, ramp
from mainspring.ops.common import broadcast, broadcasted, cast_to, require_kind
from mainspring.ops.creation import zeros
from mainspring.ops.elementwise import equal, where
from mainspring.ops.gather import DYNAMIC_SLICE, DYNAMIC_UPDATE_SLICE, GATHER, UFUNCS
from mainspring.ops.movement import iota, moveaxis, reshape
from mainspring.ops.subscript import At, getitem, update_values
from mainspring.types.dtype import DEFAULT_FLOAT, as_dtype, int64
from mainspring.types.shape import TensorType, as_int, as_shape, normalize_axis

# ------------------------------------------------------------------------------------------ elements by position


def take(x: Any, indices: Any, /, *, axis: int | None = None) -> Any:
    """The slices of `x` at integer `indices` along `axis`.

    Args:
        indices: integers of any shape, each in [-n, n) for the extent n.
        axis: may be left out when `x` has one dim.

    Returns:
        The shape of `x` with the dim `axis` replaced by the dims of `indices`.
    """
    value, index = as_value(x, "take"), as_value(indices, "take")
    if axis is None and value.ndim != 1:
        raise AxisError("take", "axis", "must be given unless x has one dim", str(value._type), "ms.take(x, indices, axis=0)")
    place = normalize_axis(0 if axis is None else axis, value.ndim, "take")
    found = bind(GATHER, value, index, axes=(place,))
    n = index.ndim
    return moveaxis(found, tuple(range(n)), tuple(range(place, place + n))) if place and n else found


def _along(x: Value, indices: Any, axis: int, name: str) -> tuple[Value, int]:
    """`indices` for every position of the dims of `x` other than `axis`; and `axis` from the front."""
    place = normalize_axis(axis, x.ndim, name)
    index = as_value(indices, name)
    require_kind(name, "indices", index.dtype, "integer")
    if index.ndim != x.ndim or any(index.shape[i] not in (1, x.shape[i]) for i in range(x.ndim) if i != place):
        raise ShapeError(name, "indices", f"must have the dims of x, equal or 1 but for dim {place}",
                         f"{index.shape} for {x.shape}")
    shape = tuple(m if i == place else n for i, (m, n) in enumerate(zip(index.shape, x.shape, strict=True)))
    return broadcast(index, shape), place


def _widened(x: Value, index: Value, axis: int) -> Value:
    """`x` with dims of extent 1 other than `axis` repeated for an `index` of as many dims."""
    place = normalize_axis(axis, x.ndim, "take_along_axis")
    pairs = enumerate(zip(x.shape, index.shape, strict=False))
    return broadcast(x, tuple(m if n == 1 and i != place else n for i, (n, m) in pairs)) if x.ndim == index.ndim else x


def take_along_axis(x: Any, indices: Any, /, *, axis: int = -1) -> Any:
    """For every position the element of `x` whose place along `axis` is given by `indices`.

    `indices` has as many dims as `x`; dims other than `axis` are broadcast. What argsort and argmax give fits.
    """
    value = _widened(as_value(x, "take_along_axis"), as_value(indices, "take_along_axis"), axis)
    index, place = _along(value, indices, axis, "take_along_axis")
    return bind(TAKE_ALONG, value, index, axis=place)


def put_along_axis(x: Any, indices: Any, values: Any, /, *, axis: int = -1, mode: str = "set") -> Any:
    """`x` with `values` (broadcast to `indices`) put where `take_along_axis` reads; mode set, add, multiply, max or min."""
    value = as_value(x, "put_along_axis")
    if mode not in ("set", *UFUNCS):
        raise ArgumentError("put_along_axis", "mode", f"must be one of set, {', '.join(UFUNCS)}", repr(mode), 'mode="add"')
    index, place = _along(value, indices, axis, "put_along_axis")
    updates = broadcast(update_values(values, value, "put_along_axis"), index.shape)
    return bind(PUT_ALONG, value, updates, index, axis=place, mode=mode)


def one_hot(indices: Any, num_classes: int, /, *, dtype: Any = DEFAULT_FLOAT, axis: int = -1) -> Any:
    """1 where the position along the new dim `axis` (of extent `num_classes`) equals the index, else 0."""
    index = as_value(indices, "one_hot")
    require_kind("one_hot", "indices", index.dtype, "integer")
    place = normalize_axis(axis, index.ndim + 1, "one_hot")
    classes = ramp(as_shape((num_classes,), "one_hot")[0], place, index.ndim + 1)
    wide = reshape(index, (*index.shape[:place], 1, *index.shape[place:]))
    return cast_to(equal(cast_to(wide, int64), classes), as_dtype(dtype, "one_hot"))


def _starts(starts: Any, ndim: int, name: str) -> list[Value]:
    """The start in each dim as a 0-d int64 value."""
    row = isinstance(starts, (Value, np.ndarray)) and len(starts.shape) == 1
    given = starts if isinstance(starts, Sequence) else [starts]
    parts = [getitem(starts, i) for i in range(starts.shape[0])] if row else given
    values = [as_value(a, name) for a in parts]
    if len(values) != ndim:
        raise ShapeError(name, "starts", f"must have one entry for each of the {ndim} dims", f"{len(values)} entries",
                         "ms.dynamic_slice(x, (i, 0), (1, 4))")
    for k, v in enumerate(values):
        require_kind(name, f"starts[{k}]", v.dtype, "integer")
    return [cast_to(v, int64) for v in values]


def dynamic_slice(x: Any, starts: Any, sizes: Sequence[int], /) -> Any:
    """The window of `sizes` of `x` that begins at `starts` (ints or 0-d integer tensors, traced too).

    The starts are clamped so that the window lies inside `x`.
    """
    value = as_value(x, "dynamic_slice")
    return bind(DYNAMIC_SLICE, value, *_starts(starts, value.ndim, "dynamic_slice"), sizes=as_shape(sizes, "dynamic_slice"))


def dynamic_update_slice(x: Any, update: Any, starts: Any, /) -> Any:
    """`x` with the window that begins at `starts` replaced by `update`; starts as in `dynamic_slice`."""
    value = as_value(x, "dynamic_update_slice")
    part = update_values(update, value, "dynamic_update_slice")
    return bind(DYNAMIC_UPDATE_SLICE, value, part, *_starts(starts, value.ndim, "dynamic_update_slice"))


# ------------------------------------------------------------------------------------------- grids and triangles


def meshgrid(*arrays: Any, indexing: str = "xy") -> list[Any]:
    """Coordinate tensors of the grid spanned by 1-d `arrays`; "xy" puts the second array's dim first, "ij" keeps the order."""
    if indexing not in ("xy", "ij"):
        raise ArgumentError("meshgrid", "indexing", "must be xy or ij", repr(indexing), 'ms.meshgrid(x, y, indexing="ij")')
    values = [as_value(a, "meshgrid") for a in arrays]
    for k, v in enumerate(values):
        if v.ndim > 1:
            raise ShapeError("meshgrid", f"arrays[{k}]", "must be 1-d or 0-d", str(v.shape), "ms.meshgrid(ms.arange(3), x)")
    order = list(range(len(values)))
    if indexing == "xy" and len(order) > 1:
        order[:2] = [1, 0]
    wide = [reshape(v, tuple(v._type.size if d == order[k] else 1 for d in range(len(values)))) for k, v in enumerate(values)]
    return broadcasted("meshgrid", wide) if wide else []


def _triangle(x: Any, name: str, k: int, lower: bool) -> Any:
    value = as_value(x, name)
    if value.ndim < 2:
        raise ShapeError(name, "x", "must have at least 2 dims", str(value.shape), f"ms.{name}(ms.ones((3, 3)))")
    rows, columns = ramp(value.shape[-2], 0, 2), ramp(value.shape[-1], 1, 2)
    offset = as_int(k, name, "k")
    inside = columns <= rows + offset if lower else columns >= rows + offset  # type: ignore[operator]
    return where(inside, value, zeros((), dtype=value.dtype))


def tril(x: Any, /, *, k: int = 0) -> Any:
    """The lower triangle of the last two dims, with the diagonal `k` (0 the main one, above it positive); 0 elsewhere."""
    return _triangle(x, "tril", k, lower=True)


def triu(x: Any, /, *, k: int = 0) -> Any:
    """The upper triangle of the last two dims, with the diagonal `k`; 0 elsewhere."""
    return _triangle(x, "triu", k, lower=False)


def diagonal(x: Any, /, *, offset: int = 0, axis1: int = -2, axis2: int = -1) -> Any:
    """The elements x[…, i, i + offset] of the dims `axis1` and `axis2`, as a new last dim."""
    value = as_value(x, "diagonal")
    a, b = normalize_axis(axis1, value.ndim, "diagonal", "axis1"), normalize_axis(axis2, value.ndim, "diagonal", "axis2")
    if a == b:
        raise AxisError("diagonal", "axis2", "must differ from axis1", f"{axis1}, {axis2}", "ms.diagonal(x, axis1=0, axis2=1)")
    shift = as_int(offset, "diagonal", "offset")
    first, second = max(0, -shift), max(0, shift)
    count = max(0, min(value.shape[a] - first, value.shape[b] - second))
    steps = iota(count)
    found = bind(GATHER, value, steps + first, steps + second, axes=(a, b))
    return moveaxis(found, 0, -1)


# -------------------------------------------------------------------------------- results whose shape depends on data


def _numbers(x: Any, name: str, instead: str) -> tuple[Value, np.ndarray]:
    """`x` and its elements; TraceError while tracing."""
    value = as_value(x, name)
    if value._frame is not None:
        raise TraceError(name, "x", "the result's shape depends on elements not known while tracing", str(value._type),
                         f"{instead}; or call it outside ms.jit (eager mode)")
    return value, value._data


def _from_numpy(array: np.ndarray) -> Any:
    return wrap(array, TensorType(array.shape, as_dtype(array.dtype)))


def nonzero(x: Any, /) -> tuple[Any, ...]:
    """The positions of the elements that are not 0: one int64 tensor for each dim, in row-major order. Eager only."""
    value, numbers = _numbers(x, "nonzero", "ms.where(x != 0, a, b), or ms.count_nonzero(x)")
    if not value.ndim:
        raise ShapeError("nonzero", "x", "must have at least one dim", str(value.shape), "ms.nonzero(ms.reshape(x, (1,)))")
    return tuple(_from_numpy(places) for places in np.nonzero(numbers))


class UniqueAll(NamedTuple):
    """Distinct values, where each first stands, which one each element is, how often each occurs."""

    values: Any
    indices: Any
    inverse_indices: Any
    counts: Any


class UniqueCounts(NamedTuple):
    """Distinct values and how often each occurs."""

    values: Any
    counts: Any


class UniqueInverse(NamedTuple):
    """Distinct values and which one each element is."""

    values: Any
    inverse_indices: Any


def unique_all(x: Any, /) -> UniqueAll:
    """The distinct values of `x`, ascending; every NaN counts as a value of its own. Eager only.

    Returns:
        values (differentiable), indices (of the first occurrence in the flattened x), inverse_indices (in the shape of x),
        counts; the last three int64.
    """
    return _unique(x, "unique_all")


def _unique(x: Any, name: str) -> UniqueAll:
    value, numbers = _numbers(x, name, "ms.sort(x), whose shape is that of x")
    keys = numbers if numbers.dtype.kind in "biuf" else numbers.astype(np.float32)
    _, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True, equal_nan=False)
    places = [_from_numpy(part.astype(np.int64)) for part in (first, inverse.reshape(value.shape), counts)]
    return UniqueAll(take(reshape(value, (value._type.size,)), places[0]), *places)


def unique_counts(x: Any, /) -> UniqueCounts:
    """The distinct values of `x` and how often each occurs. Eager only."""
    found = _unique(x, "unique_counts")
    return UniqueCounts(found.values, found.counts)


def unique_inverse(x: Any, /) -> UniqueInverse:
    """The distinct values of `x` and, in the shape of `x`, which one each element is. Eager only."""
    found = _unique(x, "unique_inverse")
    return UniqueInverse(found.values, found.inverse_indices)


def unique_values(x: Any, /) -> Any:
    """The distinct values of `x`, ascending. Eager only."""
    return _unique(x, "unique_values").values


__all__ = ["At", "UniqueAll", "UniqueCounts", "UniqueInverse", "diagonal", "dynamic_slice", "dynamic_update_slice", "getitem",
           "meshgrid", "nonzero", "one_hot", "put_along_axis", "take", "take_along_axis", "tril", "triu", "unique_all",
           "unique_counts", "unique_inverse", "unique_values"]
