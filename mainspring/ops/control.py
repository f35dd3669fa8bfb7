"""Control flow: ops that hold closed graphs as static parameters: call, checkpoint, cond, while_loop (scan has its own file).

With this you can branch and loop on traced values, nested to any depth, and say what is computed again in the way back.
A function given by the user is traced to a graph; what it closes over becomes further operands, so gradients reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from mainspring.autodiff.reverse import split_vjp, vjp_graph, zeros_like
from mainspring.autodiff.tape import wanted
from mainspring.base import tree
from mainspring.base.errors import ArgumentError, GraphError, ShapeError, TreeError
from mainspring.interpret.eager import Eager, as_value
from mainspring.interpret.reference import prepare, run_reference
from mainspring.interpret.staged import Traced, appliers, evaluate, is_tracing, trace
from mainspring.ir.bind import Value, bind, concrete, context, current
from mainspring.ir.graph import Graph, graph, input_node, splice
from mainspring.ir.op import Expand, NoGradient, Op, Opaque, Space, register
from mainspring.ops.common import cast_to, is_python_scalar
from mainspring.types.dtype import PROMOTION, bool_
from mainspring.types.shape import TensorType

# ------------------------------------------------------------------------------------------- what the ops share


def remembered(make: Callable[[Graph], Any]) -> Callable[[Graph], Any]:
    """`make`, its results kept as long as the graph lives."""
    found: WeakKeyDictionary[Graph, Any] = WeakKeyDictionary()

    def call(of: Graph) -> Any:
        result = found.get(of)
        if result is None:
            result = found[of] = make(of)
        return result

    return call


vjp_of, split_of = remembered(vjp_graph), remembered(split_vjp)


def trace_values(function: Callable[..., Sequence[Value]], types: Sequence[TensorType]) -> Traced:
    """Trace a body. In eager mode only scalars become literals, so that a body which reads a small tensor keeps its graph
    when that tensor changes."""
    return trace(function, types, None if is_tracing() else 1)


def trace_tree(
    where: str, function: Callable[..., Any], of: tree.TreeDef, types: Sequence[TensorType]
) -> tuple[Traced, tree.TreeDef]:
    """Trace ``function(*arguments)``, `arguments` being a tree of structure `of`; also gives the structure of the result."""
    structures: list[tree.TreeDef] = []

    def flat(*values: Value) -> list[Value]:
        leaves, structure = tree.flatten(function(*tree.unflatten(of, values)))
        structures.append(structure)
        return [as_value(leaf, where) for leaf in leaves]

    return trace_values(flat, types), structures[0]


def over(traced: Traced, captured: Sequence[Value], first: bool = False) -> Graph:
    """`traced` as a graph whose inputs are its explicit ones and one for each of `captured` (`first`: these before those)."""
    count = len(traced.graph.inputs) - len(traced.captured)
    explicit, types = list(traced.graph.input_types[:count]), [v._type for v in captured]
    start = len(types) if first else 0
    fresh = [input_node(i, t) for i, t in enumerate([*types, *explicit] if first else [*explicit, *types])]
    places = {id(v): fresh[i if first else count + i] for i, v in enumerate(captured)}
    return graph(fresh, splice(traced.graph, [*fresh[start : start + count], *[places[id(v)] for v in traced.captured]]))


def union(*groups: Sequence[Value]) -> list[Value]:
    """Distinct values, in order."""
    return list({id(v): v for group in groups for v in group}.values())


def filled(cts: Sequence[Value | None], like: Sequence[Value]) -> list[Value]:
    """The cotangents of the float values among `like`, zeros where None."""
    return [zeros_like(x) if ct is None else ct for ct, x in zip(cts, like, strict=True) if x.dtype.kind == "float"]


def placed(pulled: Sequence[Value], like: Sequence[Value]) -> tuple[Value | None, ...]:
    """Cotangents of the float values among `like`, put at their places with None at the others."""
    rest = iter(pulled)
    return tuple([next(rest) if x.dtype.kind == "float" else None for x in like])


def require_types(where: str, what: str, of: Sequence[TensorType], wanted_types: Sequence[TensorType]) -> None:
    """Raise GraphError unless `of` equals `wanted_types`."""
    if tuple(of) != tuple(wanted_types):
        raise GraphError(
            where, what, f"must have the types ({', '.join(map(str, wanted_types))})", f"({', '.join(map(str, of))})"
        )


# ----------------------------------------------------------------------------------------------------------- call


def _call_infer(
    *types: TensorType, graph: Graph, backward: Graph | None, residuals: tuple[int, ...], outputs: int
) -> tuple[TensorType, ...]:
    require_types("call", "operands", types, graph.input_types)
    return graph.output_types


def _call_vjp(
    cts: Sequence[Value | None],
    outs: Sequence[Value],
    *args: Value,
    graph: Graph,
    backward: Graph | None,
    residuals: tuple[int, ...],
    outputs: int,
) -> tuple[Any, ...]:
    if backward is not None and all(ct is None for ct in cts[outputs:]):
        given = [*[args[i] for i in residuals], *outs[outputs:], *filled(cts[:outputs], outs[:outputs])]
        return placed(call_graph(backward, given), args)
    return placed(call_graph(vjp_of(graph), [*args, *filled(cts, outs)]), args)


CALL = register(
    Op(
        "call",
        _call_infer,
        lambda *arrays, graph, backward, residuals, outputs: run_reference(graph, arrays),
        Expand(lambda *args, graph, backward, residuals, outputs: evaluate(graph, args)),
        _call_vjp,
        "The outputs of `graph`. With `backward`, those after the first `outputs` are saved values: the gradient is then the "
        "call of `backward` on the operands at `residuals`, the saved values and the cotangents.",
    )
)


def call_graph(of: Graph, args: Sequence[Value]) -> tuple[Value, ...]:
    """Apply `of` as one op. When a tape follows any argument, what the way back needs is saved."""
    count = len(of.outputs)
    if not wanted(args):
        return bind(CALL, *args, graph=of, backward=None, residuals=(), outputs=count)
    forward, backward, residuals = split_of(of)
    return bind(CALL, *args, graph=forward, backward=backward, residuals=residuals, outputs=count)[:count]


def _call_again(
    *args: Value, graph: Graph, backward: Graph | None, residuals: tuple[int, ...], outputs: int
) -> tuple[Value, ...]:
    if backward is None:
        return call_graph(graph, args)
    return bind(CALL, *args, graph=graph, backward=backward, residuals=residuals, outputs=outputs)


appliers["call"] = _call_again

# ----------------------------------------------------------------------------------------------------- checkpoint


def _after_space(x: TensorType, y: TensorType) -> Space:
    return Space(x.shape, lambda read, *dims: read(0, *dims))


AFTER = register(
    Op(
        "after",
        lambda x, y: x,
        lambda x, y: x,
        _after_space,
        lambda ct, out, x, y: (ct, None),
        "`x`, available only once `y` is: what is computed from it is not merged with what is computed from `x`.",
    )
)


def _checkpoint_vjp(cts: Sequence[Value | None], outs: Sequence[Value], *args: Value, graph: Graph) -> tuple[Any, ...]:
    reached = next(ct for ct in cts if ct is not None)
    again = [bind(AFTER, x, reached) for x in args]
    return placed(bind(CHECKPOINT, *again, *filled(cts, outs), graph=vjp_of(graph)), args)


def _checkpoint_infer(*types: TensorType, graph: Graph) -> tuple[TensorType, ...]:
    require_types("checkpoint", "operands", types, graph.input_types)
    return graph.output_types


CHECKPOINT = register(
    Op(
        "checkpoint",
        _checkpoint_infer,
        lambda *arrays, graph: run_reference(graph, arrays),
        Expand(lambda *args, graph: evaluate(graph, args)),
        _checkpoint_vjp,
        "The outputs of `graph`, which the gradient computes again instead of saving what lies between.",
    )
)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (Value, np.ndarray, np.generic))


def checkpoint(function: Callable[..., Any], /) -> Callable[..., Any]:
    """`function` (of trees), whose intermediate results are not kept for the gradient but computed again in the way back.

    Trades time for memory (Chen et al., "Training deep nets with sublinear memory cost", 2016). Tensors and arrays among the
    arguments are operands; other leaves are constants. While a gradient is taken the function is traced, so it must not
    branch on values.
    """

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if isinstance(current(), Eager) and not context.recorders:
            return function(*args, **kwargs)
        leaves, structure = tree.flatten((args, kwargs))
        chosen = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]
        values = [as_value(leaves[i], "checkpoint") for i in chosen]

        def on_values(*given: Value) -> Any:
            full = list(leaves)
            for i, value in zip(chosen, given, strict=True):
                full[i] = value
            positional, keyword = tree.unflatten(structure, full)
            return function(*positional, **keyword)

        flat = tree.flatten(tuple(values))[1]
        traced, out = trace_tree("checkpoint", on_values, flat, [v._type for v in values])
        results = bind(CHECKPOINT, *values, *traced.captured, graph=over(traced, traced.captured))
        return tree.unflatten(out, results)

    checkpointed.__name__ = f"checkpoint({getattr(function, '__name__', 'function')})"
    checkpointed.__doc__ = function.__doc__
    return checkpointed


# ----------------------------------------------------------------------------------------------------------- cond


def _cond_infer(pred: TensorType, *types: TensorType, then: Graph, other: Graph) -> tuple[TensorType, ...]:
    require_types("cond", "pred", (pred,), (TensorType((), bool_),))
    require_types("cond", "operands", types, then.input_types)
    require_types("cond", "other", other.input_types, then.input_types)
    require_types("cond", "other", other.output_types, then.output_types)
    return then.output_types


def _cond_vjp(
    cts: Sequence[Value | None], outs: Sequence[Value], pred: Value, *operands: Value, then: Graph, other: Graph
) -> tuple[Any, ...]:
    pulled = bind(COND, pred, *operands, *filled(cts, outs), then=vjp_of(then), other=vjp_of(other))
    return (None, *placed(pulled, operands))


COND = register(
    Op(
        "cond",
        _cond_infer,
        lambda pred, *arrays, then, other: run_reference(then if pred else other, arrays),
        Opaque("a branch: only one of its graphs runs"),
        _cond_vjp,
        "The outputs of `then` where the scalar `pred` holds, those of `other` otherwise; only one of them is computed.",
    )
)


def truth(where: str, argument: str, x: Any) -> Value:
    """`x` as a bool scalar."""
    value = as_value(x, where)
    if value.shape != ():
        raise ShapeError(where, argument, "must be one scalar", f"{value._type}", f"ms.{where}(ms.any(x > 0), …)")
    return cast_to(value, bool_)


def cond(pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], *operands: Any) -> Any:
    """``true_fn(*operands)`` where the scalar `pred` holds, ``false_fn(*operands)`` otherwise; only one is computed.

    Operands and results are trees of tensors. A concrete `pred` simply calls the chosen function. For a traced one both are
    traced: they must return equal structures, shapes and dtypes, else TreeError or ShapeError.
    """
    condition = truth("cond", "pred", pred)
    given = tree.map(lambda leaf: as_value(leaf, "cond"), operands)
    if condition._frame is None:
        return tree.map(lambda leaf: as_value(leaf, "cond"), (true_fn if concrete(condition) else false_fn)(*given))
    values, structure = tree.flatten(given)
    types = [v._type for v in values]
    (then, then_out), (other, other_out) = (trace_tree("cond", f, structure, types) for f in (true_fn, false_fn))
    if then_out != other_out:
        raise TreeError(
            "cond", "false_fn", "must return the structure that true_fn returns", tree.difference(then_out, other_out)
        )
    names = tree.paths(tree.unflatten(then_out, then.graph.outputs))
    for name, a, b in zip(names, then.graph.output_types, other.graph.output_types, strict=True):
        if a != b:
            raise ShapeError(
                "cond",
                "false_fn",
                "must return the shapes and dtypes that true_fn returns",
                f"leaf {name or 'result'}: {a} from true_fn, {b} from false_fn",
                "ms.astype(x, ms.float32) in one of them",
            )
    captured = union(then.captured, other.captured)
    results = bind(COND, condition, *values, *captured, then=over(then, captured), other=over(other, captured))
    return tree.unflatten(then_out, results)


# ----------------------------------------------------------------------------------------------------- while_loop


def _while_infer(*types: TensorType, test: Graph, body: Graph, consts: int) -> tuple[TensorType, ...]:
    require_types("while_loop", "operands", types, body.input_types)
    require_types("while_loop", "test", test.input_types, body.input_types)
    require_types("while_loop", "test", test.output_types, (TensorType((), bool_),))
    require_types("while_loop", "body", body.output_types, types[consts:])
    return types[consts:]


def _while_reference(*arrays: np.ndarray, test: Graph, body: Graph, consts: int) -> tuple[np.ndarray, ...]:
    goes_on, step = prepare(test), prepare(body)
    fixed, carry = arrays[:consts], arrays[consts:]
    while goes_on((*fixed, *carry))[0]:
        carry = step((*fixed, *carry))
    return carry


WHILE = register(
    Op(
        "while_loop",
        _while_infer,
        _while_reference,
        Opaque("a loop whose trip count its data decide"),
        NoGradient(
            "the number of trips is unknown, so nothing can be saved for the way back; "
            "use ms.scan, or ms.fori_loop with int bounds",
            zero=False,
        ),
        "The operands after the first `consts`, replaced by ``body(consts, carry)`` as long as ``test(consts, carry)`` holds.",
    )
)


class Carry:
    """The carried tree of a loop: its values, and the rule that the body keeps their types.

    Python numbers in it are weak: they take the dtype that the body gives them.
    """

    def __init__(self, where: str, init: Any):
        self.where, self.names = where, tree.paths(init)
        leaves, self.structure = tree.flatten(init)
        self.weak = [is_python_scalar(leaf) for leaf in leaves]
        self.values = [as_value(leaf, where) for leaf in leaves]

    @property
    def types(self) -> list[TensorType]:
        return [v._type for v in self.values]

    def tree(self) -> Any:
        return tree.unflatten(self.structure, self.values)

    def settles(self, structure: tree.TreeDef, types: Sequence[TensorType]) -> bool:
        """Whether the body keeps the types. False when weak values had to be converted first: then ask again."""
        if structure != self.structure:
            raise TreeError(
                self.where,
                "body",
                "must return the structure of the carry it is given",
                tree.difference(self.structure, structure),
            )
        changed = [i for i, (v, t) in enumerate(zip(self.values, types, strict=True)) if v._type != t]
        for i in changed:
            before, after = self.values[i]._type, types[i]
            if not (self.weak[i] and before.shape == after.shape and PROMOTION[before.dtype, after.dtype] is after.dtype):
                raise ShapeError(
                    self.where,
                    "body",
                    "must keep the shape and dtype of every leaf of the carry",
                    f"leaf {self.names[i] or 'carry'} changed from {before} to {after}",
                    f"ms.astype(x, ms.{before.dtype.name}) in the body",
                )
            self.values[i] = cast_to(self.values[i], after.dtype)
        return not changed


def while_loop(test_fn: Callable[[Any], Any], body_fn: Callable[[Any], Any], init: Any) -> Any:
    """Replace the tree `init` by ``body_fn(carry)`` as long as ``test_fn(carry)``, a bool scalar, holds.

    The body keeps structure, shapes and dtypes, else TreeError or ShapeError. Eager mode runs it as a Python loop, with
    gradients; a traced loop has none (use `scan`), because the number of trips is unknown.
    """
    carry = Carry("while_loop", init)
    if isinstance(current(), Eager):
        return _python_loop(test_fn, body_fn, carry)
    while True:
        body, structure = trace_tree("while_loop", body_fn, tree.flatten((carry.tree(),))[1], carry.types)
        if carry.settles(structure, body.graph.output_types):
            break

    def test_values(*values: Value) -> list[Value]:
        return [truth("while_loop", "test_fn", test_fn(tree.unflatten(carry.structure, values)))]

    test = trace_values(test_values, carry.types)
    captured = union(test.captured, body.captured)
    results = bind(
        WHILE,
        *captured,
        *carry.values,
        test=over(test, captured, first=True),
        body=over(body, captured, first=True),
        consts=len(captured),
    )
    return tree.unflatten(carry.structure, results)


def _python_loop(test_fn: Callable[[Any], Any], body_fn: Callable[[Any], Any], carry: Carry) -> Any:
    while bool(concrete(truth("while_loop", "test_fn", test_fn(carry.tree())))):
        leaves, structure = tree.flatten(body_fn(carry.tree()))
        values = [as_value(leaf, "while_loop") for leaf in leaves]
        if carry.settles(structure, [v._type for v in values]):
            carry.values, carry.weak = values, [False] * len(values)
    return carry.tree()


def as_length(where: str, value: Any) -> int:
    """A number of trips: an int ≥ 0."""
    if not isinstance(value, int) or value < 0:
        raise ArgumentError(where, "length", "must be an int ≥ 0", repr(value), "ms.scan(f, init, length=10)")
    return value
