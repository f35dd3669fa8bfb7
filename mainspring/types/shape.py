"""Shapes and axes: the few rules that every op shares."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mainspring.base.errors import ArgumentError, AxisError, ShapeError
from mainspring.types.dtype import DType

Shape = tuple[int, ...]
MOST_ELEMENTS = 2**59  # bytes are then still counted in 63 bits


@dataclass(frozen=True)
class TensorType:
    """The type of a tensor: its shape and dtype, e.g. ``float32[2, 3]``."""

    shape: Shape
    dtype: DType

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of a dense buffer."""
        return self.size * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype.name}[{', '.join(map(str, self.shape))}]"


def as_int(value: Any, where: str, argument: str) -> int:
    """`value` as a Python int; traced values and non-integers raise ArgumentError."""
    try:
        return operator.index(value)
    except TypeError as error:
        if isinstance(error, ArgumentError) or hasattr(error, "rule"):
            raise
        raise ArgumentError(where, argument, "must be an int", repr(value)) from error


def as_ints(value: Any, where: str, argument: str) -> tuple[int, ...]:
    """`value` (an int or a sequence of ints) as a tuple of ints."""
    return tuple(as_int(n, where, argument) for n in (value if isinstance(value, Iterable) else (value,)))


def as_shape(value: Any, where: str = "shape") -> Shape:
    """`value` (an int or a sequence of ints ≥ 0) as a shape."""
    shape = as_ints(value, where, "shape")
    if any(n < 0 for n in shape):
        raise ShapeError(where, "shape", "every extent must be ≥ 0", str(shape), "ms.zeros((2, 3))")
    if math.prod(n for n in shape if n) > MOST_ELEMENTS:
        raise ShapeError(where, "shape", f"must have at most {MOST_ELEMENTS} elements", str(shape), "ms.zeros((2, 3))")
    return shape


def normalize_axis(axis: Any, ndim: int, where: str, argument: str = "axis") -> int:
    """`axis` counted from the front; raises AxisError when it is outside [-ndim, ndim)."""
    index = as_int(axis, where, argument)
    if not -ndim <= index < ndim:
        raise AxisError(where, argument, f"must lie in [{-ndim}, {ndim}) for {ndim} dims", str(axis))
    return index % ndim


def normalize_axes(axis: Any, ndim: int, where: str, argument: str = "axis") -> tuple[int, ...]:
    """Axes counted from the front, in the given order; None means all. Repeats raise AxisError."""
    if axis is None:
        return tuple(range(ndim))
    axes = tuple(normalize_axis(a, ndim, where, argument) for a in (axis if isinstance(axis, Sequence) else (axis,)))
    if len(set(axes)) != len(axes):
        raise AxisError(where, argument, "axes must differ from each other", str(axis), f"{argument}=(0, 1)")
    return axes


def broadcast_shapes(*shapes: Shape, where: str = "broadcast") -> Shape:
    """The common shape after broadcasting; raises ShapeError naming the shapes."""
    widest = max(shapes, key=len, default=())
    if all(not s or s == widest[-len(s):] for s in shapes):
        return tuple(widest)
    ndim = len(widest)
    result = []
    for column in zip(*[(1,) * (ndim - len(s)) + tuple(s) for s in shapes], strict=True):
        wide = {n for n in column if n != 1}
        if len(wide) > 1:
            raise ShapeError(where, "shapes", "extents must be equal, or 1, from the last dim backwards",
                             " with ".join(str(tuple(s)) for s in shapes), "ms.add(ms.ones((2, 3)), ms.ones((3,)))")
        result.append(wide.pop() if wide else 1)
    return tuple(result)


def element_strides(shape: Shape) -> tuple[int, ...]:
    """Row-major strides, in elements."""
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))
