"""Loops cut at their seams: where a condition on the loop's variable alone changes, or a quotient of it does.

    for i < 64: y[i] = where(i < 32, a[i], b[i - 32])    →    for i < 32: y[i] = a[i];    for i < 32: y[32 + i] = b[i]

Between two seams every such condition is a constant and every such quotient affine, so that what joined, padded or rolled
tensors read is read as vectors, without masks, and what is not taken is not computed.
"""

from __future__ import annotations

from itertools import pairwise

from mainspring.compile.loops import LANES, Body, For, Stmt, all_expressions
from mainspring.compile.rename import substitute_vars
from mainspring.ir import scalar as s
from mainspring.ir.scalar import Expr
from mainspring.types.dtype import int64

PIECES = 8  # at most so many loops for one


def cut(loop: For) -> Body:
    """`loop`, which no fold depends on, as loops between its seams; itself if they are too many or too near each other."""
    if not (s.is_const(loop.start) and s.is_const(loop.stop)):
        return (loop,)
    start, stop = loop.start.attr, loop.stop.attr
    found = {at for x in s.walk(*[x for stmt in loop.body for x in all_expressions(stmt)]) for at in _seams(x, loop.var, stop)}
    edges = [start, *sorted(at for at in found if start < at < stop), stop]
    if not 2 < len(edges) <= PIECES + 1 or min(b - a for a, b in pairwise(edges)) < LANES:
        return (loop,)
    return tuple([_piece(loop, number, a, b) for number, (a, b) in enumerate(pairwise(edges))])


def _piece(loop: For, number: int, start: int, stop: int) -> Stmt:
    var = s.var(f"{loop.var.attr[0]}_{number}", stop - start)
    return For(var, s.const(0, int64), s.const(stop - start, int64), substitute_vars(loop.body, {loop.var: var + start}),
               loop.role)


def _seams(x: Expr, var: Expr, stop: int) -> list[int]:
    """Where, for `var` from 0 to `stop`, the value of the condition `x` changes, or the quotient in `x` steps."""
    if x.op in ("lt", "le") and x.args[0].dtype is int64:
        terms, constant = s.affine(x.args[0] - x.args[1])
        k = terms.get(var, 0)
        if len(terms) == 1 and k:  # k·i + constant < 0, or ≤ 0
            strict = (x.op == "lt") == (k > 0)
            return [-(constant // k) if strict else -constant // k + 1]
    if x.op in ("floordiv", "mod") and s.is_const(x.args[1]) and x.dtype is int64:
        terms, constant = s.affine(x.args[0])
        n = x.args[1].attr
        if terms == {var: 1} and n * PIECES >= stop:
            return list(range(n - constant % n, stop, n))
    return []
