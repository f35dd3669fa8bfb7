"""What memory, or the overhead of a call, bounds: elementwise chains, softmax and layer norm, of 1 k to 10 M elements."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.harness import Case, Family, Workload

EPS = 1e-5


def _case(op: str, rows: int, columns: int, extra: bool = False) -> Case:
    arrays = {"gelu": 3, "relu": 3, "softmax": 2, "norm": 2}[op]
    return Case(f"{op} {rows}x{columns}", {"op": op, "rows": rows, "columns": columns}, moved=4.0 * arrays * rows * columns,
                extra=extra)


def operands(case: Case) -> list[np.ndarray]:
    """Two arrays of the shape, and a vector of weights and one of biases."""
    generator, shape = np.random.default_rng(0), (case.sizes["rows"], case.sizes["columns"])
    return [generator.standard_normal(size, np.float32) for size in (shape, shape, shape[1:], shape[1:])]


def mainspring(case: Case) -> Workload:
    import mainspring as ms

    ops = {
        "gelu": lambda x, y, w, b: ms.gelu(x + b) * w + y,
        "relu": lambda x, y, w, b: ms.relu(x * 0.5 + y),
        "softmax": lambda x, y, w, b: ms.softmax(x),
        "norm": lambda x, y, w, b: ms.layer_norm(x, w, b, eps=EPS),
    }
    values, function = [ms.asarray(x) for x in operands(case)], ms.jit(ops[case.sizes["op"]])
    return Workload(lambda: function(*values))


def torch(case: Case, compiled: bool) -> Workload:
    import torch
    import torch.nn.functional as F

    ops: dict[str, Callable[..., Any]] = {
        "gelu": lambda x, y, w, b: F.gelu(x + b) * w + y,
        "relu": lambda x, y, w, b: F.relu(x * 0.5 + y),
        "softmax": lambda x, y, w, b: torch.softmax(x, -1),
        "norm": lambda x, y, w, b: F.layer_norm(x, w.shape, w, b, EPS),
    }
    values, function = [torch.from_numpy(x) for x in operands(case)], ops[case.sizes["op"]]
    if compiled:
        torch._dynamo.reset()
        function = torch.compile(function, dynamic=False)
    return Workload(torch.no_grad()(lambda: function(*values)))


def jax(case: Case) -> Workload:
    import jax
    import jax.numpy as jnp

    def norm(x: Any, y: Any, w: Any, b: Any) -> Any:
        shifted = x - x.mean(-1, keepdims=True)
        return shifted * jax.lax.rsqrt((shifted * shifted).mean(-1, keepdims=True) + EPS) * w + b

    ops = {
        "gelu": lambda x, y, w, b: jax.nn.gelu(x + b, approximate=False) * w + y,
        "relu": lambda x, y, w, b: jax.nn.relu(x * 0.5 + y),
        "softmax": lambda x, y, w, b: jax.nn.softmax(x),
        "norm": norm,
    }
    values, function = [jnp.asarray(x) for x in operands(case)], jax.jit(ops[case.sizes["op"]])
    return Workload(lambda: function(*values).block_until_ready())


def onnx_runtime(case: Case) -> Workload:
    from benchmarks.models.onnx import Builder

    graph, (x, y, w, b) = Builder(), operands(case)
    feed = {"x": x, "y": y} if case.sizes["op"] in ("gelu", "relu") else {"x": x}
    names = [graph.input(name, value.dtype, value.shape) for name, value in feed.items()]
    if case.sizes["op"] == "gelu":
        active = graph.node("Gelu", graph.node("Add", names[0], graph.constant(b)))
        found = graph.node("Add", graph.node("Mul", active, graph.constant(w)), names[1])
    elif case.sizes["op"] == "relu":
        half = graph.node("Mul", names[0], graph.constant(np.float32(0.5)))
        found = graph.node("Relu", graph.node("Add", half, names[1]))
    elif case.sizes["op"] == "softmax":
        found = graph.node("Softmax", names[0], axis=-1)
    else:
        found = graph.node("LayerNormalization", names[0], graph.constant(w), graph.constant(b), epsilon=EPS)
    graph.output(found, x.shape)
    return Workload(graph.session(feed))


OPS = ("gelu", "relu", "softmax", "norm")
SHAPES = ((4, 256), (128, 256), (1000, 1000), (10000, 1000))
EXTRA = ((1, 1000), (64, 77), (333, 1023), (4000, 256), (100, 50000))
FAMILY = Family(
    "rows",
    "elementwise chains, softmax and layer norm, float32",
    (*(_case(op, *shape) for op in OPS for shape in SHAPES), *(_case(op, *shape, extra=True) for op in OPS for shape in EXTRA)),
    {"mainspring": mainspring, "torch eager": partial(torch, compiled=False), "torch.compile": partial(torch, compiled=True),
     "jax": jax, "onnx runtime": onnx_runtime},
    tolerance=2e-5,
    fresh=False,
)
