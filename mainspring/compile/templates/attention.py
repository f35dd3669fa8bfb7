"""Attention: a task is a block of rows (queries) of one key head, with all their scores in memory of the thread.

    across   scores[key][row], and the greatest of each row       key tiles × lanes of rows, up to the last key that they see
    for each block of keys:
      raise    weights = exp(score - high), summed in the 16 partials of a row sum
      along    mixed[row][d] += weights[key][row] · v[key][d]      row tiles × lanes of the width, up to the last key they see
    out = mixed / total

Keys that no row of a tile sees are not gone through: their weights are 0, and adding 0 changes no bit. The order of every sum
is that of the unfused form, so the bits are, too.
"""

from __future__ import annotations

import functools
import math

from mainspring.compile.loops import LANES, Buffer, Fold, Kernel, Let, Reduce, Stmt, Store, Write, load
from mainspring.compile.products.tile import whole_lanes
from mainspring.compile.products.tiled import tree
from mainspring.compile.simplify import REDUCE_CHUNK
from mainspring.compile.template import Call, template
from mainspring.compile.templates.attention_query import one_query
from mainspring.compile.templates.heads import KEY_BLOCK, Chain, Heads, across_tile, along_tile, ceil_div
from mainspring.compile.templates.lines import loop, params, store
from mainspring.ir.scalar import Expr, absolute, cast, compare, const, exp, maximum, minimum, ref, var, where
from mainspring.types.dtype import int32, int64

ROW_BLOCK = 64  # most rows of a task
COPY_TILES = 4  # row tiles of a task from which on a copy of the values pays
SCORE_BYTES = 192 << 10  # scores of a task up to which it takes that many rows


@template("attention")
def attention(call: Call) -> list[Kernel]:
    """One kernel."""
    return [one_query(call) if call.input_types[0].shape[1] == call.input_types[0].shape[2] // call.input_types[1].shape[2] == 1
            else _Forward(call).kernel()]


def row_block(of: Heads) -> int:
    """Rows of a task: fewer where there are many keys, so that their scores stay in cache."""
    fit = SCORE_BYTES // (of.keys * of.dtype.itemsize * LANES) * LANES
    return min(ROW_BLOCK, whole_lanes(of.rows), max(LANES, fit))


class _Forward:
    def __init__(self, call: Call):
        self.call, self.of = call, Heads.of(call, 3)
        of = self.of
        self.masked = call.static["shift"] is not None
        self.block = row_block(of)
        self.blocks = -(-of.rows // self.block)
        self.task = var("task", of.batch * of.groups * self.blocks)
        self.b, self.group, self.first, self.end = (ref(name, int64) for name in ("batch", "group", "first", "end"))
        self.over_keys, self.over_width = Chain(of.keys), Chain(of.width)
        self.across = across_tile(call.target, of.dtype, self.block, "score")
        used = min(self.block, of.rows)
        self.along = along_tile(call.target, of.dtype, used, of.value_width, "mix")
        self.row_tiles = -(-used // self.along.rows)
        self.column_tiles = -(-of.value_width // self.along.columns)
        columns = self.column_tiles * self.along.columns
        self.part = self.row_tiles * self.along.rows * columns  # of `mixed`, for one chunk of keys
        self.columns = columns
        self.turned = self._scratch("turned", of.width * self.block)  # [width][row]
        self.scores = self._scratch("scores", (of.keys + self.across.rows) * self.block)  # [key][row], then weights
        self.high, self.total = self._scratch("high", self.block), self._scratch("total", self.block)
        self.sums = self._scratch("sums", -(-of.keys // REDUCE_CHUNK) * LANES * self.block)
        self.mixed = self._scratch("mixed", self.over_keys.chunks * self.part)  # [chunk][row][width]
        self.copies = self.row_tiles >= COPY_TILES
        self.values = self._scratch("values", KEY_BLOCK * columns if self.copies else 1)  # [key][width] of a block of keys
        self.parts = self._scratch("parts", self.over_width.chunks * self.across.acc.size)
        self.limit = Buffer("limit", int32, self.block, "scratch")

    def _scratch(self, name: str, size: int) -> Buffer:
        return Buffer(name, self.of.dtype, size, "scratch")

    def kernel(self) -> Kernel:
        of = self.of
        place = (Let(self.b, self.task // (of.groups * self.blocks)), Let(self.group, self.task // self.blocks % of.groups),
                 Let(self.first, self.task % self.blocks * self.block), Let(self.end, of.seen(self.first + (self.block - 1))))
        body = (*place, *self._begin(), self._score(), self._chunks(), *self._finish())
        flops = 2 * of.batch * of.heads * of.length * of.keys * (of.width + of.value_width) // (2 if self.masked else 1)
        scratch = (self.turned, self.scores, self.high, self.total, self.sums, self.mixed, self.values, self.parts, self.limit,
                   self.across.acc, self.along.acc)
        return Kernel("attention", params(self.call), frozenset(self.call.outputs), self.task.attr[1], self.task, body, scratch,
                      flops)

    # ------------------------------------------------------------------------------------------------------- scores

    def _begin(self) -> list[Stmt]:
        """Rows turned, so that an element of the width of all rows is a vector; what they see; sums cleared."""
        of = self.of
        i, d, n = var("i", self.block), var("d", of.width), var("n", self.sums.size)
        begin = ref("begin", int64)
        turn = loop(i, Let(begin, of.row_at(self.b, self.group, of.clipped(self.first + i), of.width)),
                    loop(d, store(self.turned, d * self.block + i, load(self.call.inputs[0], begin + d)), role="vector"))
        start = [Write(self.high, i, const(-math.inf, of.dtype))]
        if self.masked:
            start.append(Write(self.limit, i, cast(of.seen(self.first + i), int32)))
        clear = loop(n, store(self.sums, n, const(0, of.dtype)), role="vector")
        return [turn, loop(i, Store(tuple(start)), role="vector"), clear]

    def _seen_by(self, lanes: Expr, count: int) -> Expr:
        """How many keys the `count` rows from `lanes` of the block see at most."""
        return self.of.seen(self.first + minimum(lanes + (count - 1), self.block - 1)) if self.masked else self.end

    def _score(self) -> Stmt:
        """Scores and the greatest of each row, a tile of keys at a time; the mask only in tiles that not all rows see whole."""
        tile = self.across
        strip, end, whole = var("strip", self.block // tile.columns), ref("strip_end", int64), ref("whole", int64)
        lanes = strip * tile.columns
        tiles = self._score_tiles(lanes, self.masked, whole if self.masked else const(0, int64), ceil_div(end, tile.rows))
        if not self.masked:
            return loop(strip, Let(end, self.end), tiles)
        seen = self.of.seen(self.first + lanes)  # by the first row of the strip: by all of them
        return loop(strip, Let(end, self._seen_by(lanes, tile.columns)), Let(whole, minimum(seen, end) // tile.rows),
                    self._score_tiles(lanes, False, const(0, int64), whole), tiles)

    def _score_tiles(self, lanes: Expr, masked: bool, start: Expr, stop: Expr) -> Stmt:
        """The tiles of keys from `start` to `stop` for the rows from `lanes` on."""
        of, tile = self.of, self.across
        t, d, key, lane = var("t", -(-of.keys // tile.rows)), var("d", of.width), ref("key", int64), lanes + tile.column
        left = load(self.call.inputs[1], of.key_at(self.b, self.group, minimum(key + tile.i, of.keys - 1), of.width) + d)
        chain, product = self.over_width.run(tile, d, left, load(self.turned, d * self.block + lane), self.parts)

        def score(i: int) -> Expr:
            value = tile.at(i) * const(self.call.static["scale"], of.dtype)
            inside = compare("lt", cast(key + i, int32), load(self.limit, lane))
            return where(inside, value, const(-math.inf, of.dtype)) if masked else value

        scores = [score(i) for i in range(tile.rows)]
        keep = [Write(self.scores, (key + i) * self.block + lane, x) for i, x in enumerate(scores)]
        raised = Write(self.high, lane, functools.reduce(maximum, scores, load(self.high, lane)))
        return loop(t, Let(key, t * tile.rows), *chain, tile.set(product), tile.across(Store((*keep, raised))),
                    start=start, stop=stop)

    # ------------------------------------------------------------------------------------------------------ weights

    def _chunks(self) -> Stmt:
        """The chunks of keys, each in blocks."""
        chain = self.over_keys
        c, turn = var("chunk", chain.chunks), var("turn", -(-chain.chunk // KEY_BLOCK))
        start, stop = ref("start", int64), ref("stop", int64)
        limit = minimum(chain.stop(c), self.end)
        body = (Let(start, c * chain.chunk + turn * KEY_BLOCK), Let(stop, minimum(start + KEY_BLOCK, limit)),
                self._raise(start, stop), *self._copied(start, stop), self._mix(c, turn, start, stop))
        turns = loop(turn, *body, stop=ceil_div(limit - c * chain.chunk, KEY_BLOCK))
        return loop(c, turns, stop=ceil_div(self.end, chain.chunk))

    def _raise(self, start: Expr, stop: Expr) -> Stmt:
        """Weights of the keys from `start` to `stop`, and their sums."""
        of = self.of
        strip, j, lane = var("rows", self.block // LANES), var("j", self.of.keys), var("lane", LANES)
        row, last, weight = strip * LANES + lane, ref("last", int64), ref("weight", of.dtype)
        high = load(self.high, row)
        if self.masked:
            high = where(compare("lt", absolute(high), math.inf), high, const(0, of.dtype))
        at, to = j * self.block + row, (j // REDUCE_CHUNK * LANES + j % LANES) * self.block + row
        keep = Store((Write(self.scores, at, weight), Write(self.sums, to, load(self.sums, to) + weight)))
        raised = loop(lane, Let(weight, exp(load(self.scores, at) - high)), keep, role="vector")
        clear = loop(lane, store(self.scores, at, const(0, of.dtype)), role="vector")
        body: tuple[Stmt, ...] = (Let(last, minimum(stop, self._seen_by(strip * LANES, LANES))),
                                  loop(j, raised, start=start, stop=last))
        if self.masked:
            body = (*body, loop(j, clear, start=maximum(start, last), stop=stop))
        return loop(strip, *body)

    def _copied(self, start: Expr, stop: Expr) -> list[Stmt]:
        """The values of the keys from `start` to `stop` side by side: in place, those of a head lie far apart, in few sets of
        the cache, and many row tiles read them."""
        if not self.copies:
            return []
        of, j, d, at = self.of, var("j", self.of.keys), var("d", self.of.value_width), ref("at", int64)
        copy = store(self.values, (j - start) * self.columns + d, load(self.call.inputs[2], at + d))
        begin = of.key_at(self.b, self.group, j, of.value_width)
        return [loop(j, Let(at, begin), loop(d, copy, role="vector"), start=start, stop=stop)]

    def _mix(self, c: Expr, turn: Expr, start: Expr, stop: Expr) -> Stmt:
        of = self.of
        tile = self.along
        t, u, j = var("row_tile", self.row_tiles), var("column_tile", self.column_tiles), var("j", of.keys)
        last, column = ref("last", int64), u * tile.columns + tile.column
        place = c * self.part + (t * tile.rows + tile.i) * self.columns + column
        right = load(self.values, (j - start) * self.columns + column) if self.copies else \
            load(self.call.inputs[2], of.key_at(self.b, self.group, j, of.value_width) + column,
                 compare("lt", column, of.value_width))
        chain = (tile.set(load(self.mixed, place, compare("lt", 0, turn))),
                 loop(j, tile.step(load(self.scores, j * self.block + t * tile.rows + tile.i), right), start=start, stop=last),
                 tile.over(store(self.mixed, place, tile.value)))
        return loop(t, Let(last, minimum(stop, self._seen_by(t * tile.rows, tile.rows))), loop(u, *chain))

    # ------------------------------------------------------------------------------------------------------- results

    def _finish(self) -> list[Stmt]:
        of = self.of
        i, d, (out, high, total) = var("i", self.block), var("d", of.value_width), self.call.outputs
        rows = minimum(of.rows - self.first, self.block)
        chunks = [load(self.mixed, i * self.columns + d + c * self.part, compare("lt", c * self.over_keys.chunk, self.end))
                  for c in range(self.over_keys.chunks)]
        row, begin = self.first + i, ref("begin", int64)
        divide = loop(d, store(out, begin + d, tree(chunks) / load(self.total, i)), role="vector")
        number = of.number_at(self.b, self.group, row)
        return [self._totals(), loop(i, Let(begin, of.row_at(self.b, self.group, row, of.value_width)), divide, stop=rows),
                loop(i, store(high, number, load(self.high, i)), store(total, number, load(self.total, i)), stop=rows)]

    def _totals(self) -> Stmt:
        """The 16 partial sums of each row folded, and the sums of long chunks of keys likewise; and `high` as it was used."""
        of = self.of
        row, p, c = var("i", self.block), var("p", LANES), var("of_chunk", self.sums.size // (LANES * self.block))
        part, total = ref("part", of.dtype), ref("sum", of.dtype)
        fold = Reduce(p, LANES, (), (Fold(part, "sum", load(self.sums, (c * LANES + p) * self.block + row)),), "serial")
        if c.attr[1] == 1:
            stmts: list[Stmt] = [Let(c, const(0, int64)), fold, Let(total, part)]
        else:
            stmts = [loop(c, fold, store(self.sums, c * LANES * self.block + row, part)),
                     Reduce(c, c.attr[1], (), (Fold(total, "sum", load(self.sums, c * LANES * self.block + row)),), "serial")]
        writes = [Write(self.total, row, total)]
        if self.masked:
            high = load(self.high, row)
            writes = [Write(self.total, row, where(compare("lt", 0, total), total, const(1, of.dtype))),
                      Write(self.high, row, where(compare("lt", absolute(high), math.inf), high, const(0, of.dtype)))]
        return loop(row, *stmts, Store(tuple(writes)), role="vector")
