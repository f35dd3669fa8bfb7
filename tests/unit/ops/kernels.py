"""Runs an op's loop nests through the Python emitter, and checks gradients, for the tests of the ops."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir

import mainspring.compile.templates  # noqa: F401  registers the templates
from mainspring.autodiff.reverse import vjp
from mainspring.compile.emit import codegen
from mainspring.compile.emit.llvm import emit_kernel, scratch_bytes
from mainspring.compile.emit.python import compile_kernel
from mainspring.compile.loops import Buffer, For, Kernel, Store, Write, load
from mainspring.compile.target import Target
from mainspring.compile.target import native as native_target
from mainspring.compile.template import TEMPLATES, Call
from mainspring.interpret.staged import evaluate, trace
from mainspring.ir.op import OPS
from mainspring.ir.scalar import const, var
from mainspring.ops.movement import ravel, unravel
from mainspring.tensor import asarray
from mainspring.types.dtype import DType, as_dtype, int64
from mainspring.types.shape import TensorType


def type_of(array: np.ndarray) -> TensorType:
    return TensorType(array.shape, as_dtype(array.dtype))


def native(kernel: Kernel) -> Callable[..., None]:
    """`kernel` as machine code, called like the function of `compile_kernel`."""
    module = ir.Module()
    emit_kernel(module, kernel, "kernel", native_target())
    loaded = codegen.load_object(codegen.compile_module(module))
    count = len(kernel.params) + 1
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * count, ctypes.c_int64, ctypes.c_int64)(loaded.address("kernel"))
    room = np.zeros(scratch_bytes(kernel) + 64, np.uint8)

    def call(*arguments: Any) -> None:
        *arrays, begin, end = arguments
        function(*[a.ctypes.data for a in arrays], room.ctypes.data + -room.ctypes.data % 64, begin, end)
        assert loaded  # the code must live as long as the call

    return call


def compilers(dtype: DType) -> tuple[Callable[[Kernel], Any], ...]:
    """What to compile kernels of `dtype` with: Python always, machine code for one dtype of each family, to save time."""
    return (compile_kernel, native) if dtype.name in ("bool", "uint8", "int64", "bfloat16", "float32") else (compile_kernel,)


def run_template(name: str, *arrays: np.ndarray, compiler: Callable[[Kernel], Any] = compile_kernel,
                 target: Target | None = None, **static: Any) -> list[np.ndarray]:
    """The results of op `name` by its template; tasks run last to first, since their order must not matter.

    `compiler` makes a kernel callable: `compile_kernel` (Python) or `native`. `target` chooses the sizes of tiles alone.
    """
    op, types = OPS[name], tuple(type_of(a) for a in arrays)
    inferred = op.infer(*types, **static)
    outs = (inferred,) if isinstance(inferred, TensorType) else inferred
    ins = tuple(Buffer(f"in{i}", t.dtype, t.size) for i, t in enumerate(types))
    results = tuple(Buffer(f"out{i}", t.dtype, t.size) for i, t in enumerate(outs))
    flat = {b: a.ravel() for b, a in zip(ins, arrays, strict=True)} | {b: np.zeros(b.size, b.dtype.numpy) for b in results}
    call = Call(ins, results, types, outs, static, target or native_target())
    kernels = TEMPLATES[name](call)
    flat |= {b: np.full(b.size, 7, b.dtype.numpy) for b in call.temporaries}
    for kernel in kernels:
        run = compiler(kernel)
        for task in reversed(range(kernel.tasks)):
            run(*[flat[p] for p in kernel.params], task, task + 1)
    return [flat[b].reshape(t.shape) for b, t in zip(results, outs, strict=True)]


def run_space(name: str, *arrays: np.ndarray, **static: Any) -> np.ndarray:
    """The result of op `name` by its iteration space (which reduces nothing)."""
    op, types = OPS[name], tuple(type_of(a) for a in arrays)
    out, space = op.infer(*types, **static), op.space_of(*types, **static)
    ins = [Buffer(f"in{i}", t.dtype, t.size) for i, t in enumerate(types)]
    result = Buffer("out", out.dtype, out.size)

    def read(i: int, *index: Any, guard: Any = None, fill: Any = 0) -> Any:
        return load(ins[i], ravel(index, types[i].shape), guard, const(fill, types[i].dtype))

    task, place = var("task", 1), var("place", out.size)
    element = space.element(read, *unravel(place, out.shape))
    body = (For(place, const(0, int64), const(out.size, int64), (Store((Write(result, place, element),)),), "vector"),)
    target = np.zeros(out.size, out.dtype.numpy)
    kernel = Kernel(name, (*ins, result), frozenset([result]), 1, task, body)
    compile_kernel(kernel)(*[a.ravel() for a in arrays], target, 0, 1)
    return target.reshape(out.shape)


def check_gradients(function: Callable[..., Any], *arrays: np.ndarray, order: int = 2, seed: int = 0,
                    staged: bool = True) -> None:
    """⟨c, J v⟩ by central differences against ⟨Jᵀ c, v⟩, and again for the gradient itself, in float64.

    With `staged` the pullback is also traced, and its graph must give the same.
    """
    rng = np.random.default_rng(seed)
    primals = [asarray(a) for a in arrays]
    out, pull = vjp(function, *primals)
    ct = asarray(rng.standard_normal(out.shape))
    tangents = [rng.standard_normal(a.shape) for a in arrays]
    step = 1e-6
    moved = [[asarray(a + h * t) for a, t in zip(arrays, tangents, strict=True)] for h in (step, -step)]
    ahead, behind = (function(*values).numpy() for values in moved)
    expected = np.sum(ct.numpy() * (ahead - behind)) / (2 * step)
    got = sum(np.sum(g.numpy() * t) for g, t in zip(pull(ct), tangents, strict=True))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
    if staged:
        traced = trace(lambda *xs: vjp(function, *xs)[1](ct), [p._type for p in primals])
        for a, b in zip(evaluate(traced.graph, [*primals, *traced.captured]), pull(ct), strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)
    if order > 1:
        for k in range(len(arrays)):
            gradient = partial(lambda k, *xs: vjp(function, *xs)[1](ct)[k], k)
            check_gradients(gradient, *arrays, order=order - 1, seed=seed + k + 1, staged=staged)
