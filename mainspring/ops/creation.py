"""Creation: tensors made of nothing but numbers. Plain functions; traced, they are literals, `iota` and index arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mainspring.base.errors import ArgumentError
from mainspring.interpret.eager import EAGER, as_value, wrap
from mainspring.ir.bind import Value, current
from mainspring.ops.common import broadcast, cast_to, is_python_scalar, scalar_value
from mainspring.ops.elementwise import equal, where
from mainspring.ops.movement import iota, reshape
from mainspring.types.dtype import DEFAULT_FLOAT, DEFAULT_INT, DType, as_dtype, float64, int64, scalar_dtype, uint64
from mainspring.types.info import require_device
from mainspring.types.shape import Shape, TensorType, as_int, as_shape


def _filled(shape: Shape, number: bool | int | float, dtype: DType, name: str) -> Value:
    one = scalar_value(number, dtype, name)
    if current() is EAGER:
        return wrap(np.full(shape, one._data), TensorType(shape, dtype))
    return broadcast(one, shape)


def full(shape: int | Sequence[int], fill_value: Any, *, dtype: Any = None, device: Any = None) -> Any:
    """A tensor of `shape` whose every element is `fill_value` (a Python number, or a 0-d tensor).

    Without `dtype`: bool, int64 or float32 after the number, or the tensor's dtype.
    """
    require_device(device, "full")
    extents = as_shape(shape, "full")
    wanted = None if dtype is None else as_dtype(dtype, "full")
    if is_python_scalar(fill_value):
        return _filled(extents, fill_value, wanted or scalar_dtype(fill_value, None), "full")
    value = as_value(fill_value, "full")
    if value.ndim:
        raise ArgumentError("full", "fill_value", "must be a number or a 0-d tensor", str(value._type), "ms.full((2, 3), 1.0)")
    return broadcast(cast_to(value, wanted or value.dtype), extents)


def zeros(shape: int | Sequence[int], *, dtype: Any = None, device: Any = None) -> Any:
    """A tensor of zeros (float32 by default)."""
    require_device(device, "zeros")
    return _filled(as_shape(shape, "zeros"), 0, DEFAULT_FLOAT if dtype is None else as_dtype(dtype, "zeros"), "zeros")


def ones(shape: int | Sequence[int], *, dtype: Any = None, device: Any = None) -> Any:
    """A tensor of ones (float32 by default)."""
    require_device(device, "ones")
    return _filled(as_shape(shape, "ones"), 1, DEFAULT_FLOAT if dtype is None else as_dtype(dtype, "ones"), "ones")


def empty(shape: int | Sequence[int], *, dtype: Any = None, device: Any = None) -> Any:
    """A tensor whose elements do not matter; they are zeros, so that a program that reads them is still deterministic."""
    return zeros(shape, dtype=dtype, device=device)


def full_like(x: Any, /, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Any:
    """`full` in the shape of `x`, and its dtype unless `dtype` is given."""
    value = as_value(x, "full_like")
    return full(value.shape, fill_value, dtype=value.dtype if dtype is None else dtype, device=device)


def zeros_like(x: Any, /, *, dtype: Any = None, device: Any = None) -> Any:
    """Zeros in the shape of `x`, and its dtype unless `dtype` is given."""
    value = as_value(x, "zeros_like")
    return zeros(value.shape, dtype=value.dtype if dtype is None else dtype, device=device)


def ones_like(x: Any, /, *, dtype: Any = None, device: Any = None) -> Any:
    """Ones in the shape of `x`, and its dtype unless `dtype` is given."""
    value = as_value(x, "ones_like")
    return ones(value.shape, dtype=value.dtype if dtype is None else dtype, device=device)


def empty_like(x: Any, /, *, dtype: Any = None, device: Any = None) -> Any:
    """`empty` in the shape of `x`, and its dtype unless `dtype` is given."""
    return zeros_like(x, dtype=dtype, device=device)


def _number(x: Any, name: str, argument: str) -> int | float:
    """`x` as a Python number; arrays of one element and tensors of no dims give theirs."""
    number = x.item() if hasattr(x, "item") else x
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise ArgumentError(name, argument, "must be a real number", repr(x), "ms.arange(0, 10, 2)")
    return number


def _progression(start: int | float, step: int | float, count: int, dtype: DType) -> Value:
    """start, start + step, …: computed in 64 bits and rounded once to `dtype`."""
    if isinstance(start, float) or isinstance(step, float) or dtype.kind == "float":
        return cast_to(iota(count, float64) * float(step) + float(start), dtype)
    wide = uint64 if dtype is uint64 else int64
    terms = iota(count, wide)
    if step < 0 and wide is uint64:
        return scalar_value(start, wide, "arange") - terms * -step  # type: ignore[operator]
    return cast_to(terms * step + start, dtype)


def arange(start: int | float, /, stop: int | float | None = None, step: int | float = 1, *, dtype: Any = None,
           device: Any = None) -> Any:
    """start, start + step, … below `stop` (above it for a negative step), as a 1-d tensor; ``arange(stop)`` starts at 0.

    int64 if all arguments are ints, otherwise float32, unless `dtype` is given.
    """
    require_device(device, "arange")
    first, last = (0, start) if stop is None else (start, stop)
    a, b, c = _number(first, "arange", "start"), _number(last, "arange", "stop"), _number(step, "arange", "step")
    if c == 0 or not all(map(math.isfinite, (a, b, c))):
        raise ArgumentError("arange", "step", "start, stop and step must be finite, and step not 0", f"({a}, {b}, {c})",
                            "ms.arange(0, 10, 2)")
    whole = isinstance(a, int) and isinstance(b, int) and isinstance(c, int)
    count = max(0, -((a - b) // c) if whole else math.ceil((b - a) / c))
    wanted = as_dtype(dtype, "arange") if dtype is not None else DEFAULT_INT if whole else DEFAULT_FLOAT
    if whole and wanted.kind in ("int", "uint") and count:
        scalar_value(int(a), wanted, "arange"), scalar_value(int(a + (count - 1) * c), wanted, "arange")  # both ends in range
    return _progression(a, c, int(count), wanted)


def linspace(start: int | float, stop: int | float, /, num: int, *, dtype: Any = None, device: Any = None,
             endpoint: bool = True) -> Any:
    """`num` evenly spaced numbers from `start` to `stop`, the last included with `endpoint`. float32 by default."""
    require_device(device, "linspace")
    a, b, count = _number(start, "linspace", "start"), _number(stop, "linspace", "stop"), as_int(num, "linspace", "num")
    if count < 0:
        raise ArgumentError("linspace", "num", "must be ≥ 0", str(count), "ms.linspace(0.0, 1.0, 5)")
    wanted = DEFAULT_FLOAT if dtype is None else as_dtype(dtype, "linspace")
    gaps = count - 1 if endpoint else count
    step = (b - a) / gaps if gaps > 0 else 0.0
    line = iota(count, float64) * float(step) + float(a)
    if endpoint and count > 1:
        line = where(equal(iota(count), count - 1), float(b), line)
    return cast_to(line, wanted)


def eye(n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None, device: Any = None) -> Any:
    """A matrix with ones on diagonal `k` (0 the main one, above it positive) and zeros elsewhere. float32 by default."""
    require_device(device, "eye")
    rows = as_int(n_rows, "eye", "n_rows")
    columns = rows if n_cols is None else as_int(n_cols, "eye", "n_cols")
    shape = as_shape((rows, columns), "eye")
    offset = max(-rows, min(as_int(k, "eye", "k"), columns))  # beyond the matrix all diagonals are alike
    hit = equal(reshape(iota(rows), (rows, 1)) + offset, reshape(iota(columns), (1, columns)))
    return cast_to(broadcast(hit, shape), DEFAULT_FLOAT if dtype is None else as_dtype(dtype, "eye"))
