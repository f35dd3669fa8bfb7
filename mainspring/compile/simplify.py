"""Graph to graph: inline, simplify, fold. Each pass is valid before and after and changes no bit of any result.

Rules are a table: op name -> function(node) -> replacement or None; the driver is one.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable

import numpy as np

from mainspring.compile.fusion.grouping import FEW_ROWS
from mainspring.compile.inline import is_virtual
from mainspring.interpret.staged import trace
from mainspring.ir.bind import following
from mainspring.ir.graph import CONSTANT, INPUT, ITEM, Graph, Node, constant_node, graph, node, splice
from mainspring.ir.op import OPS, Expand
from mainspring.ops.common import axes_apart
from mainspring.types.dtype import FLOATS
from mainspring.types.shape import TensorType

FOLD_SIZE = 4096  # elements up to which a constant result is computed at compile time
REDUCE_CHUNK = 4096  # a longer reduction is done in chunks of this many elements, whose results are reduced in turn
WIDEST_ROW = 1 << 20  # elements of a row that one task may have to keep

Rule = Callable[[Node], "Node | None"]


def rewrite(of: Graph, rule: Callable[[Node], Node | tuple[Node, ...] | None]) -> Graph:
    """`of` with `rule` applied to every node over its rewritten inputs; a tuple replaces a node of several results."""
    new: dict[Node, Node | tuple[Node, ...]] = {}
    for old in of.nodes():
        if old.op is ITEM and isinstance(new[old.inputs[0]], tuple):
            new[old] = new[old.inputs[0]][old.static["index"]]  # type: ignore[index]
            continue
        inputs = [new[n] for n in old.inputs]
        same = all(a is b for a, b in zip(inputs, old.inputs, strict=True))
        current = old if same else node(old.op, inputs, old.static, old.type, old.source)  # type: ignore[arg-type]
        replaced = rule(current)
        new[old] = current if replaced is None else replaced
    return graph(of.inputs, [new[n] for n in of.outputs])  # type: ignore[misc]


def inline(of: Graph, kept: frozenset[str] = frozenset()) -> Graph:
    """Ops that are defined by other ops, replaced by those; ops named in `kept` have a template and stay."""

    def rule(n: Node) -> Node | tuple[Node, ...] | None:
        if not isinstance(n.op.space, Expand) or n.op.name in kept:
            return None
        function = n.op.space.function

        def expanded(*values: object) -> list[object]:
            result = function(*values, **n.static)
            return list(result) if isinstance(result, (tuple, list)) else [result]

        with following(None):  # what an op means does not depend on when it is compiled
            traced = trace(expanded, [i.type for i in n.inputs], literal_size=sys.maxsize)  # type: ignore[arg-type, misc]
        results = splice(inline(traced.graph, kept), n.inputs)
        return results if not isinstance(n.type, TensorType) else results[0]

    return rewrite(of, rule)


# ------------------------------------------------------------------------------------------------------ simplify


def _is_scalar(n: Node, value: float) -> bool:
    while n.op.name in ("broadcast_to", "reshape"):
        n = n.inputs[0]
    return n.op is CONSTANT and n.type.size == 1 and n.static["value"].value.item() == value  # type: ignore[union-attr]


def _first(n: Node) -> Node:
    return n.inputs[0]


def _through(name: str, merged: Callable[[Node, Node], dict[str, object]]) -> Rule:
    """f(f(x)) -> f(x) with merged parameters; f that changes nothing -> x."""

    def rule(n: Node) -> Node | None:
        inner = n.inputs[0]
        if inner.op.name == name:
            n = node(n.op, inner.inputs, merged(inner, n), n.type, n.source)
            inner = n.inputs[0]
        same = n.type == inner.type and (name != "transpose" or n.static["axes"] == tuple(range(len(n.shape))))
        return inner if same else n

    return rule


def _broadcast(n: Node) -> Node | None:
    inner = n.inputs[0]
    if n.type == inner.type:
        return inner
    if inner.op.name == "broadcast_to":
        return node(n.op, inner.inputs, n.static, n.type, n.source)
    return None


def _multiply(n: Node) -> Node | None:
    x, y = n.inputs
    return y if _is_scalar(x, 1) else x if _is_scalar(y, 1) else None


def _cast(n: Node) -> Node | None:
    """cast(x) that changes nothing -> x; cast(move(cast(x))) back from a wider float -> move(x)."""
    inner, moves = n.inputs[0], []
    if n.type == inner.type:
        return inner
    while inner.op.name in _MOVES:
        moves.append(inner)
        inner = inner.inputs[0]
    if inner.op.name != "cast" or inner.inputs[0].dtype is not n.dtype or (n.dtype, inner.dtype) not in _WIDER:
        return None
    result = inner.inputs[0]
    for move in reversed(moves):
        result = node(move.op, (result,), move.static, source=move.source)
    return result


def _negative(n: Node) -> Node | None:
    inner = n.inputs[0]
    return inner.inputs[0] if inner.op.name == "negative" else None


def _trivial_reduction(n: Node) -> Node | None:
    """A reduction along extents of 1 only is a reshape, one of no elements its neutral element everywhere."""
    x = n.inputs[0]
    count = math.prod(x.shape[a] for a in n.static["axes"])
    if count == 0:
        neutral = constant_node(np.asarray(n.op.reference(np.empty(0, n.dtype.numpy), axes=(0,)), dtype=n.dtype.numpy))
        return node(OPS["broadcast_to"], (neutral,), {"shape": n.shape}, n.type, n.source) if n.shape else neutral
    if count != 1:
        return None
    return node(OPS["reshape"], (x,), {"shape": n.shape}, n.type, n.source)


def _whole_slice(n: Node) -> Node | None:
    return n.inputs[0] if n.type == n.inputs[0].type else None


_MOVES = ("transpose", "reshape", "broadcast_to", "slice")
_WIDER = {(narrow, wide) for narrow, wide in itertools.combinations(FLOATS, 2) if wide.bits > narrow.bits}


RULES: dict[str, Rule] = {
    "copy": _first, "stop_gradient": _first, "positive": _first,
    "reshape": _through("reshape", lambda a, b: {"shape": b.static["shape"]}),
    "transpose": _through("transpose", lambda a, b: {"axes": tuple(a.static["axes"][i] for i in b.static["axes"])}),
    "broadcast_to": _broadcast, "multiply": _multiply, "divide": lambda n: n.inputs[0] if _is_scalar(n.inputs[1], 1) else None,
    "cast": _cast, "negative": _negative, "slice": _whole_slice,
    **dict.fromkeys(("sum", "prod", "max", "min", "any", "all"), _trivial_reduction),
}


def simplify(of: Graph) -> Graph:
    """Identities that hold bit for bit, and nothing else (x + 0 is not one: it turns -0 into 0)."""
    return rewrite(of, lambda n: rule(n) if (rule := RULES.get(n.op.name)) is not None else None)


def fold_constants(of: Graph) -> Graph:
    """Small results of constants alone, computed now by the references."""

    def rule(n: Node) -> Node | None:
        if not isinstance(n.type, TensorType) or n.op in (CONSTANT, INPUT, ITEM) or not n.inputs:
            return None
        if n.type.size > FOLD_SIZE or not all(i.op is CONSTANT for i in n.inputs) or n.op.name in ("broadcast_to", "after"):
            return None
        with np.errstate(all="ignore"):
            value = n.op.reference(*[i.static["value"].value for i in n.inputs], **n.static)
        return constant_node(np.asarray(value, dtype=n.dtype.numpy).reshape(n.shape))

    return rewrite(of, rule)


def split_reductions(of: Graph) -> Graph:
    """A sum over more than REDUCE_CHUNK elements -> sums over chunks, and their sum: parallel, and by the extent alone.

    Those of many rows stay whole: the kernel of a row does the same within a task, and may do more while the row is in cache.
    """
    of = rewrite(of, _reduced_apart)

    def rule(n: Node) -> Node | None:
        if n.op.name not in ("sum", "prod", "max", "min", "any", "all"):
            return None
        x, axes = n.inputs[0], n.static["axes"]
        extent = math.prod(x.shape[a] for a in axes)
        return None if extent <= REDUCE_CHUNK or _of_rows(n, x, axes, extent) else _chunked(n, x, axes, extent)

    return rewrite(of, rule)


def _reduced_apart(n: Node) -> Node | None:
    """max(x, axes apart) -> max(max(x, some), the others), as memory is read; sums are two where they are bound."""
    if n.op.name not in ("max", "min", "any", "all"):
        return None
    first, after = axes_apart(n.inputs[0].shape, n.static["axes"])
    return node(n.op, (node(n.op, n.inputs, {"axes": first}, source=n.source),), {"axes": after}, n.type, n.source) if after \
        else None


def _of_rows(n: Node, x: Node, axes: tuple[int, ...], extent: int) -> bool:
    """Whether `n` is certain to become part of a kernel of rows, of which there are enough for all threads."""
    while x.op.name in ("reshape", "copy", "stop_gradient"):
        x = x.inputs[0]
    last = axes == tuple(range(len(n.inputs[0].shape) - len(axes), len(n.inputs[0].shape)))
    rounded = x.dtype.kind == "float" and x.dtype.bits < 32  # the results of chunks are
    return last and not is_virtual(x) and not rounded and extent <= WIDEST_ROW and n.type.size >= FEW_ROWS  # type: ignore[union-attr]


def _chunked(n: Node, x: Node, axes: tuple[int, ...], extent: int) -> Node:
    kept = tuple(i for i in range(len(x.shape)) if i not in axes)
    order = (*kept, *axes)
    lead = tuple(x.shape[i] for i in kept)
    flat = node(OPS["transpose"], (x,), {"axes": order}) if order != tuple(range(len(order))) else x
    flat = node(OPS["reshape"], (flat,), {"shape": (*lead, extent)})
    whole = extent // REDUCE_CHUNK
    last = (len(lead),)

    def part(start: int, stop: int) -> Node:
        if stop - start == extent:
            return flat
        return node(OPS["slice"], (flat,),
                    {"start": (*[0] * len(lead), start), "stop": (*lead, stop), "step": (1,) * (len(lead) + 1)})

    chunks = node(OPS["reshape"], (part(0, whole * REDUCE_CHUNK),), {"shape": (*lead, whole, REDUCE_CHUNK)})
    results = node(n.op, (chunks,), {"axes": (len(lead) + 1,)}, source=n.source)
    if extent % REDUCE_CHUNK:
        rest = node(n.op, (part(whole * REDUCE_CHUNK, extent),), {"axes": last}, source=n.source)
        rest = node(OPS["reshape"], (rest,), {"shape": (*lead, 1)})
        results = node(OPS["concat"], (results, rest), {"axis": len(lead)})
    total = node(n.op, (results,), {"axes": last}, n.type, n.source)
    return _chunked(total, results, last, results.shape[-1]) if results.shape[-1] > REDUCE_CHUNK else total
