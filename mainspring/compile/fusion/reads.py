"""What is a value in a graph, of which kind, and where each reads others: the facts that fusion rests on.

With this you can ask which nodes are stored or live in a kernel (`kinds`), which are computed inside their readers (`inlined`),
and at which place each value reads which others (`hits`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from mainspring.compile.inline import Element, at_flat, flat_index, is_virtual, moves_only, space_of
from mainspring.ir import scalar as s
from mainspring.ir.graph import CONSTANT, INPUT, ITEM, Graph, Node, users
from mainspring.ir.op import Space
from mainspring.ir.scalar import Expr
from mainspring.ops.movement import unravel

INLINE_DEPTH = 8  # elementwise nodes of single use that are computed inside the reduction that reads them


@dataclass(frozen=True)
class Hit:
    """One read of a value: which, and at which flat position."""

    of: Node
    flat: Expr
    guarded: bool


class Reads:
    """The values of one graph and what they read. `lasting` ones (see `lasting`) are not computed inside others."""

    def __init__(self, graph: Graph, updated: Collection[Node] = (), lasting: Collection[Node] = ()):
        self.graph, self.updated, self.lasting = graph, updated, lasting
        self.nodes = graph.nodes()
        self.readers = users(graph)
        self.forced = self._forced()
        self.kinds = {v: self._kind(v) for v in self.nodes if self._could_be_value(v)}
        self.absorbed: set[Node] = set()
        self._absorb()
        self.hits = {v: self._hits(v) for v in self.nodes if v in self.kinds and v not in self.absorbed}

    def _forced(self) -> set[Node]:
        """Virtual nodes that need a buffer all the same: results of the graph and operands of templates."""
        found = {v for v in self.graph.outputs}
        for v in self.nodes:
            if v.op in (INPUT, CONSTANT, ITEM):
                continue
            space = space_of(v)
            if space is None:
                found.update(v.inputs)
            elif space.reduced and contraction_operands(v, space):
                found.update(n for n in v.inputs if _joins(n))  # rows of a product are read many times: join their pieces once
                found.update(_padded(v))
        return found

    def _could_be_value(self, v: Node) -> bool:
        return v.op not in (INPUT, CONSTANT, ITEM) and (v in self.forced or not is_virtual(v))

    def inlined(self, v: Node) -> bool:
        """Whether reads of `v` are replaced by its body."""
        return v in self.absorbed or (v not in self.forced and is_virtual(v))

    def _kind(self, v: Node) -> str:
        space = space_of(v)
        if space is None:
            return "template"
        if v in self.updated:
            return "update"
        if not space.reduced:
            return "map"
        if contraction_operands(v, space):
            return "contract"
        return "row" if space.combine and self._along_rows(v, space) else "reduce"

    def _along_rows(self, v: Node, space: Space) -> bool:
        """Whether neighbours along the reduced extent are neighbours in memory, for the largest thing that is read."""
        rows, width = s.var("row", v.type.size), s.var("col", math.prod(space.reduced))  # type: ignore[union-attr]
        largest, along = -1, False
        for hit in self.at(v, at_flat(v, rows), _unflatten(width, space.reduced), lambda n: n is not v and is_virtual(n)):
            if hit.of.type.size > largest:  # type: ignore[union-attr]
                largest, along = hit.of.type.size, s.affine(hit.flat)[0].get(width) == 1  # type: ignore[union-attr]
        return along

    def _absorb(self) -> None:
        """Elementwise values of single use by a reduction over columns, or over everything, are computed inside it."""
        depth: dict[Node, int] = {}
        for v in reversed(self.nodes):
            if self.kinds.get(v) != "map" or v in self.forced or v in self.lasting or len(self.readers[v]) != 1:
                continue
            reader = self.readers[v][0]
            while self.kinds.get(reader) is None and len(self.readers[reader]) == 1:
                if reader in self.forced or not is_virtual(reader):
                    break
                reader = self.readers[reader][0]
            if reader in self.absorbed and depth[reader] < INLINE_DEPTH:
                depth[v] = depth[reader] + 1
            elif self.kinds.get(reader) == "reduce" or (self.kinds.get(reader) == "row" and reader.type.size == 1):  # type: ignore[union-attr]
                depth[v] = 1
            else:
                continue
            if space_of(v) is not None and _cheap(v):
                self.absorbed.add(v)

    # ----------------------------------------------------------------------------------------------------------- places

    def _hits(self, v: Node) -> list[Hit]:
        """Reads of `v`, its flat position as the variable ``flat`` (and ``col`` for the reduced extent of a row reduction)."""
        space = space_of(v)
        if space is None:
            return [Hit(n, s.const(0, s.int64), True) for n in v.inputs]
        flat = s.var("flat", v.type.size)  # type: ignore[union-attr]
        width = s.var("col", math.prod(space.reduced))
        return self.at(v, at_flat(v, flat), _unflatten(width, space.reduced))

    def at(self, v: Node, index: Iterable[Expr], reduced: Iterable[Expr] = (),
           inlined: Callable[[Node], bool] | None = None) -> list[Hit]:
        """Reads of `v` at `index` (and `reduced`), through what is `inlined`."""
        found: list[Hit] = []

        def leaf(of: Node, at: tuple[Expr, ...], guard: Expr | None) -> Expr:
            flat = flat_index(of, at)
            found.append(Hit(of, flat, guard is not None))
            return s.make("ref", (flat,), of.dtype, f"leaf {of.digest.hex()}")

        Element(leaf, inlined or self.inlined).body(v, tuple(index), None, tuple(reduced))
        return found


def contraction_operands(of: Node, space: Space) -> bool:
    """Whether the space is a sum of products of one element of each of two operands."""
    if not (space.combine == "sum" and len(of.inputs) == 2):
        return False
    element = space.symbolic(tuple(n.type for n in of.inputs))  # type: ignore[misc]
    if element.op != "mul":
        return False
    sides = [a.args[0] if a.op == "cast" else a for a in element.args]
    return [x.attr[0] if x.op == "read" else None for x in sides] == [0, 1]


def _joins(v: Node) -> bool:
    """Whether `v` (or what it only moves) puts several pieces together, as concat does."""
    while v.op not in (INPUT, CONSTANT, ITEM) and is_virtual(v) and len(v.inputs) == 1:
        v = v.inputs[0]
    return v.op not in (INPUT, CONSTANT, ITEM) and is_virtual(v) and len(v.inputs) > 1


def _padded(v: Node) -> list[Node]:
    """The padded arrays that `v` reads, perhaps moved: they are read many times, so the border is tested for once."""
    found = []
    for n in v.inputs:
        while n.op not in (INPUT, CONSTANT, ITEM) and n.op.name != "pad" and is_virtual(n) and len(n.inputs) == 1:
            n = n.inputs[0]
        if n.op.name == "pad":
            found.append(n)
    return found


def _unflatten(flat: Expr, extents: tuple[int, ...]) -> list[Expr]:
    return unravel(flat, extents) if extents else []


def _cheap(v: Node) -> bool:
    space = space_of(v)
    assert space is not None
    element = space.symbolic(tuple(n.type for n in v.inputs))  # type: ignore[misc]
    return s.flops(element) <= 8 or moves_only(element) is not None

