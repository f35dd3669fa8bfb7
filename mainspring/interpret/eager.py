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

#: op name -> maker(op, types of the operands, static) of a function from operands to results, or None: "use the reference".
#: Filled by the compiler's face; asked once a signature. The function may give None, too.
accelerated: dict[str, Callable[[Op, tuple[TensorType, ...], dict[str, Any]], Callable[[tuple[Value, ...]], Any] | None]] = {}

REMEMBERED = 8192  # signatures whose types, and kernel, are not found out again


class _Application:
    """What is known of an op at operands of given types: the types of its results, and its kernel, if any."""

    __slots__ = ("run", "types")

    def __init__(self, op: Op, operands: tuple[TensorType, ...], static: dict[str, Any]):
        self.types = op.infer(*operands, **static)
        maker = accelerated.get(op.name)
        self.run = maker(op, operands, static) if maker is not None else None


class Eager:
    """The interpreter at the bottom of the stack."""

    def __init__(self) -> None:
        self.known: dict[Any, _Application] = {}

    def apply(self, op: Op, args: tuple[Value, ...], static: dict[str, Any]) -> Any:
        signature: list[Any] = [op]
        for a in args:
            if a._frame is not None:
                raise escaped(op.name)
            type_ = a._type
            signature += (type_.shape, type_.dtype.name)
        key = tuple([*signature, *static.items()]) if static else tuple(signature)
        try:
            application = self.known.get(key)
        except TypeError:  # a static parameter that has no hash
            application = _Application(op, tuple([a._type for a in args]), static)
        if application is None:
            if len(self.known) >= REMEMBERED:
                self.known.clear()
            application = self.known[key] = _Application(op, tuple([a._type for a in args]), static)
        if application.run is not None:
            result = application.run(args)
            if result is not None:
                return result
        types = application.types
        result = _referred(op.reference, tuple([a._data for a in args]), static)
        if isinstance(types, TensorType):
            return wrap(result, types)
        return tuple([wrap(r, t) for r, t in zip(result, types, strict=True)])


def _referred(reference: Callable[..., Any], arrays: tuple[np.ndarray, ...], static: dict[str, Any]) -> Any:
    with np.errstate(all="ignore"):  # as a decorator it would be the innermost line outside the package, which errors show
        return reference(*arrays, **static)


def wrap(array: Any, type_: TensorType) -> Value:
    """A concrete value; the array takes the inferred dtype and shape and becomes read-only."""
    if type(array) is np.ndarray and array.dtype is type_.dtype.numpy and array.shape == type_.shape:
        array.setflags(write=False)
        return new_value(array, type_)
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
