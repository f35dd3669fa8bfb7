"""Scalar expressions: the language in which every op says what one element is, and every loop what it computes.

With this you can write the body of an op as ordinary Python over `Expr`: ``1 / (1 + exp(-x))``. Expressions are
immutable and hash-consed (equal structure is the same object), so a DAG costs what its distinct nodes cost, and a
dictionary keyed by expression is a common-subexpression table. The primitives are the table
`mainspring.ir.primitives.SCALARS`. Index arithmetic is the same language at dtype int64.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from threading import Lock
from typing import Any
from weakref import ref as ref_to

import numpy as np

from mainspring.base.errors import GraphError
from mainspring.ir.primitives import SCALARS
from mainspring.types.dtype import DType, bool_, int64

REMEMBERED = 1 << 16  # results of index arithmetic that are kept
DEAD = 1 << 12  # entries of expressions that are gone, before they are looked at


class Expr:
    """One scalar expression. `op` is a key of SCALARS or one of the leaves const, var, ref, load; `attr` is the leaf's datum.

    Leaves:
      const  attr = a Python number (or bool)
      var    attr = (name, extent): a loop index of dtype int64 in [0, extent)
      ref    attr = name: a scalar bound by a `Let` or a fold of a `Reduce`
      load   attr = Buffer; args = (index,) or (index, guard, fill): element `index` of the buffer, or `fill` where
             `guard` is false (the address is then not touched)
      read   attr = operand position; args = index of each dim (then guard, fill): only inside a Space, before lowering
    """

    __slots__ = ("__weakref__", "args", "attr", "dtype", "op")
    op: str
    args: tuple[Expr, ...]
    dtype: DType
    attr: Any

    def __repr__(self) -> str:
        return show(self)

    def __add__(self, other: Any) -> Expr:
        return add(self, other)

    def __radd__(self, other: Any) -> Expr:
        return add(other, self)

    def __sub__(self, other: Any) -> Expr:
        return sub(self, other)

    def __rsub__(self, other: Any) -> Expr:
        return sub(other, self)

    def __mul__(self, other: Any) -> Expr:
        return mul(self, other)

    def __rmul__(self, other: Any) -> Expr:
        return mul(other, self)

    def __truediv__(self, other: Any) -> Expr:
        return apply("div", self, other)

    def __rtruediv__(self, other: Any) -> Expr:
        return apply("div", other, self)

    def __floordiv__(self, other: Any) -> Expr:
        return floordiv(self, other)

    def __mod__(self, other: Any) -> Expr:
        return mod(self, other)

    def __neg__(self) -> Expr:
        return apply("neg", self)

    def __lt__(self, other: Any) -> Expr:
        return compare("lt", self, other)

    def __le__(self, other: Any) -> Expr:
        return compare("le", self, other)

    def __gt__(self, other: Any) -> Expr:
        return compare("lt", other, self)

    def __ge__(self, other: Any) -> Expr:
        return compare("le", other, self)

    def __and__(self, other: Any) -> Expr:
        return apply("and", self, other)

    def __or__(self, other: Any) -> Expr:
        return apply("or", self, other)

    def __xor__(self, other: Any) -> Expr:
        return apply("xor", self, other)

    def __invert__(self) -> Expr:
        return apply("not", self)

    def __bool__(self) -> bool:
        raise GraphError("Expr", "condition", "a scalar expression has no truth value; use where(condition, a, b)", show(self))


class _Entry(ref_to[Expr]):
    """An expression in the table, which does not keep it."""

    __slots__ = ("key",)
    key: Any


_table: dict[Any, _Entry] = {}
_dead: list[_Entry] = []  # entries whose expressions are gone: they leave the table together
_making = Lock()  # kernels are lowered in one thread and emitted in others


def make(op: str, args: tuple[Expr, ...], dtype: DType, attr: Any = None) -> Expr:
    """The one expression of this structure."""
    key = (op, tuple([id(a) for a in args]), dtype.name, type(attr), _bits(attr))
    entry = _table.get(key)
    found = None if entry is None else entry()
    return found if found is not None else _made(key, op, args, dtype, attr)


def _made(key: Any, op: str, args: tuple[Expr, ...], dtype: DType, attr: Any) -> Expr:
    with _making:
        entry = _table.get(key)
        found = None if entry is None else entry()
        if found is None:
            found = object.__new__(Expr)
            found.op, found.args, found.dtype, found.attr = op, args, dtype, attr
            entry = _table[key] = _Entry(found, _dead.append)
            entry.key = key
            if len(_dead) > DEAD:
                _bury()
    return found


def _bury() -> None:
    for _ in range(len(_dead)):
        entry = _dead.pop()
        if _table.get(entry.key) is entry:
            del _table[entry.key]


def _bits(attr: Any) -> Any:
    """A key that tells 0.0 from -0.0 and holds NaN equal to itself."""
    return (attr.hex(),) if isinstance(attr, float) else attr


def const(value: bool | int | float, dtype: DType) -> Expr:
    """The constant `value` of `dtype`."""
    if dtype.kind == "bool":
        return make("const", (), dtype, bool(value))
    if dtype.kind == "float":
        return make("const", (), dtype, float(value))
    return make("const", (), dtype, int(value))


def var(name: str, extent: int) -> Expr:
    """A loop index: an int64 in [0, extent)."""
    return make("var", (), int64, (name, extent))


def ref(name: str, dtype: DType) -> Expr:
    """A scalar bound elsewhere by a `Let` or a fold."""
    return make("ref", (), dtype, name)


def load(buffer: Any, index: Expr, dtype: DType, guard: Expr | None = None, fill: Expr | None = None) -> Expr:
    """Element `index` of `buffer`, as `dtype`; where `guard` is false, `fill` (or 0), the address then not touched."""
    if guard is None or (guard.op == "const" and guard.attr):
        return make("load", (index,), dtype, buffer)
    other = fill if fill is not None else const(0, dtype)
    return other if guard.op == "const" else make("load", (index, guard, other), dtype, buffer)


def apply(op: str, *args: Any) -> Expr:
    """`op` applied; Python numbers take the dtype of the first Expr among the arguments (bools excepted in `where`)."""
    typed = next(a for a in (args[1:] if op == "where" else args) if isinstance(a, Expr))
    exprs = tuple(a if isinstance(a, Expr) else const(a, typed.dtype) for a in args)
    rule = SCALARS[op]
    dtype = bool_ if rule.result == "bool" else exprs[1].dtype if rule.result == "second" else exprs[0].dtype
    if all(e.op == "const" for e in exprs) and dtype in (bool_, int64):
        with np.errstate(all="ignore"):
            return const(rule.numpy(*[e.attr for e in exprs]), dtype)
    return make(op, exprs, dtype)


def cast(x: Expr, dtype: DType) -> Expr:
    """`x` converted to `dtype`; floats to integers truncate, anything to bool asks whether it is not 0."""
    if x.dtype is dtype:
        return x
    if x.op == "const" and (dtype.kind == "float" or (x.dtype is int64 and dtype.kind == "bool")):
        return const(x.attr, dtype)
    return make("cast", (x,), dtype, dtype)


def bitcast(x: Expr, dtype: DType) -> Expr:
    """The bits of `x` read as `dtype` of the same width."""
    return x if x.dtype is dtype else make("bitcast", (x,), dtype, dtype)


def where(condition: Expr, x: Any, y: Any) -> Expr:
    """`x` where `condition` holds, else `y`; both are evaluated."""
    if condition.op == "const":
        chosen = x if condition.attr else y
        return chosen if isinstance(chosen, Expr) else const(chosen, (y if isinstance(x, Expr) is False else x).dtype)
    return x if x is y else apply("where", condition, x, y)


def _function(op: str) -> Callable[..., Expr]:
    return lambda *args: apply(op, *args)


exp, log, tanh, sqrt, erf, floor, minimum, maximum, absolute = (
    _function(op) for op in ("exp", "log", "tanh", "sqrt", "erf", "floor", "min", "max", "abs")
)

# ------------------------------------------------------------------------- integers that index: simplified when built


def _pair(a: Any, b: Any) -> tuple[Expr, Expr]:
    dtype = (a if isinstance(a, Expr) else b).dtype
    return (a if isinstance(a, Expr) else const(a, dtype)), (b if isinstance(b, Expr) else const(b, dtype))


def is_const(x: Expr, value: int | None = None) -> bool:
    """Whether `x` is a constant (equal to `value`, when given)."""
    return x.op == "const" and (value is None or x.attr == value)


def bounds(x: Expr) -> tuple[float, float]:
    """Least and greatest value an int64 expression can take, as far as is known."""
    if x.op == "const":
        return x.attr, x.attr
    if x.op == "var":
        return 0, x.attr[1] - 1
    if x.op in ("add", "sub", "mul", "min", "max"):
        (a, b), (c, d) = bounds(x.args[0]), bounds(x.args[1])
        if x.op == "add":
            return a + c, b + d
        if x.op == "sub":
            return a - d, b - c
        if x.op == "min":
            return min(a, c), min(b, d)
        if x.op == "max":
            return max(a, c), max(b, d)
        corners = [0 if 0 in (p, q) else p * q for p in (a, b) for q in (c, d)]
        return min(corners), max(corners)
    if x.op == "floordiv" and is_const(x.args[1]) and x.args[1].attr > 0:
        a, b = bounds(x.args[0])
        n = x.args[1].attr
        return (a // n if a > -math.inf else a), (b // n if b < math.inf else b)
    if x.op == "mod" and is_const(x.args[1]) and x.args[1].attr > 0:
        return 0, x.args[1].attr - 1
    return -math.inf, math.inf


def affine(x: Expr) -> tuple[dict[Expr, int], int]:
    """`x` (int64) as coefficients of non-affine terms (variables, quotients, loads …) and a constant."""
    if x.op == "const":
        return {}, x.attr
    if x.op in ("add", "sub"):
        left, c = affine(x.args[0])
        right, d = affine(x.args[1])
        sign = 1 if x.op == "add" else -1
        total = dict(left)
        for term, k in right.items():
            total[term] = total.get(term, 0) + sign * k
        return {t: k for t, k in total.items() if k}, c + sign * d
    if x.op == "mul" and is_const(x.args[1]):
        inner, c = affine(x.args[0])
        factor = x.args[1].attr
        return ({t: k * factor for t, k in inner.items()}, c * factor) if factor else ({}, 0)
    return {x: 1}, 0


def _recombined(terms: dict[Expr, int], constant: int) -> tuple[dict[Expr, int], int]:
    """c·(y mod n) + c·n·(y div n) -> c·y: what a reshape took apart and another puts together again."""
    for term in [t for t in terms if t.op == "mod" and is_const(t.args[1])]:
        k = terms.get(term)
        if k is None:
            continue
        y, n = term.args[0], term.args[1].attr
        quotient, offset = affine(floordiv(y, n))
        if quotient and all(terms.get(t) == q * k * n for t, q in quotient.items()):
            rest, inner = affine(y)
            terms = {t: c for t, c in terms.items() if t is not term and t not in quotient}
            for t, q in rest.items():
                terms[t] = terms.get(t, 0) + q * k
            constant += inner * k - offset * k * n
            terms = {t: c for t, c in terms.items() if c}
    return terms, constant


def _from_affine(terms: dict[Expr, int], constant: int) -> Expr:
    total: Expr | None = None
    if len(terms) > 1:
        terms, constant = _recombined(terms, constant)
        terms = dict(sorted(terms.items(), key=lambda item: item[0].attr[0] if item[0].op == "var" else show(item[0])))
    for term, k in terms.items():
        piece = term if k == 1 else make("mul", (term, const(k, int64)), int64)
        total = piece if total is None else make("add", (total, piece), int64)
    if total is None:
        return const(constant, int64)
    return make("add", (total, const(constant, int64)), int64) if constant else total


def add(a: Any, b: Any) -> Expr:
    x, y = _pair(a, b)
    return _add(x, y) if x.dtype is int64 else apply("add", x, y)


@lru_cache(REMEMBERED)
def _add(x: Expr, y: Expr) -> Expr:
    return _from_affine(*affine(make("add", (x, y), int64)))


def sub(a: Any, b: Any) -> Expr:
    x, y = _pair(a, b)
    return _sub(x, y) if x.dtype is int64 else apply("sub", x, y)


@lru_cache(REMEMBERED)
def _sub(x: Expr, y: Expr) -> Expr:
    return _from_affine(*affine(make("sub", (x, y), int64)))


def mul(a: Any, b: Any) -> Expr:
    x, y = _pair(a, b)
    return _mul(x, y) if x.dtype is int64 else apply("mul", x, y)


@lru_cache(REMEMBERED)
def _mul(x: Expr, y: Expr) -> Expr:
    if is_const(x):
        x, y = y, x
    if is_const(y):
        return _from_affine(*affine(make("mul", (x, y), int64)))
    return make("mul", (x, y), int64)


def _split(x: Expr, n: int) -> tuple[Expr, Expr]:
    """x = n * high + low, where `low` gathers the terms that n does not divide."""
    terms, constant = affine(x)
    high = {t: k // n for t, k in terms.items() if k % n == 0}
    low = {t: k for t, k in terms.items() if k % n}
    return _from_affine(high, constant // n), _from_affine(low, constant % n)


def _coarse(x: Expr, n: int) -> tuple[int, Expr, Expr] | None:
    """(g, high, low) with x = g·high + low, 0 ≤ low < g and g > 1 a divisor of n: then x div n = high div (n/g)."""
    terms, _ = affine(x)
    for g in sorted({math.gcd(k, n) for k in terms.values()} - {1}, reverse=True):
        high, low = _split(x, g)
        least, greatest = bounds(low)
        if 0 <= least and greatest < g:
            return g, high, low
    return None


def floordiv(a: Any, b: Any) -> Expr:
    x, y = _pair(a, b)
    if x.dtype is not int64 or not is_const(y) or y.attr <= 0:
        return apply("floordiv", x, y)
    return _floordiv(x, y)


@lru_cache(REMEMBERED)
def _floordiv(x: Expr, y: Expr) -> Expr:
    if is_const(x):
        return const(x.attr // y.attr, int64)
    if y.attr == 1:
        return x
    high, low = _split(x, y.attr)
    least, greatest = bounds(low)
    if 0 <= least and greatest < y.attr:
        return high
    if low.op == "floordiv" and is_const(low.args[1]):
        low, y = low.args[0], const(low.args[1].attr * y.attr, int64)
        return add(high, floordiv(low, y))
    coarse = _coarse(low, y.attr)
    if coarse is not None:
        return add(high, floordiv(coarse[1], y.attr // coarse[0]))
    return add(high, make("floordiv", (low, y), int64))


def mod(a: Any, b: Any) -> Expr:
    x, y = _pair(a, b)
    if x.dtype is not int64 or not is_const(y) or y.attr <= 0:
        return apply("mod", x, y)
    return _mod(x, y)


@lru_cache(REMEMBERED)
def _mod(x: Expr, y: Expr) -> Expr:
    if is_const(x):
        return const(x.attr % y.attr, int64)
    if y.attr == 1:
        return const(0, int64)
    _, low = _split(x, y.attr)
    least, greatest = bounds(low)
    if 0 <= least and greatest < y.attr:
        return low
    coarse = _coarse(low, y.attr)
    if coarse is not None:
        g, inner, rest = coarse
        return add(mul(mod(inner, y.attr // g), g), rest)
    return make("mod", (low, y), int64)


def compare(op: str, a: Any, b: Any) -> Expr:
    """`a op b` for op in eq, ne, lt, le; decided now where the bounds of int64 expressions allow it."""
    x, y = _pair(a, b)
    if x.dtype is int64:
        least, greatest = bounds(sub(x, y))
        if op == "lt" and (greatest < 0 or least >= 0):
            return const(greatest < 0, bool_)
        if op == "le" and (greatest <= 0 or least > 0):
            return const(greatest <= 0, bool_)
    return apply(op, x, y)


def both(*conditions: Expr) -> Expr:
    """All of `conditions`; constants are folded."""
    kept = [c for c in conditions if not (c.op == "const" and c.attr)]
    if any(c.op == "const" for c in kept):
        return const(False, bool_)
    if not kept:
        return const(True, bool_)
    result = kept[0]
    for condition in kept[1:]:
        result = apply("and", result, condition)
    return result


# --------------------------------------------------------------------------------------------------- walking


def substitute(x: Expr, leaf: Callable[[Expr], Expr | None], memo: dict[Expr, Expr] | None = None) -> Expr:
    """`x` rebuilt with every sub-expression for which `leaf` answers replaced by that answer."""
    memo = {} if memo is None else memo
    found = memo.get(x)
    if found is not None:
        return found
    result = leaf(x)
    if result is None:
        args = tuple([substitute(a, leaf, memo) for a in x.args])
        result = x if all(p is q for p, q in zip(args, x.args, strict=True)) else rebuild(x, args)
    memo[x] = result
    return result


def rebuild(x: Expr, args: tuple[Expr, ...]) -> Expr:
    """`x` with other arguments, simplified where it is index arithmetic, and where a guard is decided."""
    if x.op == "load":
        return load(x.attr, args[0], x.dtype, *args[1:])
    simplifier = _SIMPLIFIERS.get(x.op)
    if simplifier is not None:
        return simplifier(*args)
    return make(x.op, args, x.dtype, x.attr)


_SIMPLIFIERS: dict[str, Callable[..., Expr]] = {
    "add": add, "sub": sub, "mul": mul, "floordiv": floordiv, "mod": mod, "where": where,
    "and": lambda a, b: both(a, b) if a.dtype is bool_ else apply("and", a, b),
    "lt": lambda a, b: compare("lt", a, b), "le": lambda a, b: compare("le", a, b),
}


def walk(*roots: Expr) -> list[Expr]:
    """Every distinct sub-expression, arguments before users."""
    seen: dict[Expr, None] = {}

    def visit(x: Expr) -> None:
        if x not in seen:
            for arg in x.args:
                visit(arg)
            seen[x] = None

    for root in roots:
        visit(root)
    return list(seen)


def flops(*roots: Expr) -> int:
    """Floating-point operations to evaluate the expressions once, shared parts counted once."""
    return sum(SCALARS[x.op].flops for x in walk(*roots) if x.op in SCALARS and x.dtype is not int64)


SHOWN = 400  # nodes of an expression up to which it is written out


def show(x: Expr) -> str:
    """`x` as text, e.g. ``add(load(a, i), 1.0)``. A large one names what is used again: ``$1 = exp(b); mul($1, $1)``."""
    nodes = walk(x)
    sizes: dict[Expr, int] = {}
    for e in nodes:
        sizes[e] = 1 + sum(sizes[a] for a in e.args)
    named: dict[Expr, str] = {}
    if sizes[x] <= SHOWN:
        return _text(x, named)
    uses = Counter(a for e in nodes for a in e.args)
    texts = []
    for e in nodes:
        if uses[e] > 1 and e.args:
            texts.append(f"${len(texts) + 1} = {_text(e, named)}")
            named[e] = f"${len(texts)}"
    return "; ".join([*texts, _text(x, named)])


def _text(x: Expr, named: dict[Expr, str]) -> str:
    if x in named:
        return named[x]
    if x.op == "const":
        return repr(x.attr)
    if x.op == "var":
        return x.attr[0]
    if x.op == "ref":
        return x.attr
    inner = [_text(a, named) for a in x.args]
    if x.op in ("load", "read"):
        inner.insert(0, str(getattr(x.attr, "name", x.attr)))
    if x.op in ("cast", "bitcast"):
        inner.append(x.dtype.name)
    return f"{x.op}({', '.join(inner)})"
