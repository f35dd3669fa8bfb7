"""Graph text: the round-trip law, golden texts, and errors that name the line."""

from __future__ import annotations

import random

import pytest

from mainspring.base.errors import GraphError
from mainspring.interpret.staged import trace
from mainspring.ir.text import parse, show
from mainspring.ops import elementwise as e
from mainspring.types.dtype import ALL
from mainspring.types.shape import TensorType
from tests.unit.ir.programs import PROGRAMS, traced


@pytest.mark.parametrize("name", PROGRAMS)
def test_parse_of_show_is_the_same_object(name):
    graph = traced(name)
    assert parse(show(graph)) is graph
    assert parse(show(graph, sources=True)) is graph


@pytest.mark.parametrize("dtype", ALL, ids=lambda d: d.name)
def test_round_trip_of_every_dtype(dtype):
    graph = trace(lambda x: [e.astype(x, d) for d in ALL], [TensorType((2, 0), dtype)]).graph
    assert parse(show(graph)) is graph


def test_inner_graphs_of_other_depths_and_places():
    inner = trace(
        lambda x: trace(lambda y: [y + x], [TensorType((), ALL[-1])]).graph.outputs and [x], [TensorType((), ALL[-1])]
    )
    nested = []
    trace(lambda x: nested.append(trace(lambda y: [y + x], [x._type]).graph) or [x], [TensorType((), ALL[-1])])
    for graph in (inner.graph, nested[0]):
        assert parse(show(graph)) is graph


@pytest.mark.parametrize("name", ["affine", "odd_numbers", "recurrent", "halving", "shared_calls"])
def test_golden(name, golden):
    golden(f"{name}.graph", show(traced(name)) + "\n")


WRONG = {
    "unknown op": ("%2 = flurb(%0) : float32[3]", "no op of this name"),
    "undefined": ("%2 = add(%0, %9) : float32[3]", "no line above"),
    "wrong type": ("%2 = add(%0, %1) : float32[4]", r"must be float32\[3\]"),
    "twice": ("%1 = add(%0, %1) : float32[3]", "another node"),
    "refused": ("%2 = reshape(%0, shape=(7,)) : float32[7]", "refuses"),
    "missing parameter": ("%2 = sum(%0) : float32[]", "refuses"),
    "bad value": ("%2 = sum(%0, axes=?) : float32[]", "wanted a value"),
    "bad array": ("%2 = constant(value=array float32[3] [1, 2]) : float32[3]", "not an array"),
    "bad bytes": ('%2 = constant(value=array float32[3] "AA") : float32[3]', "not an array"),
    "no graph": ("%2 = call(%0, graph=@7) : (float32[3],)", "no graph of this name"),
    "not a dtype": ("%2 = add(%0, %1) : real[3]", "wanted a dtype"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_name_the_line(case):
    line, rule = WRONG[case]
    with pytest.raises(GraphError, match=f"(?s)line 3.*{rule}"):
        parse(f"# a comment\ngraph(%0: float32[3], %1: float32[3]) {{\n  {line}\n  return %0\n}}")


def test_damaged_text_gives_our_error_or_a_graph():
    generator = random.Random(0)
    for name in ("recurrent", "odd_numbers"):
        text = show(traced(name))
        for _ in range(150):
            start = generator.randrange(len(text))
            stop = start + generator.randrange(1, 12)
            try:
                parse(text[:start] + generator.choice(["", "(", "7", '"', " x "]) + text[stop:])
            except GraphError as error:
                assert "line " in str(error)
