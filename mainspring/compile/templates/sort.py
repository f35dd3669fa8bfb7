"""Stable sort: lines are independent; a line is sorted in memory of the thread, elements together with their indices.

A long line goes by the digits of its elements (`radix`), a short one is merged.

Runs of a few elements are sorted by insertion, then merged pairwise from one half of the scratch into the other, the run
doubling each time. An element moves left only past one that it must stand before, so equal elements keep their order.

Where only the first few are wanted, they are kept in order while the rest of the line is looked through, in blocks: most hold
nothing that must stand before the last one kept, which the vector lanes find out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mainspring.compile.loops import Body, Buffer, Fold, If, Kernel, Let, Reduce, Stmt, Store, While, Write, load
from mainspring.compile.template import Call, template
from mainspring.compile.templates.lines import Lines, loop, number, params
from mainspring.compile.templates.radix import Radix, key_of, worth
from mainspring.ir.scalar import Expr, apply, both, compare, minimum, ref, var, where
from mainspring.types.dtype import bool_, int64

RUN = 8  # elements sorted by insertion
PICKED = 64  # first elements that are picked, at most; for more all are sorted
BLOCK = 64  # elements that are looked through at a time


@dataclass(frozen=True)
class _Work:
    """The scratch of one line: two halves of `extent` elements, their indices, and two cursors."""

    values: Buffer
    indices: Buffer
    cursors: Buffer
    extent: int
    descending: bool

    def before(self, a: Expr, b: Expr) -> Expr:
        """Whether `a` must stand before `b`: strictly, NaN behind every number."""
        less = compare("lt", b, a) if self.descending else compare("lt", a, b)
        if a.dtype.kind != "float":
            return less
        return less | (apply("ne", b, b) & apply("eq", a, a))

    def put(self, at: Expr, value: Expr, index: Expr, *more: Write) -> Store:
        return Store((Write(self.values, at, value), Write(self.indices, at, index), *more))

    def moved_left(self, value: Expr, floor: Expr) -> While:
        """The first cursor goes left, and what it passes right, while that must stand behind `value`; not beyond `floor`."""
        hole = load(self.cursors, 0)
        left = compare("lt", floor, hole)
        passes = both(left, self.before(value, load(self.values, hole - 1, left, value)))
        return While(passes, (self.put(hole, load(self.values, hole - 1), load(self.indices, hole - 1),
                                       Write(self.cursors, number(0), hole - 1)),))


@template("sort_with_indices")
def sort_with_indices(call: Call) -> list[Kernel]:
    """One task a line: load, insertion in runs, merges, store; or the first ones picked."""
    type_, first = call.input_types[0], call.static["first"]
    if not type_.size or not first:
        return []
    lines = Lines.of(type_.shape, call.static["axis"])
    n, picks = lines.extent, first < lines.extent and first <= PICKED
    merges = 0 if picks else max(0, (-(-n // RUN) - 1).bit_length())
    room = first if picks else 2 * n if merges else n
    task, place = var("task", lines.outer * lines.inner), var("place", n)
    if not picks and worth(n, type_.dtype):
        return [_by_digits(call, lines, task, place)]
    work = _Work(Buffer("values", type_.dtype, room, "scratch"), Buffer("indices", int64, room, "scratch"),
                 Buffer("cursors", int64, 2, "register"), n, call.static["descending"])

    def element(place: Expr, extent: int) -> Expr:
        return lines.element(task, place, extent)

    def line(place: Expr) -> Expr:
        return load(call.inputs[0], element(place, n))

    taken = loop(place, work.put(place, line(place), place), stop=room if picks else n, role="vector")
    half = place + (merges % 2) * n  # where the last merge left the line
    results = [Write(out, element(place, first), load(of, half))
               for out, of in zip(call.outputs, (work.values, work.indices), strict=True)]
    ordered = (_insertion(work, first, first), *_picks(work, line, first)) if picks else \
        (_insertion(work, n, RUN), *((_merges(work, merges),) if merges else ()))
    body = (taken, *ordered, loop(place, Store(tuple(results)), stop=first, role="vector"))
    return [Kernel("sort", params(call), frozenset(call.outputs), task.attr[1], task, body,
                   (work.values, work.indices, work.cursors), type_.size * max(1, (first if picks else n).bit_length()))]


def _by_digits(call: Call, lines: Lines, task: Expr, place: Expr) -> Kernel:
    """One task a line by `radix`."""
    (x,), first = call.inputs, call.static["first"]
    radix = Radix.of(lines.extent, x.dtype)
    body, came_from = radix.sorted_places(key_of(load(x, lines.element(task, place)), call.static["descending"]), place)
    source = ref("source", int64)
    values, indices = call.outputs
    results = [Write(values, lines.element(task, place, first), load(x, lines.element(task, source))),
               Write(indices, lines.element(task, place, first), source)]
    body = (*body, loop(place, Let(source, came_from), Store(tuple(results)), stop=first, role="vector"))
    return Kernel("sort", params(call), frozenset(call.outputs), task.attr[1], task, body, radix.scratch,
                  x.size * (2 * radix.digits + 4))


def _picks(work: _Work, line: Callable[[Expr], Expr], first: int) -> list[Stmt]:
    """The rest of the line: each element that must stand before the last of the `first` takes its place among them."""
    block, inside, lane = var("block", (work.extent - first) // BLOCK), var("inside", BLOCK), var("lane", BLOCK)
    k, found = var("k", work.extent), ref("found", bool_)
    value, hole = ref("value", work.values.dtype), load(work.cursors, 0)
    before_last = work.before(value, load(work.values, first - 1))

    def offered(at: Expr) -> tuple[Stmt, ...]:
        begin = Store((Write(work.cursors, number(0), number(first - 1)),))
        return Let(value, line(at)), If(before_last, (begin, work.moved_left(value, number(0)), work.put(hole, value, at)))

    start = block * BLOCK + first
    better = Fold(found, "any", work.before(line(start + lane), load(work.values, first - 1)))
    return [loop(block, Reduce(lane, BLOCK, (), (better,)), If(found, (loop(inside, *offered(start + inside)),))),
            loop(k, *offered(k), start=first + block.attr[1] * BLOCK)]


def _insertion(work: _Work, extent: int, run: int) -> Stmt:
    """Each of so many elements moves left within its run until none before it must stand behind it."""
    k = var("k", extent)
    value, index = ref("value", work.values.dtype), ref("index", int64)
    return loop(
        k,
        Let(value, load(work.values, k)),
        Let(index, load(work.indices, k)),
        Store((Write(work.cursors, number(0), k),)),
        work.moved_left(value, k - k % run),
        work.put(load(work.cursors, 0), value, index),
        start=1,
    )


def _merges(work: _Work, merges: int) -> Stmt:
    """Pass p merges runs of RUN·2^p, from half p mod 2 into the other."""
    n = work.extent
    step, pair = var("pass", merges), var("pair", -(-n // (2 * RUN)))
    width, source = ref("width", int64), ref("source", int64)
    low, middle, high = (ref(name, int64) for name in ("low", "middle", "high"))
    return loop(
        step,
        Let(width, apply("shl", number(RUN), step)),
        Let(source, step % 2 * n),
        loop(
            pair,
            Let(low, pair * width * 2),
            Let(middle, minimum(low + width, n)),
            Let(high, minimum(low + width * 2, n)),
            Store((Write(work.cursors, number(0), low), Write(work.cursors, number(1), middle))),
            *_merge(work, source, low, middle, high),
            stop=apply("floordiv", width * 2 + (n - 1), width * 2),
        ),
    )


def _merge(work: _Work, source: Expr, low: Expr, middle: Expr, high: Expr) -> Body:
    """Runs [low, middle) and [middle, high) of one half into [low, high) of the other; the left one goes first among equals."""
    k = var("to", work.extent)
    left, right = load(work.cursors, 0), load(work.cursors, 1)
    has_left, has_right = compare("lt", left, middle), compare("lt", right, high)
    fill = load(work.values, source)
    a, b = load(work.values, source + left, has_left, fill), load(work.values, source + right, has_right, fill)
    take_right, at = ref("take_right", bool_), ref("at", int64)
    return (loop(
        k,
        Let(take_right, has_right & (~has_left | work.before(b, a))),
        Let(at, where(take_right, right, left)),
        work.put(k + (work.extent - source), load(work.values, source + at), load(work.indices, source + at),
                 Write(work.cursors, number(0), where(take_right, left, left + 1)),
                 Write(work.cursors, number(1), where(take_right, right + 1, right))),
        start=low, stop=high,
    ),)

