"""`Tensor`: the user's view of a value, a thin face over the ops.

Immutable: operators and methods give new tensors. It holds a concrete buffer, or stands for a node while a function is
being traced; asking a traced tensor for its numbers is an error that says what to write instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NoReturn

import numpy as np

from mainspring.base.errors import ArgumentError, DTypeError, ShapeError, TraceError, UsageError
from mainspring.interpret.eager import array_of, as_value
from mainspring.ir.bind import Value, new_value, set_value_class
from mainspring.ops import contract, dlpack, elementwise, indexing, movement, reduce
from mainspring.types.dtype import DType, as_dtype, bfloat16
from mainspring.types.info import require_device
from mainspring.types.shape import TensorType

STANDARDS = ("2021.12", "2022.12", "2023.12", "2024.12")  # versions of the array API standard that the namespace can be read as


def _binary(function: Callable[[Any, Any], Any]) -> Callable[[Tensor, Any], Tensor]:
    """An operator: `function`, or NotImplemented for what is neither a tensor, an array nor a real number."""

    def method(self: Tensor, other: Any) -> Any:
        return function(self, other) if isinstance(other, _OPERANDS) else NotImplemented

    return method


def _reflected(function: Callable[[Any, Any], Any]) -> Callable[[Tensor, Any], Tensor]:
    def method(self: Tensor, other: Any) -> Any:
        return function(other, self) if isinstance(other, _OPERANDS) else NotImplemented

    return method


_OPERANDS = (Value, bool, int, float, np.ndarray, np.generic)


class Tensor(Value):
    """An immutable n-dimensional array. Make one with `ms.asarray`, `ms.zeros`, `ms.random.normal` …"""

    __slots__ = ()
    __array_priority__ = 1000  # NumPy arrays leave ``array + tensor`` to us
    __hash__ = object.__hash__

    # ------------------------------------------------------------------------------------------------- operators

    __add__, __radd__ = _binary(elementwise.add), _reflected(elementwise.add)
    __sub__, __rsub__ = _binary(elementwise.subtract), _reflected(elementwise.subtract)
    __mul__, __rmul__ = _binary(elementwise.multiply), _reflected(elementwise.multiply)
    __truediv__, __rtruediv__ = _binary(elementwise.divide), _reflected(elementwise.divide)
    __floordiv__, __rfloordiv__ = _binary(elementwise.floor_divide), _reflected(elementwise.floor_divide)
    __mod__, __rmod__ = _binary(elementwise.remainder), _reflected(elementwise.remainder)
    __pow__, __rpow__ = _binary(elementwise.power), _reflected(elementwise.power)
    __matmul__, __rmatmul__ = _binary(contract.matmul), _reflected(contract.matmul)
    __and__, __rand__ = _binary(elementwise.bitwise_and), _reflected(elementwise.bitwise_and)
    __or__, __ror__ = _binary(elementwise.bitwise_or), _reflected(elementwise.bitwise_or)
    __xor__, __rxor__ = _binary(elementwise.bitwise_xor), _reflected(elementwise.bitwise_xor)
    __lshift__, __rlshift__ = _binary(elementwise.bitwise_left_shift), _reflected(elementwise.bitwise_left_shift)
    __rshift__, __rrshift__ = _binary(elementwise.bitwise_right_shift), _reflected(elementwise.bitwise_right_shift)
    __lt__, __le__ = _binary(elementwise.less), _binary(elementwise.less_equal)
    __gt__, __ge__ = _binary(elementwise.greater), _binary(elementwise.greater_equal)
    __eq__ = _binary(elementwise.equal)  # type: ignore[assignment]
    __ne__ = _binary(elementwise.not_equal)  # type: ignore[assignment]

    def __neg__(self) -> Tensor:
        return elementwise.negative(self)

    def __pos__(self) -> Tensor:
        return elementwise.positive(self)

    def __abs__(self) -> Tensor:
        return elementwise.abs(self)

    def __invert__(self) -> Tensor:
        return elementwise.bitwise_invert(self)

    # ------------------------------------------------------------------------------------------------- as data

    def numpy(self) -> np.ndarray:
        """The elements as a read-only NumPy array (no copy)."""
        return concrete_array(self, "numpy()")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = concrete_array(self, "np.asarray(t)")
        if copy is False and dtype is not None and array.dtype != dtype:
            raise ArgumentError("np.asarray(t)", "copy", "cannot be False when the dtype changes", f"{array.dtype} to {dtype}",
                                "copy=None")
        return np.array(array, dtype=dtype) if copy or (dtype is not None and array.dtype != dtype) else array

    def __array_namespace__(self, /, *, api_version: str | None = None) -> ModuleType:
        if api_version is not None and api_version not in STANDARDS:
            raise ArgumentError("__array_namespace__", "api_version", f"must be one of {', '.join(STANDARDS)}",
                                repr(api_version),
                                't.__array_namespace__(api_version="2024.12")')
        return sys.modules["mainspring"]

    def __dlpack__(self, *, stream: Any = None, max_version: tuple[int, int] | None = None,
                   dl_device: tuple[int, int] | None = None,
                   copy: bool | None = None) -> Any:
        return dlpack.to_dlpack(concrete_array(self, "__dlpack__"), max_version, dl_device, copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CPU

    def __reduce__(self) -> tuple[Any, ...]:
        return from_numpy, (concrete_array(self, "pickle or copy"),)

    def item(self) -> bool | int | float:
        """The one element as a Python number."""
        array = concrete_array(self, "item()")
        if array.size != 1:
            raise _not_single(self, "item()")
        return array.item()

    def tolist(self) -> Any:
        """The elements as nested lists."""
        return concrete_array(self, "tolist()").tolist()

    def __bool__(self) -> bool:
        return bool(_single(self, "bool(t)"))

    def __int__(self) -> int:
        return int(_single(self, "int(t)"))

    def __float__(self) -> float:
        return float(_single(self, "float(t)"))

    def __complex__(self) -> complex:
        return complex(_single(self, "complex(t)"))

    def __index__(self) -> int:
        if self.dtype.kind not in ("int", "uint"):
            raise UsageError("index(t)", "t", "must have an integer dtype to be used as an index or a size", str(self._type),
                             "int(t)")
        return int(_single(self, "index(t)"))

    def __len__(self) -> int:
        if not self.shape:
            raise UsageError("len(t)", "t", "must have at least 1 dim", str(self._type), "ms.reshape(t, (1,))")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __contains__(self, value: Any) -> bool:
        return bool(reduce.any(elementwise.equal(self, value)))

    def __repr__(self) -> str:
        if self._frame is not None:
            return f"Tensor({self._type}, traced)"
        if self._held is None and self._memory is None:
            return f"Tensor({self._type}, donated)"
        shown = self._data.astype(np.float32) if self.dtype is bfloat16 else self._data
        body = np.array2string(shown, separator=", ", prefix="Tensor(")
        shape = f", shape={self.shape}" if not self.size and self.shape != (0,) else ""
        return f"Tensor({body}{shape}, dtype={self.dtype.name})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec and not self.shape and self._frame is None else repr(self)

    # ------------------------------------------------------------------------------------------------- its type

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._type.size

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self._type.nbytes

    @property
    def device(self) -> str:
        """Where the buffer lies."""
        return "cpu"

    def to_device(self, device: str, /, *, stream: Any = None) -> Tensor:
        """The tensor on `device` ("cpu")."""
        require_device(device, "to_device")
        return self

    @property
    def T(self) -> Tensor:
        """A matrix transposed; it must have 2 dims."""
        if self.ndim != 2:
            raise ShapeError("T", "t", "must have 2 dims", str(self._type),
                             "t.mT for a stack of matrices, ms.permute_dims(t, axes) for any dims")
        return movement.matrix_transpose(self)

    @property
    def mT(self) -> Tensor:
        """The last two dims exchanged."""
        return movement.matrix_transpose(self)

    # ------------------------------------------------------------------------------------------------- indexing

    def __getitem__(self, key: Any) -> Tensor:
        return indexing.getitem(self, key)

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise UsageError("t[key] = value", "t", "a tensor is immutable, so its elements cannot be assigned", f"key {key!r}",
                         "t = t.at[key].set(value)")

    @property
    def at(self) -> indexing.At:
        """``x.at[key].set(v)``, ``.add(v)``, ``.multiply(v)``, ``.max(v)``, ``.min(v)``: a new tensor with elements changed."""
        return indexing.At(self)

    # ------------------------------------------------------------------------------------------------- methods

    def astype(self, dtype: Any, /, *, copy: bool = True) -> Tensor:
        """Converted to `dtype`."""
        return elementwise.astype(self, dtype)

    def reshape(self, *shape: Any) -> Tensor:
        """In row-major order as `shape` (ints, or one tuple); one extent may be -1."""
        return movement.reshape(self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def permute_dims(self, axes: tuple[int, ...]) -> Tensor:
        """Dims in the order `axes`."""
        return movement.permute_dims(self, axes)

    def sum(self, axis: reduce.Axes = None, keepdims: bool = False) -> Tensor:
        """Sum over `axis`."""
        return reduce.sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: reduce.Axes = None, keepdims: bool = False) -> Tensor:
        """Mean over `axis`."""
        return reduce.mean(self, axis=axis, keepdims=keepdims)

    def max(self, axis: reduce.Axes = None, keepdims: bool = False) -> Tensor:
        """Greatest element over `axis`."""
        return reduce.max(self, axis=axis, keepdims=keepdims)

    def min(self, axis: reduce.Axes = None, keepdims: bool = False) -> Tensor:
        """Least element over `axis`."""
        return reduce.min(self, axis=axis, keepdims=keepdims)


def _not_single(t: Tensor, what: str) -> UsageError:
    return UsageError(what, "t", "only a tensor of one element (0-d for bool, int and float) can become a Python number",
                      str(t._type),
                      "float(t[0]), or reduce it first: float(ms.sum(t))")


def _single(t: Tensor, what: str) -> Any:
    array = concrete_array(t, what)
    if array.ndim:
        raise _not_single(t, what)
    return array[()]


def concrete_array(t: Value, what: str) -> np.ndarray:
    """The array of `t`; TraceError when it is traced."""
    if t._frame is not None:
        raise TraceError(what, "t", "a traced tensor has a type but no numbers yet, so Python cannot branch on it or read it",
                         str(t._type),
                         "ms.where(c, a, b) to choose elements; ms.cond, ms.while_loop, ms.scan for control flow; "
                         "static_argnames for a size; or call the function without ms.jit (eager mode)")
    return t._data


set_value_class(Tensor)


def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Tensor:
    """`obj` (a tensor, array, Python number, nested sequence, or anything with DLPack or the buffer protocol) as a Tensor.

    Python floats become float32, ints int64. The data is copied unless `obj` is a Tensor, which is immutable and comes back
    as it is; with ``copy=False`` an array's memory is shared, and what cannot be shared raises.
    """
    require_device(device, "asarray")
    wanted = None if dtype is None else as_dtype(dtype, "asarray")
    if copy is False and not isinstance(obj, Value):
        value = _shared(obj)
    elif wanted is not None and not isinstance(obj, (Value, np.ndarray)) and not hasattr(obj, "__dlpack__"):
        return _converted(obj, wanted)
    elif hasattr(obj, "__dlpack__") and not isinstance(obj, (Value, np.ndarray, np.generic)):
        value = dlpack.from_dlpack(obj, copy=True)
    else:
        value = as_value(obj, "asarray")
    if copy is False and wanted not in (None, value.dtype):
        raise ArgumentError("asarray", "copy", "cannot be False when the dtype changes", f"{value.dtype.name} to {wanted}",
                            "copy=None")
    return value if wanted is None else elementwise.astype(value, wanted)  # type: ignore[return-value]


def _converted(obj: Any, dtype: DType) -> Tensor:
    """Python numbers straight to `dtype`: not by way of the default float, and integers only in range."""
    given = array_of(obj, "asarray")  # refuses what is no number: NumPy would read text as a number and None as NaN
    as_dtype(given.dtype, "asarray")
    try:
        array = np.array(obj, dtype=dtype.numpy)
    except OverflowError as error:
        raise DTypeError("asarray", "obj", f"its integers must lie in the range of {dtype.name}", str(error),
                         "ms.asarray(obj, dtype=ms.int64)") from error
    return from_numpy(array)


def _shared(obj: Any) -> Value:
    """What `copy=False` gives: the memory of an array, or of a DLPack producer."""
    if isinstance(obj, np.ndarray):
        return from_numpy(obj)
    if hasattr(obj, "__dlpack__"):
        return dlpack.from_dlpack(obj)
    raise ArgumentError("asarray", "copy", "cannot be False for an object whose memory cannot be shared", type(obj).__name__,
                        "ms.asarray(obj)")


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares the memory of `array`, which must not be changed afterwards."""
    if not isinstance(array, np.ndarray):
        raise ArgumentError("from_numpy", "array", "must be a NumPy array", type(array).__name__, "ms.asarray(x)")
    view = array.view()
    view.setflags(write=False)
    return new_value(view, TensorType(array.shape, as_dtype(array.dtype, "from_numpy")))  # type: ignore[return-value]
