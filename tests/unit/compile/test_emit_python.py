"""The Python emitter against plain NumPy: operations, reductions in their fixed order, guards, statements."""

from fractions import Fraction

import numpy as np
import pytest

from mainspring.base.errors import CompileError
from mainspring.compile.emit.array_code import fma
from mainspring.compile.emit.python import compile_kernel, emit_kernel
from mainspring.compile.loops import Buffer, Fold, If, Let, Reduce, Store, While, Write, load
from mainspring.ir.scalar import apply, cast, const, exp, ref, var
from mainspring.types.dtype import (
    ALL,
    DType,
    bfloat16,
    float16,
    float32,
    float64,
    int8,
    int32,
    int64,
    uint8,
    uint64,
)
from tests.unit.runtime.programs import column_sums, each, kernel, store

FLOAT_BINARY = ("add", "sub", "mul", "div", "min", "max", "fmod", "copysign")
INT_BINARY = ("add", "sub", "mul", "floordiv", "mod", "min", "max", "xor")


def elementwise(op: str, dtype: DType, n: int):
    a, b, y = Buffer("a", dtype, n), Buffer("b", dtype, n), Buffer("y", dtype, n)
    t, v = var("t", 1), var("v", n)
    return compile_kernel(kernel(op, (a, b, y), y, t, (each(v, store(y, v, apply(op, load(a, v), load(b, v)))),)))


def samples(dtype: DType, n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype.kind == "float":
        return (rng.standard_normal(n) * 3).astype(dtype.numpy)
    info = np.iinfo(dtype.numpy)
    return rng.integers(info.min, info.max, n, dtype.numpy, endpoint=True)


def partial_sums(values: np.ndarray, dtype: type) -> np.ndarray:
    """The contract of a sum, written down once more: 16 partials in order, then halves folded."""
    partials = [dtype(0)] * 16
    for r, value in enumerate(values):
        partials[r % 16] = dtype(partials[r % 16] + value)
    while len(partials) > 1:
        half = len(partials) // 2
        partials = [dtype(partials[i] + partials[i + half]) for i in range(half)]
    return partials[0]


@pytest.mark.parametrize("dtype", (float16, bfloat16, float32, float64), ids=repr)
@pytest.mark.parametrize("op", FLOAT_BINARY)
def test_float_operations_round_once(op, dtype):
    a, b, y = samples(dtype, 50, 1), samples(dtype, 50, 2), np.zeros(50, dtype.numpy)
    elementwise(op, dtype, 50)(a, b, y, 0, 1)
    wide = np.float64 if dtype is float64 else np.float32
    numpy = {"div": "true_divide", "min": "minimum", "max": "maximum", "sub": "subtract", "mul": "multiply"}.get(op, op)
    expected = getattr(np, numpy)(a.astype(wide), b.astype(wide)).astype(dtype.numpy)
    assert y.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", (int8, uint8, int32, int64), ids=repr)
@pytest.mark.parametrize("op", INT_BINARY)
def test_integers_wrap_and_zero_divisors_give_zero(op, dtype):
    a, b, y = samples(dtype, 50, 1), samples(dtype, 50, 2), np.zeros(50, dtype.numpy)
    b[:3] = 0
    elementwise(op, dtype, 50)(a, b, y, 0, 1)
    bits = 8 * y.dtype.itemsize
    plain = {"add": int.__add__, "sub": int.__sub__, "mul": int.__mul__, "xor": int.__xor__, "min": min, "max": max,
             "floordiv": lambda p, q: p // q if q else 0, "mod": lambda p, q: p % q if q else 0}[op]
    expected = [plain(int(p), int(q)) % 2**bits for p, q in zip(a, b, strict=True)]
    assert [int(v) % 2**bits for v in y] == expected


@pytest.mark.parametrize("op, dtype, a, b, expected", [
    ("shr", uint64, 2**64 - 1, 1, 2**63 - 1), ("shr", int8, -5, 100, -1), ("shl", uint8, 3, 8, 0),
    ("trunc_div", int8, 84, -128, 0), ("trunc_div", int8, -128, 3, -42), ("trunc_div", int32, 5, 0, 0),
])
def test_corners_of_integer_operations(op, dtype, a, b, expected):
    y = np.zeros(1, dtype.numpy)
    elementwise(op, dtype, 1)(np.array([a], dtype.numpy), np.array([b], dtype.numpy), y, 0, 1)
    assert y[0] == expected


def test_integer_powers():
    """Negative exponents truncate towards zero: 0, except for bases 1 and -1."""
    a, b, y = np.array([2, 1, -1, -1, 0, -3]), np.array([-1, -2, -3, -2, 0, 3]), np.zeros(6, np.int64)
    elementwise("pow", int64, 6)(a, b, y, 0, 1)
    assert y.tolist() == [0, 1, -1, 1, 1, -27]


def test_fma_rounds_once():
    """Against exact rationals; the third operand nearly cancels the product, where two roundings would differ."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 300))
    z = -x * y * (1 + rng.integers(-3, 4, 300) * 2.0**-52) + 10.0 ** rng.integers(-20, 3, 300)
    exact = [float(Fraction(p) * Fraction(q) + Fraction(r)) for p, q, r in zip(x, y, z, strict=True)]
    assert fma(x, y, z).tolist() == exact
    f, g, h = x.astype(np.float32), y.astype(np.float32), (-x * y).astype(np.float32)
    for p, q, r, result in zip(f, g, h, fma(f, g, h), strict=True):
        error = abs(Fraction(float(p)) * Fraction(float(q)) + Fraction(float(r)) - Fraction(float(result)))
        assert error <= Fraction(float(np.spacing(np.abs(result)))) / 2


@pytest.mark.parametrize("extent", (0, 1, 15, 16, 17, 100))
def test_a_sum_is_sixteen_partials_and_a_tree(extent):
    x, y = Buffer("x", float32, extent), Buffer("y", float32, 1)
    t, r, s = var("t", 1), var("r", max(extent, 1)), ref("s", float32)
    for role in ("vector", "serial"):
        body = (Reduce(r, extent, (), (Fold(s, "sum", load(x, r)),), role), store(y, t, s))
        values, result = samples(float32, extent), np.zeros(1, np.float32)
        compile_kernel(kernel("sum", (x, y), y, t, body))(values, result, 0, 1)
        assert result[0] == partial_sums(values, np.float32)


@pytest.mark.parametrize("dtype", (float16, float32), ids=repr)
def test_a_serial_reduction_in_a_vector_loop_has_the_same_bits(dtype):
    rows, columns = 37, 21
    x, y = samples(dtype, rows * columns), np.zeros(columns, dtype.numpy)
    k = column_sums(rows, columns, dtype)
    compile_kernel(k)(x, y, 0, k.tasks)
    expected = [partial_sums(c, dtype.numpy.type) for c in x.reshape(rows, columns).T]
    assert y.tolist() == expected


def test_a_body_that_stores_is_reduced_in_order():
    """A serial Reduce may read what its own earlier iteration stored: a running sum."""
    n, t = 20, var("t", 1)
    x, y, r, s = Buffer("x", int64, n), Buffer("y", int64, n + 1), var("r", n), ref("s", int64)
    body = (Reduce(r, n, (store(y, r + 1, load(y, r) + load(x, r)),), (Fold(s, "sum", load(x, r)),), "serial"), store(y, t, s))
    a, b = np.arange(n), np.zeros(n + 1, np.int64)
    compile_kernel(kernel("running", (x, y), y, t, body))(a, b, 0, 1)
    assert b[1:].tolist() == np.cumsum(a).tolist() and b[0] == a.sum()


@pytest.mark.parametrize("combine, expected", [("max", np.nan), ("min", np.nan), ("sum", np.nan), ("prod", np.nan)])
def test_nan_wins_every_fold(combine, expected):
    x, y, t, r, s = Buffer("x", float32, 20), Buffer("y", float32, 1), var("t", 1), var("r", 20), ref("s", float32)
    body = (Reduce(r, 20, (), (Fold(s, combine, load(x, r)),)), store(y, t, s))
    values = np.ones(20, np.float32)
    values[17] = np.nan
    result = np.zeros(1, np.float32)
    compile_kernel(kernel(combine, (x, y), y, t, body))(values, result, 0, 1)
    assert np.isnan(result[0]) and np.isnan(expected)


@pytest.mark.parametrize("dtype", ALL, ids=repr)
def test_a_false_guard_reads_and_writes_nothing(dtype):
    x, y, t, v = Buffer("x", dtype, 4), Buffer("y", dtype, 4), var("t", 1), var("v", 10)
    fill = const(1, dtype)
    body = (each(v, store(y, v, load(x, v + 2, v + 2 < 4, fill), v < 4)),)
    a, b = np.ones(4).astype(dtype.numpy), np.zeros(4).astype(dtype.numpy)
    compile_kernel(kernel("guard", (x, y), y, t, body))(a, b, 0, 1)
    assert b.astype(int).tolist() == [1, 1, 1, 1]


def test_lanes_have_their_own_registers():
    x, y, acc = Buffer("x", float32, 8), Buffer("y", float32, 8), Buffer("acc", float32, 1, "register")
    t, v, k, zero = var("t", 1), var("v", 8), var("k", 5), const(0, int64)
    steps = each(k, store(acc, zero, load(acc, 0) + load(x, v)), role="unroll")
    body = (each(v, store(acc, zero, const(0.0, float32)), steps, store(y, v, load(acc, 0))),)
    a, b = samples(float32, 8), np.zeros(8, np.float32)
    compile_kernel(kernel("registers", (x, y), y, t, body, (acc,)))(a, b, 0, 1)
    expected = np.zeros(8, np.float32)
    for _ in range(5):
        expected += a
    assert b.tolist() == expected.tolist()


def test_if_while_and_let():
    """Collatz: the number of steps to 1."""
    x, y, s = Buffer("x", int64, 10), Buffer("y", int64, 10), Buffer("s", int64, 2, "scratch")
    t, n = var("t", 10), ref("n", int64)
    zero, one = const(0, int64), const(1, int64)
    body = (
        Store((Write(s, zero, load(x, t)), Write(s, one, zero))),
        While(load(s, 0) > 1, (
            Let(n, load(s, 0)),
            If(apply("eq", n % 2, 0), (store(s, zero, n // 2),), (store(s, zero, n * 3 + 1),)),
            store(s, one, load(s, 1) + 1),
        )),
        store(y, t, load(s, 1)),
    )
    a, b = np.arange(1, 11), np.zeros(10, np.int64)
    compile_kernel(kernel("collatz", (x, y), y, t, body, (s,)))(a, b, 0, 10)
    assert b.tolist() == [0, 1, 7, 2, 5, 8, 16, 3, 19, 6]


def test_all_values_are_evaluated_before_any_is_written():
    x, t, zero, one = Buffer("x", int64, 2), var("t", 1), const(0, int64), const(1, int64)
    body = (Store((Write(x, zero, load(x, 1)), Write(x, one, load(x, 0)))),)
    a = np.array([3, 4])
    compile_kernel(kernel("swap", (x,), x, t, body))(a, 0, 1)
    assert a.tolist() == [4, 3]


def test_negative_index_and_unbound_name_are_errors():
    x, y, t = Buffer("x", int64, 4), Buffer("y", int64, 4), var("t", 1)
    run = compile_kernel(kernel("outside", (x, y), y, t, (store(y, t, load(x, load(y, 0))),)))
    with pytest.raises(IndexError, match="-1"):
        run(np.zeros(4, np.int64), np.full(4, -1), 0, 1)
    with pytest.raises(CompileError, match="bound"):
        emit_kernel(kernel("unbound", (x, y), y, t, (store(y, t, ref("nobody", int64)),)))


def test_a_deep_shared_expression_is_written_once_each():
    """A DAG of 200 doublings is 200 lines, not 2^200."""
    x, y, t = Buffer("x", float64, 1), Buffer("y", float64, 1), var("t", 1)
    value = load(x, 0)
    for _ in range(200):
        value = value + value
    source = emit_kernel(kernel("deep", (x, y), y, t, (store(y, t, value),)))
    assert source.count("\n") < 230


def test_source_is_readable():
    x, y, t, s = Buffer("x", float32, 37), Buffer("y", float32, 37), var("t", 1), ref("s", float32)
    v, r = var("v", 37), var("r", 37)
    body = (Reduce(r, 37, (), (Fold(s, "sum", load(x, r)),)), each(v, store(y, v, exp(load(x, v)) / s)))
    assert emit_kernel(kernel("scale", (x, y), y, t, body)) == SOURCE


SOURCE = """\
# scale

def kernel(p0, p1, begin, end):
    with np.errstate(all='ignore'):
        for t_1 in range(begin, end):
            r_2 = np.arange(37)
            t3 = p0[r_2]
            s_4 = fold('sum', float32, t3, (37,))
            v_5 = np.arange(0, 37)
            t6 = p0[v_5]
            t7 = exp_(t6)
            t8 = div_(t7, s_4)
            p1[v_5] = t8
"""


def test_casts_between_kinds():
    x, y, t, v = Buffer("x", float32, 4), Buffer("y", int32, 4), var("t", 1), var("v", 4)
    run = compile_kernel(kernel("cast", (x, y), y, t, (each(v, store(y, v, cast(load(x, v), int32))),)))
    b = np.zeros(4, np.int32)
    run(np.array([1.9, -1.9, 0.5, 7], np.float32), b, 0, 1)
    assert b.tolist() == [1, -1, 0, 7]
