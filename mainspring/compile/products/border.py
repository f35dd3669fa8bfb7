"""The zeros around a value that a product stores in their midst: `pad` without a pass over what is padded.

    y = conv(x, w); p = pad(relu(y))    →    border(-> p); tile(x, w -> the inside of p, relu in its epilogue)

A task is a place in the dims before the first padded one; along each padded dim the zeros before and after are runs of memory.
"""

from __future__ import annotations

import math

from mainspring.compile.loops import Buffer, For, Kernel, Stmt, Store, Write
from mainspring.ir import scalar as s
from mainspring.ir.graph import Node
from mainspring.ir.scalar import Expr
from mainspring.ops.movement import element_strides
from mainspring.types.dtype import int64

ZERO = s.const(0, int64)


def border_kernel(buffer: Buffer, of: Node) -> Kernel:
    """Zeros where `of`, a pad that lies in `buffer`, has no element of its operand."""
    low, high, strides = of.static["low"], of.static["high"], element_strides(of.shape)
    padded = [d for d, pads in enumerate(zip(low, high, strict=True)) if any(pads)]
    first = min(padded, default=len(low))
    task = s.var("task", math.prod(of.shape[:first]))
    stmts: list[Stmt] = []
    for d in padded:
        inner = [s.var(f"i{i}", of.shape[i]) for i in range(first, d)]
        begin = task * math.prod(of.shape[first:])
        for i, var in enumerate(inner, first):
            begin = begin + var * strides[i]
        runs: list[Stmt] = [_run(buffer, begin, 0, low[d] * strides[d]),
                            _run(buffer, begin, (of.shape[d] - high[d]) * strides[d], high[d] * strides[d])]
        for i, var in reversed([*enumerate(inner, first)]):
            runs = [For(var, s.const(low[i], int64), s.const(of.shape[i] - high[i], int64), tuple(runs))]
        stmts += runs
    return Kernel("border", (buffer,), frozenset([buffer]), task.attr[1], task, tuple(stmts))


def _run(buffer: Buffer, begin: Expr, start: int, count: int) -> Stmt:
    """`count` zeros from `begin + start` on."""
    i = s.var("zero", max(1, count))
    zero = Store((Write(buffer, begin + (i + start), s.const(0, buffer.dtype)),))
    return For(i, ZERO, s.const(count, int64), (zero,), "vector")
