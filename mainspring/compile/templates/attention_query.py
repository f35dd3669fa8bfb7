"""Attention of one query with a head of its own, as when text is written: a task is a head, and keys and values are read once.

    scores[key] = Σ_d k[key][d] · q[d]        a column of keys at a time, as scalars: with one query there are no lanes of rows
    weights     = exp(scores - greatest)      lanes are keys
    out[d]      = Σ_key weights[key] · v[key][d] / total

The order of every sum is that of many queries, so a query gives the same bits alone.
"""

from __future__ import annotations

import math

from mainspring.compile.loops import LANES, Buffer, Fold, Kernel, Let, Reduce, Stmt, load
from mainspring.compile.simplify import REDUCE_CHUNK
from mainspring.compile.template import Call
from mainspring.compile.templates.heads import Chain, Heads, along_tile, ceil_div
from mainspring.compile.templates.lines import loop, params, store
from mainspring.compile.tile import Column, Tile
from mainspring.compile.tiled import tree
from mainspring.ir.scalar import Expr, absolute, compare, const, exp, minimum, ref, var, where
from mainspring.types.dtype import int64

KEYS = 10  # of a column: enough chains to hide the latency of an addition


def one_query(call: Call) -> Kernel:
    """The kernel of a call with one query and one head for each key head."""
    of, (q, k, v), (out, high, total) = Heads.of(call, 3), call.inputs[:3], call.outputs
    column, over_width, over_keys = Column(KEYS, 1, of.dtype, "score"), Chain(of.width), Chain(of.keys)
    scores = Buffer("scores", of.dtype, of.keys + KEYS + LANES, "scratch")
    parts = Buffer("parts", of.dtype, over_width.chunks * KEYS, "scratch")
    task, end, d, t = var("task", of.batch * of.groups), ref("end", int64), var("d", of.width), var("t", -(-of.keys // KEYS))
    b, group = task // of.groups, task % of.groups
    key = minimum(t * KEYS + column.i, of.keys - 1)
    begin = of.row_at(b, group, const(0, int64), of.width)
    chain, product = over_width.run(column, d, load(k, of.key_at(b, group, key, of.width) + d), load(q, begin + d), parts)
    scored = loop(t, *chain, column.over(store(scores, t * KEYS + column.i, product * const(call.static["scale"], of.dtype))),
                  stop=ceil_div(end, KEYS))
    most, sum_ = ref("most", of.dtype), ref("sum", of.dtype)
    tile = along_tile(call.target, of.dtype, 1, of.value_width, "mix")
    columns = -(-of.value_width // tile.columns) * tile.columns
    mixed, sums = (Buffer(name, of.dtype, size, "scratch") for name, size in
                   (("mixed", over_keys.chunks * columns), ("sums", -(-of.keys // REDUCE_CHUNK))))
    body = (Let(end, of.seen(const(0, int64))), scored, *_weights(of, scores, sums, end, most, sum_),
            _mixed(of, over_keys, tile, (scores, v, mixed), (b, group, end)))
    e = var("e", of.value_width)
    chunks = [load(mixed, c * columns + e, compare("lt", c * over_keys.chunk, end)) for c in range(over_keys.chunks)]
    divided = store(out, of.row_at(b, group, const(0, int64), of.value_width) + e, tree(chunks) / sum_)
    done = (loop(e, divided, role="vector"), store(high, task, most), store(total, task, sum_))
    flops = 2 * task.attr[1] * of.keys * (of.width + of.value_width)
    return Kernel("attention_query", params(call), frozenset(call.outputs), task.attr[1], task, (*body, *done),
                  (scores, parts, mixed, sums, column.acc, tile.acc), flops)


def _weights(of: Heads, scores: Buffer, sums: Buffer, end: Expr, most: Expr, total: Expr) -> list[Stmt]:
    """scores -> weights; binds `most` and `total`."""
    j, greatest, part = var("j", of.keys), ref("greatest", of.dtype), ref("part", of.dtype)
    masked, finite = of.shift is not None, compare("lt", absolute(greatest), math.inf)
    seen = compare("lt", j, end)
    stmts: list[Stmt] = [
        Reduce(j, of.keys, (), (Fold(greatest, "max", load(scores, j, seen, const(-math.inf, of.dtype))),)),
        Let(most, where(finite, greatest, const(0, of.dtype)) if masked else greatest),
        loop(j, store(scores, j, exp(load(scores, j) - most)), stop=end, role="vector"),
    ]
    c, r = var("c", sums.size), var("r", min(of.keys, REDUCE_CHUNK))
    at = c * REDUCE_CHUNK + r
    fold = Fold(part, "sum", load(scores, at, compare("lt", at, end)))
    stmts += [loop(c, Reduce(r, r.attr[1], (), (fold,)), store(sums, c, part)),
              Reduce(c, sums.size, (), (Fold(part, "sum", load(sums, c)),))]
    return [*stmts, Let(total, where(compare("lt", 0, part), part, const(1, of.dtype)) if masked else part)]


def _mixed(of: Heads, chain: Chain, tile: Tile, buffers: tuple[Buffer, Buffer, Buffer], place: tuple[Expr, Expr, Expr]) -> Stmt:
    """The chunks of Σ weights · v."""
    (scores, v, mixed), (b, group, end) = buffers, place
    columns = mixed.size // chain.chunks
    c, u, j = var("chunk", chain.chunks), var("column_tile", columns // tile.columns), var("j", of.keys)
    column = u * tile.columns + tile.column
    right = load(v, of.key_at(b, group, j, of.value_width) + column, compare("lt", column, of.value_width))
    body = (tile.clear(), loop(j, tile.step(load(scores, j), right), start=c * chain.chunk, stop=minimum(chain.stop(c), end)),
            tile.over(store(mixed, c * columns + column, tile.value)))
    return loop(c, loop(u, *body), stop=ceil_div(end, chain.chunk))
