"""Mathematical functions as LLVM instructions: polynomial, branch-free, the same bits for a scalar and for a lane.

With this you can call `math("exp", x)` while a block is written. Each function is emitted once per module and lane count
as an internal function, and inlined where LLVM finds it worth while. Adding one is one entry of `MATH`.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from mainspring.compile.vectormath import exponential, special, trigonometric
from mainspring.compile.vectormath.values import Builder, Facts, Value, suffix

MATH: dict[str, Callable[..., Value]] = {
    "exp": exponential.exp,
    "exp2": exponential.exp2,
    "expm1": exponential.expm1,
    "log": exponential.log,
    "log1p": exponential.log1p,
    "log2": exponential.log2,
    "log10": exponential.log10,
    "tanh": exponential.tanh,
    "sinh": exponential.sinh,
    "cosh": exponential.cosh,
    "asinh": exponential.asinh,
    "acosh": exponential.acosh,
    "atanh": exponential.atanh,
    "sin": trigonometric.sin,
    "cos": trigonometric.cos,
    "tan": trigonometric.tan,
    "asin": trigonometric.asin,
    "acos": trigonometric.acos,
    "atan": trigonometric.atan,
    "atan2": trigonometric.atan2,
    "erf": special.erf,
    "erfc": special.erfc,
    "erfinv": special.erfinv,
    "lgamma": special.lgamma,
    "digamma": special.digamma,
    "pow": special.pow_,
    "pow.int": special.pow_int,
    "pow.uint": special.pow_uint,
    "hypot": special.hypot,
    "fmod": special.fmod,
}


def math(op: str, *args: Value) -> Value:
    """The function `op` of MATH applied to floats (float32, float64) or, for ``"pow.int"``, integers."""
    x = args[0]
    if any(a.lanes for a in args):
        args = tuple([a.splat() for a in args])
        x = args[0]
    caller = x.b.function
    name = f"math.{op}.{suffix(x.raw.type)}{'.kept' * x.b.facts.kept}"
    callee = x.b.module.globals.get(name)
    if callee is None:
        callee = _emit(caller, name, MATH[op], [a.raw.type for a in args], x.b.facts)
    return Value(x.b, x.b.call(callee, [a.raw for a in args]))


def _emit(caller: ir.Function, name: str, formula: Callable[..., Value], types: list[ir.Type],
          facts: Facts) -> ir.Function:
    callee = ir.Function(caller.module, ir.FunctionType(types[0], types), name)
    callee.linkage = "internal"
    if facts.kept:  # elsewhere its constants would not stay
        callee.attributes.add("alwaysinline")
    for attribute in caller.attributes:
        set.add(callee.attributes, attribute)
    b = Builder(callee.append_basic_block("entry"), facts)
    b.ret(formula(*[Value(b, a) for a in callee.args]).raw)
    return callee
