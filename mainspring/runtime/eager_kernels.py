"""Eager mode's heavy ops through compiled kernels of their own: a graph of the one op, compiled once a signature, kept on disk.

Which signatures are heavy is a table, by the work of one application alone: the same call gives the same bits, whenever it is
made. Below the limits NumPy's reference is as fast, or is not slow for long enough to pay for a compilation (50 to 100 ms, once
a shape). MS_BACKEND=reference turns the kernels off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mainspring.base import flags
from mainspring.interpret import eager
from mainspring.ir.bind import Value
from mainspring.ir.graph import Graph, graph, input_node, items, node
from mainspring.ir.op import Op
from mainspring.runtime import build
from mainspring.types.shape import TensorType

if TYPE_CHECKING:
    from mainspring.runtime.executable import Executable

Work = Callable[[Op, tuple[TensorType, ...], dict[str, Any]], int]


def _points(op: Op, types: tuple[TensorType, ...], static: dict[str, Any]) -> int:
    """Points of the iteration space."""
    space = op.space_of(*types, **static)
    return 0 if space is None else math.prod(space.extents) * math.prod(space.reduced)


def _elements(op: Op, types: tuple[TensorType, ...], static: dict[str, Any]) -> int:
    """Elements of the largest operand."""
    return max([t.size for t in types], default=0)


def _rounds(op: Op, types: tuple[TensorType, ...], static: dict[str, Any]) -> int:
    """Ops that a scan applies, one after the other."""
    return static["length"] * len(static["body"].nodes())


def _pairs(op: Op, types: tuple[TensorType, ...], static: dict[str, Any]) -> int:
    """Multiplications of queries with keys, of all heads."""
    q, k = types[0].shape, types[1].shape
    return math.prod(q) * k[1]


def _sweep(op: Op, types: tuple[TensorType, ...], static: dict[str, Any]) -> int:
    """Multiplications of a recurrent sweep: the weights, for each step and row."""
    return types[1].size * math.prod(types[0].shape[:2])


def _results(op: Op, types: tuple[TensorType, ...], static: dict[str, Any]) -> int:
    """Elements of the result."""
    return op.infer(*types, **static).size  # type: ignore[union-attr]


#: op name -> (measure of work, the least at which the kernel is taken: about a millisecond of NumPy on one core)
HEAVY: dict[str, tuple[Work, int]] = {
    "contract": (_points, 30_000_000),
    "conv": (_points, 5_000_000),
    **dict.fromkeys(("window_max", "window_sum", "window_first", "window_spread", "window_pick"), (_points, 200_000)),
    "scatter": (_elements, 200_000),
    "gather": (_results, 500_000),
    **dict.fromkeys(("cumulative_max", "cumulative_min", "cumulative_prod", "cumulative_sum"), (_elements, 500_000)),
    "scan": (_rounds, 5_000),
    **dict.fromkeys(("attention", "attention_gradient"), (_pairs, 5_000_000)),
    **dict.fromkeys(("lstm", "lstm_grad", "gru", "gru_grad"), (_sweep, 5_000_000)),
}


class _Kernel:
    """One op at one signature; compiled when it is first called."""

    def __init__(self, of: Graph, single: bool):
        self.graph, self.single = of, single
        self.executable: Executable | None = None

    def __call__(self, args: tuple[Value, ...]) -> Any:
        if flags.backend() != "llvm":
            return None
        if self.executable is None:
            self.executable = build(self.graph)
        results = self.executable(args)
        return results[0] if self.single else tuple(results)


def _kernel(op: Op, types: tuple[TensorType, ...], static: dict[str, Any]) -> _Kernel | None:
    measure, least = HEAVY[op.name]
    if measure(op, types, static) < least:
        return None
    of = node(op, [input_node(i, t) for i, t in enumerate(types)], static)
    single = isinstance(of.type, TensorType)
    return _Kernel(graph(of.inputs, (of,) if single else items(of)), single)


def _call(op: Op, types: tuple[TensorType, ...], static: dict[str, Any]) -> Callable[[tuple[Value, ...]], Any]:
    """A jitted function under a tape runs compiled all the same, by the backend of the moment."""
    return lambda args: tuple(build(static["graph"])(args))


def install() -> None:
    """Let eager mode use the kernels."""
    eager.accelerated.update(dict.fromkeys(HEAVY, _kernel))
    eager.accelerated["call"] = _call
