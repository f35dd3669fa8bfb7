"""sin, cos, tan and their inverses, one formula for float32 and float64.

Arguments are reduced by pi/2 in three parts (Cody and Waite) with fma; the few that are too large for it go to libm, lane
by lane, and do not change what their neighbours get.
"""

from __future__ import annotations

from collections.abc import Callable

from mainspring.compile.vectormath.exponential import keep_zero, nearest, odd_polynomial
from mainspring.compile.vectormath.formats import Format, format_of
from mainspring.compile.vectormath.values import Value, each_lane, polynomial


def patched(fast: Value, slow: Value, other: Callable[[], Value]) -> Value:
    """`fast`, but other() in the lanes that are `slow`; other() runs only if there are any."""
    b = fast.b
    before = b.block
    with b.if_then(slow.any().raw):
        mended = slow.where(other(), fast)
        inside = b.block
    result = b.phi(fast.raw.type)
    result.add_incoming(fast.raw, before)
    result.add_incoming(mended.raw, inside)
    return Value(b, result)


def _reduce(x: Value, t: Format) -> tuple[Value, Value]:
    """x = n pi/2 + r with |r| <= pi/4: r and the integer n."""
    whole, n = nearest(x * t.two_over_pi, t)
    r = x
    for part in t.half_pi:
        r = (-whole).fma(part, r)
    return r, n


def _sine(r: Value, t: Format) -> Value:
    return odd_polynomial(r, t.sin)


def _cosine(r: Value, t: Format) -> Value:
    z = r * r
    half = z * 0.5
    w = z.like(1.0) - half
    return w + ((w.like(1.0) - w) - half + z * z * polynomial(z, t.cos))


def _wave(x: Value, shift: int, libm: str) -> Value:
    t = format_of(x)
    r, n = _reduce(x, t)
    if shift:
        n = n + shift
    y = (n & 1).ne(0).where(_cosine(r, t), _sine(r, t))
    sign = (n & 2) << (t.integer.width - 2)
    y = (y.bits(t.integer) ^ sign).bits(t.elem)
    return patched(y, x.abs() > t.reduce_limit, lambda: each_lane(x, libm + t.libm_suffix))


def sin(x: Value) -> Value:
    return keep_zero(x, _wave(x, 0, "sin"))


def cos(x: Value) -> Value:
    return _wave(x, 1, "cos")


def tan(x: Value) -> Value:
    t = format_of(x)
    r, n = _reduce(x, t)
    y = odd_polynomial(r, t.tan)
    y = (n & 1).ne(0).where(y.like(-1.0) / y, y)
    return keep_zero(x, patched(y, x.abs() > t.reduce_limit, lambda: each_lane(x, "tan" + t.libm_suffix)))


def atan2(y: Value, x: Value) -> Value:
    """The angle of (x, y): a multiple k of pi/4, plus or minus the arc tangent of a quotient below tan(pi/8)."""
    t = format_of(y)
    y, x = y.pair(x)
    ay, ax = y.abs(), x.abs()
    steep = ay > ax
    high, low = steep.where(ay, ax), steep.where(ax, ay)
    endless = low.eq(float("inf")) & high.eq(low)
    high, low = endless.where(low.like(1.0), high), endless.where(low.like(1.0), low)
    shrink = (high > t.huge).where(high.like(0.25), 1.0)
    high, low = high * shrink, low * shrink
    far = low > high * t.tan_pi_8
    nothing = high.eq(0) & low.eq(0)
    q = far.where(low - high, low) / nothing.where(high.like(1.0), far.where(low + high, high))
    a = odd_polynomial(q, t.atan)
    k = far.where(a.like(1.0), 0.0)
    a, k = steep.where(-a, a), steep.where(k.like(2.0) - k, k)
    left = x.bits(t.integer) < 0
    a, k = left.where(-a, a), left.where(k.like(4.0) - k, k)
    return k.fma(t.quarter_pi[0], k.fma(t.quarter_pi[1], a)).copysign(y)


def atan(x: Value) -> Value:
    return keep_zero(x, atan2(x, x.like(1.0)))


def _arc(a: Value, t: Format) -> tuple[Value, Value, Value]:
    """For a = |x|: whether a > 1/2; then asin of sqrt((1 - a) / 2), else asin of a, as a sum of two."""
    far = a > 0.5
    z = far.where((a.like(1.0) - a) * 0.5, a * a)
    root = z.sqrt()
    s = far.where(root, a)
    lost = root.eq(0).where(root.like(0.0), (-root).fma(root, z) / (root + root))
    return far, s, (s * z).fma(polynomial(z, t.asin), far.where(lost, a.like(0.0)))


def asin(x: Value) -> Value:
    t = format_of(x)
    far, s, rest = _arc(x.abs(), t)
    from_end = s.like(t.half_pi[0]) - ((s + rest) * 2 - t.half_pi[1])
    return keep_zero(x, far.where(from_end, s + rest).copysign(x))


def acos(x: Value) -> Value:
    t = format_of(x)
    far, s, rest = _arc(x.abs(), t)
    negative = x < 0
    inner = (s + rest).copysign(x)
    middle = s.like(t.half_pi[0]) - (inner - t.half_pi[1])
    twice = (s + rest) * 2
    outer = negative.where(s.like(2 * t.half_pi[0]) - (twice - 2 * t.half_pi[1]), twice)
    return far.where(outer, middle)
