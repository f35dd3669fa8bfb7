"""`vjp` and what follows from it: pullbacks, gradients, and forward mode as the transpose of the transpose.

Forward mode needs no second rule an op: the pullback c -> Jᵀc is linear in c, so pulling a tangent t back through *it*
gives J t (Griewank & Walther, "Evaluating Derivatives", 2008, section 3.3; the "double-vjp trick").
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from mainspring.autodiff.tape import Tape
from mainspring.base import tree
from mainspring.base.errors import GradientError, TreeError
from mainspring.interpret.eager import as_value, wrap
from mainspring.interpret.staged import Traced, evaluate, trace
from mainspring.ir.bind import Value, bind, recording
from mainspring.ir.graph import INPUT, Graph, Node, graph, input_node, node, rebuild, topological
from mainspring.ir.op import OPS, Op, map_space, register
from mainspring.types.shape import TensorType, as_ints

COPY = register(Op("copy", lambda x: x, lambda x: x, map_space(lambda x: x), lambda ct, out, x: (ct,),
                   "The same value under a new identity: what one tape follows."))


def is_float(x: Any) -> bool:
    """Whether gradients can flow into the leaf `x`: a tensor or array of a float dtype, or a Python float."""
    if isinstance(x, Value):
        return x.dtype.kind == "float"
    if isinstance(x, np.ndarray | np.generic):
        return as_value(x).dtype.kind == "float"
    return isinstance(x, float)


def zeros_like(x: Value) -> Value:
    """Zeros of the type of `x`."""
    zero = wrap(np.zeros((), x.dtype.numpy), TensorType((), x.dtype))
    return bind(OPS["broadcast_to"], zero, shape=x.shape) if x.shape else zero


def linearize_back(function: Callable[..., Sequence[Value]],
                   primals: Sequence[Value]) -> tuple[list[Value], Callable[..., list[Value]]]:
    """Flat vjp: the outputs of ``function(*primals)``, and the map from their cotangents (None: zero) to the primals'."""
    fresh = [bind(COPY, p) for p in primals]
    tape = Tape()
    for value in fresh:
        tape.watch(value)
    with recording(tape):
        outputs = list(function(*fresh))

    def pullback(cotangents: Sequence[Value | None]) -> list[Value]:
        pulled = tape.pull(outputs, cotangents, fresh)
        return [zeros_like(p) if ct is None else ct for p, ct in zip(primals, pulled, strict=True)]

    return outputs, pullback


def vjp(function: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """Reverse mode: ``(out, pullback)``, or ``(out, pullback, aux)`` with `has_aux`.

    `primals` are trees; gradients are taken in their float leaves, other leaves pass through. ``pullback(cotangent)``
    takes a tree like `out` and gives one tree per primal, with None in place of the leaves that are not floats.
    """
    _require_callable("vjp", function)
    leaves, treedef = tree.flatten(primals)
    chosen = [i for i, leaf in enumerate(leaves) if is_float(leaf)]
    structure: list[Any] = []

    def flat(*values: Value) -> list[Value]:
        filled = list(leaves)
        for i, value in zip(chosen, values, strict=True):
            filled[i] = value
        result = function(*tree.unflatten(treedef, filled))
        if has_aux:
            if not (isinstance(result, tuple) and len(result) == 2):
                raise TreeError("vjp", "function", "with has_aux=True it must return a pair (out, aux)", repr(type(result)))
            result, aux = result
            structure.append(aux)
        out_leaves, out_def = tree.flatten(result)
        structure.append(out_def)
        return [as_value(leaf, "vjp") for leaf in out_leaves]

    outputs, pull_flat = linearize_back(flat, [as_value(leaves[i]) for i in chosen])
    out_def = structure[-1]

    def pullback(cotangent: Any) -> Any:
        cts, ct_def = tree.flatten(cotangent)
        if ct_def != out_def:
            raise TreeError("pullback", "cotangent", "must have the structure of the output", tree.difference(out_def, ct_def))
        values = [_checked_cotangent(ct, out) for ct, out in zip(cts, outputs, strict=True)]
        filled: list[Any] = [None] * len(leaves)
        for i, ct in zip(chosen, pull_flat(values), strict=True):
            filled[i] = ct
        return tree.unflatten(treedef, filled)

    out = tree.unflatten(out_def, outputs)
    return (out, pullback, structure[0]) if has_aux else (out, pullback)


def _require_callable(where: str, function: Any) -> None:
    if not callable(function):
        raise GradientError(where, "function", "must be a function of trees", repr(function),
                            f"ms.{where}(lambda x: ms.sum(x * x), …)")


def _checked_cotangent(ct: Any, out: Value) -> Value:
    value = as_value(ct)
    if value.shape != out.shape:
        raise GradientError("pullback", "cotangent", "must have the shape of the output", f"{value.shape} for {out.shape}")
    return value if value.dtype is out.dtype else value.astype(out.dtype)  # type: ignore[attr-defined]


def _checked_tangent(primal: Any, tangent: Any) -> Value:
    value, like = as_value(tangent), as_value(primal)
    if value.shape != like.shape:
        raise GradientError("jvp", "tangents", "must have the shapes of `primals`", f"{value.shape} for {like.shape}")
    return value if value.dtype is like.dtype else value.astype(like.dtype)  # type: ignore[attr-defined]


def jvp(function: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """Forward mode: ``(function(*primals), J · tangents)``. Both are sequences of trees of equal structure."""
    if not isinstance(primals, Sequence) or not isinstance(tangents, Sequence):
        raise TreeError("jvp", "primals", "primals and tangents must be sequences, one tree for each argument",
                        f"{type(primals).__name__} and {type(tangents).__name__}", "ms.jvp(f, (x,), (dx,))")
    primals, tangents = tuple(primals), tuple(tangents)
    primal_leaves, treedef = tree.flatten(primals)
    tangent_leaves, tangent_def = tree.flatten(tangents)
    if treedef != tangent_def:
        raise TreeError("jvp", "tangents", "must have the structure of `primals`", tree.difference(treedef, tangent_def))
    moving = [_checked_tangent(p, t) for p, t in zip(primal_leaves, tangent_leaves, strict=True) if is_float(p)]
    out, pullback = vjp(function, *primals)
    out_leaves, out_def = tree.flatten(out)

    def transposed(*cts: Value) -> list[Value]:
        pulled = tree.flatten(pullback(tree.unflatten(out_def, cts)))[0]
        return [p for p in pulled if p is not None]

    _, push = linearize_back(transposed, [zeros_like(o) for o in out_leaves])
    return out, tree.unflatten(out_def, push(moving))


def value_and_grad(function: Callable[..., Any], argnums: int | tuple[int, ...] = 0,
                   has_aux: bool = False) -> Callable[..., Any]:
    """A function giving ``(value, gradient)``; with `has_aux`, ``((value, aux), gradient)``.

    `function` must return a float scalar (or a pair of it and anything, with `has_aux`). The gradient has the structure
    of argument `argnums` (a tuple of them for a tuple), with None at leaves that are not floats.
    """

    _require_callable("grad", function)
    numbers = as_ints(argnums, "grad", "argnums")

    def differentiated(*args: Any, **kwargs: Any) -> Any:
        for number in numbers:
            if not -len(args) <= number < len(args):
                raise GradientError("grad", "argnums", f"must name one of the {len(args)} positional arguments", str(argnums))
        leaves = tree.leaves([args[n] for n in numbers])
        if leaves and not any(map(is_float, leaves)):
            kinds = ", ".join(str(getattr(leaf, "dtype", type(leaf).__name__)) for leaf in leaves[:4])
            raise GradientError("grad", "argnums", "the argument must hold a float: integers and bools have no gradient", kinds,
                                "ms.grad(f)(ms.astype(x, ms.float32))")

        def partial(*chosen: Any) -> Any:
            full = list(args)
            for number, value in zip(numbers, chosen, strict=True):
                full[number] = value
            return function(*full, **kwargs)

        parts = vjp(partial, *[args[n] for n in numbers], has_aux=has_aux)
        out, pullback = parts[0], parts[1]
        if not isinstance(out, Value) or out.shape != () or out.dtype.kind != "float":
            got = f"{out._type}" if isinstance(out, Value) else f"a {type(out).__name__}"
            raise GradientError("grad", "function", "must return one float scalar", got, "ms.grad(lambda x: ms.sum(x * x))(x)")
        grads = pullback(wrap(np.ones((), out.dtype.numpy), out._type))
        grad_out = grads[0] if isinstance(argnums, int) else grads
        return ((out, parts[2]) if has_aux else out), grad_out

    differentiated.__name__ = f"value_and_grad({getattr(function, '__name__', 'function')})"
    return differentiated


def grad(function: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function giving the gradient of the scalar `function` in argument `argnums`; with `has_aux`, ``(gradient, aux)``."""
    both = value_and_grad(function, argnums, has_aux)

    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, result = both(*args, **kwargs)
        return (result, value[1]) if has_aux else result

    gradient.__name__ = f"grad({getattr(function, '__name__', 'function')})"
    return gradient


# ------------------------------------------------------------------------------------- derivatives of whole graphs


def float_positions(types: Sequence[TensorType]) -> tuple[int, ...]:
    """Positions of the float types."""
    return tuple(i for i, t in enumerate(types) if t.dtype.kind == "float")


def linearized(of: Graph) -> Graph:
    """(inputs, cotangents of the float outputs) -> outputs, cotangents of the float inputs."""
    n, into, out_of = len(of.inputs), float_positions(of.input_types), float_positions(of.output_types)

    def both(*values: Value) -> list[Value]:
        inputs, given = list(values[:n]), dict(zip(out_of, values[n:], strict=True))

        def forward(*floats: Value) -> tuple[Value, ...]:
            for i, value in zip(into, floats, strict=True):
                inputs[i] = value
            return evaluate(of, inputs)

        outputs, pull = linearize_back(forward, [inputs[i] for i in into])
        return [*outputs, *pull([given.get(i) for i in range(len(of.outputs))])]

    traced: Traced = trace(both, [*of.input_types, *[of.output_types[i] for i in out_of]], literal_size=sys.maxsize)
    return rebuild(traced.graph, lambda v, inputs: inputs[0] if v.op is COPY else None)  # the tape is gone, so are its names


def vjp_graph(of: Graph) -> Graph:
    """(inputs, cotangents of the float outputs) -> cotangents of the float inputs; the forward part is computed again."""
    whole = linearized(of)
    return graph(whole.inputs, whole.outputs[len(of.outputs):])


def split_vjp(of: Graph) -> tuple[Graph, Graph, tuple[int, ...]]:
    """Cut ``vjp_graph`` where the cotangents enter.

    Gives ``(forward, backward, residuals)``: forward: inputs -> outputs and saved values; backward: (inputs at the positions
    `residuals`, saved values, cotangents of the float outputs) -> cotangents of the float inputs.
    """
    whole = linearized(of)
    n, m = len(of.inputs), len(of.outputs)
    pulled = whole.outputs[m:]
    depends = dependents(whole, whole.inputs[n:])
    cut: dict[Node, None] = {}
    for v in topological(pulled):
        if v in depends:
            cut.update(dict.fromkeys(i for i in v.inputs if i not in depends))
    cut.update(dict.fromkeys(v for v in pulled if v not in depends))
    cut = {v: None for v in cut if v.inputs or v.op is INPUT}
    positions = {v: i for i, v in enumerate(whole.inputs)}
    residuals = tuple(positions[v] for v in cut if v in positions)
    saved = [v for v in cut if v not in positions]
    forward = graph(whole.inputs[:n], [*whole.outputs[:m], *saved])
    sources = [*[whole.inputs[i] for i in residuals], *saved, *whole.inputs[n:]]
    fresh = [input_node(i, v.type) for i, v in enumerate(sources)]  # type: ignore[arg-type]
    backward = graph(fresh, transplant(pulled, dict(zip(sources, fresh, strict=True))))
    return forward, backward, residuals


def dependents(of: Graph, sources: Iterable[Node]) -> set[Node]:
    """The nodes of `of` that depend on any of `sources`, these included."""
    found = set(sources)
    for v in of.nodes():
        if any(i in found for i in v.inputs):
            found.add(v)
    return found


def transplant(outputs: Sequence[Node], replaced: dict[Node, Node]) -> list[Node]:
    """`outputs` rebuilt over `replaced` nodes; what lies above a replaced node is not visited."""
    new = dict(replaced)
    stack = list(outputs)
    while stack:
        v = stack[-1]
        if v in new:
            stack.pop()
            continue
        missing = [i for i in v.inputs if i not in new]
        if missing:
            stack.extend(missing)
            continue
        new[v] = v if not v.inputs else node(v.op, [new[i] for i in v.inputs], v.static, v.type, v.source)
        stack.pop()
    return [new[v] for v in outputs]
