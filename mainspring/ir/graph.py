"""Graphs: hash-consed nodes over tensor types.

With this you can build a node (`node`), close a set of nodes into a `Graph`, walk it in order, and rebuild it with
other inputs. Equal structure is the same object, so common subexpressions are shared by construction and a graph's
`digest` (stable between processes) names it in caches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from mainspring.base.errors import GraphError
from mainspring.ir.op import OPS, NoGradient, Op, Opaque, Types, register
from mainspring.types.dtype import DType, as_dtype
from mainspring.types.shape import TensorType


class Array:
    """A constant array as a static parameter: immutable, compared by content."""

    __slots__ = ("digest", "value")

    def __init__(self, value: np.ndarray):
        value = np.array(value, order="C", copy=value.flags.writeable or not value.flags.c_contiguous)
        value.setflags(write=False)
        self.value = value
        header = f"{as_dtype(value.dtype).name}{value.shape}".encode()
        self.digest = hashlib.blake2b(header + value.tobytes(), digest_size=16).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Array) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Array({as_dtype(self.value.dtype).name}{list(self.value.shape)}, {self.digest})"


def encode(value: Any) -> str:
    """A static parameter as text that tells all different values apart."""
    kind = type(value)
    if kind is int or kind is bool or kind is str or value is None:
        return repr(value)
    if kind is float:
        return value.hex()
    if kind is tuple:
        return f"({','.join([encode(v) for v in value])},)"
    if kind is DType:
        return value.name
    if kind is TensorType:
        return str(value)
    if kind is Graph:
        return f"graph:{value.digest}"
    if kind is Array:
        return f"array:{value.digest}"
    raise GraphError("static parameter", "value",
                     "must be None, bool, int, float, str, DType, TensorType, Array, Graph or a tuple of these",
                     f"{value!r} of type {kind.__name__}")


class Node:
    """An op applied: `inputs` are nodes, `static` the parameters, `type` the result's type (a tuple for several results);
    `text` names op and parameters."""

    __slots__ = ("__weakref__", "digest", "inputs", "op", "source", "static", "text", "type")
    op: Op
    inputs: tuple[Node, ...]
    static: dict[str, Any]
    type: Types
    text: str
    digest: bytes
    source: str

    def __repr__(self) -> str:
        return f"<{self.op.name}: {self.type}>"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape  # type: ignore[union-attr]

    @property
    def dtype(self) -> DType:
        return self.type.dtype  # type: ignore[union-attr]


_nodes: WeakValueDictionary[bytes, Node] = WeakValueDictionary()


def node(op: Op, inputs: Iterable[Node], static: dict[str, Any], type_: Types | None = None, source: str = "") -> Node:
    """The one node of this structure; `type_` is inferred when not given. `source` is the user's line, for messages only."""
    inputs = tuple(inputs)
    text = "|".join([op.name, *[f"{k}={encode(static[k])}" for k in sorted(static)]])
    digest = hashlib.blake2b(text.encode() + b"\0" + b"".join([n.digest for n in inputs]), digest_size=16).digest()
    found = _nodes.get(digest)
    if found is None:
        found = object.__new__(Node)
        found.op, found.inputs, found.static, found.text = op, inputs, static, text
        found.digest, found.source = digest, source
        found.type = op.infer(*[n.type for n in inputs], **static) if type_ is None else type_
        _nodes[digest] = found
    return found


def _structural(name: str, infer: Callable[..., Types], doc: str) -> Op:
    def reference(*args: Any, **static: Any) -> Any:
        raise GraphError(name, "op", "belongs to graphs and is never executed by itself", name)

    return register(Op(name, infer, reference, Opaque("structural: part of every graph"), NoGradient("structural", zero=False),
                       doc))


INPUT = _structural("input", lambda index, depth, type: type, "Input `index` of the graph traced at nesting `depth`.")
ITEM = _structural("item", lambda types, index: types[index], "Result `index` of a node with several results.")


def _constant_type(value: Array) -> TensorType:
    return TensorType(tuple(value.value.shape), as_dtype(value.value.dtype))


CONSTANT = register(Op(
    "constant", _constant_type, lambda value: value.value, Opaque("a literal: becomes a scalar or a constant buffer"),
    NoGradient("a constant does not depend on anything"), "The array `value`.",
))


def input_node(index: int, type_: TensorType, depth: int = 0) -> Node:
    """Input `index` of a graph; `depth` tells the inputs of nested traces apart."""
    return node(INPUT, (), {"index": index, "depth": depth, "type": type_}, type_)


def constant_node(value: np.ndarray) -> Node:
    """A literal."""
    return node(CONSTANT, (), {"value": Array(np.asarray(value))})


def items(of: Node) -> tuple[Node, ...]:
    """All results of `of`, each as a node of one tensor type."""
    if isinstance(of.type, TensorType):
        return (of,)
    return tuple(node(ITEM, (of,), {"index": i}, t) for i, t in enumerate(of.type))


@dataclass(frozen=True, eq=False)
class Graph:
    """A closed function of tensors: `outputs` depend on nothing but `inputs` (nodes of op "input") and constants."""

    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    digest: str

    @property
    def input_types(self) -> tuple[TensorType, ...]:
        return tuple(n.type for n in self.inputs)  # type: ignore[misc]

    @property
    def output_types(self) -> tuple[TensorType, ...]:
        return tuple(n.type for n in self.outputs)  # type: ignore[misc]

    def nodes(self) -> list[Node]:
        """Every node that the outputs need, inputs of a node before it."""
        return topological(self.outputs)

    def __repr__(self) -> str:
        return f"<graph of {len(self.nodes())} nodes, {len(self.inputs)} inputs, {len(self.outputs)} outputs>"

    def __reduce__(self) -> Any:
        raise GraphError("Graph", "pickle", "a graph is stored as text", "pickle.dumps(graph)",
                         "mainspring.ir.text.show(graph)")


_graphs: WeakValueDictionary[str, Graph] = WeakValueDictionary()


def graph(inputs: Iterable[Node], outputs: Iterable[Node]) -> Graph:
    """The one graph of these inputs and outputs."""
    inputs, outputs = tuple(inputs), tuple(outputs)
    content = b"".join([b"in", *[n.digest for n in inputs], b"out", *[n.digest for n in outputs]])
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    found = _graphs.get(digest)
    if found is None:
        found = _graphs[digest] = Graph(inputs, outputs, digest)
    return found


def topological(roots: Iterable[Node]) -> list[Node]:
    """Every node that `roots` need, inputs before users, in a fixed order; iterative, so depth is no limit."""
    order: dict[Node, None] = {}
    stack: list[tuple[Node, bool]] = [(r, False) for r in reversed(tuple(roots))]
    while stack:
        current, done = stack.pop()
        if current in order:
            continue
        if done:
            order[current] = None
        else:
            stack.append((current, True))
            stack.extend([(n, False) for n in reversed(current.inputs) if n not in order])
    return list(order)


def rebuild(of: Graph, change: Callable[[Node, tuple[Node, ...]], Node | None]) -> Graph:
    """`of` with each node replaced by ``change(node, new_inputs)``; None keeps the node (over its new inputs)."""
    new: dict[Node, Node] = {}
    for old in of.nodes():
        inputs = tuple([new[n] for n in old.inputs])
        replaced = change(old, inputs)
        if replaced is None:
            same = all(a is b for a, b in zip(inputs, old.inputs, strict=True))
            replaced = old if same else node(old.op, inputs, old.static, old.type, old.source)
        new[old] = replaced
    return graph([new.get(n, n) for n in of.inputs], [new[n] for n in of.outputs])


def splice(of: Graph, arguments: Iterable[Node]) -> tuple[Node, ...]:
    """The outputs of `of` with its inputs replaced by `arguments`: the function applied."""
    new: dict[Node, Node] = dict(zip(of.inputs, arguments, strict=True))
    for old in of.nodes():
        if old not in new:
            new[old] = old if not old.inputs else node(old.op, [new[n] for n in old.inputs], old.static, old.type, old.source)
    return tuple(new[n] for n in of.outputs)


def users(of: Graph) -> dict[Node, list[Node]]:
    """For each node, the nodes that read it (once per reading node), in order."""
    found: dict[Node, list[Node]] = {n: [] for n in of.nodes()}
    for reader in found:
        for read in dict.fromkeys(reader.inputs):
            found[read].append(reader)
    return found


__all__ = ["OPS", "Array", "Graph", "Node", "constant_node", "encode", "graph", "input_node", "items", "node", "rebuild",
           "splice",
           "topological", "users"]
