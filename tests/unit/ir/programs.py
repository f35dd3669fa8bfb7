"""Graphs of small programs that between them use every kind of static parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mainspring.autodiff.reverse import grad
from mainspring.interpret.staged import trace
from mainspring.ir.graph import Graph
from mainspring.ops import elementwise as e
from mainspring.ops import movement as m
from mainspring.ops import random as rnd
from mainspring.ops import reduce as r
from mainspring.ops.control import call_graph, checkpoint, cond, while_loop
from mainspring.ops.scan import scan
from mainspring.tensor import asarray
from mainspring.types.dtype import float32, int64, uint32
from mainspring.types.shape import TensorType

VECTOR, MATRIX = TensorType((3,), float32), TensorType((2, 3), float32)


def affine(x: Any, w: Any) -> Any:
    return e.tanh(x * w + asarray([0.5, -0.0, 2.0]))


def odd_numbers(x: Any) -> Any:
    big = asarray(np.arange(20, dtype=np.float32))
    pieces = m.pad(x, 1, value=float("nan")), m.pad(x, 1, value=float("-inf")), m.pad(x, 1, value=-0.0)
    payload = asarray(np.array([0x7FC12345, 1], np.uint32).view(np.float32))
    return m.concat([*pieces, big, payload, asarray(np.array([np.nan, np.inf, 1e-45, 0.1], np.float32))])


def recurrent(xs: Any, h: Any, w: Any) -> Any:
    def body(h: Any, x: Any) -> Any:
        h = e.tanh(h * w + x)
        return h, cond(r.sum(h) > 0, lambda: h * 2.0, lambda: e.exp(h))

    h, ys = scan(body, h, xs)
    return r.sum(ys) + r.sum(h)


def halving(n: Any) -> Any:
    return while_loop(lambda s: s["n"] > 1, lambda s: {"n": s["n"] // 2, "k": s["k"] + 1}, {"n": n, "k": 0})["k"]


def shared_calls(x: Any) -> Any:
    inner = trace(lambda v: [e.sin(v) * 2.0], [VECTOR]).graph
    once = call_graph(inner, [x])[0]
    return call_graph(inner, [once])[0] + checkpoint(e.exp)(once)


def noise(key: Any) -> Any:
    return rnd.uniform(rnd.fold_in(key, 3), (4,)), rnd.bernoulli(key, 0.5, (2, 2)), rnd.randint(key, 3, 0, 9, "uint8")


def gradient(xs: Any, h: Any, w: Any) -> Any:
    return grad(recurrent, argnums=(1, 2))(xs, h, w)


PROGRAMS: dict[str, tuple[Callable[..., Any], list[TensorType]]] = {
    "affine": (affine, [MATRIX, VECTOR]),
    "odd_numbers": (odd_numbers, [VECTOR]),
    "recurrent": (recurrent, [MATRIX, VECTOR, VECTOR]),
    "gradient": (gradient, [MATRIX, VECTOR, VECTOR]),
    "halving": (halving, [TensorType((), int64)]),
    "shared_calls": (shared_calls, [VECTOR]),
    "noise": (noise, [TensorType((2,), uint32)]),
}


def traced(name: str) -> Graph:
    """The graph of one of PROGRAMS."""
    function, types = PROGRAMS[name]

    def flat(*values: Any) -> Any:
        result = function(*values)
        return result if isinstance(result, tuple) else (result,)

    return trace(flat, types).graph
