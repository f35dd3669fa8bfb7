"""Joints: where two values may live in one kernel or in two, as decisions; and the piece of a graph that one is about.

    fuse     a value joins the kernel of what it reads (an epilogue, a reduction along rows), or begins one of its own
    again    what others read is computed again by them, or stored

Fusion never changes arithmetic, so neither does an answer. A piece is a graph of its own: it is compiled both ways, and timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from mainspring.compile.choose import Decide, Decision, Site, problem
from mainspring.compile.inline import space_of
from mainspring.ir import scalar as s
from mainspring.ir.graph import CONSTANT, Graph, Node, encode, graph, input_node, node

YES = {"fuse": ("fused", "apart"), "again": ("again", "stored")}  # names of the two ways of a kind of joint


@dataclass(frozen=True)
class Joint:
    """What was decided, and the part of the graph that it is about."""

    decision: Decision
    piece: Callable[[], Graph]


class Questions:
    """Asks whether values are joined, and remembers what was `asked`, with the values that it is about."""

    def __init__(self, decide: Decide):
        self.decide = decide
        self.asked: list[tuple[Decision, list[Node]]] = []

    def ask(self, kind: str, v: Node, others: Sequence[Node], default: bool, facts: dict[str, float],
            about: list[Node]) -> bool:
        """The answer to a question of `kind` about `v` and `others`. `facts`: logarithms of sizes."""
        met = len(self.decide.made)
        answer = self.decide(default, lambda: _site(kind, v, list(others), default, facts))
        self.asked += [(decision, about) for decision in self.decide.made[met:]]
        return answer


def _site(kind: str, v: Node, others: Sequence[Node], default: bool, facts: dict[str, float]) -> Site:
    yes, no = YES[kind]
    text = " ".join([_text(v), *sorted([_text(n) for n in others])])
    label = f"{v.op.name} {'×'.join(map(str, v.shape))}"

    def numbers(joined: bool) -> dict[str, float]:
        return {**facts, "flops": math.log2(1 + flops(v)), "size": math.log2(max(1, v.type.size)), "joined": float(joined)}  # type: ignore[union-attr]

    return Site(kind, problem(label, text + str(sorted(facts.items()))), yes if default else no,
                lambda: {yes: True, no: False}, numbers)


def flops(v: Node) -> int:
    """Work of an element, without what is summed."""
    space = space_of(v)
    return 0 if space is None else s.flops(space.symbolic(tuple(n.type for n in v.inputs)))  # type: ignore[misc]


def _text(n: Node) -> str:
    static = ",".join([f"{name}={encode(value)}" for name, value in sorted(n.static.items())])
    return f"{n.op.name}({static}; {', '.join([str(u.type) for u in n.inputs])}) -> {n.type}"


def carved(outputs: Iterable[Node], inside: Collection[Node], outside: Callable[[Node], bool]) -> Graph:
    """The graph of `outputs`. Its inputs are the first nodes on the way down for which `outside` holds, but none `inside`."""
    inputs: dict[Node, Node] = {}
    made: dict[Node, Node] = {}

    def piece(n: Node) -> Node:
        if n not in made:
            if n.op is CONSTANT:
                made[n] = n
            elif n not in inside and outside(n):
                made[n] = inputs[n] = input_node(len(inputs), n.type)  # type: ignore[arg-type]
            else:
                made[n] = node(n.op, [piece(u) for u in n.inputs], n.static, n.type, n.source) if n.inputs else n
        return made[n]

    found = [piece(n) for n in outputs]
    return graph(list(inputs.values()), found)
