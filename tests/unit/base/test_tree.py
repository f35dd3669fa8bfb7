"""Trees: flatten and unflatten are inverse; paths; buffers; trees that hold None."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.base import tree
from mainspring.base.errors import TreeError


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass(frozen=True)
class Node:
    value: Any
    other: Any = None
    name: str = tree.static(default="node")
    running: Any = tree.buffer(default=None)


def containers(inner):
    return st.one_of(st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple),
                     st.dictionaries(st.text(max_size=2), inner, max_size=3),
                     st.builds(Pair, inner, inner), st.builds(Node, inner, inner, st.sampled_from(["a", "b"]), inner))


TREES = st.recursive(st.none() | st.integers(), containers, max_leaves=12)


@given(TREES)
def test_flatten_and_unflatten_are_inverse(value):
    leaves, treedef = tree.flatten(value)
    assert tree.unflatten(treedef, leaves) == value and treedef.num_leaves == len(leaves) == len(tree.paths(value))
    assert tree.map(lambda x: x + 1, value) == tree.unflatten(treedef, [x + 1 for x in leaves])
    assert tree.leaves_at(treedef, value) == leaves and tree.leaves_at(treedef, None) == [None] * len(leaves)
    assert hash(treedef) == hash(tree.flatten(tree.map(lambda x: 0, value))[1])


@given(TREES, st.integers(0, 5))
def test_leaves_at_finds_what_is_left(value, keep):
    leaves, treedef = tree.flatten(value)
    holes = [x if i % 3 == keep % 3 else None for i, x in enumerate(leaves)]
    assert tree.leaves_at(treedef, tree.unflatten(treedef, holes)) == holes


def test_buffers_and_paths():
    value = {"a": Node(1, (2, Node(3, 4, running=5)), running=[6, 7]), "b": 8}
    assert tree.paths(value) == ["a.value", "a.other.0", "a.other.1.value", "a.other.1.other", "a.other.1.running",
                                 "a.running.0",
                                 "a.running.1", "b"]
    assert tree.trained(tree.flatten(value)[1]) == [True, True, True, True, False, False, False, True]


@pytest.mark.parametrize("call", [
    lambda: tree.map(lambda a, b: a, Node(1), Node(1, name="other")),
    lambda: tree.map(lambda a, b: a, [1, 2], [1]),
    lambda: tree.unflatten(tree.flatten([1, 2])[1], [1]),
    lambda: tree.leaves_at(tree.flatten({"a": 1})[1], {"b": 1}),
    lambda: tree.leaves_at(tree.flatten([1])[1], 5),
    lambda: tree.flatten({1: 1, "a": 2}),
])
def test_misuse(call):
    with pytest.raises(TreeError):
        call()
