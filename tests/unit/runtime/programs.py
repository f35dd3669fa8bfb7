"""Hand-made kernels and programs for the tests of the two emitters and of the team."""

from __future__ import annotations

import numpy as np

from mainspring.compile.loops import Body, Buffer, Fold, For, Kernel, Reduce, Store, Write, load
from mainspring.compile.program import ARENA, Barrier, Launch, Program, Ref, Repeat
from mainspring.ir.scalar import Expr, cast, const, exp, ref, var, where
from mainspring.types.dtype import DType, bool_, float32, int64

HEAVY = 1e9  # work of a program that must run on the whole team


def store(buffer: Buffer, index: Expr, value: Expr, guard: Expr | None = None) -> Store:
    return Store((Write(buffer, index, value, guard),))


def each(index: Expr, *body: Store | Reduce, role: str = "vector") -> For:
    return For(index, const(0, int64), const(index.attr[1], int64), tuple(body), role)


def kernel(name: str, params: tuple[Buffer, ...], written: Buffer, task: Expr, body: Body,
           scratch: tuple[Buffer, ...] = ()) -> Kernel:
    return Kernel(name, params, frozenset([written]), task.attr[1], task, body, scratch)


def softmax(rows: int, columns: int, name: str = "") -> Kernel:
    x, y = Buffer(f"x{name}", float32, rows * columns), Buffer(f"y{name}", float32, rows * columns)
    e = Buffer(f"e{name}", float32, columns, "scratch")
    t, i, j, k = var(f"t{name}", rows), var(f"i{name}", columns), var(f"j{name}", columns), var(f"k{name}", columns)
    m, s = ref(f"m{name}", float32), ref(f"s{name}", float32)
    return kernel("softmax", (x, y), y, t, (
        Reduce(i, columns, (), (Fold(m, "max", load(x, t * columns + i)),)),
        each(j, store(e, j, exp(load(x, t * columns + j) - m))),
        Reduce(k, columns, (), (Fold(s, "sum", load(e, k)),)),
        each(j, store(y, t * columns + j, load(e, j) / s)),
    ), (e,))


def column_sums(rows: int, columns: int, dtype: DType = float32, block: int = 8) -> Kernel:
    """y[c] = sum over r of x[r, c]: serial reductions inside a vector For, in tasks of `block` columns with a tail."""
    x, y = Buffer("x", dtype, rows * columns), Buffer("y", dtype, columns)
    tasks = -(-columns // block)
    t, v, r, s = var("t", tasks), var("v", block), var("r", rows), ref("s", dtype)
    at = t * block + v
    inside = at < columns
    return kernel("column_sums", (x, y), y, t, (
        each(v, Reduce(r, rows, (), (Fold(s, "sum", load(x, r * columns + at, inside)),), "serial"), store(y, at, s, inside)),
    ))


def shift(n: int, block: int = 4) -> Kernel:
    """y[i] = x[(i + 1) mod n] + 1: what a thread reads, another has written."""
    x, y = Buffer("x", int64, n), Buffer("y", int64, n)
    t, v = var("t", -(-n // block)), var("v", block)
    at = t * block + v
    return kernel("shift", (x, y), y, t, (each(v, store(y, at, load(x, (at + 1) % n, at < n) + 1, at < n)),))


def below(limit: int) -> Kernel:
    """flag[0] = x[0] < limit."""
    x, flag, t = Buffer("x", int64, 1), Buffer("flag", bool_, 1), var("t", 1)
    return kernel("below", (x, flag), flag, t, (store(flag, t, load(x, t) < limit),))


def affine(n: int, scale: int, offset: int) -> Kernel:
    """y[i] = x[i] * scale + offset."""
    x, y, t = Buffer("x", int64, n), Buffer("y", int64, n), var("t", n)
    return kernel("affine", (x, y), y, t, (store(y, t, load(x, t) * scale + offset),))


def mixed(n: int) -> Kernel:
    """A long body of several dtypes: float32 and int64 in, float32 out."""
    x, k, y = Buffer("x", float32, n), Buffer("k", int64, n), Buffer("y", float32, n)
    t, v = var("t", -(-n // 16)), var("v", 16)
    at = t * 16 + v
    inside = at < n
    a, b = load(x, at, inside), load(k, at, inside)
    value = where(b % 3 < 1, a * 0.5 + cast(b, float32), 1.0 / (a * a + 1.0))
    return kernel("mixed", (x, k, y), y, t, (each(v, store(y, at, value, inside)),))


def ping_pong(n: int, steps: int) -> Program:
    """`steps` dependent launches between two bases with a barrier after each; written out in one Repeat of two."""
    there, back = Launch(shift(n), (Ref(0), Ref(1))), Launch(shift(n), (Ref(1), Ref(0)))
    return Program((Repeat(steps // 2, "r", (there, Barrier(), back, Barrier())),), 2, 0, HEAVY)


def chain(rows: int, columns: int) -> Program:
    """softmax into the arena, column sums of it into base 1."""
    return Program((
        Launch(softmax(rows, columns), (Ref(0), Ref(ARENA))), Barrier(),
        Launch(column_sums(rows, columns), (Ref(ARENA), Ref(1))),
    ), 2, 4 * rows * columns, HEAVY)


def addresses(arrays: list[np.ndarray]) -> list[int]:
    return [a.ctypes.data for a in arrays]


