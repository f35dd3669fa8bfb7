"""Staged: append a node to the graph being traced. `trace` turns a Python function of values into a `Graph`.

Values from outside that the function closes over are captured: each becomes a further input of the graph, and the
caller passes it along. So a traced function may use parameters it was not given, and gradients reach them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mainspring.base.errors import user_line
from mainspring.interpret.eager import escaped
from mainspring.ir import bind as binding
from mainspring.ir.bind import Recorder, Value, bind, context, interpreting, new_value, not_recording
from mainspring.ir.graph import CONSTANT, INPUT, ITEM, Graph, Node, constant_node, graph, input_node, items, node
from mainspring.ir.op import Op
from mainspring.types.shape import TensorType

LITERAL_SIZE = 64  # elements up to which a captured concrete value is written into the graph as a literal

#: op name -> function(*values, **static): how `evaluate` applies an op that prepares itself for a tape (control flow that saves
#: what its gradient needs); filled by the ops.
appliers: dict[str, Callable[..., Any]] = {}


class Frame:
    """One trace in progress: the staged interpreter."""

    def __init__(self, depth: int, inputs: int, literal_size: int, recorders: tuple[Recorder, ...]):
        self.depth, self.literal_size, self.recorders = depth, literal_size, recorders
        self.num_inputs = inputs
        self.captured: dict[int, tuple[Value, Node]] = {}

    def apply(self, op: Op, args: tuple[Value, ...], static: dict[str, Any]) -> Any:
        made = node(op, [self.node_of(a, op.name) for a in args], static, source=user_line())
        results = tuple([self.value_of(n) for n in items(made)])
        return results[0] if isinstance(made.type, TensorType) else results

    def _followed(self, value: Value) -> bool:
        return any(r.wants((value,)) for r in self.recorders)

    def value_of(self, of: Node) -> Value:
        return new_value(of, of.type, self)  # type: ignore[arg-type]

    def node_of(self, value: Value, where: str = "trace") -> Node:
        """The node that stands for `value` in this trace; captures it when it comes from outside."""
        if value._frame is self:
            return value._data
        if value._frame is None and value._type.size <= self.literal_size and not self._followed(value):
            return constant_node(value._data)
        if value._frame is not None and value._frame not in context.interpreters:
            raise escaped(where)
        found = self.captured.get(id(value))
        if found is None:
            fresh = input_node(self.num_inputs + len(self.captured), value._type, self.depth)
            found = self.captured[id(value)] = (value, fresh)
        return found[1]


@dataclass(frozen=True)
class Traced:
    """What a trace gives: the graph, whose inputs are the explicit ones and then one for each of `captured`."""

    graph: Graph
    captured: tuple[Value, ...]


def trace(function: Callable[..., Sequence[Value]], types: Sequence[TensorType], literal_size: int | None = None) -> Traced:
    """Trace ``function(*values) -> sequence of values`` at input `types`.

    Concrete values of up to `literal_size` elements (by default that of the enclosing trace, or LITERAL_SIZE) become literals
    of the graph, unless a tape follows them: gradients reach captured values only.
    """
    outer = [i for i in context.interpreters if isinstance(i, Frame)]
    depth, recorders = len(outer), (*(outer[-1].recorders if outer else ()), *context.recorders)
    if literal_size is None:
        literal_size = outer[-1].literal_size if outer else LITERAL_SIZE
    frame = Frame(depth, len(types), literal_size, recorders)
    nodes = [input_node(i, t, depth) for i, t in enumerate(types)]
    with interpreting(frame), not_recording():
        outputs = function(*[frame.value_of(n) for n in nodes])
        out_nodes = [frame.node_of(v) for v in outputs]
    captured = tuple(frame.captured.values())
    return Traced(graph([*nodes, *[n for _, n in captured]], out_nodes), tuple([v for v, _ in captured]))


def is_tracing() -> bool:
    """Whether values are being traced now rather than computed."""
    return isinstance(binding.current(), Frame)


def evaluate(of: Graph, arguments: Sequence[Value]) -> tuple[Value, ...]:
    """Run `of` on `arguments` by binding every node: under a trace this splices, under a tape it records."""
    values: dict[Node, Any] = dict(zip(of.inputs, arguments, strict=True))
    for n in of.nodes():
        if n in values:
            continue
        if n.op is ITEM:
            values[n] = values[n.inputs[0]][n.static["index"]]
        elif n.op is CONSTANT:
            values[n] = new_value(n.static["value"].value, n.type)  # type: ignore[arg-type]
        elif n.op is INPUT:
            raise escaped("evaluate")
        else:
            arguments_of = [values[i] for i in n.inputs]
            again = appliers.get(n.op.name)
            values[n] = bind(n.op, *arguments_of, **n.static) if again is None else again(*arguments_of, **n.static)
    return tuple([values[n] for n in of.outputs])
