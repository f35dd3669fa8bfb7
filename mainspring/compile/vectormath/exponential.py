"""exp, log and their relatives, one formula for float32 and float64; the constants are in `formats`.

Sources: W. J. Cody and W. Waite, Software Manual for the Elementary Functions (1980) for the reductions; P. T. P. Tang,
"Table-driven implementation of the logarithm function" (1990) for the split of log(1 + f); the polynomials are our own fits.
"""

from __future__ import annotations

from mainspring.compile.vectormath.formats import Format, format_of
from mainspring.compile.vectormath.values import Value, polynomial


def clamp(x: Value, low: float, high: float) -> Value:
    """`x` in [low, high]; a NaN stays."""
    x = (x > high).where(high, x)
    return (x < low).where(low, x)


def keep_zero(x: Value, result: Value) -> Value:
    """`result`, but a zero with its sign where `x` is one."""
    return x.eq(0).where(x, result)


def nearest(x: Value, t: Format) -> tuple[Value, Value]:
    """`x` rounded to an integer, as a float and as an integer; |x| must be small."""
    shifted = x + t.magic
    return shifted - t.magic, shifted.bits(t.integer) - shifted.like(t.magic).bits(t.integer)


def reduce_exp(x: Value, t: Format, more: int = 0) -> tuple[Value, Value]:
    """x = n ln2 + r with |r| <= ln2 / 2: r, and magic + n + more, whose low bits are the integer n + more."""
    magic = t.magic + more
    shifted = x.fma(t.log2e, magic)
    less = shifted.like(magic) - shifted
    return less.fma(t.ln2_lo, less.fma(t.ln2_hi, x)), shifted


def reduced_expm1(r: Value, t: Format) -> Value:
    """e^r - 1 of a reduced r, good enough to add 1 to it."""
    return (r * r).fma(polynomial(r, t.exp), r)


def scale(m: Value, n: Value, x: Value, t: Format) -> Value:
    """(1 + m) 2^(n - magic - 2 bias) for any `x` of the exponent's sign; right up to the largest and the subnormal results.

    Where no instruction does it, one factor is a power of two that is large for positive x and small for negative, the other
    one is what is missing.
    """
    if m.scales:
        return (m + 1).scaled(n - (t.magic + 2 * t.bias))
    factor = (x.bits(t.integer) < 0).where(x.like(2.0 ** -(t.bias // 2 + 1)), 2.0 ** (t.bias // 2 + 1))
    missing = ((n.bits(t.integer) << t.mantissa) - factor.bits(t.integer)).bits(t.elem)
    return m.fma(missing, missing) * factor


def exp_times(x: Value, exponent: int = 0) -> Value:
    """e^x * 2^exponent, without overflow before the end."""
    t = format_of(x)
    x = clamp(x, t.exp_low, t.exp_high - exponent)
    r, n = reduce_exp(x, t, 2 * t.bias + exponent)
    return scale(reduced_expm1(r, t), n, x, t)


def exp_normal(x: Value) -> Value:
    """e^x where the result is known to be a normal number; no promise about NaN."""
    t = format_of(x)
    r, n = reduce_exp(x, t, t.bias)
    power = (n.bits(t.integer) << t.mantissa).bits(t.elem)
    return reduced_expm1(r, t).fma(power, power)


def exp(x: Value) -> Value:
    return exp_times(x)


def exp2(x: Value) -> Value:
    t = format_of(x)
    x = clamp(x, t.exp2_low, t.exp2_high)
    magic = t.magic + 2 * t.bias
    shifted = x + magic
    r = x - (shifted - magic)
    return scale(r.fma(polynomial(r, t.exp2), 1.0) - 1, shifted, x, t)


def expm1(x: Value) -> Value:
    t = format_of(x)
    r, n = reduce_exp(clamp(x, t.expm1_low, t.exp_high), t, t.bias - 1)
    m = (r * r).fma(polynomial(r, t.expm1), r)
    half = (n.bits(t.integer) << t.mantissa).bits(t.elem)  # 2^n itself may not exist
    small = half.eq(0.5).where(m, half.fma(m, half - 0.5) * 2)
    return keep_zero(x, small)


def split_log(x: Value, t: Format) -> tuple[Value, Value]:
    """x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)): e as a float and f."""
    tiny = x < t.least_normal
    bits = tiny.where(x * t.subnormal_scale, x).bits(t.integer)
    n = (bits - bits.like(t.sqrt_half_bits)) >> t.mantissa
    m = (bits - (n << t.mantissa)).bits(t.elem)
    e = n.to(t.elem, "sitofp")
    return e - tiny.where(x.like(t.subnormal_shift), 0.0), m - 1


def log1p_tail(f: Value, t: Format) -> Value:
    """log(1 + f) - f for small f."""
    if t.log_direct:
        square = f * f
        return square.fma(-0.5, square * f * polynomial(f, t.log))
    s = f / (f + 2)
    z = s * s
    half = f * f * 0.5
    return s * (half + z * polynomial(z, t.log)) - half


def log_specials(x: Value, y: Value) -> Value:
    """`y` for positive finite x; the limits elsewhere."""
    y = x.eq(float("inf")).where(x, y)
    return (x > 0).where(y, x.eq(0).where(x.like(float("-inf")), x.like(float("nan"))))


def log(x: Value) -> Value:
    t = format_of(x)
    e, f = split_log(x, t)
    y = f + e.fma(t.ln2_lo, log1p_tail(f, t))
    return log_specials(x, e.fma(t.ln2_hi, y))


def log1p(x: Value) -> Value:
    t = format_of(x)
    u = x + 1
    e, f = split_log(u, t)
    near = e.eq(0)
    f = near.where(x, f)
    lost = (x > 1).where(u.like(1.0) - (u - x), x - (u - 1)) / u
    rest = log1p_tail(f, t) + near.where(x.like(0.0), e.fma(t.ln2_lo, lost))
    return keep_zero(x, log_specials(u, e.fma(t.ln2_hi, f + rest)))


def _log_base(x: Value, per_e: tuple[float, float], per_log: tuple[float, float]) -> Value:
    """e * per_e + log(1 + f) * per_log, both constants in two parts."""
    t = format_of(x)
    e, f = split_log(x, t)
    tail = log1p_tail(f, t)
    high = f + tail
    low = (f - high) + tail
    product = high * per_log[0]
    error = high.fma(per_log[0], -product) + high.fma(per_log[1], low * per_log[0])
    whole = e * per_e[0]
    total = whole + product
    error = error + ((whole - total) + product) + e * per_e[1]
    return log_specials(x, total + error)


def log2(x: Value) -> Value:
    t = format_of(x)
    return _log_base(x, (1.0, 0.0), (t.log2e, t.log2e_lo))


def log10(x: Value) -> Value:
    t = format_of(x)
    return _log_base(x, (t.log10_2_hi, t.log10_2_lo), (t.log10e, t.log10e_lo))


def odd_polynomial(x: Value, coefficients: tuple[float, ...]) -> Value:
    """x + x^3 p(x^2)."""
    z = x * x
    return (x * z).fma(polynomial(z, coefficients), x)


def tanh(x: Value) -> Value:
    t = format_of(x)
    a = x.abs()
    b = (a > t.tanh_high).where(t.tanh_high, a)
    far = a.like(1.0) - a.like(2.0) / (exp_normal(b + b) + 1)
    return (a >= t.tanh_small).where(far, odd_polynomial(a, t.tanh)).copysign(x)


def sinh(x: Value) -> Value:
    t = format_of(x)
    a = x.abs()
    half = exp_times(a, -1)
    return keep_zero(x, (a < 1).where(odd_polynomial(x, t.sinh), (half - half.like(0.25) / half).copysign(x)))


def cosh(x: Value) -> Value:
    half = exp_times(x.abs(), -1)
    return half + half.like(0.25) / half


def asinh(x: Value) -> Value:
    t = format_of(x)
    a = x.abs()
    big = a > t.square_high
    b = big.where(a.like(1.0), a)
    square = b * b
    moderate = log1p(b + square / ((square + 1).sqrt() + 1))
    return big.where(log(a) + t.ln2_hi, moderate).copysign(x)


def acosh(x: Value) -> Value:
    t = format_of(x)
    big = x > t.square_high
    d = big.where(x.like(1.0), x) - 1
    return (x < 1).where(x.like(float("nan")), big.where(log(x) + t.ln2_hi, log1p(d + d.fma(d, d + d).sqrt())))


def atanh(x: Value) -> Value:
    a = x.abs()
    return (log1p((a + a) / (a.like(1.0) - a)) * 0.5).copysign(x)
