"""The pooling family: sums and greatest elements over windows.

Every op here has the static parameters of one geometry, an entry for each dim of `x`: `window` extents, `stride`,
`padding` (low, high) and `dilation` (distance between taps). Window o covers the elements o·stride - low + k·dilation for
its taps k; taps outside `x` do not count. The gradient of `window_max` goes to the first greatest element: `window_first`
finds its tap, `window_spread` sends the cotangent there, `window_pick` (its transpose) fetches from there; so the family
is closed under differentiation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mainspring.base.errors import ArgumentError, ShapeError
from mainspring.interpret.eager import as_value
from mainspring.ir import scalar as s
from mainspring.ir.bind import Value, bind
from mainspring.ir.op import NoGradient, Op, Space, register
from mainspring.ops.common import broadcast, cast_to, require_kind, widened
from mainspring.ops.composed import as_float
from mainspring.ops.contract import accumulator, tensordot
from mainspring.ops.conv import Pairs, conv_padding
from mainspring.ops.elementwise import negative
from mainspring.ops.movement import PAD, moveaxis, reshape
from mainspring.ops.reduce import max as reduce_max
from mainspring.ops.reduce import mean as reduce_mean
from mainspring.types.dtype import DType, as_dtype, int32
from mainspring.types.shape import Shape, TensorType, as_int, element_strides


@dataclass(frozen=True)
class Geometry:
    """Where windows lie in a tensor of shape `shape`."""

    shape: Shape
    window: Shape
    stride: Shape
    padding: Pairs
    dilation: Shape

    def __post_init__(self) -> None:
        if len({len(self.shape), len(self.window), len(self.stride), len(self.padding), len(self.dilation)}) != 1:
            raise ShapeError("window", "window", "window, stride, padding and dilation have an entry for each dim", str(self))
        if min((*self.window, *self.stride, *self.dilation), default=1) < 1 or min(sum(self.padding, ()), default=0) < 0:
            raise ArgumentError("window", "window", "window, stride and dilation must be ≥ 1, padding ≥ 0", str(self))

    @property
    def places(self) -> Shape:
        """Number of windows along each dim."""
        return tuple(max(0, (n + low + high - self.reach(i)) // self.stride[i] + 1)
                     for i, (n, (low, high)) in enumerate(zip(self.shape, self.padding, strict=True)))

    @property
    def wide(self) -> tuple[int, ...]:
        """The dims along which a window has more than one tap."""
        return tuple(i for i, k in enumerate(self.window) if k > 1)

    @property
    def taps(self) -> Shape:
        """Extents of the window along the dims `wide`: the reduced dims of the iteration space."""
        return tuple(self.window[i] for i in self.wide)

    def reach(self, i: int) -> int:
        """Elements of dim i from the first tap of a window to its last."""
        return (self.window[i] - 1) * self.dilation[i] + 1

    def tap(self, taps: Sequence[Any]) -> Any:
        """The row-major number of a tap."""
        total = s.const(0, s.int64)
        for k, step in zip(taps, element_strides(self.taps), strict=True):
            total = total + k * step
        return total

    def element(self, place: Sequence[Any], taps: Sequence[Any]) -> tuple[list[Any], Any]:
        """The index in `x` of a tap of the window at `place`, and whether it lies inside."""
        offset = dict(zip(self.wide, taps, strict=True))
        index, guards = [], []
        for i, n in enumerate(self.shape):
            at = place[i] * self.stride[i] + offset.get(i, 0) * self.dilation[i] - self.padding[i][0]
            guards += [s.compare("le", 0, at), s.compare("lt", at, n)]
            index.append(at)
        return index, s.both(*guards)

    @property
    def few_windows(self) -> tuple[bool, ...]:
        """For each dim, whether an element lies in no more windows than a window has taps."""
        return tuple(1 + (self.reach(i) - 1) // st <= k for i, (st, k) in enumerate(zip(self.stride, self.window, strict=True)))

    @property
    def covers(self) -> Shape:
        """For each dim, of how many (window, tap) pairs some may meet in one element: windows around it, or taps."""
        return tuple(1 + (self.reach(i) - 1) // self.stride[i] if few else self.window[i]
                     for i, few in enumerate(self.few_windows))

    def cover(self, index: Sequence[Any], numbers: Sequence[Any]) -> tuple[list[Any], Any, Any]:
        """Of cover `numbers` (in the extents `covers` > 1) of the element at `index`: window, number of the tap, if there."""
        left, place, taps, guards = iter(numbers), [], [], []
        for i, m in enumerate(self.places):
            number = next(left) if self.covers[i] > 1 else s.const(0, s.int64)
            at = index[i] + self.padding[i][0]
            if self.few_windows[i]:
                q = at // self.stride[i] - number
                offset = at % self.stride[i] + number * self.stride[i]
                tap, exact = offset // self.dilation[i], self.dilation[i] == 1
                guards += [s.compare("le", 0, q), s.compare("lt", q, m), s.compare("lt", offset, self.reach(i))]
                guards += [] if exact else [s.compare("eq", offset % self.dilation[i], 0)]
            else:
                tap, first = number, at - number * self.dilation[i]
                q, exact = first // self.stride[i], self.stride[i] == 1
                guards += [s.compare("le", 0, first), s.compare("lt", q, m)]
                guards += [] if exact else [s.compare("eq", first % self.stride[i], 0)]
            place.append(q)
            taps.append(tap)
        return place, self.tap([taps[i] for i in self.wide]), s.both(*guards)

    def view(self, x: np.ndarray, fill: Any) -> np.ndarray:
        """Dims `places` and then one of all taps; what lies outside `x` is `fill`."""
        reaches = [(m - 1) * st + self.reach(i) for i, (m, st) in enumerate(zip(self.places, self.stride, strict=True))]
        extents = [max(n + sum(p), r) for n, p, r in zip(x.shape, self.padding, reaches, strict=True)]
        canvas = np.full(extents, fill, x.dtype)
        canvas[tuple(slice(p[0], p[0] + n) for n, p in zip(x.shape, self.padding, strict=True))] = x
        strides = (*[a * b for a, b in zip(canvas.strides, self.stride, strict=True)],
                   *[canvas.strides[i] * self.dilation[i] for i in self.wide])
        windows = np.lib.stride_tricks.as_strided(canvas, (*self.places, *self.taps), strides, writeable=False)
        return windows.reshape((*self.places, math.prod(self.taps)))


def _geometry(x: TensorType | np.ndarray, static: dict[str, Any]) -> Geometry:
    return Geometry(tuple(x.shape), **{k: static[k] for k in ("window", "stride", "padding", "dilation")})


def _least(dtype: DType) -> Any:
    return -math.inf if dtype.kind == "float" else int(np.iinfo(dtype.numpy).min)


def _pooled_type(name: str) -> Callable[..., TensorType]:
    def infer(x: TensorType, **static: Any) -> TensorType:
        require_kind(name, "x", x.dtype, "numeric")
        return TensorType(_geometry(x, static).places, x.dtype)

    return infer


def _window_space(combine: str, fill: Callable[[DType], Any], body: Callable[[Any], Any]) -> Callable[..., Space]:
    def rule(x: TensorType, **static: Any) -> Space:
        g = _geometry(x, static)
        n = len(g.shape)

        def element(read: Callable[..., Any], *index: Any) -> Any:
            at, inside = g.element(index[:n], index[n:])
            value = body(read(0, *at, guard=inside, fill=fill(x.dtype)))
            return value if g.taps else s.cast(value, x.dtype)

        return Space(g.places, element, g.taps, combine if g.taps else "")

    return rule


def _sum_vjp(ct: Value, out: Value, x: Value, **static: Any) -> tuple[Any]:
    """Windows of stride 1 over the cotangent spread by `stride`; a window of ones is its own mirror image."""
    g = _geometry(x._type, static)

    def thunk() -> Value:
        low = tuple(g.reach(i) - 1 - g.padding[i][0] for i in range(x.ndim))
        high = tuple(n + g.reach(i) - 1 - low[i] - max(0, (m - 1) * st + 1)
                     for i, (n, m, st) in enumerate(zip(g.shape, g.places, g.stride, strict=True)))
        spread = bind(PAD, ct, low=low, high=high, interior=tuple(st - 1 for st in g.stride), value=0.0)
        return bind(WINDOW_SUM, spread, window=g.window, stride=(1,) * x.ndim, padding=((0, 0),) * x.ndim, dilation=g.dilation)

    return (thunk,)


WINDOW_SUM = register(Op(
    "window_sum", _pooled_type("window_sum"),
    widened(lambda x, **static: _geometry(x, static).view(x, 0).sum(-1, dtype=x.dtype)),
    _window_space("sum", lambda dtype: 0, lambda e: s.cast(e, accumulator(e.dtype))), _sum_vjp,
    "The sum of each window of `x`.",
))


def _first_infer(x: TensorType, greatest: TensorType, **static: Any) -> TensorType:
    return TensorType(_geometry(x, static).places, int32)


def _first_reference(x: np.ndarray, greatest: np.ndarray, **static: Any) -> np.ndarray:
    g = _geometry(x, static)
    windows, inside = g.view(x, 0), g.view(np.ones(x.shape, bool), False)
    hit = inside & ((windows == greatest[..., None]) | (windows != windows))
    return np.where(hit.any(-1), hit.argmax(-1), math.prod(g.taps)).astype(np.int32)


def _first_space(x: TensorType, greatest: TensorType, **static: Any) -> Space:
    g = _geometry(x, static)
    n = len(g.shape)

    def element(read: Callable[..., Any], *index: Any) -> Any:
        place, taps = index[:n], index[n:]
        at, inside = g.element(place, taps)
        e = read(0, *at, guard=inside, fill=0)
        hit = s.both(inside, s.apply("or", s.apply("eq", e, read(1, *place)), s.apply("ne", e, e)))
        return s.where(hit, s.cast(g.tap(taps), int32), s.const(math.prod(g.taps), int32))

    return Space(g.places, element, g.taps, "min" if g.taps else "")


WINDOW_FIRST = register(Op(
    "window_first", _first_infer, _first_reference, _first_space, NoGradient("the result is an index"),
    "The number of the first tap of each window of `x` that equals `greatest` (or is NaN); the number of taps for none.",
))


def _max_vjp(ct: Value, out: Value, x: Value, **static: Any) -> tuple[Any]:
    return (lambda: bind(WINDOW_SPREAD, ct, bind(WINDOW_FIRST, x, out, **static), shape=x.shape, **static),)


WINDOW_MAX = register(Op(
    "window_max", _pooled_type("window_max"),
    widened(lambda x, **static: _geometry(x, static).view(x, _least(as_dtype(x.dtype))).max(-1)),
    _window_space("max", _least, lambda e: e), _max_vjp,
    "The greatest element of each window of `x`; the least value of the dtype where all taps are outside.",
))


def _spread_infer(ct: TensorType, tap: TensorType, shape: Shape, **static: Any) -> TensorType:
    g = Geometry(shape, **static)
    if not ct.shape == tap.shape == g.places:
        raise ShapeError("window_spread", "ct", f"must have the shape {g.places} of the windows", f"{ct}, {tap}")
    return TensorType(shape, ct.dtype)


def _spread_reference(ct: np.ndarray, tap: np.ndarray, shape: Shape, **static: Any) -> np.ndarray:
    g = Geometry(shape, **static)
    numbers = np.arange(math.prod(shape)).reshape(shape)
    outside = np.zeros((*g.places, 1), numbers.dtype) - 1
    chosen = np.take_along_axis(np.concatenate([g.view(numbers, -1), outside], -1), tap[..., None], -1)[..., 0]
    result = np.zeros(math.prod(shape), ct.dtype)
    np.add.at(result, chosen[chosen >= 0], ct[chosen >= 0])
    return result.reshape(shape)


def _spread_space(ct: TensorType, tap: TensorType, shape: Shape, **static: Any) -> Space:
    g = Geometry(shape, **static)
    reduced = tuple(n for n in g.covers if n > 1)
    n, wide = len(shape), accumulator(ct.dtype) if reduced else ct.dtype

    def element(read: Callable[..., Any], *index: Any) -> Any:
        place, number, some = g.cover(index[:n], index[n:])
        chosen = s.both(some, s.compare("eq", read(1, *place, guard=some, fill=-1), s.cast(number, tap.dtype)))
        return s.where(chosen, s.cast(read(0, *place, guard=some, fill=0), wide), s.const(0, wide))

    return Space(shape, element, reduced, "sum" if reduced else "")


def _spread_vjp(ct: Value, out: Value, spread: Value, tap: Value, shape: Shape, **static: Any) -> tuple[Any, Any]:
    return (lambda: bind(WINDOW_PICK, ct, tap, **static)), None


WINDOW_SPREAD = register(Op("window_spread", _spread_infer, widened(_spread_reference), _spread_space, _spread_vjp,
                            "Zeros of `shape` with each element of `ct` added at the tap of its window that `tap` numbers."))


def _pick_infer(x: TensorType, tap: TensorType, **static: Any) -> TensorType:
    return TensorType(_geometry(x, static).places, x.dtype)


def _pick_reference(x: np.ndarray, tap: np.ndarray, **static: Any) -> np.ndarray:
    windows = _geometry(x, static).view(x, 0)
    padded = np.concatenate([windows, np.zeros((*windows.shape[:-1], 1), x.dtype)], -1)
    return np.take_along_axis(padded, tap[..., None], -1)[..., 0]


def _pick_space(x: TensorType, tap: TensorType, **static: Any) -> Space:
    g = _geometry(x, static)
    n, wide = len(g.shape), accumulator(x.dtype) if g.taps else x.dtype

    def element(read: Callable[..., Any], *index: Any) -> Any:
        place, taps = index[:n], index[n:]
        at, inside = g.element(place, taps)
        chosen = s.both(inside, s.compare("eq", read(1, *place), s.cast(g.tap(taps), tap.dtype)))
        return s.where(chosen, s.cast(read(0, *at, guard=inside, fill=0), wide), s.const(0, wide))

    return Space(g.places, element, g.taps, "sum" if g.taps else "")


def _pick_vjp(ct: Value, out: Value, x: Value, tap: Value, **static: Any) -> tuple[Any, Any]:
    return (lambda: bind(WINDOW_SPREAD, ct, tap, shape=x.shape, **static)), None


WINDOW_PICK = register(Op("window_pick", _pick_infer, _pick_reference, _pick_space, _pick_vjp,
                          "The element of each window of `x` at the tap that `tap` numbers; 0 where that is outside."))

# ------------------------------------------------------------------------------------------------ public functions

Padding = str | int | Sequence[Any]


def _pool_geometry(name: str, x: Any, window: Any, stride: Any, padding: Padding, dilation: Any) -> Geometry:
    d = x.ndim - 2
    example = f"ms.{name}(ms.ones((1, 8, 8, 3)), 2)"
    if not 1 <= d <= 3:
        raise ShapeError(name, "x", "must be (batch, 1 to 3 spatial dims, channels)", str(x.shape), example)

    def entries(value: Any, argument: str) -> Shape:
        result = tuple(as_int(v, name, argument) for v in (value if isinstance(value, Sequence) else (value,) * d))
        if len(result) != d or min(result) < 1:
            raise ArgumentError(name, argument, f"must be an int ≥ 1, or {d} of them", str(value), example)
        return result

    windows = entries(window, "window")
    strides = windows if stride is None else entries(stride, "stride")
    spread = entries(dilation, "dilation")
    pads = conv_padding(padding, x.shape[1:-1], windows, strides, spread, name)
    return Geometry(x.shape, (1, *windows, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0)), (1, *spread, 1))


def _bind(op: Op, x: Value, g: Geometry) -> Any:
    return bind(op, x, window=g.window, stride=g.stride, padding=g.padding, dilation=g.dilation)


def max_pool(x: Any, /, window: int | Sequence[int], *, stride: int | Sequence[int] | None = None, padding: Padding = "valid",
             dilation: int | Sequence[int] = 1) -> Any:
    """The greatest element of each window; its gradient goes to the first such element.

    Args:
        x: (batch, 1 to 3 spatial dims, channels). window: extents of the window, an int or one for each spatial dim.
        stride: step of the window, `window` by default. dilation: distance between its taps.
        padding: "valid", "same", an int, or a (low, high) pair for each spatial dim; padding never wins.

    Returns: (batch, *places, channels).
    """
    value = as_value(x, "max_pool")
    return _bind(WINDOW_MAX, value, _pool_geometry("max_pool", value, window, stride, padding, dilation))


def min_pool(x: Any, /, window: int | Sequence[int], *, stride: int | Sequence[int] | None = None, padding: Padding = "valid",
             dilation: int | Sequence[int] = 1) -> Any:
    """The least element of each window, as -max_pool(-x); arguments as for `max_pool`."""
    return negative(max_pool(negative(as_value(x, "min_pool")), window, stride=stride, padding=padding, dilation=dilation))


def avg_pool(x: Any, /, window: int | Sequence[int], *, stride: int | Sequence[int] | None = None, padding: Padding = "valid",
             dilation: int | Sequence[int] = 1, count_include_pad: bool = True) -> Any:
    """The mean of each window; arguments as for `max_pool`.

    Args:
        count_include_pad: padding counts as zeros; otherwise the mean is over the elements inside only.
    """
    value = as_float(x, "avg_pool")
    g = _pool_geometry("avg_pool", value, window, stride, padding, dilation)
    total = _bind(WINDOW_SUM, value, g)
    if count_include_pad or not any(p for pair in g.padding for p in pair):
        return total * (1.0 / math.prod(g.window))
    ones = Geometry((1, *value.shape[1:-1], 1), g.window, g.stride, g.padding, g.dilation)
    return total / _bind(WINDOW_SUM, broadcast(cast_to(as_value(1.0), value.dtype), ones.shape), ones)


def _spatial(name: str, x: Value) -> tuple[int, ...]:
    if x.ndim < 3:
        raise ShapeError(name, "x", "must be (batch, *spatial, channels)", str(x.shape), f"ms.{name}(ms.ones((1, 8, 8, 3)))")
    return tuple(range(1, x.ndim - 1))


def global_max_pool(x: Any, /, *, keepdims: bool = False) -> Any:
    """The greatest element over all spatial dims: (batch, *spatial, channels) to (batch, channels)."""
    value = as_value(x, "global_max_pool")
    return reduce_max(value, axis=_spatial("global_max_pool", value), keepdims=keepdims)


def global_avg_pool(x: Any, /, *, keepdims: bool = False) -> Any:
    """The mean over all spatial dims: (batch, *spatial, channels) to (batch, channels)."""
    value = as_float(x, "global_avg_pool")
    return reduce_mean(value, axis=_spatial("global_avg_pool", value), keepdims=keepdims)


def adaptive_avg_pool(x: Any, /, places: int | Sequence[int]) -> Any:
    """Means over `places` blocks along each spatial dim: (batch, *spatial, channels) to (batch, *places, channels).

    Block i of m over an extent n holds the elements ⌊i n / m⌋ to ⌈(i + 1) n / m⌉ (exclusive), as in PyTorch: equal blocks where
    m divides n, overlapping ones elsewhere.
    """
    value = as_float(x, "adaptive_avg_pool")
    spatial = _spatial("adaptive_avg_pool", value)
    wanted = tuple(places) if isinstance(places, Sequence) else (places,) * len(spatial)
    if len(wanted) != len(spatial) or min(wanted) < 1:
        raise ShapeError("adaptive_avg_pool", "places", f"must be an int ≥ 1, or {len(spatial)} of them", str(places),
                         "ms.adaptive_avg_pool(ms.ones((1, 8, 8, 3)), 4)")
    if any(value.shape[i] % m for i, m in zip(spatial, wanted, strict=True)):
        for i, m in zip(spatial, wanted, strict=True):
            value = moveaxis(tensordot(value, _block_means(value.shape[i], m, value.dtype), axes=((i,), (0,))), -1, i)
        return value
    blocks = [k for i, m in zip(spatial, wanted, strict=True) for k in (m, value.shape[i] // m)]
    parted = reshape(value, (value.shape[0], *blocks, value.shape[-1]))
    return reduce_mean(parted, axis=tuple(2 + 2 * i for i in range(len(spatial))))


def _block_means(extent: int, blocks: int, dtype: DType) -> Value:
    """The matrix (extent, blocks) whose product with a row gives the means of its blocks."""
    weights = np.zeros((extent, blocks))
    for i in range(blocks):
        start, stop = i * extent // blocks, -(-(i + 1) * extent // blocks)
        weights[start:stop, i] = 1.0 / (stop - start)
    return cast_to(as_value(weights), dtype)
