"""The verifier accepts what tracing makes and names what is wrong with what it does not."""

from __future__ import annotations

import pytest

from mainspring.base.errors import GraphError
from mainspring.interpret.staged import trace
from mainspring.ir.graph import ITEM, Graph, Node, constant_node, graph, input_node, node, rebuild
from mainspring.ir.op import OPS, NoGradient, Op, Opaque
from mainspring.ir.verify import STAGES, verify
from mainspring.ops import elementwise as e
from mainspring.ops.control import call_graph, checkpoint
from mainspring.ops.scan import scan
from mainspring.types.dtype import float32, int64
from mainspring.types.shape import TensorType
from tests.unit.ir.programs import PROGRAMS, traced

VECTOR = TensorType((3,), float32)
X = input_node(0, VECTOR)


@pytest.mark.parametrize("name", PROGRAMS)
def test_traced_graphs_are_well_formed(name):
    graph = traced(name)
    assert verify(graph) is graph


def forged(op: str, inputs: tuple[Node, ...], type_: TensorType, **static) -> Node:
    """A node that was never interned, so that it does not stay behind."""
    made = object.__new__(Node)
    made.op, made.inputs, made.static, made.type = OPS[op], inputs, static, type_
    made.digest, made.source = f"forged {op} {type_}".encode(), "model.py:7: y = f(x)"
    return made


def in_graph(*outputs: Node) -> Graph:
    return graph([X], outputs)


STRANGER = Op("tanh", lambda x: x, lambda x: x, Opaque("for this test"), NoGradient("for this test"))
SCANNED = trace(lambda x: list(scan(lambda c, _: (e.exp(c), c), x, length=2)), [VECTOR]).graph.outputs[0].inputs[0]
MALFORMED = {
    "type": (lambda: in_graph(forged("exp", (X,), TensorType((4,), float32))), r"its type must be float32\[3\]"),
    "arity": (lambda: in_graph(forged("exp", (X, X), VECTOR)), "its op refuses it"),
    "parameter": (lambda: in_graph(forged("exp", (X,), VECTOR, sharp=1)), "do not fit its op"),
    "refused": (lambda: in_graph(forged("add", (X, constant_node(3.0)), VECTOR)), "its op refuses it"),
    "not encodable": (lambda: in_graph(forged("reshape", (X,), VECTOR, shape=[3])), "its op refuses it"),
    "not closed": (lambda: in_graph(node(OPS["exp"], [input_node(1, VECTOR)], {})), "not closed"),
    "twice": (lambda: graph([X, X], [X]), "another node"),
    "input": (lambda: graph([node(OPS["exp"], [X], {})], []), "must be a node of op input"),
    "not registered": (lambda: in_graph(node(STRANGER, [X], {"unused": 1}, VECTOR)), "not the one registered"),
    "tuple output": (lambda: in_graph(SCANNED), "must be one tensor"),
    "tuple operand": (lambda: in_graph(forged("exp", (SCANNED,), VECTOR)), "must be one tensor"),
    "item index": (lambda: in_graph(node(ITEM, [SCANNED], {"index": 9}, VECTOR)), "an index among them"),
    "item of one": (lambda: in_graph(node(ITEM, [X], {"index": 0}, VECTOR)), "several results"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_graphs_are_rejected(case):
    make, rule = MALFORMED[case]
    with pytest.raises(GraphError, match=rule):
        verify(make())


def test_the_error_shows_neighbourhood_pass_and_line():
    bad = forged("exp", (node(OPS["sin"], [X], {}),), TensorType((), int64))
    with pytest.raises(GraphError) as caught:
        verify(in_graph(forged("cos", (bad,), VECTOR)), after="simplify")
    text = str(caught.value)
    for part in (
        "verify, after simplify",
        "%1 = sin(%0) : float32[3]",
        "> %2 = exp(%1) : int64[]",
        "%3 = cos(%2)",
        "model.py:7: y = f(x)",
    ):
        assert part in text


def test_legality_of_each_stage():
    inner = trace(lambda x: [e.exp(x)], [VECTOR]).graph
    programs = {
        "call": trace(lambda x: call_graph(inner, [x]), [VECTOR]).graph,
        "checkpoint": trace(lambda x: [checkpoint(e.exp)(x)], [VECTOR]).graph,
        "call in scan": trace(lambda x: [scan(lambda c, _: (call_graph(inner, [c])[0], None), x, length=2)[0]], [VECTOR]).graph,
        "stop_gradient": trace(lambda x: [e.stop_gradient(x)], [VECTOR]).graph,
        "exp": inner,
    }
    legal = {name: [s for s in STAGES if _accepts(g, s)] for name, g in programs.items()}
    assert legal == {
        "call": ["graph"],
        "checkpoint": ["graph"],
        "call in scan": ["graph"],
        "stop_gradient": ["graph", "inlined"],
        "exp": list(STAGES),
    }
    assert verify(programs["call"], "expanded", templates=["call"])
    with pytest.raises(GraphError, match="must be one of graph, inlined"):
        verify(inner, "finished")


def _accepts(of: Graph, stage: str) -> bool:
    try:
        verify(of, stage)
    except GraphError:
        return False
    return True


def test_an_inner_graph_is_verified_too():
    outer = traced("recurrent")
    bad = in_graph(forged("exp", (X,), TensorType((4,), float32)))

    def damage(n, inputs):
        if n.op.name != "scan":
            return None
        return forged("scan", inputs, n.type, **{**n.static, "body": bad})

    with pytest.raises(GraphError):
        verify(rebuild(outer, damage))
