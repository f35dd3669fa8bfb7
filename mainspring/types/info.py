"""What can be asked about dtypes: limits, kinds, common dtypes and the namespace's inspection object.

With this you can write dtype-generic code: ``ms.finfo(x).eps``, ``ms.isdtype(x.dtype, "real floating")``,
``ms.result_type(x, 1.0)`` (Python array API standard 2024.12, "Data type functions" and "Inspection").
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from mainspring.base.errors import ArgumentError, DTypeError
from mainspring.types import dtype as dt
from mainspring.types.dtype import DType, as_dtype, promote, scalar_dtype


@dataclass(frozen=True)
class FloatInfo:
    """Limits of a float dtype; all numbers are Python floats."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: DType


@dataclass(frozen=True)
class IntInfo:
    """Limits of an integer dtype; all numbers are Python ints."""

    bits: int
    max: int
    min: int
    dtype: DType


def dtype_of(x: Any, where: str) -> DType:
    """The dtype of a tensor or array, or the dtype that `x` stands for."""
    return as_dtype(x if isinstance(x, builtins.type) else getattr(x, "dtype", x), where)


def finfo(type: Any, /) -> FloatInfo:
    """Limits of the float dtype `type` (or of the dtype of a tensor)."""
    of = dtype_of(type, "finfo")
    if of.kind != "float":
        raise DTypeError("finfo", "type", "must be a float dtype", of.name, "ms.finfo(ms.float32)")
    info = ml_dtypes.finfo(of.numpy)
    return FloatInfo(of.bits, float(info.eps), float(info.max), float(info.min), float(info.smallest_normal), of)


def iinfo(type: Any, /) -> IntInfo:
    """Limits of the integer dtype `type` (or of the dtype of a tensor)."""
    of = dtype_of(type, "iinfo")
    if of not in dt.INTEGERS:
        raise DTypeError("iinfo", "type", "must be an integer dtype", of.name, "ms.iinfo(ms.int32)")
    info = np.iinfo(of.numpy)
    return IntInfo(of.bits, int(info.max), int(info.min), of)


KINDS: dict[str, tuple[DType, ...]] = {
    "bool": (dt.bool_,),
    "signed integer": dt.SIGNED,
    "unsigned integer": dt.UNSIGNED,
    "integral": dt.INTEGERS,
    "real floating": dt.FLOATS,
    "complex floating": (),
    "numeric": (*dt.INTEGERS, *dt.FLOATS),
}


def _of_kind(kind: Any, where: str) -> tuple[DType, ...]:
    if isinstance(kind, tuple):
        return tuple(d for k in kind for d in _of_kind(k, where))
    if isinstance(kind, str):
        if kind not in KINDS:
            raise ArgumentError(where, "kind", f"must be a dtype, one of {', '.join(KINDS)}, or a tuple of these", repr(kind),
                                'ms.isdtype(x.dtype, "real floating")')
        return KINDS[kind]
    return (as_dtype(kind, where),)


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether `dtype` is of `kind`: a dtype, the name of a kind ("integral", "real floating" …), or a tuple of these."""
    return as_dtype(dtype, "isdtype") in _of_kind(kind, "isdtype")


def can_cast(from_: Any, to: Any, /) -> bool:
    """Whether promotion takes `from_` (a dtype or a tensor) to `to` and loses nothing: within a kind, or from bool."""
    source, target = dtype_of(from_, "can_cast"), as_dtype(to, "can_cast")
    crosses = source.kind != target.kind and "float" in (source.kind, target.kind)
    return not crosses and dt.PROMOTION[source, target] is target


def result_type(*arrays_and_dtypes: Any) -> DType:
    """The dtype an operation on these tensors, dtypes and Python numbers has."""
    numbers = [x for x in arrays_and_dtypes if isinstance(x, (bool, int, float)) and not isinstance(x, np.generic)]
    dtypes = [dtype_of(x, "result_type") for x in arrays_and_dtypes if not any(x is n for n in numbers)]
    if not dtypes:
        raise ArgumentError("result_type", "arrays_and_dtypes", "must have at least one tensor or dtype",
                            str(arrays_and_dtypes), "ms.result_type(ms.float32, 1)")
    common = promote(*dtypes, where="result_type")
    for number in numbers:
        common = scalar_dtype(number, common)
    return common


class NamespaceInfo:
    """What this namespace can do (standard 2024.12, "Inspection")."""

    def capabilities(self) -> dict[str, Any]:
        """Boolean indexing and data-dependent shapes exist in eager mode; NumPy limits the number of dims to 64."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> str:
        """The device new tensors lie on."""
        return "cpu"

    def devices(self) -> list[str]:
        """All devices."""
        return ["cpu"]

    def default_dtypes(self, *, device: str | None = None) -> dict[str, DType | None]:
        """Default dtype of each kind; there is no complex one."""
        require_device(device, "default_dtypes")
        return {"real floating": dt.DEFAULT_FLOAT, "complex floating": None, "integral": dt.DEFAULT_INT,
                "indexing": dt.DEFAULT_INDEX}

    def dtypes(self, *, device: str | None = None, kind: Any = None) -> dict[str, DType]:
        """The dtypes of the standard that exist, by name; `kind` as in `isdtype`."""
        require_device(device, "dtypes")
        wanted = dt.ALL if kind is None else _of_kind(kind, "dtypes")
        return {d.name: d for d in wanted if d not in (dt.float16, dt.bfloat16)}


def array_namespace_info() -> NamespaceInfo:
    """The inspection object of the namespace."""
    return NamespaceInfo()


def require_device(device: Any, where: str) -> None:
    """Raise ArgumentError unless `device` is None or "cpu"."""
    if device not in (None, "cpu"):
        raise ArgumentError(where, "device", "must be 'cpu' or None", repr(device), 'ms.zeros(3, device="cpu")')
