"""Rows abreast: what a kernel does with one row, done with several at once.

    for row: m = max(x[row]); s = sum(exp(x[row] - m))    →    for pair: m0, m1 = max(x[2 pair]), max(x[2 pair + 1]); …

A short row is over before its first partial sums are folded: what comes after waits for a tree of sums or a division, and a
core cannot look far enough ahead to find the next row. Several rows in one loop wait together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mainspring.compile.loops import Body, Buffer, For, If, Let, Reduce, Stmt, children
from mainspring.compile.rename import rename_buffer, substitute_vars
from mainspring.ir import scalar as s
from mainspring.ir.scalar import Expr
from mainspring.types.dtype import int64

ABREAST = ((128, 4), (1024, 2))  # rows at a time, for rows up to such a width
MOST = 96  # values of one row, times rows: more find no registers
CACHED = 1 << 21  # elements of an array, at most: from memory, rows come fastest one after the other


def abreast(body: Body, row: Expr, scratch: Sequence[Buffer], count: int) -> tuple[Expr, Body, tuple[Buffer, ...]]:
    """The task that does `count` rows (the last one perhaps fewer) where `body` does `row`, its body and its scratch."""
    if count == 1:
        return row, body, tuple(scratch)
    whole, rest = divmod(row.attr[1], count)
    task = s.var("rows", whole + (rest > 0))
    buffers = [[replace(b, name=f"{b.name}_{j}") for b in scratch] for j in range(count)]
    bodies = [_of(body, {row: task * count + j}, dict(zip(scratch, buffers[j], strict=True)), j) for j in range(count)]
    together = _joined(bodies)
    if rest:
        together = (If(s.apply("lt", task, s.const(whole, int64)), together, _joined(bodies[:rest])),)
    return task, together, tuple(b for own in buffers for b in own)


def _of(body: Body, values: dict[Expr, Expr], buffers: dict[Buffer, Buffer], number: int) -> Body:
    """`body` with names of its own."""
    refs = {ref: s.ref(f"{ref.attr}_{number}", ref.dtype) for ref in _bound(body)}
    for old, new in buffers.items():
        body = rename_buffer(body, old, new)
    return _bind(substitute_vars(body, {**values, **refs}), refs)


def _bound(body: Body) -> Iterator[Expr]:
    for stmt in body:
        if isinstance(stmt, Let):
            yield stmt.ref
        elif isinstance(stmt, Reduce):
            yield from [f.ref for f in stmt.folds]
        for inner in children(stmt):
            yield from _bound(inner)


def _bind(body: Body, refs: dict[Expr, Expr]) -> Body:
    """`body` with what it binds renamed."""
    return tuple([_rebound(stmt, refs) for stmt in body])


def _rebound(stmt: Stmt, refs: dict[Expr, Expr]) -> Stmt:
    if isinstance(stmt, Let):
        return Let(refs[stmt.ref], stmt.value)
    if isinstance(stmt, For):
        return replace(stmt, body=_bind(stmt.body, refs))
    if isinstance(stmt, Reduce):
        return replace(stmt, body=_bind(stmt.body, refs), folds=tuple([replace(f, ref=refs[f.ref]) for f in stmt.folds]))
    return stmt


def _joined(bodies: Sequence[Body]) -> Body:
    """Bodies of one structure as one, whose loops run through all of them."""
    found: list[Stmt] = []
    for stmts in zip(*bodies, strict=True):
        first = stmts[0]
        if isinstance(first, For):
            found.append(replace(first, body=_joined([stmt.body for stmt in stmts])))
        elif isinstance(first, Reduce):
            found.append(replace(first, body=_joined([stmt.body for stmt in stmts]),
                                 folds=tuple([f for stmt in stmts for f in stmt.folds])))
        else:
            found += stmts
    return tuple(found)
