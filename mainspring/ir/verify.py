"""The verifier: with this you can ask whether a graph is well formed, and legal at a stage of the compiler.

A pass takes a legal graph to a legal graph; `verify` between all of them (MS_VERIFY=2) finds the one that does not. Its
error shows the rule, the pass, the neighbourhood of the node, and the user's line that the node comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from mainspring.base.errors import GraphError, MainspringError
from mainspring.ir.graph import INPUT, ITEM, Graph, Node, encode
from mainspring.ir.op import OPS, Expand, Op
from mainspring.ir.text import show_node, show_type
from mainspring.types.shape import TensorType


@dataclass(frozen=True)
class Stage:
    """What may not stand in a graph at one stage of the compiler: ``forbids(op)`` gives the reason, "" where `op` is legal."""

    name: str
    forbids: Callable[[Op], str]


_INLINE = dict.fromkeys(("call", "checkpoint"), "calls and checkpoints are inlined by now")
_NAMES = dict.fromkeys(("copy", "stop_gradient"), "gradients are taken by now, so what only steers them is gone")


def _table(*rows: dict[str, str]) -> Callable[[Op], str]:
    reasons = {name: reason for row in rows for name, reason in row.items()}
    return lambda op: reasons.get(op.name, "")


def _expanded(op: Op) -> str:
    opened = isinstance(op.space, Expand) and "ops that are written in other ops are replaced by these by now"
    return _table(_INLINE, _NAMES)(op) or opened or ""


#: The legality table: what each stage, and those after it, no longer allow.
STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("graph", _table()),  # as traced or parsed
        Stage("inlined", _table(_INLINE)),
        Stage("simplified", _table(_INLINE, _NAMES)),
        Stage("expanded", _expanded),
    )
}


def verify(of: Graph, stage: str = "graph", after: str = "", templates: Collection[str] = ()) -> Graph:
    """`of` itself, if it and the graphs in it are well formed and legal at `stage`; GraphError otherwise.

    Args:
        stage: a key of STAGES.
        after: the pass that made the graph, for the message.
        templates: names of expandable ops that the compiler has templates for, so that "expanded" allows them.
    """
    rule = STAGES.get(stage)
    if rule is None:
        raise GraphError("verify", "stage", f"must be one of {', '.join(STAGES)}", repr(stage), 'verify(graph, "inlined")')
    checked: set[Graph] = set()
    waiting = [of]
    while waiting:
        current = waiting.pop()
        if current not in checked:
            checked.add(current)
            waiting.extend(_check_graph(current, rule, after, templates))
    return of


def _check_graph(of: Graph, stage: Stage, after: str, templates: Collection[str]) -> list[Graph]:
    """Check the nodes of one graph; gives the graphs that they hold."""
    inner: list[Graph] = []
    inputs = set(of.inputs)
    if len(inputs) != len(of.inputs):
        raise GraphError(_where(after), "inputs", "every input of a graph must be another node", repr(of))
    for n in [*of.inputs, *of.nodes()]:
        wrong = _wrong_with(n, inputs, stage, templates)
        if wrong:
            raise GraphError(_where(after), n.op.name, wrong, neighbourhood(of, n))
        inner.extend(v for v in n.static.values() if isinstance(v, Graph))
    for n in of.outputs:
        if not isinstance(n.type, TensorType):
            raise GraphError(_where(after), n.op.name, "an output must be one tensor, not a tuple", neighbourhood(of, n))
    return inner


def _where(after: str) -> str:
    return f"verify, after {after}" if after else "verify"


def _wrong_with(n: Node, inputs: set[Node], stage: Stage, templates: Collection[str]) -> str:
    """The rule that `n` breaks, or ""."""
    if OPS.get(n.op.name) is not n.op:
        return "the op is not the one registered under its name"
    if (n.op is INPUT) != (n in inputs):
        return (
            "the graph is not closed: this input is not among its inputs"
            if n.op is INPUT
            else "an input of a graph must be a node of op input"
        )
    several = next((i for i in n.inputs if not isinstance(i.type, TensorType)), None)
    if several is not None and n.op is not ITEM:
        return f"an operand must be one tensor, not the tuple {show_type(several.type)}"
    if n.op is ITEM and (several is None or not 0 <= n.static["index"] < len(several.type)):  # type: ignore[arg-type]
        return "item needs a node with several results, and an index among them"
    forbidden = "" if n.op.name in templates else stage.forbids(n.op)
    return (forbidden and f"not legal at stage {stage.name}: {forbidden}") or _wrong_type(n)


def _wrong_type(n: Node) -> str:
    try:
        for value in n.static.values():
            encode(value)
        inferred = n.op.infer(*[i.type for i in n.inputs], **n.static)
    except MainspringError as error:
        return f"its op refuses it: {str(error).splitlines()[0]}"
    except (TypeError, LookupError, ValueError, AttributeError) as error:
        return f"its operands or parameters do not fit its op: {error}"
    return "" if inferred == n.type else f"its type must be {show_type(inferred)}, as its op infers"


def neighbourhood(of: Graph, around: Node, users: int = 3) -> str:
    """`around`, marked, with its operands above and some of its users below, one a line, and the user's line."""
    order = list(dict.fromkeys([*of.inputs, *of.nodes()]))
    names = {n: f"%{i}" for i, n in enumerate(order)}
    readers = [n for n in order if around in n.inputs][:users]
    lines = []
    for n in [*dict.fromkeys(around.inputs), around, *readers]:
        mark = ">" if n is around else " "
        lines.append(f"      {mark} {names.get(n, '%?')} = {show_node(n, names)}")
    if around.source:
        lines.append(f"    from: {around.source}")
    return "\n".join(["", *lines])
