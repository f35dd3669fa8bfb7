"""Scatter: every task owns some places of the result and applies all updates to them in order, so nothing races.

The dims that are not indexed are dealt out: tasks take blocks of their last contiguous run (for an embedding's gradient: of
the channels), and each task goes through the indices in order. Indices out of range are dropped.
"""

from __future__ import annotations

import math

from mainspring.compile.loops import Buffer, If, Kernel, Let, Stmt, Store, load
from mainspring.compile.template import Call, template
from mainspring.compile.templates.lines import block_of, loop, store
from mainspring.ir.scalar import Expr, apply, both, cast, compare, const, ref, var, where
from mainspring.types.dtype import bool_, int64
from mainspring.types.shape import Shape, element_strides

COMBINE = {"add": "add", "multiply": "mul", "max": "max", "min": "min"}
COPY_BLOCK = 4096
COLUMNS = 64  # of the contiguous run, for one task


@template("scatter")
def scatter(call: Call) -> list[Kernel]:
    """A copy of x, then the updates."""
    if not call.output_types[0].size:
        return []
    copied = _copy(call)
    return [copied, _updates(call)] if call.input_types[1].size else [copied]


def _copy(call: Call) -> Kernel:
    x, y, size = call.inputs[0], call.outputs[0], call.output_types[0].size
    block = min(size, COPY_BLOCK)
    task = var("task", -(-size // block))
    i, start, stop = block_of(task, size, block, "i")
    body = (loop(i, store(y, i, load(x, i)), start=start, stop=stop, role="vector"),)
    return Kernel("scatter_copy", (x, y), frozenset([y]), task.attr[1], task, body)


def _runs(shape: Shape, axes: tuple[int, ...]) -> list[tuple[int, int]]:
    """The dims that are not indexed as (extent, stride), neighbours that are contiguous with each other joined."""
    runs: list[tuple[int, int]] = []
    strides = element_strides(shape)
    for axis, (extent, stride) in enumerate(zip(shape, strides, strict=True)):
        if axis in axes or extent == 1:
            continue
        if runs and runs[-1][1] == extent * stride:
            runs[-1] = (runs[-1][0] * extent, stride)
        else:
            runs.append((extent, stride))
    return runs or [(1, 1)]


def _place(call: Call, n: Expr) -> tuple[Expr, Expr]:
    """Where update `n` goes along the indexed dims, in elements, and whether that is inside."""
    shape = call.input_types[0].shape
    strides = element_strides(shape)
    offset, inside = const(0, int64), const(True, bool_)
    for index, axis in zip(call.inputs[2:], call.static["axes"], strict=True):
        place, there = placed(load(index, n), shape[axis])
        inside, offset = both(inside, there), offset + place * strides[axis]
    return offset, inside


def placed(index: Expr, extent: int) -> tuple[Expr, Expr]:
    """The place that `index` names in a dim, and whether it is inside."""
    raw = cast(index, int64)
    place = raw if index.dtype.kind == "uint" else where(compare("lt", raw, 0), raw + extent, raw)
    return place, both(compare("le", 0, place), compare("lt", place, extent))


def _updates(call: Call) -> Kernel:
    y = call.outputs[0]
    *outer, (extent, stride) = _runs(call.input_types[0].shape, call.static["axes"])
    trailing = math.prod(m for m, _ in outer) * extent
    block = min(extent, COLUMNS)
    blocks = -(-extent // block)
    task, n = var("task", trailing // extent * blocks), var("n", call.input_types[2].size)
    column, start, stop = block_of(task % blocks, extent, block, "column") if extent > 1 else (const(0, int64),) * 3
    line, place = task // blocks, ref("place", int64)
    at, inside = _place(call, n)
    change = _change(call, place + _offset(line, outer) + column * stride, n * trailing + line * extent + column)
    write: Stmt = loop(column, change, start=start, stop=stop, role="vector") if extent > 1 else change
    body = (loop(n, If(inside, (Let(place, at), write))),)
    flops = 0 if call.static["mode"] == "set" else call.input_types[1].size
    return Kernel("scatter", tuple(dict.fromkeys((*call.inputs[1:], y))), frozenset([y]), task.attr[1], task, body, flops=flops)


def _offset(line: Expr, outer: list[tuple[int, int]]) -> Expr:
    """Where the contiguous run `line` begins, in elements."""
    offset = const(0, int64)
    for extent, stride in reversed(outer):
        offset, line = offset + line % extent * stride, line // extent
    return offset


def _change(call: Call, to: Expr, source: Expr) -> Store:
    """One update of one element."""
    return changed(call.static["mode"], call.outputs[0], to, load(call.inputs[1], source))


def changed(mode: str, y: Buffer, to: Expr, value: Expr) -> Store:
    """`value` put at `to`."""
    return store(y, to, value if mode == "set" else apply(COMBINE[mode], load(y, to), value))
