"""Dot products of words as LLVM instructions: those of the target where it has them, else what they mean.

With this you can emit ``dot_bf16``, ``dot_i8``, ``dot_u8`` and ``dot_i16`` (see `dots`) of an accumulator and two words
(`dot`). On vectors of the target's width each is one instruction or two; a scalar, or a target without the instruction, takes
the words apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from mainspring.compile.target import Target
from mainspring.compile.vectormath.values import F32, I8, I16, I32, Value, call, poison


@dataclass(frozen=True)
class _Instruction:
    """An intrinsic on registers of `lanes` accumulators: ``name(accumulator, x, y)``, or ``name(x, y)``, then added.

    element: llvm type of what lies in a word, `width` of them. needs: facts of the target.
    """

    name: str
    needs: frozenset[str]
    lanes: int
    element: ir.Type
    width: int
    adds: bool


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite does not have."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


#: primitive -> its instructions, the best first
_INSTRUCTIONS = {
    "dot_bf16": (
        _Instruction("llvm.x86.avx512bf16.dpbf16ps.512", frozenset({"avx512", "bf16"}), 16, _BFloat(), 2, True),
    ),
    "dot_i8": (_Instruction("llvm.aarch64.neon.sdot.v4i32.v16i8", frozenset({"dotprod"}), 4, I8, 4, True),),
    "dot_u8": (
        _Instruction("llvm.x86.avx512.vpdpbusd.512", frozenset({"avx512", "vnni"}), 16, I8, 4, True),
        _Instruction("llvm.x86.avx512.vpdpbusd.256", frozenset({"vnni"}), 8, I8, 4, True),
    ),
    "dot_i16": (  # with VNNI, LLVM makes one instruction of the product and the sum
        _Instruction("llvm.x86.avx512.pmaddw.d.512", frozenset({"avx512"}), 16, I16, 2, False),
        _Instruction("llvm.x86.avx2.pmadd.wd", frozenset({"avx2"}), 8, I16, 2, False),
    ),
}


DOT_PRODUCTS = frozenset(_INSTRUCTIONS)


def dot(op: str, total: Value, x: Value, y: Value, target: Target) -> Value:
    """The accumulator `total` (or all lanes of it) plus the products of the words `x` and `y`."""
    found = next((i for i in _INSTRUCTIONS[op] if i.needs <= target.has), None)
    if found is None or not (total.lanes or x.lanes or y.lanes):
        return _MEANINGS[op](total, x, y)
    return _in_registers(found, total.splat(), x.splat(), y.splat())


def _in_registers(instruction: _Instruction, total: Value, x: Value, y: Value) -> Value:
    """The instruction on each register's share of the lanes."""
    b, lanes = total.b, instruction.lanes
    accumulators, words = ir.VectorType(total.elem, lanes), ir.VectorType(instruction.element, lanes * instruction.width)
    results = []
    for start in range(0, total.raw.type.count, lanes):
        part, *operands = (_part(v, start, lanes) for v in (total, x, y))
        operands = [b.bitcast(o, words) for o in operands]
        if instruction.adds:
            results.append(call(b, instruction.name, accumulators, [part, *operands]))
        else:
            results.append(b.add(part, call(b, instruction.name, accumulators, operands)))
    while len(results) > 1:
        results = [_joined(b, p, q) for p, q in zip(results[::2], results[1::2], strict=True)]
    return Value(b, results[0])


def _part(v: Value, start: int, lanes: int) -> ir.Value:
    """`lanes` lanes of `v` from `start` on."""
    if v.raw.type.count == lanes:
        return v.raw
    picks = ir.Constant(ir.VectorType(I32, lanes), list(range(start, start + lanes)))
    return v.b.shuffle_vector(v.raw, poison(v.raw.type), picks)


def _joined(b: ir.IRBuilder, p: ir.Value, q: ir.Value) -> ir.Value:
    count = 2 * p.type.count
    return b.shuffle_vector(p, q, ir.Constant(ir.VectorType(I32, count), list(range(count))))


# ---------------------------------------------------------------------------------------------------------- meanings


def _bf16(total: Value, x: Value, y: Value) -> Value:
    """The product of the upper halves is added first, then that of the lower ones, each rounded."""
    upper = [(v & -0x10000).bits(F32) for v in (x, y)]
    lower = [(v << 16).bits(F32) for v in (x, y)]
    return lower[0].fma(lower[1], upper[0].fma(upper[1], total))


def _integers(bits: int, unsigned: bool = False) -> Callable[[Value, Value, Value], Value]:
    """Sums of products of elements of so many bits; `unsigned`: those of the first word."""
    def meaning(total: Value, x: Value, y: Value) -> Value:
        for start in range(0, 32, bits):
            first, second = x << (32 - bits - start), y << (32 - bits - start)
            total = total + (first.lshr(32 - bits) if unsigned else first >> (32 - bits)) * (second >> (32 - bits))
        return total

    return meaning


_MEANINGS = {"dot_bf16": _bf16, "dot_i8": _integers(8), "dot_u8": _integers(8, unsigned=True), "dot_i16": _integers(16)}
