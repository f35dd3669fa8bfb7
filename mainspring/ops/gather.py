"""The indexing primitives: elements at places that are known only when the program runs.

`gather` and the dynamic slices have an iteration space, so they fuse with their neighbours; compiled code never reads or
writes outside a tensor: a gather clamps an index that is out of range, a scatter drops it. Eager mode raises AxisError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mainspring.base.errors import AxisError, ShapeError
from mainspring.ir import scalar as s
from mainspring.ir.bind import Value, bind
from mainspring.ir.op import Op, Opaque, Space, register
from mainspring.ops.common import cast_to, require_kind
from mainspring.ops.creation import full, ones, zeros
from mainspring.ops.elementwise import divide, equal, multiply, subtract, where
from mainspring.ops.movement import iota, reshape
from mainspring.types.dtype import int64
from mainspring.types.shape import Shape, TensorType

Axes = tuple[int, ...]

UFUNCS: dict[str, Any] = {"add": np.add, "multiply": np.multiply, "max": np.maximum, "min": np.minimum}


def _rest(shape: Shape, axes: Axes) -> Shape:
    """The extents of the dims that are not indexed, in order."""
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def _check_indices(name: str, x: TensorType, indices: tuple[TensorType, ...], axes: Axes) -> None:
    for k, (index, axis) in enumerate(zip(indices, axes, strict=True)):
        require_kind(name, f"indices[{k}]", index.dtype, "integer")
        if index.shape != indices[0].shape:
            raise ShapeError(name, f"indices[{k}]", "all indices must have one shape (the public functions broadcast)",
                             f"{index.shape} with {indices[0].shape}")
        if index.size and not x.shape[axis]:
            raise AxisError(name, f"indices[{k}]", f"dim {axis} has no elements to index",
                            f"{x} with an index of shape {index.shape}")


def check_range(name: str, shape: Shape, indices: Sequence[np.ndarray], axes: Axes) -> None:
    """Raise AxisError unless every index lies in [-n, n) for the extent n of its dim."""
    for index, axis in zip(indices, axes, strict=True):
        n = shape[axis]
        if index.size and (index.min() < -n or index.max() >= n):
            wrong = index[(index < -n) | (index >= n)]
            raise AxisError(name, "index", f"must lie in [{-n}, {n}) for dim {axis} of extent {n}", str(wrong.flat[0]))


def _in_front(x: np.ndarray, axes: Axes) -> np.ndarray:
    """A view of `x` with the indexed dims first."""
    return np.moveaxis(x, axes, range(len(axes)))


# --------------------------------------------------------------------------------------------------------- gather


def _gather_infer(x: TensorType, *indices: TensorType, axes: Axes) -> TensorType:
    _check_indices("gather", x, indices, axes)
    return TensorType((*indices[0].shape, *_rest(x.shape, axes)), x.dtype)


def _gather_reference(x: np.ndarray, *indices: np.ndarray, axes: Axes) -> np.ndarray:
    check_range("gather", x.shape, indices, axes)
    return _in_front(x, axes)[tuple(indices)]


def _clamped(place: s.Expr, low: int, high: int) -> s.Expr:
    """`place` limited to [low, high]; what its bounds already say is not written down again."""
    least, greatest = s.bounds(place)
    if greatest > high:
        place = s.minimum(place, high)
    return s.maximum(place, low) if least < low else place


def _inside(index: s.Expr, extent: int) -> s.Expr:
    """`index` as int64, negative ones counted from the end, limited to the dim."""
    place = s.cast(index, int64)
    return _clamped(s.where(s.compare("lt", place, 0), place + extent, place), 0, extent - 1)


def _gather_space(x: TensorType, *indices: TensorType, axes: Axes) -> Space:
    lead = len(indices[0].shape)

    def element(read: Callable[..., Any], *dims: Any) -> Any:
        at = {axis: _inside(read(k + 1, *dims[:lead]), x.shape[axis]) for k, axis in enumerate(axes)}
        rest = iter(dims[lead:])
        return read(0, *[at[i] if i in at else next(rest) for i in range(len(x.shape))])

    return Space(_gather_infer(x, *indices, axes=axes).shape, element)


def _gather_vjp(ct: Value, out: Value, x: Value, *indices: Value, axes: Axes) -> tuple[Any, ...]:
    def thunk() -> Value:
        return bind(SCATTER, zeros(x.shape, dtype=ct.dtype), ct, *indices, axes=axes, mode="add")

    return (thunk, *[None] * len(indices))


GATHER = register(Op("gather", _gather_infer, _gather_reference, _gather_space, _gather_vjp,
                     "Elements of `x` at integer `indices` (all of one shape), one for each dim of `axes`: the index dims, "
                     "then the other dims of `x`."))

# -------------------------------------------------------------------------------------------------------- scatter


def _scatter_infer(x: TensorType, updates: TensorType, *indices: TensorType, axes: Axes, mode: str) -> TensorType:
    _check_indices("scatter", x, indices, axes)
    if mode != "set":
        require_kind("scatter", "x", x.dtype, "numeric")
    wanted = TensorType((*indices[0].shape, *_rest(x.shape, axes)), x.dtype)
    if updates != wanted:
        raise ShapeError("scatter", "updates", f"must be {wanted}: the index dims, then the dims of x that are not indexed",
                         str(updates))
    return x


def _scatter_reference(x: np.ndarray, updates: np.ndarray, *indices: np.ndarray, axes: Axes, mode: str) -> np.ndarray:
    check_range("scatter", x.shape, indices, axes)
    result = x.copy()
    target = _in_front(result, axes)
    if mode == "set":
        target[tuple(indices)] = updates
    else:
        UFUNCS[mode].at(target, tuple(indices), updates)
    return result


def _last_writer(shape: Shape, indices: tuple[Value, ...], axes: Axes) -> Value:
    """Whether each index is the last of those that name its place, and inside the tensor."""
    extents = tuple(shape[a] for a in axes)
    all_axes = tuple(range(len(axes)))
    order = reshape(iota(indices[0]._type.size), indices[0].shape)
    written = bind(SCATTER, full(extents, -1), order, *indices, axes=all_axes, mode="set")
    return equal(bind(GATHER, written, *indices, axes=all_axes), order)


def _set_vjp(ct: Value, x: Value, updates: Value, indices: tuple[Value, ...], axes: Axes) -> tuple[Any, Any]:
    def of_x() -> Value:
        return bind(SCATTER, ct, zeros(updates.shape, dtype=ct.dtype), *indices, axes=axes, mode="set")

    def of_updates() -> Value:
        last = _last_writer(x.shape, indices, axes)
        last = reshape(last, (*last.shape, *[1] * (updates.ndim - last.ndim)))
        return where(last, bind(GATHER, ct, *indices, axes=axes), 0.0)

    return of_x, of_updates


def _add_vjp(ct: Value, indices: tuple[Value, ...], axes: Axes) -> tuple[Any, Any]:
    return ct, lambda: bind(GATHER, ct, *indices, axes=axes)


def _multiply_vjp(ct: Value, x: Value, updates: Value, indices: tuple[Value, ...], axes: Axes) -> tuple[Any, Any]:
    """Each update's factor is what else was multiplied into its place; zeros are counted apart, so the ratio is exact there."""

    def of_x() -> Value:
        return bind(SCATTER, ct, updates, *indices, axes=axes, mode="multiply")

    def of_updates() -> Value:
        zero = equal(updates, 0.0)
        factor = where(zero, 1.0, updates)
        products = bind(SCATTER, ones(x.shape, dtype=x.dtype), factor, *indices, axes=axes, mode="multiply")
        zero_count = bind(SCATTER, zeros(x.shape, dtype=x.dtype), cast_to(zero, x.dtype), *indices, axes=axes, mode="add")
        other_zeros = subtract(bind(GATHER, zero_count, *indices, axes=axes), cast_to(zero, x.dtype))
        others = divide(bind(GATHER, products, *indices, axes=axes), factor)
        outer = bind(GATHER, multiply(ct, x), *indices, axes=axes)
        return multiply(outer, where(equal(other_zeros, 0.0), others, 0.0))

    return of_x, of_updates


def _extremum_vjp(ct: Value, out: Value, x: Value, updates: Value, indices: tuple[Value, ...], axes: Axes) -> tuple[Any, Any]:
    """The elements that attain the extremum of a place share its cotangent equally."""

    def hits() -> tuple[Value, Value, Value]:
        of_x = cast_to(equal(x, out), ct.dtype)
        of_updates = cast_to(equal(updates, bind(GATHER, out, *indices, axes=axes)), ct.dtype)
        count = bind(SCATTER, of_x, of_updates, *indices, axes=axes, mode="add")
        return of_x, of_updates, divide(ct, count)

    def of_x() -> Value:
        hit, _, share = hits()
        return multiply(hit, share)

    def of_updates() -> Value:
        _, hit, share = hits()
        return multiply(hit, bind(GATHER, share, *indices, axes=axes))

    return of_x, of_updates


def _scatter_vjp(ct: Value, out: Value, x: Value, updates: Value, *indices: Value, axes: Axes, mode: str) -> tuple[Any, ...]:
    if mode == "set":
        pieces = _set_vjp(ct, x, updates, indices, axes)
    elif mode == "add":
        pieces = _add_vjp(ct, indices, axes)
    elif mode == "multiply":
        pieces = _multiply_vjp(ct, x, updates, indices, axes)
    else:
        pieces = _extremum_vjp(ct, out, x, updates, indices, axes)
    return (*pieces, *[None] * len(indices))


SCATTER = register(Op("scatter", _scatter_infer, _scatter_reference,
                      Opaque("where an element goes depends on data, and updates have an order"), _scatter_vjp,
                      "`x` with `updates` put at integer `indices` of the dims `axes` (mode set, add, multiply, max or min), "
                      "in the order of the flattened index: with `set` the last of several updates of one place wins."))

# ------------------------------------------------------------------------------------------------- dynamic slices


def _check_window(name: str, x: TensorType, sizes: Shape, starts: tuple[TensorType, ...]) -> None:
    if len(sizes) != len(x.shape) or len(starts) != len(x.shape):
        raise ShapeError(name, "starts", f"must have one entry for each of the {len(x.shape)} dims",
                         f"{len(starts)} starts and sizes {sizes} for {x}", "ms.dynamic_slice(x, (i, 0), (1, 4))")
    if any(not 0 <= m <= n for m, n in zip(sizes, x.shape, strict=True)):
        raise ShapeError(name, "sizes", "each must lie between 0 and the extent of its dim", f"{sizes} for {x.shape}")
    for k, start in enumerate(starts):
        require_kind(name, f"starts[{k}]", start.dtype, "integer")
        if start.shape:
            raise ShapeError(name, f"starts[{k}]", "must be 0-d", str(start), "ms.dynamic_slice(x, (i, 0), (1, 4))")


def corner(read: Callable[..., Any], first: int, shape: Shape, sizes: Shape) -> list[s.Expr]:
    """The start of the window in each dim, moved so far that the window lies inside."""
    return [_clamped(s.cast(read(first + k), int64), 0, n - m) for k, (n, m) in enumerate(zip(shape, sizes, strict=True))]


def _window(starts: Sequence[np.ndarray], shape: Shape, sizes: Shape) -> tuple[slice, ...]:
    firsts = [min(max(int(a), 0), n - m) for a, n, m in zip(starts, shape, sizes, strict=True)]
    return tuple(slice(a, a + m) for a, m in zip(firsts, sizes, strict=True))


def _dynamic_slice_infer(x: TensorType, *starts: TensorType, sizes: Shape) -> TensorType:
    _check_window("dynamic_slice", x, sizes, starts)
    return TensorType(sizes, x.dtype)


def _dynamic_slice_space(x: TensorType, *starts: TensorType, sizes: Shape) -> Space:
    def element(read: Callable[..., Any], *dims: Any) -> Any:
        return read(0, *[d + a for d, a in zip(dims, corner(read, 1, x.shape, sizes), strict=True)])

    return Space(sizes, element)


def _dynamic_slice_vjp(ct: Value, out: Value, x: Value, *starts: Value, sizes: Shape) -> tuple[Any, ...]:
    return (lambda: bind(DYNAMIC_UPDATE_SLICE, zeros(x.shape, dtype=ct.dtype), ct, *starts), *[None] * len(starts))


DYNAMIC_SLICE = register(Op("dynamic_slice", _dynamic_slice_infer, lambda x, *starts, sizes: x[_window(starts, x.shape, sizes)],
                            _dynamic_slice_space, _dynamic_slice_vjp,
                            "The window of `sizes` of `x` that begins at `starts` (0-d integers, clamped so that it fits)."))


def _update_infer(x: TensorType, update: TensorType, *starts: TensorType) -> TensorType:
    _check_window("dynamic_update_slice", x, update.shape, starts)
    if update.dtype is not x.dtype:
        raise ShapeError("dynamic_update_slice", "update", f"must have the dtype {x.dtype.name} of x", str(update))
    return x


def _update_reference(x: np.ndarray, update: np.ndarray, *starts: np.ndarray) -> np.ndarray:
    result = x.copy()
    result[_window(starts, x.shape, update.shape)] = update
    return result


def _update_space(x: TensorType, update: TensorType, *starts: TensorType) -> Space:
    def element(read: Callable[..., Any], *dims: Any) -> Any:
        places = [d - a for d, a in zip(dims, corner(read, 2, x.shape, update.shape), strict=True)]
        guards = [s.both(s.compare("le", 0, p), s.compare("lt", p, m)) for p, m in zip(places, update.shape, strict=True)]
        inside = s.both(*guards)
        return s.where(inside, read(1, *places, guard=inside), read(0, *dims))

    return Space(x.shape, element)


def _update_vjp(ct: Value, out: Value, x: Value, update: Value, *starts: Value) -> tuple[Any, ...]:
    return (lambda: bind(DYNAMIC_UPDATE_SLICE, ct, zeros(update.shape, dtype=ct.dtype), *starts),
            lambda: bind(DYNAMIC_SLICE, ct, *starts, sizes=update.shape), *[None] * len(starts))


DYNAMIC_UPDATE_SLICE = register(Op("dynamic_update_slice", _update_infer, _update_reference, _update_space, _update_vjp,
                                   "`x` with the window that begins at `starts` (0-d integers, clamped so that it fits) "
                                   "replaced by `update`."))
