"""What the lanes of a chunk hold where an integer does not rise evenly from lane to lane: patterns.

With this you can tell which elements sixteen lanes read when a loop runs through several short dims at once, as the three
colours of an image's pixels. Quotients and remainders of the loop's index then differ from lane to lane, but in a way that is
known when the kernel is compiled, if the chunk begins at a known place of the period:

    i = 48·n + 16 + lane:    i // 3 = 16·n + (5, 5, 6, 6, 6, 7 …)        i % 3 = (1, 2, 0, 1, 2, 0 …)

So a load is a few runs of memory and a shuffle of each, and a condition is a constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mainspring.compile.loops import LANES
from mainspring.ir import scalar as s
from mainspring.ir.scalar import Expr, is_const
from mainspring.types.dtype import int64

MOST_CHUNKS = 8  # of a period: so often the body of a loop is written
MOST_RUNS = 6  # of memory that make one load; more are gathered
NEAR = LANES  # elements from one place to the next within a run, at most

_COMPARED: dict[str, Callable[[int], bool]] = {"lt": lambda d: d < 0, "le": lambda d: d <= 0, "eq": lambda d: d == 0,
                                               "ne": lambda d: d != 0}


@dataclass(frozen=True)
class Pattern:
    """The integers of the lanes: `offsets`, plus one unknown multiple of `modulus` (0: plus nothing, so they are known)."""

    modulus: int
    offsets: tuple[int, ...]

    @staticmethod
    def of(value: int) -> Pattern:
        return Pattern(0, (value,) * LANES)

    def __add__(self, other: Pattern) -> Pattern:
        return self._joined(other, 1)

    def __sub__(self, other: Pattern) -> Pattern:
        return self._joined(other, -1)

    def _joined(self, other: Pattern, sign: int) -> Pattern:
        offsets = tuple(a + sign * b for a, b in zip(self.offsets, other.offsets, strict=True))
        return Pattern(math.gcd(self.modulus, other.modulus), offsets)

    def times(self, factor: int) -> Pattern:
        return Pattern(self.modulus * abs(factor), tuple(a * factor for a in self.offsets))

    def over(self, divisor: int) -> Pattern | None:
        """The quotients by `divisor`, if they follow."""
        return None if self.modulus % divisor else Pattern(self.modulus // divisor, tuple(a // divisor for a in self.offsets))

    def modulo(self, divisor: int) -> Pattern | None:
        return None if self.modulus % divisor else Pattern(0, tuple(a % divisor for a in self.offsets))


ANY = Pattern(1, (0,) * LANES)  # the same in all lanes, and not known


class Patterns:
    """The patterns of expressions over one chunk of `var`, of which `base` tells where it begins."""

    def __init__(self, var: Expr | None, base: Pattern, uniform: Callable[[Expr], bool]):
        self._uniform = uniform
        self._found: dict[Expr, Pattern | None] = {} if var is None else {var: base + Pattern(0, tuple(range(LANES)))}

    def of(self, x: Expr) -> Pattern | None:
        """The pattern of the int64 expression `x`; None if it has none."""
        if x not in self._found:
            found = self._find(x)
            self._found[x] = ANY if found is None and self._uniform(x) else found
        return self._found[x]

    def _find(self, x: Expr) -> Pattern | None:
        if x.op == "const":
            return Pattern.of(x.attr)
        if x.op not in ("add", "sub", "mul", "floordiv", "mod") or x.dtype is not int64:
            return None
        a, c = self.of(x.args[0]), self.of(x.args[1])
        if a is None or c is None:
            return None
        if x.op in ("add", "sub"):
            return a + c if x.op == "add" else a - c
        if x.op == "mul":
            return c.times(x.args[0].attr) if is_const(x.args[0]) else a.times(x.args[1].attr) if is_const(x.args[1]) else None
        divisor = x.args[1].attr if is_const(x.args[1]) else 0
        return None if divisor <= 0 else a.over(divisor) if x.op == "floordiv" else a.modulo(divisor)

    def truth(self, x: Expr) -> tuple[bool, ...] | None:
        """In which lanes the condition `x` holds, if that is known."""
        if x.op == "const":
            return (bool(x.attr),) * LANES
        if x.op in ("and", "or", "not"):
            known = [self.truth(a) for a in x.args]
            if None in known:
                return None
            holds = {"and": all, "or": any, "not": lambda parts: not parts[0]}[x.op]
            return tuple(holds(parts) for parts in zip(*known, strict=True))  # type: ignore[arg-type, operator]
        if x.op not in _COMPARED or x.args[0].dtype is not int64:
            return None
        difference = self.of(s.sub(*x.args))
        return None if difference is None or difference.modulus else tuple(map(_COMPARED[x.op], difference.offsets))


def period(expressions: Iterable[Expr], var: Expr) -> int:
    """A multiple of LANES after which quotients and remainders of `var` by small numbers begin anew."""
    found = LANES
    for x in s.walk(*expressions):
        if x.op in ("floordiv", "mod") and x.dtype is int64 and is_const(x.args[1]) and s.affine(x.args[0])[0].get(var, 0):
            divisor = x.args[1].attr
            both = math.lcm(found, divisor) if divisor > 0 and divisor % LANES else found
            found = both if both <= MOST_CHUNKS * LANES else found
    return found


def runs(offsets: Sequence[int], active: Sequence[bool]) -> list[tuple[int, int]] | None:
    """First place and length of the few runs of memory that hold what the active lanes read; None if they are many."""
    found: list[tuple[int, int]] = []
    for place in sorted({o for o, a in zip(offsets, active, strict=True) if a}):
        if found and place - sum(found[-1]) < NEAR and place - found[-1][0] < 2 * LANES:
            found[-1] = found[-1][0], place - found[-1][0] + 1
        else:
            found.append((place, 1))
    return found if len(found) <= MOST_RUNS else None
