"""Dot instructions: several neighbours along k multiplied at once. The table of them, and operands packed into words for them.

A word is an uint32 that holds the elements of one operand at `width` neighbouring k, the first in the lowest bits (in the
highest for bfloat16, whose instruction adds the upper product first: so the chain is in the order of k, as without it).

    acc += dot(word of the left, word of the right)         stands for         acc += left[k] · right[k]; acc += left[k+1] · …

Some instructions take unsigned elements with signed ones. A product of two signed operands uses them all the same: the left
one is shifted by `SHIFT` (a bit of each element is turned), and the sums begin at -SHIFT times those of the right one.

With this you can ask which instruction a product may use on a target (`dot_for`), by how many elements its chunks of k are
rounded whatever the target (`grain`), and what a word is (`word`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mainspring.compile.loops import load_wide
from mainspring.compile.target import Target
from mainspring.ir import scalar as s
from mainspring.ir.scalar import Expr
from mainspring.types.dtype import DType, bfloat16, float32, int8, int16, int32, uint8, uint16, uint32

WORD = uint32
SHIFT = 0x80808080  # 128 in each of four elements: int8 ^ SHIFT is uint8, greater by 128


@dataclass(frozen=True)
class Dot:
    """A dot instruction.

    Args:
        op: the scalar primitive that it is. width: elements in a word. element: how they lie in it.
        operands: dtypes that may be multiplied so. accumulator: of the sums. needs: facts of the target.
        mixed: whether the first of its operands is unsigned and the second signed.
    """

    op: str
    width: int
    element: DType
    operands: frozenset[DType]
    accumulator: DType
    needs: frozenset[str]
    mixed: bool = False

    def fits(self, left: DType, right: DType, accumulator: DType) -> bool:
        """Whether operands of these dtypes can be multiplied and summed so."""
        unsigned = self.mixed and left.kind == right.kind == "uint"
        return {left, right} <= self.operands and accumulator is self.accumulator and not unsigned


#: the fastest first
DOTS = (
    Dot("dot_bf16", 2, bfloat16, frozenset({bfloat16}), float32, frozenset({"avx512", "bf16"})),
    Dot("dot_i8", 4, int8, frozenset({int8}), int32, frozenset({"dotprod"})),
    Dot("dot_u8", 4, int8, frozenset({int8, uint8}), int32, frozenset({"vnni"}), mixed=True),
    Dot("dot_i16", 2, int16, frozenset({int8, uint8, int16}), int32, frozenset({"avx2"})),
)


def narrow(factor: Expr) -> Expr:
    """A factor before it was converted to the accumulator's dtype."""
    return factor.args[0] if factor.op == "cast" else factor


def dot_for(left: Expr, right: Expr, target: Target) -> Dot | None:
    """The instruction for a product of these factors on `target`; None for an ordinary multiplication."""
    a, b = narrow(left).dtype, narrow(right).dtype
    return next((d for d in DOTS if d.needs <= target.has and d.fits(a, b, left.dtype)), None)


def grain(left: Expr, right: Expr) -> int:
    """Elements that a chunk of k is rounded up to a multiple of: the widest word of any target."""
    a, b = narrow(left).dtype, narrow(right).dtype
    return max([d.width for d in DOTS if d.fits(a, b, left.dtype)], default=1)


def word(dot: Dot, extent: int, k: Expr, factor: Callable[[Expr, Expr | None], Expr]) -> Expr:
    """The word of number `k` of an operand whose factors along k (of `extent`) are ``factor(k, guard)``; 0 behind the end."""
    elements = []
    for j in range(dot.width):
        at = k * dot.width + j
        whole = extent % dot.width == 0 or j == 0
        elements.append(narrow(factor(at, None if whole else s.compare("lt", at, extent))))
    raw = _side_by_side(elements)
    return _composed(dot, elements) if raw is None else _spread(dot, raw, elements[0].dtype)


def _side_by_side(elements: list[Expr]) -> Expr | None:
    """One load of all `elements`, where they are neighbours in memory; its bytes as an unsigned integer."""
    first = elements[0]
    if any(x.op != "load" or x.attr is not first.attr or x.args[1:] != first.args[1:] for x in elements):
        return None
    terms, start = s.affine(first.args[0])
    if any(s.affine(x.args[0]) != (terms, start + j) for j, x in enumerate(elements)):
        return None
    if len(first.args) == 3 and not s.is_const(first.args[2], 0):
        return None
    wide = uint16 if len(elements) * first.attr.dtype.itemsize == 2 else uint32
    return load_wide(first.attr, first.args[0], wide, first.args[1] if len(first.args) == 3 else None)


def _composed(dot: Dot, elements: list[Expr]) -> Expr:
    """The word of separate elements."""
    total: Expr | None = None
    bits = dot.element.bits
    for j, x in enumerate(elements):
        place = dot.width - 1 - j if dot.element is bfloat16 else j
        part = s.cast(s.bitcast(s.cast(x, dot.element), uint16 if bits == 16 else uint8), WORD)
        part = part if place == 0 else s.apply("shl", part, place * bits)
        total = part if total is None else s.apply("or", total, part)
    assert total is not None
    return total


def _spread(dot: Dot, raw: Expr, source: DType) -> Expr:
    """The word of elements of `source` that lie side by side in `raw`."""
    if dot.element is bfloat16:  # the first one to the upper half
        return s.apply("or", s.apply("shl", raw, 16), s.apply("shr", raw, 16))
    if dot.element.bits == source.bits:
        return raw
    wide = s.cast(raw, int32 if source is int8 else uint32)
    if source is int8:
        low = s.apply("shr", s.apply("shl", wide, 24), 24)
        high = s.apply("shl", s.apply("shr", s.apply("shl", wide, 16), 24), 16)
    else:
        low, high = s.apply("and", wide, 0xFF), s.apply("shl", s.apply("shr", wide, 8), 16)
    return s.bitcast(s.apply("or", s.apply("and", low, 0xFFFF), high), WORD)
