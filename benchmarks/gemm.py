"""Matrix products: square and oblong, large, small and odd."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness import Case, Family, Workload


def case_of(m: int, n: int, k: int, extra: bool = False) -> Case:
    return Case(f"{m}x{n}x{k}", {"m": m, "n": n, "k": k}, operations=2.0 * m * n * k, extra=extra)


def operands(case: Case) -> list[np.ndarray]:
    generator, (m, n, k) = np.random.default_rng(0), case.sizes.values()
    return [generator.standard_normal(shape, np.float32) for shape in ((m, k), (k, n))]


def mainspring(case: Case) -> Workload:
    import mainspring as ms

    a, b = (ms.asarray(x) for x in operands(case))
    product = ms.jit(ms.matmul)
    return Workload(lambda: product(a, b))


def torch_eager(case: Case) -> Workload:
    import torch

    a, b = (torch.from_numpy(x) for x in operands(case))
    return Workload(torch.no_grad()(lambda: a @ b))


def jax(case: Case) -> Workload:
    import jax
    import jax.numpy as jnp

    a, b = (jnp.asarray(x) for x in operands(case))
    product = jax.jit(jnp.matmul)
    return Workload(lambda: product(a, b).block_until_ready())


def onnx_runtime(case: Case) -> Workload:
    from benchmarks.models.onnx import Builder

    a, b = operands(case)
    graph = Builder()
    x, y = (graph.input(name, x.dtype, x.shape) for name, x in (("x", a), ("y", b)))
    graph.output(graph.node("MatMul", x, y), (a.shape[0], b.shape[1]))
    return Workload(graph.session({"x": a, "y": b}))


def tinygrad(case: Case) -> Workload:
    from tinygrad import Device, Tensor, TinyJit

    a, b = (Tensor(x).realize() for x in operands(case))
    product = TinyJit(lambda a, b: (a @ b).realize())

    def run() -> Any:
        result = product(a, b)
        Device[Device.DEFAULT].synchronize()
        return result

    return Workload(run)


SQUARES = (256, 512, 1024, 2048)
SMALL = (8, 16, 24, 32, 48, 64)
FAMILY = Family(
    "gemm",
    "matrix products, float32",
    (
        *(case_of(n, n, n) for n in SQUARES),
        case_of(1024, 3072, 768),
        case_of(128, 1024, 1024),
        *(case_of(n, n, n) for n in SMALL),
        *(case_of(*mnk) for mnk in ((7, 5, 9), (33, 17, 65), (63, 31, 47))),
        *(case_of(*mnk, extra=True) for mnk in (
            (384, 384, 384), (768, 768, 768), (1000, 1000, 1000), (1536, 1536, 1536), (4096, 64, 4096), (64, 4096, 512),
            (1, 1024, 1024), (8, 1024, 1024), (32, 4096, 1024), (100, 100, 100), (127, 129, 131), (2048, 512, 128))),
    ),
    {"mainspring": mainspring, "torch eager": torch_eager, "jax": jax, "onnx runtime": onnx_runtime, "tinygrad": tinygrad},
    tolerance=1e-5,
    fresh=False,
)
