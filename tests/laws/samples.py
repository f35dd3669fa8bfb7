"""Sample inputs of every op of the registry: the one table the laws walk (`samples`, `all_samples` of draw.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np

from mainspring.interpret.staged import trace
from mainspring.ir.graph import Graph
from mainspring.ir.op import OPS
from mainspring.types.dtype import ALL, DType, as_dtype, bool_, float32, float64, int8, int32, uint8
from mainspring.types.shape import TensorType
from tests.laws.draw import MAKERS, STRUCTURAL, Draw, Sample, all_samples, entry, samples, shapes

__all__ = ["MAKERS", "STRUCTURAL", "Sample", "all_samples", "samples"]

# ---------------------------------------------------------------------------------------------------- elementwise

#: op -> for each operand, the interval where it is smooth
DOMAINS: dict[str, tuple[tuple[float, float], ...]] = {
    **dict.fromkeys(("sqrt", "rsqrt", "log", "log2", "log10", "reciprocal", "lgamma", "digamma"), ((0.2, 4.0),)),
    **dict.fromkeys(("asin", "acos", "atanh", "erfinv"), ((-0.9, 0.9),)),
    **dict.fromkeys(("divide", "floor_divide", "remainder", "fmod", "atan2"), ((-3.0, 3.0), (0.5, 2.0))),
    "log1p": ((-0.8, 4.0),),
    "acosh": ((1.1, 4.0),),
    "power": ((0.2, 3.0), (-2.0, 2.0)),
}
UNARY = (
    "abs acos acosh asin asinh atan atanh bitwise_invert ceil clz copy cos cosh digamma erf erfc erfinv exp exp2 expm1 "
    "floor isfinite isinf isnan lgamma log log10 log1p log2 logical_not negative popcount positive reciprocal round rsqrt "
    "sigmoid sign signbit sin sinh sqrt square stop_gradient tan tanh trunc"
).split()
BINARY = (
    "add atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor copysign divide equal "
    "floor_divide fmod greater greater_equal hypot less less_equal logaddexp logical_and logical_or logical_xor maximum "
    "minimum multiply nextafter not_equal power remainder subtract"
).split()


@entry(*UNARY, *BINARY)
def _elementwise(draw: Draw) -> Iterator[Sample]:
    domain = DOMAINS.get(draw.name, ((-3.0, 3.0),) * (2 if draw.name in BINARY else 1))
    grid = [g.ravel() for g in np.meshgrid(*[draw.edges] * len(domain))]
    yield draw.sample(*grid, smooth=False)
    for shape, view in shapes(draw):
        yield draw.sample(*[draw(*shape, low=a, high=b) for a, b in domain], view=view)


@entry("where")
def _where(draw: Draw) -> Iterator[Sample]:
    for shape, view in shapes(draw):
        yield draw.sample(draw(*shape, dtype=bool_), draw(*shape), draw(*shape), view=view)


@entry("cast")
def _cast(draw: Draw) -> Iterator[Sample]:
    for target in ALL:
        low, smooth = (0.0 if target.kind == "uint" else -3.0), target.kind == draw.dtype.kind == "float"
        yield draw.sample(draw(19, low=low, high=9.0), dtype=target, smooth=smooth)
        if target.kind in ("float", "bool") or draw.dtype.kind != "float":  # a float out of an integer's range has no meaning
            yield draw.sample(draw.edges, dtype=target, smooth=False)
    yield draw.sample(draw(5, 7), dtype=float32, view="transpose")
    yield draw.sample(draw(), dtype=float64)


@entry("bitcast")
def _bitcast(draw: Draw) -> Iterator[Sample]:
    for target in ALL:
        if target.itemsize == draw.dtype.itemsize:
            yield draw.sample(draw.edges, dtype=target)
            yield draw.sample(draw(5, 7), dtype=target, view="transpose")


@entry("after")
def _after(draw: Draw) -> Iterator[Sample]:
    yield draw.sample(draw(3, 5), draw(2))


# ------------------------------------------------------------------------------------------------------- movement


@entry("broadcast_to")
def _broadcast_to(draw: Draw) -> Iterator[Sample]:
    for shape, wide in [((), ()), ((), (3, 2)), ((1, 5), (4, 5)), ((3, 1), (2, 3, 7)), ((1,), (0,)), ((17,), (243, 17))]:
        yield draw.sample(draw(*shape), shape=wide)
    yield draw.sample(draw(1, 5), shape=(4, 3, 5), view="slice")


@entry("reshape")
def _reshape(draw: Draw) -> Iterator[Sample]:
    for shape, wanted, view in [
        ((), (1, 1), ""),
        ((0, 3), (2, 0), ""),
        ((6, 4), (2, 3, 2, 2), ""),
        ((5, 7), (35,), "transpose"),
        ((4, 6), (3, 8), "slice"),
    ]:
        yield draw.sample(draw(*shape), shape=wanted, view=view)


@entry("transpose")
def _transpose(draw: Draw) -> Iterator[Sample]:
    for shape, axes in [
        ((), ()),
        ((4, 5), (1, 0)),
        ((2, 3, 4), (2, 0, 1)),
        ((3, 0), (1, 0)),
        ((65, 67), (1, 0)),
        ((2, 1, 3, 4), (0, 2, 1, 3)),
    ]:
        yield draw.sample(draw(*shape), axes=axes)
    yield draw.sample(draw(4, 6), axes=(1, 0), view="slice")


@entry("slice")
def _slice(draw: Draw) -> Iterator[Sample]:
    yield draw.sample(draw(9), start=(1,), stop=(9,), step=(3,))
    yield draw.sample(draw(5, 7), start=(1, 0), stop=(4, 7), step=(1, 2), view="transpose")
    yield draw.sample(draw(5, 8), start=(5, 2), stop=(5, 3), step=(1, 1))
    yield draw.sample(draw(2, 3, 40), start=(0, 1, 3), stop=(2, 3, 38), step=(1, 1, 1))


@entry("flip")
def _flip(draw: Draw) -> Iterator[Sample]:
    for shape, axes in [((19,), (0,)), ((3, 4, 5), (0, 2)), ((0, 3), (0,)), ((1, 4), (0, 1))]:
        yield draw.sample(draw(*shape), axes=axes)
    yield draw.sample(draw(5, 7), axes=(1,), view="transpose")


@entry("pad")
def _pad(draw: Draw) -> Iterator[Sample]:
    value = 1.0 if draw.dtype.kind in ("bool", "uint") else -2.0
    for shape, low, high, interior in [
        ((5,), (2,), (3,), (0,)),
        ((3, 4), (1, 0), (0, 2), (0, 1)),
        ((4, 6), (-1, 2), (-2, -3), (0, 0)),
        ((0, 3), (1, 1), (1, 0), (2, 0)),
        ((3, 3), (0, -2), (0, 5), (2, 3)),
        ((7,), (-3,), (-4,), (0,)),
    ]:
        yield draw.sample(draw(*shape), low=low, high=high, interior=interior, value=value)
    yield draw.sample(draw(4, 5), low=(0, 1), high=(0, 1), interior=(0, 0), value=0.0, view="transpose")


@entry("concat")
def _concat(draw: Draw) -> Iterator[Sample]:
    yield draw.sample(draw(3), draw(0), draw(5), axis=0)
    yield draw.sample(draw(3, 2), draw(3, 17), draw(3, 1), axis=1)
    yield draw.sample(*[draw(2, 1, 3) for _ in range(7)], axis=1)
    yield draw.sample(draw(2, 5), draw(2, 5), axis=0, view="transpose")


@entry("iota")
def _iota(draw: Draw) -> Iterator[Sample]:
    if draw.dtype is not bool_:
        for size in (0, 1, 40, 100):
            yield draw.sample(size=size, dtype=draw.dtype)


# -------------------------------------------------------------------------------------------------------- reduce


@entry("sum", "prod", "max", "min", "any", "all")
def _reduction(draw: Draw) -> Iterator[Sample]:
    low, high = (0.5, 1.5) if draw.name == "prod" and draw.dtype.kind == "float" else (-3.0, 3.0)
    cases: list[tuple[tuple[int, ...], tuple[int, ...], str]] = [
        ((), (), ""),
        ((1,), (0,), ""),
        ((37,), (0,), ""),
        ((4, 5, 6), (1,), ""),
        ((4, 5, 6), (0, 2), ""),
        ((3, 19), (1,), "transpose"),
        ((3, 20), (0,), "slice"),
        ((0, 3), (1,), ""),
        ((5, 1), (1,), ""),
    ]
    if draw.name not in ("max", "min"):
        cases.append(((3, 0), (1,), ""))
    if draw.thorough:
        cases += [
            ((2, 9000), (1,), ""),
            ((130, 70), (0,), ""),
            ((130, 70), (0, 1), ""),
            ((70, 130), (1,), ""),
            ((8194,), (0,), ""),
            ((3, 7, 65, 5), (1, 3), ""),
        ]
    for shape, axes, view in cases:
        yield draw.sample(draw(*shape, low=low, high=high), axes=axes, view=view)
    if draw.dtype.kind == "float":
        special = draw(4, 21, low=low, high=high)
        special[0, 3], special[1, 4], special[2, 5], special[2, 6] = math.nan, math.inf, math.inf, -math.inf
        yield draw.sample(special, axes=(1,), smooth=False)


@entry("cumulative_sum", "cumulative_prod", "cumulative_max", "cumulative_min")
def _cumulative(draw: Draw) -> Iterator[Sample]:
    low, high = (0.5, 1.5) if draw.name == "cumulative_prod" and draw.dtype.kind == "float" else (-3.0, 3.0)
    cases = [
        ((1,), 0, ""),
        ((37,), 0, ""),
        ((3, 0), 1, ""),
        ((4, 5, 6), 1, ""),
        ((70, 3), 0, "transpose"),
        ((3, 20), 1, "slice"),
    ]
    for (shape, axis, view), reverse in product(cases, (False, True)):
        yield draw.sample(draw(*shape, low=low, high=high), axis=axis, reverse=reverse, view=view)
    if draw.dtype.kind == "float":
        special = draw(3, 9, low=low, high=high)
        special[0, 3], special[1, 4] = math.nan, math.inf
        yield draw.sample(special, axis=1, reverse=False, smooth=False)


# ------------------------------------------------------------------------------------------------- contract, conv

CONTRACTIONS: list[tuple[str, tuple[int, ...], tuple[int, ...], bool]] = [  # spec, shapes, whether for every dtype
    ("ik,kj->ij", (5, 7), (7, 3), True),
    ("ik,kj->ij", (33, 20), (20, 35), True),
    ("ik,jk->ij", (9, 18), (40, 18), True),
    ("bik,bkj->bij", (2, 3, 5), (2, 5, 17), True),
    ("k,k->", (37,), (37,), True),
    ("a,b->ab", (5,), (19,), True),
    ("ik,kj->ij", (3, 0), (0, 4), True),
    ("ik,kj->ij", (0, 3), (3, 4), False),
    ("ik,kj->ij", (1, 1), (1, 1), False),
    ("ik,k->i", (20, 33), (33,), False),
    ("k,kj->j", (33,), (33, 20), False),
    ("ki,kj->ij", (21, 40), (21, 33), False),
    ("ab,ab->", (4, 9), (4, 9), False),
    ("bij,jk->bki", (2, 17, 5), (5, 33), False),
    ("abck,kd->abcd", (2, 3, 4, 9), (9, 33), False),
    ("bhik,bjhk->bhij", (2, 3, 19, 8), (2, 18, 3, 8), False),
    ("bxy,byz->xbz", (3, 9, 4), (3, 4, 18), False),
    ("i,ji->j", (6,), (9, 6), False),
    (",->", (), (), False),
    ("ik,kj->ij", (2, 1100), (1100, 17), False),
    ("ik,kj->ij", (9, 1100), (1100, 17), False),
]


def _wider(dtype: DType) -> list[DType]:
    """In which dtypes, besides its own, products of `dtype` are summed."""
    if dtype.kind == "bool" or dtype.bits > 16:
        return []
    return [float32] if dtype.kind == "float" else [int32]


@entry("contract")
def _contract(draw: Draw) -> Iterator[Sample]:
    for spec, a, b, always in CONTRACTIONS:
        if always or draw.dtype is float32 or (draw.thorough and math.prod(a) * max(1, b[-1] if b else 1) < 50000):
            yield draw.sample(draw(*a), draw(*b), spec=spec, dtype=draw.dtype)
    yield draw.sample(draw(18, 21), draw(34, 21), spec="ik,jk->ij", dtype=draw.dtype, view="transpose")
    yield draw.sample(draw(18, 21), draw(21, 34), spec="ij,jk->ik", dtype=draw.dtype, view="slice")
    for wide in _wider(draw.dtype):
        for spec, a, b in (("ij,jk->ik", (9, 21), (21, 33)), ("ij,kj->ik", (19, 150), (40, 150)), ("k,kj->j", (35,), (35, 20)),
                           ("ji,jk->ik", (20, 18), (20, 35)), ("bij,bjk->bik", (2, 7, 301), (2, 301, 16))):
            yield draw.sample(draw(*a), draw(*b), spec=spec, dtype=wide)
    if draw.dtype.bits == 8 and draw.dtype.kind != "bool":
        info, other = np.iinfo(draw.dtype.numpy), uint8 if draw.dtype is int8 else int8
        for x in (draw(9, 21), np.full((9, 21), info.min, draw.dtype.numpy), np.full((9, 21), info.max, draw.dtype.numpy)):
            yield draw.sample(x, draw(21, 33, low=-18, dtype=other), spec="ij,jk->ik", dtype=int32)
            yield draw.sample(x, x.T, spec="ij,jk->ik", dtype=int32)


@entry("chains")
def _chains(draw: Draw) -> Iterator[Sample]:
    yield draw.sample(draw(2, 12), draw(12, 33), spec="ik,kj->ij", dtype=draw.dtype, chunks=2)
    yield draw.sample(draw(3, 2, 8), draw(3, 19, 8), spec="bik,bjk->bij", dtype=draw.dtype, chunks=4)


@entry("conv")
def _conv(draw: Draw) -> Iterator[Sample]:
    def case(
        x: tuple[int, ...],
        w: tuple[int, ...],
        stride: int = 1,
        padding: tuple[int, int] = (0, 0),
        dilation: int = 1,
        window_dilation: int = 1,
        groups: int = 1,
        view: str = "",
        dtype: DType = draw.dtype,
    ) -> Sample:
        d = len(x) - 2
        return draw.sample(
            draw(*x),
            draw(*w),
            stride=(stride,) * d,
            padding=(padding,) * d,
            dilation=(dilation,) * d,
            window_dilation=(window_dilation,) * d,
            groups=groups,
            dtype=dtype,
            view=view,
        )

    yield case((2, 9, 3), (3, 3, 5), padding=(1, 1))
    yield case((1, 5, 6, 2), (3, 2, 2, 4), stride=2, padding=(1, 0))
    yield case((2, 4, 4, 6), (2, 2, 3, 4), groups=2)
    for wide in _wider(draw.dtype):
        yield case((2, 6, 6, 5), (3, 3, 5, 19), padding=(1, 1), dtype=wide)
        yield case((1, 7, 6, 8), (3, 3, 4, 34), stride=2, groups=2, dtype=wide)
    if draw.thorough:
        yield case((1, 8, 8, 4), (3, 3, 1, 4), groups=4, padding=(1, 1))
        yield case((1, 7, 9, 3), (3, 3, 3, 33), window_dilation=2, padding=(2, 2))
        yield case((1, 4, 5, 3), (3, 3, 3, 2), dilation=2, padding=(2, 1))
        yield case((1, 4, 4, 5, 2), (2, 2, 3, 2, 3), padding=(0, 1))
        yield case((0, 5, 5, 2), (3, 3, 2, 4))
        yield case((2, 6, 6, 17), (1, 1, 17, 20))
        yield case((1, 8, 4), (3, 4, 6), padding=(-1, 2))
        yield case((1, 2, 3), (5, 3, 4))
        yield case((3, 6, 6, 4), (3, 3, 4, 18), padding=(1, 1), view="slice")


@entry("window_sum", "window_max", "window_first", "window_pick", "window_spread")
def _window(draw: Draw) -> Iterator[Sample]:
    if draw.dtype is bool_:
        return
    for shape, window, stride, padding, dilation in [
        ((2, 6, 3), (1, 2, 1), (1, 2, 1), ((0, 0),) * 3, (1, 1, 1)),
        ((1, 7, 6, 2), (1, 3, 2, 1), (1, 2, 1, 1), ((0, 0), (1, 1), (0, 1), (0, 0)), (1, 1, 2, 1)),
        ((5, 20), (5, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)),
        ((4,), (1,), (2,), ((0, 0),), (1,)),
        ((3,), (5,), (1,), ((0, 0),), (1,)),
    ]:
        static = {"window": window, "stride": stride, "padding": padding, "dilation": dilation}
        x, taps = draw(*shape), math.prod(window)
        places = OPS["window_sum"].infer(TensorType(shape, float32), **static).shape
        if draw.name == "window_spread":
            yield draw.sample(draw(*places), draw.rng.integers(0, taps + 1, places), shape=shape, **static)
        elif draw.name == "window_pick":
            yield draw.sample(x, draw.rng.integers(0, taps + 1, places), **static)
        elif draw.name == "window_first":
            yield draw.sample(x, np.asarray(OPS["window_max"].reference(x, **static)), **static)
        else:
            yield draw.sample(x, **static)


# ------------------------------------------------------------------------------------------------------- indexing


@entry("attention", "attention_gradient")
def _attention(draw: Draw) -> Iterator[Sample]:
    """Grouped heads, lengths below, at and above a block, what is seen by a number and by an operand."""
    if draw.dtype not in (float32, float64):
        return
    sizes = [(2, 3, 5, 4, 2, 3, 2), (1, 1, 1, 1, 1, 1, 1), (1, 4, 3, 2, 1, 5, 17)]
    if draw.dtype is float32:
        sizes.append((1, 18, 70, 2, 2, 8, 4))
    for (b, l, s, h, k, d, e), (shift, offset) in product(sizes, [(None, ()), (0, ()), (1, (np.asarray(-2),))]):
        operands = (draw(b, l, h, d), draw(b, s, k, d), draw(b, s, k, e))
        static = {"scale": 0.25, "shift": shift}
        if draw.name == "attention_gradient":
            with np.errstate(all="ignore"):
                out, high, total = OPS["attention"].reference(*operands, *offset, **static)
            operands = (*operands, high, total, draw(*out.shape), draw(*out.shape))  # with the very `out` all would cancel
        yield draw.sample(*operands, *offset, **static)


@entry("batch_norm")
def _batch_norm(draw: Draw) -> Iterator[Sample]:
    if draw.dtype in (float32, float64):
        for shape in ((4, 3), (2, 3, 5, 17), (5, 1), (40, 6, 3)):
            yield draw.sample(draw(*shape), draw(shape[-1]), draw(shape[-1]), eps=1e-2)


@entry("gather")
def _gather(draw: Draw) -> Iterator[Sample]:
    yield draw.sample(draw(7), draw.index((), 7), axes=(0,))
    yield draw.sample(draw(7, 18), draw.index((3, 2), 7), axes=(0,))
    yield draw.sample(draw(3, 5, 4), draw.index((6,), 5), draw.index((6,), 4).astype(np.int32), axes=(1, 2))
    yield draw.sample(draw(4, 3), np.zeros((0,), np.int64), axes=(1,))
    yield draw.sample(draw(4, 300), draw.rng.integers(0, 200, (9,)).astype(np.uint8), axes=(1,))


@entry("scatter")
def _scatter(draw: Draw) -> Iterator[Sample]:
    for mode in ("set", "add", "multiply", "max", "min"):
        yield draw.sample(draw(9), draw(5), draw.index((5,), 9), axes=(0,), mode=mode)
        yield draw.sample(draw(5, 18), draw(2, 3, 18), draw.index((2, 3), 5), axes=(0,), mode=mode)
        yield draw.sample(
            draw(3, 5, 4), draw(6, 3), draw.index((6,), 5), draw.index((6,), 4).astype(np.int32), axes=(1, 2), mode=mode
        )
        yield draw.sample(draw(4, 3), draw(0, 4), np.zeros((0,), np.int64), axes=(1,), mode=mode)
        if draw.dtype is bool_:
            return


def _indices(draw: Draw, shape: tuple[int, ...], axis: int, n: int) -> np.ndarray:
    return draw.index(tuple(n if k == axis else m for k, m in enumerate(shape)), shape[axis])


@entry("take_along")
def _take_along(draw: Draw) -> Iterator[Sample]:
    for shape, axis, n in (((7,), 0, 3), ((3, 20), 1, 30), ((4, 5, 18), 1, 2), ((2, 3), 0, 0)):
        yield draw.sample(draw(*shape), _indices(draw, shape, axis, n), axis=axis)


@entry("put_along")
def _put_along(draw: Draw) -> Iterator[Sample]:
    for mode in ("set", "add", "multiply", "max", "min"):
        for shape, axis, n in (((7,), 0, 3), ((3, 20), 1, 30), ((4, 5, 70), 1, 2), ((2, 3), 0, 0)):
            index = _indices(draw, shape, axis, n)
            yield draw.sample(draw(*shape), draw(*index.shape), index, axis=axis, mode=mode)
        if draw.dtype is bool_:
            return


@entry("dynamic_slice")
def _dynamic_slice(draw: Draw) -> Iterator[Sample]:
    for start in (-3, 0, 2, 99):
        yield draw.sample(draw(5, 18), np.int64(start).reshape(()), np.int32(1).reshape(()), sizes=(3, 17))
    yield draw.sample(draw(4), np.int64(1).reshape(()), sizes=(0,))


@entry("dynamic_update_slice")
def _dynamic_update_slice(draw: Draw) -> Iterator[Sample]:
    for start in (-3, 0, 2, 99):
        yield draw.sample(draw(5, 18), draw(3, 17), np.int64(start).reshape(()), np.int32(1).reshape(()))
    yield draw.sample(draw(4), draw(0), np.int64(1).reshape(()))


@entry("sort_with_indices")
def _sort(draw: Draw) -> Iterator[Sample]:
    for (shape, axis), descending in product(
        [((1,), 0), ((100,), 0), ((5, 18), 0), ((3, 9, 4), 1), ((0, 3), 1), ((2, 0), 1)], (False, True)
    ):
        yield draw.sample(draw(*shape), axis=axis, descending=descending, first=shape[axis])
    edges = draw.rng.permutation(np.repeat(draw.edges, 2))
    yield draw.sample(edges, axis=0, descending=True, first=edges.size, smooth=False)
    yield draw.sample(draw(9, 5), axis=0, descending=False, first=9, view="transpose")
    yield draw.sample(draw(2, 90, 3), axis=1, descending=True, first=5)


@entry("searchsorted")
def _searchsorted(draw: Draw) -> Iterator[Sample]:
    for n, side in product((0, 1, 17, 64), ("left", "right")):
        yield draw.sample(np.sort(draw(n).astype(np.float64)).astype(draw.dtype.numpy), draw(3, 9), side=side)


@entry("random_bits")
def _random_bits(draw: Draw) -> Iterator[Sample]:
    if draw.dtype.kind == "uint":
        for shape in [(), (0,), (5, 7), (1000,)]:
            yield draw.sample(np.array([7, 9], np.uint32), shape=shape, bits=draw.dtype.bits, stream=1)


# --------------------------------------------------------------------------------------------------- control flow


def _graph(function: Callable[..., Any], *arrays: np.ndarray) -> Graph:
    types = [TensorType(a.shape, as_dtype(a.dtype)) for a in arrays]
    return trace(function, types).graph


def _numeric(draw: Draw) -> bool:
    return draw.dtype.kind in ("float", "int")


@entry("call")
def _call(draw: Draw) -> Iterator[Sample]:
    if _numeric(draw):
        a, b = draw(3, 5), draw(5)
        yield draw.sample(a, b, graph=_graph(lambda x, y: (x * y + x, x * 2), a, b), backward=None, residuals=(), outputs=2)


@entry("checkpoint")
def _checkpoint(draw: Draw) -> Iterator[Sample]:
    if _numeric(draw):
        a, b = draw(3, 5), draw(5)
        yield draw.sample(a, b, graph=_graph(lambda x, y: (x * y + x, x * x * 2), a, b))


@entry("cond")
def _cond(draw: Draw) -> Iterator[Sample]:
    if _numeric(draw):
        a, b = draw(3, 5), draw(5)
        then, other = _graph(lambda x, y: (x * y, y), a, b), _graph(lambda x, y: (x - y, y * y), a, b)
        for choice in (False, True):
            yield draw.sample(np.asarray(choice), a, b, then=then, other=other)


@entry("while_loop")
def _while_loop(draw: Draw) -> Iterator[Sample]:
    if _numeric(draw):
        for trips in (0, 1, 5):
            i, a = np.asarray(0), draw(3, 5)
            test = _graph(lambda limit, i, x: (i < limit,), np.asarray(trips), i, a)
            body = _graph(lambda limit, i, x: (i + 1, x * x - x), np.asarray(trips), i, a)
            yield draw.sample(np.asarray(trips), i, a, test=test, body=body, consts=1)


@entry("scan")
def _scan(draw: Draw) -> Iterator[Sample]:
    if _numeric(draw):
        for length, reverse in product((0, 1, 6), (False, True)):
            w, h, x = draw(4, low=-1, high=1), draw(4), draw(length, 4)
            body = _graph(lambda w, h, x: (h * w + x, h * x), w, h, draw(4))
            yield draw.sample(
                w, h, x, body=body, consts=1, carry=1, length=length, reverse=reverse, backward=None, residuals=(), outputs=2
            )


@entry("lstm")
def _lstm(draw: Draw) -> Iterator[Sample]:
    for (t, b, h), reverse, save in product(((0, 2, 3), (1, 1, 1), (3, 9, 5)), (False, True), (False, True)):
        x, state = draw(t, b, 4 * h, low=-1, high=1), [draw(b, h, low=-1, high=1) for _ in range(2)]
        yield draw.sample(x, draw(h, 4 * h, low=-1, high=1), *state, reverse=reverse, save=save)


@entry("lstm_grad")
def _lstm_grad(draw: Draw) -> Iterator[Sample]:
    for (t, b, h), reverse, cells in product(((0, 2, 3), (1, 1, 1), (3, 9, 5)), (False, True), (False, True)):
        rows = [draw(t + 1, b, h, low=-1, high=1) for _ in range(3)]
        w, gates = draw(h, 4 * h, low=-1, high=1), draw(t, b, 4 * h, low=0.1, high=0.9)
        yield draw.sample(rows[0], w, gates, *rows[1 : 3 if cells else 2], reverse=reverse)


@entry("gru")
def _gru(draw: Draw) -> Iterator[Sample]:
    for (t, b, h), reverse, save in product(((0, 2, 3), (1, 1, 1), (3, 9, 5)), (False, True), (False, True)):
        x, state = draw(t, b, 3 * h, low=-1, high=1), draw(b, h, low=-1, high=1)
        bias = [draw(h, low=-1, high=1)] if save else []
        yield draw.sample(x, draw(h, 3 * h, low=-1, high=1), state, *bias, reverse=reverse, save=save)


@entry("gru_grad")
def _gru_grad(draw: Draw) -> Iterator[Sample]:
    for (t, b, h), reverse in product(((0, 2, 3), (1, 1, 1), (3, 9, 5)), (False, True)):
        rows = [draw(t + 1, b, h, low=-1, high=1) for _ in range(2)]
        w, gates = draw(h, 3 * h, low=-1, high=1), draw(t, b, 4 * h, low=0.1, high=0.9)
        yield draw.sample(rows[0], w, gates, rows[1], reverse=reverse)
