"""From nodes to expressions: the element of a node at an index, with everything that need not be stored inlined.

A node is *virtual* when it only moves elements or makes them from nothing (an index, a literal): it never gets a buffer and
costs index arithmetic inside the kernels that read it. Every other node is a *value*: it is stored, or lives inside one kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mainspring.ir import scalar as s
from mainspring.ir.graph import CONSTANT, INPUT, ITEM, Node
from mainspring.ir.op import Space
from mainspring.ir.scalar import Expr
from mainspring.ops.movement import ravel, unravel
from mainspring.types.dtype import int64
from mainspring.types.shape import TensorType

VIRTUAL_READS = 4  # an op that reads more places than this for one element (a long concat) is worth a buffer
FREE_FLOPS = 2  # what is made of indices alone is made anew by every reader up to this cost (a mask, not a table of cosines)
LITERAL = 1  # elements of a constant that is written into the code


class Element:
    """What the element of a node at an index is: operands for which `inlined` holds by their bodies, others by `leaf`.

    A guard that is false means that nothing may be touched.
    """

    def __init__(self, leaf: Callable[[Node, tuple[Expr, ...], Expr | None], Expr], inlined: Callable[[Node], bool]):
        self.leaf, self.inlined = leaf, inlined
        self.memo: dict[Any, Expr] = {}

    def __call__(self, of: Node, index: Sequence[Expr], guard: Expr | None = None) -> Expr:
        key = (of, tuple(index), guard)
        found = self.memo.get(key)
        if found is None:
            found = self.memo[key] = self._make(of, tuple(index), guard)
        return found

    def _make(self, of: Node, index: tuple[Expr, ...], guard: Expr | None) -> Expr:
        if of.op is CONSTANT and of.type.size <= LITERAL:  # type: ignore[union-attr]
            array = of.static["value"].value
            return s.const(array.item() if array.size else 0, of.dtype)  # of an empty one nothing is ever read
        return self.body(of, index, guard) if self.inlined(of) else self.leaf(of, index, guard)

    def body(self, of: Node, index: Sequence[Expr], guard: Expr | None = None, reduced: Sequence[Expr] = ()) -> Expr:
        """The scalar body of `of` at `index` (and `reduced`), its operands inlined in turn."""
        space = space_of(of)
        assert space is not None

        def read(i: int, *at: Expr | int, guard: Expr | None = guard, fill: Any = 0) -> Expr:
            place = tuple(e if isinstance(e, Expr) else s.const(e, int64) for e in at)
            both = outer if guard is None or guard is outer else guard if outer is None else s.both(outer, guard)
            if both is not None and both.op == "const":
                if both.attr:
                    both = None
                else:
                    return fill if isinstance(fill, Expr) else s.const(fill, of.inputs[i].dtype)
            inner = self(of.inputs[i], place, both)
            if guard is None or guard is outer or both is None:
                return inner
            default = fill if isinstance(fill, Expr) else s.const(fill, inner.dtype)
            if inner.op == "load" and len(inner.args) == 3 and inner.args[1] is both:
                return s.load(inner.attr, inner.args[0], inner.dtype, both, default)
            return s.where(both, inner, default)

        outer = guard
        return space.element(read, *index, *reduced)




def space_of(of: Node) -> Space | None:
    """The iteration space of a node, None when it has none."""
    types = [n.type for n in of.inputs]
    return of.op.space_of(*types, **of.static)  # type: ignore[arg-type]


def is_virtual(of: Node) -> bool:
    """Whether `of` only moves elements of its operands, or makes them from indices and literals alone."""
    known = _virtual.get(of.digest)
    if known is None:
        known = _virtual[of.digest] = _compute_virtual(of)
    return known


_virtual: dict[bytes, bool] = {}


def _compute_virtual(of: Node) -> bool:
    if of.op in (INPUT, ITEM, CONSTANT) or not isinstance(of.type, TensorType):
        return of.op is CONSTANT and of.type.size <= LITERAL  # type: ignore[union-attr]
    space = space_of(of)
    if space is None or space.reduced:
        return False
    element = space.symbolic(tuple(n.type for n in of.inputs))  # type: ignore[misc]
    if all(is_constant_like(n) for n in of.inputs) and s.flops(element) <= FREE_FLOPS:
        return True
    reads = moves_only(element)
    return reads is not None and reads <= VIRTUAL_READS


def is_border(of: Node) -> bool:
    """Whether `of` puts zeros around its operand, and does nothing else."""
    st = of.static
    return of.op.name == "pad" and st["value"] == 0 and not any(st["interior"]) and min((0, *st["low"], *st["high"])) == 0


def is_constant_like(of: Node) -> bool:
    """Whether `of` depends on literals and indices only, so that it can be made anew wherever it is read."""
    return is_virtual(of) and (of.op is CONSTANT or all(is_constant_like(n) for n in of.inputs))


def moves_only(element: Expr) -> int | None:
    """Number of reads of an element that is moved, not computed; None when it is computed."""
    if element.op == "read":
        return None if any(_reads(a) for a in element.args) else 1
    if element.op == "where" and not _reads(element.args[0]):
        parts = [moves_only(a) for a in element.args[1:]]
        return None if None in parts else sum(parts)  # type: ignore[arg-type]
    return None if _reads(element) else 0


def _reads(x: Expr) -> bool:
    return any(e.op == "read" for e in s.walk(x))


def flat_index(of: Node, index: Sequence[Expr]) -> Expr:
    """The row-major position of `index` in `of`."""
    return ravel(index, of.shape)


def at_flat(of: Node, flat: Expr) -> tuple[Expr, ...]:
    """The index of `of` whose row-major position is `flat`."""
    return tuple(unravel(flat, of.shape))
