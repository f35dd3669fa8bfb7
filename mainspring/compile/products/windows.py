"""Windows: convolutions in the form in which their products read memory as it lies.

    conv(x spread by d)   →  d convolutions of x with every d-th tap, interleaved       (`split_spread`)
    conv(x, padding)      →  conv(pad(x))                                               (`pad_windows`)
    pad(x, a), pad(x, b)  →  slices of one padded x, from which others read it, too              (`share_padding`)
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from mainspring.compile.inline import is_border, is_virtual, space_of
from mainspring.compile.simplify import rewrite
from mainspring.ir.graph import ITEM, Graph, Node, constant_node, graph, node
from mainspring.ir.op import OPS
from mainspring.types.shape import TensorType


def split_spread(of: Graph) -> Graph:
    """conv(x, dilation=d) -> its d phases, none of which multiplies the zeros between the elements of x.

    Place d·q + r of a dim sees only the taps t with t ≡ low - r (mod d): it is place q of a convolution of x itself.
    """
    return rewrite(of, lambda n: _phases(n) if n.op.name == "conv" else None)


def _phases(n: Node) -> Node | None:
    x, w = n.inputs
    st = n.static
    spread = st["dilation"]
    plain = set(st["stride"]) == set(st["window_dilation"]) == {1}
    if max(spread) == 1 or not plain or n.type.size == 0 or x.type.size == 0:  # type: ignore[union-attr]
        return None
    counts = [-(-places // d) for places, d in zip(n.shape[1:-1], spread, strict=True)]
    phases = [_phase(n, x, w, counts, remainders) for remainders in itertools.product(*[range(d) for d in spread])]
    return _interleaved(n, phases, counts)


def _phase(n: Node, x: Node, w: Node, counts: list[int], remainders: tuple[int, ...]) -> Node:
    """`counts` places of one phase."""
    st = n.static
    padding, start = [], []
    for i, (r, d, (low, _)) in enumerate(zip(remainders, st["dilation"], st["padding"], strict=True)):
        first = (low - r) % d
        taps = len(range(first, w.shape[i], d))
        before = (low - r - first) // d
        start.append(first)
        padding.append((before, counts[i] + taps - 1 - x.shape[1 + i] - before))
    shape = (n.shape[0], *counts, n.shape[-1])
    if any(first >= k for first, k in zip(start, w.shape, strict=False)):
        return node(OPS["broadcast_to"], (constant_node(np.zeros((), n.dtype.numpy)),), {"shape": shape}, source=n.source)
    rest = len(w.shape) - len(start)
    part = {"start": (*start, *[0] * rest), "stop": w.shape, "step": (*st["dilation"], *[1] * rest)}
    static = {**st, "padding": tuple(padding), "dilation": (1,) * len(start)}
    return node(n.op, (x, node(OPS["slice"], (w,), part, source=n.source)), static, source=n.source)


def _interleaved(n: Node, phases: list[Node], counts: list[int]) -> Node:
    """Place q of phase r at place d·q + r of each dim."""
    spread, (batch, *places, channels) = n.static["dilation"], n.shape
    pieces = [node(OPS["reshape"], (p,), {"shape": (1, *p.shape)}) for p in phases]
    joined = node(OPS["concat"], tuple(pieces), {"axis": 0}) if len(pieces) > 1 else pieces[0]
    apart = node(OPS["reshape"], (joined,), {"shape": (*spread, batch, *counts, channels)})
    d = len(spread)
    order = (d, *itertools.chain(*[(d + 1 + i, i) for i in range(d)]), 2 * d + 1)
    turned = node(OPS["transpose"], (apart,), {"axes": order})
    whole = node(OPS["reshape"], (turned,), {"shape": (batch, *map(math.prod, zip(counts, spread, strict=True)), channels)})
    if whole.shape == n.shape:
        return whole
    return node(OPS["slice"], (whole,), {"start": (0,) * len(n.shape), "stop": (batch, *places, channels),
                                         "step": (1,) * len(n.shape)}, source=n.source)


def pad_windows(of: Graph) -> Graph:
    """conv(x, padding, dilation) -> conv(pad(x)): its windows are then read where they lie, without a test for the border."""
    return rewrite(of, lambda n: _padded_conv(n) if n.op.name == "conv" else None)


def _padded_conv(n: Node) -> Node | None:
    """The padding that places reach, where there is any; what is cut off (negative padding) stays with the convolution."""
    x, w = n.inputs
    st = n.static
    places, taps = n.shape[1:-1], w.shape[:-2]
    low, high, rest = [], [], []
    for i, (before, _) in enumerate(st["padding"]):
        spread = (x.shape[1 + i] - 1) * st["dilation"][i] + 1
        after = (places[i] - 1) * st["stride"][i] + (taps[i] - 1) * st["window_dilation"][i] + 1 - spread - before
        low.append(max(0, before))
        high.append(max(0, after))
        rest.append((min(0, before), min(0, after)))
    if n.type.size == 0 or x.type.size == 0 or not (any(low) or any(high) or max(st["dilation"]) > 1):  # type: ignore[union-attr]
        return None
    interior = (0, *[d - 1 for d in st["dilation"]], 0)
    padded = _pad_first(x, (0, *low, 0), (0, *high, 0), interior)
    static = {**st, "padding": tuple(rest), "dilation": (1,) * len(low)}
    return node(n.op, (padded, w), static, n.type, n.source)


def _pad_first(x: Node, low: tuple[int, ...], high: tuple[int, ...], interior: tuple[int, ...]) -> Node:
    """pad(transpose(y)) -> transpose(pad(y)), so for a reshape that leaves the padded dims alone: one array for all readers."""
    touched = [i for i in range(len(low)) if low[i] or high[i] or interior[i]]
    if x.op.name == "transpose":
        axes = x.static["axes"]
        back = [axes.index(i) for i in range(len(axes))]
        inner = _pad_first(x.inputs[0], *[tuple(p[i] for i in back) for p in (low, high, interior)])  # type: ignore[arg-type]
        return node(x.op, (inner,), x.static, source=x.source)
    y = x.inputs[0] if x.op.name == "reshape" else None
    upto = touched[-1] + 1
    if y is not None and len(y.shape) >= upto and y.shape[:upto] == x.shape[:upto]:
        inner = _pad_first(y, *[p[:upto] + (0,) * (len(y.shape) - upto) for p in (low, high, interior)])  # type: ignore[arg-type]
        return node(x.op, (inner,), {"shape": (*inner.shape[:upto], *x.shape[upto:])}, source=x.source)
    return node(OPS["pad"], (x,), {"low": low, "high": high, "interior": interior, "value": 0.0}, source=x.source)


Pads = tuple[tuple[int, ...], tuple[int, ...]]


def share_padding(of: Graph) -> Graph:
    """pad(x, a), pad(x, b) -> slices of pad(x, max(a, b)); other readers of an x that is computed: from there, too.

    Those are convolutions, and what waits for one that reads the padded x in any case (a residual, the gradient of an
    activation): x then exists in one form. Who can be computed together with x reads x.
    """
    wide = _widest(of)
    bits = {x: 1 << i for i, x in enumerate(wide) if _elementwise(x)}
    new: dict[Node, Node] = {}
    after: dict[Node, int] = {}  # of which x, in bits, a node waits for the padded form
    for old in of.nodes():
        waits = [after[n] for n in old.inputs]
        after[old] = bits.get(old.inputs[0], 0) if is_border(old) else 0
        for w in waits:
            after[old] |= w
        if is_border(old):
            x = old.inputs[0]
            new[old] = _within(new[x], wide[x], old.static["low"], old.shape)
            continue
        conv = old.op.name == "conv"
        inputs = [_from_padded(n, new, wide) if conv else
                  _part(n, new, wide) if any(w & bits.get(n, 0) for w in waits) else new[n] for n in old.inputs]
        same = all(a is b for a, b in zip(inputs, old.inputs, strict=True))
        new[old] = old if same else node(old.op, inputs, old.static, old.type, old.source)  # type: ignore[arg-type]
    return graph(of.inputs, [new[n] for n in of.outputs])


def _widest(of: Graph) -> dict[Node, Pads]:
    """For every x that is padded, the most zeros before and after it in each dim."""
    wide: dict[Node, Pads] = {}
    for n in of.nodes():
        if is_border(n):
            low, high = wide.get(n.inputs[0], (n.static["low"], n.static["high"]))
            wide[n.inputs[0]] = (tuple(map(max, low, n.static["low"])), tuple(map(max, high, n.static["high"])))
    return wide


def _elementwise(x: Node) -> bool:
    """Whether `x` is computed, element by element."""
    space = space_of(x) if x.inputs and isinstance(x.type, TensorType) and x.op is not ITEM else None
    return space is not None and not space.reduced and not is_virtual(x)


def _within(x: Node, pads: Pads, low: tuple[int, ...], shape: tuple[int, ...]) -> Node:
    """x with `low` zeros before it, of `shape`, as a part of x in the zeros of `pads`."""
    padded = node(OPS["pad"], (x,), {"low": pads[0], "high": pads[1], "interior": (0,) * len(low), "value": 0.0})
    start = tuple(a - b for a, b in zip(pads[0], low, strict=True))
    stop = tuple(a + n for a, n in zip(start, shape, strict=True))
    part = {"start": start, "stop": stop, "step": (1,) * len(low)}
    return padded if padded.shape == shape else node(OPS["slice"], (padded,), part)


def _part(x: Node, new: dict[Node, Node], wide: dict[Node, Pads]) -> Node:
    """`x` as a part of its padded form."""
    return _within(new[x], wide[x], (0,) * len(x.shape), x.shape)


def _from_padded(x: Node, new: dict[Node, Node], wide: dict[Node, Pads]) -> Node:
    """The new `x`, which may move what has a padded form: read from that."""
    if x in wide and _elementwise(x):
        return _part(x, new, wide)
    if x.op.name in ("reshape", "transpose"):
        return node(x.op, (_from_padded(x.inputs[0], new, wide),), x.static, x.type, x.source)
    return new[x]
