"""The elementwise family: one row an op, built by `unary` and `binary`; operators and gradients follow from the rows.

A row gives the scalar body (over `Expr`), the dtypes the op takes, and the gradient written in ops. The NumPy
reference is that of the scalar primitive unless the row says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mainspring.base.errors import ShapeError
from mainspring.interpret.eager import as_value
from mainspring.ir import scalar as s
from mainspring.ir.bind import Value, bind
from mainspring.ir.op import NoGradient, Op, map_space, register
from mainspring.ir.primitives import SCALARS
from mainspring.ir.scalar import Expr
from mainspring.ops.common import (
    CAST,
    broadcast,
    broadcasted,
    cast_to,
    is_python_scalar,
    promoted,
    require_kind,
    scalar_value,
    widened,
)
from mainspring.types.dtype import DEFAULT_FLOAT, DType, as_dtype, bool_, uint8
from mainspring.types.info import require_device
from mainspring.types.shape import TensorType, broadcast_shapes

FLAT = NoGradient("piecewise constant: the derivative is zero wherever it exists")
DISCRETE = NoGradient("the result is not a float")


def _same_shapes(name: str, types: tuple[TensorType, ...]) -> None:
    if any(t.shape != types[0].shape for t in types):
        raise ShapeError(name, "operands", "must have equal shapes (the public function broadcasts)",
                         ", ".join(map(str, types)))


def _elementwise(name: str, arity: int, body: Callable[..., Expr], accepts: str, vjp: Any, reference: Any, result: str,
                 doc: str) -> Op:
    def infer(*types: TensorType) -> TensorType:
        if len(types) != arity:
            raise ShapeError(name, "operands", f"it takes {arity}", f"{len(types)}")
        for position, t in enumerate(types):
            require_kind(name, f"x{position + 1}" if arity > 1 else "x", t.dtype, accepts)
            if t.dtype is not types[0].dtype:
                raise ShapeError(name, "operands", "must have equal dtypes (the public function promotes)",
                                 ", ".join(map(str, types)))
        _same_shapes(name, types)
        return TensorType(types[0].shape, bool_ if result == "bool" else types[0].dtype)

    numpy = reference if reference is not None else SCALARS[name].numpy
    numpy = numpy if name == "nextafter" else widened(numpy)  # the neighbour in the operand's own dtype
    return register(Op(name, infer, numpy, map_space(body), vjp, doc))


def unary(name: str, body: Callable[[Expr], Expr], vjp: Any, accepts: str = "float", reference: Any = None,
          result: str = "same",
          doc: str = "") -> Callable[[Any], Any]:
    """Register a unary op and give its public function. Integers given to a float-only op are converted to float32."""
    op = _elementwise(name, 1, body, accepts, vjp, reference, result, doc)

    def function(x: Any, /) -> Any:
        value = as_value(x, name)
        if accepts == "float" and value.dtype.kind != "float":
            value = bind(CAST, value, dtype=DEFAULT_FLOAT)
        return bind(op, value)

    return _named(function, name, doc or f"Elementwise {name} of `x`, in the shape and dtype of `x`.")


def binary(name: str, body: Callable[[Expr, Expr], Expr], vjp: Any, accepts: str = "numeric", reference: Any = None,
           result: str = "same", doc: str = "") -> Callable[[Any, Any], Any]:
    """Register a binary op and give its public function, which promotes and broadcasts."""
    op = _elementwise(name, 2, body, accepts, vjp, reference, result, doc)

    def function(x1: Any, x2: Any, /) -> Any:
        if isinstance(x1, Value) and isinstance(x2, Value) and x1._type == x2._type:
            a, b = x1, x2
        elif isinstance(x1, Value) and type(x2) in (int, float) and x1.dtype.kind == "float":  # the usual scalar, quickly
            a, b = x1, broadcast(scalar_value(x2, x1.dtype, name), x1.shape)
        else:
            a, b = broadcasted(name, promoted(name, x1, x2))
        if accepts == "float" and a.dtype.kind != "float":
            a, b = (bind(CAST, v, dtype=DEFAULT_FLOAT) for v in (a, b))
        return bind(op, a, b)

    return _named(function, name, doc or f"Elementwise {name} of `x1` and `x2`, broadcast and promoted.")


def _named(function: Callable[..., Any], name: str, doc: str) -> Callable[..., Any]:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


def _one(rule: Callable[..., Any]) -> Callable[..., tuple[Any]]:
    """A vjp of one input: ``rule(ct, out, x)``."""
    return lambda ct, out, x: (rule(ct, out, x),)


def _const(x: Expr, value: float) -> Expr:
    return s.const(value, x.dtype)


# ------------------------------------------------------------------------------------------------------ arithmetic

add = binary("add", lambda x, y: x + y, lambda ct, out, x, y: (ct, ct))
subtract = binary("subtract", lambda x, y: x - y, lambda ct, out, x, y: (ct, lambda: -ct), reference=np.subtract)
multiply = binary("multiply", lambda x, y: x * y, lambda ct, out, x, y: (lambda: ct * y, lambda: ct * x), reference=np.multiply)
divide = binary("divide", lambda x, y: x / y, lambda ct, out, x, y: (lambda: ct / y, lambda: -(ct / y) * out), accepts="float",
                reference=np.true_divide, doc="`x1` / `x2`; integers are divided as float32.")


def _floor_div_body(x: Expr, y: Expr) -> Expr:
    if x.dtype.kind != "float":
        return s.apply("floordiv", x, y)
    remainder = s.apply("fmod", x, y)
    crossed = s.apply("and", s.apply("ne", remainder, 0.0), s.apply("ne", remainder < 0.0, y < 0.0))
    quotient = (x - remainder) / y
    exact = s.apply("round", s.where(crossed, quotient - 1.0, quotient))
    unbounded = s.apply("eq", s.apply("abs", y), math.inf)  # the standard: a finite number over an infinite one is ±0
    bad = s.apply("or", s.apply("or", s.apply("eq", y, 0.0), unbounded), s.apply("ne", x - x, 0.0))
    return s.where(bad, x / y, s.where(s.apply("eq", exact, 0.0), s.apply("copysign", exact, x / y), exact))


def _mod_body(x: Expr, y: Expr) -> Expr:
    if x.dtype.kind != "float":
        return s.apply("mod", x, y)
    remainder = s.apply("fmod", x, y)
    crossed = s.apply("and", s.apply("ne", remainder, 0.0), s.apply("ne", remainder < 0.0, y < 0.0))
    return s.where(crossed, remainder + y, s.where(s.apply("eq", remainder, 0.0), s.apply("copysign", remainder, y), remainder))


def _floor_divide_reference(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    result = np.floor_divide(x, y)
    if x.dtype.kind == "f":  # where NumPy differs from the standard, for a dividend or divisor that is not finite, it is x / y
        return np.where((y == 0) | np.isinf(y) | ~np.isfinite(x), np.true_divide(x, y), result).astype(x.dtype)
    return result


floor_divide = binary("floor_divide", _floor_div_body, FLAT, reference=_floor_divide_reference,
                      doc="⌊x1 / x2⌋; for integers a zero divisor gives 0.")
remainder = binary("remainder", _mod_body, lambda ct, out, x, y: (ct, lambda: -ct * floor_divide(x, y)), reference=np.remainder,
                   doc="x1 - x2·⌊x1 / x2⌋, with the sign of `x2`; for integers a zero divisor gives 0.")


def _fmod_body(x: Expr, y: Expr) -> Expr:
    if x.dtype.kind == "float":
        return s.apply("fmod", x, y)
    remainder = s.apply("mod", x, y)
    if x.dtype.kind == "uint":
        return remainder
    zero = _const(x, 0)
    crossed = s.apply("and", s.apply("ne", remainder, zero), s.apply("ne", x < zero, y < zero))
    return s.where(crossed, remainder - y, remainder)


fmod = binary("fmod", _fmod_body, lambda ct, out, x, y: (ct, lambda: -ct * trunc(x / y)), reference=np.fmod,
              doc="The remainder of x1 / x2 with the sign of `x1`; for integers a zero divisor gives 0.")


def _ties(x: Value, out: Value, ct: Value, y: Value) -> Value:
    """The share of `ct` that goes to `x` of maximum/minimum: all, none, or half where both are equal."""
    share = where(equal(x, out), 1.0, 0.0).astype(ct.dtype) * where(equal(x, y), 0.5, 1.0).astype(ct.dtype)
    return ct * share


def _extremum_vjp(ct: Value, out: Value, x: Value, y: Value) -> tuple[Any, Any]:
    return lambda: _ties(x, out, ct, y), lambda: _ties(y, out, ct, x)


maximum = binary("maximum", lambda x, y: s.apply("max", x, y), _extremum_vjp, reference=np.maximum,
                 doc="The greater of `x1` and `x2`; NaN if either is.")
minimum = binary("minimum", lambda x, y: s.apply("min", x, y), _extremum_vjp, reference=np.minimum,
                 doc="The lesser of `x1` and `x2`; NaN if either is.")


def _pow_vjp(ct: Value, out: Value, x: Value, y: Value) -> tuple[Any, Any]:
    def base() -> Value:
        return ct * where(equal(y, 0.0), 0.0, y * power(x, where(equal(y, 0.0), 1.0, y - 1.0)))

    def exponent() -> Value:
        positive = greater(x, 0.0)
        at_zero = where(less(y, 0.0), -math.inf, 0.0)
        return ct * where(positive, out * log(where(positive, x, 1.0)), where(equal(x, 0.0), at_zero, math.nan))

    return base, exponent


_general_power = binary("power", lambda x, y: s.apply("pow", x, y), _pow_vjp, reference=lambda x, y: _power_reference(x, y))


def power(x1: Any, x2: Any, /) -> Any:
    """`x1` to the power `x2`; integers by repeated multiplication, a negative exponent gives 0 (±1 for ±1).

    A Python number 1, 2, -1 or 0.5 as the exponent of a float tensor is computed by a product, quotient or root, and so is
    rounded once; 3 and -0.5 by two of these, and so are rounded twice.
    """
    if type(x2) in (int, float) and isinstance(x1, Value) and x1.dtype.kind == "float" and x2 in _POWERS:
        return _POWERS[x2](x1)
    return _general_power(x1, x2)


def _power_reference(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype.kind != "i":
        return np.power(x, y)
    positive = np.power(x, np.maximum(y, 0))
    unit = np.where(x == 1, 1, np.where(x == -1, np.where(y % 2 == 0, 1, -1), 0))
    return np.where(y < 0, unit, positive).astype(x.dtype)


negative = unary("negative", lambda x: -x, _one(lambda ct, out, x: -ct), accepts="numeric", reference=np.negative)
positive = unary("positive", lambda x: x, _one(lambda ct, out, x: ct), accepts="numeric", reference=np.positive)
abs = unary("abs", lambda x: x if x.dtype.kind == "uint" else s.apply("abs", x),
            _one(lambda ct, out, x: lambda: ct * sign(x)), accepts="numeric", reference=np.abs)


def _sign_body(x: Expr) -> Expr:
    zero, one = _const(x, 0), _const(x, 1)
    if x.dtype.kind == "uint":
        return s.where(s.apply("eq", x, zero), zero, one)
    signed = s.where(x < zero, _const(x, -1), s.where(zero < x, one, zero))
    return s.where(s.apply("ne", x, x), x, signed) if x.dtype.kind == "float" else signed


sign = unary("sign", _sign_body, FLAT, accepts="numeric", reference=np.sign,
             doc="-1, 0 or 1 with the sign of `x`; NaN stays NaN.")
square = unary("square", lambda x: x * x, _one(lambda ct, out, x: lambda: ct * (x + x)), accepts="numeric", reference=np.square)
reciprocal = unary("reciprocal", lambda x: _const(x, 1.0) / x, _one(lambda ct, out, x: lambda: -ct * out * out),
                   reference=np.reciprocal)

# ---------------------------------------------------------------------------------------------------- rounding

floor = unary("floor", lambda x: x if x.dtype.kind != "float" else s.apply("floor", x), FLAT, "numeric",
              lambda x: x if x.dtype.kind in "iu" else np.floor(x))
ceil = unary("ceil", lambda x: x if x.dtype.kind != "float" else s.apply("ceil", x), FLAT, "numeric",
             lambda x: x if x.dtype.kind in "iu" else np.ceil(x))
trunc = unary("trunc", lambda x: x if x.dtype.kind != "float" else s.apply("trunc", x), FLAT, "numeric",
              lambda x: x if x.dtype.kind in "iu" else np.trunc(x))
round = unary("round", lambda x: x if x.dtype.kind != "float" else s.apply("round", x), FLAT, "numeric",
              lambda x: x if x.dtype.kind in "iu" else np.rint(x), doc="The nearest integer, halves to even.")
copysign = binary("copysign", lambda x, y: s.apply("copysign", x, y),
                  lambda ct, out, x, y: (lambda: ct * sign(x) * sign(copysign(1.0, y)), None), accepts="float",
                  doc="|x1| with the sign of x2.")
nextafter = binary("nextafter", lambda x, y: s.apply("nextafter", x, y), lambda ct, out, x, y: (ct, None), accepts="float",
                   doc="The next representable value after `x1` towards `x2`.")

# ------------------------------------------------------------------------------------- exponentials and roots

_LN2, _LN10 = math.log(2.0), math.log(10.0)


def _primitive(name: str) -> Callable[..., Expr]:
    return lambda *args: s.apply(name, *args)


sqrt = unary("sqrt", _primitive("sqrt"), _one(lambda ct, out, x: lambda: ct * 0.5 / out))
rsqrt = unary("rsqrt", lambda x: _const(x, 1.0) / s.sqrt(x), _one(lambda ct, out, x: lambda: ct * -0.5 * out / x),
              reference=lambda x: 1 / np.sqrt(x), doc="1 / √x.")


def _root(x: Value) -> Value:
    """√x where that and ``power(x, 0.5)`` agree, and also at -0 (0) and -∞ (∞)."""
    return where(equal(x, -math.inf), math.inf, sqrt(x + 0.0))


_POWERS: dict[float, Callable[[Value], Value]] = {
    1: positive, 2: square, 3: lambda x: square(x) * x, -1: reciprocal, 0.5: _root, -0.5: lambda x: reciprocal(_root(x))}

exp = unary("exp", _primitive("exp"), _one(lambda ct, out, x: lambda: ct * out))
exp2 = unary("exp2", _primitive("exp2"), _one(lambda ct, out, x: lambda: ct * out * _LN2))
expm1 = unary("expm1", _primitive("expm1"), _one(lambda ct, out, x: lambda: ct * (out + 1.0)),
              doc="exp(x) - 1, accurate near 0.")
log = unary("log", _primitive("log"), _one(lambda ct, out, x: lambda: ct / x))
log2 = unary("log2", _primitive("log2"), _one(lambda ct, out, x: lambda: ct / (x * _LN2)))
log10 = unary("log10", _primitive("log10"), _one(lambda ct, out, x: lambda: ct / (x * _LN10)))
log1p = unary("log1p", _primitive("log1p"), _one(lambda ct, out, x: lambda: ct / (x + 1.0)), doc="log(1 + x), accurate near 0.")


def _logaddexp_body(x: Expr, y: Expr) -> Expr:
    high, low = s.apply("max", x, y), s.apply("min", x, y)
    gap = s.where(s.apply("eq", low, high), _const(x, 0.0), low - high)  # equal infinities would give NaN
    return high + s.apply("log1p", s.exp(gap))


logaddexp = binary("logaddexp", _logaddexp_body,
                   lambda ct, out, x, y: (lambda: ct * sigmoid(x - y), lambda: ct * sigmoid(y - x)),
                   accepts="float", reference=np.logaddexp, doc="log(exp(x1) + exp(x2)), without overflow.")
hypot = binary("hypot", _primitive("hypot"), lambda ct, out, x, y: (lambda: ct * x / out, lambda: ct * y / out),
               accepts="float",
               doc="√(x1² + x2²), without overflow.")


def sigmoid_body(x: Expr) -> Expr:
    one = _const(x, 1.0)
    return one / (one + s.exp(-x))


sigmoid = unary("sigmoid", sigmoid_body, _one(lambda ct, out, x: lambda: ct * (out * (1.0 - out))),
                reference=lambda x: (1 / (1 + np.exp(-x))).astype(x.dtype), doc="1 / (1 + exp(-x)).")

# -------------------------------------------------------------------------------- trigonometry and special functions

sin = unary("sin", _primitive("sin"), _one(lambda ct, out, x: lambda: ct * cos(x)))
cos = unary("cos", _primitive("cos"), _one(lambda ct, out, x: lambda: -ct * sin(x)))
tan = unary("tan", _primitive("tan"), _one(lambda ct, out, x: lambda: ct * (1.0 + out * out)))
asin = unary("asin", _primitive("asin"), _one(lambda ct, out, x: lambda: ct * rsqrt(1.0 - x * x)))
acos = unary("acos", _primitive("acos"), _one(lambda ct, out, x: lambda: -ct * rsqrt(1.0 - x * x)))
atan = unary("atan", _primitive("atan"), _one(lambda ct, out, x: lambda: ct / (1.0 + x * x)))


def _atan2_vjp(ct: Value, out: Value, x: Value, y: Value) -> tuple[Any, Any]:
    def over_square() -> Value:
        square_ = x * x + y * y
        return ct / where(equal(square_, 0.0), 1.0, square_)  # the derivative at the origin is taken as 0, as in PyTorch

    return lambda: over_square() * y, lambda: -over_square() * x


atan2 = binary("atan2", _primitive("atan2"), _atan2_vjp, accepts="float", doc="The angle of the point (x2, x1), in radians.")
sinh = unary("sinh", _primitive("sinh"), _one(lambda ct, out, x: lambda: ct * cosh(x)))
cosh = unary("cosh", _primitive("cosh"), _one(lambda ct, out, x: lambda: ct * sinh(x)))
tanh = unary("tanh", _primitive("tanh"), _one(lambda ct, out, x: lambda: ct * (1.0 - out * out)))
asinh = unary("asinh", _primitive("asinh"), _one(lambda ct, out, x: lambda: ct * rsqrt(x * x + 1.0)))
acosh = unary("acosh", _primitive("acosh"), _one(lambda ct, out, x: lambda: ct * rsqrt(x - 1.0) * rsqrt(x + 1.0)))
atanh = unary("atanh", _primitive("atanh"), _one(lambda ct, out, x: lambda: ct / (1.0 - x * x)))
erf = unary("erf", _primitive("erf"), _one(lambda ct, out, x: lambda: ct * (2.0 / math.sqrt(math.pi)) * exp(-x * x)))
erfc = unary("erfc", _primitive("erfc"), _one(lambda ct, out, x: lambda: ct * (-2.0 / math.sqrt(math.pi)) * exp(-x * x)))
erfinv = unary("erfinv", _primitive("erfinv"),
               _one(lambda ct, out, x: lambda: ct * (math.sqrt(math.pi) / 2.0) * exp(out * out)))
lgamma = unary("lgamma", _primitive("lgamma"), _one(lambda ct, out, x: lambda: ct * digamma(x)), doc="log |Γ(x)|.")
digamma = unary("digamma", _primitive("digamma"), _one(lambda ct, out, x: lambda: ct * _trigamma(x)), doc="Γ'(x) / Γ(x).")


def _trigamma(x: Value) -> Any:
    """The derivative of `digamma`: reflected to x ≥ ½, raised by its recurrence, then the asymptotic series.

    Abramowitz & Stegun, "Handbook of Mathematical Functions", 6.4.6, 6.4.7 and 6.4.12.
    """
    reflected = less(x, 0.5)
    z = where(reflected, 1.0 - x, x)
    raised: Any = 0.0
    for _ in range(8):
        raised, z = raised + 1.0 / (z * z), z + 1.0
    r = 1.0 / (z * z)
    series = r * (1 / 6 - r * (1 / 30 - r * (1 / 42 - r * (1 / 30 - r * (5 / 66 - r * (691 / 2730 - r * (7 / 6)))))))
    value = raised + (1.0 + 0.5 / z + series) / z
    sine = sin(where(reflected, x - floor(x), 0.5) * math.pi)
    return where(reflected, math.pi**2 / (sine * sine) - value, value)


# ------------------------------------------------------------------------------------- comparison, logic, bits


def _comparison(name: str, op: str, numpy: Any, swap: bool = False, accepts: str = "numeric") -> Callable[[Any, Any], Any]:
    body = (lambda x, y: s.compare(op, y, x)) if swap else (lambda x, y: s.compare(op, x, y))
    return binary(name, body, DISCRETE, accepts, numpy, "bool")


equal = _comparison("equal", "eq", np.equal, accepts="any")
not_equal = _comparison("not_equal", "ne", np.not_equal, accepts="any")
less = _comparison("less", "lt", np.less)
less_equal = _comparison("less_equal", "le", np.less_equal)
greater = _comparison("greater", "lt", np.greater, swap=True)
greater_equal = _comparison("greater_equal", "le", np.greater_equal, swap=True)

isnan = unary("isnan", lambda x: s.apply("ne", x, x) if x.dtype.kind == "float" else s.const(False, bool_), DISCRETE, "numeric",
              np.isnan, "bool")


def _infinite(x: Expr) -> Expr:
    return s.apply("eq", s.apply("abs", x), _const(x, math.inf)) if x.dtype.kind == "float" else s.const(False, bool_)


isinf = unary("isinf", _infinite, DISCRETE, "numeric", np.isinf, "bool")
isfinite = unary("isfinite", lambda x: s.apply("abs", x) < _const(x, math.inf) if x.dtype.kind == "float"
                 else s.const(True, bool_), DISCRETE,
                 "numeric", np.isfinite, "bool")
signbit = unary("signbit", lambda x: s.apply("copysign", _const(x, 1.0), x) < _const(x, 0.0), DISCRETE, "float", np.signbit,
                "bool",
                doc="Whether the sign bit is set (also of -0.0 and NaN).")

logical_and = binary("logical_and", lambda x, y: x & y, DISCRETE, "bool", np.logical_and)
logical_or = binary("logical_or", lambda x, y: x | y, DISCRETE, "bool", np.logical_or)
logical_xor = binary("logical_xor", lambda x, y: x ^ y, DISCRETE, "bool", np.logical_xor)
logical_not = unary("logical_not", lambda x: ~x, DISCRETE, "bool", np.logical_not)
bitwise_and = binary("bitwise_and", lambda x, y: x & y, DISCRETE, "integer or bool", np.bitwise_and)
bitwise_or = binary("bitwise_or", lambda x, y: x | y, DISCRETE, "integer or bool", np.bitwise_or)
bitwise_xor = binary("bitwise_xor", lambda x, y: x ^ y, DISCRETE, "integer or bool", np.bitwise_xor)
bitwise_invert = unary("bitwise_invert", lambda x: ~x, DISCRETE, "integer or bool", np.invert)
bitwise_left_shift = binary("bitwise_left_shift", _primitive("shl"), DISCRETE, "integer", SCALARS["shl"].numpy)
bitwise_right_shift = binary("bitwise_right_shift", _primitive("shr"), DISCRETE, "integer", SCALARS["shr"].numpy)
popcount = unary("popcount", _primitive("popcount"), DISCRETE, "integer", doc="Number of bits set.")
clz = unary("clz", _primitive("clz"), DISCRETE, "integer", doc="Number of leading zero bits.")

# ------------------------------------------------------------------------------------- choice and conversion


def _where_infer(condition: TensorType, x: TensorType, y: TensorType) -> TensorType:
    require_kind("where", "condition", condition.dtype, "bool")
    _same_shapes("where", (condition, x, y))
    return x


def _where_vjp(ct: Value, out: Value, condition: Value, x: Value, y: Value) -> tuple[Any, Any, Any]:
    return None, lambda: where(condition, ct, 0.0), lambda: where(condition, 0.0, ct)


WHERE = register(Op("where", _where_infer, lambda c, x, y: np.where(c, x, y), map_space(s.where), _where_vjp,
                    "`x` where `condition` holds, `y` elsewhere."))


def where(condition: Any, x: Any, y: Any, /) -> Any:
    """`x` where `condition` (bool) holds, `y` elsewhere; all broadcast, `x` and `y` promoted."""
    condition = as_value(condition, "where")
    if is_python_scalar(x) and is_python_scalar(y) and isinstance(x, (int, float)) and type(x) is not type(y):
        x = float(x) if isinstance(y, float) else x
    values = promoted("where", x, y)
    return bind(WHERE, *broadcasted("where", [condition, *values]))


def astype(x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Any:
    """`x` converted to `dtype`: floats to integers truncate, anything to bool asks whether it is not 0."""
    require_device(device, "astype")
    return cast_to(as_value(x, "astype"), as_dtype(dtype, "astype"))


def clip(x: Any, /, min: Any = None, max: Any = None) -> Any:
    """`x` limited to [min, max]; either may be None. The result has the dtype of `x`. At a bound the derivative is 1."""
    value = as_value(x, "clip")
    for bound, outside in ((min, less), (max, greater)):
        if bound is not None:
            other = promoted("clip", value, bound)[1] if is_python_scalar(bound) else as_value(bound, "clip")
            shape = broadcast_shapes(value.shape, other.shape, where="clip")
            value, other = broadcast(value, shape), broadcast(cast_to(other, value.dtype), shape)
            beyond = outside(value, other)
            if other.dtype.kind == "float" and not (is_python_scalar(bound) and bound == bound):
                beyond = logical_or(beyond, isnan(other))
            value = where(beyond, other, value)
    return value


def bitcast(x: Any, dtype: Any, /) -> Any:
    """The bits of `x` read as `dtype`, of the same width. A bool is a byte of 0 or 1; read as bool, all but 0 is true."""
    return bind(BITCAST, as_value(x, "bitcast"), dtype=as_dtype(dtype, "bitcast"))


def _bitcast_infer(x: TensorType, dtype: DType) -> TensorType:
    if x.dtype.itemsize != dtype.itemsize:
        raise ShapeError("bitcast", "dtype", f"must be as wide as {x.dtype.name}", dtype.name, "ms.bitcast(x, ms.uint32)")
    return TensorType(x.shape, dtype)


def _bitcast_reference(x: np.ndarray, dtype: DType) -> np.ndarray:
    bits = np.ascontiguousarray(x).view(uint8.numpy if dtype is bool_ else dtype.numpy).reshape(x.shape)
    return bits != 0 if dtype is bool_ else bits


def _bitcast_element(x: s.Expr, dtype: DType) -> s.Expr:
    """By way of a byte from a bool and to one: in memory it is 0 or 1, whatever it was made of."""
    bits = s.cast(x, uint8) if x.dtype is bool_ else x
    return s.cast(s.bitcast(bits, uint8), bool_) if dtype is bool_ else s.bitcast(bits, dtype)


BITCAST = register(Op("bitcast", _bitcast_infer, _bitcast_reference, map_space(_bitcast_element), DISCRETE,
                      "The bits of `x` read as `dtype`."))
STOP_GRADIENT = register(Op("stop_gradient", lambda x: x, lambda x: x, map_space(lambda x: x),
                            NoGradient("it was asked to stop"),
                            "`x`, through which no gradient flows."))


def conj(x: Any, /) -> Any:
    """The complex conjugate: `x` itself, for every dtype is real."""
    return positive(x)


def real(x: Any, /) -> Any:
    """The real part: `x` itself, for every dtype is real."""
    return positive(x)


def imag(x: Any, /) -> Any:
    """The imaginary part: zeros, for every dtype is real."""
    value = positive(x)
    return broadcast(scalar_value(0, value.dtype, "imag"), value.shape)


def stop_gradient(x: Any, /) -> Any:
    """`x`, through which no gradient flows."""
    return bind(STOP_GRADIENT, as_value(x, "stop_gradient"))
