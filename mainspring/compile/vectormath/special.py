"""erf and its kin, the gamma family, powers, and the exact remainder.

Sources: M. Giles, "Approximating the erfinv function" (2010) for its variables; NIST DLMF 5.5 and 5.11 for
digamma (recurrence, reflection, asymptotic series). lgamma, hypot and the float64 pow are libm's, lane by lane.
"""

from __future__ import annotations

import math as pymath

from mainspring.compile.vectormath.exponential import clamp, exp, keep_zero, log
from mainspring.compile.vectormath.formats import format_of
from mainspring.compile.vectormath.trigonometric import cos, patched, sin
from mainspring.compile.vectormath.values import F32, F64, Value, each_lane, horner, polynomial


def _erf_near(x: Value) -> Value:
    """erf of a small `x`: x + x p(x^2)."""
    return x.fma(horner(x * x, format_of(x).erf), x)


def erfc_tail(a: Value) -> Value:
    """erfc of a >= 0: exp(-a^2) g(u) / (1 + 2a), u = (a - k) / (a + k)."""
    t = format_of(a)
    a = clamp(a, 0.0, t.erfc_high)
    u = (a - t.erfc_middle) / (a + t.erfc_middle)
    square = a * a
    lost = a.fma(a, -square)
    g = polynomial(u, t.erfc) / (a + a + 1)
    return exp(-square) * (-lost).fma(g, g)


def erf(x: Value) -> Value:
    t = format_of(x)
    a = x.abs()
    if t.erf_root:
        root = polynomial((a > t.erf_high).where(t.erf_high, a) - t.erf_middle, t.erf_root)
        tail = root * root
    else:
        tail = erfc_tail(a)
    return (a >= t.erf_near).where(a.like(1.0) - tail, _erf_near(a)).copysign(x)


def erfc(x: Value) -> Value:
    a = x.abs()
    tail = erfc_tail(a)
    near = a.like(1.0) - _erf_near(x)
    return (a < 0.25).where(near, (x < 0).where(x.like(2.0) - tail, tail))


# erfinv(x) / x as a polynomial of w - 2.5, and for w > 5 of sqrt(w) - 3, where w = -log(1 - x^2); for float32
_INVERSE_MIDDLE = (
    -8.65669225191823e-09, 2.4251372465755594e-08, 4.6424196398220374e-07, -3.476928668533219e-06, -4.954041287419386e-06,
    0.00021841049601789564, -0.0012527587823569775, -0.004177500028163195, 0.24664029479026794, 1.5014094114303589)
_INVERSE_TAIL = (
    0.00011264104978181422, -0.00030520002474077046, -5.393225728766993e-05, 0.0014794778544455767, -0.003597784787416458,
    0.005689358338713646, -0.007637509610503912, 0.00944491010159254, 1.001675009727478, 2.832976818084717)


def erfinv(x: Value) -> Value:
    a = x.abs()
    rest = a.like(1.0) - a
    w = -log(rest * (a + 1))
    middle = a * horner(w - 2.5, _INVERSE_MIDDLE)
    if x.elem is F32:
        y = (w < 5).where(middle, a * horner(w.sqrt() - 3, _INVERSE_TAIL))
    else:
        y = _refined(a, rest, (w < 5).where(middle, _inverse_guess(w)))
    y = a.eq(1).where(y.like(float("inf")), y)
    return keep_zero(x, (a <= 1).where(y, y.like(float("nan"))).copysign(x))


def _inverse_guess(w: Value) -> Value:
    """erfinv for large w, from erfc(y) ~ exp(-y^2) / (y sqrt(pi)) and w ~ -log(2 erfc(y))."""
    v = clamp(w, 5.0, 800.0) - (pymath.log(pymath.pi) / 2 - pymath.log(2))
    return (v - log(v) * 0.5).sqrt()


def _refined(a: Value, rest: Value, y: Value) -> Value:
    """Halley's steps on erf(y) = a, or where a is large on erfc(y) = rest = 1 - a."""
    for _ in range(3):
        wrong = (a < 0.5).where(_erf_near(y) - a, rest - erfc_tail(y))
        step = wrong * exp(y * y) * (pymath.sqrt(pymath.pi) / 2)
        y = y - step / y.fma(step, 1.0)
    return y


def lgamma(x: Value) -> Value:
    return each_lane(x, "lgamma" + format_of(x).libm_suffix)


_DIGAMMA_SERIES = (-1 / 12, 691 / 32760, -1 / 132, 1 / 240, -1 / 252, 1 / 120, -1 / 12)  # in 1/x^2, DLMF 5.11.2
_DIGAMMA_SHIFT = 10


def digamma(x: Value) -> Value:
    """Reflection to x >= 1/2, recurrence to x >= 10, asymptotic series; in float64. A pole of the negative axis gives NaN."""
    if x.elem is F32:
        return digamma(x.to(F64, "fpext")).to(F32, "fptrunc")
    reflected = x < 0.5
    z = reflected.where(x.like(1.0) - x, x)
    shifted, total = z, z.like(0.0)
    for _ in range(_DIGAMMA_SHIFT):
        small = shifted < _DIGAMMA_SHIFT
        total = total + small.where(shifted.like(1.0) / shifted, 0.0)
        shifted = small.where(shifted + 1, shifted)
    inverse = shifted.like(1.0) / (shifted * shifted)
    psi = log(shifted) - shifted.like(0.5) / shifted + inverse * polynomial(inverse, _DIGAMMA_SERIES) - total
    part = (x - x.intrinsic("roundeven")) * pymath.pi
    cotangent = cos(part) / sin(part)
    psi = reflected.where(psi - cotangent * pymath.pi, psi)
    psi = (part.eq(0) & reflected).where(x.like(float("nan")), psi)
    psi = x.eq(0).where(x.like(float("-inf")).copysign(-x), psi)
    return x.eq(float("inf")).where(x, psi)


def pow_(x: Value, y: Value) -> Value:
    x, y = x.pair(y)
    if x.elem is F64:
        return each_lane(x, "pow", y)
    return _signed_power(x, y, _magnitude(x, y))


def _magnitude(x: Value, y: Value) -> Value:
    """|x|^y for float32, through float64, which has bits to spare."""
    wide = exp(y.to(F64, "fpext") * log(x.abs().to(F64, "fpext")))
    return wide.to(F32, "fptrunc")


def _signed_power(x: Value, y: Value, magnitude: Value) -> Value:
    """The sign and the special cases of IEEE 754 pow."""
    half = y * 0.5
    whole = y.intrinsic("trunc").eq(y)
    odd = whole & half.intrinsic("trunc").ne(half)
    signed = odd.where(magnitude.copysign(x), magnitude)
    signed = ((x < 0) & (x > float("-inf")) & ~whole).where(x.like(float("nan")), signed)
    one = y.eq(0) | x.eq(1) | (x.eq(-1) & y.abs().eq(float("inf")))
    return one.where(x.like(1.0), signed)


def hypot(x: Value, y: Value) -> Value:
    x, y = x.pair(y)
    if x.elem is F64:
        return each_lane(x, "hypot", y)
    a, c = x.to(F64, "fpext"), y.to(F64, "fpext")
    endless = x.abs().eq(float("inf")) | y.abs().eq(float("inf"))
    return endless.where(x.like(float("inf")), a.fma(a, c * c).sqrt().to(F32, "fptrunc"))


def fmod(x: Value, y: Value) -> Value:
    """x - trunc(x / y) y, exactly: by one fma where the quotient is small, else by libm."""
    x, y = x.pair(y)
    t = format_of(x)
    a, c = x.abs(), y.abs()
    n = (a / c).intrinsic("trunc")
    r = (-n).fma(c, a)
    r = (r < 0).where(r + c, r)
    r = (r >= c).where(r - c, r)
    r = (a < c).where(a, r).copysign(x)
    easy = (a < c * t.fmod_limit) & (c > t.least_normal)
    return patched(r, ~easy, lambda: each_lane(x, "fmod" + t.libm_suffix, y))


def _int_power(x: Value, y: Value, signed: bool) -> Value:
    """Squaring by the bits of y, modulo 2^bits; a negative exponent gives 0, or ±1 for a base of ±1."""
    x, y = x.pair(y)
    b = x.b
    before, top, after = b.block, b.append_basic_block("squaring"), b.append_basic_block("done")
    b.branch(top)
    b.position_at_end(top)
    phis = [b.phi(x.raw.type) for _ in range(3)]
    result, base, left = (Value(b, p) for p in phis)
    product = (left & 1).ne(0).where(result * base, result)
    following = (product, base * base, left.lshr(1))
    for phi, first, then in zip(phis, (x.like(1), x, y), following, strict=True):
        phi.add_incoming(first.raw, before)
        phi.add_incoming(then.raw, b.block)
    b.cbranch(following[2].ne(0).any().raw, top, after)
    b.position_at_end(after)
    if not signed:
        return product
    inverse = x.eq(1).where(x, x.eq(-1).where((y & 1).ne(0).where(x, 1), x.like(0)))
    return (y < 0).where(inverse, product)


def pow_int(x: Value, y: Value) -> Value:
    return _int_power(x, y, signed=True)


def pow_uint(x: Value, y: Value) -> Value:
    return _int_power(x, y, signed=False)
