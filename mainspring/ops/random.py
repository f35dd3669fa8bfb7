"""Random numbers with explicit keys: the same bits eager or compiled, in any split of the shape, on any mesh.

Counter-based: element i is Threefry-2x32 with 20 rounds of (key, i) and depends on nothing else (Salmon, Moraes, Dror and
Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011). A key is a tensor uint32[2]; using one twice gives the same
numbers twice, so `split` it, or `fold_in` a step number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mainspring.base.errors import ArgumentError, DTypeError, ShapeError
from mainspring.interpret.eager import as_value
from mainspring.ir import scalar as s
from mainspring.ir.bind import Value, bind
from mainspring.ir.op import NoGradient, Op, Space, register
from mainspring.ops.common import broadcast, cast_to, is_python_scalar, require_kind
from mainspring.ops.elementwise import clip, cos, erf, erfinv, less, log, minimum, nextafter, remainder, sqrt
from mainspring.ops.indexing import take
from mainspring.ops.movement import ravel, stack
from mainspring.ops.reduce import argmax
from mainspring.ops.sorting import argsort
from mainspring.types import dtype as dt
from mainspring.types.dtype import DEFAULT_FLOAT, DEFAULT_INDEX, DType, as_dtype, float32, float64, uint32, uint64
from mainspring.types.shape import Shape, TensorType, as_int, as_shape, broadcast_shapes, normalize_axis

# ------------------------------------------------------------------------------------------------- the generator

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
NUMBERS, SPLIT, FOLD = 0, 1, 2  # streams: what the counters of one key are used for never overlaps
_WIDTHS = {8: dt.uint8, 16: dt.uint16, 32: uint32, 64: uint64}


def threefry(
    key: tuple[Any, Any], counter: tuple[Any, Any], constant: Callable[[int], Any], rotate: Callable[[Any, int], Any]
) -> tuple[Any, Any]:
    """Threefry-2x32-20 of uint32 words, which may be NumPy arrays or scalar expressions: `constant` makes a word."""
    schedule = (key[0], key[1], key[0] ^ key[1] ^ constant(PARITY))
    x, y = counter[0] + schedule[0], counter[1] + schedule[1]
    for block in range(5):
        for amount in ROTATIONS[block % 2]:
            x = x + y
            y = rotate(y, amount) ^ x
        x = x + schedule[(block + 1) % 3]
        y = y + schedule[(block + 2) % 3] + constant(block + 1)
    return x, y


def _rotate_array(x: np.ndarray, by: int) -> np.ndarray:
    return (x << np.uint32(by)) | (x >> np.uint32(32 - by))


def _rotate_expr(x: s.Expr, by: int) -> s.Expr:
    return s.apply("or", s.apply("shl", x, by), s.apply("shr", x, 32 - by))


def _bits_reference(key: np.ndarray, shape: Shape, bits: int, stream: int) -> np.ndarray:
    index = np.arange(math.prod(shape), dtype=np.uint64).reshape(shape)
    high = (index >> np.uint64(32)).astype(np.uint32) | np.uint32(stream << 30)
    x, y = threefry((key[0], key[1]), (high, index.astype(np.uint32)), np.uint32, _rotate_array)
    if bits == 64:
        return (x.astype(np.uint64) << np.uint64(32)) | y.astype(np.uint64)
    return (x ^ y).astype(_WIDTHS[bits].numpy)


def _bits_space(key: TensorType, shape: Shape, bits: int, stream: int) -> Space:
    def word(value: int) -> s.Expr:
        return s.const(value, uint32)

    def element(read: Callable[..., Any], *dims: Any) -> Any:
        index = ravel(dims, shape)
        high = (
            word(stream << 30)
            if math.prod(shape) <= 1 << 32
            else s.apply("or", s.cast(index // (1 << 32), uint32), stream << 30)
        )
        x, y = threefry((read(0, 0), read(0, 1)), (high, s.cast(index, uint32)), word, _rotate_expr)
        if bits == 64:
            return s.apply("or", s.apply("shl", s.cast(x, uint64), 32), s.cast(y, uint64))
        return s.cast(x ^ y, _WIDTHS[bits])

    return Space(shape, element)


def _bits_infer(key: TensorType, shape: Shape, bits: int, stream: int) -> TensorType:
    if key != TensorType((2,), uint32):
        raise DTypeError("random", "key", "must be a key, uint32[2]", str(key), "ms.random.normal(ms.random.key(0), (2, 3))")
    if bits not in _WIDTHS:
        raise ArgumentError("random", "bits", "must be 8, 16, 32 or 64", str(bits), "ms.random.bits(key, (2, 3), 32)")
    return TensorType(shape, _WIDTHS[bits])


RANDOM_BITS = register(
    Op(
        "random_bits",
        _bits_infer,
        _bits_reference,
        _bits_space,
        NoGradient("bits are discrete and do not depend on a float"),
        "Unsigned integers of `bits` random bits: element i is Threefry of the key and the counter (`stream`, i).",
    )
)


def _draw(key: Any, shape: Shape, bits: int, stream: int = NUMBERS) -> Any:
    return bind(RANDOM_BITS, as_value(key, "random"), shape=shape, bits=bits, stream=stream)


# ---------------------------------------------------------------------------------------------------------- keys


def key(seed: Any) -> Any:
    """The key (uint32[2]) of the integer `seed`, an int or an integer scalar; modulo 2⁶⁴."""
    if isinstance(seed, int):
        return as_value(np.array([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32))
    return _words(seed, "key")


def _words(x: Any, where: str) -> Value:
    """An integer scalar as its high and low word, uint32[2]."""
    value = as_value(x, where)
    require_kind(where, "data", value.dtype, "integer")
    if value.shape != ():
        raise ShapeError(where, "data", "must be one integer", str(value._type), f"ms.random.{where}(…)")
    wide: Any = cast_to(value, uint64)
    return stack([cast_to(wide >> 32, uint32), cast_to(wide, uint32)])


def split(key: Any, n: int = 2) -> Any:
    """`n` new keys, uint32[n, 2], independent of each other and of what `key` itself gives."""
    return _draw(key, (as_int(n, "split", "n"), 2), 32, SPLIT)


def fold_in(key: Any, data: Any) -> Any:
    """A new key from `key` and the integer scalar `data` (a step, a layer's number), which may be traced."""
    number = (
        as_value(np.array([data >> 32 & 0xFFFFFFFF, data & 0xFFFFFFFF], np.uint32))
        if isinstance(data, int)
        else _words(data, "fold_in")
    )
    return _draw(_draw(key, (2,), 32, FOLD) ^ number, (2,), 32, FOLD)


# ------------------------------------------------------------------------------------------------- distributions


def _float_dtype(dtype: Any, where: str) -> DType:
    found = DEFAULT_FLOAT if dtype is None else as_dtype(dtype, where)
    require_kind(where, "dtype", found, "float")
    return found


def bits(key: Any, shape: int | Sequence[int] = (), width: int = 32) -> Any:
    """Random unsigned integers of `width` (8, 16, 32 or 64) bits, all values equally likely."""
    return _draw(key, as_shape(shape, "bits"), width)


_SIGNIFICANT = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}  # bits of a float's significand


def _unit(key: Any, shape: Shape, dtype: DType) -> Any:
    """Multiples of the spacing below 1 of `dtype`, in [0, 1): each is exact."""
    width, digits = (64 if dtype is float64 else 32), _SIGNIFICANT[dtype.name]
    return cast_to(_draw(key, shape, width) >> (width - digits), dtype) * 2.0**-digits


def _open_unit(key: Any, shape: Shape, dtype: DType) -> Any:
    """As `_unit`, but between these multiples: in (0, 1), so that a logarithm is finite."""
    width, digits = (64 if dtype is float64 else 32), _SIGNIFICANT[dtype.name] - 1
    return (cast_to(_draw(key, shape, width) >> (width - digits), dtype) + 0.5) * 2.0**-digits


def uniform(key: Any, shape: int | Sequence[int] = (), dtype: Any = None, low: Any = 0.0, high: Any = 1.0) -> Any:
    """Uniform in [low, high); `low` and `high` are numbers, or tensors that broadcast to `shape`."""
    kind, extents = _float_dtype(dtype, "uniform"), as_shape(shape, "uniform")
    unit = _unit(key, extents, kind)
    if is_python_scalar(low) and is_python_scalar(high):
        if not low < high:
            raise ArgumentError(
                "uniform",
                "high",
                "must be greater than low",
                f"low={low}, high={high}",
                "ms.random.uniform(key, (3,), low=-1, high=1)",
            )
        if (low, high) == (0, 1):
            return unit
    a, b = (_bound(x, extents, kind, "uniform") for x in (low, high))
    return minimum(unit * (b - a) + a, nextafter(b, a))  # rounding may reach `high`


def _bound(x: Any, shape: Shape, dtype: DType, where: str) -> Any:
    value = cast_to(as_value(x, where), dtype)
    broadcast_shapes(value.shape, shape, where=where)
    return broadcast(value, shape)


def normal(key: Any, shape: int | Sequence[int] = (), dtype: Any = None) -> Any:
    """Standard normal, by the Box-Muller transform of the two words of one counter (float64: of two counters)."""
    kind, extents = _float_dtype(dtype, "normal"), as_shape(shape, "normal")
    if kind is float64:
        pair = _draw(key, (2, *extents), 64)
        first, second, digits = cast_to(pair[0], float64), cast_to(pair[1], float64), 64
    else:
        word = _draw(key, extents, 64)
        first, second, digits = cast_to(cast_to(word >> 32, uint32), float32), cast_to(cast_to(word, uint32), float32), 32
    radius = sqrt(log((first + 0.5) * 2.0**-digits) * -2.0)
    return cast_to(radius * cos(second * (2.0 * math.pi * 2.0**-digits)), kind)


def bernoulli(key: Any, p: Any = 0.5, shape: int | Sequence[int] | None = None) -> Any:
    """True with probability `p`, a number or a tensor that broadcasts to `shape` (its own shape by default)."""
    chance = cast_to(as_value(p, "bernoulli"), DEFAULT_FLOAT) if is_python_scalar(p) else as_value(p, "bernoulli")
    require_kind("bernoulli", "p", chance.dtype, "float")
    extents = chance.shape if shape is None else as_shape(shape, "bernoulli")
    return less(_unit(key, extents, chance.dtype), _bound(chance, extents, chance.dtype, "bernoulli"))


def randint(key: Any, shape: int | Sequence[int], low: Any, high: Any, dtype: Any = DEFAULT_INDEX) -> Any:
    """Integers in [low, high), by the remainder of 64 random bits: no value is favoured by more than (high - low) / 2⁶⁴."""
    kind, extents = as_dtype(dtype, "randint"), as_shape(shape, "randint")
    require_kind("randint", "dtype", kind, "integer")
    if isinstance(low, int) and isinstance(high, int):
        info = np.iinfo(kind.numpy)
        if not info.min <= low < high <= info.max + 1:
            raise ArgumentError(
                "randint",
                "high",
                f"low < high must hold, both in the range of {kind.name}",
                f"low={low}, high={high}",
                "ms.random.randint(key, (3,), 0, 10)",
            )
    first, last = (_modular(x, extents) for x in (low, high))
    drawn = _draw(key, extents, 64)
    whole = isinstance(low, int) and isinstance(high, int) and high - low == 1 << 64
    return cast_to(first + (drawn if whole else remainder(drawn, last - first)), kind)


def _modular(x: Any, shape: Shape) -> Any:
    """An integer modulo 2⁶⁴, broadcast to `shape`."""
    return _bound(np.uint64(x % (1 << 64)) if isinstance(x, int) else x, shape, uint64, "randint")


def gumbel(key: Any, shape: int | Sequence[int] = (), dtype: Any = None) -> Any:
    """Standard Gumbel: -log(-log u)."""
    return -log(-log(_open_unit(key, as_shape(shape, "gumbel"), _float_dtype(dtype, "gumbel"))))


def exponential(key: Any, shape: int | Sequence[int] = (), dtype: Any = None) -> Any:
    """Exponential with mean 1: -log u."""
    return -log(_open_unit(key, as_shape(shape, "exponential"), _float_dtype(dtype, "exponential")))


def truncated_normal(key: Any, lower: Any = -2.0, upper: Any = 2.0, shape: int | Sequence[int] = (), dtype: Any = None) -> Any:
    """Standard normal restricted to [lower, upper], by inversion: √2 · erfinv of a uniform number."""
    kind, extents = _float_dtype(dtype, "truncated_normal"), as_shape(shape, "truncated_normal")
    wide = float64 if kind is float64 else float32
    a, b = (_bound(x, extents, wide, "truncated_normal") for x in (lower, upper))
    from_, to = erf(a * math.sqrt(0.5)), erf(b * math.sqrt(0.5))
    drawn = erfinv(from_ + (to - from_) * _open_unit(key, extents, wide)) * math.sqrt(2.0)
    return cast_to(clip(drawn, a, b), kind)


def categorical(key: Any, logits: Any, axis: int = -1, shape: int | Sequence[int] | None = None) -> Any:
    """Indices (int64) drawn with probabilities softmax(logits) along `axis`, by the Gumbel-max trick.

    `shape` is that of the result: any leading dims, then the dims of `logits` without `axis` (the default).
    """
    scores = as_value(logits, "categorical")
    require_kind("categorical", "logits", scores.dtype, "float")
    place = normalize_axis(axis, scores.ndim, "categorical")
    batch = scores.shape[:place] + scores.shape[place + 1 :]
    extents = batch if shape is None else as_shape(shape, "categorical")
    lead = len(extents) - len(batch)
    if lead < 0 or extents[lead:] != batch:
        raise ShapeError(
            "categorical",
            "shape",
            f"must end with the shape of logits without axis, {batch}",
            str(extents),
            "ms.random.categorical(key, logits, shape=(10, *logits.shape[:-1]))",
        )
    wide = float64 if scores.dtype is float64 else float32
    noise = gumbel(key, (*extents[:lead], *scores.shape), wide)
    return argmax(noise + cast_to(scores, wide), axis=lead + place)


def permutation(key: Any, x: Any, axis: int = 0) -> Any:
    """The integers below `x` in random order, as int64; or a tensor `x` with its slices along `axis` in random order."""
    if isinstance(x, int):
        return argsort(_draw(key, (as_int(x, "permutation", "x"),), 64))
    value = as_value(x, "permutation")
    place = normalize_axis(axis, value.ndim, "permutation")
    return take(value, argsort(_draw(key, (value.shape[place],), 64)), axis=place)
