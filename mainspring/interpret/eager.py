"""Eager: compute now, with the op's NumPy reference, or with a compiled kernel where one is registered as faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mainspring.base.errors import ArgumentError, DTypeError, MainspringError, TraceError
from mainspring.ir.bind import Value, new_value, set_default
from mainspring.ir.op import Op
from mainspring.types.dtype import as_dtype
from mainspring.types.shape import TensorType

#: op name -> function(op, arrays, static) giving an array or None ("use the reference"); filled by the compiler's face.
accelerated: dict[str, Callable[[Op, tuple[np.ndarray, ...], dict[str, Any]], Any]] = {}


class Eager:
    """The interpreter at the bottom of the stack."""

    def apply(self, op: Op, args: tuple[Value, ...], static: dict[str, Any]) -> Any:
        for a in args:
            if a._frame is not None:
                raise escaped(op.name)
        types = op.infer(*[a._type for a in args], **static)
        arrays = tuple([a._data for a in args])
        run = accelerated.get(op.name)
        result = run(op, arrays, static) if run is not None else None
        if result is None:
            with np.errstate(all="ignore"):
                result = op.reference(*arrays, **static)
        if isinstance(types, TensorType):
            return wrap(result, types)
        return tuple([wrap(r, t) for r, t in zip(result, types, strict=True)])


def wrap(array: Any, type_: TensorType) -> Value:
    """A concrete value; the array takes the inferred dtype and shape and becomes read-only."""
    array = np.asarray(array)
    if array.dtype != type_.dtype.numpy:
        array = array.astype(type_.dtype.numpy)
    if array.shape != type_.shape:
        array = np.broadcast_to(array, type_.shape)
    if array.flags.writeable:
        array.setflags(write=False)
    return new_value(array, type_)


def as_value(x: Any, where: str = "asarray") -> Value:
    """`x` (a value, a NumPy array or scalar, a Python number or nested sequence) as a value; arrays are copied."""
    if isinstance(x, Value):
        return x
    if isinstance(x, float) and not isinstance(x, np.generic):  # the default float, not NumPy's
        array = np.asarray(x, dtype=np.float32)
    else:
        array = array_of(x, where)
        if array.dtype == np.float64 and not isinstance(x, (np.ndarray, np.generic)):
            array = array.astype(np.float32)
    return wrap(array, TensorType(array.shape, as_dtype(array.dtype, where)))


def array_of(x: Any, where: str) -> np.ndarray:
    """A new array of the elements of `x`; an error of ours when `x` is no tensor, or a ragged sequence."""
    rule = "must be a tensor, an array, a Python number, or nested lists of numbers of equal lengths"
    try:
        array = np.array(x)
    except MainspringError:
        raise
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise ArgumentError(where, "x", rule, f"{_shown(x)}: {error}", "ms.asarray([[1.0, 2.0], [3.0, 4.0]])") from error
    if array.dtype.kind in "OUSMm" or array.dtype.names:
        raise DTypeError(where, "x", rule, f"{_shown(x)} of type {type(x).__name__}", "ms.asarray([1.0, 2.0])")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _shown(x: Any) -> str:
    text = repr(x)
    return text if len(text) <= 60 else f"{text[:57]}..."


def escaped(where: str) -> TraceError:
    """The error of a traced value that outlived its trace."""
    return TraceError(where, "x", "a traced tensor was used outside the function that was being traced",
                      "a tensor stored in a global, a closure or a list during ms.jit, ms.scan, ms.cond or ms.while_loop",
                      "return the tensor from the traced function and use what the call gives")


EAGER = Eager()
set_default(EAGER)
