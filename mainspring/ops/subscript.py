"""``x[key]`` and ``x.at[key]``: the key language of NumPy, read once into a plan that both follow.

A plan has two steps: a window of `x` (slices and plain ints), then integer arrays into the window's dims. Reading gives
``gather(window(x))``; writing scatters into the window and puts it back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mainspring.base.errors import ArgumentError, AxisError, DTypeError, ShapeError, TraceError
from mainspring.interpret.eager import EAGER, as_value
from mainspring.ir.bind import Value, bind, current
from mainspring.ops.common import KINDS, broadcast, broadcasted, cast_to, is_python_scalar, require_kind, scalar_value
from mainspring.ops.creation import ones
from mainspring.ops.elementwise import add, maximum, minimum, multiply, where
from mainspring.ops.gather import GATHER, SCATTER, check_range
from mainspring.ops.movement import PAD, SLICE, flip, moveaxis, reshape
from mainspring.types.dtype import bool_, int64, scalar_dtype
from mainspring.types.shape import Shape, as_int

# ----------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class _Index:
    """An integer array in a key. `extent`: what its dim must have (part of a mask). `new`: its dim is a new one of extent 1."""

    value: Value
    extent: int | None = None
    new: bool = False


@dataclass(frozen=True)
class Plan:
    """What a key means for one shape.

    shape: x is reshaped to this first (dims of extent 1 for 0-d masks). start, stop, step (> 0): the window; then `flips` are
    reversed. axes, indices: integer arrays of one shape into dims of the window. kept: the other dims of the result, with
    ints dropped and None as 1; the index dims stand before dim `place` of these.
    """

    shape: Shape
    start: Shape
    stop: Shape
    step: Shape
    flips: tuple[int, ...]
    axes: tuple[int, ...]
    indices: tuple[Value, ...]
    kept: Shape
    place: int

    @property
    def index_shape(self) -> Shape:
        return self.indices[0].shape if self.indices else ()

    @property
    def whole(self) -> bool:
        """Whether the window is all of x."""
        return self.start == (0,) * len(self.shape) and self.stop == self.shape and set(self.step) <= {1}

    @property
    def window_shape(self) -> Shape:
        return tuple(len(range(a, b, c)) for a, b, c in zip(self.start, self.stop, self.step, strict=True))


def plan_of(shape: Shape, key: Any, where_: str = "getitem") -> Plan:
    """The plan of `key` for a tensor of `shape`."""
    items = [part for item in (key if isinstance(key, tuple) else (key,)) for part in _read(item, where_)]
    items = _without_ellipsis(items, shape, where_)
    if any(isinstance(item, _Index) for item in items):
        items = [_Index(as_value(np.asarray(_checked_int(item, shape, items, k, where_)))) if isinstance(item, int) else item
                 for k, item in enumerate(items)]
    return _walk(items, shape, where_)


_ENTRIES = "an entry must be an int, a slice, None, ..., or a tensor of integers or bools"


def _read(item: Any, where_: str) -> list[Any]:
    """One entry of a key as None, Ellipsis, a slice, an int or `_Index` entries."""
    if item is None or item is Ellipsis or isinstance(item, slice):
        return [item]
    if isinstance(item, (bool, np.bool_)):
        return [_Index(as_value(np.zeros(int(item), np.int64)), new=True)]
    if isinstance(item, (int, np.integer)):
        return [int(item)]
    value = _array(item, where_)
    if value.dtype is bool_:
        return _mask_indices(value, where_)
    if value.dtype.kind not in KINDS["integer"]:
        raise DTypeError(where_, "key", _ENTRIES, str(value._type),
                         "x[ms.astype(i, ms.int64)]")
    return [int(value._data)] if not value.shape and value._frame is None else [_Index(value)]


def _array(item: Any, where_: str) -> Value:
    if isinstance(item, Value):
        return item
    if not isinstance(item, (list, tuple, np.ndarray, np.generic)):
        raise DTypeError(where_, "key", _ENTRIES, repr(item), "x[1:, None]")
    value = as_value(item, where_)
    return cast_to(value, int64) if isinstance(item, (list, tuple)) and not value._type.size else value


def _mask_indices(mask: Value, where_: str) -> list[_Index]:
    if mask._frame is not None:
        raise TraceError(where_, "key", "how many elements a traced mask chooses is not known while tracing", str(mask._type),
                         "ms.where(mask, x, 0), x.at[mask].set(value), or the same line outside ms.jit (eager mode)")
    if not mask.shape:
        return _read(bool(mask._data), where_)
    return [_Index(as_value(places), extent) for places, extent in zip(np.nonzero(mask._data), mask.shape, strict=True)]


def _consumes(item: Any) -> int:
    """How many dims of x an entry stands for."""
    return int(item is not None and item is not Ellipsis and not (isinstance(item, _Index) and item.new))


def _without_ellipsis(items: list[Any], shape: Shape, where_: str) -> list[Any]:
    """`items` with slices in place of the ellipsis or at the end; one that stands for no dim stays: it parts neighbours."""
    used = sum(_consumes(item) for item in items)
    if used > len(shape):
        raise AxisError(where_, "key", f"must name at most {len(shape)} dims", f"{used} for a tensor of shape {shape}")
    dots = [k for k, item in enumerate(items) if item is Ellipsis]
    if len(dots) > 1:
        raise ArgumentError(where_, "key", "may have one ellipsis", f"{len(dots)}", "x[0, ..., 1]")
    at = dots[0] if dots else len(items)
    slices = [slice(None)] * (len(shape) - used)
    return [*items[:at], *(slices or items[at : at + 1]), *items[at + 1:]]


def _checked_int(item: int, shape: Shape, items: list[Any], k: int, where_: str) -> int:
    axis = sum(_consumes(before) for before in items[:k])
    n = shape[axis]
    if not -n <= item < n:
        raise AxisError(where_, "key", f"must lie in [{-n}, {n}) for dim {axis} of extent {n}", str(item))
    return item % n


def _bounds(item: slice, extent: int, where_: str) -> tuple[int, int, int]:
    """(start, stop, step) of `item` for `extent`, with step of either sign."""
    for bound in (item.start, item.stop, item.step):
        if isinstance(bound, Value) and bound._frame is not None:
            raise TraceError(where_, "key", "the bounds of a slice give a shape and cannot be traced", str(bound._type),
                             "ms.dynamic_slice(x, starts, sizes), where the sizes are ints")
    parts = [None if b is None else as_int(b, where_, "key") for b in (item.start, item.stop, item.step)]
    if parts[2] == 0:
        raise ArgumentError(where_, "key", "the step of a slice must not be 0", str(item), "x[::2]")
    return slice(*parts).indices(extent)


def _walk(items: list[Any], shape: Shape, where_: str) -> Plan:
    extents = list(shape)
    flips: list[int] = []
    axes: list[int] = []
    kept: list[int] = []
    windows: list[tuple[int, int, int]] = []
    arrays: list[Value] = []
    runs: list[int] = []  # for each run of neighbouring arrays: how many dims of the result stand before it
    neighbour = False
    for item in items:
        axis = len(windows)
        if isinstance(item, _Index):
            if item.new:
                extents.insert(axis, 1)
            elif item.extent not in (None, 0, extents[axis]):  # the standard lets a mask of no elements choose nothing
                raise AxisError(where_, "key", f"a mask must have the extents of the dims it chooses from, here {shape}",
                                 f"extent {item.extent} for {extents[axis]} of dim {axis}")
            axes.append(axis)
            arrays.append(item.value)
            windows.append((0, extents[axis], 1))
            runs += [] if neighbour else [len(kept)]
        elif item is None:
            kept.append(1)
        elif item is Ellipsis:
            pass
        elif isinstance(item, slice):
            window, backwards = _forwards(_bounds(item, extents[axis], where_))
            flips += [axis] if backwards else []
            windows.append(window)
            kept.append(len(range(*window)))
        else:
            start = _checked_int(item, tuple(extents), [slice(None)] * axis, axis, where_)
            windows.append((start, start + 1, 1))
        neighbour = isinstance(item, _Index)
    indices = tuple(broadcasted(where_, arrays))
    if current() is not EAGER:  # eager, the ops themselves look
        for index, axis in zip(indices, axes, strict=True):
            if index._frame is None:
                check_range(where_, tuple(extents), [index._data], (axis,))
    starts, stops, steps = (tuple(w[i] for w in windows) for i in range(3))
    place = runs[0] if len(runs) == 1 else 0  # arrays that are not neighbours: NumPy puts their dims first
    return Plan(tuple(extents), starts, stops, steps, tuple(flips), tuple(axes), indices, tuple(kept), place)


def _forwards(bounds: tuple[int, int, int]) -> tuple[tuple[int, int, int], bool]:
    """The same elements by a positive step, ending right behind the last one, and whether the order was turned round."""
    start, stop, step = bounds
    count = len(range(start, stop, step))
    last = start + (count - 1) * step
    if not count:
        return (0, 0, 1), False
    return (start, last + 1, step) if step > 0 else (last, start + 1, -step), step < 0


# -------------------------------------------------------------------------------------------------------- reading


def _window(x: Value, plan: Plan) -> Value:
    value = reshape(x, plan.shape)
    if not plan.whole:
        value = bind(SLICE, value, start=plan.start, stop=plan.stop, step=plan.step)
    return flip(value, axis=plan.flips) if plan.flips else value


def getitem(x: Any, key: Any) -> Any:
    """``x[key]`` as in NumPy: ints, slices of any step, None, ``...``, integer arrays and tensors (traced too), masks (eager).

    Raises:
        AxisError: an index outside its dim, or more entries than dims. Inside compiled code a traced index is clamped instead.
        TraceError: a traced mask or a traced slice bound.
    """
    value = as_value(x, "getitem")
    plan = plan_of(value.shape, key)
    part = _window(value, plan)
    if not plan.indices:
        return reshape(part, plan.kept)
    part = bind(GATHER, part, *plan.indices, axes=plan.axes)
    n = len(plan.index_shape)
    part = reshape(part, (*plan.index_shape, *plan.kept))
    return moveaxis(part, tuple(range(n)), tuple(range(plan.place, plan.place + n))) if plan.place and n else part


# -------------------------------------------------------------------------------------------------------- writing

_COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "set": lambda x, value: value, "add": add, "multiply": multiply, "max": maximum, "min": minimum,
}


_RANK = {"bool": 0, "uint": 1, "int": 1, "float": 2}


def update_values(value: Any, like: Value, where_: str) -> Value:
    """`value` in the dtype of `like`, whose kind (bool, integer, float) must not be below that of `value`."""
    scalar = is_python_scalar(value)
    given = scalar_value(value, scalar_dtype(value, like.dtype), where_) if scalar else as_value(value, where_)
    if _RANK[given.dtype.kind] > _RANK[like.dtype.kind]:
        raise DTypeError(where_, "value", f"must be of a dtype that {like.dtype.name} can stand for", given.dtype.name,
                         "x.at[key].set(ms.astype(value, x.dtype))")
    return cast_to(given, like.dtype)


def _fitted(value: Value, shape: Shape, where_: str) -> Value:
    """`value` broadcast to the shape of the elements that are to be changed."""
    extra = value.ndim - len(shape)
    if extra > 0 and set(value.shape[:extra]) <= {1}:
        value = reshape(value, value.shape[extra:])
    fits = value.ndim <= len(shape) and all(m in (1, n) for m, n in zip(reversed(value.shape), reversed(shape), strict=False))
    if not fits:
        raise ShapeError(where_, "value", f"must broadcast to the shape {shape} of the elements chosen", str(value.shape))
    return broadcast(value, shape)


def _put_back(x: Value, part: Value, plan: Plan, mode: str) -> Value:
    """`x` with its window combined with `part`; nothing else changes by a bit."""
    part = flip(part, axis=plan.flips) if plan.flips else part
    if plan.whole:
        return _COMBINE[mode](x, part)
    high = tuple(n - b for n, b in zip(x.shape, plan.stop, strict=True))
    around = {"low": plan.start, "high": high, "interior": tuple(c - 1 for c in plan.step), "value": 0.0}
    inside = bind(PAD, ones(part.shape, dtype=bool_), **around)
    return where(inside, _COMBINE[mode](x, bind(PAD, part, **around)), x)


def _update_plan(x: Value, plan: Plan, value: Value, mode: str, where_: str) -> Value:
    n = len(plan.index_shape)
    before = reshape(x, plan.shape)
    value = _fitted(value, (*plan.kept[: plan.place], *plan.index_shape, *plan.kept[plan.place:]), where_)
    if not plan.indices:
        return reshape(_put_back(before, reshape(value, plan.window_shape), plan, mode), x.shape)
    if plan.place and n:
        value = moveaxis(value, tuple(range(plan.place, plan.place + n)), tuple(range(n)))
    rest = tuple(m for i, m in enumerate(plan.window_shape) if i not in plan.axes)
    value = reshape(value, (*plan.index_shape, *rest))
    part = bind(SCATTER, _window(x, plan), value, *plan.indices, axes=plan.axes, mode=mode)
    return reshape(_put_back(before, part, plan, "set"), x.shape)


def _single_mask(key: Any) -> Value | None:
    """The mask that is all of `key`, or None."""
    if isinstance(key, tuple) and len(key) == 1:
        key = key[0]
    if not isinstance(key, (Value, np.ndarray, list)):
        return None
    value = as_value(key, "at")
    return value if value.dtype is bool_ else None


class At:
    """``x.at[key]``: the elements at `key`, to be read or changed in a new tensor."""

    __slots__ = ("_key", "_x")

    def __init__(self, x: Any, key: Any = ...):
        self._x, self._key = as_value(x, "at"), key

    def __getitem__(self, key: Any) -> At:
        return At(self._x, key)

    def get(self) -> Any:
        """The elements: ``x[key]``."""
        return getitem(self._x, self._key)

    def set(self, value: Any) -> Any:
        """`x` with these elements replaced by `value` (broadcast); of several values for one place the last wins."""
        return self._update(value, "set")

    def add(self, value: Any) -> Any:
        """`x` with `value` added; several values for one place are all added."""
        return self._update(value, "add")

    def multiply(self, value: Any) -> Any:
        """`x` with these elements multiplied by `value`; several values for one place all count."""
        return self._update(value, "multiply")

    def max(self, value: Any) -> Any:
        """`x` with these elements raised to at least `value`; NaN wins."""
        return self._update(value, "max")

    def min(self, value: Any) -> Any:
        """`x` with these elements lowered to at most `value`; NaN wins."""
        return self._update(value, "min")

    def _update(self, value: Any, mode: str) -> Any:
        where_ = f"at.{mode}"
        if mode != "set":
            require_kind(where_, "x", self._x.dtype, "numeric")
        updates = update_values(value, self._x, where_)
        mask = _single_mask(self._key)
        if mask is None or updates.ndim > self._x.ndim - mask.ndim:
            return _update_plan(self._x, plan_of(self._x.shape, self._key, where_), updates, mode, where_)
        if mask.shape != self._x.shape[: mask.ndim]:
            raise ShapeError(where_, "key", "a mask must have the extents of the dims it chooses from",
                             f"{mask.shape} for {self._x.shape}")
        wide = reshape(mask, (*mask.shape, *[1] * (self._x.ndim - mask.ndim)))
        everywhere = broadcast(_fitted(updates, self._x.shape[mask.ndim:], where_), self._x.shape)
        return where(wide, _COMBINE[mode](self._x, everywhere), self._x)


__all__ = ["At", "getitem", "update_values"]
