"""Products of few rows, taken apart: their chains as tasks of their own, and the sum of the chains as ordinary additions.

    y = contract(x, w)   →   c = chains(x, w);  y = (c₀ + c₁) + (c₂ + c₃) …

A chain reads one long run of memory where the columns of a block would be many short ones, and there are enough of them for a
team. The additions go where everything elementwise goes: into the kernel of the norm, the gate or the cache that reads y. The
order of the sum is that of `contract` (docs/numerics.md).
"""

from __future__ import annotations

import math
from operator import itemgetter

from mainspring.compile.plan.lasting import lasting_values
from mainspring.compile.products.contraction import chunk_count
from mainspring.compile.products.dots import DOTS
from mainspring.compile.products.few import RUN, TASKS
from mainspring.compile.simplify import rewrite
from mainspring.compile.target.costs import Costs
from mainspring.ir.graph import Graph, Node, node
from mainspring.ir.op import OPS
from mainspring.ops.contract import accumulator


def split_few_rows(of: Graph, costs: Costs, lasting: int = 0) -> Graph:
    """contract -> chains and their sum, where one side has few rows and too few columns to be tasks enough.

    The last `lasting` inputs are the same in every call: panels of them are long runs of memory already.
    """
    packed = lasting_values(of, of.inputs[len(of.inputs) - lasting :])
    return rewrite(of, lambda n: _split(n, costs, packed) if n.op.name == "contract" else None)


def _split(n: Node, costs: Costs, packed: frozenset[Node]) -> Node | None:
    a, b = n.inputs
    inputs, out = n.static["spec"].split("->")
    la, lb = inputs.split(",")
    reduced = [c for c in la if c not in out]
    if len(reduced) != 1 or n.type.size == 0:  # type: ignore[union-attr]
        return None
    k = a.shape[la.index(reduced[0])]
    chunks = chunk_count(k)
    (rows, _), (columns, wide) = sorted([(math.prod(m for c, m in zip(own, x.shape, strict=True) if c not in other), x)
                                         for own, x, other in ((la, a, lb), (lb, b, la))], key=itemgetter(0))
    batch = n.type.size // (rows * columns)  # type: ignore[union-attr]
    some = rows <= costs.chain_rows and columns * k >= costs.chain_elements and wide not in packed
    few = rows <= costs.strip_rows or some
    if chunks == 1 or k % (chunks * _grain(n)) or not few or batch * -(-columns // RUN) >= TASKS:
        return None
    static = {"spec": n.static["spec"], "dtype": accumulator(n.dtype), "chunks": chunks}
    chains = node(OPS["chains"], (a, b), static, source=n.source)
    return _sum(chains, n, chunks)


def _grain(n: Node) -> int:
    """Elements of which a chunk of `contract` may be a multiple: whether it does, operands tell that are not fused yet."""
    return max([d.width for d in DOTS if d.accumulator is accumulator(n.dtype)], default=1)


def _sum(chains: Node, n: Node, chunks: int) -> Node:
    """The chains added up as neighbours, the sums likewise."""
    ones, zeros = (1,) * len(chains.shape), (0,) * len(n.shape)
    values = [node(OPS["slice"], (chains,), {"start": (c, *zeros), "stop": (c + 1, *n.shape), "step": ones})
              for c in range(chunks)]
    values = [node(OPS["reshape"], (v,), {"shape": n.shape}) for v in values]
    while len(values) > 1:
        values = [node(OPS["add"], pair, {}, source=n.source) for pair in zip(values[::2], values[1::2], strict=True)]
    return values[0] if values[0].dtype is n.dtype else node(OPS["cast"], (values[0],), {"dtype": n.dtype})
