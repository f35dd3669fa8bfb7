"""`SCALARS`, the one table of scalar primitives: arity, result dtype, NumPy meaning, cost.

Everything else that knows a primitive (derivatives, native code, vector math) is keyed by these names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mainspring.types.dtype import float32, float64

# in which dtype a function of a float is computed
COMPUTE_DTYPE = {"float16": float32, "bfloat16": float32, "float32": float32, "float64": float64}


@dataclass(frozen=True)
class Scalar:
    """A scalar primitive: its NumPy meaning, its result dtype ("same" as the first argument, or "bool"), its FLOPs."""

    arity: int
    numpy: Callable[..., Any]
    result: str = "same"
    flops: int = 1


def _trunc_div(x: Any, y: Any) -> Any:
    """Integer quotient towards zero; division by zero gives 0."""
    safe = np.where(y == 0, 1, y)
    quotient = np.floor_divide(x, safe)
    up = (quotient * safe != x) & ((x < 0) != (safe < 0))  # the floor of a negative quotient is one too low
    return np.where(y == 0, 0, quotient + up).astype(np.result_type(x))


def _fma(x: Any, y: Any, z: Any) -> Any:
    """x*y+z; float32 through float64, which rounds the product exactly once more than the hardware in rare cases."""
    if np.result_type(x) == np.float32:
        return (np.float64(x) * np.float64(y) + np.float64(z)).astype(np.float32)
    return x * y + z


def _power(x: Any, y: Any) -> Any:
    """x ** y; integers wrap, and where NumPy refuses a negative exponent the quotient 1 / x**-y is truncated."""
    dtype = np.result_type(x)
    if dtype.kind not in "iu":
        return np.power(x, y)
    negative = np.less(y, 0)
    inverse = np.where(x == 1, 1, np.where(x == -1, 1 - 2 * (y & 1), 0))
    return np.where(negative, inverse, np.power(x, np.where(negative, 0, y))).astype(dtype)


def _scipy(name: str) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        import scipy.special

        dtype = np.result_type(*args)
        return np.asarray(getattr(scipy.special, name)(*args)).astype(dtype)

    return call


def _shift(function: Callable[..., Any], overflow: Callable[[Any], Any]) -> Callable[..., Any]:
    def call(x: Any, y: Any) -> Any:
        dtype = np.result_type(x)
        valid = (y >= 0) & (y < dtype.itemsize * 8)
        shifted = function(x, np.where(valid, y, 0).astype(dtype))
        return np.where(valid, shifted, np.asarray(overflow(x)).astype(dtype))  # uint64 beside int64 would be float64

    return call


SCALARS: dict[str, Scalar] = {
    # arithmetic; integers wrap around
    "add": Scalar(2, np.add),
    "sub": Scalar(2, np.subtract),
    "mul": Scalar(2, np.multiply),
    "div": Scalar(2, np.true_divide),  # floats only
    "fma": Scalar(3, _fma, flops=2),
    "neg": Scalar(1, np.negative),
    "abs": Scalar(1, np.abs),
    "trunc_div": Scalar(2, _trunc_div),  # integers: quotient towards zero, 0 for a zero divisor
    "floordiv": Scalar(2, np.floor_divide),  # integers: quotient towards minus infinity, 0 for a zero divisor
    "mod": Scalar(2, np.remainder),  # integers: sign of the divisor, 0 for a zero divisor
    "fmod": Scalar(2, np.fmod, flops=8),  # floats: sign of the dividend, exact
    "min": Scalar(2, np.minimum),  # NaN if either is NaN
    "max": Scalar(2, np.maximum),
    # comparison, logic, bits
    "eq": Scalar(2, np.equal, "bool"),
    "ne": Scalar(2, np.not_equal, "bool"),
    "lt": Scalar(2, np.less, "bool"),
    "le": Scalar(2, np.less_equal, "bool"),
    "and": Scalar(2, np.bitwise_and),
    "or": Scalar(2, np.bitwise_or),
    "xor": Scalar(2, np.bitwise_xor),
    "not": Scalar(1, np.invert),
    "shl": Scalar(2, _shift(np.left_shift, lambda x: np.zeros_like(x))),
    "shr": Scalar(2, _shift(np.right_shift, lambda x: np.where(x < 0, -1, 0))),  # arithmetic for signed dtypes
    "popcount": Scalar(1, lambda x: _popcount(x)),
    "clz": Scalar(1, lambda x: _count_leading_zeros(x)),
    "where": Scalar(3, np.where, "second"),
    # rounding
    "floor": Scalar(1, np.floor),
    "ceil": Scalar(1, np.ceil),
    "trunc": Scalar(1, np.trunc),
    "round": Scalar(1, np.rint),  # half to even
    "copysign": Scalar(2, np.copysign),
    "nextafter": Scalar(2, np.nextafter, flops=4),
    # roots, exponentials, trigonometry; flops are the rough length of the polynomial
    "sqrt": Scalar(1, np.sqrt, flops=4),
    "exp": Scalar(1, np.exp, flops=12),
    "exp2": Scalar(1, np.exp2, flops=12),
    "expm1": Scalar(1, np.expm1, flops=16),
    "log": Scalar(1, np.log, flops=16),
    "log2": Scalar(1, np.log2, flops=16),
    "log10": Scalar(1, np.log10, flops=16),
    "log1p": Scalar(1, np.log1p, flops=20),
    "sin": Scalar(1, np.sin, flops=20),
    "cos": Scalar(1, np.cos, flops=20),
    "tan": Scalar(1, np.tan, flops=28),
    "asin": Scalar(1, np.arcsin, flops=20),
    "acos": Scalar(1, np.arccos, flops=20),
    "atan": Scalar(1, np.arctan, flops=20),
    "atan2": Scalar(2, np.arctan2, flops=28),
    "sinh": Scalar(1, np.sinh, flops=20),
    "cosh": Scalar(1, np.cosh, flops=20),
    "tanh": Scalar(1, np.tanh, flops=20),
    "asinh": Scalar(1, np.arcsinh, flops=28),
    "acosh": Scalar(1, np.arccosh, flops=28),
    "atanh": Scalar(1, np.arctanh, flops=28),
    "erf": Scalar(1, _scipy("erf"), flops=24),
    "erfc": Scalar(1, _scipy("erfc"), flops=28),
    "erfinv": Scalar(1, _scipy("erfinv"), flops=28),
    "lgamma": Scalar(1, lambda x: _log_gamma(x), flops=60),
    "digamma": Scalar(1, _scipy("digamma"), flops=60),
    "pow": Scalar(2, _power, flops=32),  # floats, and integers (a negative exponent gives 0, or ±1 for base ±1)
    "hypot": Scalar(2, np.hypot, flops=8),
    # an accumulator, and two words of two or four elements each whose products are added to it (compile/products/dots.py)
    "dot_bf16": Scalar(3, lambda z, x, y: _dot_bf16(z, x, y), flops=4),
    "dot_i8": Scalar(3, lambda z, x, y: _dot_integers(z, x, y, 8), flops=8),
    "dot_i16": Scalar(3, lambda z, x, y: _dot_integers(z, x, y, 16), flops=4),
    "dot_u8": Scalar(3, lambda z, x, y: _dot_integers(z, x, y, 8, unsigned=True), flops=8),
    # its argument, which whole and half vectors of a tile shall read from one register
    "held": Scalar(1, np.positive, flops=0),
    # conversion: the result dtype is given in `attr`
    "cast": Scalar(1, lambda x, dtype: _cast(x, dtype), "attr", flops=0),  # float to int truncates; to bool is x != 0
    "bitcast": Scalar(1, lambda x, dtype: np.asarray(x).view(dtype), "attr", flops=0),
}


def halves(word: Any) -> tuple[Any, Any]:
    """The upper and the lower half of an uint32, as float32 of these upper bits."""
    array = np.asarray(word).astype(np.uint32)
    return (array & np.uint32(0xFFFF0000)).view(np.float32), (array << np.uint32(16)).view(np.float32)


def _dot_bf16(total: Any, x: Any, y: Any) -> Any:
    (x_upper, x_lower), (y_upper, y_lower) = halves(x), halves(y)
    return _fma(x_lower, y_lower, _fma(x_upper, y_upper, np.float32(total)))


def _dot_integers(total: Any, x: Any, y: Any, bits: int, unsigned: bool = False) -> Any:
    """Sums of products of elements of so many bits; `unsigned`: those of the first word."""
    left, right = (np.asarray(v).astype(np.uint32) for v in (x, y))
    for start in range(0, 32, bits):
        a, b = ((v << np.uint32(32 - bits - start)).view(np.int32) >> np.int32(32 - bits) for v in (left, right))
        total = total + (a & np.int32((1 << bits) - 1) if unsigned else a) * b
    return total


def _popcount(x: Any) -> Any:
    """Ones in the bits of `x`; NumPy counts those of |x|."""
    array = np.asarray(x)
    return np.bitwise_count(array.view(f"u{array.dtype.itemsize}")).astype(array.dtype)


def _log_gamma(x: Any) -> Any:
    """log |Γ(x)|; where SciPy differs from C99 (at -inf, and for the least numbers) as C99 says."""
    size = np.abs(x)
    far = _scipy("gammaln")(np.where(np.isinf(size), size, x))
    return np.where(size < 1e-300, -np.log(size), far)


def _count_leading_zeros(x: Any) -> Any:
    array = np.asarray(x)
    bits = array.dtype.itemsize * 8
    unsigned = array.view(f"u{array.dtype.itemsize}")
    count = np.full(array.shape, bits, dtype=array.dtype)
    for bit in range(bits):
        count = np.where(unsigned >> np.array(bit, unsigned.dtype) != 0, bits - 1 - bit, count).astype(array.dtype)
    return count


def _cast(x: Any, dtype: np.dtype) -> Any:
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(x).astype(dtype)
