"""What a program computes of lasting operands alone, tensors that a jitted function closes over: once, and not in every call.

    y = conv(x, w) · (weight · rsqrt(var + eps)) + bias    →    once: pack(w -> p), scale = weight · rsqrt(var + eps)
                                                                each call: y = tile(x, p) · scale + bias

Values are kept apart by the fusion (`lasting_values`), launches move out of the program as out of a loop (`set_apart`). What
they write stays in memory as long as the traced function: so it may not be much larger than what it is made of (`worth`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mainspring.compile.inline import is_constant_like
from mainspring.compile.plan.hoist import hoist
from mainspring.compile.plan.memory import Run, Slot, Step
from mainspring.compile.plan.schedule import reads_of, writes_of
from mainspring.ir.graph import CONSTANT, INPUT, Graph, Node
from mainspring.types.shape import TensorType

LITTLE = 1 << 16  # bytes that may be kept whatever they are made of
TIMES = 2  # times the bytes of what it is made of that a result may take


def worth(made: int, of: int) -> bool:
    """Whether `made` bytes are kept that can be made anew of `of` bytes."""
    return made <= max(LITTLE, TIMES * of)


def lasting_values(graph: Graph, inputs: Collection[Node]) -> frozenset[Node]:
    """`inputs`, and the values worth keeping that are made of them and of literals alone."""
    sources: dict[Node, frozenset[Node]] = {}
    found = set(inputs)
    for n in graph.nodes() if inputs else ():
        if n.op is INPUT:
            if n in found:
                sources[n] = frozenset([n])
        elif all(i in sources for i in n.inputs):
            sources[n] = frozenset().union(*[sources[i] for i in n.inputs])
            types = (n.type,) if isinstance(n.type, TensorType) else n.type
            made, of = (sum(t.nbytes for t in several) for several in (types, [i.type for i in sources[n]]))
            if n.op is CONSTANT or (sources[n] and not is_constant_like(n) and worth(made, of)):
                found.add(n)
    return frozenset(found)


def set_apart(steps: Sequence[Step], changing: Collection[Slot]) -> tuple[list[Step], list[Step], list[Slot]]:
    """(launches to do once, the steps of every call, the slots that the former leave to the latter)."""
    once, rest = hoist(steps, changing=changing, moves=lambda step: worth(*_bytes(step)))
    used = {slot for step in rest for slot in reads_of(step) | writes_of(step)}
    written = dict.fromkeys(slot for step in once for slot in writes_of(step))
    return once, rest, [slot for slot in written if slot in used]


def _bytes(step: Run) -> tuple[int, int]:
    """Bytes that a launch writes, and that it reads."""
    return sum(x.nbytes for x in writes_of(step)), sum(x.nbytes for x in reads_of(step))
