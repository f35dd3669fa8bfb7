"""The native emitter: every loop kind, access, guard and reduction, against NumPy and the Python emitter."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from llvmlite import ir

from mainspring.base.errors import CompileError
from mainspring.compile.emit import codegen
from mainspring.compile.emit.llvm import emit_kernel, scratch_bytes
from mainspring.compile.emit.python import compile_kernel
from mainspring.compile.loops import LANES, Buffer, Fold, For, If, Kernel, Let, Reduce, Store, While, Write, load
from mainspring.compile.target import by_name, native
from mainspring.ir import scalar as S
from mainspring.ir.primitives import SCALARS
from mainspring.types import dtype as D
from tests.unit.compile.native import evaluate, loop, number, run, store

rng = np.random.default_rng(7)
F32, I64 = D.float32, D.int64


def floats(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


# ---------------------------------------------------------------------------------------------------- loops and lanes


@pytest.mark.parametrize("n", [1, 5, 15, 16, 17, 31, 32, 33, 100])
@pytest.mark.parametrize("role", ["serial", "vector", "unroll"])
def test_elementwise_any_extent(n: int, role: str) -> None:
    i = S.var("i", n)
    x, y = Buffer("x", F32, n), Buffer("y", F32, n)
    a, b = floats(n), floats(n)
    got = evaluate(load(x, i) * load(y, i) + 1.5, i, {x: a, y: b}, role)
    np.testing.assert_array_equal(got, a * b + np.float32(1.5))


def test_an_index_compared_with_extreme_data() -> None:
    i, n = S.var("i", 21), Buffer("n", I64, 5)
    data = np.array([np.iinfo(np.int64).min, np.iinfo(np.int64).max, 7, 0, -1])
    for op, function in {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal}.items():
        for k, value in enumerate(data):
            for shift in (0, 3):
                got = evaluate(S.compare(op, i + shift, load(n, k)), i, {n: data})
                np.testing.assert_array_equal(got, function(np.arange(21) + shift, value))
                got = evaluate(S.compare(op, load(n, k), i + shift), i, {n: data})
                np.testing.assert_array_equal(got, function(value, np.arange(21) + shift))


def test_nothing_outside_the_extent_is_written() -> None:
    i, out = S.var("i", 21), Buffer("out", F32, 40)
    result = np.full(40, 7, np.float32)
    run((loop(i, (store(out, i + 3, S.const(1.0, F32)),)),), {out: result})
    np.testing.assert_array_equal(result, [7] * 3 + [1] * 21 + [7] * 16)


def test_bounds_known_only_when_run() -> None:
    i, outer = S.var("i", 100), S.var("r", 100)
    x, out = Buffer("x", F32, 10000), Buffer("out", F32, 10000)
    a, result = floats(10000), np.zeros(10000, np.float32)
    body = (store(out, outer * 100 + i, load(x, outer * 100 + i) * 2),)
    inner = For(i, outer, S.make("min", (outer * 2, number(100)), I64), body, "vector")
    run((loop(outer, (inner,), "serial"),), {x: a, out: result})
    want = np.zeros((100, 100), np.float32)
    for r in range(100):
        want[r, r : min(2 * r, 100)] = 2 * a.reshape(100, 100)[r, r : min(2 * r, 100)]
    np.testing.assert_array_equal(result.reshape(100, 100), want)


ACCESSES = {
    "contiguous": lambda i, r: r * 40 + i,
    "same": lambda i, r: r,
    "reversed": lambda i, r: r * 40 + 39 - i,
    "strided": lambda i, r: i * 3 + r,
    "split": lambda i, r: S.floordiv(i, 16) * 64 + S.mod(i, 16) + r,
    "cancelled": lambda i, r: S.make("add", (S.make("sub", (i + 3, i), I64), S.make("mul", (i, number(2)), I64)), I64) + r,
    "uneven": lambda i, r: S.floordiv(i, 5) * 7 + S.mod(i, 5) + r,
}


@pytest.mark.parametrize("name", ACCESSES)
@pytest.mark.parametrize("dtype", [D.float32, D.float64, D.int8, D.float16, D.bool_])
@pytest.mark.parametrize("n", [16, 40])
def test_accesses(name: str, dtype: D.DType, n: int) -> None:
    i, r = S.var("i", n), S.var("r", 3)
    x, out = Buffer("x", dtype, 200), Buffer("out", dtype, 3 * n)
    a = (rng.standard_normal(200) * 3).astype(dtype.numpy)
    result = np.zeros(3 * n, dtype.numpy)
    at = ACCESSES[name](i, r)
    run((loop(r, (loop(i, (store(out, r * n + i, load(x, at)),)),), "serial"),), {x: a, out: result})
    where = {"i": np.arange(n)[None, :], "r": np.arange(3)[:, None]}
    np.testing.assert_array_equal(result.reshape(3, n), a[np.broadcast_to(index_values(at, where), (3, n))])
    written = np.zeros(200, dtype.numpy)
    if name != "same":  # and the same places as a destination
        run((loop(i, (store(x, S.substitute(at, {r: number(0)}.get), load(out, i)),)),), {out: result, x: written})
        want = np.zeros(200, dtype.numpy)
        want[index_values(at, {"i": np.arange(n), "r": 0})] = result[:n]
        np.testing.assert_array_equal(written, want)


def index_values(x: S.Expr, where: dict[str, np.ndarray]) -> np.ndarray:
    """The integer expression `x` over arrays of its variables."""
    if x.op == "const":
        return np.asarray(x.attr)
    return where[x.attr[0]] if x.op == "var" else SCALARS[x.op].numpy(*[index_values(a, where) for a in x.args])


def test_gather_by_data() -> None:
    i = S.var("i", 37)
    x, at = Buffer("x", F32, 90), Buffer("at", I64, 37)
    a, index = floats(90), rng.integers(0, 90, 37)
    np.testing.assert_array_equal(evaluate(load(x, load(at, i)), i, {x: a, at: index}), a[index])


@pytest.mark.parametrize("role", ["serial", "vector"])
@pytest.mark.parametrize("shift", [-9, 9])
@pytest.mark.parametrize("dtype", [D.float32, D.bfloat16])
def test_guarded_loads_do_not_touch_memory(role: str, shift: int, dtype: D.DType) -> None:
    n = 45
    i, x = S.var("i", n), Buffer("x", dtype, n)
    a = floats(n).astype(dtype.numpy)
    inside = S.both(S.compare("le", number(0), i + shift), S.compare("lt", i + shift, number(n)))
    got = evaluate(load(x, i + shift * 1, inside, S.const(5.0, dtype)), i, {x: a}, role)
    far = evaluate(load(x, i + (1 << 40), S.make("lt", (i, number(0)), D.bool_), S.const(3.0, dtype)), i, {x: a}, role)
    want = [a[k + shift] if 0 <= k + shift < n else 5 for k in range(n)]
    np.testing.assert_array_equal(got.astype(np.float32), np.asarray(want, np.float32))
    assert (far.astype(np.float32) == 3).all()


def test_guarded_stores_and_uniform_guards() -> None:
    i, r = S.var("i", 20), S.var("r", 2)
    x, out = Buffer("x", F32, 20), Buffer("out", F32, 20)
    a, result = floats(20), np.zeros(20, np.float32)
    guard = S.compare("lt", load(x, i), S.const(0.0, F32))
    never = load(x, r + (1 << 40), S.make("lt", (r, number(0)), D.bool_), S.const(2.0, F32))
    run((loop(r, (loop(i, (store(out, i, load(x, i) * never, guard),)),), "serial"),), {x: a, out: result})
    np.testing.assert_array_equal(result, np.where(a < 0, 2 * a, 0))


def test_stores_are_seen_by_later_loads() -> None:
    i, x = S.var("i", 33), Buffer("x", F32, 33)
    a = floats(33)
    want = (a + 1) * (a + 1)
    run((loop(i, (store(x, i, load(x, i) + 1), store(x, i, load(x, i) * load(x, i)))),), {x: a})
    np.testing.assert_array_equal(a, want)


def test_all_values_are_evaluated_before_any_is_written() -> None:
    i, x, y = S.var("i", 20), Buffer("x", F32, 20), Buffer("y", F32, 20)
    a, b = floats(20), floats(20)
    want = b.copy(), a.copy()
    run((loop(i, (Store((Write(x, i, load(y, i)), Write(y, i, load(x, i)))),)),), {x: a, y: b})
    np.testing.assert_array_equal((a, b), want)


def test_let_if_while() -> None:
    count, out = Buffer("count", I64, 1), Buffer("out", F32, 10)
    n, k = load(count, 0), S.ref("k", I64)
    body = (Let(k, n), store(out, k, S.cast(k, F32)), store(count, 0, k + 1))
    minus = [store(out, k, S.const(-1.0 - k, F32)) for k in range(2)]
    even = If(S.compare("eq", S.mod(load(count, 0), 2), number(0)), (minus[0],), (minus[1],))
    c, result = np.array([2]), np.zeros(10, np.float32)
    run((While(S.compare("lt", n, number(7)), body), even), {count: c, out: result})
    np.testing.assert_array_equal(result, [0, -2, 2, 3, 4, 5, 6, 0, 0, 0])


@pytest.mark.parametrize("size", [40, 20000])
def test_scratch(size: int) -> None:
    i, task = S.var("i", size), S.var("task", 3)
    x, out, temporary = Buffer("x", F32, 3 * size), Buffer("out", F32, 3 * size), Buffer("t", F32, size, "scratch")
    a, result = floats(3 * size), np.zeros(3 * size, np.float32)
    fill = store(temporary, i, load(x, task * size + i) + 1)
    drain = store(out, task * size + i, load(temporary, (size - 1) - i))
    body = (loop(i, (fill,)), loop(i, (drain,)))
    run(body, {x: a, out: result}, (temporary,), tasks=3)
    np.testing.assert_array_equal(result.reshape(3, size), (a + 1).reshape(3, size)[:, ::-1])
    kernel = Kernel("k", (), frozenset(), 1, task, (), (temporary,))
    assert scratch_bytes(kernel) == (0 if size == 40 else 80000)


def test_statements_where_they_may_not_stand() -> None:
    i, j, out = S.var("i", 32), S.var("j", 32), Buffer("out", F32, 32)
    with pytest.raises(CompileError):
        run((loop(i, (loop(j, (store(out, j, S.const(1.0, F32)),)),)),), {out: floats(32)})
    with pytest.raises(CompileError):
        run((store(out, j, S.const(1.0, F32)),), {out: floats(32)})


# ---------------------------------------------------------------------------------------------------------- reductions


def fold(values: np.ndarray, function: np.ufunc, start: float) -> np.ndarray:
    """The numerics contract along the last axis."""
    partials = [np.full(values.shape[:-1], start, values.dtype) for _ in range(LANES)]
    with np.errstate(all="ignore"):
        for r in range(values.shape[-1]):
            partials[r % LANES] = function(partials[r % LANES], values[..., r]).astype(values.dtype)
        while len(partials) > 1:
            half = len(partials) // 2
            partials = [function(partials[j], partials[j + half]).astype(values.dtype) for j in range(half)]
    return partials[0]


COMBINES = {"sum": (np.add, 0), "prod": (np.multiply, 1), "max": (np.maximum, -np.inf), "min": (np.minimum, np.inf)}


@pytest.mark.parametrize("extent", [1, 3, 16, 20, 32, 57, 160])
@pytest.mark.parametrize("role", ["vector", "serial", "lanes", "dear"])
def test_reductions_are_the_contract_bit_for_bit(extent: int, role: str) -> None:
    rows = 19
    r, i = S.var("r", extent), S.var("i", rows)
    x = Buffer("x", F32, rows * extent)
    a = np.where(rng.random((rows, extent)) < 0.1, -0.0, floats(rows, extent)).astype(np.float32)
    outs = {Buffer(c, F32, rows): np.zeros(rows, np.float32) for c in COMBINES}
    value = load(x, i * extent + r)
    if role == "dear":  # too much to be repeated
        for _ in range(40):
            value = S.apply("neg", value) * 1.0
    folds = tuple(Fold(S.ref(f"f{c}", F32), c, value) for c in COMBINES)
    reduce = Reduce(r, extent, (), folds, "vector" if role == "vector" else "serial")
    writes = Store(tuple(Write(o, i, f.ref) for o, f in zip(outs, folds, strict=True)))
    run((loop(i, (reduce, writes), "vector" if role == "lanes" else "serial"),), {x: a.ravel(), **outs})
    for out, (function, start) in zip(outs.values(), COMBINES.values(), strict=True):
        want = fold(a, function, start)
        np.testing.assert_array_equal(out, want)
        if function in (np.add, np.multiply):
            np.testing.assert_array_equal(np.signbit(out), np.signbit(want))


def test_the_sum_of_negative_zeros_starts_from_zero() -> None:
    for role in ("vector", "serial"):
        r, x, out = S.var("r", 3), Buffer("x", F32, 3), Buffer("out", F32, 1)
        result = np.ones(1, np.float32)
        total = Fold(S.ref("s", F32), "sum", load(x, r))
        run((Reduce(r, 3, (), (total,), role), store(out, 0, total.ref)), {x: np.full(3, -0.0, np.float32), out: result})
        assert result[0] == 0 and not np.signbit(result[0])


@pytest.mark.parametrize("role", ["vector", "serial"])
def test_nan_any_all_and_a_body(role: str) -> None:
    n = 37
    r, x = S.var("r", n), Buffer("x", F32, n)
    a = floats(n)
    a[30] = np.nan
    top, some, every, total = Buffer("m", F32, 1), Buffer("a", D.bool_, 1), Buffer("e", D.bool_, 1), Buffer("t", D.int32, 1)
    double = S.ref("double", F32)
    copy = Buffer("copy", F32, n)
    folds = (Fold(S.ref("f1", F32), "max", double),
             Fold(S.ref("f2", D.bool_), "any", S.compare("lt", double, S.const(-9.0, F32))),
             Fold(S.ref("f3", D.bool_), "all", S.compare("lt", double, S.const(9.0, F32))),
             Fold(S.ref("f4", D.int32), "sum", S.cast(r, D.int32)))
    arrays = {x: a, top: np.zeros(1, np.float32), some: np.ones(1, bool), every: np.ones(1, bool), total: np.zeros(1, np.int32),
              copy: np.zeros(n, np.float32)}
    body = (Let(double, load(x, r) * 2), store(copy, r, double))
    outs = (top, some, every, total)
    writes = Store(tuple(Write(o, number(0), f.ref) for o, f in zip(outs, folds, strict=True)))
    run((Reduce(r, n, body, folds, role), writes), arrays)
    assert np.isnan(arrays[top][0]) and not arrays[some][0] and not arrays[every][0] and arrays[total][0] == n * (n - 1) // 2
    np.testing.assert_array_equal(arrays[copy], 2 * a)


# ------------------------------------------------------------------------------------------------------ random kernels


class Maker:
    """Random expressions over float32, bfloat16 and int64 buffers, with guards, gathers and every kind of index."""

    size = 2000

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.x, self.h, self.n = Buffer("x", F32, self.size), Buffer("h", D.bfloat16, self.size), Buffer("n", I64, self.size)
        self.out = Buffer("out", F32, self.size)
        self.refs: list[S.Expr] = []

    def arrays(self) -> dict[Buffer, np.ndarray]:
        random = self.rng.standard_normal(self.size).astype(np.float32)
        return {self.x: random, self.h: random[::-1].astype(ml_dtypes.bfloat16),
                self.n: self.rng.integers(0, self.size - 10, self.size), self.out: np.zeros(self.size, np.float32)}

    def pick(self, *choices: object) -> object:
        return choices[self.rng.integers(len(choices))]

    def index(self, variables: list[S.Expr]) -> S.Expr:
        v, w = self.pick(*variables), self.pick(*variables)
        shapes = [lambda: v, lambda: v + w * 3, lambda: 99 - v, lambda: v * 2 + 5, lambda: S.mod(v * 3 + w, 40),
                  lambda: S.floordiv(v, 4) + w, lambda: S.floordiv(v + w * 16, 32) * 48 + S.mod(v + w * 16, 32),
                  lambda: load(self.n, v + w), lambda: S.const(7, I64)]
        return self.pick(*shapes)()

    def leaf(self, variables: list[S.Expr]) -> S.Expr:
        at = self.index(variables)
        guard = S.compare("lt", self.index(variables), number(30))
        leaves = [lambda: load(self.x, at), lambda: S.cast(load(self.h, at), F32), lambda: S.cast(load(self.n, at), F32),
                  lambda: load(self.x, at + 5, guard, S.const(0.5, F32)), lambda: S.cast(load(self.h, at, guard), F32),
                  lambda: S.cast(at, F32),
                  lambda: self.pick(*self.refs) if self.refs else S.const(1.5, F32)]
        return self.pick(*leaves)()

    def value(self, variables: list[S.Expr], depth: int = 3) -> S.Expr:
        if depth == 0:
            return self.leaf(variables)
        a, b = self.value(variables, depth - 1), self.value(variables, depth - 1)
        forms = [lambda: a + b, lambda: a * b, lambda: a - b, lambda: S.maximum(a, b), lambda: S.where(a < b, a, b * 2),
                 lambda: S.absolute(a), lambda: S.where(self.test(variables), a, b),
                 lambda: S.cast(S.cast(a, D.bfloat16) * S.cast(b, D.bfloat16), F32),
                 lambda: S.cast(S.cast(S.minimum(S.absolute(a), 1000.0), D.int32) + 3, F32)]
        return self.pick(*forms)()

    def test(self, variables: list[S.Expr]) -> S.Expr:
        """An index compared with an index, or with data."""
        a, b = self.index(variables), self.pick(self.index(variables), load(self.n, self.index(variables)))
        return S.compare(str(self.pick("eq", "ne", "lt", "le")), *((a, b) if self.rng.random() < 0.5 else (b, a)))

    def reduce(self, variables: list[S.Expr], role: str, name: str) -> Reduce:
        r = S.var(f"r{name}", int(self.pick(1, 7, 16, 37, 50)))
        fold = Fold(S.ref(f"f{name}", F32), str(self.pick("sum", "max", "min")), self.value([*variables, r], 2))
        return Reduce(r, r.attr[1], (), (fold,), role)

    def body(self, variables: list[S.Expr], role: str, at: S.Expr) -> tuple:
        self.refs = []
        reduce = self.reduce(variables, role, "a")
        self.refs.append(reduce.folds[0].ref)
        bound = Let(S.ref("b", F32), self.value(variables, 2))
        self.refs.append(bound.ref)
        first = store(self.out, at, self.value(variables))
        return (reduce, bound, first, store(self.out, at, load(self.out, at) + self.value(variables, 1)))

    def kernel(self) -> Kernel:
        task, i = S.var("task", 5), S.var("i", int(self.pick(16, 21, 48)))
        role = str(self.pick("vector", "serial"))
        inner = self.body([task, i], "serial" if role == "vector" else str(self.pick("vector", "serial")), task * 48 + i)
        outer = self.body([task], str(self.pick("vector", "serial")), task + 500)
        params = (self.x, self.h, self.n, self.out)
        return Kernel("kernel", params, frozenset((self.out,)), 5, task, (loop(i, inner, role), *outer))


@pytest.mark.parametrize("seed", range(40))
def test_random_kernels_agree_with_the_python_emitter_bit_for_bit(seed: int) -> None:
    maker = Maker(seed)
    kernel, arrays = maker.kernel(), maker.arrays()
    want = {b: a.copy() for b, a in arrays.items()}
    with np.errstate(all="ignore"):
        compile_kernel(kernel)(*want.values(), 0, kernel.tasks)
    run(kernel.body, arrays, tasks=kernel.tasks)
    np.testing.assert_array_equal(arrays[maker.out], want[maker.out])


# ------------------------------------------------------------------------------------------------------------- a tile


def tile(depth: int, rows: int, vectors: int) -> tuple[tuple, tuple, tuple]:
    """c[rows, 16 vectors] = a[depth, rows]^T b[depth, 16 vectors], accumulated in registers."""
    width = vectors * LANES
    a, b, c = Buffer("a", F32, depth * rows), Buffer("b", F32, depth * width), Buffer("c", F32, rows * width)
    acc = Buffer("acc", F32, rows * width, "register")
    k, m, v, lane = S.var("k", depth), S.var("m", rows), S.var("v", vectors), S.var("l", LANES)
    at = m * width + v * LANES + lane

    def each(stmt: Store) -> For:
        return loop(m, (loop(v, (loop(lane, (stmt,)),), "unroll"),), "unroll")

    step = store(acc, at, S.apply("fma", load(a, k * rows + m), load(b, k * width + v * LANES + lane), load(acc, at)))
    body = (each(store(acc, at, S.const(0.0, F32))), loop(k, (each(step),), "serial"), each(store(c, at, load(acc, at))))
    return body, (a, b, c), (acc,)


def test_a_tile_stays_in_registers() -> None:
    depth, rows, vectors = 50, 6, 2
    body, (a, b, c), scratch = tile(depth, rows, vectors)
    x, y, z = floats(depth, rows), floats(depth, 32), np.zeros((rows, 32), np.float32)
    run(body, {a: x, b: y, c: z}, scratch)
    np.testing.assert_allclose(z, x.T @ y, rtol=1e-4, atol=1e-4)
    module = ir.Module()
    emit_kernel(module, Kernel("t", (a, b, c), frozenset((c,)), 1, S.var("task", 1), body, scratch), "t", by_name("x86-64-v4"))
    text = codegen.assembly(module, by_name("x86-64-v4"))
    assert text.count("vfmadd") == rows * vectors
    assert "rsp" not in text


def test_no_contraction() -> None:
    x, y, z = (Buffer(n, F32, 1000) for n in "xyz")
    i = S.var("i", 1000)
    a, b, c = floats(1000), floats(1000), floats(1000)
    np.testing.assert_array_equal(evaluate(load(x, i) * load(y, i) + load(z, i), i, {x: a, y: b, z: c}), a * b + c)


# ------------------------------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4", "aarch64"])
def test_other_targets_compile(name: str) -> None:
    i, x, out = S.var("i", 37), Buffer("x", D.bfloat16, 37), Buffer("out", D.float32, 37)
    body = (loop(i, (store(out, i, S.exp(S.cast(load(x, i), F32))),)),)
    module = ir.Module()
    target = by_name(name)
    emit_kernel(module, Kernel("k", (x, out), frozenset((out,)), 1, S.var("task", 1), body), "k", target)
    assert codegen.compile_module(module, target)[:4] == b"\x7fELF"


def test_the_target_knows_itself() -> None:
    target = native()
    assert target.vector_bytes in (16, 32, 64) and target.vector_registers in (16, 32) and target.triple in target.key
