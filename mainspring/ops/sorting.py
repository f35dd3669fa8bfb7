"""The sorting family: one primitive, `sort_with_indices`, and the binary search; sort, argsort and topk are made of it.

The order is total: NaN stands behind every number, in ascending and in descending order; equal elements keep their order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mainspring.base.errors import ArgumentError, ShapeError
from mainspring.interpret.eager import as_value
from mainspring.ir import scalar as s
from mainspring.ir.bind import Value, bind
from mainspring.ir.op import Op, Opaque, Space, register
from mainspring.ops.common import cast_to, promoted, require_kind
from mainspring.ops.creation import zeros
from mainspring.ops.elementwise import DISCRETE
from mainspring.ops.indexing import put_along_axis, take
from mainspring.types.dtype import DEFAULT_INDEX, bool_, int64
from mainspring.types.shape import TensorType, as_int, normalize_axis

# ----------------------------------------------------------------------------------------------------------- sort


def _sort_infer(x: TensorType, axis: int, descending: bool, first: int) -> tuple[TensorType, TensorType]:
    shape = (*x.shape[:axis], first, *x.shape[axis + 1:])
    return TensorType(shape, x.dtype), TensorType(shape, DEFAULT_INDEX)


def _comparable(x: np.ndarray) -> np.ndarray:
    """`x` in a dtype that NumPy sorts with NaN last: bfloat16 as float32, which holds it exactly."""
    return x if x.dtype.kind in "biuf" else x.astype(np.float32)


def _sort_reference(x: np.ndarray, axis: int, descending: bool, first: int) -> tuple[np.ndarray, np.ndarray]:
    keys: Any = _comparable(x)
    if descending:  # an order-reversing map of the keys, so that equal elements and NaN stay where they are
        keys = -keys if keys.dtype.kind == "f" else ~keys
    order = np.argsort(keys, axis=axis, kind="stable").take(range(first), axis=axis)
    return np.take_along_axis(x, order, axis=axis), order.astype(np.int64)


def _sort_vjp(ct: tuple[Value | None, None], out: tuple[Value, Value], x: Value, axis: int, descending: bool,
              first: int) -> tuple[Any]:
    def thunk() -> Any:
        return put_along_axis(zeros(x.shape, dtype=x.dtype), out[1], ct[0], axis=axis, mode="add")

    return (thunk if ct[0] is not None else None,)


SORT = register(Op("sort_with_indices", _sort_infer, _sort_reference, Opaque("an element's place depends on all the others"),
                   _sort_vjp, "The `first` elements of `x` sorted along `axis`, and where each stood; stable, NaN last."))


def _sorted(x: Any, axis: int, descending: bool, name: str) -> tuple[Value, Value]:
    value = as_value(x, name)
    place = normalize_axis(axis, value.ndim, name)
    return bind(SORT, value, axis=place, descending=bool(descending), first=value.shape[place])


def sort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """`x` sorted along `axis`, NaN last. The sort is always stable, `stable` or not."""
    return _sorted(x, axis, descending, "sort")[0]


def argsort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """The indices (int64) that sort `x` along `axis`, NaN last. The sort is always stable, `stable` or not."""
    return _sorted(x, axis, descending, "argsort")[1]


def topk(x: Any, k: int, /, *, axis: int = -1, largest: bool = True) -> tuple[Any, Any]:
    """The `k` greatest (or least) elements along `axis`, best first, and their int64 indices; NaN counts as the worst.

    Of equal elements those with the lower index come first.
    """
    value = as_value(x, "topk")
    place = normalize_axis(axis, value.ndim, "topk")
    count = as_int(k, "topk", "k")
    if not 0 <= count <= value.shape[place]:
        raise ArgumentError("topk", "k", f"must lie between 0 and {value.shape[place]}, the extent of dim {place}", str(count),
                            "ms.topk(x, 1)")
    return bind(SORT, value, axis=place, descending=bool(largest), first=count)


# --------------------------------------------------------------------------------------------------------- search


def _search_infer(x1: TensorType, x2: TensorType, side: str) -> TensorType:
    if len(x1.shape) != 1:
        raise ShapeError("searchsorted", "x1", "must have one dim", str(x1), "ms.searchsorted(ms.asarray([1, 2, 3]), x)")
    if x1.dtype is not x2.dtype:
        raise ShapeError("searchsorted", "x2", "must have the dtype of x1 (the public function promotes)", f"{x1}, {x2}")
    return TensorType(x2.shape, DEFAULT_INDEX)


def _search_reference(x1: np.ndarray, x2: np.ndarray, side: str) -> np.ndarray:
    return np.searchsorted(_comparable(x1), _comparable(x2), side=side)  # type: ignore[call-overload]


def before(a: s.Expr, b: s.Expr) -> s.Expr:
    """Whether `a` stands before `b` in the total order (NaN last)."""
    less = s.compare("lt", a, b)
    return less | (s.apply("ne", b, b) & s.apply("eq", a, a)) if a.dtype.kind == "float" else less


def _search_space(x1: TensorType, x2: TensorType, side: str) -> Space:
    """A binary search without branches: the count of elements known to stand before grows by halving steps."""
    n = x1.shape[0]

    def element(read: Callable[..., Any], *dims: Any) -> Any:
        wanted, count = read(1, *dims), s.const(0, int64)
        for bit in reversed(range(n.bit_length())):
            grown = count + (1 << bit)
            possible = s.compare("le", grown, n)
            probe = read(0, grown - 1, guard=possible)
            goes_before = before(probe, wanted) if side == "left" else ~before(wanted, probe)
            count = s.where(s.both(possible, goes_before), grown, count)
        return count

    return Space(x2.shape, element)


SEARCHSORTED = register(Op("searchsorted", _search_infer, _search_reference, _search_space, DISCRETE,
                           "For each element of `x2`, how many of the sorted `x1` stand before it (side left) or not "
                           "behind it (right)."))


def searchsorted(x1: Any, x2: Any, /, *, side: str = "left", sorter: Any = None) -> Any:
    """Where each element of `x2` would go in the ascending 1-d `x1`, as int64.

    Args:
        side: "left" puts it before equal elements, "right" behind them.
        sorter: indices that sort `x1`, when it is not sorted itself.
    """
    if side not in ("left", "right"):
        raise ArgumentError("searchsorted", "side", "must be left or right", repr(side), 'ms.searchsorted(x1, x2, side="left")')
    row, wanted = promoted("searchsorted", x1, x2)
    if sorter is not None:
        index = as_value(sorter, "searchsorted")
        require_kind("searchsorted", "sorter", index.dtype, "integer")
        row = take(row, index, axis=0)
    if row.dtype is bool_:
        row, wanted = cast_to(row, int64), cast_to(wanted, int64)
    return bind(SEARCHSORTED, row, wanted, side=side)
