"""What the source written by `emit.python` calls: NumPy operations, the folds in their fixed order, guarded memory.

With this you can read the meaning of a `Reduce` (`fold`, `tree`), of a guard (`guarded`, `put`) and of arithmetic on
halves (`half_operation`) as a few lines of array code. `NAMESPACE` holds all names that emitted source may use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from mainspring.compile.loops import LANES
from mainspring.ir.primitives import SCALARS, halves
from mainspring.types.dtype import ALL

COMBINE = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}
HALF = ("float16", "bfloat16")
EXACT = ("where", "abs", "neg", "copysign", "nextafter", "cast", "bitcast")  # a half needs no float32 in between
_LAST = 2**63 - 1


def two_sum(x: Any, y: Any) -> tuple[Any, Any]:
    """x + y rounded, and what rounding took away (Knuth, TAOCP 4.2.2)."""
    total = x + y
    z = total - x
    return total, (x - (total - z)) + (y - z)


def two_product(x: Any, y: Any) -> tuple[Any, Any]:
    """x * y rounded, and what rounding took away (Dekker 1971; float64, no overflow)."""
    def split(v: Any) -> tuple[Any, Any]:
        c = v * 134217729.0
        high = c - (c - v)
        return high, v - high

    product, (a, b), (c, d) = x * y, split(x), split(y)
    return product, ((a * c - product) + a * d + b * c) + b * d


def sum_to_odd(x: Any, y: Any) -> Any:
    """x + y in float64, an inexact sum rounded to the neighbour whose last bit is 1: rounding it again rounds as if once."""
    total, lost = two_sum(x, y)
    even = (np.asarray(total).view(np.int64) & 1) == 0
    return np.where(even & (lost != 0) & np.isfinite(total), np.nextafter(total, np.where(lost > 0, np.inf, -np.inf)), total)


def fma(x: Any, y: Any, z: Any) -> Any:
    """x * y + z rounded once, as the hardware does (Boldo and Melquiond, Emulation of FMA and correctly rounded sums, 2008)."""
    dtype = np.result_type(x)
    if dtype == np.float32:
        return sum_to_odd(np.float64(x) * np.float64(y), np.float64(z)).astype(np.float32)
    if dtype != np.float64:
        return x * y + z
    high, low = two_product(x, y)
    middle, rest = two_sum(z, low)
    total, lost = two_sum(high, middle)
    exact = total + sum_to_odd(rest, lost)
    return np.where(np.isfinite(exact) & (exact != 0), exact, x * y + z)  # a zero keeps its sign


def dot_bf16(total: Any, x: Any, y: Any) -> Any:
    """Both products of halves, each added with one rounding."""
    (x_upper, x_lower), (y_upper, y_lower) = halves(x), halves(y)
    return fma(x_lower, y_lower, fma(x_upper, y_upper, np.float32(total)))


def wide(buffer: Any, index: Any, dtype: Any) -> Any:
    """The elements of `buffer` from `index` on that fill a number of `dtype`, the first in its lowest bits."""
    parts = buffer.view(f"u{buffer.dtype.itemsize}")
    bits, total = 8 * buffer.dtype.itemsize, dtype(0)
    for j in range(np.dtype(dtype).itemsize // buffer.dtype.itemsize):
        total = total | at(parts, index + j).astype(dtype) << dtype(bits * j)
    return total


def guarded_wide(buffer: Any, index: Any, guard: Any, fill: Any) -> Any:
    """`wide` where `guard` holds, else `fill`, whose dtype is that of the result."""
    safe = np.where(guard, index, np.min(np.where(guard, index, _LAST))) if np.any(guard) else np.zeros_like(index)
    return np.where(guard, wide(buffer, safe, np.asarray(fill).dtype.type), fill)


OPERATIONS: dict[str, Callable[..., Any]] = {op: scalar.numpy for op, scalar in SCALARS.items()} | {
    "fma": fma, "dot_bf16": dot_bf16}


def half_operation(op: str, dtype: Any) -> Callable[..., Any]:
    """`op` on halves: in float32, rounded at the end unless the result is bool."""
    numpy, rounds = OPERATIONS[op], SCALARS[op].result != "bool"

    def call(*args: Any) -> Any:
        result = numpy(*[np.asarray(a).astype(np.float32) for a in args])
        return np.asarray(result).astype(dtype) if rounds else result

    return call


def combiner(kind: str, dtype: np.dtype) -> Callable[..., Any]:
    """The operation that a fold of this `kind` repeats."""
    op = COMBINE[kind]
    return half_operation(op, dtype) if dtype.name in HALF else OPERATIONS[op]


def identity(kind: str, dtype: np.dtype) -> Any:
    """What a partial starts from."""
    if kind in ("any", "all"):
        return np.bool_(kind == "all")
    if kind in ("sum", "prod"):
        return np.array(kind == "prod").astype(dtype)[()]
    if dtype.kind == "b":
        return np.bool_(kind == "min")
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return dtype.type(info.min if kind == "max" else info.max)
    return dtype.type(-np.inf if kind == "max" else np.inf)


def partials(kind: str, dtype: Any) -> list[Any]:
    """What a serial reduction starts from."""
    return [identity(kind, np.dtype(dtype))] * LANES


def tree(kind: str, dtype: Any, partials: Any) -> Any:
    """The LANES partials, halves folded onto each other: 8, 4, 2, 1."""
    combine, width = combiner(kind, np.dtype(dtype)), LANES
    while width > 1:
        width //= 2
        partials = [combine(partials[i], partials[i + width]) for i in range(width)]
    return partials[0]


def fold(kind: str, dtype: Any, values: Any, shape: tuple[int, ...]) -> Any:
    """All of `values`, broadcast to `shape`, combined along its first dim: element r goes to partial r mod LANES, in order."""
    values = np.broadcast_to(values, shape)
    combine = combiner(kind, np.dtype(dtype))
    partials = np.full((LANES, *shape[1:]), identity(kind, np.dtype(dtype)), dtype)
    for start in range(0, shape[0], LANES):
        row = values[start : start + LANES]
        partials[: len(row)] = combine(partials[: len(row)], row)
    return tree(kind, dtype, partials)


def add_to(partials: list[Any], r: int, kind: str, dtype: Any, value: Any) -> None:
    """Element `r` of a serial reduction."""
    partials[r % LANES] = combiner(kind, np.dtype(dtype))(partials[r % LANES], value)


def at(buffer: Any, index: Any) -> Any:
    """buffer[index], where the sign of the index is not known beforehand."""
    if np.any(np.less(index, 0)):
        raise IndexError(f"a kernel reads at index {np.min(index)}")
    return buffer[index]


def guarded(buffer: Any, index: Any, guard: Any, fill: Any) -> Any:
    """buffer[index] where `guard` holds, else `fill`."""
    if not np.any(guard):
        shape = np.broadcast_shapes(np.shape(index), np.shape(guard), np.shape(fill))
        return np.broadcast_to(np.asarray(fill, buffer.dtype), shape)[()]
    return np.where(guard, at(buffer, np.where(guard, index, np.min(np.where(guard, index, _LAST)))), fill)


def put(buffer: Any, index: Any, value: Any, guard: Any = True) -> None:
    """buffer[index] = value where `guard` holds."""
    if np.ndim(guard) == 0 and not guard:
        return
    index, value, guard = np.broadcast_arrays(index, value, guard)
    index, value = index[guard], value[guard]
    if np.any(index < 0):
        raise IndexError(f"a kernel writes at index {index.min()}")
    buffer[index] = value


class Private:
    """A register or scratch buffer inside a vector For: each lane has its own copy, lane last; the last lane's stays."""

    def __init__(self, buffer: Any, lanes: int):
        self.buffer, self.dtype = buffer, buffer.dtype
        self.lanes = np.arange(lanes)
        self.copies = np.repeat(buffer[:, None], lanes, axis=1)

    def __getitem__(self, index: Any) -> Any:
        return self.copies[index, self.lanes]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.copies[index, self.lanes] = value

    def put(self, index: Any, value: Any, guard: Any = True) -> None:
        index, value, guard, lanes = np.broadcast_arrays(index, value, guard, self.lanes)
        self.copies[index[guard], lanes[guard]] = value[guard]

    def close(self) -> None:
        if len(self.lanes):
            self.buffer[:] = self.copies[:, -1]


NAMESPACE: dict[str, Any] = {
    "np": np, "partials": partials, "tree": tree, "fold": fold, "add_to": add_to, "at": at,
    "guarded": guarded, "wide": wide, "guarded_wide": guarded_wide, "put": put, "Private": Private,
    **{f"{op}_": function for op, function in OPERATIONS.items()},
    **{d.name: d.numpy.type for d in ALL if d.name != "bool"}, "bool_": np.bool_,
    **{f"{op}_{half}": half_operation(op, {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[half])
       for op in SCALARS if op not in EXACT for half in HALF},
}
