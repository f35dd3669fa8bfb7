"""Matrix products of int8 summed in int32, beside our own float32 product of the same numbers."""

from __future__ import annotations

import dataclasses

import numpy as np

from benchmarks import gemm
from benchmarks.harness import Case, Family, Workload


def operands(case: Case) -> list[np.ndarray]:
    generator, (m, n, k) = np.random.default_rng(0), case.sizes.values()
    return [generator.integers(-128, 128, shape, np.int8) for shape in ((m, k), (k, n))]


def mainspring(case: Case) -> Workload:
    import mainspring as ms

    a, b = (ms.asarray(x) for x in operands(case))
    product = ms.jit(lambda a, b: ms.matmul(a, b, dtype=ms.int32))
    return Workload(lambda: product(a, b))


def mainspring_f32(case: Case) -> Workload:
    import mainspring as ms

    a, b = (ms.asarray(x.astype(np.float32)) for x in operands(case))
    product = ms.jit(ms.matmul)
    return Workload(lambda: product(a, b))


def torch_eager(case: Case) -> Workload:
    import torch

    a, b = (torch.from_numpy(x) for x in operands(case))
    return Workload(lambda: torch._int_mm(a, b))


def jax(case: Case) -> Workload:
    import jax
    import jax.numpy as jnp

    a, b = (jnp.asarray(x) for x in operands(case))
    product = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.int32))
    return Workload(lambda: product(a, b).block_until_ready())


def onnx_runtime(case: Case) -> Workload:
    from benchmarks.models.onnx import Builder

    a, b = operands(case)
    graph = Builder()
    x, y = (graph.input(name, x.dtype, x.shape) for name, x in (("x", a), ("y", b)))
    graph.output(graph.node("MatMulInteger", x, y), (a.shape[0], b.shape[1]), np.int32)
    return Workload(graph.session({"x": a, "y": b}))


FAMILY = Family(
    "int8_gemm",
    "matrix products, int8 summed in int32",
    tuple(dataclasses.replace(gemm.case_of(*mnk), dtype="int8") for mnk in (
        (256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (1024, 3072, 768), (128, 1024, 1024), (63, 31, 47))),
    {"mainspring": mainspring, "mainspring f32": mainspring_f32, "torch eager": torch_eager, "jax": jax,
     "onnx runtime": onnx_runtime},
    tolerance=1e-5,
    fresh=False,
)
