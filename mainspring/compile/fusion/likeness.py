"""Groups that are alike: the same work on other operands, as the layers of a network are. They are lowered once.

With this you can ask what a group is when names do not matter (`likeness`): equal keys mean kernels that differ in their
buffers alone, and those correspond in the order of `operands`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass

from mainspring.compile.fusion.grouping import Group
from mainspring.compile.inline import LITERAL
from mainspring.compile.products.zeros import around
from mainspring.ir.graph import CONSTANT, Node


@dataclass(frozen=True)
class Likeness:
    """`key`: equal for groups that are alike. `operands`: what their kernels may read or write, in corresponding order."""

    key: Hashable
    operands: tuple[Node, ...]


def likeness(group: Group, kinds: dict[Node, str], inlined: Callable[[Node], bool], lasting: Collection[Node]) -> Likeness:
    """What `group` is, whose kernel computes operands for which `inlined` holds and loads the others.

    `kinds`: of its members (see `Reads`); `lasting`: values that are the same in every call, which are packed otherwise.
    Of what is loaded, its type counts, and zeros around it, which products leave out.
    """
    members, numbers, lines = set(group.members), dict[Node, int](), list[Hashable]()
    operands: dict[Node, None] = {}

    def number(v: Node) -> int:
        """The number of `v`; what it is, and before it what it is made of, is written when it is first met."""
        if v in numbers:
            return numbers[v]
        literal = v.op is CONSTANT and v.type.size <= LITERAL  # type: ignore[union-attr]
        if v in members or literal or inlined(v):
            lines.append((v.text, tuple([number(u) for u in v.inputs]), kinds[v] if v in members else ""))
        else:
            operands[v] = None
            lines.append((v.type, v in lasting, tuple([around(v, axis) for axis in range(len(v.shape))])))
        return numbers.setdefault(v, len(lines) - 1)

    own = [number(v) for v in group.members]
    stored = [(number(group.bordered.get(v, v)), v.text if v in group.bordered else "") for v in group.stored]
    operands.update(dict.fromkeys(group.stored))
    key = group.kind, group.rows, group.width, tuple(own), tuple(stored), tuple(lines)
    return Likeness(key, tuple(operands))
