"""Windows of donated operands, replaced in place: a token's keys and values in their cache, a row of a table.

    y = dynamic_update_slice(x, window, starts)   →   copy x to y;  y[starts + i] = window[i]

Where y then lives in the memory of x, the copy is left out (`donate`), and what is done is as large as the window.
"""

from __future__ import annotations

from mainspring.compile.fusion.grouping import Group
from mainspring.compile.inline import flat_index
from mainspring.compile.loopnest import CHUNK, Nest, collapse, tasked
from mainspring.compile.loops import Kernel, Let, Store, Write, load
from mainspring.ir import scalar as s
from mainspring.ir.graph import Graph, Node
from mainspring.ir.scalar import Expr
from mainspring.ops.gather import corner
from mainspring.ops.movement import ravel, unravel


def updated(graph: Graph, donated: set[Node]) -> set[Node]:
    """The results of `graph` that are a donated input with a window replaced."""
    return {v for v in graph.outputs if v.op.name == "dynamic_update_slice" and v.inputs[0] in donated and v.type.size}  # type: ignore[union-attr]


def update_kernel(nest: Nest, group: Group) -> Kernel:
    """Writes the window, and reads nothing of what is around it."""
    of = group.members[0]
    window = of.inputs[1]
    domain = tuple(n for n in window.shape if n != 1) or (1,)
    dims = [s.var(f"i{k}", n) for k, n in enumerate(domain)]
    value, place = _element(nest, group, ravel(dims, domain))
    buffer = nest.buffer_of(of)
    collapsed = collapse(domain, dims, [Let(s.ref("old", of.dtype), load(buffer, place)), Let(s.ref("new", of.dtype), value)])
    if collapsed != domain:
        domain = collapsed
        dims = [s.var(f"i{k}", n) for k, n in enumerate(domain)]
        value, place = _element(nest, group, ravel(dims, domain))
    return tasked(nest, group, domain, dims, [Store((Write(buffer, place, value),))], CHUNK)


def _element(nest: Nest, group: Group, flat: Expr) -> tuple[Expr, Expr]:
    """(element number `flat` of the window, where it belongs)."""
    of = group.members[0]
    element = nest.element(nest.external, group)
    index = unravel(flat, of.inputs[1].shape)
    starts = corner(lambda i, *at: element(of.inputs[i], at), 2, of.shape, of.inputs[1].shape)
    return element(of.inputs[1], index), flat_index(of, [i + a for i, a in zip(index, starts, strict=True)])
