"""`take_along` and `put_along`: an index along one dim for every position of the others, which so keep apart from each other.

What they mean is a gather and a scatter whose other indices are the positions themselves. The compiler has a kernel of lines
for the second: of a scatter in general it knows nothing but the order of the updates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mainspring.base.errors import ShapeError
from mainspring.ir.bind import Value, bind
from mainspring.ir.op import Expand, Op, register
from mainspring.ops.common import broadcast, pulled_through, require_kind
from mainspring.ops.creation import zeros
from mainspring.ops.gather import GATHER, SCATTER, UFUNCS, check_range
from mainspring.ops.movement import iota, reshape
from mainspring.types.shape import TensorType


def _places(index: Value, axis: int) -> tuple[Value, ...]:
    """An index for each dim: `index` along `axis`, the position itself elsewhere."""
    shape = index.shape
    return tuple(index if k == axis else broadcast(ramp(n, k, index.ndim), shape) for k, n in enumerate(shape))


def ramp(extent: int, axis: int, ndim: int) -> Value:
    """0, 1, … along dim `axis` of `ndim`, the others of extent 1."""
    return reshape(iota(extent), tuple(extent if i == axis else 1 for i in range(ndim)))


def _check(name: str, x: TensorType, index: TensorType, axis: int) -> None:
    require_kind(name, "index", index.dtype, "integer")
    if len(index.shape) != len(x.shape) or any(n != m for k, (n, m) in enumerate(zip(x.shape, index.shape, strict=True))
                                               if k != axis):
        raise ShapeError(name, "index", f"must have the extents of x but for dim {axis}", f"{index} for {x}")


# ----------------------------------------------------------------------------------------------------------- take_along


def _take_infer(x: TensorType, index: TensorType, axis: int) -> TensorType:
    _check("take_along", x, index, axis)
    return TensorType(index.shape, x.dtype)


def _take_reference(x: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    check_range("take_along", x.shape, (index,), (axis,))
    return np.take_along_axis(x, index.astype(np.int64), axis)


def _taken(x: Value, index: Value, axis: int) -> Value:
    return bind(GATHER, x, *_places(index, axis), axes=tuple(range(x.ndim)))


def _take_vjp(ct: Value, out: Value, x: Value, index: Value, axis: int) -> tuple[Any, None]:
    return lambda: bind(PUT_ALONG, zeros(x.shape, dtype=ct.dtype), ct, index, axis=axis, mode="add"), None


TAKE_ALONG = register(Op("take_along", _take_infer, _take_reference, Expand(_taken), _take_vjp,
                         "For every position the element of `x` whose place along `axis` is the integer `index`."))

# ------------------------------------------------------------------------------------------------------------ put_along


def _put_infer(x: TensorType, updates: TensorType, index: TensorType, axis: int, mode: str) -> TensorType:
    _check("put_along", x, index, axis)
    if mode != "set":
        require_kind("put_along", "x", x.dtype, "numeric")
    if updates != TensorType(index.shape, x.dtype):
        raise ShapeError("put_along", "updates", "must have the shape of the index and the dtype of x", f"{updates}, {index}")
    return x


def _put_reference(x: np.ndarray, updates: np.ndarray, index: np.ndarray, axis: int, mode: str) -> np.ndarray:
    check_range("put_along", x.shape, (index,), (axis,))
    result, places = x.copy(), [*np.indices(index.shape, sparse=True)]
    places[axis] = index
    if mode == "set":
        result[tuple(places)] = updates
    else:
        UFUNCS[mode].at(result, tuple(places), updates)
    return result


def _put(x: Value, updates: Value, index: Value, axis: int, mode: str) -> Value:
    return bind(SCATTER, x, updates, *_places(index, axis), axes=tuple(range(x.ndim)), mode=mode)


def _put_vjp(ct: Value, out: Value, x: Value, updates: Value, index: Value, axis: int, mode: str) -> tuple[Any, ...]:
    if mode == "add":
        return ct, lambda: bind(TAKE_ALONG, ct, index, axis=axis), None
    return pulled_through(lambda *given, **static: [_put(*given, **static)], [ct], (x, updates, index),
                          {"axis": axis, "mode": mode})


PUT_ALONG = register(Op("put_along", _put_infer, _put_reference, Expand(_put), _put_vjp,
                        "`x` with `updates` put where `take_along` reads (mode set, add, multiply, max or min), in order along "
                        "`axis`: with `set` the last of several updates of one place wins."))
