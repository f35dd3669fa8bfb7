"""Trees: values nested in dataclasses, dicts, lists, tuples and None.

With this you can treat a model, its optimizer state or a batch as one value: `flatten` it into leaves and a
structure, `map` a function over the leaves, name each leaf by its path. Everything that is not a container is a leaf.
A dataclass field made by `static(...)` belongs to the structure and never becomes a leaf.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from mainspring.base.errors import TreeError


def static(**keywords: Any) -> Any:
    """A dataclass field that is part of the structure (a size, a name, a function), not a leaf."""
    metadata = dict(keywords.pop("metadata", {}))
    return dataclasses.field(metadata={**metadata, "static": True}, **keywords)


def buffer(**keywords: Any) -> Any:
    """A dataclass field whose leaves are carried along but not trained, e.g. running statistics: see `trained`."""
    metadata = dict(keywords.pop("metadata", {}))
    return dataclasses.field(metadata={**metadata, "buffer": True}, **keywords)


@dataclasses.dataclass(frozen=True)
class TreeDef:
    """The structure of a tree: what is left when its leaves are taken out. Hashable, comparable."""

    kind: Any  # None for a leaf, otherwise the container's type
    keys: tuple[Any, ...] = ()
    children: tuple[TreeDef, ...] = ()
    statics: tuple[Any, ...] = ()

    @property
    def num_leaves(self) -> int:
        return 1 if self.kind is None else sum(child.num_leaves for child in self.children)

    def __repr__(self) -> str:
        return f"TreeDef({unflatten(self, ['*'] * self.num_leaves)!r})"


LEAF = TreeDef(None)


@dataclasses.dataclass(frozen=True)
class _Fields:
    leaves: tuple[str, ...]
    statics: tuple[str, ...]


_fields_of: dict[type, _Fields] = {}


def _dataclass_fields(kind: type) -> _Fields:
    found = _fields_of.get(kind)
    if found is None:
        fields = dataclasses.fields(kind)
        found = _fields_of[kind] = _Fields(
            tuple(f.name for f in fields if not f.metadata.get("static")),
            tuple(f.name for f in fields if f.metadata.get("static")),
        )
    return found


def static_names(kind: type) -> tuple[str, ...]:
    """Names of the static fields of a dataclass."""
    return _dataclass_fields(kind).statics


def _is_dataclass(kind: type) -> bool:
    return hasattr(kind, "__dataclass_fields__")


def _children(value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]] | None:
    """(keys, children, statics) of a container, or None for a leaf."""
    kind = type(value)
    if value is None:
        return (), (), ()
    if kind is list or kind is tuple or (isinstance(value, tuple) and hasattr(value, "_fields")):
        return tuple(range(len(value))), tuple(value), ()
    if kind is dict:
        try:
            keys = tuple(sorted(value))
        except TypeError as error:
            raise TreeError("tree", "keys", "the keys of a dict must be sortable", str(list(value)),
                            "{'a': x, 'b': y}") from error
        return keys, tuple(value[k] for k in keys), ()
    if _is_dataclass(kind) and not isinstance(value, type):
        names = _dataclass_fields(kind)
        return (
            names.leaves,
            tuple(getattr(value, n) for n in names.leaves),
            tuple(getattr(value, n) for n in names.statics),
        )
    return None


def flatten(tree: Any) -> tuple[list[Any], TreeDef]:
    """Leaves of `tree` in a fixed order, and its structure."""
    leaves: list[Any] = []
    return leaves, _flatten_into(tree, leaves)


def _flatten_into(tree: Any, leaves: list[Any]) -> TreeDef:
    parts = _children(tree)
    if parts is None:
        leaves.append(tree)
        return LEAF
    keys, children, statics = parts
    return TreeDef(type(tree), keys, tuple([_flatten_into(child, leaves) for child in children]), statics)


def unflatten(treedef: TreeDef, leaves: Iterable[Any]) -> Any:
    """The tree of structure `treedef` with `leaves` put back; raises TreeError when their number differs."""
    leaves = list(leaves)
    if len(leaves) != treedef.num_leaves:
        raise TreeError("unflatten", "leaves", f"this structure takes {treedef.num_leaves} leaves", f"{len(leaves)} leaves")
    return _build(treedef, iter(leaves))


def _build(treedef: TreeDef, leaves: Any) -> Any:
    kind = treedef.kind
    if kind is None:
        return next(leaves)
    if kind is type(None):
        return None
    children = [_build(child, leaves) for child in treedef.children]
    if kind is list:
        return children
    if kind is tuple:
        return tuple(children)
    if kind is dict:
        return dict(zip(treedef.keys, children, strict=True))
    if issubclass(kind, tuple):
        return kind(*children)
    value = object.__new__(kind)
    for name, child in zip(treedef.keys, children, strict=True):
        object.__setattr__(value, name, child)
    for name, item in zip(_dataclass_fields(kind).statics, treedef.statics, strict=True):
        object.__setattr__(value, name, item)
    return value


def leaves(tree: Any) -> list[Any]:
    """The leaves of `tree`, in the order of `flatten`."""
    return flatten(tree)[0]


def map(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Apply `function` to corresponding leaves; every tree must have the structure of the first."""
    first, treedef = flatten(tree)
    columns = [first]
    for position, other in enumerate(rest, start=2):
        values, structure = flatten(other)
        if structure != treedef:
            raise TreeError(
                "tree.map", f"tree {position}", "all trees must have the same structure", difference(treedef, structure)
            )
        columns.append(values)
    return _build(treedef, iter([function(*row) for row in zip(*columns, strict=True)]))


def paths(tree: Any) -> list[str]:
    """A dotted path for each leaf (``blocks.0.attention.query.weight``), in the order of `flatten`."""
    found: list[str] = []
    _paths_into(flatten(tree)[1], "", found)
    return found


def _paths_into(treedef: TreeDef, prefix: str, found: list[str]) -> None:
    if treedef.kind is None:
        found.append(prefix)
    for key, child in zip(treedef.keys, treedef.children, strict=True):
        _paths_into(child, f"{prefix}.{key}" if prefix else str(key), found)


def trained(treedef: TreeDef) -> list[bool]:
    """For each leaf, whether it lies outside every field made by `buffer(...)`."""
    return _trained(treedef, True)


def _trained(treedef: TreeDef, outside: bool) -> list[bool]:
    if treedef.kind is None:
        return [outside]
    fields = dataclasses.fields(treedef.kind) if _is_dataclass(treedef.kind) else ()
    buffers = {f.name for f in fields if f.metadata.get("buffer")}
    pairs = zip(treedef.keys, treedef.children, strict=True)
    return [flag for key, child in pairs for flag in _trained(child, outside and key not in buffers)]


def leaves_at(treedef: TreeDef, tree: Any) -> list[Any]:
    """What `tree` holds at each leaf of `treedef`: the leaf, or None where `tree` has None there or above.

    Where `treedef` itself has None, `tree` may hold anything.
    """
    if treedef.kind is type(None):
        return []
    if tree is None:
        return [None] * treedef.num_leaves
    if treedef.kind is None:
        return [tree]
    parts = _children(tree)
    if parts is None or type(tree) is not treedef.kind or parts[0] != treedef.keys:
        raise TreeError("tree", "tree", "must have the structure wanted, or None in its place",
                        difference(treedef, flatten(tree)[1]))
    return [leaf for child, value in zip(treedef.children, parts[1], strict=True) for leaf in leaves_at(child, value)]


def difference(want: TreeDef, got: TreeDef, path: str = "") -> str:
    """The first place where two structures differ, in words."""
    here = path or "the root"
    if want.kind is not got.kind:
        return f"at {here}: wanted {_kind_name(want)}, got {_kind_name(got)}"
    if want.keys != got.keys:
        return f"at {here}: wanted the keys {list(want.keys)}, got {list(got.keys)}"
    if want.statics != got.statics:
        return f"at {here}: wanted the static fields {want.statics}, got {got.statics}"
    for key, a, b in zip(want.keys, want.children, got.children, strict=True):
        if a != b:
            return difference(a, b, f"{path}.{key}" if path else str(key))
    return "they are equal"


def _kind_name(treedef: TreeDef) -> str:
    return "a leaf" if treedef.kind is None else treedef.kind.__name__
