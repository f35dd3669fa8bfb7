"""Products of looked-up rows, made before the rows are looked up: a table with fewer rows than indices is multiplied once.

    rows[i] · w                      →    (table · w)[i]
    scatter of g · wᵀ to rows i      →    (scatter of g to rows i) · wᵀ         the table's gradient
    rows[i]ᵀ · g, summed over i      →    tableᵀ · (scatter of g to rows i)     the weights' gradient

With this you can trace a model whose first layer reads an embedding and not pay for the same row twice. The first changes no
bit; the others sum what belongs to one row before they multiply, so this is done to what is traced, not while it is compiled:
whoever runs the graph gets the same bits (decision 036).
"""

from __future__ import annotations

import math

import numpy as np

from mainspring.ir.graph import CONSTANT, Graph, Node, constant_node, node, rebuild
from mainspring.ir.op import OPS
from mainspring.types.shape import TensorType

SHARE = 2  # indices for each row of the table, at least
WIDTH = 16  # elements of a row, at least: copying what a row became costs about as much as so many multiply-adds
LABELS = "rstuvwxyzabcdefghijklmnopqRSTUVWXYZABCDEFGHIJKLMNOPQ"


def look_up_last(of: Graph) -> Graph:
    """`of` with products of looked-up rows made before the rows are looked up, where that is less work."""

    def change(n: Node, inputs: tuple[Node, ...]) -> Node | None:
        rule = RULES.get(n.op.name)
        return rule and rule(node(n.op, inputs, n.static, n.type, n.source))

    return rebuild(of, change) if any(n.op.name == "gather" for n in of.nodes()) else of


def _rows(n: Node) -> tuple[Node, Node] | None:
    """(table, indices) when `n` is rows of a table that is worth it, moved around as wholes."""
    if n.op.name == "copy":
        return _rows(n.inputs[0])
    if n.op.name == "gather":
        table, indices = n.inputs[:2]
        return (table, indices) if n.static["axes"] == (0,) and len(table.shape) == 2 and _worth(table.shape, indices) else None
    if n.op.name in ("transpose", "reshape"):
        found, last = _rows(n.inputs[0]), len(n.inputs[0].shape) - 1
        if found is None or (n.static["axes"][-1] != last if n.op.name == "transpose" else n.shape[-1:] != found[0].shape[1:]):
            return None
        table, indices = found
        static = {"axes": n.static["axes"][:-1]} if n.op.name == "transpose" else {"shape": n.shape[:-1]}
        return table, node(n.op, (indices,), static)
    return None


def _worth(table: tuple[int, ...], indices: Node) -> bool:
    return table[1] >= WIDTH and math.prod(indices.shape) >= SHARE * table[0]


def _of_rows(n: Node) -> Node | None:
    """A product that reads looked-up rows, summed over their elements or over all indices."""
    if n.dtype.kind != "float":
        return None
    inputs, lo = n.static["spec"].split("->")
    labels = inputs.split(",")
    for side in (0, 1):
        found = _rows(n.inputs[side])
        if found is None or n.inputs[side].dtype is not n.dtype:
            continue
        (table, indices), other, (*lead, k), given = found, n.inputs[1 - side], labels[side], labels[1 - side]
        row = next(c for c in LABELS if c not in n.static["spec"])
        rest = "".join(c for c in lo if c not in lead)
        if k in given and k not in lo and not set(lead) & set(given) and set(lead) <= set(lo):
            made = _contract(n, side, table, other, row + k, given, row + rest)
            looked_up = node(OPS["gather"], (made, indices), {"axes": (0,)}, source=n.source)
            return _transposed(looked_up, [(*lead, *rest).index(c) for c in lo])
        free = [c for c in given if c not in lead]
        if k in lo and k not in given and set(lead) <= set(given) and rest == lo:
            moved = _transposed(other, [given.index(c) for c in (*lead, *free)])
            sums = _scattered(table.shape[0], moved, indices)
            return _contract(n, side, table, sums, row + k, row + "".join(free), lo)
    return None


def _of_table(n: Node) -> Node | None:
    """A scatter into zeros of a product whose rows are the updates."""
    zeros, updates, *indices = n.inputs
    if n.static["mode"] != "add" or n.static["axes"] != (0,) or len(n.shape) != 2 or not _is_zero(zeros):
        return None
    places = indices[0]
    if not _worth(n.shape, places):
        return None
    while updates.op.name == "transpose" and updates.static["axes"][-1] == len(updates.shape) - 1:
        back = np.argsort(updates.static["axes"][:-1])
        updates, places = updates.inputs[0], _transposed(places, [int(a) for a in back])
    if updates.op.name != "contract" or updates.inputs[0].dtype is not n.dtype or updates.dtype is not n.dtype:
        return None
    inputs, lo = updates.static["spec"].split("->")
    (la, lb), lead = inputs.split(","), lo[:-1]
    if not la.startswith(lead) or lo[-1] in la or set(lead) & set(lb):
        return None
    row = next(c for c in LABELS if c not in updates.static["spec"])
    sums = _scattered(n.shape[0], updates.inputs[0], places)
    made = _contract(updates, 0, sums, updates.inputs[1], row + la[len(lead) :], lb, row + lo[-1])
    return made if made.type == n.type else None


RULES = {"contract": _of_rows, "scatter": _of_table}


def _contract(like: Node, side: int, a: Node, b: Node, la: str, lb: str, lo: str) -> Node:
    """The product of `a` as operand `side` and `b`, of the dtype of the product `like`."""
    pair = [(a, la), (b, lb)] if side == 0 else [(b, lb), (a, la)]
    spec = f"{pair[0][1]},{pair[1][1]}->{lo}"
    return node(OPS["contract"], [x for x, _ in pair], {**like.static, "spec": spec}, source=like.source)


def _scattered(rows: int, g: Node, indices: Node) -> Node:
    """The sums of the parts of `g` that belong to each of so many rows."""
    shape = (rows, *g.shape[len(indices.shape) :])
    zero = constant_node(np.zeros((), g.dtype.numpy))
    zeros = node(OPS["broadcast_to"], (zero,), {"shape": shape}, TensorType(shape, g.dtype))
    return node(OPS["scatter"], (zeros, g, indices), {"axes": (0,), "mode": "add"}, source=g.source)


def _transposed(n: Node, axes: list[int]) -> Node:
    return n if axes == sorted(axes) else node(OPS["transpose"], (n,), {"axes": tuple(axes)})


def _is_zero(n: Node) -> bool:
    return n.op.name == "broadcast_to" and n.inputs[0].op is CONSTANT and not n.inputs[0].static["value"].value.any()
