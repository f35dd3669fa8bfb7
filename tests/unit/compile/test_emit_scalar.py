"""Every exact primitive, and every conversion, on every dtype, against NumPy or Python's integers."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from mainspring.compile.loops import Buffer, load
from mainspring.ir import scalar as S
from mainspring.ir.primitives import SCALARS
from mainspring.types import dtype as D
from tests.unit.compile.native import elementwise, evaluate

rng = np.random.default_rng(7)
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.5, np.inf, -np.inf, np.nan, 1e-40, 65504.0, 7.0, -7.0, 2.0, 1e-7]
FLOATS = [D.float16, D.bfloat16, D.float32, D.float64]
INTS = [*D.SIGNED, *D.UNSIGNED]


def operands(dtype: D.DType, count: int) -> list[np.ndarray]:
    """Every pair (or triple) of special values, and random ones, of `dtype`."""
    if dtype.kind == "float":
        special = np.array(SPECIAL)
    elif dtype.kind == "bool":
        special = np.array([0, 1])
    else:
        info = np.iinfo(dtype.numpy)
        values = (0, 1, 2, 3, 7, 8, -1, -2, -7, info.min, info.max, info.bits - 1, info.bits)
        special = np.array([v for v in values if info.min <= v <= info.max], dtype=object)
    grids = [g.ravel() for g in np.meshgrid(*[special] * count)]
    with np.errstate(all="ignore"):
        return [np.concatenate([g.astype(dtype.numpy), rng.permutation(g).astype(dtype.numpy)]) for g in grids]


def same(got: np.ndarray, want: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(got.astype(np.float64), want.astype(np.float64))
    if want.dtype.itemsize >= 8 and want.dtype.kind in "iu":
        np.testing.assert_array_equal(got, want)


EXACT = dict.fromkeys(["add", "sub", "mul", "div", "min", "max", "eq", "ne", "lt", "le", "copysign", "nextafter",
                       "floordiv", "mod", "fmod"], 2)
EXACT |= dict.fromkeys(["neg", "abs", "floor", "ceil", "trunc", "round", "sqrt"], 1)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
@pytest.mark.parametrize("op", EXACT)
@pytest.mark.parametrize("role", ["vector", "serial"])
def test_exact_floats(op: str, dtype: D.DType, role: str) -> None:
    args = operands(dtype, EXACT[op])
    with np.errstate(all="ignore"):
        if dtype in (D.float16, D.bfloat16) and op in ("mod", "floordiv", "fmod"):
            want = SCALARS[op].numpy(*[a.astype(np.float32) for a in args]).astype(dtype.numpy)
        elif op == "nextafter" and dtype is D.bfloat16:
            want = np.nextafter(*args)
        else:
            want = SCALARS[op].numpy(*args)
    same(elementwise(op, *args, role=role), np.asarray(want))


INTEGER = dict.fromkeys(["add", "sub", "mul", "trunc_div", "floordiv", "mod", "min", "max", "eq", "ne", "lt", "le",
                         "and", "or", "xor", "shl", "shr"], 2)
INTEGER |= dict.fromkeys(["neg", "abs", "not", "popcount", "clz"], 1) | {"fma": 3}


@pytest.mark.parametrize("dtype", INTS, ids=lambda d: d.name)
@pytest.mark.parametrize("op", INTEGER)
def test_integers(op: str, dtype: D.DType) -> None:
    args = operands(dtype, INTEGER[op])
    with np.errstate(all="ignore"):
        want = integer_meaning(op, dtype, *args)
    same(elementwise(op, *args), want)


def integer_meaning(op: str, dtype: D.DType, *args: np.ndarray) -> np.ndarray:
    """The meaning of `op` with Python's integers where NumPy's differs in a corner."""
    bits, least = dtype.bits, -(1 << dtype.bits - 1) if dtype.kind == "int" else 0
    exact = {
        "trunc_div": lambda x, y: 0 if y == 0 else abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1),
        "floordiv": lambda x, y: 0 if y == 0 else x // y,
        "mod": lambda x, y: 0 if y == 0 else x % y,
        "shl": lambda x, y: x << y if 0 <= y < bits else 0,
        "shr": lambda x, y: x >> min(y, bits) if y >= 0 else -1 if x < 0 else 0,
        "clz": lambda x: bits - (x & ((1 << bits) - 1)).bit_length(),
        "popcount": lambda x: (x & ((1 << bits) - 1)).bit_count(),
    }.get(op)
    if exact is None:
        return SCALARS[op].numpy(*args)
    results = [exact(*[int(v) for v in row]) for row in zip(*args, strict=True)]
    return np.array([(r - least) % (1 << bits) + least for r in results], dtype.numpy)


@pytest.mark.parametrize("op", ["and", "or", "xor", "eq", "ne", "lt", "le"])
def test_bools(op: str) -> None:
    args = operands(D.bool_, 2)
    same(elementwise(op, *args), SCALARS[op].numpy(*args))


@pytest.mark.parametrize("dtype", [D.int32, D.uint8, D.int64], ids=lambda d: d.name)
def test_integer_powers(dtype: D.DType) -> None:
    x, y = (g.ravel() for g in np.meshgrid(np.array([0, 1, 2, 3, 7, 255 if dtype is D.uint8 else -1]), np.arange(12)))
    x, y = x.astype(dtype.numpy), y.astype(dtype.numpy)
    same(elementwise("pow", x, y), np.power(x, y))
    if dtype.kind == "int":
        base = np.array([0, 1, -1, -1, 2, -3], dtype.numpy)
        exponent = np.array([-1, -5, -2, -3, -1, -1], dtype.numpy)
        same(elementwise("pow", base, exponent), np.array([0, 1, 1, -1, 0, 0], dtype.numpy))


@pytest.mark.parametrize("source", D.ALL, ids=lambda d: d.name)
@pytest.mark.parametrize("target", D.ALL, ids=lambda d: d.name)
def test_casts(source: D.DType, target: D.DType) -> None:
    (x,) = operands(source, 1)
    if source.kind == "float":
        with np.errstate(all="ignore"):
            x = np.concatenate([x, (rng.standard_normal(100) * np.exp(rng.uniform(-20, 20, 100))).astype(source.numpy)])
    if source.kind == "float" and target.kind in ("int", "uint"):  # only what fits has a meaning
        info = np.iinfo(target.numpy)
        wide = x.astype(np.float64)
        x = x[np.isfinite(wide) & (np.trunc(wide) >= float(info.min)) & (np.trunc(wide) < float(info.max))]
    i, buffer = S.var("i", x.size), Buffer("x", source, x.size)
    with np.errstate(all="ignore"):
        want = x.astype(target.numpy)
    got = evaluate(S.make("cast", (load(buffer, i),), target, target), i, {buffer: x})
    same(got, want)


def test_where_bitcast_and_half_constants() -> None:
    i, x = S.var("i", 50), Buffer("x", D.float32, 50)
    a = rng.standard_normal(50).astype(np.float32)
    positive = S.compare("lt", S.const(0.0, D.float32), load(x, i))
    same(evaluate(S.where(positive, load(x, i), 0.25), i, {x: a}), np.where(a > 0, a, np.float32(0.25)))
    same(evaluate(S.bitcast(load(x, i), D.uint32), i, {x: a}), a.view(np.uint32))
    h = Buffer("h", D.bfloat16, 50)
    half = a.astype(ml_dtypes.bfloat16)
    same(evaluate(load(h, i) * 0.1, i, {h: half}), half * ml_dtypes.bfloat16(0.1))
    same(evaluate(S.bitcast(load(h, i), D.int16), i, {h: half}), half.view(np.int16))
