"""Trees taken apart and put together by code written for one structure.

A jitted call of fifty leaves would spend its time in walking the tree. With this you can write (`Writer`) a function as a
straight line of Python that takes trees of exactly one `TreeDef` apart (`take`), does something with the leaves, and puts
others together (`build`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mainspring.base.tree import TreeDef, static_names

MISSED = object()  # what written code gives for a tree that it does not serve


class Writer:
    """The lines of a function, and the objects they name."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {"new": object.__new__, "setattr_": object.__setattr__, "MISSED": MISSED}
        self.count = 0

    def fresh(self) -> str:
        """A name for a variable."""
        self.count += 1
        return f"x{self.count}"

    def constant(self, value: Any) -> str:
        """The name of an object."""
        name = f"c{len(self.names)}"
        self.names[name] = value
        return name

    def unpack(self, sequence: str, count: int) -> list[str]:
        """Names of the `count` elements of `sequence`."""
        names = [self.fresh() for _ in range(count)]
        if names:
            self.lines.append(f"{', '.join(names)}, = {sequence}")
        return names

    def function(self, head: str) -> Callable[..., Any]:
        """The function that begins with `head`, a line that calls it `function`."""
        source = "\n".join([head, *[f"    {line}" for line in self.lines]])
        exec(compile(source, "<treecode>", "exec"), self.names)
        return self.names["function"]


def take(treedef: TreeDef, name: str, writer: Writer) -> list[str]:
    """Names of the leaves of the tree `name`, after lines that return MISSED for a tree of any other structure."""
    leaves: list[str] = []
    _take(treedef, name, writer, leaves)
    return leaves


def _take(treedef: TreeDef, name: str, writer: Writer, leaves: list[str]) -> None:
    kind = treedef.kind
    if kind is None:
        leaves.append(name)
        return
    if kind is type(None):
        writer.lines.append(f"if {name} is not None: return MISSED")
        return
    writer.lines.append(f"if type({name}) is not {writer.constant(kind)}: return MISSED")
    if kind in (list, tuple, dict) or issubclass(kind, tuple):
        writer.lines.append(f"if len({name}) != {len(treedef.keys)}: return MISSED")
    else:
        for field, value in zip(static_names(kind), treedef.statics, strict=True):
            own, wanted = f"{name}.{field}", writer.constant(value)
            writer.lines.append(f"if {own} is not {wanted} and {own} != {wanted}: return MISSED")
    inner = [writer.fresh() for _ in treedef.children]
    if kind is dict:
        for name_of, wanted in zip(inner, map(writer.constant, treedef.keys), strict=True):
            writer.lines.append(f"if {wanted} not in {name}: return MISSED")
            writer.lines.append(f"{name_of} = {name}[{wanted}]")
    elif kind in (list, tuple) or issubclass(kind, tuple):
        if inner:
            writer.lines.append(f"{', '.join(inner)}, = {name}")
    else:
        writer.lines += [f"{name_of} = {name}.{field}" for name_of, field in zip(inner, treedef.keys, strict=True)]
    for child, name_of in zip(treedef.children, inner, strict=True):
        _take(child, name_of, writer, leaves)


def taker(treedef: TreeDef) -> Callable[[Any], Any]:
    """A function giving the list of leaves of a tree of exactly this structure, and MISSED for any other."""
    writer = Writer()
    writer.lines.append(f"return [{', '.join(take(treedef, 'tree', writer))}]")
    return writer.function("def function(tree):")


def builder(treedef: TreeDef) -> Callable[[Sequence[Any]], Any]:
    """A function putting leaves back into a tree of this structure."""
    writer = Writer()
    leaves = writer.unpack("leaves", treedef.num_leaves)
    writer.lines.append(f"return {build(treedef, leaves, writer)}")
    return writer.function("def function(leaves):")


def build(treedef: TreeDef, leaves: Sequence[str], writer: Writer) -> str:
    """A tree of this structure with the leaves so named, as an expression; what it needs before is written."""
    return _build(treedef, writer, iter(leaves))


def _build(treedef: TreeDef, writer: Writer, leaves: Iterator[str]) -> str:
    kind = treedef.kind
    if kind is None:
        return next(leaves)
    if kind is type(None):
        return "None"
    parts = [_build(child, writer, leaves) for child in treedef.children]
    if kind is list:
        return f"[{', '.join(parts)}]"
    if kind is tuple:
        return f"({''.join(p + ', ' for p in parts)})"
    if kind is dict:
        return "{" + ", ".join(f"{writer.constant(k)}: {p}" for k, p in zip(treedef.keys, parts, strict=True)) + "}"
    if issubclass(kind, tuple):
        return f"{writer.constant(kind)}({', '.join(parts)})"
    return _build_dataclass(treedef, parts, writer)


def _build_dataclass(treedef: TreeDef, parts: list[str], writer: Writer) -> str:
    name = writer.fresh()
    writer.lines.append(f"{name} = new({writer.constant(treedef.kind)})")
    values = [*zip(treedef.keys, parts, strict=True)]
    values += [(field, writer.constant(value))
               for field, value in zip(static_names(treedef.kind), treedef.statics, strict=True)]
    if dataclasses.is_dataclass(treedef.kind) and hasattr(treedef.kind, "__slots__"):
        writer.lines += [f"setattr_({name}, {field!r}, {value})" for field, value in values]
    elif values:
        table = writer.fresh()
        writer.lines.append(f"{table} = {name}.__dict__")
        writer.lines += [f"{table}[{field!r}] = {value}" for field, value in values]
    return name
