"""Dtypes and their promotion, as one table (Python array API standard 2024.12, "Type promotion rules").

Where the standard leaves a pair undefined (an integer with a float), the float wins, as in PyTorch and JAX: the
width of a float is a choice the user made, that of an integer seldom is. uint64 with a signed integer has no
common integer and raises `DTypeError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from mainspring.base.errors import DTypeError


@dataclass(frozen=True, eq=False)
class DType:
    """An element type. Instances are singletons: compare with ``is`` or ``==``."""

    name: str
    kind: str  # "bool", "uint", "int", "float"
    bits: int
    numpy: np.dtype

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self.numpy.itemsize

    def __repr__(self) -> str:
        return f"ms.{self.name if self is not bool_ else 'bool'}"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, DType):
            return self is other
        return self is _find(other) if isinstance(other, (str, type, np.dtype)) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return as_dtype, (self.name,)


def _make(name: str, kind: str, scalar: Any) -> DType:
    numpy_dtype = np.dtype(scalar)
    return DType(name, kind, 1 if kind == "bool" else numpy_dtype.itemsize * 8, numpy_dtype)


bool_ = _make("bool", "bool", np.bool_)
int8, int16, int32, int64 = (_make(f"int{b}", "int", f"int{b}") for b in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (_make(f"uint{b}", "uint", f"uint{b}") for b in (8, 16, 32, 64))
float16 = _make("float16", "float", np.float16)
bfloat16 = _make("bfloat16", "float", ml_dtypes.bfloat16)
float32 = _make("float32", "float", np.float32)
float64 = _make("float64", "float", np.float64)

SIGNED = (int8, int16, int32, int64)
UNSIGNED = (uint8, uint16, uint32, uint64)
INTEGERS = SIGNED + UNSIGNED
FLOATS = (float16, bfloat16, float32, float64)
ALL = (bool_, *INTEGERS, *FLOATS)

DEFAULT_FLOAT, DEFAULT_INT, DEFAULT_INDEX = float32, int64, int64

_by_name = {d.name: d for d in ALL}
_by_numpy = {d.numpy: d for d in ALL}
_by_python: dict[Any, DType] = {bool: bool_, int: DEFAULT_INT, float: DEFAULT_FLOAT}


def _find(value: Any) -> DType | None:
    """The DType that a name, a NumPy dtype or scalar type, bool, int or float stands for, or None."""
    found = _by_name.get(value) if isinstance(value, str) else _by_python.get(value) if isinstance(value, type) else None
    if found is None:
        try:
            found = _by_numpy.get(np.dtype(value))
        except (TypeError, ValueError):
            return None
    return found


def as_dtype(value: Any, where: str = "dtype") -> DType:
    """The DType that `value` (a DType, a name, a NumPy dtype, bool, int or float) stands for."""
    if isinstance(value, DType):
        return value
    found = None if value is None else _find(value)
    if found is None:
        names = ", ".join(_by_name)
        if "complex" in str(value):
            names += " (complex dtypes are not there yet)"
        raise DTypeError(where, "dtype", f"must be one of {names}", repr(value), 'ms.zeros((2, 3), dtype="float32")')
    return found


def _join(a: DType, b: DType) -> DType | None:
    """The least dtype that holds both, or None."""
    if a is b:
        return a
    rank = {"bool": 0, "uint": 1, "int": 1, "float": 2}
    if rank[a.kind] != rank[b.kind]:
        return a if rank[a.kind] > rank[b.kind] else b
    if a.kind == b.kind:
        if a.bits == b.bits:  # float16 with bfloat16: neither holds the other
            return float32
        return a if a.bits > b.bits else b
    signed, unsigned = (a, b) if a.kind == "int" else (b, a)
    if signed.bits > unsigned.bits:
        return signed
    return _by_name.get(f"int{unsigned.bits * 2}")


PROMOTION: dict[tuple[DType, DType], DType | None] = {(a, b): _join(a, b) for a in ALL for b in ALL}


def promote(first: DType, *others: DType, where: str = "promote") -> DType:
    """The common dtype of the arguments, from the table; raises DTypeError for a pair without one."""
    result = first
    for other in others:
        joined = PROMOTION[result, other]
        if joined is None:
            raise DTypeError(where, "dtype", "these dtypes have no common integer dtype", f"{result.name} with {other.name}",
                             "ms.astype(x, ms.int64)")
        result = joined
    return result


def scalar_dtype(value: bool | int | float, beside: DType | None) -> DType:
    """The dtype a Python scalar takes `beside` a tensor: the tensor's, unless the scalar is of a higher kind."""
    own = _by_python[bool if isinstance(value, (bool, np.bool_)) else int if isinstance(value, int) else float]
    if beside is None:
        return own
    order = ("bool", "uint", "int", "float")
    higher = order.index(own.kind) > order.index(beside.kind) and not (own.kind == "int" and beside.kind == "uint")
    return own if higher else beside
