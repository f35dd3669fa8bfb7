"""The gradient of attention: a task is a chunk of the rows (queries) of one key head. It goes through its rows in blocks:

    even = ct / total, common = Σ out · even                         of each row
    for each block of keys that the rows see, copied:
      across   weights[key][row] = exp(Σ_d k[key][d] · qT[d][row] · scale - high)
      across   pulled[key][row]  = weights · (Σ_d v[key][d] · evenT[d][row] - common)
      along    dq[row][d] += pulled[key][row] · k[key][d]
      along    dk[key][d] += pulled[key][row] · q[row][d]             rows from the first that sees a key of the tile
      along    dv[key][d] += weights[key][row] · even[row][d]

The chunks are those of a sum over rows, so each task has a dk and a dv of its own, added by a second kernel where there are
several, and the bits are those of the unfused form for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mainspring.compile.loops import LANES, Buffer, Fold, Kernel, Let, Reduce, Stmt, Store, Write, load
from mainspring.compile.products.tile import Tile, whole_lanes
from mainspring.compile.products.tiled import tree
from mainspring.compile.template import Call, template
from mainspring.compile.templates.heads import KEY_BLOCK, Chain, Heads, across_tile, along_tile, ceil_div
from mainspring.compile.templates.lines import loop, store
from mainspring.ir.scalar import Expr, cast, compare, const, exp, maximum, minimum, ref, var, where
from mainspring.types.dtype import int32, int64

ROW_BLOCK = 64


@template("attention_gradient")
def attention_gradient(call: Call) -> list[Kernel]:
    """The kernel of chunks of rows, and that of their sums."""
    return _Backward(call).kernels()


@dataclass(frozen=True, eq=False)
class _Side:
    """One of the two products with keys: that of queries with keys, or that of cotangents with values."""

    extent: int  # the width of a head
    columns: int  # the same, up to whole tiles
    of_rows: Tile  # of an along product that gives rows
    of_keys: Tile  # of one that gives keys
    keys: Buffer  # [key][column]: the block of keys
    rows: Buffer  # [row][column]
    turned: Buffer  # [width][row]
    sums: Buffer  # [key][column]: the gradient of keys, or of values
    parts: Buffer  # chunks of an across tile


class _Backward:
    def __init__(self, call: Call):
        self.call, self.of = call, Heads.of(call, 7)
        of = self.of
        self.over_rows, self.over_keys = Chain(of.rows), Chain(of.keys)
        self.block = min(ROW_BLOCK, whole_lanes(self.over_rows.chunk))
        self.across = across_tile(call.target, of.dtype, self.block, "score")
        self.unit = self.across.rows
        self.key_block = -(-min(KEY_BLOCK, self.over_keys.chunk) // self.unit) * self.unit
        self.all_keys = (of.keys // self.unit + 2) * self.unit
        self.task = var("task", of.batch * of.groups * self.over_rows.chunks)
        self.b, self.group, self.chunk, self.until, self.first, self.count, self.end = (
            ref(name, int64) for name in ("batch", "group", "chunk", "until", "first", "count", "end"))
        self.start, self.size, self.home = (ref(name, int64) for name in ("start", "size", "home"))
        self.several = self.over_rows.chunks > 1
        self.of_q, self.of_v = self._side("k", of.width), self._side("v", of.value_width)
        self.weights, self.pulled = (self._scratch(name, (self.key_block + 1) * self.block) for name in ("weights", "pulled"))
        self.row_tiles = -(-self.block // self.of_q.of_rows.rows)
        self.part = self.row_tiles * self.of_q.of_rows.rows * self.of_q.columns
        self.dq = self._scratch("dq", self.over_keys.chunks * self.part)  # [chunk of keys][row][column]
        self.high, self.common = self._scratch("high", self.block), self._scratch("common", self.block)
        self.limit = Buffer("limit", int32, self.block, "scratch")

    def _scratch(self, name: str, size: int) -> Buffer:
        return Buffer(name, self.of.dtype, size, "scratch")

    def _side(self, name: str, extent: int) -> _Side:
        of = self.of
        target = self.call.target
        of_rows = along_tile(target, of.dtype, self.block, extent, f"{name}_of_rows")
        of_keys = Tile(self.unit, of_rows.vectors, of.dtype, f"{name}_of_keys")
        columns = -(-extent // of_rows.columns) * of_rows.columns
        size = self.all_keys * columns
        sums = (self.call.temporary(f"sums_{name}", of.dtype, self.task.attr[1] * size) if self.several
                else self._scratch(f"sums_{name}", size))
        return _Side(extent, columns, of_rows, of_keys, self._scratch(name, self.key_block * columns),
                     self._scratch(f"{name}_rows", self.block * columns), self._scratch(f"{name}_turned", extent * self.block),
                     sums, self._scratch(f"{name}_parts", Chain(extent).chunks * self.across.acc.size))

    # ------------------------------------------------------------------------------------------------------- kernels

    def kernels(self) -> list[Kernel]:
        of = self.of
        chunks = self.over_rows.chunks
        begin = (Let(self.b, self.task // (of.groups * chunks)), Let(self.group, self.task // chunks % of.groups),
                 Let(self.chunk, self.task % chunks), Let(self.until, self.over_rows.stop(self.chunk)),
                 Let(self.home, self.task * self.all_keys if self.several else const(0, int64)))
        clear = [self._clear(side) for side in (self.of_q, self.of_v)]
        body = (*begin, *clear, self._blocks(), *([] if self.several else self._results()))
        flops = 2 * of.batch * of.heads * of.length * of.keys * (3 * of.width + 2 * of.value_width)
        buffers = [self.weights, self.pulled, self.dq, self.high, self.common, self.limit, self.across.acc]
        for side in (self.of_q, self.of_v):
            buffers += [side.keys, side.rows, side.turned, side.parts, side.of_keys.acc, *([] if self.several else [side.sums])]
        buffers.append(self.of_q.of_rows.acc)
        dq, dk, dv = self.call.outputs
        outs = (dq, self.of_q.sums, self.of_v.sums) if self.several else (dq, dk, dv)
        operands = tuple(dict.fromkeys((*self.call.inputs, *outs)))
        kernel = Kernel("attention_gradient", operands, frozenset(outs), self.task.attr[1], self.task, body, tuple(buffers),
                        flops // (2 if self.masked else 1))
        return [kernel, self._sums_of_chunks()] if self.several else [kernel]

    @property
    def masked(self) -> bool:
        return self.of.shift is not None

    def _seen_in(self, chunk: Expr) -> Expr:
        """How many keys the rows of `chunk` see."""
        return self.of.seen(self.over_rows.stop(chunk) - 1)

    def _clear(self, side: _Side) -> Stmt:
        j, column = var("j", self.all_keys), var("column", side.columns)
        zero = store(side.sums, (self.home + j) * side.columns + column, const(0, self.of.dtype))
        return loop(j, loop(column, zero, role="vector"), stop=minimum(self._seen_in(self.chunk) + self.unit, self.all_keys))

    def _blocks(self) -> Stmt:
        """The blocks of rows; for each, the chunks and blocks of keys."""
        chain, turn = self.over_keys, var("row_turn", -(-self.over_rows.chunk // self.block))
        c, key_turn = var("key_chunk", chain.chunks), var("key_turn", -(-chain.chunk // self.key_block))
        limit = minimum(chain.stop(c), self.end)
        keys = loop(key_turn, Let(self.start, c * chain.chunk + key_turn * self.key_block),
                    Let(self.size, minimum(limit - self.start, self.key_block)), *self._keys(c, key_turn),
                    stop=ceil_div(limit - c * chain.chunk, self.key_block))
        first = self.chunk * self.over_rows.chunk + turn * self.block
        return loop(turn, Let(self.first, first), Let(self.count, minimum(self.until - self.first, self.block)),
                    Let(self.end, self.of.seen(self.first + self.count - 1)), *self._rows(),
                    loop(c, keys, stop=ceil_div(self.end, chain.chunk)), self._rows_done(),
                    stop=ceil_div(self.until - self.chunk * self.over_rows.chunk, self.block))

    # ---------------------------------------------------------------------------------------------------------- rows

    def _rows(self) -> list[Stmt]:
        """The rows copied and turned, and what there is one of a row."""
        of = self.of
        i, d = var("i", self.block), var("d", of.value_width)
        q, _, _, high, total, out, ct = self.call.inputs[:7]
        row, at, number = of.clipped(self.first + i), ref("at", int64), ref("number", int64)
        common, of_total = (ref(name, of.dtype) for name in ("common", "of_total"))
        place = of.row_at(self.b, self.group, row, of.value_width)
        natural = i * self.of_v.columns + d
        of_row = [Write(self.high, i, load(high, number)), Write(self.common, i, common)]
        if self.masked:
            of_row.append(Write(self.limit, i, cast(of.seen(self.first + i), int32)))
        product = load(out, at + d) * load(self.of_v.rows, natural)
        rows = loop(i, Let(at, place), Let(number, of.number_at(self.b, self.group, row)), Let(of_total, load(total, number)),
                    loop(d, store(self.of_v.rows, natural, load(ct, at + d) / of_total), role="vector"),
                    Reduce(d, of.value_width, (), (Fold(common, "sum", product),)), Store(tuple(of_row)))
        e, begin = var("d", of.width), of.row_at(self.b, self.group, row, of.width)
        copy = loop(e, store(self.of_q.rows, i * self.of_q.columns + e, load(q, at + e)), role="vector")
        return [rows, loop(i, Let(at, begin), copy), self._turned(self.of_q), self._turned(self.of_v)]

    def _turned(self, side: _Side) -> Stmt:
        i, d = var("i", self.block), var("d", side.extent)
        return loop(i, loop(d, store(side.turned, d * self.block + i, load(side.rows, i * side.columns + d)), role="vector"))

    def _rows_done(self) -> Stmt:
        """dq of the rows: the sum of its chunks."""
        of = self.of
        i, d, at, side = var("i", self.block), var("d", self.of.width), ref("at", int64), self.of_q
        chunks = [load(self.dq, i * side.columns + d + c * self.part, compare("lt", c * self.over_keys.chunk, self.end))
                  for c in range(self.over_keys.chunks)]
        write = store(self.call.outputs[0], at + d, tree(chunks) * self._scale)
        begin = of.row_at(self.b, self.group, self.first + i, of.width)
        return loop(i, Let(at, begin), loop(d, write, role="vector"), stop=self.count)

    @property
    def _scale(self) -> Expr:
        return const(self.call.static["scale"], self.of.dtype)

    # ---------------------------------------------------------------------------------------------------------- keys

    def _keys(self, c: Expr, turn: Expr) -> list[Stmt]:
        """All that one block of keys has to do with one block of rows."""
        return [self._copied(self.of_q, self.call.inputs[1]), self._copied(self.of_v, self.call.inputs[2]),
                self._across(self.of_q, lambda score, j, row: Write(self.weights, j * self.block + row, score)), self._raise(),
                self._across(self.of_v, self._pull), self._to_rows(c, turn),
                self._to_keys(self.of_q, self.pulled), self._to_keys(self.of_v, self.weights)]

    def _copied(self, side: _Side, source: Buffer) -> Stmt:
        """The block of keys side by side; rows up to a whole tile repeat the last key."""
        j, d, at = var("j", self.key_block), var("d", side.extent), ref("at", int64)
        begin = self.of.key_at(self.b, self.group, minimum(self.start + j, self.of.keys - 1), side.extent)
        copy = loop(d, store(side.keys, j * side.columns + d, load(source, at + d)), role="vector")
        return loop(j, Let(at, begin), copy, stop=ceil_div(self.size, self.unit) * self.unit)

    def _seen_by(self, lanes: Expr, count: int) -> Expr:
        """How many keys of the block the `count` rows from `lanes` see at most."""
        if not self.masked:
            return self.size
        return minimum(self.of.seen(self.first + minimum(lanes + (count - 1), self.count - 1)) - self.start, self.size)

    def _across(self, side: _Side, result: Callable[[Expr, Expr, Expr], Write]) -> Stmt:
        tile = self.across
        strip, t, d = var("strip", self.block // tile.columns), var("t", self.key_block // tile.rows), var("d", side.extent)
        row, j = strip * tile.columns + tile.column, t * tile.rows + tile.i
        chain, product = Chain(side.extent).run(tile, d, load(side.keys, j * side.columns + d),
                                                load(side.turned, d * self.block + row), side.parts)
        tiles = loop(t, *chain, tile.over(Store((result(product, j, row),))),
                     stop=ceil_div(self._seen_by(strip * tile.columns, tile.columns), tile.rows))
        return loop(strip, tiles)

    def _raise(self) -> Stmt:
        """Weights of the scores; and zeros where no row of a vector sees the key, up to a whole tile."""
        of = self.of
        strip, j, lane = var("rows", self.block // LANES), var("j", self.key_block), var("lane", LANES)
        last, row, zero = ref("last", int64), strip * LANES + lane, const(0, of.dtype)
        at = j * self.block + row
        weight = exp(load(self.weights, at) * self._scale - load(self.high, row))
        if self.masked:
            weight = where(compare("lt", cast(self.start + j, int32), load(self.limit, row)), weight, zero)
        raised = loop(lane, store(self.weights, at, weight), role="vector")
        clear = loop(lane, Store((Write(self.weights, at, zero), Write(self.pulled, at, zero))), role="vector")
        return loop(strip, Let(last, maximum(self._seen_by(strip * LANES, LANES), 0)), loop(j, raised, stop=last),
                    loop(j, clear, start=last, stop=ceil_div(self.size, self.unit) * self.unit))

    def _pull(self, product: Expr, j: Expr, row: Expr) -> Write:
        at = j * self.block + row
        return Write(self.pulled, at, load(self.weights, at) * (product - load(self.common, row)))

    def _to_rows(self, c: Expr, turn: Expr) -> Stmt:
        """dq += pulled · k."""
        side, tile = self.of_q, self.of_q.of_rows
        t, u, j = var("row_tile", self.row_tiles), var("column_tile", side.columns // tile.columns), var("j", self.key_block)
        column = u * tile.columns + tile.column
        place = c * self.part + (t * tile.rows + tile.i) * side.columns + column
        chain = (tile.set(load(self.dq, place, compare("lt", 0, turn))),
                 loop(j, tile.step(load(self.pulled, j * self.block + t * tile.rows + tile.i),
                                   load(side.keys, j * side.columns + column)), stop=self._seen_by(t * tile.rows, tile.rows)),
                 tile.over(store(self.dq, place, tile.value)))
        return loop(t, loop(u, *chain))

    def _to_keys(self, side: _Side, left: Buffer) -> Stmt:
        """The sums of keys += leftᵀ · rows."""
        tile, begin = side.of_keys, ref("from", int64)
        t, u = var("key_tile", self.key_block // tile.rows), var("column_tile", side.columns // tile.columns)
        i, column = var("i", self.block), u * tile.columns + tile.column
        place = (self.home + self.start + t * tile.rows + tile.i) * side.columns + column
        chain = (tile.set(load(side.sums, place)),
                 loop(i, tile.step(load(left, (t * tile.rows + tile.i) * self.block + i),
                                   load(side.rows, i * side.columns + column)), start=begin, stop=self.count),
                 tile.over(store(side.sums, place, tile.value)))
        since = maximum(self.of.first_to_see(self.start + t * tile.rows) - self.first, 0)
        return loop(t, Let(begin, since), loop(u, *chain), stop=ceil_div(self.size, tile.rows))

    # ------------------------------------------------------------------------------------------------------- results

    def _results(self) -> list[Stmt]:
        """dk and dv of a task that has all rows."""
        return [self._stored(side, const(0, int64), const(0, int64), self.of.keys) for side in (self.of_q, self.of_v)]

    def _stored(self, side: _Side, base: Expr, first: Expr, count: int) -> Stmt:
        """The sum of the chunks from number `base` for `count` keys, of those chunks whose rows saw a key."""
        of, chunks = self.of, self.over_rows.chunks
        j, d, at = var("j", of.keys), var("d", side.extent), ref("at", int64)
        total = tree([load(side.sums, ((base + c) * self.all_keys + j) * side.columns + d,
                           compare("lt", j, self._seen_in(const(c, int64)))) for c in range(chunks)])
        out, value = (self.call.outputs[1], total * self._scale) if side is self.of_q else (self.call.outputs[2], total)
        write = loop(d, store(out, at + d, value), role="vector")
        return loop(j, Let(at, of.key_at(self.b, self.group, j, side.extent)), write, start=first,
                    stop=minimum(first + count, of.keys))

    def _sums_of_chunks(self) -> Kernel:
        """dk and dv: the sums of the chunks of rows; a task is a few keys of a head."""
        of, blocks = self.of, -(-self.of.keys // KEY_BLOCK)
        task = var("task", of.batch * of.groups * blocks)
        head, first = task // blocks, task % blocks * KEY_BLOCK
        stored = [self._stored(side, head * self.over_rows.chunks, first, KEY_BLOCK) for side in (self.of_q, self.of_v)]
        body = (Let(self.b, head // of.groups), Let(self.group, head % of.groups), *stored)
        outs, offset = self.call.outputs[1:], () if of.offset is None else (of.offset,)
        operands = (self.of_q.sums, self.of_v.sums, *offset, *outs)
        return Kernel("attention_sums", operands, frozenset(outs), task.attr[1], task, body)
