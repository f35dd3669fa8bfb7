"""Loop nests of map and row groups, and what all nests share.

A nest is built from the elements of the group's members over fresh loop variables: members become `Let`s, what others
read is loaded, what others will read is stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from mainspring.compile.abreast import ABREAST, CACHED, MOST, abreast
from mainspring.compile.canonical import canonical
from mainspring.compile.choose import Decide, problem
from mainspring.compile.fusion.fuse import Fuser
from mainspring.compile.fusion.grouping import FEW_ROWS, Group
from mainspring.compile.inline import Element, at_flat, flat_index, space_of
from mainspring.compile.loops import (
    LANES,
    Body,
    Buffer,
    Fold,
    For,
    Kernel,
    Let,
    Prefetch,
    Reduce,
    Stmt,
    Store,
    Write,
    all_expressions,
    children,
    expressions,
    load,
)
from mainspring.compile.rename import substitute_vars
from mainspring.compile.seams import cut
from mainspring.compile.simplify import REDUCE_CHUNK
from mainspring.compile.sites import task_site
from mainspring.ir import scalar as s
from mainspring.ir.graph import Node
from mainspring.ir.scalar import Expr
from mainspring.ops.movement import ravel, unravel
from mainspring.types.dtype import int64

CHUNK = 4096  # elements of a long innermost dim that make one task
SHORT = 2048  # elements of a task that takes several short rows
LEAST_CHUNK, CHUNKS = 1024, (1024, 2048, 4096, 8192, 16384, 65536)
# elements of an array with which a kernel of rows prefetches the next row (less is near anyway, and more, which no cache holds,
# waits for the memory's bandwidth and not for its latency), and of the row at least
FAR, LEAST_NEXT = range(1 << 16, 1 << 22), 128
SCRATCH_COST = 2  # flops up to which a value needed by a later pass over the row is computed again rather than kept


@dataclass
class Nest:
    """What the nests of one graph share: who is stored where, which reads are inlined, whether all of it runs repeatedly,
    which buffers last from call to call, and whether one thread runs it alone."""

    fuser: Fuser
    buffer_of: Callable[[Node], Buffer]
    repeated: bool = False
    lasting: Collection[Buffer] = ()
    alone: bool = False

    def kernel(self, name: str, tasks: int, task: Expr, body: Body, group: Group, scratch: tuple[Buffer, ...] = (),
               flops: int = 0) -> Kernel:
        """The kernel of `body`; params are the buffers it touches, in order of first use."""
        touched, written = buffers_of(body)
        params = tuple(b for b in touched if b.kind == "param")
        return Kernel(name, params, frozenset(written), tasks, task, body, scratch, flops)

    def problem(self, label: str, body: Sequence[Stmt], group: Group) -> str:
        """What is computed, as text in which names do not matter: `label`, and a digest of `body`."""
        return problem(label, canonical(self.kernel("problem", 1, s.var("task", 1), tuple(body), group)))

    def external(self, of: Node, index: tuple[Expr, ...], guard: Expr | None) -> Expr:
        """A load of a value that another kernel stores, or of an input."""
        return load(self.buffer_of(of), flat_index(of, index), guard)

    def element(self, leaf: Callable[[Node, tuple[Expr, ...], Expr | None], Expr], group: Group) -> Element:
        """Elements in the kernel of `group`, operands inlined as the fusion decided."""
        return Element(leaf, self.fuser.inlined_in(group))


def buffers_of(body: Body) -> tuple[list[Buffer], list[Buffer]]:
    """(buffers touched, buffers written), in order of first use."""
    touched: dict[Buffer, None] = {}
    written: dict[Buffer, None] = {}

    def visit(stmts: Body) -> None:
        for stmt in stmts:
            for x in s.walk(*expressions(stmt)):
                if x.op == "load":
                    touched[x.attr] = None
            if isinstance(stmt, Reduce):
                visit(stmt.body)
            else:
                for inner in children(stmt):
                    visit(inner)
            if isinstance(stmt, Store):
                for w in stmt.writes:
                    touched[w.buffer] = written[w.buffer] = None

    visit(body)
    return list(touched), [b for b in written if b.kind == "param"]


def value_ref(v: Node, number: int) -> Expr:
    """The scalar that holds the element of a member."""
    return s.ref(f"v{number}", v.dtype)


def lets(members: Sequence[Node], refs: dict[Node, Expr], value: Callable[[Node], Expr]) -> list[Stmt]:
    """A `Let` for each of `members`."""
    return [Let(refs[v], value(v)) for v in members]


# ------------------------------------------------------------------------------------------------------------ map


def map_kernel(nest: Nest, group: Group, decide: Decide) -> Kernel:
    """Elementwise over a flat domain, as rows of the longest contiguous extents that all accesses share."""
    shape = max((v.shape for v in group.members), key=lambda shape: (sum(n != 1 for n in shape), len(shape)))
    domain = tuple(n for n in shape if n != 1) or (1,)
    body = _map_body(nest, group, domain)
    collapsed = collapse(domain, body[1], [*body[0]])
    if collapsed != domain:
        domain = collapsed
        body = _map_body(nest, group, domain)
    stmts, dims = body
    domain, dims, stmts, unit = _joined_short(domain, dims, stmts)
    chunk = CHUNK // unit * unit
    if domain[-1] > LEAST_CHUNK:
        label, each, sizes = "x".join(map(str, domain)), flops_of(stmts), tuple([n // unit * unit for n in CHUNKS])
        chunk = decide(chunk, lambda: task_site("chunk", nest.problem(label, stmts, group), chunk, sizes, domain, each))
    return tasked(nest, group, domain, dims, stmts, chunk)


def _joined_short(domain: tuple[int, ...], dims: list[Expr],
                  stmts: list[Stmt]) -> tuple[tuple[int, ...], list[Expr], list[Stmt], int]:
    """Last dims too short for the vector lanes, joined with those before; and how many elements one begins at a multiple of.

    Places in the dims are then quotients and remainders of one index, whose patterns in the lanes are known (see
    `emit.patterns`) where a task begins at a whole number of periods.
    """
    count, size = 1, domain[-1]
    while count < len(domain) and size < LANES:
        count += 1
        size *= domain[-count]
    if count == 1 or any(isinstance(stmt, Reduce) for stmt in stmts):
        return domain, dims, stmts, 1
    flat = s.var("flat", size)
    places = dict(zip(dims[-count:], unravel(flat, domain[-count:]), strict=True))
    unit = LANES * math.prod(domain[1 - count:])
    return (*domain[:-count], size), [*dims[:-count], flat], list(substitute_vars(tuple(stmts), places)), unit


def _map_body(nest: Nest, group: Group, domain: tuple[int, ...]) -> tuple[list[Stmt], list[Expr]]:
    dims = [s.var(f"i{k}", n) for k, n in enumerate(domain)]
    flat = ravel(dims, domain)
    refs = {v: value_ref(v, k) for k, v in enumerate(group.members)}

    def leaf(of: Node, index: tuple[Expr, ...], guard: Expr | None) -> Expr:
        return refs[of] if of in refs else nest.external(of, index, guard)

    element = nest.element(leaf, group)
    stmts = lets(group.members, refs, lambda v: element.body(v, at_flat(v, flat)))
    stmts.append(Store(tuple(Write(nest.buffer_of(v), flat, refs[v]) for v in group.stored)))
    return stmts, dims


def tasked(nest: Nest, group: Group, domain: tuple[int, ...], dims: list[Expr], stmts: list[Stmt], chunk: int) -> Kernel:
    """Outer dims and chunks of the last one are dealt out as tasks; the last one is the vector loop."""
    last, flops = domain[-1], math.prod(domain) * flops_of(stmts)
    if len(domain) > 1 and last <= SHORT // 2:
        return _blocks_of_rows(nest, group, domain, dims, stmts, flops)
    chunks = -(-last // chunk)
    outer = math.prod(domain[:-1])
    task = s.var("task", outer * chunks)
    places = unravel(task // chunks, domain[:-1]) if len(domain) > 1 else []
    start = (task % chunks) * chunk
    stop = s.const(last, int64) if chunks == 1 else start + chunk if last % chunk == 0 else s.apply("min", start + chunk, last)
    body = substitute_vars(tuple(stmts), dict(zip(dims[:-1], places, strict=True)))
    loops = cut(For(dims[-1], start, stop, body, "vector"))
    return nest.kernel("map", outer * chunks, task, loops, group, flops=flops)


def _blocks_of_rows(nest: Nest, group: Group, domain: tuple[int, ...], dims: list[Expr], stmts: list[Stmt],
                    flops: int) -> Kernel:
    """Short rows: a task is a block of neighbours in one of the outer dims, whole in the dims within that."""
    at, size = len(domain) - 2, domain[-1]  # the dim whose blocks are tasks, elements of one place in it
    while at and size * domain[at] <= SHORT // 2:
        size *= domain[at]
        at -= 1
    blocks = max(1, -(-domain[at] // max(1, SHORT // max(1, size))))
    block = max(1, -(-domain[at] // blocks))
    task = s.var("task", math.prod(domain[:at]) * blocks)
    start = task % blocks * block
    stop = start + block if domain[at] % block == 0 else s.apply("min", start + block, domain[at])
    body = substitute_vars(tuple(stmts), dict(zip(dims[:at], unravel(task // blocks, domain[:at]), strict=True)))
    body = cut(For(dims[-1], s.const(0, int64), s.const(domain[-1], int64), body, "vector"))
    for dim in reversed(dims[at + 1 : -1]):
        body = (For(dim, s.const(0, int64), s.const(dim.attr[1], int64), body),)
    return nest.kernel("map", task.attr[1], task, (For(dims[at], start, stop, body),), group, flops=flops)


def collapse(domain: tuple[int, ...], dims: Sequence[Expr], stmts: Sequence[Stmt]) -> tuple[int, ...]:
    """`domain` with neighbouring dims joined wherever every load runs through them as through one."""
    entangled: set[Expr] = set()
    strides: list[dict[Expr, int]] = []
    wanted = set(dims)

    def visit(x: Expr) -> None:
        if x in seen:
            return
        seen.add(x)
        if x in wanted:
            entangled.add(x)
        elif x.op == "load":
            terms, _ = s.affine(x.args[0])
            strides.append({t: k for t, k in terms.items() if t in wanted})
            for t in terms:
                if t not in wanted:
                    visit(t)
            for a in x.args[1:]:
                visit(a)
        else:
            for a in x.args:
                visit(a)

    seen: set[Expr] = set()
    for stmt in stmts:
        for x in expressions(stmt) if not isinstance(stmt, Store) else [w.value for w in stmt.writes]:
            visit(x)
    result = [domain[0]]
    for k in range(1, len(domain)):
        a, b = dims[k - 1], dims[k]
        free = a not in entangled and b not in entangled
        if free and all(c.get(a, 0) == c.get(b, 0) * domain[k] for c in strides):
            result[-1] *= domain[k]
        else:
            result.append(domain[k])
    return tuple(result)


def flops_of(stmts: Sequence[Stmt]) -> int:
    return s.flops(*[x for stmt in stmts for x in expressions(stmt)])


# ------------------------------------------------------------------------------------------------------------ row


def row_kernel(nest: Nest, group: Group) -> Kernel:
    """One task a row: passes over the row, each with the reductions that are ready, and scalars of the row between them."""
    return _Row(nest, group).kernel()


class _Row:
    def __init__(self, nest: Nest, group: Group):
        self.nest, self.group = nest, group
        self.rows, self.width = group.rows, group.width
        self.row, self.col = s.var("row", group.rows), s.var("col", group.width)
        self.refs = {v: value_ref(v, k) for k, v in enumerate(group.members)}
        reads, inside = nest.fuser.reads, set(group.members)
        self.kinds = reads.kinds
        self.operands = {v: list(dict.fromkeys(h.of for h in reads.hits[v] if h.of in inside)) for v in group.members}
        self.pass_of = self._passes()
        self.scratch: dict[Node, Buffer] = {}
        self.results: list[Buffer] = []  # of the chunks of long rows
        self.flops = 0  # an element
        self.together = self._together()
        self._keep()

    def is_row(self, v: Node) -> bool:
        """Whether `v` has one element a row."""
        return self.kinds[v] == "row" or (v.type.size == self.rows and self.width != 1)  # type: ignore[union-attr]

    def _passes(self) -> dict[Node, int]:
        """For a full value or a reduction, the pass that computes it; for a scalar of the row, the pass that makes it known."""
        found: dict[Node, int] = {}
        for v in self.group.members:
            at = -1 if self.is_row(v) and self.kinds[v] != "row" else 0
            for u in self.operands[v]:
                later = self.is_row(u) and not (self.is_row(v) and self.kinds[v] != "row")
                at = max(at, found[u] + 1 if later else found[u])
            found[v] = at
        users: dict[Node, list[int]] = {v: [] for v in self.group.members}
        for v in reversed(self.group.members):  # a full value that only later passes read is computed there
            if not self.is_row(v) and users[v]:
                found[v] = max(found[v], min(users[v]))
            for u in self.operands[v]:
                users[u].append(found[v])
        return found

    @property
    def _count(self) -> int:
        """How many passes there are."""
        return max(self.pass_of.values(), default=0) + 1

    def _together(self) -> int:
        """Rows done abreast: where a pass waits for the one before it, as many as there is room for."""
        fit = [n for width, n in ABREAST if self.width <= width and n <= min(self.rows // FEW_ROWS, MOST // len(self.pass_of))]
        return fit[0] if fit and self._count > 1 and self.group.size <= CACHED else 1

    def _keep(self) -> None:
        """What later passes do about a full value of an earlier one: read the stored result, compute again, or scratch."""
        stored = set(self.group.stored)
        for v in self.group.members:
            for u in self.operands[v]:
                later = not self.is_row(u) and self.pass_of[u] < self.pass_of[v]
                if later and u not in stored and u not in self.scratch and not self._again(u):
                    self.scratch[u] = Buffer(f"row{len(self.scratch)}", u.dtype, self.width, "scratch")

    def _again(self, u: Node) -> bool:
        space = space_of(u)
        assert space is not None
        cheap = s.flops(space.symbolic(tuple(n.type for n in u.inputs))) <= SCRATCH_COST  # type: ignore[misc]
        return cheap and all(self.is_row(w) or w in self.group.stored for w in self.operands[u])

    def kernel(self) -> Kernel:
        count = self._count
        body: list[Stmt] = self._scalars(-1)
        for number in range(count):
            body += self._pass(number, self._ahead(body) if number == 1 else [])
            body += self._scalars(number)
        task, stmts, scratch = abreast(tuple(body), self.row, (*self.scratch.values(), *self.results), self.together)
        return self.nest.kernel("row", task.attr[1], task, stmts, self.group, scratch, self.flops * self.rows * self.width)

    def _element(self, number: int) -> Element:
        def leaf(of: Node, index: tuple[Expr, ...], guard: Expr | None) -> Expr:
            if of not in self.refs:
                return self.nest.external(of, index, guard)
            if self.is_row(of) or self.pass_of[of] == number:
                return self.refs[of]
            if of in self.group.stored:
                return load(self.nest.buffer_of(of), self.place)
            if of in self.scratch:
                return load(self.scratch[of], self.col)
            return element.body(of, at_flat(of, self.place))

        element = self.nest.element(leaf, self.group)
        return element

    @property
    def place(self) -> Expr:
        """The flat position of this row and column."""
        return self.row * self.width + self.col

    def _pass(self, number: int, ahead: list[Stmt]) -> list[Stmt]:
        element = self._element(number)
        here = [v for v in self.group.members if self.pass_of[v] == number]
        full = [v for v in here if not self.is_row(v)]
        reductions = [v for v in here if self.kinds[v] == "row"]
        if not full and not reductions:
            return []
        inner = lets(full, self.refs, lambda v: element.body(v, at_flat(v, self.place)))
        writes = [Write(self.nest.buffer_of(v), self.place, self.refs[v]) for v in full if v in self.group.stored]
        writes += [Write(self.scratch[v], self.col, self.refs[v]) for v in full if v in self.scratch]
        if writes:
            inner.append(Store(tuple(writes)))
        self.flops += flops_of(inner) + len(reductions)
        inner += ahead
        if not reductions:
            return [*cut(For(self.col, s.const(0, int64), s.const(self.width, int64), tuple(inner), "vector"))]
        folds, after = [], []
        for v in reductions:
            space = space_of(v)
            assert space is not None
            value = element.body(v, at_flat(v, self.row), None, unravel(self.col, space.reduced))
            folds.append(fold_of(v, self.refs[v], space.combine, value, after))
        return [*self._reduce(Reduce(self.col, self.width, tuple(inner), tuple(folds))), *after,
                *self._stores([v for v in reductions if v in self.group.stored])]

    def _ahead(self, before: list[Stmt]) -> list[Stmt]:
        """While a row is computed with, the next one is brought near: the first pass over it would wait for memory."""
        if not LEAST_NEXT <= self.width <= REDUCE_CHUNK or self.group.size not in FAR:
            return []
        loads = [x for stmt in before if isinstance(stmt, (For, Reduce)) for x in s.walk(*all_expressions(stmt))
                 if x.op == "load" and x.args[0] is self.place]
        written = [self.nest.buffer_of(v) for v in self.group.stored if not self.is_row(v)]
        following = self.place + self.width * self.together
        return [*(Prefetch(b, following) for b in dict.fromkeys(x.attr for x in loads) if b not in written),
                *(Prefetch(b, following, True) for b in written)]

    def _reduce(self, whole: Reduce) -> list[Stmt]:
        """`whole`, or if the row is long the same over chunks and over their results, as `simplify.split_reductions` would."""
        if self.width <= REDUCE_CHUNK:
            return [whole]
        count, rest = divmod(self.width, REDUCE_CHUNK)
        results = [Buffer(f"{f.ref.attr}_chunks", f.value.dtype, count + (rest > 0), "scratch") for f in whole.folds]
        self.results += results

        def part(number: Expr, extent: int) -> Body:
            along = s.var("along", extent)
            folds = tuple(Fold(s.ref(f"{f.ref.attr}_chunk", f.value.dtype), f.combine, f.value) for f in whole.folds)
            moved = substitute_vars((Reduce(along, extent, whole.body, folds),), {self.col: number * REDUCE_CHUNK + along})
            return *moved, Store(tuple(Write(r, number, f.ref) for r, f in zip(results, folds, strict=True)))

        chunk, number = s.var("chunk", count), s.var("number", results[0].size)
        folds = tuple(Fold(f.ref, f.combine, load(r, number)) for f, r in zip(whole.folds, results, strict=True))
        return [For(chunk, s.const(0, int64), s.const(count, int64), part(chunk, REDUCE_CHUNK)),
                *(part(s.const(count, int64), rest) if rest else ()), Reduce(number, number.attr[1], (), folds)]

    def _scalars(self, number: int) -> list[Stmt]:
        element = self._element(number)
        here = [v for v in self.group.members if self.is_row(v) and self.kinds[v] != "row" and self.pass_of[v] == number]
        stmts = lets(here, self.refs, lambda v: element.body(v, at_flat(v, self.row)))
        return stmts + self._stores([v for v in here if v in self.group.stored])

    def _stores(self, values: list[Node]) -> list[Stmt]:
        return [Store(tuple(Write(self.nest.buffer_of(v), self.row, self.refs[v]) for v in values))] if values else []


def fold_of(v: Node, ref: Expr, combine: str, value: Expr, after: list[Stmt]) -> Fold:
    """The fold of a reduction; where it accumulates in another dtype than its result's, `after` converts."""
    if value.dtype is v.dtype:
        return Fold(ref, combine, value)
    wide = s.ref(f"{ref.attr}_wide", value.dtype)
    after.append(Let(ref, s.cast(wide, v.dtype)))
    return Fold(wide, combine, value)
