"""The movement family: ops that only say where an element comes from. Under the compiler they cost nothing: they are
index arithmetic inside the kernels that read them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from mainspring.base.errors import ArgumentError, AxisError, ShapeError
from mainspring.interpret.eager import as_value
from mainspring.ir import scalar as s
from mainspring.ir.bind import Value, bind
from mainspring.ir.op import OPS, NoGradient, Op, Space, register
from mainspring.ops.common import BROADCAST, broadcast, cast_to
from mainspring.types.dtype import DEFAULT_INDEX, DType, as_dtype, promote
from mainspring.types.shape import (
    Shape,
    TensorType,
    as_int,
    as_ints,
    as_shape,
    broadcast_shapes,
    element_strides,
    normalize_axes,
    normalize_axis,
)

# -------------------------------------------------------------------------------------------------------- reshape


def _reshape_infer(x: TensorType, shape: Shape) -> TensorType:
    if math.prod(shape) != x.size:
        raise ShapeError("reshape", "shape", f"must hold the {x.size} elements of x", f"{x.shape} to {shape}",
                         "ms.reshape(ms.ones((2, 3)), (3, 2))")
    return TensorType(shape, x.dtype)


def _reshape_space(x: TensorType, shape: Shape) -> Space:
    def element(read: Callable[..., Any], *dims: Any) -> Any:
        return read(0, *unravel(ravel(dims, shape), x.shape))

    return Space(shape, element)


def ravel(index: Sequence[Any], shape: Shape) -> Any:
    """The row-major position of `index` in `shape`, as an expression."""
    total = s.const(0, s.int64)
    for i, stride in zip(index, element_strides(shape), strict=True):
        total = total + i * stride
    return total


def unravel(flat: Any, shape: Shape) -> list[Any]:
    """The index in `shape` of the row-major position `flat`."""
    strides = element_strides(shape)
    return [flat // stride if i == 0 else (flat // stride) % n
            for i, (stride, n) in enumerate(zip(strides, shape, strict=True))]


RESHAPE = register(Op("reshape", _reshape_infer, lambda x, shape: np.reshape(x, shape), _reshape_space,
                      lambda ct, out, x, shape: (lambda: reshape(ct, x.shape),), "`x` in row-major order as `shape`."))


def reshape(x: Any, /, shape: int | Sequence[int], *, copy: bool | None = None) -> Any:
    """`x` in row-major order as `shape`; one extent may be -1 and is then inferred."""
    value = as_value(x, "reshape")
    wanted = tuple(as_int(n, "reshape", "shape") for n in (shape if isinstance(shape, Sequence) else (shape,)))
    if wanted.count(-1) == 1:
        known = -math.prod(wanted)
        if known == 0 or value._type.size % known:
            raise ShapeError("reshape", "shape", f"the extent -1 cannot be inferred for {value._type.size} elements",
                             str(wanted))
        wanted = tuple(value._type.size // known if n == -1 else n for n in wanted)
    wanted = as_shape(wanted, "reshape")
    return value if wanted == value.shape else bind(RESHAPE, value, shape=wanted)


# ------------------------------------------------------------------------------------------------------ transpose


def _transpose_space(x: TensorType, axes: tuple[int, ...]) -> Space:
    def element(read: Callable[..., Any], *dims: Any) -> Any:
        return read(0, *[dims[axes.index(i)] for i in range(len(axes))])

    return Space(tuple(x.shape[a] for a in axes), element)


TRANSPOSE = register(Op("transpose", lambda x, axes: TensorType(tuple(x.shape[a] for a in axes), x.dtype),
                        lambda x, axes: np.transpose(x, axes), _transpose_space,
                        lambda ct, out, x, axes: (lambda: permute_dims(ct, tuple(axes.index(i) for i in range(len(axes)))),),
                        "Dim i of the result is dim axes[i] of `x`."))


def permute_dims(x: Any, /, axes: Sequence[int]) -> Any:
    """`x` with its dims in the order `axes`: dim i of the result is dim ``axes[i]`` of `x`."""
    value = as_value(x, "permute_dims")
    order = normalize_axes(as_ints(axes, "permute_dims", "axes"), value.ndim, "permute_dims", "axes")
    if len(order) != value.ndim:
        raise AxisError("permute_dims", "axes", f"must name each of the {value.ndim} dims once", str(axes),
                        "ms.permute_dims(x, (1, 0))")
    return value if order == tuple(range(value.ndim)) else bind(TRANSPOSE, value, axes=order)


# ---------------------------------------------------------------------------------------------------------- slice


def _slice_shape(x: TensorType, start: Shape, stop: Shape, step: Shape) -> Shape:
    return tuple(max(0, -(-(b - a) // c)) for a, b, c in zip(start, stop, step, strict=True))


def _slice_space(x: TensorType, start: Shape, stop: Shape, step: Shape) -> Space:
    def element(read: Callable[..., Any], *dims: Any) -> Any:
        return read(0, *[d * c + a for d, a, c in zip(dims, start, step, strict=True)])

    return Space(_slice_shape(x, start, stop, step), element)


def _slice_vjp(ct: Value, out: Value, x: Value, start: Shape, stop: Shape, step: Shape) -> tuple[Any]:
    def thunk() -> Value:
        covered = [a + max(0, (m - 1) * c + 1) if m else a for a, m, c in zip(start, out.shape, step, strict=True)]
        high = tuple(n - end for n, end in zip(x.shape, covered, strict=True))
        return bind(PAD, ct, low=start, high=high, interior=tuple(c - 1 for c in step), value=0.0)

    return (thunk,)


SLICE = register(Op("slice", lambda x, start, stop, step: TensorType(_slice_shape(x, start, stop, step), x.dtype),
                    lambda x, start, stop, step: x[tuple(slice(a, b, c) for a, b, c in zip(start, stop, step, strict=True))],
                    _slice_space, _slice_vjp, "Elements start, start + step, … below stop of each dim; steps are positive."))


def _flip_space(x: TensorType, axes: tuple[int, ...]) -> Space:
    def element(read: Callable[..., Any], *dims: Any) -> Any:
        return read(0, *[n - 1 - d if i in axes else d for i, (d, n) in enumerate(zip(dims, x.shape, strict=True))])

    return Space(x.shape, element)


FLIP = register(Op("flip", lambda x, axes: x, lambda x, axes: np.flip(x, axes), _flip_space,
                   lambda ct, out, x, axes: (lambda: bind(FLIP, ct, axes=axes),), "`x` reversed along `axes`."))


def flip(x: Any, /, *, axis: int | Sequence[int] | None = None) -> Any:
    """`x` reversed along `axis` (all by default)."""
    value = as_value(x, "flip")
    axes = tuple(sorted(normalize_axes(axis, value.ndim, "flip")))
    return bind(FLIP, value, axes=axes) if axes else value


# ------------------------------------------------------------------------------------------------------------ pad


def _pad_shape(x: TensorType, low: Shape, high: Shape, interior: Shape) -> Shape:
    return tuple(a + b + n + max(0, n - 1) * c for n, a, b, c in zip(x.shape, low, high, interior, strict=True))


def _pad_infer(x: TensorType, low: Shape, high: Shape, interior: Shape, value: float) -> TensorType:
    shape = _pad_shape(x, low, high, interior)
    if any(n < 0 for n in shape) or any(c < 0 for c in interior):
        raise ShapeError("pad", "padding", "must leave no negative extent",
                         f"{x.shape} with low={low}, high={high}, interior={interior}")
    return TensorType(shape, x.dtype)


def _pad_reference(x: np.ndarray, low: Shape, high: Shape, interior: Shape, value: float) -> np.ndarray:
    shape = _pad_shape(TensorType(x.shape, DEFAULT_INDEX), low, high, interior)
    wide_shape = tuple(n + max(0, n - 1) * c for n, c in zip(x.shape, interior, strict=True))
    wide = np.full(wide_shape, value, dtype=x.dtype)
    wide[tuple(slice(None, None, c + 1) for c in interior)] = x
    result = np.full(shape, value, dtype=x.dtype)
    source = tuple(slice(max(0, -a), n - max(0, -b)) for n, a, b in zip(wide_shape, low, high, strict=True))
    target = tuple(slice(max(0, a), m - max(0, b)) for m, a, b in zip(shape, low, high, strict=True))
    if all(n > 0 for n in wide[source].shape):
        result[target] = wide[source]
    return result


def _pad_space(x: TensorType, low: Shape, high: Shape, interior: Shape, value: float) -> Space:
    def element(read: Callable[..., Any], *dims: Any) -> Any:
        index, guards = [], []
        for d, n, a, c in zip(dims, x.shape, low, interior, strict=True):
            place = d - a
            guards += [s.compare("le", 0, place), s.compare("lt", place, n + max(0, n - 1) * c)]
            if c:
                guards.append(s.compare("eq", place % (c + 1), 0))
            index.append(place // (c + 1))
        return read(0, *index, guard=s.both(*guards), fill=value)

    return Space(_pad_shape(x, low, high, interior), element)


def _pad_vjp(ct: Value, out: Value, x: Value, low: Shape, high: Shape, interior: Shape, value: float) -> tuple[Any]:
    def thunk() -> Value:
        # negative padding cut elements off: those get zero, which padding the cotangent back gives
        back_low, back_high = tuple(max(0, -a) for a in low), tuple(max(0, -b) for b in high)
        full = ct
        if any(back_low) or any(back_high):
            full = bind(PAD, ct, low=back_low, high=back_high, interior=(0,) * x.ndim, value=0.0)
        start = tuple(max(0, a) for a in low)
        step = tuple(c + 1 for c in interior)
        stop = tuple(a + max(0, (n - 1) * c + 1) if n else a for a, n, c in zip(start, x.shape, step, strict=True))
        return bind(SLICE, full, start=start, stop=stop, step=step)

    return (thunk,)


PAD = register(Op("pad", _pad_infer, _pad_reference, _pad_space, _pad_vjp,
                  "`x` with `low` and `high` elements of `value` around each dim (negative: cut off), `interior` between."))


def pad(x: Any, /, padding: Sequence[Any] | int, *, mode: str = "constant", value: float = 0.0,
        interior: Sequence[int] | None = None) -> Any:
    """`x` with elements added around it.

    Args:
        padding: one (low, high) pair a dim, or one int for all; negative numbers cut elements off.
        mode: "constant", "edge", "reflect" (without the edge) or "wrap".
        value: what "constant" adds.
        interior: elements of `value` put between neighbours, a dim each ("constant" only).
    """
    tensor = as_value(x, "pad")
    entries = padding if isinstance(padding, Sequence) else [padding] * tensor.ndim
    pairs = [tuple(p) if isinstance(p, Sequence) else (p, p) for p in entries]
    if len(pairs) != tensor.ndim or any(len(p) != 2 for p in pairs):
        raise ShapeError("pad", "padding", f"must have one (low, high) pair for each of the {tensor.ndim} dims", str(padding),
                         "ms.pad(x, ((1, 1), (0, 0)))")
    low, high = tuple(as_int(p[0], "pad", "padding") for p in pairs), tuple(as_int(p[1], "pad", "padding") for p in pairs)
    if mode == "constant":
        inside = tuple(interior) if interior is not None else (0,) * tensor.ndim
        return bind(PAD, tensor, low=low, high=high, interior=inside, value=float(value))
    if mode not in ("edge", "reflect", "wrap"):
        raise ArgumentError("pad", "mode", "must be constant, edge, reflect or wrap", repr(mode), 'ms.pad(x, 1, mode="edge")')
    for axis, (a, b) in enumerate(zip(low, high, strict=True)):
        tensor = _pad_by_copies(tensor, axis, a, b, mode)
    return tensor


def _pad_by_copies(x: Value, axis: int, low: int, high: int, mode: str) -> Value:
    n = x.shape[axis]
    limit = 0 if n == 0 else {"edge": math.inf, "reflect": n - 1, "wrap": n}[mode]
    if max(low, high) > limit or n + low + high < 0:
        raise ShapeError("pad", "padding", f"mode {mode} adds 0 to {limit} elements a side to an extent of {n}",
                         str((low, high)))
    if low < 0 or high < 0:  # what is added comes from all of x; what is cut off goes last
        wide = _pad_by_copies(x, axis, max(0, low), max(0, high), mode)
        return slice_axis(wide, axis, max(0, -low), wide.shape[axis] - max(0, -high))
    if not low and not high:
        return x

    def part(start: int, stop: int) -> Value:
        return slice_axis(x, axis, start, stop)

    if mode == "edge":
        sides = [part(0, 1)] * low, [part(n - 1, n)] * high
    elif mode == "reflect":
        sides = [flip(part(1, low + 1), axis=axis)], [flip(part(n - 1 - high, n - 1), axis=axis)]
    else:
        sides = [part(n - low, n)], [part(0, high)]
    return concat([*sides[0], x, *sides[1]], axis=axis)


def slice_axis(x: Any, axis: int, start: int, stop: int, step: int = 1) -> Any:
    """Elements `start` to `stop` (exclusive) of one dim; bounds already within the extent."""
    value = as_value(x, "slice")
    starts, stops, steps = [0] * value.ndim, list(value.shape), [1] * value.ndim
    starts[axis], stops[axis], steps[axis] = start, stop, step
    return bind(SLICE, value, start=tuple(starts), stop=tuple(stops), step=tuple(steps))


# --------------------------------------------------------------------------------------------------------- concat


def _concat_infer(*types: TensorType, axis: int) -> TensorType:
    first = types[0]
    others = first.shape[:axis] + first.shape[axis + 1:]
    for position, t in enumerate(types):
        if len(t.shape) != len(first.shape) or t.shape[:axis] + t.shape[axis + 1:] != others:
            raise ShapeError("concat", f"arrays[{position}]", f"all dims but dim {axis} must be equal",
                             f"{t.shape} with {first.shape}")
    return TensorType((*first.shape[:axis], sum(t.shape[axis] for t in types), *first.shape[axis + 1:]), first.dtype)


def _concat_space(*types: TensorType, axis: int) -> Space:
    def element(read: Callable[..., Any], *dims: Any) -> Any:
        result, offset = None, sum(t.shape[axis] for t in types)
        for i in reversed(range(len(types))):
            offset -= types[i].shape[axis]
            place = dims[axis] - offset
            inside = s.both(s.compare("le", 0, place), s.compare("lt", place, types[i].shape[axis]))
            piece = read(i, *[place if k == axis else d for k, d in enumerate(dims)], guard=inside, fill=0)
            result = piece if result is None else s.where(inside, piece, result)
        return result

    return Space(_concat_infer(*types, axis=axis).shape, element)


def _concat_vjp(ct: Value, out: Value, *xs: Value, axis: int) -> tuple[Any, ...]:
    offsets = np.cumsum([0, *[x.shape[axis] for x in xs]])
    return tuple((lambda a=int(a), b=int(b): slice_axis(ct, axis, a, b))
                 for a, b in itertools.pairwise(offsets))


CONCAT = register(Op("concat", _concat_infer, lambda *xs, axis: np.concatenate(xs, axis=axis), _concat_space, _concat_vjp,
                     "Tensors joined along `axis`."))


def _several(arrays: Any, where: str) -> list[Value]:
    """The tensors of a sequence, at least one."""
    if not isinstance(arrays, Iterable):
        raise ArgumentError(where, "arrays", "must be a sequence of tensors", repr(arrays), f"ms.{where}([x, y])")
    values = [as_value(a, where) for a in arrays]
    if not values:
        raise ArgumentError(where, "arrays", "must have at least one tensor", "[]", f"ms.{where}([x, y])")
    return values


def concat(arrays: Sequence[Any], /, *, axis: int | None = 0) -> Any:
    """Tensors joined along the existing dim `axis`; None flattens them first. Dtypes are promoted."""
    values = _several(arrays, "concat")
    if axis is None:
        values, axis = [reshape(v, (-1,)) if v._type.size else reshape(v, (0,)) for v in values], 0
    common = promote(*[v.dtype for v in values], where="concat")
    place = normalize_axis(axis, values[0].ndim, "concat")
    for position, v in enumerate(values):
        if v.ndim != values[0].ndim:
            raise ShapeError("concat", f"arrays[{position}]", "all must have the same number of dims",
                             f"{v.shape} with {values[0].shape}")
    if len(values) == 1 and values[0].dtype is common:
        return values[0]
    return bind(CONCAT, *[cast_to(v, common) for v in values], axis=place)


# ------------------------------------------------------------------------------------------------------ creation


def _iota_space(size: int, dtype: DType) -> Space:
    return Space((size,), lambda read, i: s.cast(i, dtype))


IOTA = register(Op("iota", lambda size, dtype: TensorType((size,), dtype),
                   lambda size, dtype: np.arange(size).astype(dtype.numpy), _iota_space,
                   NoGradient("it has no inputs"), "0, 1, … size - 1."))


def iota(size: int, dtype: DType = DEFAULT_INDEX) -> Any:
    """0, 1, … size - 1."""
    return bind(IOTA, size=as_shape(size, "iota")[0], dtype=as_dtype(dtype, "iota"))


# ---------------------------------------------------------------------------------------- composed of the above


def broadcast_to(x: Any, /, shape: Sequence[int]) -> Any:
    """`x` repeated to `shape`, by the broadcasting rules."""
    value = as_value(x, "broadcast_to")
    wanted = as_shape(shape, "broadcast_to")
    return value if wanted == value.shape else bind(BROADCAST, value, shape=wanted)


def broadcast_arrays(*arrays: Any) -> list[Any]:
    """All `arrays` broadcast to their common shape, dtypes unchanged."""
    values = [as_value(a, "broadcast_arrays") for a in arrays]
    shape = broadcast_shapes(*[v.shape for v in values], where="broadcast_arrays")
    return [broadcast(v, shape) for v in values]


def expand_dims(x: Any, /, axis: int | Sequence[int] = 0) -> Any:
    """`x` with new dims of extent 1 at `axis` of the result."""
    value = as_value(x, "expand_dims")
    count = len(axis) if isinstance(axis, Sequence) else 1
    axes = normalize_axes(axis, value.ndim + count, "expand_dims")
    extents = iter(value.shape)
    return reshape(value, tuple(1 if i in axes else next(extents) for i in range(value.ndim + count)))


def squeeze(x: Any, /, axis: int | Sequence[int] | None = None) -> Any:
    """`x` without the dims `axis`, which must have extent 1 (all such dims by default)."""
    value = as_value(x, "squeeze")
    ones = tuple(i for i, n in enumerate(value.shape) if n == 1)
    axes = ones if axis is None else normalize_axes(axis, value.ndim, "squeeze")
    if not all(value.shape[a] == 1 for a in axes):
        raise ShapeError("squeeze", "axis", "every squeezed dim must have extent 1", f"{value.shape} at {axes}",
                         "ms.squeeze(ms.ones((2, 1)), 1)")
    return reshape(value, tuple(n for i, n in enumerate(value.shape) if i not in axes))


def moveaxis(x: Any, source: int | Sequence[int], destination: int | Sequence[int], /) -> Any:
    """`x` with the dims `source` moved to the places `destination`, the others in order."""
    value = as_value(x, "moveaxis")
    a = normalize_axes(source, value.ndim, "moveaxis", "source")
    b = normalize_axes(destination, value.ndim, "moveaxis", "destination")
    if len(a) != len(b):
        raise AxisError("moveaxis", "destination", "must have as many axes as source", f"{source} to {destination}",
                        "ms.moveaxis(x, 0, -1)")
    order = [i for i in range(value.ndim) if i not in a]
    for place, dim in sorted(zip(b, a, strict=True)):
        order.insert(place, dim)
    return permute_dims(value, tuple(order))


def swapaxes(x: Any, axis1: int, axis2: int, /) -> Any:
    """`x` with two dims exchanged."""
    value = as_value(x, "swapaxes")
    a, b = normalize_axis(axis1, value.ndim, "swapaxes", "axis1"), normalize_axis(axis2, value.ndim, "swapaxes", "axis2")
    order = list(range(value.ndim))
    order[a], order[b] = b, a
    return permute_dims(value, tuple(order))


def matrix_transpose(x: Any, /) -> Any:
    """`x` with its last two dims exchanged."""
    value = as_value(x, "matrix_transpose")
    if value.ndim < 2:
        raise ShapeError("matrix_transpose", "x", "must have at least 2 dims", str(value.shape),
                         "ms.matrix_transpose(ms.ones((2, 3)))")
    return swapaxes(value, -1, -2)


def stack(arrays: Sequence[Any], /, *, axis: int = 0) -> Any:
    """Tensors of equal shape joined along a new dim `axis`."""
    values = _several(arrays, "stack")
    for position, v in enumerate(values):
        if v.shape != values[0].shape:
            raise ShapeError("stack", f"arrays[{position}]", "all must have the same shape",
                             f"{v.shape} with {values[0].shape}")
    place = normalize_axis(axis, values[0].ndim + 1, "stack")
    return concat([expand_dims(v, axis=place) for v in values], axis=place)


def unstack(x: Any, /, *, axis: int = 0) -> tuple[Any, ...]:
    """The slices of `x` along `axis`, without that dim."""
    value = as_value(x, "unstack")
    place = normalize_axis(axis, value.ndim, "unstack")
    return tuple(squeeze(slice_axis(value, place, i, i + 1), place) for i in range(value.shape[place]))


def split(x: Any, /, indices_or_sections: int | Sequence[int], *, axis: int = 0) -> tuple[Any, ...]:
    """`x` cut along `axis` into equal sections (int) or before each of the given indices."""
    value = as_value(x, "split")
    place = normalize_axis(axis, value.ndim, "split")
    n = value.shape[place]
    if isinstance(indices_or_sections, int):
        if indices_or_sections < 1 or n % indices_or_sections:
            raise ShapeError("split", "indices_or_sections", f"must divide the extent {n}", str(indices_or_sections),
                             "ms.split(ms.ones(6), 3)")
        cuts = [i * (n // indices_or_sections) for i in range(1, indices_or_sections)]
    else:
        cuts = [min(max(i, 0), n) for i in as_ints(indices_or_sections, "split", "indices_or_sections")]
    bounds = [0, *cuts, n]
    return tuple(slice_axis(value, place, a, max(a, b)) for a, b in itertools.pairwise(bounds))


def roll(x: Any, /, shift: int | Sequence[int], *, axis: int | Sequence[int] | None = None) -> Any:
    """`x` with elements moved `shift` places along `axis`, those that fall off coming in at the other end."""
    value = as_value(x, "roll")
    if axis is None:
        return reshape(roll(reshape(value, (value._type.size,)), shift, axis=0), value.shape)
    axes = axis if isinstance(axis, Sequence) else (axis,)
    shifts = shift if isinstance(shift, Sequence) else (shift,) * len(axes)
    if len(shifts) != len(axes):
        raise ArgumentError("roll", "shift", "must have one entry for each axis", f"shift={shift}, axis={axis}",
                            "ms.roll(x, (1, 2), axis=(0, 1))")
    for amount, one in zip(shifts, axes, strict=True):
        place = normalize_axis(one, value.ndim, "roll")
        n = value.shape[place]
        k = as_int(amount, "roll", "shift") % n if n else 0
        if k:
            value = concat([slice_axis(value, place, n - k, n), slice_axis(value, place, 0, n - k)], axis=place)
    return value


def repeat(x: Any, repeats: Any, /, *, axis: int | None = None) -> Any:
    """Each element of `x` several times in a row along `axis` (flattened by default).

    Args:
        repeats: how often: one int, or concrete integers, one for each place along `axis`.
    """
    value = as_value(x, "repeat")
    if axis is None:
        value, axis = reshape(value, (value._type.size,)), 0
    place = normalize_axis(axis, value.ndim, "repeat")
    n = value.shape[place]
    counts = np.asarray(as_value(repeats, "repeat"))
    if counts.dtype.kind not in "iu" or counts.ndim > 1 or (counts < 0).any() or counts.size not in (1, n):
        raise ArgumentError("repeat", "repeats", f"must be an int ≥ 0, or {n} of them in one dim", repr(repeats),
                            "ms.repeat(x, 2)")
    if counts.size != 1:
        index = as_value(np.repeat(np.arange(n), counts), "repeat")
        return moveaxis(bind(OPS["gather"], value, index, axes=(place,)), 0, place)
    count = int(counts.reshape(()))
    wide = broadcast(expand_dims(value, axis=place + 1), (*value.shape[: place + 1], count, *value.shape[place + 1:]))
    return reshape(wide, (*value.shape[:place], n * count, *value.shape[place + 1:]))


def tile(x: Any, repetitions: int | Sequence[int], /) -> Any:
    """`x` laid side by side `repetitions` times along each dim (from the last backwards)."""
    value = as_value(x, "tile")
    counts = as_ints(repetitions, "tile", "repetitions")
    if any(c < 0 for c in counts):
        raise ArgumentError("tile", "repetitions", "must be ≥ 0", str(repetitions), "ms.tile(x, (2, 1))")
    ndim = max(len(counts), value.ndim)
    counts = (1,) * (ndim - len(counts)) + counts
    shape = (1,) * (ndim - value.ndim) + value.shape
    value = reshape(value, tuple(k for n in shape for k in (1, n)))
    value = broadcast(value, tuple(k for c, n in zip(counts, shape, strict=True) for k in (c, n)))
    return reshape(value, tuple(c * n for c, n in zip(counts, shape, strict=True)))

