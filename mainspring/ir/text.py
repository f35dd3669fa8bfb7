"""Graph text: with this you can read a graph (`show`) and write one by hand; ``parse(show(g)) is g``.

    graph(%0: float32[2, 3], %1: float32[3]) {
      %2 = broadcast_to(%1, shape=(2, 3)) : float32[2, 3]
      %3 = multiply(%0, %2) : float32[2, 3]
      return %3
    }

One node a line: operands, static parameters by name, type. A graph as a parameter stands indented in its place, named @1,
@2 … where it is first met and referred to by that name afterwards. Text from # to the end of a line is a comment.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from mainspring.base.errors import GraphError, MainspringError
from mainspring.ir.graph import Array, Graph, Node, graph, input_node, node
from mainspring.ir.op import OPS, Types
from mainspring.types.dtype import ALL, DType, as_dtype
from mainspring.types.shape import TensorType

INLINE_SIZE = 16  # elements up to which an array is written as numbers
_DTYPES = {d.name for d in ALL}

# ------------------------------------------------------------------------------------------------------- printer


def show(of: Graph, sources: bool = False) -> str:
    """`of` as text that `parse` reads back; with `sources`, each node's line in the user's code as a comment."""
    return _Printer(sources).graph(of, "")


def show_type(type_: Types) -> str:
    """``float32[2, 3]``, or a parenthesized list of these for several results."""
    if isinstance(type_, TensorType):
        return str(type_)
    return f"({', '.join(map(str, type_))}{',' if len(type_) == 1 else ''})"


def show_node(of: Node, names: dict[Node, str]) -> str:
    """One node as a line; inner graphs are left out. For messages and pictures, not for `parse`."""
    return _Printer(False, brief=True).line(of, names, "")


class _Printer:
    def __init__(self, sources: bool, brief: bool = False):
        self.sources, self.brief = sources, brief
        self.graphs: dict[Graph, str] = {}

    def graph(self, of: Graph, indent: str) -> str:
        names = {n: f"%{i}" for i, n in enumerate(of.inputs)}
        inputs = ", ".join([self.input(n, i) for i, n in enumerate(of.inputs)])
        lines = [f"graph({inputs}) {{"]
        inner = indent + "  "
        for n in of.nodes():
            if n not in names:
                names[n] = f"%{len(names)}"
                comment = f"  # {n.source}" if self.sources and n.source else ""
                lines.append(f"{inner}{names[n]} = {self.line(n, names, inner)}{comment}")
        lines.append(f"{inner}return {', '.join([names[n] for n in of.outputs])}".rstrip())
        return "\n".join([*lines, indent + "}"])

    def input(self, n: Node, position: int) -> str:
        index, depth = n.static["index"], n.static["depth"]
        where = "" if (index, depth) == (position, 0) else f" @({index}, {depth})"
        return f"%{position}: {n.type}{where}"

    def line(self, n: Node, names: dict[Node, str], indent: str) -> str:
        parts = [names.get(i, "%?") for i in n.inputs]
        parts += [f"{key}={self.value(n.static[key], indent)}" for key in sorted(n.static)]
        return f"{n.op.name}({', '.join(parts)}) : {show_type(n.type)}"

    def value(self, value: Any, indent: str) -> str:
        kind = type(value)
        if kind is tuple:
            return f"({', '.join([self.value(v, indent) for v in value])}{',' if len(value) == 1 else ''})"
        if kind is str:
            return json.dumps(value)
        if kind is DType:
            return value.name
        if kind is Array:
            return _show_array(value.value, INLINE_SIZE if not self.brief else 4, self.brief)
        if kind is Graph:
            return self.nested(value, indent)
        return str(value) if kind is TensorType else repr(value)

    def nested(self, of: Graph, indent: str) -> str:
        if self.brief:
            return f"<graph of {len(of.nodes())} nodes>"
        if of in self.graphs:
            return self.graphs[of]
        name = self.graphs[of] = f"@{len(self.graphs) + 1}"
        return f"{name} {self.graph(of, indent)}"


def _show_array(value: np.ndarray, limit: int, brief: bool) -> str:
    type_ = TensorType(tuple(value.shape), as_dtype(value.dtype))
    if value.size <= limit:
        numbers = [str(x).lower() if type_.dtype.kind == "bool" else str(x) for x in value.ravel()]
        text = f"array {type_} [{', '.join(numbers)}]"
        if brief or _array_of(type_, numbers).tobytes() == value.tobytes():  # not for NaN with a payload
            return text
    return f"array {type_} …" if brief else f'array {type_} "{base64.b64encode(value.tobytes()).decode()}"'


def _array_of(type_: TensorType, numbers: Iterable[str]) -> np.ndarray:
    dtype = type_.dtype
    if dtype.kind == "bool":
        values: list[Any] = [n == "true" for n in numbers]
    else:
        values = [int(n) if dtype.kind in ("int", "uint") else float(n) for n in numbers]
    return np.array(values, dtype.numpy).reshape(type_.shape)


# -------------------------------------------------------------------------------------------------------- parser

_TOKEN = re.compile(
    r"""(?P<skip>[ \t\r]+|\#[^\n]*)|(?P<line>\n)|(?P<ref>%\d+)|(?P<graph>@\d+)|(?P<string>"(?:[^"\\\n]|\\.)*")
    |(?P<number>-?(?:inf\b|nan\b|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?))|(?P<name>[A-Za-z_]\w*)|(?P<mark>[()\[\]{}:,=@])|(?P<bad>.)""",
    re.VERBOSE,
)
_WORDS = {"None": None, "True": True, "False": False}


def parse(text: str) -> Graph:
    """The graph that `text` describes; GraphError names the line that is wrong."""
    parser = _Parser(text)
    found = parser.graph()
    parser.expect("end")
    return found


class _Parser:
    def __init__(self, text: str):
        self.lines = text.split("\n")
        self.tokens: list[tuple[str, str, int]] = []
        self.place = 0
        self.graphs: dict[str, Graph] = {}
        line = 1
        for match in _TOKEN.finditer(text):
            kind = match.lastgroup or "bad"
            if kind == "line":
                line += 1
            elif kind != "skip":
                self.tokens.append((kind, match.group(), line))
        self.tokens.append(("end", "the end", line))

    # ------------------------------------------------------------------------------------------------- tokens

    def fail(self, rule: str, token: tuple[str, str, int] | None = None) -> GraphError:
        _, word, line = self.tokens[self.place] if token is None else token
        return GraphError(
            "parse", f"line {line}", rule, f"{word!r} in: {self.lines[line - 1].strip()}", "%2 = add(%0, %1) : float32[2, 3]"
        )

    def peek(self) -> str:
        kind, word, _ = self.tokens[self.place]
        return word if kind in ("mark", "name") else kind

    def take(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1][1]

    def expect(self, wanted: str) -> str:
        kind, word, _ = self.tokens[self.place]
        if wanted not in (kind, word):
            raise self.fail(f"wanted {wanted}")
        return self.take()

    def listed(self, item: Any, end: str) -> list[Any]:
        """Items divided by commas, up to the mark `end`."""
        found: list[Any] = []
        while self.peek() != end:
            found.append(item())
            if self.peek() != end:
                self.expect(",")
        self.take()
        return found

    # ------------------------------------------------------------------------------------------------ grammar

    def graph(self) -> Graph:
        self.expect("graph")
        self.expect("(")
        nodes: dict[str, Node] = {}
        inputs = self.listed(lambda: self.input(nodes), ")")
        self.expect("{")
        while self.peek() != "return":
            self.statement(nodes)
        self.take()
        outputs: list[Node] = []
        while self.peek() != "}":
            outputs.append(self.operand(nodes))
            if self.peek() != "}":
                self.expect(",")
        self.take()
        return graph(inputs, outputs)

    def input(self, nodes: dict[str, Node]) -> Node:
        position = len(nodes)
        name = self.expect("ref")
        self.expect(":")
        type_ = self.type()
        index, depth = position, 0
        if self.peek() == "@":
            self.take()
            self.expect("(")
            index, depth = self.listed(self.integer, ")")
        nodes[name] = input_node(index, type_, depth)
        return nodes[name]

    def statement(self, nodes: dict[str, Node]) -> None:
        start = self.tokens[self.place]
        name = self.expect("ref")
        if name in nodes:
            raise self.fail(f"{name} already stands for another node", start)
        self.expect("=")
        op_token = self.tokens[self.place]
        op = OPS.get(self.expect("name"))
        if op is None:
            raise self.fail("no op of this name is registered", op_token)
        self.expect("(")
        operands: list[Node] = []
        static: dict[str, Any] = {}
        self.listed(lambda: self.argument(nodes, operands, static), ")")
        self.expect(":")
        type_ = self.types()
        try:
            made = node(op, operands, static)
        except (MainspringError, TypeError, LookupError, AttributeError, ValueError) as error:
            raise self.fail(f"{op.name} refuses this: {str(error).splitlines()[0]}", start) from error
        if made.type != type_:
            raise self.fail(f"the type must be {show_type(made.type)}", start)
        nodes[name] = made

    def argument(self, nodes: dict[str, Node], operands: list[Node], static: dict[str, Any]) -> None:
        if self.peek() == "ref":
            operands.append(self.operand(nodes))
        else:
            name = self.expect("name")
            self.expect("=")
            static[name] = self.value()

    def operand(self, nodes: dict[str, Node]) -> Node:
        if self.peek() == "ref" and self.tokens[self.place][1] not in nodes:
            raise self.fail("no line above defines this")
        return nodes[self.expect("ref")]

    def types(self) -> Types:
        if self.peek() != "(":
            return self.type()
        self.take()
        return tuple(self.listed(self.type, ")"))

    def type(self) -> TensorType:
        dtype = self.dtype()
        self.expect("[")
        return TensorType(tuple(self.listed(self.integer, "]")), dtype)

    def dtype(self) -> DType:
        if self.peek() not in _DTYPES:
            raise self.fail("wanted a dtype")
        return as_dtype(self.take())

    def integer(self) -> int:
        token = self.tokens[self.place]
        try:
            return int(self.expect("number"))
        except ValueError as error:
            raise self.fail("wanted an int", token) from error

    def value(self) -> Any:
        kind, word, _ = self.tokens[self.place]
        if kind == "number":
            return (float if re.search(r"[.ein]", word) else int)(self.take())
        if kind == "string":
            return json.loads(self.take())
        if kind == "graph":
            return self.named_graph()
        if word == "(":
            self.take()
            return tuple(self.listed(self.value, ")"))
        if word == "array":
            return self.array()
        if word in _WORDS:
            return _WORDS[self.take()]
        if word in ("inf", "nan"):
            return float(self.take())
        if word not in _DTYPES:
            raise self.fail("wanted a value")
        after = self.tokens[self.place + 1][1]
        return self.type() if after == "[" else self.dtype()

    def named_graph(self) -> Graph:
        token = self.tokens[self.place]
        name = self.take()
        if self.peek() == "graph":
            self.graphs[name] = self.graph()
        if name not in self.graphs:
            raise self.fail("no graph of this name stands above", token)
        return self.graphs[name]

    def array(self) -> Array:
        token = self.tokens[self.place]
        self.take()
        type_ = self.type()
        try:
            if self.peek() == "string":
                data = base64.b64decode(json.loads(self.take()), validate=True)
                return Array(np.frombuffer(data, type_.dtype.numpy).reshape(type_.shape))
            self.expect("[")
            return Array(_array_of(type_, self.listed(self.take, "]")))
        except (ValueError, OverflowError) as error:
            if isinstance(error, MainspringError):
                raise
            raise self.fail(f"not an array of this type: {error}", token) from error
