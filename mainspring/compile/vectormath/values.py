"""Values with operators: LLVM instructions written as formulas, the same text for a scalar and for LANES lanes.

With this you can write ``r = (-n).fma(LN2, x)`` and get the instructions in the current block. A `Value` is a scalar or
a vector of LANES; in a mixed operation the scalar is repeated. A Python number beside a Value takes its element type.
Comparisons give i1. Nothing here carries fast-math flags: what is written is what is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from llvmlite import ir

LANES = 16

F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
PTR = ir.PointerType()

_vectors: dict[ir.Type, ir.VectorType] = {t: ir.VectorType(t, LANES) for t in (F16, F32, F64, I1, I8, I16, I32, I64, PTR)}


_FIRST = ir.Constant(_vectors[I32], [0] * LANES)


class Literal(ir.Constant):
    """A constant of any type, given as LLVM writes it."""

    def __init__(self, t: ir.Type, text: str):
        self.type, self.constant = t, text

    def _get_reference(self) -> str:
        return self.constant

    def _to_string(self) -> str:
        return f"{self.type} {self.constant}"


def poison(t: ir.Type) -> Literal:
    """No particular value of `t`, to be filled in."""
    return Literal(t, "poison")


def type_of(elem: ir.Type, lanes: int) -> ir.Type:
    """`elem`, or the vector of it."""
    return _vectors[elem] if lanes else elem


def constant(elem: ir.Type, value: bool | int | float, lanes: int = 0) -> ir.Constant:
    """The LLVM constant `value`, repeated in all lanes when `lanes`."""
    return _constant(elem, value, math.copysign(1.0, value), type(value), lanes)


@lru_cache(1 << 12)  # with its text
def _constant(elem: ir.Type, value: bool | int | float, sign: float, kind: type, lanes: int) -> ir.Constant:
    scalar = ir.Constant(elem, bool(value) if elem is I1 else value)
    return Literal(_vectors[elem], f"splat ({elem} {scalar.get_reference()})") if lanes else scalar


def suffix(t: ir.Type) -> str:
    """How LLVM mangles the type `t` in names of intrinsics."""
    if isinstance(t, ir.VectorType):
        return f"v{t.count}{suffix(t.element)}"
    if isinstance(t, ir.IntType):
        return f"i{t.width}"
    return "p0" if isinstance(t, ir.PointerType) else {F16: "f16", F32: "f32", F64: "f64"}[t]


def function(module: ir.Module, name: str, result: ir.Type, arguments: list[ir.Type]) -> ir.Function:
    """The function `name` of the module, declared when it is new."""
    found = module.globals.get(name)
    return found if found is not None else ir.Function(module, ir.FunctionType(result, arguments), name)


def call(b: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    """A call of the intrinsic or external function `name`."""
    return b.call(function(b.module, name, result, [a.type for a in arguments]), arguments)


def held(b: ir.IRBuilder, raw: ir.Value) -> ir.Value:
    """A vector `raw` through an empty instruction, equal ones of which are one: LLVM does not know it for what it was."""
    empty = ir.InlineAsm(ir.FunctionType(raw.type, [raw.type]), "", "=v,0")
    return b.call(empty, [raw], attrs=("nounwind", "readnone"))


@dataclass(frozen=True)
class Facts:
    """What formulas may count on: `scales`, an instruction for x 2^n; `kept`, registers enough for their constants."""

    scales: bool = False
    kept: bool = False


class Builder(ir.IRBuilder):
    """Writes a block for a machine of which `facts` tells."""

    def __init__(self, block: ir.Block, facts: Facts = Facts()):
        super().__init__(block)
        self.facts = facts


class Value:
    """An LLVM value in a block being written, scalar (`lanes` 0) or vector (`lanes` LANES)."""

    __slots__ = ("b", "elem", "lanes", "raw")

    def __init__(self, b: Builder, raw: ir.Value):
        self.b, self.raw = b, raw
        vector = isinstance(raw.type, ir.VectorType)
        self.elem: ir.Type = raw.type.element if vector else raw.type
        self.lanes = LANES if vector else 0

    # ------------------------------------------------------------------------------------------------ kinds and shapes

    @property
    def floating(self) -> bool:
        return not isinstance(self.elem, ir.IntType)

    def like(self, value: Value | bool | int | float) -> Value:
        """`value` beside this one: a number becomes a constant of this element type."""
        if isinstance(value, Value):
            return value
        raw = constant(self.elem, value, self.lanes)
        if self.b.facts.kept and self.lanes and self.elem is F32 and value:
            raw = held(self.b, raw)  # what LLVM moves out of loops, where constants are read at each use
        return Value(self.b, raw)

    def splat(self) -> Value:
        """This scalar in all lanes (a vector is itself)."""
        if self.lanes:
            return self
        if isinstance(self.raw, ir.Constant):
            return Value(self.b, Literal(_vectors[self.elem], f"splat ({self.elem} {self.raw.get_reference()})"))
        t = _vectors[self.elem]
        first = self.b.insert_element(poison(t), self.raw, ir.Constant(I32, 0))
        return Value(self.b, self.b.shuffle_vector(first, poison(t), _FIRST))

    def pair(self, other: Any) -> tuple[Value, Value]:
        """Both operands with the same number of lanes."""
        y = self.like(other)
        if self.lanes == y.lanes:
            return self, y
        return self.splat(), y.splat()

    # ------------------------------------------------------------------------------------------------------ arithmetic

    def _binary(self, other: Any, on_floats: Callable[..., Any], on_ints: Callable[..., Any]) -> Value:
        x, y = self.pair(other)
        return Value(self.b, (on_floats if x.floating else on_ints)(self.b, x.raw, y.raw))

    def __add__(self, other: Any) -> Value:
        return self._binary(other, ir.IRBuilder.fadd, ir.IRBuilder.add)

    def __sub__(self, other: Any) -> Value:
        return self._binary(other, ir.IRBuilder.fsub, ir.IRBuilder.sub)

    def __mul__(self, other: Any) -> Value:
        return self._binary(other, ir.IRBuilder.fmul, ir.IRBuilder.mul)

    def __truediv__(self, other: Any) -> Value:
        return self._binary(other, ir.IRBuilder.fdiv, ir.IRBuilder.sdiv)

    def __radd__(self, other: Any) -> Value:
        return self.like(other) + self

    def __rsub__(self, other: Any) -> Value:
        return self.like(other) - self

    def __rmul__(self, other: Any) -> Value:
        return self.like(other) * self

    def __rtruediv__(self, other: Any) -> Value:
        return self.like(other) / self

    def __neg__(self) -> Value:
        return Value(self.b, self.b.fneg(self.raw) if self.floating else self.b.neg(self.raw))

    def fma(self, factor: Any, addend: Any) -> Value:
        """self * factor + addend, rounded once."""
        return self.intrinsic("fma", factor, addend)

    # ---------------------------------------------------------------------------------------------------- bits, logic

    def __and__(self, other: Any) -> Value:
        return self._binary(other, ir.IRBuilder.and_, ir.IRBuilder.and_)

    def __or__(self, other: Any) -> Value:
        return self._binary(other, ir.IRBuilder.or_, ir.IRBuilder.or_)

    def __xor__(self, other: Any) -> Value:
        return self._binary(other, ir.IRBuilder.xor, ir.IRBuilder.xor)

    def __invert__(self) -> Value:
        return self ^ (1 if self.elem is I1 else -1)

    def __lshift__(self, other: Any) -> Value:
        return self._binary(other, ir.IRBuilder.shl, ir.IRBuilder.shl)

    def __rshift__(self, other: Any) -> Value:
        """Arithmetic shift right."""
        return self._binary(other, ir.IRBuilder.ashr, ir.IRBuilder.ashr)

    def lshr(self, other: Any) -> Value:
        """Logical shift right."""
        return self._binary(other, ir.IRBuilder.lshr, ir.IRBuilder.lshr)

    def compare(self, op: str, other: Any, unsigned: bool = False) -> Value:
        """`op` of ==, !=, <, <=, >, >=; with a NaN all are false but !=."""
        x, y = self.pair(other)
        if x.floating:
            raw = (self.b.fcmp_unordered if op == "!=" else self.b.fcmp_ordered)(op, x.raw, y.raw)
        else:
            raw = (self.b.icmp_unsigned if unsigned else self.b.icmp_signed)(op, x.raw, y.raw)
        return Value(self.b, raw)

    def __lt__(self, other: Any) -> Value:
        return self.compare("<", other)

    def __le__(self, other: Any) -> Value:
        return self.compare("<=", other)

    def __gt__(self, other: Any) -> Value:
        return self.compare(">", other)

    def __ge__(self, other: Any) -> Value:
        return self.compare(">=", other)

    def eq(self, other: Any) -> Value:
        return self.compare("==", other)

    def ne(self, other: Any) -> Value:
        return self.compare("!=", other)

    def isnan(self) -> Value:
        return Value(self.b, self.b.fcmp_unordered("uno", self.raw, self.raw))

    def where(self, x: Any, y: Any) -> Value:
        """`x` where this i1 holds, else `y`; one of them must be a Value."""
        a = x if isinstance(x, Value) else y.like(x)
        c = y if isinstance(y, Value) else x.like(y)
        condition: Value = self
        if self.lanes or a.lanes or c.lanes:
            a, c = a.splat(), c.splat()
            condition = self.splat() if self.lanes else self
        return Value(self.b, self.b.select(condition.raw, a.raw, c.raw))

    # ----------------------------------------------------------------------------------------------------- conversions

    def to(self, elem: ir.Type, method: str) -> Value:
        """Converted to `elem` by the builder's `method`, e.g. ``"fpext"`` or ``"sext"``."""
        return Value(self.b, getattr(self.b, method)(self.raw, type_of(elem, self.lanes)))

    def bits(self, elem: ir.Type) -> Value:
        """The same bits read as `elem`."""
        return self if elem == self.elem else self.to(elem, "bitcast")

    # ------------------------------------------------------------------------------------------------------ intrinsics

    def intrinsic(self, name: str, *others: Any) -> Value:
        """llvm.`name` of operands of one type."""
        operands = [self, *[self.like(o) for o in others]]
        if any(o.lanes for o in operands):
            operands = [o.splat() for o in operands]
        t = operands[0].raw.type
        return Value(self.b, call(self.b, f"llvm.{name}.{suffix(t)}", t, [o.raw for o in operands]))

    def abs(self) -> Value:
        return self.intrinsic("fabs")

    def sqrt(self) -> Value:
        return self.intrinsic("sqrt")

    @property
    def scales(self) -> bool:
        """Whether an instruction does `scaled`."""
        return self.b.facts.scales and self.lanes > 0 and self.elem is F32

    def scaled(self, n: Value) -> Value:
        """self * 2^n of whole `n`, rounded once, where this `scales`."""
        masked = [self.raw, n.raw, self.raw, ir.Constant(I16, -1), ir.Constant(I32, 4)]  # all lanes, rounded as always
        return Value(self.b, call(self.b, "llvm.x86.avx512.mask.scalef.ps.512", self.raw.type, masked))

    def copysign(self, sign: Any) -> Value:
        return self.intrinsic("copysign", sign)

    def any(self) -> Value:
        """Whether any lane of this i1 holds (scalar)."""
        return Value(self.b, call(self.b, f"llvm.vector.reduce.or.v{LANES}i1", I1, [self.raw])) if self.lanes else self

    def lane(self, index: int) -> Value:
        return Value(self.b, self.b.extract_element(self.raw, ir.Constant(I32, index)))


def polynomial(x: Value, coefficients: tuple[float, ...]) -> Value:
    """The polynomial in `x`, the coefficient of the highest power first.

    A long one is two in x^2, of the even and of the odd powers, each by Horner's scheme with fma: one multiplication more, but
    the chain in which each step waits for the last is half as long, and the length of chains bounds a loop of such functions.
    """
    if len(coefficients) < _SPLIT:
        return horner(x, coefficients)
    square, ascending = x * x, coefficients[::-1]
    even, odd = (horner(square, ascending[first::2][::-1]) for first in (0, 1))
    return odd.fma(x, even)


_SPLIT = 5  # coefficients from which on the shorter chain is worth the multiplication


def horner(x: Value, coefficients: tuple[float, ...]) -> Value:
    """The same, always one chain: the fewest roundings."""
    result = x.like(coefficients[0])
    for c in coefficients[1:]:
        result = result.fma(x, c)
    return result


def each_lane(x: Value, libm: str, *others: Value) -> Value:
    """The external function `libm` of every lane in turn: correct everywhere, fast nowhere."""
    operands = [x, *others]
    if not x.lanes:
        return Value(x.b, call(x.b, libm, x.elem, [o.raw for o in operands]))
    result: ir.Value = poison(x.raw.type)
    for i in range(LANES):
        value = call(x.b, libm, x.elem, [o.lane(i).raw for o in operands])
        result = x.b.insert_element(result, value, ir.Constant(I32, i))
    return Value(x.b, result)
