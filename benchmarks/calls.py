"""What a compiled call costs beyond its kernels: functions of many tiny tensors, and one of a single one."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness import Case, Family, Workload


def _case(leaves: int, results: int) -> Case:
    return Case(f"{leaves} tensors in, {results} out", {"leaves": leaves, "results": results})


def _function(case: Case) -> Any:
    return lambda tensors: [x * 2.0 for x in list(tensors.values())[: case.sizes["results"]]]


def operands(case: Case) -> dict[str, np.ndarray]:
    return {f"w{i:02}": np.full(4, i, np.float32) for i in range(case.sizes["leaves"])}


def mainspring(case: Case) -> Workload:
    import mainspring as ms

    function, tensors = ms.jit(_function(case)), {name: ms.asarray(x) for name, x in operands(case).items()}
    return Workload(lambda: function(tensors))


def torch_eager(case: Case) -> Workload:
    import torch

    function, tensors = _function(case), {name: torch.from_numpy(x) for name, x in operands(case).items()}
    return Workload(torch.no_grad()(lambda: function(tensors)))


def torch_compile(case: Case) -> Workload:
    import torch

    torch._dynamo.reset()
    function, tensors = torch.compile(_function(case)), {name: torch.from_numpy(x) for name, x in operands(case).items()}
    return Workload(torch.no_grad()(lambda: function(tensors)))


def jax(case: Case) -> Workload:
    import jax
    import jax.numpy as jnp

    function, tensors = jax.jit(_function(case)), {name: jnp.asarray(x) for name, x in operands(case).items()}
    return Workload(lambda: jax.block_until_ready(function(tensors)))


FAMILY = Family(
    "calls",
    "compiled calls of tiny tensors",
    (_case(1, 1), _case(50, 1), _case(50, 50)),
    {"mainspring": mainspring, "torch eager": torch_eager, "torch.compile": torch_compile, "jax": jax},
    fresh=False,
)
