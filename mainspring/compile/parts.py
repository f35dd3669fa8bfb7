"""A batch in parts: all of a network for a few images, by one thread, then for the next few.

    conv(x[32]) → relu → conv → …    →    for each part of 1, dealt to threads:   conv(x[1]) → relu → conv → …

Layer by layer, what a large batch leaves to the next layer lies beyond the second-level cache, where windows wait for it line
by line; and all threads meet after each layer. Where images do not meet before the end, the whole program can be run for some
of them at a time: nothing leaves the cache, and nobody waits. In return, weights are read again for each part.

With this you can ask how a graph is to be cut (`in_parts`). By docs/numerics.md no bit depends on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from mainspring.compile.inline import space_of
from mainspring.compile.target import Target
from mainspring.ir import scalar as s
from mainspring.ir.graph import CONSTANT, INPUT, Graph, Node, graph, input_node, node
from mainspring.ir.op import reader
from mainspring.ir.scalar import Expr
from mainspring.types.dtype import int64
from mainspring.types.shape import TensorType

SHARES = (2, 8)  # threads that parts are to be dealt to evenly
UNEVEN = 1.07  # times what layers of the whole take, of which each ends when the last thread is done
WORTH = 0.93  # of the time of the whole that parts may take, by the costs


@dataclass(frozen=True)
class Parts:
    """`body` computes one of `count` parts of every output, from a part of each input that is `moving` and the others whole."""

    body: Graph
    count: int
    moving: frozenset[int]


def in_parts(of: Graph, lasting: int, target: Target) -> Parts | None:
    """How `of` should be cut along dim 0, its last `lasting` inputs being the same in every call; None for not at all."""
    if not any(_is_window(n) for n in of.nodes()):
        return None
    cut = _demanded(of)
    whole = of.inputs[len(of.inputs) - lasting :]
    if cut is None or any(n in cut for n in whole):
        return None
    batch = of.outputs[0].shape[0]
    count = _count(cut, batch, target)
    body = _body(of, cut, batch, batch // count) if count > 1 else None
    return body and Parts(body, count, frozenset(i for i, n in enumerate(of.inputs) if n in cut))


# ------------------------------------------------------------------------------------------------------- what can be cut


def _demanded(of: Graph) -> dict[Node, frozenset[int]] | None:
    """The values of which a part is enough for a part of the outputs, each with the operands of which that is so.

    None where some value is wanted whole and in parts, or where outputs have no common batch.
    """
    nodes = of.nodes()
    parts, whole = dict.fromkeys(of.outputs), set[Node]()
    found: dict[Node, frozenset[int]] = {}
    for n in reversed(nodes):
        if n in parts:
            cut = _operands(n, of.outputs[0])
            if cut is None:
                return None
            found[n] = cut
            parts.update(dict.fromkeys(n.inputs[i] for i in cut))
            whole.update(x for i, x in enumerate(n.inputs) if i not in cut)
        elif n in whole:
            whole.update(n.inputs)
    return None if any(n in whole for n in found) else dict(reversed(found.items()))


def _operands(of: Node, like: Node) -> frozenset[int] | None:
    """The operands of which row d of dim 0 is enough for row d of `of`; None where there is no such row."""
    if not isinstance(of.type, TensorType) or not isinstance(like.type, TensorType) or not of.shape or not like.shape:
        return None
    if of.shape[0] != like.shape[0] or of.op is CONSTANT:
        return None
    if of.op is INPUT:
        return frozenset()
    space = space_of(of)
    if space is None:
        return None
    (row, *dims), reduced = space.indices()
    dims = [d if n > 1 else s.const(0, int64) for d, n in zip(dims, of.shape[1:], strict=True)]
    element = space.element(reader(tuple([n.type for n in of.inputs])), row, *dims, *reduced)  # type: ignore[misc]
    reads = [x for x in s.walk(element) if x.op == "read"]
    cut, whole = ({x.attr[0] for x in reads if (x.args[:1] == (row,)) == own} for own in (True, False))
    return None if cut & whole or _outside(element, row) else frozenset(cut)


def _outside(element: Expr, row: Expr) -> bool:
    """Whether `row` stands anywhere but as the first index of a read."""
    seen: set[Expr] = set()
    stack = [element]
    while stack:
        x = stack.pop()
        if x is row:
            return True
        if x not in seen:
            seen.add(x)
            stack += x.args[1:] if x.op == "read" and x.args[:1] == (row,) else x.args
    return False


# -------------------------------------------------------------------------------------------------------------- the cut


def _body(of: Graph, cut: dict[Node, frozenset[int]], batch: int, part: int) -> Graph | None:
    """`of` for `part` of its `batch`; None where some op cannot be written for another extent."""
    new: dict[Node, Node] = {}
    for i, n in enumerate(of.inputs):
        type_ = TensorType((part, *n.shape[1:]), n.dtype) if n in cut else n.type
        new[n] = input_node(i, type_, n.static["depth"])  # type: ignore[arg-type]
    for n in of.nodes():
        if n.op is INPUT:
            continue
        inputs = [new[x] for x in n.inputs]
        if n not in cut:
            new[n] = n if all(a is b for a, b in zip(inputs, n.inputs, strict=True)) else \
                node(n.op, inputs, n.static, n.type, n.source)
            continue
        shape = (part, *n.shape[1:])
        made = new[n] = node(n.op, inputs, _static(n, batch, part), TensorType(shape, n.dtype), n.source)
        space = space_of(made)
        if space is None or space.extents != shape:
            return None
    return graph([new[n] for n in of.inputs], [new[n] for n in of.outputs])


def _static(n: Node, batch: int, part: int) -> dict[str, object]:
    """The static parameters of `n` for `part` of its `batch`: the few that name an extent."""
    name = {"reshape": "shape", "broadcast_to": "shape", "slice": "stop"}.get(n.op.name)
    if name is None or n.static[name][0] != batch:
        return n.static
    return {**n.static, name: (part, *n.static[name][1:])}


# ------------------------------------------------------------------------------------------------------- what it is worth


def _is_window(n: Node) -> bool:
    """Whether `n` is a product that reads its left operand through windows."""
    return n.op.name == "conv" and math.prod(n.inputs[1].shape[:-2]) > 1


@dataclass(frozen=True)
class _Product:
    """One product for the whole batch: bytes of what is cut that it reads and writes, those of its weights, multiply-adds."""

    moved: int
    weights: int
    work: float
    windows: bool


def _products(cut: dict[Node, frozenset[int]]) -> Iterator[_Product]:
    for n, operands in cut.items():
        space = None if n.op is INPUT else space_of(n)
        if space is None or not space.reduced or len(n.inputs) < 2:
            continue
        moved = n.type.nbytes + sum(n.inputs[i].type.nbytes for i in operands)  # type: ignore[union-attr]
        weights = sum(x.type.nbytes for i, x in enumerate(n.inputs) if i not in operands)  # type: ignore[union-attr]
        yield _Product(moved, weights, math.prod((*n.shape, *space.reduced)), _is_window(n))


def _count(cut: dict[Node, frozenset[int]], batch: int, target: Target) -> int:
    """The number of parts that should take least."""
    products = list(_products(cut))
    launches = 2 * len(products)  # with what zeros and sums there are between them
    costs = {n: _cost(products, launches, batch, n, target) for n in range(1, batch + 1) if batch % n == 0}
    best = min(costs, key=lambda n: (costs[n], n))
    return best if costs[best] < WORTH * costs[1] else 1


def _cost(products: list[_Product], launches: int, batch: int, count: int, target: Target) -> float:
    """Cycles of `count` parts, summed over teams of so many threads."""
    costs = target.costs
    kept = sum(p.weights for p in products) <= target.l2_bytes // 2
    total = 0.0
    for p in products:
        near = p.moved // count + p.weights <= target.l2_bytes * 3 // 4
        total += p.work / count * costs.multiply / (target.vector_bytes // 4)
        total += p.moved / count * (costs.afar if p.windows and not near else 0.0)
        total += p.weights * (costs.right_first if kept else costs.right_far)
    if count == 1:
        return sum([total / n * UNEVEN + launches * costs.barrier for n in SHARES])
    return sum([(total + launches * costs.task) * -(-count // n) for n in SHARES])
