"""`viz`: a picture of a graph. With this you can look at what was traced, which ops it has, and which kernels they became.

The layout is the layered one (Sugiyama, Tagawa and Toda, 1981): layers by longest path, order within a layer by barycentres,
then positions drawn towards their neighbours. Graphs held by control flow are drawn below, under the names of graph text.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mainspring.base import tree
from mainspring.base.errors import ArgumentError, DataError
from mainspring.interpret.eager import as_value
from mainspring.interpret.staged import trace
from mainspring.ir.graph import INPUT, ITEM, Graph, Node
from mainspring.ir.text import show_node, show_type

HEIGHT, GAP, LAYER, MARGIN = 34, 14, 64, 24  # of a box; between boxes; between layers; around a panel (pixels)
CHARACTER = 6.6  # width of a character (pixels)
ROUTED = 8  # layers up to which an edge is led around the boxes; a longer one is one curve
SWEEPS = 6

#: op family (the module that defines the op) -> colour of its boxes
COLOURS = {
    "graph": "#e8e8e8",
    "elementwise": "#cfe3f7",
    "reduce": "#fbd9b5",
    "movement": "#e3e9d8",
    "common": "#e3e9d8",
    "contract": "#f4b6b6",
    "control": "#dccbf0",
    "scan": "#dccbf0",
    "random": "#fbe9a7",
    "indexing": "#bfe6dc",
    "gather": "#bfe6dc",
    "sorting": "#bfe6dc",
    "cumulative": "#fbd9b5",
    "pooling": "#fbd9b5",
    "attention": "#f4b6b6",
    "reverse": "#e8e8e8",
}
OTHER = "#eadfd6"

# -------------------------------------------------------------------------------------------------------- layout


@dataclass(eq=False)
class Box:
    """A node, or (without one) the place where an edge passes a layer."""

    node: Node | None
    layer: int
    width: float
    x: float = 0.0
    above: list[Box] = field(default_factory=list)
    below: list[Box] = field(default_factory=list)

    @property
    def y(self) -> float:
        return self.layer * LAYER


def _label(n: Node) -> tuple[str, str]:
    name = f"input {n.static['index']}" if n.op is INPUT else n.op.name
    type_ = show_type(n.type)
    return name, type_ if len(type_) <= 26 else type_[:25] + "…"


def _source(n: Node) -> Node:
    """The drawn node behind `n`: an item is drawn as the node whose result it is."""
    return n.inputs[0] if n.op is ITEM else n


@dataclass
class Layout:
    """Boxes in layers, and each edge as the boxes it goes through."""

    layers: list[list[Box]]
    edges: list[list[Box]]

    @property
    def width(self) -> float:
        return max((b.x + b.width / 2 for layer in self.layers for b in layer), default=0.0)

    @property
    def height(self) -> float:
        return max(0, len(self.layers) - 1) * LAYER + HEIGHT


def layout(of: Graph) -> Layout:
    """Where to draw the nodes of `of`."""
    drawn = [n for n in dict.fromkeys([*of.inputs, *of.nodes()]) if n.op is not ITEM]
    depth: dict[Node, int] = {}
    for n in drawn:
        depth[n] = max((depth[_source(i)] + 1 for i in n.inputs), default=0)
    users = _users(drawn)
    for n in drawn:  # what depends on nothing stands just above its first reader
        if not n.inputs and n.op is not INPUT and users[n]:
            depth[n] = min(depth[u] for u in users[n]) - 1
    boxes = {n: Box(n, depth[n], max(map(len, _label(n))) * CHARACTER + 16) for n in drawn}
    layers: list[list[Box]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for box in boxes.values():
        layers[box.layer].append(box)
    edges = [_route(boxes[_source(i)], boxes[n], layers) for n in drawn for i in dict.fromkeys(n.inputs)]
    for _ in range(SWEEPS):
        _order(layers, "above")
        _order(reversed(layers), "below")
    _place(layers)
    return Layout(layers, edges)


def _users(drawn: Sequence[Node]) -> dict[Node, list[Node]]:
    users: dict[Node, list[Node]] = {n: [] for n in drawn}
    for n in drawn:
        for i in n.inputs:
            users[_source(i)].append(n)
    return users


def _route(start: Box, end: Box, layers: list[list[Box]]) -> list[Box]:
    """An edge: through a new place in every layer between, when it is short enough for that."""
    path = [start]
    if end.layer - start.layer <= ROUTED:
        for level in range(start.layer + 1, end.layer):
            path.append(Box(None, level, 2.0))
            layers[level].append(path[-1])
        path.append(end)
        for a, b in itertools.pairwise(path):
            a.below.append(b)
            b.above.append(a)
        return path
    return [start, end]


def _order(layers: Any, side: str) -> None:
    """Sort each layer by the mean place of the neighbours on one side; also counts places anew."""
    for layer in layers:
        means = {}
        for place, box in enumerate(layer):
            near = getattr(box, side)
            means[box] = sum(b.x for b in near) / len(near) if near else place / max(1, len(layer))
        layer.sort(key=means.__getitem__)
        for place, box in enumerate(layer):
            box.x = place / max(1, len(layer))


def _place(layers: list[list[Box]]) -> None:
    """Final positions: in the order found, drawn towards the neighbours, never overlapping."""
    for layer in layers:
        x = 0.0
        for box in layer:
            box.x = x + box.width / 2
            x += box.width + GAP
    for sweep in range(2 * SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted = []
            for box in layer:
                near = (box.above if sweep % 2 == 0 else box.below) or [box]
                wanted.append(sum(b.x for b in near) / len(near))
            _spread(layer, wanted)
    left = min((b.x - b.width / 2 for layer in layers for b in layer), default=0.0)
    for layer in layers:
        for box in layer:
            box.x -= left


def _spread(layer: list[Box], wanted: list[float]) -> None:
    """The places nearest to `wanted` (least squares, by pooling adjacent violators) at which the boxes do not overlap."""
    offsets, total = [], 0.0
    for box in layer:
        offsets.append(total + box.width / 2)
        total += box.width + GAP
    blocks: list[tuple[float, int]] = []  # (mean of wanted - offset, boxes)
    for goal, offset in zip(wanted, offsets, strict=True):
        mean, count = goal - offset, 1
        while blocks and blocks[-1][0] > mean:
            before, boxes = blocks.pop()
            mean, count = (mean * count + before * boxes) / (count + boxes), count + boxes
        blocks.append((mean, count))
    shifts = [mean for mean, count in blocks for _ in range(count)]
    for box, shift, offset in zip(layer, shifts, offsets, strict=True):
        box.x = shift + offset


# ------------------------------------------------------------------------------------------------------- drawing


def family(n: Node) -> str:
    """The op family of a node: the module that defines its op."""
    return n.op.infer.__module__.rsplit(".", 1)[-1]


def _draw(of: Graph, groups: Mapping[Node, int], top: float, title: str) -> tuple[str, float, float]:
    """One graph as SVG elements below `top`; also its width and height."""
    found = layout(of)
    names = {n: f"%{i}" for i, n in enumerate(dict.fromkeys([*of.inputs, *of.nodes()]))}
    results = {_source(n) for n in of.outputs}
    parts = [
        f'<g transform="translate({MARGIN},{top + MARGIN:.0f})">',
        f'<text class="title" x="0" y="-8">{html.escape(title)}</text>',
    ]
    parts += [_edge(path) for path in found.edges]
    parts += [_box(b, b.node, names, groups, b.node in results) for layer in found.layers for b in layer if b.node is not None]
    parts.append("</g>")
    return "\n".join(parts), found.width + 2 * MARGIN, found.height + 2 * MARGIN


def _edge(path: list[Box]) -> str:
    x, y = path[0].x, path[0].y + HEIGHT
    line = [f"M{x:.0f},{y:.0f}"]
    for box in path[1:]:
        bend = (box.y - y) / 2
        line.append(f"C{x:.0f},{y + bend:.0f} {box.x:.0f},{box.y - bend:.0f} {box.x:.0f},{box.y:.0f}")
        x, y = box.x, box.y
        if box.node is None:
            y += HEIGHT
            line.append(f"L{x:.0f},{y:.0f}")
    return f'<path d="{"".join(line)}"/>'


def _box(box: Box, n: Node, names: dict[Node, str], groups: Mapping[Node, int], result: bool) -> str:
    name, type_ = (html.escape(text) for text in _label(n))
    lines = [f"{names[n]} = {show_node(n, names)}", f"kernel {groups[n]}" if n in groups else "", n.source]
    hover = html.escape("\n".join([line for line in lines if line]))
    edge = f"hsl({groups[n] * 137 % 360},70%,40%)" if n in groups else "#222" if result else "#999"
    style = f'fill="{COLOURS.get(family(n), OTHER)}" stroke="{edge}" stroke-width="{2.5 if n in groups or result else 1}"'
    radius = 12 if n.op is INPUT or not n.inputs else 4
    left = box.x - box.width / 2
    return (
        f'<g class="node"><title>{hover}</title>'
        f'<rect x="{left:.0f}" y="{box.y}" width="{box.width:.0f}" height="{HEIGHT}" rx="{radius}" {style}/>'
        f'<text x="{box.x:.0f}" y="{box.y + 14}">{name}</text>'
        f'<text class="type" x="{box.x:.0f}" y="{box.y + 27}">{type_}</text></g>'
    )


def _panels(of: Graph) -> list[tuple[str, Graph]]:
    """`of` and every graph in it, with the names of graph text."""
    found: dict[Graph, str] = {}

    def visit(outer: Graph) -> None:
        for n in outer.nodes():
            for key in sorted(n.static):
                inner = n.static[key]
                if isinstance(inner, Graph) and inner not in found:
                    found[inner] = f"@{len(found) + 1}: {key} of {n.op.name}"
                    visit(inner)

    visit(of)
    return [("", of), *[(title, g) for g, title in found.items()]]


def _legend(graphs: Sequence[Graph]) -> str:
    used = dict.fromkeys(family(n) for g in graphs for n in [*g.inputs, *g.nodes()] if n.op is not ITEM)
    colours = {COLOURS.get(f, OTHER): " ".join(g for g in used if COLOURS.get(g, OTHER) == COLOURS.get(f, OTHER)) for f in used}
    parts, x = [], float(MARGIN)
    for colour, text in colours.items():
        parts.append(
            f'<rect x="{x:.0f}" y="10" width="12" height="12" rx="3" fill="{colour}" stroke="#999"/>'
            f'<text class="legend" x="{x + 17:.0f}" y="20">{html.escape(text)}</text>'
        )
        x += 34 + len(text) * CHARACTER
    return f'<g data-width="{x:.0f}">{"".join(parts)}</g>'


STYLE = (
    "text{font:11px ui-monospace,Menlo,Consolas,monospace;text-anchor:middle;fill:#111}.type{font-size:10px;fill:#555}"
    ".title,.legend{text-anchor:start;fill:#444}path{fill:none;stroke:#aaa}.node:hover rect{stroke:#000;stroke-width:2.5}"
)


def draw(of: Graph, groups: Mapping[Node, int] | None = None) -> str:
    """`of` as one SVG document; see `viz`."""
    panels = _panels(of)
    parts, width, top = [_legend([g for _, g in panels])], 480.0, 24.0
    for title, inner in panels:
        text, wide, high = _draw(inner, groups or {}, top, title)
        parts.append(text)
        width, top = max(width, wide), top + high
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{top:.0f}" viewBox="0 0 {width:.0f} {top:.0f}">'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def viz(
    of: Graph | Callable[..., Any], *args: Any, path: str | Path | None = None, groups: Mapping[Node, int] | None = None
) -> str:
    """A picture of a graph, or of what a function does with arguments of these shapes and dtypes.

    Args:
        of: a Graph, or a function of trees; it is traced with `args`, not run.
        path: a file to write, ending in .svg or .html.
        groups: the kernel of each node; nodes of one kernel get borders of one colour.

    Returns: the SVG text (for .html, the page around it). A box's tooltip tells the node, its type and the user's line.
    """
    suffix = Path(path).suffix if path is not None else ".svg"
    if suffix not in (".svg", ".html"):
        raise ArgumentError("viz", "path", "must end in .svg or .html", str(path), 'ms.viz(f, x, path="step.svg")')
    text = draw(of if isinstance(of, Graph) else _traced(of, args), groups)
    if suffix == ".html":
        head = '<html lang="en"><head><meta charset="utf-8"><title>Mainspring graph</title></head>'
        text = f"<!doctype html>\n{head}\n<body>{text}</body></html>\n"
    if path is not None:
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise DataError("viz", "path", "the file cannot be written", str(error)) from error
    return text


def _traced(function: Callable[..., Any], args: tuple[Any, ...]) -> Graph:
    leaves, structure = tree.flatten(args)

    def flat(*values: Any) -> list[Any]:
        return [as_value(leaf, "viz") for leaf in tree.leaves(function(*tree.unflatten(structure, values)))]

    return trace(flat, [as_value(leaf, "viz")._type for leaf in leaves]).graph
