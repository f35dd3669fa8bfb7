"""What op families share: conversion of arguments, promotion, and the constructors' small rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from mainspring.autodiff.reverse import linearize_back
from mainspring.base.errors import DTypeError, ShapeError
from mainspring.interpret.eager import as_value
from mainspring.ir import scalar
from mainspring.ir.bind import Value, bind, new_value
from mainspring.ir.op import OPS, Op, Space, register
from mainspring.types import dtype as dt
from mainspring.types.dtype import DType, promote, scalar_dtype
from mainspring.types.shape import Shape, TensorType, broadcast_shapes

SHORTEST_ROW = 64  # elements of a row that is summed for itself, before what is outside of it

KINDS = {
    "float": ("float",),
    "numeric": ("int", "uint", "float"),
    "integer": ("int", "uint"),
    "integer or bool": ("int", "uint", "bool"),
    "any": ("bool", "int", "uint", "float"),
    "bool": ("bool",),
}


def require_kind(where: str, argument: str, dtype: DType, accepts: str) -> None:
    """Raise DTypeError unless the kind of `dtype` is among those `accepts` names."""
    if dtype.kind not in KINDS[accepts]:
        wanted = ", ".join(d.name for d in dt.ALL if d.kind in KINDS[accepts])
        raise DTypeError(where, argument, f"must have one of the dtypes {wanted}", dtype.name,
                         f"ms.{where}(ms.astype(x, ms.float32))")


def is_python_scalar(x: Any) -> bool:
    """Whether `x` is a Python number, whose dtype gives way to a tensor's; np.float64 is one (``x * np.sqrt(2)``)."""
    return isinstance(x, (bool, int, float))


def cast_to(x: Value, dtype: DType) -> Value:
    """`x` as `dtype`."""
    return x if x.dtype is dtype else bind(CAST, x, dtype=dtype)


def broadcast(x: Value, shape: Shape) -> Value:
    """`x` broadcast to `shape`, which it must fit."""
    return x if x.shape == shape else bind(BROADCAST, x, shape=shape)


@lru_cache(1024)
def _scalar_type(dtype: DType) -> TensorType:
    return TensorType((), dtype)


@lru_cache(1024, typed=True)
def _scalar_array(x: bool | int | float, sign: float, dtype: DType) -> np.ndarray:
    """`x` as a read-only array; `sign` tells 0.0 and -0.0 apart."""
    with np.errstate(over="ignore"):
        array = np.asarray(x, dtype=dtype.numpy)
    array.setflags(write=False)
    return array


def scalar_value(x: bool | int | float, dtype: DType, where: str) -> Value:
    """A Python number as a 0-d value of `dtype`."""
    if isinstance(x, int) and not isinstance(x, bool) and dtype.kind in ("int", "uint"):
        info = np.iinfo(dtype.numpy)
        if not info.min <= x <= info.max:
            raise DTypeError(where, "scalar", f"must lie in the range of {dtype.name}", str(x), "ms.astype(x, ms.int64)")
    try:
        return new_value(_scalar_array(x, math.copysign(1.0, x), dtype), _scalar_type(dtype))
    except (OverflowError, ValueError) as error:  # an int beyond every float, or NaN for an integer
        raise DTypeError(where, "scalar", f"must be a number that {dtype.name} can hold", f"{x!r:.40}: {error}") from error


def promoted(where: str, *operands: Any) -> list[Value]:
    """Operands as values of their common dtype (not yet of one shape)."""
    tensors = [x if isinstance(x, Value) else None if is_python_scalar(x) else as_value(x, where) for x in operands]
    dtypes = [t.dtype for t in tensors if t is not None]
    common = promote(*dtypes, where=where) if dtypes else None
    for x, t in zip(operands, tensors, strict=True):
        if t is None:
            common = scalar_dtype(x, common)
    assert common is not None
    return [scalar_value(x, common, where) if t is None else cast_to(t, common) for x, t in zip(operands, tensors, strict=True)]


def broadcasted(where: str, values: Sequence[Value]) -> list[Value]:
    """`values` broadcast to their common shape."""
    shape = broadcast_shapes(*[v.shape for v in values], where=where)
    return [broadcast(v, shape) for v in values]


def widened(function: Callable[..., Any]) -> Callable[..., Any]:
    """A NumPy function that computes float16 and bfloat16 in float32 and rounds the result once."""

    def call(*arrays: Any, **static: Any) -> Any:
        low = [a.dtype for a in arrays if a.dtype.itemsize == 2 and a.dtype.kind not in "iu"]
        if not low:
            return function(*arrays, **static)
        result = function(*[a.astype(np.float32) if a.dtype == low[0] else a for a in arrays], **static)
        return result.astype(low[0]) if result.dtype == np.float32 else result

    return call


def _broadcast_infer(x: TensorType, shape: Shape) -> TensorType:
    if len(x.shape) > len(shape) or any(n not in (1, m) for n, m in zip(reversed(x.shape), reversed(shape), strict=False)):
        raise ShapeError("broadcast_to", "shape", "must be what x broadcasts to", f"{x.shape} to {shape}",
                         "ms.broadcast_to(ms.ones(3), (2, 3))")
    return TensorType(shape, x.dtype)


def _broadcast_space(x: TensorType, shape: Shape) -> Space:
    lead = len(shape) - len(x.shape)

    def element(read: Callable[..., Any], *dims: Any) -> Any:
        return read(0, *[0 if n == 1 else d for n, d in zip(x.shape, dims[lead:], strict=True)])

    return Space(shape, element)


def _broadcast_vjp(ct: Value, out: Value, x: Value, shape: Shape) -> tuple[Any]:
    lead = len(shape) - x.ndim
    wide = tuple(i + lead for i, n in enumerate(x.shape) if n == 1 and shape[i + lead] != 1)

    def thunk() -> Value:
        from_sum = bind_sum(ct, tuple(range(lead)) + wide)
        return from_sum if from_sum.shape == x.shape else from_sum.reshape(x.shape)  # type: ignore[attr-defined]

    return (thunk,)


def bind_sum(x: Value, axes: tuple[int, ...]) -> Value:
    """Sum over `axes`, ascending, without promotion, in the dtype of `x`; the reduce family registers the op.

    Along axes apart it is a sum along some of them, and one along the others of what that gives, as memory is read.
    """
    first, after = axes_apart(x.shape, axes)
    if not after or (x.dtype.kind == "float" and x.dtype.bits < 32):  # what is between would be rounded
        return bind(OPS["sum"], x, axes=axes) if axes else x
    return bind(OPS["sum"], bind(OPS["sum"], x, axes=first), axes=after)


def axes_apart(shape: Shape, axes: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes of a reduction to go along first, and those of the result to go along then.

    All, if no kept one lies between them (of whatever extent, on which no bit may depend); else first the innermost ones if a
    row of them is long enough for the vector lanes, and otherwise the outer ones, whose results lie side by side.
    """
    kept = [i for i in range(len(shape)) if i not in axes]
    if len({len([i for i in kept if i < a]) for a in axes}) < 2:
        return axes, ()
    inner = tuple([a for a in axes if all(a > i for i in kept)])
    first = inner if math.prod(shape[a] for a in inner) >= SHORTEST_ROW else tuple([a for a in axes if a not in inner])
    return first, tuple([a - len([b for b in first if b < a]) for a in axes if a not in first])


def _broadcast_reference(x: np.ndarray, shape: Shape) -> np.ndarray:
    if x.ndim == 0 and isinstance(x, np.ndarray):  # the same view at a tenth of the cost
        return np.ndarray(shape, x.dtype, x, 0, (0,) * len(shape))
    return np.broadcast_to(x, shape)


BROADCAST = register(Op("broadcast_to", _broadcast_infer, _broadcast_reference, _broadcast_space,
                        _broadcast_vjp,
                        "`x` repeated along new leading dims and dims of extent 1, to `shape`."))


def _cast_reference(x: np.ndarray, dtype: DType) -> np.ndarray:
    with np.errstate(all="ignore"):
        if x.dtype.kind not in "biuf" and dtype.kind != "float":  # bfloat16 to integers goes through float32
            x = x.astype(np.float32)
        return x.astype(dtype.numpy)


def _cast_space(x: TensorType, dtype: DType) -> Space:
    return Space(x.shape, lambda read, *dims: scalar.cast(read(0, *dims), dtype))


def _cast_vjp(ct: Value, out: Value, x: Value, dtype: DType) -> tuple[Any]:
    return (cast_to(ct, x.dtype) if dtype.kind == "float" and x.dtype.kind == "float" else None,)


CAST = register(Op("cast", lambda x, dtype: TensorType(x.shape, dtype), _cast_reference, _cast_space, _cast_vjp,
                   "`x` converted to `dtype`: floats to integers truncate, anything to bool asks whether it is not 0."))


def pulled_through(function: Callable[..., Any], cts: Sequence[Value | None], inputs: Sequence[Value],
                   static: dict[str, Any]) -> tuple[Value | None, ...]:
    """The cotangents of the float `inputs` through what an op stands for."""
    moving = [i for i, x in enumerate(inputs) if x.dtype.kind == "float"]

    def of(*floats: Value) -> list[Value]:
        filled = list(inputs)
        for i, x in zip(moving, floats, strict=True):
            filled[i] = x
        return list(function(*filled, **static))

    pulled = dict(zip(moving, linearize_back(of, [inputs[i] for i in moving])[1](cts), strict=True))
    return tuple(pulled.get(i) for i in range(len(inputs)))
