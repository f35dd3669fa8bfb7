"""One scalar primitive as LLVM instructions, for every dtype: the native meaning of `mainspring.ir.primitives.SCALARS`.

With this you can emit any primitive on values that already exist (`primitive`), and convert between what memory holds
and what is computed with (`from_memory`, `to_memory`). In registers a bool is an i1 and a float16 or bfloat16 is a
float32 that one of them can hold: arithmetic happens in float32 and is rounded after every primitive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from mainspring.compile.vectormath import math
from mainspring.compile.vectormath.values import (
    F16,
    F32,
    F64,
    I1,
    I8,
    I16,
    I32,
    I64,
    Value,
    call,
    constant,
    suffix,
    type_of,
)
from mainspring.ir.scalar import Expr
from mainspring.types.dtype import DType, bfloat16, bool_, float16, float64

_INTS = {1: I1, 8: I8, 16: I16, 32: I32, 64: I64}


def register_type(dtype: DType) -> ir.Type:
    """The element type in which values of `dtype` are computed."""
    if dtype.kind == "float":
        return F64 if dtype is float64 else F32
    return _INTS[dtype.bits]


def memory_type(dtype: DType) -> ir.Type:
    """The element type that buffers of `dtype` hold."""
    return I8 if dtype is bool_ else I16 if dtype in (float16, bfloat16) else register_type(dtype)


def from_memory(x: Value, dtype: DType) -> Value:
    """What `x`, as loaded, means."""
    if dtype is bool_:
        return x.ne(0)
    if dtype is float16:
        return x.bits(F16).to(F32, "fpext")
    if dtype is bfloat16:
        return (x.to(I32, "zext") << 16).bits(F32)
    return x


def to_memory(x: Value, dtype: DType) -> Value:
    """`x` as it is stored."""
    if dtype is bool_:
        return x.to(I8, "zext")
    if dtype is float16:
        return x.to(F16, "fptrunc").bits(I16)
    if dtype is bfloat16:
        return x.bits(I32).lshr(16).to(I16, "trunc")
    return x


def rounded(x: Value, dtype: DType) -> Value:
    """The float32 `x` rounded to nearest even to what `dtype` can hold."""
    if dtype is float16:
        return x.to(F16, "fptrunc").to(F32, "fpext")
    if dtype is bfloat16:
        bits = x.bits(I32)
        nearest = bits + (bits.lshr(16) & 1) + 0x7FFF
        return (x.isnan().where(bits | 0x400000, nearest) & -0x10000).bits(F32)
    return x


def literal(b: ir.IRBuilder, value: bool | int | float, dtype: DType) -> Value:
    """The constant `value` of `dtype` (half precision is rounded here)."""
    if dtype in (float16, bfloat16):
        value = float(dtype.numpy.type(value))
    if dtype.kind in ("int", "uint"):
        value = (value + (1 << dtype.bits - 1)) % (1 << dtype.bits) - (1 << dtype.bits - 1)
    return Value(b, constant(register_type(dtype), value))


# ------------------------------------------------------------------------------------------------------- integers


def fixed(x: Value) -> int | None:
    """The number that `x` is, if it is a scalar integer constant."""
    raw = x.raw
    return raw.constant if isinstance(raw, ir.Constant) and isinstance(raw.constant, int) and not x.lanes else None


def _safe_divisor(x: Value, y: Value, signed: bool) -> Value:
    """`y` where x / y is defined, else 1 (which also makes MIN / -1 wrap to MIN)."""
    if fixed(y) not in (None, 0, -1):
        return y
    bad = y.eq(0)
    if signed:
        least = -(1 << x.elem.width - 1)
        bad = bad | (y.eq(-1) & x.eq(least))
    return bad.where(y.like(1), y)


def _divide(x: Value, y: Value, signed: bool) -> tuple[Value, Value, Value]:
    """Quotient and remainder towards zero, and the divisor made safe."""
    divisor = _safe_divisor(x, y, signed)
    p, q = x.pair(divisor)
    quotient = Value(x.b, (x.b.sdiv if signed else x.b.udiv)(p.raw, q.raw))
    return quotient, p - quotient * q, q


def _unless_zero(y: Value, result: Value) -> Value:
    return result if fixed(y) not in (None, 0) else y.eq(0).where(result.like(0), result)


def _trunc_div(x: Value, y: Value, dtype: DType) -> Value:
    return _unless_zero(y, _divide(x, y, dtype.kind == "int")[0])


def _power_of_two(y: Value) -> int | None:
    n = fixed(y)
    return n.bit_length() - 1 if n is not None and n > 0 and n & (n - 1) == 0 else None


def floor_divide(x: Value, y: Value, dtype: DType, nonnegative: bool = False) -> Value:
    """Integer quotient towards minus infinity; `nonnegative` promises x >= 0 and y > 0."""
    unsigned = nonnegative or dtype.kind != "int"
    shift = _power_of_two(y)
    if shift is not None:
        return x.lshr(shift) if unsigned else x >> shift
    quotient, remainder, divisor = _divide(x, y, not unsigned)
    if not unsigned:
        wrong = remainder.ne(0) & ((remainder ^ divisor) < 0)
        quotient = wrong.where(quotient - 1, quotient)
    return _unless_zero(y, quotient)


def modulo(x: Value, y: Value, dtype: DType, nonnegative: bool = False) -> Value:
    """Integer remainder with the sign of the divisor."""
    unsigned = nonnegative or dtype.kind != "int"
    shift = _power_of_two(y)
    if shift is not None:
        return x & ((1 << shift) - 1)
    _, remainder, divisor = _divide(x, y, not unsigned)
    if not unsigned:
        wrong = remainder.ne(0) & ((remainder ^ divisor) < 0)
        remainder = wrong.where(remainder + divisor, remainder)
    return _unless_zero(y, remainder)


def _shift(x: Value, y: Value, dtype: DType, left: bool) -> Value:
    bits, count = x.elem.width, fixed(y)
    if count is not None and 0 <= count < bits:
        return x << y if left else x >> y if dtype.kind == "int" else x.lshr(y)
    valid = y.compare("<", bits, unsigned=True)
    if not left and dtype.kind == "int":
        return x >> valid.where(y, bits - 1)
    inside = valid.where(y, 0)
    shifted = x << inside if left else x.lshr(inside)
    return valid.where(shifted, 0)


def _count_zeros(x: Value) -> Value:
    return Value(x.b, call(x.b, f"llvm.ctlz.{suffix(x.raw.type)}", x.raw.type, [x.raw, ir.Constant(I1, 0)]))


# ---------------------------------------------------------------------------------------------------- conversions


def _narrow(x: Value) -> Value:
    """float64 to float32 rounded to odd, so that rounding once more to half precision is right."""
    near = x.to(F32, "fptrunc")
    back = near.to(F64, "fpext")
    bits = near.bits(I32)
    towards_zero = (back.abs() > x.abs()).where(bits - 1, bits)
    return (back.compare("==", x) | x.isnan()).where(near, (towards_zero | 1).bits(F32))


def _to_float(x: Value, source: DType, dtype: DType) -> Value:
    target = register_type(dtype)
    if source.kind == "float":
        if target is x.elem:
            return rounded(x, dtype)
        if target is F64:
            return x.to(F64, "fpext")
        return rounded(_narrow(x), dtype) if dtype in (float16, bfloat16) else x.to(F32, "fptrunc")
    return rounded(x.to(target, "sitofp" if source.kind == "int" else "uitofp"), dtype)


def _to_int(x: Value, source: DType, dtype: DType) -> Value:
    target = register_type(dtype)
    if source.kind == "float":
        t = type_of(target, x.lanes)
        name = f"llvm.fpto{'s' if dtype.kind == 'int' else 'u'}i.sat.{suffix(t)}.{suffix(x.raw.type)}"
        return Value(x.b, call(x.b, name, t, [x.raw]))
    if target.width == x.elem.width:
        return x
    return x.to(target, "trunc" if target.width < x.elem.width else "sext" if source.kind == "int" else "zext")


def cast(x: Value, source: DType, dtype: DType) -> Value:
    """`x` of dtype `source` converted to `dtype`."""
    if source is dtype:
        return x
    if dtype is bool_:
        return x.ne(0)
    return (_to_float if dtype.kind == "float" else _to_int)(x, source, dtype)


def _bitcast(x: Value, source: DType, dtype: DType) -> Value:
    return from_memory(to_memory(x, source).bits(memory_type(dtype)), dtype)


# --------------------------------------------------------------------------------------------------------- the table


def _minimum(x: Value, y: Value, dtype: DType) -> Value:
    return _extreme(x, y, dtype, "<")


def _maximum(x: Value, y: Value, dtype: DType) -> Value:
    return _extreme(x, y, dtype, ">")


def _extreme(x: Value, y: Value, dtype: DType, op: str) -> Value:
    if dtype.kind == "float":
        y = x.isnan().where(x, y)  # what is left is a single instruction on x86
    return x.compare(op, y, unsigned=dtype.kind != "int").where(x, y)


def _absolute(x: Value, dtype: DType) -> Value:
    if dtype.kind == "float":
        return x.abs()
    return (x < 0).where(-x, x) if dtype.kind == "int" else x


def _round_by(name: str) -> Callable[[Value, DType], Value]:
    return lambda x, dtype: x.intrinsic(name) if dtype.kind == "float" else x


def _next_after(x: Value, y: Value, dtype: DType) -> Value:
    bits = to_memory(x, dtype)
    integer = _INTS[dtype.bits]
    bits = bits.bits(integer)
    outward = (y > x).compare("==", x > 0)
    stepped = outward.where(bits + 1, bits - 1)
    sign = to_memory(y, dtype).bits(integer) & bits.like(-(1 << dtype.bits - 1))
    stepped = x.eq(0).where(sign | 1, stepped)
    moved = from_memory(stepped.bits(memory_type(dtype)), dtype)
    return x.eq(y).where(y, (x.isnan() | y.isnan()).where(rounded(x + y, dtype), moved))


def _float_mod(x: Value, y: Value, dtype: DType) -> Value:
    remainder = math("fmod", x, y)
    sign = remainder.ne(0) & ((remainder < 0) ^ (y < 0))
    shifted = sign.where(remainder + y, remainder)
    return rounded(shifted.eq(0).where(shifted.like(0.0).copysign(y), shifted), dtype)


def _float_floordiv(x: Value, y: Value, dtype: DType) -> Value:
    remainder = math("fmod", x, y)
    quotient = (x - remainder) / y
    opposite = remainder.ne(0) & ((remainder < 0) ^ (y < 0))
    quotient = opposite.where(quotient - 1, quotient)
    whole = quotient.intrinsic("floor")
    whole = (quotient - whole > 0.5).where(whole + 1, whole)
    whole = quotient.eq(0).where(quotient.like(0.0).copysign(x / y), whole)
    return rounded(y.eq(0).where(x / y, whole), dtype)


def _floats(on_floats: Callable[..., Value], on_ints: Callable[..., Value]) -> Callable[..., Value]:
    return lambda x, y, dtype: (on_floats if dtype.kind == "float" else on_ints)(x, y, dtype)


def _compared(op: str) -> Callable[[Value, Value, DType], Value]:
    return lambda x, y, dtype: x.compare(op, y, unsigned=dtype.kind != "int")


# op -> function of the argument values and the dtype of the first argument
PRIMITIVES: dict[str, Callable[..., Value]] = {
    "add": lambda x, y, dtype: rounded(x + y, dtype),
    "sub": lambda x, y, dtype: rounded(x - y, dtype),
    "mul": lambda x, y, dtype: rounded(x * y, dtype),
    "div": lambda x, y, dtype: rounded(x / y, dtype),
    "fma": lambda x, y, z, dtype: rounded(x.fma(y, z), dtype) if dtype.kind == "float" else x * y + z,
    "held": lambda x, dtype: x,
    "neg": lambda x, dtype: -x,
    "abs": _absolute,
    "trunc_div": _trunc_div,
    "floordiv": _floats(_float_floordiv, floor_divide),
    "mod": _floats(_float_mod, modulo),
    "min": _minimum,
    "max": _maximum,
    "eq": _compared("=="),
    "ne": _compared("!="),
    "lt": _compared("<"),
    "le": _compared("<="),
    "and": lambda x, y, dtype: x & y,
    "or": lambda x, y, dtype: x | y,
    "xor": lambda x, y, dtype: x ^ y,
    "not": lambda x, dtype: ~x,
    "shl": lambda x, y, dtype: _shift(x, y, dtype, left=True),
    "shr": lambda x, y, dtype: _shift(x, y, dtype, left=False),
    "popcount": lambda x, dtype: x.intrinsic("ctpop"),
    "clz": lambda x, dtype: _count_zeros(x),
    "where": lambda c, x, y, dtype: c.where(x, y),
    "floor": _round_by("floor"),
    "ceil": _round_by("ceil"),
    "trunc": _round_by("trunc"),
    "round": _round_by("roundeven"),
    "copysign": lambda x, y, dtype: x.copysign(y),
    "nextafter": _next_after,
    "sqrt": lambda x, dtype: rounded(x.sqrt(), dtype),
}


def primitive(x: Expr, args: list[Value]) -> Value:
    """The value of the expression `x`, whose arguments have the values `args`."""
    if x.op == "cast":
        return cast(args[0], x.args[0].dtype, x.dtype)
    if x.op == "bitcast":
        return _bitcast(args[0], x.args[0].dtype, x.dtype)
    dtype = x.args[0].dtype
    rule: Any = PRIMITIVES.get(x.op)
    if rule is not None:
        return rule(*args, dtype)
    if dtype.kind != "float":
        return math(f"{x.op}.{dtype.kind}", *args)
    return rounded(math(x.op, *args), dtype)

