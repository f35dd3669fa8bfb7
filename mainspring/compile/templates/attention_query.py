"""Attention of one query with a head of its own, as when text is written: keys and values are read once, as they lie.

    scores[key] = Σ_d k[key][d] · q[d]        a column of keys at a time, as scalars: with one query there are no lanes of rows
    weights     = exp(scores - greatest)      lanes are keys
    out[d]      = Σ_key weights[key] · v[key][d] / total

A task is as many neighbouring heads as leave enough tasks: the heads of a key are neighbours in memory, so it reads long runs.
The order of every sum is that of many queries, so a query gives the same bits alone.
"""

from __future__ import annotations

import math

from mainspring.compile.loops import LANES, Buffer, Fold, Kernel, Let, Reduce, Stmt, load
from mainspring.compile.products.tile import Column, multiply_add
from mainspring.compile.products.tiled import tree
from mainspring.compile.simplify import REDUCE_CHUNK
from mainspring.compile.template import Call
from mainspring.compile.templates.heads import Chain, Heads, ceil_div
from mainspring.compile.templates.lines import loop, params, store
from mainspring.ir.scalar import Expr, absolute, compare, const, exp, minimum, ref, var, where
from mainspring.types.dtype import int64

KEYS = 10  # of a column: enough chains to hide the latency of an addition
TOGETHER = 4  # values that are added to the mix at a time
TASKS = 8  # tasks that there should be
MOST_SCORES = 1 << 14  # of a task


def one_query(call: Call) -> Kernel:
    """The kernel of a call with one query and one head for each key head."""
    return _Query(call).kernel()


def _heads_of_a_task(of: Heads) -> int:
    fitting = [h for h in range(1, of.groups + 1)
               if of.groups % h == 0 and of.batch * of.groups // h >= TASKS and h * of.keys <= MOST_SCORES]
    return max(fitting, default=1)


class _Query:
    def __init__(self, call: Call):
        self.call, self.of = call, Heads.of(call, 3)
        of = self.of
        self.together = _heads_of_a_task(of)
        self.over_width, self.over_keys = Chain(of.width), Chain(of.keys)
        blocks = of.groups // self.together
        self.task, self.h, self.end = var("task", of.batch * blocks), var("h", self.together), ref("end", int64)
        self.b, self.group = self.task // blocks, self.task % blocks * self.together + self.h
        self.wide = of.keys + KEYS + LANES  # scores of a head
        self.scores = self._scratch("scores", self.together * self.wide)
        self.mixed = self._scratch("mixed", self.over_keys.chunks * self.together * of.value_width)
        self.sums, self.totals = self._scratch("sums", -(-of.keys // REDUCE_CHUNK)), self._scratch("totals", self.together)
        self.column = Column(KEYS, 1, of.dtype, "score")
        self.rows = self._scratch("rows", KEYS * self.together * of.width)
        self.parts = self._scratch("parts", self.over_width.chunks * KEYS)

    def _scratch(self, name: str, size: int) -> Buffer:
        return Buffer(name, self.of.dtype, size, "scratch")

    def _score_at(self, key: Expr) -> Expr:
        return self.h * self.wide + key

    def kernel(self) -> Kernel:
        of = self.of
        body = (Let(self.end, of.seen(const(0, int64))), self._scored(), loop(self.h, *self._weights()), self._mixed(),
                loop(self.h, self._divided()))
        flops = 2 * of.batch * of.groups * of.keys * (of.width + of.value_width)
        return Kernel("attention_query", params(self.call), frozenset(self.call.outputs), self.task.attr[1], self.task, body,
                      (self.scores, self.rows, self.parts, self.mixed, self.sums, self.totals, self.column.acc), flops)

    def _scored(self) -> Stmt:
        """The scores of all keys that are seen, and of a few behind: each row of keys comes from memory in one piece."""
        of, column, (q, k), line = self.of, self.column, self.call.inputs[:2], self.together * self.of.width
        d, t, i, x = var("d", of.width), var("t", -(-of.keys // KEYS)), var("i", KEYS), var("x", line)
        row = of.key_at(self.b, self.group - self.h, minimum(t * KEYS + i, of.keys - 1), of.width)
        copy = loop(i, loop(x, store(self.rows, i * line + x, load(k, row + x)), role="vector"))
        begin = of.row_at(self.b, self.group, const(0, int64), of.width)
        left = load(self.rows, column.i * line + self.h * of.width + d)
        chain, product = self.over_width.run(column, d, left, load(q, begin + d), self.parts)
        score = product * const(self.call.static["scale"], of.dtype)
        keep = column.over(store(self.scores, self._score_at(t * KEYS + column.i), score))
        return loop(t, copy, loop(self.h, *chain, keep), stop=ceil_div(self.end, KEYS))

    def _weights(self) -> list[Stmt]:
        """scores -> weights of a head; stores the greatest score and the sum of the weights."""
        of, end, scores = self.of, self.end, self.scores
        j, greatest, part, most = var("j", of.keys), ref("greatest", of.dtype), ref("part", of.dtype), ref("most", of.dtype)
        masked, finite = of.shift is not None, compare("lt", absolute(greatest), math.inf)
        lowest = const(-math.inf, of.dtype)
        seen = load(scores, self._score_at(j), compare("lt", j, end), lowest)
        raised = exp(load(scores, self._score_at(j)) - most)
        c, r = var("c", self.sums.size), var("r", min(of.keys, REDUCE_CHUNK))
        at = c * REDUCE_CHUNK + r
        weight = load(scores, self._score_at(at), compare("lt", at, end))
        total = where(compare("lt", 0, part), part, const(1, of.dtype)) if masked else part
        (_, high, totals), number = self.call.outputs, self.b * of.groups + self.group
        return [
            Reduce(j, of.keys, (), (Fold(greatest, "max", seen),)),
            Let(most, where(finite, greatest, const(0, of.dtype)) if masked else greatest),
            loop(j, store(scores, self._score_at(j), raised), stop=end, role="vector"),
            loop(c, Reduce(r, r.attr[1], (), (Fold(part, "sum", weight),)), store(self.sums, c, part)),
            Reduce(c, self.sums.size, (), (Fold(part, "sum", load(self.sums, c)),)),
            store(high, number, most), store(totals, number, total), store(self.totals, self.h, total),
        ]

    def _mix_at(self, c: Expr | int, e: Expr) -> Expr:
        return (e + self.h * self.of.value_width) + c * (self.together * self.of.value_width)

    def _mixed(self) -> Stmt:
        """The chunks of Σ weights · v."""
        of, chain = self.of, self.over_keys
        c, e, j = var("chunk", chain.chunks), var("e", of.value_width), var("j", of.keys)
        n = var("few", -(-chain.chunk // TOGETHER))
        start, stop, whole = ref("start", int64), ref("stop", int64), ref("whole", int64)
        clear = loop(self.h, loop(e, store(self.mixed, self._mix_at(c, e), const(0, of.dtype)), role="vector"))
        body = (Let(start, c * chain.chunk), Let(stop, minimum(chain.stop(c), self.end)),
                Let(whole, (stop - start) // TOGETHER), clear,
                loop(n, loop(self.h, *self._added(c, e, start + n * TOGETHER, TOGETHER)), stop=whole),
                loop(j, loop(self.h, *self._added(c, e, j, 1)), start=start + whole * TOGETHER, stop=stop))
        return loop(c, *body, stop=ceil_div(self.end, chain.chunk))

    def _added(self, c: Expr, e: Expr, j: Expr, count: int) -> list[Stmt]:
        """The products of `count` keys from `j` on, added in order."""
        of, v = self.of, self.call.inputs[2]
        weights = [ref(f"weight{u}", of.dtype) for u in range(count)]
        total = load(self.mixed, self._mix_at(c, e))
        for u, weight in enumerate(weights):
            total = multiply_add(weight, load(v, of.key_at(self.b, self.group, j + u, of.value_width) + e), total)
        known = [Let(x, load(self.scores, self._score_at(j + u))) for u, x in enumerate(weights)]
        return [*known, loop(e, store(self.mixed, self._mix_at(c, e), total), role="vector")]

    def _divided(self) -> Stmt:
        of, e = self.of, var("e", self.of.value_width)
        chunks = [load(self.mixed, self._mix_at(c, e), compare("lt", c * self.over_keys.chunk, self.end))
                  for c in range(self.over_keys.chunks)]
        place = of.row_at(self.b, self.group, const(0, int64), of.value_width) + e
        return loop(e, store(self.call.outputs[0], place, tree(chunks) / load(self.totals, self.h)), role="vector")
