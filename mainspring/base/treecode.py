"""Trees taken apart and put together by code written for one structure.

A jitted call of fifty leaves spends its time in walking the tree. With this you get, for one `TreeDef`, a function that takes
exactly such trees apart (and gives None for any other), and one that puts leaves back, each a straight line of Python.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from mainspring.base.tree import TreeDef, static_names


class Writer:
    """Source lines, and the objects they name."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {"new": object.__new__, "setattr_": object.__setattr__}
        self.count = 0

    def fresh(self) -> str:
        self.count += 1
        return f"x{self.count}"

    def constant(self, value: Any) -> str:
        name = f"c{len(self.names)}"
        self.names[name] = value
        return name

    def function(self, head: str) -> Callable[..., Any]:
        source = "\n".join([head, *[f"    {line}" for line in self.lines]])
        exec(compile(source, "<treecode>", "exec"), self.names)
        return self.names["function"]


def taker(treedef: TreeDef) -> Callable[[Any], list[Any] | None]:
    """A function giving the leaves of a tree of exactly this structure, and None for any other."""
    writer = Writer()
    leaves: list[str] = []
    _take(treedef, "tree", writer, leaves)
    writer.lines.append(f"return [{', '.join(leaves)}]")
    return writer.function("def function(tree):")


def _take(treedef: TreeDef, name: str, writer: Writer, leaves: list[str]) -> None:
    kind = treedef.kind
    if kind is None:
        leaves.append(name)
        return
    if kind is type(None):
        writer.lines.append(f"if {name} is not None: return None")
        return
    writer.lines.append(f"if type({name}) is not {writer.constant(kind)}: return None")
    if kind in (list, tuple, dict) or issubclass(kind, tuple):
        writer.lines.append(f"if len({name}) != {len(treedef.keys)}: return None")
    else:
        for field, value in zip(static_names(kind), treedef.statics, strict=True):
            own, wanted = f"{name}.{field}", writer.constant(value)
            writer.lines.append(f"if {own} is not {wanted} and {own} != {wanted}: return None")
    for position, (key, child) in enumerate(zip(treedef.keys, treedef.children, strict=True)):
        inner = writer.fresh()
        if kind is dict:
            wanted = writer.constant(key)
            writer.lines.append(f"if {wanted} not in {name}: return None")
            writer.lines.append(f"{inner} = {name}[{wanted}]")
        elif kind in (list, tuple) or issubclass(kind, tuple):
            writer.lines.append(f"{inner} = {name}[{position}]")
        else:
            writer.lines.append(f"{inner} = {name}.{key}")
        _take(child, inner, writer, leaves)


def builder(treedef: TreeDef) -> Callable[[Sequence[Any]], Any]:
    """A function putting a list of leaves back into a tree of this structure."""
    writer = Writer()
    result = _build(treedef, writer, iter(range(treedef.num_leaves)))
    writer.lines.append(f"return {result}")
    return writer.function("def function(leaves):")


def _build(treedef: TreeDef, writer: Writer, numbers: Any) -> str:
    kind = treedef.kind
    if kind is None:
        return f"leaves[{next(numbers)}]"
    if kind is type(None):
        return "None"
    parts = [_build(child, writer, numbers) for child in treedef.children]
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
