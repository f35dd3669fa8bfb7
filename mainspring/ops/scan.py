"""`scan`: a loop of known length that carries values and stacks results; the loop that has a gradient.

The way back is a scan in the other direction (`_transposed`): it carries the cotangents of the carry and the sums of the
cotangents of the constants. What the forward body must save for it is stacked as further results (`_saving`).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_letters
from typing import Any

import numpy as np

from mainspring.autodiff.reverse import dependents, float_positions, linearized, transplant, zeros_like
from mainspring.autodiff.tape import wanted
from mainspring.base import tree
from mainspring.base.errors import ShapeError, TreeError
from mainspring.interpret.eager import as_value
from mainspring.interpret.reference import prepare
from mainspring.interpret.staged import appliers, evaluate, trace
from mainspring.ir.bind import Value, bind
from mainspring.ir.graph import INPUT, Graph, Node, graph, input_node
from mainspring.ir.op import Op, Opaque, register
from mainspring.ir.scalar import flops
from mainspring.ops.common import BROADCAST
from mainspring.ops.contract import CONTRACT
from mainspring.ops.control import Carry, as_length, filled, over, placed, remembered, require_types, trace_values, while_loop
from mainspring.ops.movement import iota
from mainspring.types.shape import TensorType

CHEAP_FLOPS = 4  # an element: below this, computing again is cheaper than writing and reading


def _stacked(t: TensorType, length: int) -> TensorType:
    return TensorType((length, *t.shape), t.dtype)


def _scan_infer(
    *types: TensorType,
    body: Graph,
    consts: int,
    carry: int,
    length: int,
    reverse: bool,
    backward: Graph | None,
    residuals: tuple[int, ...],
    outputs: int,
) -> tuple[TensorType, ...]:
    fixed = consts + carry
    require_types("scan", "consts and carry", types[:fixed], body.input_types[:fixed])
    require_types("scan", "xs", types[fixed:], [_stacked(t, length) for t in body.input_types[fixed:]])
    require_types("scan", "body", body.output_types[:carry], types[consts:fixed])
    return (*types[consts:fixed], *[_stacked(t, length) for t in body.output_types[carry:]])


def _scan_reference(
    *arrays: np.ndarray,
    body: Graph,
    consts: int,
    carry: int,
    length: int,
    reverse: bool,
    backward: Graph | None,
    residuals: tuple[int, ...],
    outputs: int,
) -> tuple[np.ndarray, ...]:
    step = prepare(body)
    fixed, state, xs = arrays[:consts], arrays[consts : consts + carry], arrays[consts + carry :]
    ys = [np.empty((length, *t.shape), t.dtype.numpy) for t in body.output_types[carry:]]
    for i in reversed(range(length)) if reverse else range(length):
        results = step((*fixed, *state, *[x[i] for x in xs]))
        state = results[:carry]
        for y, result in zip(ys, results[carry:], strict=True):
            y[i] = result
    return (*state, *ys)


@dataclass(frozen=True)
class _Apart:
    """A way back whose sums of products are left for afterwards: `products`, by the number of the sum.

    `slices` and `ys` are the nodes of the body's xs and ys; the last ys are `kept` for the products alone.
    """

    body: Graph
    products: dict[int, Node]
    slices: tuple[Node, ...]
    ys: tuple[Node, ...]
    kept: tuple[Node, ...]

    def total(self, number: int, xs: Sequence[Value], ys: Sequence[Value]) -> Value:
        """One product over all rounds at once."""
        stacked = dict(zip([*self.slices, *self.ys], [*xs, *ys], strict=True))
        product = self.products[number]
        a, b = product.static["spec"].split(",")
        new = next(c for c in ascii_letters if c not in a + b)
        operands = [stacked[n] for n in product.inputs]
        return bind(CONTRACT, *operands, spec=f"{new}{a},{new}{b}", dtype=product.static["dtype"])


def _products_apart(body: Graph, consts: int, moving: int, sums: int) -> _Apart:
    """scan(total += a · b) → the scan alone, and then the sum over (round, k) of a · b: one large product, no total to carry.

    Where the operands of a round are no larger than the total, or are stacked in any case (weights of a recurrent layer).
    """
    carry = consts + moving + sums
    slices, ys = body.inputs[carry:], body.outputs[moving + sums :]
    reads = Counter([n for v in body.nodes() for n in v.inputs])
    products: dict[int, Node] = {}
    kept: dict[Node, None] = {}
    for number in range(sums):
        total, out = body.inputs[consts + moving + number], body.outputs[moving + number]
        if out.op.name != "add" or out.inputs[0] is not total or reads[total] != 1 or out.inputs[1].op is not CONTRACT:
            continue
        new = [n for n in out.inputs[1].inputs if n not in slices and n not in ys]
        if any(n.op is INPUT for n in new) or sum(n.type.size for n in new) > out.type.size:  # type: ignore[union-attr, misc]
            continue
        products[number] = out.inputs[1]
        kept.update(dict.fromkeys(new))
    gone = [moving + number for number in products]
    inputs = [n for i, n in enumerate(body.inputs) if i - consts not in gone]
    fresh = {n: input_node(i, n.type, n.static["depth"]) for i, n in enumerate(inputs)}  # type: ignore[arg-type]
    outputs = [n for i, n in enumerate(body.outputs) if i not in gone] + list(kept)
    return _Apart(graph(list(fresh.values()), transplant(outputs, fresh)), products, slices, (*ys, *kept), tuple(kept))


def _scan_vjp(
    cts: Sequence[Value | None],
    outs: Sequence[Value],
    *args: Value,
    body: Graph,
    consts: int,
    carry: int,
    length: int,
    reverse: bool,
    backward: Graph | None,
    residuals: tuple[int, ...],
    outputs: int,
) -> tuple[Any, ...]:
    if backward is None or any(
        ct is not None for ct in cts[outputs:]
    ):  # run forward once more, saving what this gradient needs
        saving = _saving(body, consts, carry)
        outputs, backward, residuals = len(body.outputs), saving.backward, saving.residuals
        outs = bind(
            SCAN,
            *args,
            body=saving.forward,
            consts=consts,
            carry=carry,
            length=length,
            reverse=reverse,
            backward=backward,
            residuals=residuals,
            outputs=outputs,
        )
    sources = [*args, *outs]
    fixed = [sources[i] for i in residuals if i < consts]
    xs = [*[sources[i] for i in residuals if i >= consts], *filled(cts[carry:outputs], outs[carry:outputs])]
    moving = filled(cts[:carry], outs[:carry])
    sums = [zeros_like(x) for x in args[:consts] if x.dtype.kind == "float"]
    apart = _products_apart(backward, len(fixed), len(moving), len(sums))
    left = [total for i, total in enumerate(sums) if i not in apart.products]
    pulled = scan_graph(apart.body, fixed, [*moving, *left], xs, length, not reverse)
    ys = pulled[len(moving) + len(left) :]
    rest = iter(pulled[len(moving) :])
    totals = [apart.total(i, xs, ys) if i in apart.products else next(rest) for i in range(len(sums))]
    return placed([*totals, *pulled[: len(moving)], *ys[: len(ys) - len(apart.kept)]], args)


SCAN = register(
    Op(
        "scan",
        _scan_infer,
        _scan_reference,
        Opaque("a loop: each trip reads what the one before it wrote"),
        _scan_vjp,
        "``body(consts, carry, x slices) -> carry, y slices``, `length` times. With `backward`, the results after the first "
        "`outputs` are saved values: the gradient is then the scan of `backward` over what is at `residuals` of (operands, "
        "results).",
    )
)


def scan_graph(
    body: Graph, consts: Sequence[Value], carry: Sequence[Value], xs: Sequence[Value], length: int, reverse: bool
) -> tuple[Value, ...]:
    """Scan `body`: its final carry and stacked results. When a tape follows any argument, what the way back needs is saved."""
    body, consts = _hoisted(body, consts)
    args = (*consts, *carry, *xs)
    count = len(body.outputs)
    static = {"consts": len(consts), "carry": len(carry), "length": length, "reverse": reverse, "outputs": count}
    if not wanted(args):
        return bind(SCAN, *args, body=body, backward=None, residuals=(), **static)
    saving = _saving(body, len(consts), len(carry))
    return bind(SCAN, *args, body=saving.forward, backward=saving.backward, residuals=saving.residuals, **static)[:count]


def _scan_again(
    *args: Value,
    body: Graph,
    consts: int,
    carry: int,
    length: int,
    reverse: bool,
    backward: Graph | None,
    residuals: tuple[int, ...],
    outputs: int,
) -> tuple[Value, ...]:
    if backward is None:
        return scan_graph(body, args[:consts], args[consts : consts + carry], args[consts + carry :], length, reverse)
    return bind(
        SCAN,
        *args,
        body=body,
        consts=consts,
        carry=carry,
        length=length,
        reverse=reverse,
        backward=backward,
        residuals=residuals,
        outputs=outputs,
    )


appliers["scan"] = _scan_again

# ---------------------------------------------------------------------------------- constants out of the loop


def _frontier(roots: Sequence[Node], stops: Callable[[Node], bool]) -> list[Node]:
    """The first nodes for which `stops` holds on every way from `roots` to the inputs, in a fixed order."""
    found: dict[Node, None] = {}
    seen: set[Node] = set()
    stack = list(reversed(roots))
    while stack:
        v = stack.pop()
        if v in seen:
            continue
        seen.add(v)
        if stops(v):
            found[v] = None
        else:
            stack.extend(reversed(v.inputs))
    return list(found)


def _hoisted(body: Graph, consts: Sequence[Value]) -> tuple[Graph, tuple[Value, ...]]:
    """`body` without what depends on its constants alone, which is computed once here and becomes a constant itself.

    Broadcasts stay inside: they would only make a small operand large. Constants that are no longer read are dropped.
    """
    count = len(consts)
    varies, reads = dependents(body, body.inputs[count:]), dependents(body, body.inputs[:count])

    def stops(v: Node) -> bool:
        return v in reads and v not in varies and v.op is not BROADCAST and isinstance(v.type, TensorType)

    frontier = _frontier(body.outputs, stops)
    kept = {v: body.inputs.index(v) for v in frontier if v.op is INPUT}
    moved = [v for v in frontier if v.op is not INPUT]
    if not moved and len(kept) == count:
        return body, tuple(consts)
    values = [*[consts[i] for i in kept.values()], *evaluate(graph(body.inputs[:count], moved), consts)]
    old = [*kept, *moved, *body.inputs[count:]]
    fresh = [input_node(i, v.type) for i, v in enumerate(old)]  # type: ignore[arg-type]
    return graph(fresh, transplant(body.outputs, dict(zip(old, fresh, strict=True)))), tuple(values)


# ------------------------------------------------------------------------------------------------ the way back


@dataclass(frozen=True)
class _Saving:
    """`forward`: the body with saved values as further results; `backward`: the body of the scan in the other direction;
    `residuals`: where, in (operands, results) of the forward scan, the constants and then the slices that it reads stand."""

    forward: Graph
    backward: Graph
    residuals: tuple[int, ...]


_split_bodies: Any = remembered(lambda body: {})


def _saving(body: Graph, consts: int, carry: int) -> _Saving:
    found = _split_bodies(body)
    if (consts, carry) not in found:
        found[consts, carry] = _split(body, consts, carry)
    return found[consts, carry]


def _split(body: Graph, consts: int, carry: int) -> _Saving:
    whole = linearized(body)
    n, m = len(body.inputs), len(body.outputs)
    inputs, results, pulled = whole.inputs[:n], whole.outputs[:m], whole.outputs[m:]
    moving, varies = dependents(whole, whole.inputs[n:]), dependents(whole, inputs[consts:])

    def fixed(v: Node) -> bool:
        return v not in moving and v not in varies

    def stops(v: Node) -> bool:  # what does not vary is computed again in the way back, once, outside its loop
        return v.op is INPUT or (v not in moving and v in varies and v.op is not BROADCAST and isinstance(v.type, TensorType))

    places = {v: i for i, v in enumerate(inputs) if not consts <= i < consts + carry}
    ys = {v: n + carry + i for i, v in reversed(list(enumerate(results[carry:])))}
    wanted_nodes = [v for v in _frontier(pulled, stops) if v not in moving]
    kept = _worth_saving(wanted_nodes, lambda v: v in places or v in ys or fixed(v))
    read = [v for v in _frontier(pulled, lambda v: v.op is INPUT or v in kept) if v not in moving]
    extra = [v for v in read if v not in places and v not in ys]
    ys.update({v: n + m + i for i, v in enumerate(extra)})
    constants = [v for v in read if places.get(v, n) < consts]
    slices = [v for v in read if v not in constants]
    forward = graph(inputs, [*results, *extra])
    residuals = tuple(places[v] if v in places else ys[v] for v in [*constants, *slices])
    return _Saving(forward, _transposed(body, consts, carry, whole, constants, slices), residuals)


def _worth_saving(found: Sequence[Node], free: Callable[[Node], bool]) -> set[Node]:
    """`found` without what a few cheap elementwise steps give from the others and from what is `free`."""
    kept = set(found)
    for v in reversed(found):
        if not free(v) and _cheap_from(v, lambda i, v=v: i is not v and (i in kept or free(i)), 4):  # type: ignore[misc]
            kept.discard(v)
    return kept


def _cheap_from(v: Node, have: Callable[[Node], bool], depth: int) -> bool:
    """Whether `v` takes at most `depth` steps of a few operations an element from nodes that are there."""
    if depth == 0 or not v.inputs or not isinstance(v.type, TensorType):
        return False
    types = [i.type for i in v.inputs]
    space = v.op.space_of(*types, **v.static) if all(isinstance(t, TensorType) for t in types) else None
    if space is None or space.reduced or flops(space.symbolic(tuple(types))) > CHEAP_FLOPS:  # type: ignore[arg-type]
        return False
    return all(have(i) or _cheap_from(i, have, depth - 1) for i in v.inputs)


def _transposed(body: Graph, consts: int, carry: int, whole: Graph, constants: list[Node], slices: list[Node]) -> Graph:
    """The body of the way back: consts `constants`; carry: cotangents of the carry, sums for the consts; xs: `slices`,
    cotangents of the ys; its ys are cotangents of the xs."""
    types, cts = body.input_types, whole.inputs[len(body.inputs) :]
    moving = len(float_positions(types[consts : consts + carry]))  # of the carry; `cts` has these first, then those of the ys
    sums = len(float_positions(types[:consts]))
    sources = [*constants, *slices, *cts]
    fresh = [input_node(i, v.type) for i, v in enumerate(sources)]  # type: ignore[arg-type]
    core = graph(fresh, transplant(whole.outputs[len(body.outputs) :], dict(zip(sources, fresh, strict=True))))
    sum_types = [types[i] for i in float_positions(types[:consts])]
    parts = [
        [v.type for v in constants],
        [v.type for v in cts[:moving]],
        sum_types,
        [v.type for v in slices],
        [v.type for v in cts[moving:]],
    ]
    ends = np.cumsum([len(p) for p in parts])

    def trip(*values: Any) -> list[Any]:
        fixed, ct_carry, totals, sliced, ct_ys = (values[b - len(p) : b] for p, b in zip(parts, ends, strict=True))
        found = evaluate(core, [*fixed, *sliced, *ct_carry, *ct_ys])
        of_consts, of_carry, of_xs = found[:sums], found[sums : sums + moving], found[sums + moving :]
        return [*of_carry, *[total + ct for total, ct in zip(totals, of_consts, strict=True)], *of_xs]

    return trace(trip, [t for p in parts for t in p], literal_size=sys.maxsize).graph  # type: ignore[misc]


# ---------------------------------------------------------------------------------------------- public functions


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any = None, length: int | None = None, reverse: bool = False
) -> tuple[Any, Any]:
    """Loop over the leading dim of the tree `xs`: ``carry, y = f(carry, x)``.

    Args:
        f: takes the carry and one slice of `xs` (None without `xs`), gives the next carry and a tree y. It is traced once.
        init: the first carry, a tree; `f` keeps its structure, shapes and dtypes (Python numbers take the dtype `f` gives).
        xs: a tree of tensors with equal extents in dim 0, or None.
        length: number of trips; needed without `xs`.
        reverse: from the last slice to the first; ys still lie as xs do.

    Returns: the last carry, and the ys stacked along a new dim 0. Differentiable to any order.
    Raises: ShapeError, TreeError where a rule above is broken.
    """
    slices, xs_structure = tree.flatten(xs)
    values = [as_value(x, "scan") for x in slices]
    trips = _length(values, length, tree.paths(xs))
    state = Carry("scan", init)
    types = [TensorType(v.shape[1:], v.dtype) for v in values]
    structures: list[tree.TreeDef] = []

    def flat(*given: Value) -> list[Value]:
        count = len(state.values)
        result = f(tree.unflatten(state.structure, given[:count]), tree.unflatten(xs_structure, given[count:]))
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TreeError(
                "scan", "f", "must return a pair (carry, y)", repr(type(result)), "ms.scan(lambda c, x: (c + x, c), 0.0, xs)"
            )
        carry_leaves, carry_structure = tree.flatten(result[0])
        y_leaves, y_structure = tree.flatten(result[1])
        structures[:] = [carry_structure, y_structure]
        return [as_value(leaf, "scan") for leaf in (*carry_leaves, *y_leaves)]

    while True:
        traced = trace_values(flat, [*state.types, *types])
        if state.settles(structures[0], traced.graph.output_types[: structures[0].num_leaves]):
            break
    results = scan_graph(over(traced, traced.captured, first=True), traced.captured, state.values, values, trips, reverse)
    count = len(state.values)
    return tree.unflatten(state.structure, results[:count]), tree.unflatten(structures[1], results[count:])


def _length(xs: Sequence[Value], length: int | None, names: Sequence[str]) -> int:
    for x, name in zip(xs, names, strict=True):
        if not x.shape:
            raise ShapeError(
                "scan",
                "xs",
                "every leaf must have a dim to loop over",
                f"leaf {name or 'xs'} is {x._type}",
                "ms.scan(f, init, ms.ones((5, 3)))",
            )
    extents = {x.shape[0] for x in xs} | (set() if length is None else {as_length("scan", length)})
    if len(extents) != 1:
        raise ShapeError(
            "scan",
            "xs",
            "the extents of dim 0 (and `length`, when given) must be equal" if extents else "give `xs` or `length`",
            str(sorted(extents)) if extents else "neither",
            "ms.scan(f, init, length=10)",
        )
    return extents.pop()


def map_(f: Callable[[Any], Any], xs: Any) -> Any:
    """`f` of each slice along the leading dim of the tree `xs`, one after the other, stacked."""
    return scan(lambda carry, x: (carry, f(x)), (), xs)[1]


def fori_loop(lower: Any, upper: Any, body: Callable[[Any, Any], Any], init: Any) -> Any:
    """``carry = body(i, carry)`` for i from `lower` to `upper` (exclusive), i being an int64 scalar.

    With int bounds it is a `scan` and has a gradient; with tensors as bounds it is a `while_loop`.
    """
    if isinstance(lower, int) and isinstance(upper, int):
        indices = iota(max(0, upper - lower)) + lower
        return scan(lambda carry, i: (body(i, carry), None), init, indices)[0]
    result = while_loop(
        lambda state: state[0] < state[1],
        lambda state: (state[0] + 1, state[1], body(state[0], state[2])),
        (as_value(lower, "fori_loop").astype("int64"), as_value(upper, "fori_loop").astype("int64"), init),
    )  # type: ignore[attr-defined]
    return result[2]
