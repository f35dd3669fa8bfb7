"""Pictures of graphs: well-formed XML, every node drawn once, nothing overlapping, edges pointing down."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from mainspring.base.errors import ArgumentError, DataError
from mainspring.ir.graph import ITEM
from mainspring.ops import elementwise as e
from mainspring.tensor import asarray
from mainspring.tools.viz import GAP, draw, layout, viz
from tests.unit.ir.programs import PROGRAMS, affine, traced

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_node_is_drawn_with_its_line(name):
    graph = traced(name)
    root = ElementTree.fromstring(draw(graph))
    hovers = [g.find(f"{SVG}title").text for g in root.iter(f"{SVG}g") if g.get("class") == "node"]
    drawn = [n for n in dict.fromkeys([*graph.inputs, *graph.nodes()]) if n.op is not ITEM]
    assert len(hovers) >= len(drawn)
    assert any("programs.py" in hover for hover in hovers)


@pytest.mark.parametrize("name", PROGRAMS)
def test_boxes_do_not_overlap_and_edges_go_down(name):
    found = layout(traced(name))
    for layer in found.layers:
        for a, b in itertools.pairwise(layer):
            assert b.x - b.width / 2 - (a.x + a.width / 2) >= GAP - 1e-6
    for path in found.edges:
        assert all(a.layer < b.layer for a, b in itertools.pairwise(path))


def test_functions_files_and_groups(tmp_path):
    x, w = asarray(np.ones((2, 3), np.float32)), asarray(np.ones(3, np.float32))
    assert viz(affine, x, w) == draw(traced("affine"))
    page = viz(lambda batch: affine(batch["x"], batch["w"]), {"x": x, "w": w}, path=tmp_path / "step.html")
    assert page == (tmp_path / "step.html").read_text() and page.startswith("<!doctype html>")
    graph = traced("affine")
    assert "kernel 4" in viz(graph, groups={n: 4 for n in graph.nodes()}, path=tmp_path / "step.svg")
    with pytest.raises(ArgumentError, match=r"\.svg or \.html"):
        viz(graph, path="step.png")
    with pytest.raises(DataError, match="cannot be written"):
        viz(graph, path=tmp_path / "missing" / "step.svg")


def test_large_graphs_stay_fast():
    def deep(x):
        kept = [x]
        for i in range(400):
            kept.append(e.tanh(kept[-1]) + kept[i // 2])
        return kept[-1]

    root = ElementTree.fromstring(viz(deep, asarray(np.ones(3, np.float32))))
    assert len([g for g in root.iter(f"{SVG}g") if g.get("class") == "node"]) == 801
