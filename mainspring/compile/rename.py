"""Rewriting loop nests: expressions and buffers replaced throughout a body."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mainspring.compile.loops import Body, Buffer, Fold, For, If, Let, Prefetch, Reduce, Stmt, Store, While, Write
from mainspring.ir import scalar as s
from mainspring.ir.scalar import Expr


def map_body(body: Body, change: Callable[[Expr], Expr], buffer: Callable[[Buffer], Buffer] = lambda b: b) -> Body:
    """`body` with every expression replaced by ``change(expression)`` and every written buffer by ``buffer(it)``."""
    return tuple([_map_stmt(stmt, change, buffer) for stmt in body])


def _map_stmt(stmt: Stmt, change: Callable[[Expr], Expr], buffer: Callable[[Buffer], Buffer]) -> Stmt:
    def inner(body: Body) -> Body:
        return map_body(body, change, buffer)

    if isinstance(stmt, Let):
        return Let(stmt.ref, change(stmt.value))
    if isinstance(stmt, Store):
        return Store(tuple([Write(buffer(w.buffer), change(w.index), change(w.value),
                                  None if w.guard is None else change(w.guard))
                            for w in stmt.writes]))
    if isinstance(stmt, Prefetch):
        return replace(stmt, buffer=buffer(stmt.buffer), index=change(stmt.index))
    if isinstance(stmt, For):
        return replace(stmt, start=change(stmt.start), stop=change(stmt.stop), body=inner(stmt.body))
    if isinstance(stmt, Reduce):
        return replace(stmt, body=inner(stmt.body), folds=tuple([Fold(f.ref, f.combine, change(f.value)) for f in stmt.folds]))
    if isinstance(stmt, If):
        return If(change(stmt.condition), inner(stmt.body), inner(stmt.other))
    assert isinstance(stmt, While)
    return While(change(stmt.condition), inner(stmt.body))


def rename_buffer(body: Body, old: Buffer, new: Buffer) -> Body:
    """`body` with loads and stores of `old` going to `new`."""
    memo: dict[Expr, Expr] = {}

    def change(x: Expr) -> Expr:
        return s.substitute(x, lambda e: _reload(e, old, new, change), memo)

    return map_body(body, change, lambda b: new if b is old else b)


def _reload(x: Expr, old: Buffer, new: Buffer, change: Callable[[Expr], Expr]) -> Expr | None:
    if x.op == "load" and x.attr is old:
        return s.make("load", tuple([change(a) for a in x.args]), x.dtype, new)
    return None


def substitute_vars(body: Body, values: dict[Expr, Expr]) -> Body:
    """`body` with variables replaced."""
    if not values:
        return body
    memo: dict[Expr, Expr] = {}
    return map_body(body, lambda x: s.substitute(x, values.get, memo))
