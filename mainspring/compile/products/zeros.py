"""Steps of a product that multiply the zeros around an image: left out where all rows of a register tile meet nothing else.

    a 3 × 3 window at the top of an image:   k = (ty, tx, channel), and of ty = 0 there are zeros alone   →   from ty = 1 on

With this you can ask which dim of windows has zeros (`zeros_of`) and which steps are left (`Zeros.within`). By docs/numerics.md
that changes no bit of what is finite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mainspring.compile.inline import is_border
from mainspring.ir import scalar as s
from mainspring.ir.graph import Node
from mainspring.ir.scalar import Expr


@dataclass(frozen=True)
class Zeros:
    """Row m is at place p = m // inner % places, step k at tap k // each % taps, and reads row p · stride + tap · spread of an
    image, where there are zeros before row `low` and from row `high` on."""

    inner: int
    places: int
    taps: int
    each: int
    stride: int
    spread: int
    low: int
    high: int

    @property
    def share(self) -> float:
        """How much of all steps that is."""
        inside = sum(self.low <= p * self.stride + t * self.spread < self.high
                     for p in range(self.places) for t in range(self.taps))
        return 1 - inside / (self.places * self.taps)

    def within(self, row: Expr, start: Expr, stop: Expr) -> tuple[Expr, Expr]:
        """The steps from `start` to `stop` without those of zeros at either end, for a tile at one place from `row` on."""
        at, period = row // self.inner % self.places * self.stride, self.taps * self.each

        def before(limit: int) -> Expr:
            """Steps of taps before that which reads row `limit`."""
            taps = (s.apply("max", s.const(0, at.dtype), limit - at) + (self.spread - 1)) // self.spread
            return s.apply("min", taps, s.const(self.taps, at.dtype)) * self.each

        first = s.apply("max", start, start // period * period + before(self.low))
        last = s.apply("min", stop, (stop - 1) // period * period + before(self.high))
        return first, s.apply("max", first, last)


def zeros_of(of: Any) -> Zeros | None:
    """The first dim of the windows of a product (a `contraction.Contraction`) with zeros around it."""
    root, dims = of.root, of.dims
    if root.op.name != "conv" or dims.swapped or of.dot or dims.domain != tuple(n for n in root.shape if n != 1):
        return None
    x, w = root.inputs
    for i, taps in enumerate(w.shape[:-2]):
        low, high = around(x, 1 + i)
        place = sum(n != 1 for n in root.shape[: 1 + i])
        if (low or high) and root.shape[1 + i] > 1 and place in dims.rows:
            inner = math.prod(dims.domain[d] for d in dims.rows[dims.rows.index(place) + 1 :])
            stride, spread, cut = (root.static[name][i] for name in ("stride", "window_dilation", "padding"))
            return Zeros(inner, root.shape[1 + i], taps, math.prod(w.shape[1 + i : -1]), stride, spread,
                         low + cut[0], x.shape[1 + i] - high + cut[0])
    return None


def around(x: Node, axis: int) -> tuple[int, int]:
    """How many zeros are known to lie before and after what `x` has along `axis`."""
    if is_border(x):
        return x.static["low"][axis], x.static["high"][axis]
    if x.op.name == "transpose":
        return around(x.inputs[0], x.static["axes"][axis])
    if x.op.name == "reshape" and x.inputs[0].shape[: axis + 1] == x.shape[: axis + 1]:
        return around(x.inputs[0], axis)
    if x.op.name == "slice" and set(x.static["step"]) == {1}:
        low, high = around(x.inputs[0], axis)
        cut = x.inputs[0].shape[axis] - x.static["stop"][axis]
        return max(0, low - x.static["start"][axis]), max(0, high - cut)
    return 0, 0
