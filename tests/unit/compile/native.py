"""Runs hand-made kernels natively: the helper of the code generator's tests."""

from __future__ import annotations

import ctypes

import numpy as np
from llvmlite import ir

from mainspring.compile.emit import codegen
from mainspring.compile.emit.llvm import emit_kernel, scratch_bytes
from mainspring.compile.loops import Body, Buffer, For, Kernel, Store, Write, load
from mainspring.compile.target import Target, native
from mainspring.ir import scalar as S
from mainspring.types.dtype import as_dtype, int64


def number(n: int) -> S.Expr:
    return S.const(n, int64)


def loop(var: S.Expr, body: Body, role: str = "vector") -> For:
    """`body` for every value of `var`."""
    return For(var, number(0), number(var.attr[1]), body, role)


def store(buffer: Buffer, index: S.Expr | int, value: S.Expr, guard: S.Expr | None = None) -> Store:
    return Store((Write(buffer, index if isinstance(index, S.Expr) else number(index), value, guard),))


def run(body: Body, arrays: dict[Buffer, np.ndarray], scratch: tuple[Buffer, ...] = (), tasks: int = 1,
        target: Target | None = None) -> None:
    """Compiles `body` (its task is the variable "task") and runs all tasks on `arrays`, in place.

    `target`: facts of another machine, with instructions of this one.
    """
    task = S.var("task", tasks)
    kernel = Kernel("kernel", tuple(arrays), frozenset(arrays), tasks, task, body, scratch)
    module = ir.Module()
    emit_kernel(module, kernel, "kernel", target or native())
    loaded = codegen.load_object(codegen.compile_module(module))
    prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (len(arrays) + 1), ctypes.c_int64, ctypes.c_int64)
    function = prototype(loaded.address("kernel"))
    room = np.zeros(scratch_bytes(kernel) + 64, np.uint8)
    function(*[a.ctypes.data for a in arrays.values()], room.ctypes.data + -room.ctypes.data % 64, 0, tasks)


def elementwise(op: str, *inputs: np.ndarray, role: str = "vector", target: Target | None = None) -> np.ndarray:
    """The primitive `op` of arrays of one size."""
    n = inputs[0].size
    i = S.var("i", n)
    buffers = [Buffer(f"x{k}", as_dtype(x.dtype), n) for k, x in enumerate(inputs)]
    return evaluate(S.apply(op, *[load(b, i) for b in buffers]), i, dict(zip(buffers, inputs, strict=True)), role, target)


def evaluate(value: S.Expr, i: S.Expr, arrays: dict[Buffer, np.ndarray], role: str = "vector",
             target: Target | None = None) -> np.ndarray:
    """`value` for all i, as an array."""
    out = Buffer("out", value.dtype, i.attr[1])
    result = np.zeros(out.size, out.dtype.numpy)
    run((loop(i, (store(out, i, value),), role),), {**arrays, out: result}, target=target)
    return result
