"""Running sums, products and extrema: lines are independent, and along a line the elements come one after the other.

16-bit floats run in float32 and are rounded as they are stored, so an element does not depend on how the lines are dealt out.
"""

from __future__ import annotations

from collections.abc import Callable

from mainspring.compile.loops import Buffer, Kernel, Stmt, load
from mainspring.compile.template import Call, template
from mainspring.compile.templates.lines import BLOCK, Lines, block_of, loop, number, params, store
from mainspring.ir.primitives import COMPUTE_DTYPE
from mainspring.ir.scalar import Expr, apply, cast, var


def _running(name: str, combine: str) -> Callable[[Call], list[Kernel]]:
    def build(call: Call) -> list[Kernel]:
        lines = Lines.of(call.input_types[0].shape, call.static["axis"])
        if not call.input_types[0].size:
            return []
        dtype = call.input_types[0].dtype
        wide = COMPUTE_DTYPE.get(dtype.name, dtype)
        block = min(lines.inner, BLOCK)
        blocks = -(-lines.inner // block)
        task = var("task", lines.outer * blocks)
        total = Buffer("total", wide, block, "register" if block == 1 else "scratch")
        body = _line(call, lines, combine, task, blocks, total)
        size = call.input_types[0].size
        return [Kernel(name, params(call), frozenset(call.outputs), lines.outer * blocks, task, body, (total,), size)]

    return template(name)(build)


def _line(call: Call, lines: Lines, combine: str, task: Expr, blocks: int, total: Buffer) -> tuple[Stmt, ...]:
    """All elements of one block of neighbouring lines."""
    (x,), (y,) = call.inputs, call.outputs
    column, start, stop = block_of(task % blocks, lines.inner, total.size, "column")
    step = var("step", lines.extent)

    def element(place: Expr | int, first: bool) -> tuple[Stmt, ...]:
        along = lines.extent - 1 - place if call.static["reverse"] else place
        at = (task // blocks * lines.extent + along) * lines.inner + (column if lines.inner > 1 else 0)
        slot = column - start if lines.inner > 1 else number(0)
        value = cast(load(x, at), total.dtype)
        kept = store(total, slot, value if first else apply(combine, load(total, slot), value))
        both = (kept, store(y, at, cast(load(total, slot), y.dtype)))
        return both if lines.inner == 1 else (loop(column, *both, start=start, stop=stop, role="vector"),)

    return *element(0, first=True), loop(step, *element(step, first=False), start=1)



cumulative_sum = _running("cumulative_sum", "add")
cumulative_prod = _running("cumulative_prod", "mul")
cumulative_max = _running("cumulative_max", "max")
cumulative_min = _running("cumulative_min", "min")
