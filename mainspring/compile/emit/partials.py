"""The partials of a fold: how they are added to, lane by lane, and how they become one value.

With this you can keep the LANES partials of a `Reduce` in the lanes of a vector (`Partials`), and fold partials that lie apart
(`fold_tree`), in the order of the contract.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from mainspring.compile.emit.scalar import PRIMITIVES, register_type
from mainspring.compile.loops import COMBINES, LANES, Fold
from mainspring.compile.vectormath.values import Builder, Value, type_of
from mainspring.types.dtype import DType


@dataclass
class Partials:
    """The LANES partials of a fold, in `slot`."""

    b: Builder
    fold: Fold
    slot: ir.Value

    def take(self, x: Value, mask: Value | None) -> None:
        """An element more for each lane in `mask`."""
        self.change(self.slot, lambda old: self.joined(old, x), mask)

    def joined(self, old: Value, x: Value) -> Value:
        return combine(self.fold.combine, old, x, self.fold.value.dtype)

    def change(self, slot: ir.Value, new: Callable[[Value], Value], mask: Value | None) -> None:
        old = self.held(slot)
        self.b.store((new(old) if mask is None else mask.where(new(old), old)).raw, slot)

    def held(self, slot: ir.Value) -> Value:
        return Value(self.b, self.b.load(slot, typ=type_of(register_type(self.fold.value.dtype), LANES)))

    def total(self) -> Value:
        return self.held(self.slot)


@dataclass
class Extremes(Partials):
    """Those of a max or min of floats. A NaN met is kept in `nans`, so that no comparison waits for the test for one."""

    nans: ir.Value

    def take(self, x: Value, mask: Value | None) -> None:
        super().take(x, mask)
        self.change(self.nans, lambda old: x.isnan().where(x, old), mask)

    def joined(self, old: Value, x: Value) -> Value:
        return old.compare(">" if self.fold.combine == "max" else "<", x).where(old, x)

    def total(self) -> Value:
        nan = self.held(self.nans)
        return nan.isnan().where(nan, super().total())


def combine(by: str, x: Value, y: Value, dtype: DType) -> Value:
    """Two partials into one."""
    return PRIMITIVES[COMBINES[by]](x, y, dtype)


def fold_tree(fold: Fold, partials: list[Value]) -> Value:
    """The LANES partials by halves: j with j + 8, then j + 4, j + 2, j + 1.

    Partials that are not given are identities, which change no other: a sum that began with 0 is not -0.
    """
    half = LANES // 2
    while half:
        partials = [combine(fold.combine, partials[j], partials[j + half], fold.value.dtype) if j + half < len(partials)
                    else partials[j] for j in range(min(half, len(partials)))]
        half //= 2
    return partials[0]
