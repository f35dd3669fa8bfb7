"""DLPack both ways, through NumPy: tensors to and from torch, JAX and others without a copy.

NumPy has no bfloat16 in its DLPack, so the capsule of the same bits as uint16 is relabelled: one byte of the DLTensor
(its dtype code) is rewritten. The layout is that of dlpack.h, versions 0 and 1.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from mainspring.base.errors import ArgumentError, DTypeError
from mainspring.ir.bind import Value, new_value
from mainspring.types.dtype import as_dtype, bfloat16
from mainspring.types.shape import TensorType

CPU = (1, 0)
_UINT, _BFLOAT = 1, 4  # DLDataTypeCode


class _DLTensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32),
                ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16), ("shape", ctypes.c_void_p),
                ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64)]


class _Versioned(ctypes.Structure):
    _fields_ = [("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p),
                ("deleter", ctypes.c_void_p),
                ("flags", ctypes.c_uint64), ("tensor", _DLTensor)]


def _described(capsule: Any) -> _DLTensor:
    """The DLTensor inside `capsule`."""
    is_valid, pointer = ctypes.pythonapi.PyCapsule_IsValid, ctypes.pythonapi.PyCapsule_GetPointer
    is_valid.argtypes = pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    pointer.restype = ctypes.c_void_p
    if is_valid(capsule, b"dltensor_versioned"):
        return _Versioned.from_address(pointer(capsule, b"dltensor_versioned")).tensor
    return _DLTensor.from_address(pointer(capsule, b"dltensor"))


def to_dlpack(array: np.ndarray, max_version: tuple[int, int] | None, device: tuple[int, int] | None, copy: bool | None) -> Any:
    """A DLPack capsule of `array`. Consumers of version 0 cannot be told that it is read-only, so they get a copy."""
    if device not in (None, CPU):
        raise BufferError(f"the tensor lies on the cpu {CPU} and cannot be exported to device {device}")
    narrow = array.dtype == bfloat16.numpy
    plain = array.view(np.uint16) if narrow else array
    if copy or (copy is None and not _tells_read_only(max_version)):
        plain = plain.copy()
    elif not _tells_read_only(max_version):
        plain = np.asarray(_Writable(plain))
    capsule = plain.__dlpack__(max_version=max_version)
    if narrow:
        _described(capsule).code = _BFLOAT
    return capsule


def _tells_read_only(max_version: tuple[int, int] | None) -> bool:
    return max_version is not None and max_version[0] >= 1


class _Writable:
    """The memory of an array under a face that claims it may be written: what version 0 with ``copy=False`` asks for."""

    def __init__(self, array: np.ndarray):
        self.array = array
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


class _AsUint16:
    """A producer whose bfloat16 elements are announced as uint16, which NumPy knows."""

    def __init__(self, capsule: Any):
        self.capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Any:
    """The data of `x`, an object with ``__dlpack__``, as a Tensor that shares its memory, which must not be changed afterwards.

    Args:
        device: None or "cpu". copy: True for a tensor with memory of its own.
    """
    if device not in (None, "cpu", CPU):
        raise ArgumentError("from_dlpack", "device", "must be 'cpu' or None", repr(device), "ms.from_dlpack(x)")
    if not hasattr(x, "__dlpack__") or not hasattr(x, "__dlpack_device__"):
        raise ArgumentError("from_dlpack", "x", "must have the methods __dlpack__ and __dlpack_device__", type(x).__name__,
                            "ms.from_dlpack(np.ones(3))")
    if isinstance(x, Value) and not copy:
        return x
    if x.__dlpack_device__()[0] != CPU[0]:
        raise ArgumentError("from_dlpack", "x", "must lie on the cpu", f"DLPack device {x.__dlpack_device__()}",
                            "ms.from_dlpack(x.cpu())")
    array = _imported(x)
    if copy:
        array = array.copy()
    array = array.view()
    array.setflags(write=False)
    return new_value(array, TensorType(array.shape, as_dtype(array.dtype, "from_dlpack")))


def _imported(x: Any) -> np.ndarray:
    if "bfloat16" not in str(getattr(x, "dtype", "")):
        try:
            return np.from_dlpack(x)
        except (BufferError, RuntimeError, TypeError) as error:
            raise DTypeError("from_dlpack", "x", "must be exportable to NumPy", str(error),
                             "ms.from_dlpack(np.ones(3))") from error
    capsule = x.__dlpack__()
    _described(capsule).code = _UINT
    return np.from_dlpack(_AsUint16(capsule)).view(bfloat16.numpy)
