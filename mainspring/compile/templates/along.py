"""`put_along`: lines along the indexed dim are independent; a task owns some neighbours, copies and updates them."""

from __future__ import annotations

from mainspring.compile.loops import For, If, Kernel, Let, load
from mainspring.compile.template import Call, template
from mainspring.compile.templates.lines import Lines, block_of, loop, params, store
from mainspring.compile.templates.scatter import COLUMNS, changed, placed
from mainspring.ir.scalar import Expr, ref, var
from mainspring.types.dtype import int64


@template("put_along")
def put_along(call: Call) -> list[Kernel]:
    """One task a line, or a block of neighbouring ones."""
    (x, updates, index), y = call.inputs, call.outputs[0]
    axis, mode = call.static["axis"], call.static["mode"]
    lines, given = (Lines.of(call.input_types[i].shape, axis) for i in (0, 2))
    if not y.size:
        return []
    block = min(lines.inner, COLUMNS)
    blocks = -(-lines.inner // block)
    task = var("task", lines.outer * blocks)
    column, start, stop = block_of(task % blocks, lines.inner, block, "column")
    along, n = var("along", lines.extent), var("n", given.extent)

    def at(of: Lines, place: Expr) -> Expr:
        return (task // blocks * of.extent + place) * lines.inner + (column if lines.inner > 1 else 0)

    def over(role: str, *body: Let | If) -> tuple[Let | If | For, ...]:
        return body if lines.inner == 1 else (loop(column, *body, start=start, stop=stop, role=role),)

    copied = store(y, at(lines, along), load(x, at(lines, along)))
    place, inside = placed(load(index, at(given, n)), lines.extent)
    to = ref("place", int64)
    update = Let(to, place), If(inside, (changed(mode, y, at(lines, to), load(updates, at(given, n))),))
    copying = loop(along, *over("vector", copied), role="vector" if lines.inner == 1 else "serial")
    body = (copying, loop(n, *over("serial", *update)))
    return [Kernel("put_along", params(call), frozenset([y]), task.attr[1], task, body, flops=2 * updates.size)]
