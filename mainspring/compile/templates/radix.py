"""Radix sort of one line: digit by digit of a key, the lowest first, each pass keeping the order of equal digits.

    counts[digit] = how many elements have it, for every digit of the key;    counts = where the first of each goes
    for each digit, for i in order:  to[counts[digit of i]++] = from[i]

A key is an unsigned integer that is ordered as the elements are: of a float its bits, all turned where it is negative, else the
sign alone; NaN is the greatest, and -0 equals 0. A pass has no branch that depends on an element.
"""

from __future__ import annotations

from dataclasses import dataclass

from mainspring.compile.loops import Body, Buffer, For, Let, Stmt, Store, Write, load
from mainspring.compile.templates.lines import loop, number, store
from mainspring.ir.scalar import Expr, apply, bitcast, cast, const, ref, var, where
from mainspring.types.dtype import DType, bool_, int32, int64, uint8, uint16, uint32, uint64

DIGIT = 8  # bits
VALUES = 1 << DIGIT
_KEYS = {1: uint8, 2: uint16, 4: uint32, 8: uint64}


def worth(n: int, dtype: DType) -> bool:
    """Whether a line of `n` elements is longer than what is done for each digit takes."""
    return max(24, 8 * dtype.itemsize) <= n < 1 << 31


def key_of(x: Expr, descending: bool) -> Expr:
    """The key of the element `x`."""
    unsigned = _KEYS[x.dtype.itemsize]
    top = const(1 << unsigned.bits - 1, unsigned)
    every = const((1 << unsigned.bits) - 1, unsigned)
    if x.dtype.kind == "float":
        bits = bitcast(where(apply("eq", x, 0), const(0.0, x.dtype), x), unsigned)
        key = apply("xor", bits, where(apply("lt", bits, top), top, every))
    else:
        key = cast(x, unsigned) if x.dtype is bool_ else bitcast(x, unsigned)
        key = apply("xor", key, top) if x.dtype.kind == "int" else key
    key = apply("xor", key, every) if descending else key
    return where(apply("ne", x, x), every, key) if x.dtype.kind == "float" else key


@dataclass(frozen=True)
class Radix:
    """The scratch of a line of `n` elements: keys and places from and to which a pass goes, and the counts of all digits."""

    n: int
    keys: Buffer
    places: Buffer
    counts: Buffer
    total: Buffer

    @staticmethod
    def of(n: int, dtype: DType) -> Radix:
        return Radix(n, Buffer("keys", _KEYS[dtype.itemsize], 2 * n, "scratch"), Buffer("places", int32, 2 * n, "scratch"),
                     Buffer("counts", int32, dtype.itemsize * VALUES, "scratch"), Buffer("total", int32, 1, "register"))

    @property
    def scratch(self) -> tuple[Buffer, ...]:
        return self.keys, self.places, self.counts, self.total

    @property
    def digits(self) -> int:
        return self.keys.dtype.itemsize

    def sorted_places(self, key: Expr, place: Expr) -> tuple[Body, Expr]:
        """What sorts the line whose element at `place` has `key`; and from which place the element at `place` comes then."""
        begin = loop(place, store(self.keys, place, key), store(self.places, place, cast(place, int32)), role="vector")
        clear = var("entry", self.counts.size)
        body = [loop(clear, store(self.counts, clear, const(0, int32)), role="vector"), begin, self._counted(),
                *[self._starts(digit) for digit in range(self.digits)], *[self._pass(digit) for digit in range(self.digits)]]
        return tuple(body), cast(load(self.places, place + self.digits % 2 * self.n), int64)

    def _entry(self, key: Expr, digit: int) -> Expr:
        """Where the count of the digit of `key` is."""
        shifted = apply("shr", key, const(DIGIT * digit, key.dtype)) if digit else key
        low = apply("and", shifted, VALUES - 1) if key.dtype is not uint8 else shifted
        return cast(low, int64) + digit * VALUES

    def _counted(self) -> For:
        i, key = var("i", self.n), ref("key", self.keys.dtype)
        entries = [ref(f"entry{digit}", int64) for digit in range(self.digits)]
        each: list[Stmt] = [Let(key, load(self.keys, i))]
        for digit, entry in enumerate(entries):
            each += [Let(entry, self._entry(key, digit)), store(self.counts, entry, load(self.counts, entry) + 1)]
        return loop(i, *each)

    def _starts(self, digit: int) -> For:
        """Counts become the places of the first elements."""
        value, count = var(f"value{digit}", VALUES), ref(f"count{digit}", int32)
        at = value + digit * VALUES
        begin = where(apply("eq", value, 0), const(0, int32), load(self.total, 0))
        first = ref(f"first{digit}", int32)
        return loop(value, Let(count, load(self.counts, at)), Let(first, begin),
                    Store((Write(self.counts, at, first), Write(self.total, number(0), first + count))))

    def _pass(self, digit: int) -> For:
        i, key = var(f"from{digit}", self.n), ref(f"key{digit}", self.keys.dtype)
        entry, to = ref(f"entry_of{digit}", int64), ref(f"to{digit}", int32)
        source, at = i + digit % 2 * self.n, cast(to, int64) + (digit + 1) % 2 * self.n
        moved = Store((Write(self.keys, at, key), Write(self.places, at, load(self.places, source)),
                       Write(self.counts, entry, to + 1)))
        known = Let(key, load(self.keys, source)), Let(entry, self._entry(key, digit)), Let(to, load(self.counts, entry))
        return loop(i, *known, moved)
