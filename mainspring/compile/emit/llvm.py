"""Kernels as LLVM functions: every statement of the loop IR, its loops, lanes and partial sums.

    void name(ptr param0, …, ptr scratch, i64 begin, i64 end)        runs the tasks begin … end - 1

With this you can turn a `Kernel` into a function of an llvmlite module (`emit_kernel`). Inside a vector loop the emitter
works on a chunk of LANES iterations: an expression that does not depend on the loop index stays a scalar; one that is an
index plus a constant becomes a contiguous access; the last chunk runs under a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import count

from llvmlite import ir

from mainspring.base.errors import CompileError
from mainspring.compile.emit.partials import Extremes, Partials, combine, fold_tree
from mainspring.compile.emit.patterns import ANY, Pattern, period
from mainspring.compile.emit.scalar import fixed, floor_divide, literal, memory_type, register_type, to_memory
from mainspring.compile.emit.turn import Turning, transposed, turning
from mainspring.compile.emit.values import LANE_NUMBERS, Chunk, Values
from mainspring.compile.loops import (
    LANES,
    Body,
    Buffer,
    Fold,
    For,
    If,
    Kernel,
    Let,
    Prefetch,
    Reduce,
    Stmt,
    Store,
    While,
    children,
    expressions,
    identity,
    load,
)
from mainspring.compile.target import Target
from mainspring.compile.vectormath.values import I1, I8, I32, I64, PTR, Builder, Facts, Value, call, constant, poison, type_of
from mainspring.ir.primitives import SCALARS
from mainspring.ir.scalar import Expr, const, show, walk
from mainspring.types.dtype import bfloat16, float16, int64

STACK_BYTES = 32 * 1024  # scratch buffers up to this size in total lie on the stack
_UNROLL_COST = 16  # a serial reduction whose body costs no more keeps its partials in registers
_LITERAL_COST = 2048  # so does one that is written out whole (a small window: its taps are then constants) at no more than this


def _aligned(size: int) -> int:
    return (size + 63) // 64 * 64


def _scratch_offsets(kernel: Kernel) -> tuple[dict[Buffer, int], int]:
    offsets, total = {}, 0
    for buffer in kernel.scratch:
        if buffer.kind == "scratch":
            offsets[buffer] = total
            total += _aligned(buffer.size * buffer.dtype.itemsize)
    return offsets, total


def scratch_bytes(kernel: Kernel) -> int:
    """Bytes of 64-aligned memory that each thread must pass as `scratch`; 0 when the stack is enough."""
    total = _scratch_offsets(kernel)[1]
    return total if total > STACK_BYTES else 0


def emit_kernel(module: ir.Module, kernel: Kernel, name: str, target: Target) -> ir.Function:
    """Adds `kernel` to `module` as the function `name`; raises CompileError for statements where they may not stand."""
    return _Emitter(module, kernel, name, target).emit()


class _Names:
    """Names of values and blocks by number: llvmlite would look up whether each is taken."""

    def __init__(self, taken: int):
        self.numbers = count(taken + 1)

    def register(self, name: str, deduplicate: bool = False) -> str:
        return f"{name}.{next(self.numbers)}"


class _Emitter(Values):
    """Emits one kernel: a method for each statement."""

    def __init__(self, module: ir.Module, kernel: Kernel, name: str, target: Target):
        self.kernel = kernel
        arguments = [PTR] * (len(kernel.params) + 1) + [I64, I64]
        self.function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
        self.function.scope = _Names(len(arguments))
        for argument in self.function.args[:-2]:
            argument.add_attribute("noalias")
        self.function.attributes.add("nounwind")
        if target.vector_bytes >= 64:
            set.add(self.function.attributes, '"prefer-vector-width"="512"')
        wide = "avx512" in target.has
        facts = Facts(scales=wide, kept=wide and not any(b.kind == "register" for b in kernel.scratch))
        entry, start = (Builder(self.function.append_basic_block(n), facts) for n in ("entry", "start"))
        super().__init__(entry, start, target)

    def emit(self) -> ir.Function:
        *params, scratch, begin, end = self.function.args
        self.pointers.update(zip(self.kernel.params, params, strict=True))
        self._place_scratch(scratch)
        start = self.b.block
        number = self._order(Value(self.b, begin), Value(self.b, end))
        self._loop(Value(self.b, begin), Value(self.b, end), 1,
                   lambda i: self._with({self.kernel.task: number(i)}, self.kernel.body))
        self.b.ret_void()
        self.entry.branch(start)
        return self.function

    def _order(self, begin: Value, end: Value) -> Callable[[Value], Value]:
        """The task that is done in place of task `i`."""
        if self.kernel.turn is None:
            return lambda i: i
        odd = (self.value(load(self.kernel.turn, 0)) & 1).eq(1)
        return lambda i: odd.where(begin + end - 1 - i, i)

    # --------------------------------------------------------------------------------------------------------- memory

    def _place_scratch(self, scratch: ir.Value) -> None:
        offsets, total = _scratch_offsets(self.kernel)
        for buffer in self.kernel.scratch:
            if buffer.kind == "scratch" and total > STACK_BYTES:
                self.pointers[buffer] = self.entry.gep(scratch, [ir.Constant(I64, offsets[buffer])], source_etype=I8)
            else:
                self.pointers[buffer] = self.alloca(ir.ArrayType(memory_type(buffer.dtype), max(buffer.size, 1)))

    # ----------------------------------------------------------------------------------------------------- statements

    def _run(self, body: Body) -> None:
        for stmt in body:
            _STATEMENTS[type(stmt)](self, stmt)

    def _with(self, bound: dict[Expr, Value], body: Body) -> None:
        with self.scope(_written(body)):
            self.known.update(bound)
            self._run(body)

    def _store(self, stmt: Store) -> None:
        values = [(w, self.value(w.value), self.value(w.guard) if w.guard is not None else None) for w in stmt.writes]
        for write, value, guard in values:
            self.write(write, to_memory(value, write.buffer.dtype), guard)
        self.forget(frozenset(w.buffer for w in stmt.writes))

    def _prefetch(self, stmt: Prefetch) -> None:
        if self.mask(None) is None:  # a remainder is not worth it
            address = self._address(stmt.buffer, self.first(stmt.index))
            how = [ir.Constant(I32, n) for n in (int(stmt.write), 4 - stmt.level, 1)]  # caches of data
            call(self.b, "llvm.prefetch.p0", ir.VoidType(), [address, *how])

    def _let(self, stmt: Let) -> None:
        self.bind(stmt.ref, stmt.value)

    def _for(self, stmt: For) -> None:
        if (turned := turning(stmt)) is not None and self.chunk is None:
            self._turn(turned)
        elif stmt.role == "vector":
            self._chunks(stmt, stmt.start, stmt.stop, lambda: self._run(stmt.body))
        elif stmt.role == "unroll":
            for i in range(self._number(stmt.start), self._number(stmt.stop)):
                self._with({stmt.var: literal(self.b, i, int64)}, stmt.body)
        else:
            start, stop = self.value(stmt.start), self.value(stmt.stop)
            if start.lanes or stop.lanes:
                rule = "its bounds inside a vector loop must be the same for all lanes"
                raise CompileError("emit_kernel", "For", rule, show(stmt.var))
            self._loop(start, stop, 1, lambda i: self._with({stmt.var: i}, stmt.body))
        self.forget(_written(stmt.body))

    def _number(self, x: Expr) -> int:
        number = fixed(self.value(x))
        if number is None:
            raise CompileError("emit_kernel", "For", "the bounds of an unrolled loop must be constants", show(x))
        return number

    def _loop(self, start: Value, stop: Value, step: int, body: Callable[[Value], None]) -> None:
        """body(i) for i = start, start + step, … while i < stop."""
        first, last = fixed(start), fixed(stop)
        known = first is not None and last is not None
        if known and first >= last:
            return
        before, top, after = self.b.block, self.b.append_basic_block("loop"), self.b.append_basic_block("after")
        if known:
            self.b.branch(top)
        else:
            self.b.cbranch((start < stop).raw, top, after)
        self.b.position_at_end(top)
        index = self.b.phi(I64)
        index.add_incoming(start.raw, before)
        body(Value(self.b, index))
        following = self.b.add(index, ir.Constant(I64, step), flags=("nsw",))
        index.add_incoming(following, self.b.block)
        self.b.cbranch(self.b.icmp_signed("<", following, stop.raw), top, after)
        self.b.position_at_end(after)

    def _chunks(self, stmt: For | Reduce, start: Expr, stop: Expr, body: Callable[[], None]) -> None:
        """`body` for chunks of LANES values of the variable of `stmt`, the last one under a mask."""
        if self.chunk is not None:
            raise CompileError("emit_kernel", "For", "a vector loop may not stand inside another", show(stmt.var))
        written = _written(stmt.body)

        def run(chunk: Chunk) -> None:
            with self.lanes_of(chunk, written):
                body()

        self._pieces(stmt.var, start, stop, run, period(_expressions(stmt), stmt.var))

    def _pieces(self, var: Expr, start: Expr, stop: Expr, run: Callable[[Chunk], None], every: int = LANES) -> None:
        """`run` for the chunks of `var` from `start` to `stop`, as many in a row as make a period of `every` values."""
        first, last, origin = self.value(start), self.value(stop), self.patterns.of(start) or ANY

        def loop(begin: Value, end: Value, step: int) -> None:
            def chunks(base: Value) -> None:
                for i in range(0, step, LANES):
                    run(Chunk(var, base + i if i else base, None, origin + Pattern(step, (i,) * LANES)))

            self._loop(begin, end, step, chunks)

        begin, end = fixed(first), fixed(last)
        if begin is None or end is None:
            count = (last - first).intrinsic("smax", 0)
            middle = first + (count & -LANES)
            if every > LANES:
                periods = first + floor_divide(count, count.like(every), int64, nonnegative=True) * every
                loop(first, periods, every)
                loop(periods, middle, LANES)
            else:
                loop(first, middle, LANES)
            with self.b.if_then((middle < last).raw):
                mask = Value(self.b, LANE_NUMBERS) < (last - middle).to(I8, "trunc")
                run(Chunk(var, middle, mask, origin + Pattern(LANES, (0,) * LANES), None))
            return
        written_out = begin if end - begin < 2 * every else begin + (end - begin) // every * every
        loop(first, literal(self.b, written_out, int64), every)
        for base in range(written_out, end, LANES):
            exist = tuple([base + i < end for i in range(LANES)])
            mask = None if all(exist) else Value(self.b, ir.Constant(type_of(I1, LANES), list(exist)))
            run(Chunk(var, literal(self.b, base, int64), mask, Pattern.of(base), exist))

    def _turn(self, t: Turning) -> None:
        """A loop that transposes, block by block: LANES rows read as vectors along j, their columns stored along i."""
        written = frozenset([t.write.buffer])
        last_row, last_column = self.value(t.outer.stop), self.value(t.inner.stop)
        begin, end = fixed(self.value(t.outer.start)), fixed(last_row)
        left = (end - begin) % LANES if begin is not None and end is not None else 0  # rows of the last block, where known

        def block(rows: Chunk, columns: Chunk) -> None:
            count = left if rows.mask is not None and left else LANES
            read = [row(rows, columns, r) for r in range(count)]
            read += [poison(read[0].type)] * (LANES - count)
            for c, column in enumerate(transposed(self.b, read, itemsize, self.target.vector_bytes)):
                store(rows, columns, c, column, count)

        def row(rows: Chunk, columns: Chunk, r: int) -> ir.Value:
            index = rows.base + r
            with self.lanes_of(columns, written):
                self.known[t.outer.var] = index if rows.mask is None else index.intrinsic("smin", last_row - 1)
                self._run(t.lets)
                return to_memory(self.value(t.write.value), t.write.buffer.dtype).splat().raw

        def store(rows: Chunk, columns: Chunk, c: int, column: ir.Value, count: int) -> None:
            index = columns.base + c
            exists = nullcontext() if columns.mask is None else self.b.if_then((index < last_column).raw)
            with exists, self.lanes_of(rows, written):
                self.known[t.inner.var] = index
                if count == LANES:
                    self.write(t.write, Value(self.b, column), None)
                else:
                    part = self.b.shuffle_vector(column, column, ir.Constant(ir.VectorType(I32, count), list(range(count))))
                    self.b.store(part, self._address(t.write.buffer, self.first(t.write.index)), align=itemsize)

        itemsize = t.write.buffer.dtype.itemsize
        self._pieces(t.outer.var, t.outer.start, t.outer.stop, lambda rows: self._pieces(
            t.inner.var, t.inner.start, t.inner.stop, lambda columns: block(rows, columns)))

    def _if(self, stmt: If) -> None:
        condition = self.value(stmt.condition)
        if self.chunk is not None:
            raise CompileError("emit_kernel", "If", "a branch may not stand inside a vector loop", show(stmt.condition))
        with self.b.if_else(condition.raw) as (then, other):
            with then, self.scope():
                self._run(stmt.body)
            with other, self.scope():
                self._run(stmt.other)
        self.forget(_written(stmt.body) | _written(stmt.other))

    def _while(self, stmt: While) -> None:
        if self.chunk is not None:
            raise CompileError("emit_kernel", "While", "may not stand inside a vector loop", show(stmt.condition))
        top, inside, after = (self.b.append_basic_block(n) for n in ("while", "inside", "after"))
        self.b.branch(top)
        self.b.position_at_end(top)
        with self.scope(_written(stmt.body)):
            self.b.cbranch(self.value(stmt.condition).raw, inside, after)
            self.b.position_at_end(inside)
            self._run(stmt.body)
            self.b.branch(top)
        self.b.position_at_end(after)
        self.forget(_written(stmt.body))

    # ----------------------------------------------------------------------------------------------------- reductions

    def _reduce(self, stmt: Reduce) -> None:
        results = self._reduce_lanes(stmt) if stmt.role == "vector" else self._reduce_serial(stmt)
        self.forget(_written(stmt.body))
        self.known.update(zip((f.ref for f in stmt.folds), results, strict=True))

    def _accumulator(self, fold: Fold, lanes: int, count: int = 1) -> ir.Value:
        """Memory (registers, once optimised) for `count` partials, each at the identity."""
        dtype = fold.value.dtype
        t = type_of(register_type(dtype), lanes)
        slot = self.alloca(ir.ArrayType(t, count) if count > 1 else t)
        start = constant(register_type(dtype), identity(fold.combine, dtype), lanes)
        for i in range(count):
            self.b.store(start, self._partial(slot, ir.Constant(I64, i), t) if count > 1 else slot)
        return slot

    def _partial(self, slot: ir.Value, index: ir.Value, t: ir.Type) -> ir.Value:
        return self.b.gep(slot, [index], source_etype=t)

    def _accumulate(self, fold: Fold, slot: ir.Value, lanes: int) -> None:
        t = type_of(register_type(fold.value.dtype), lanes)
        value = self.value(fold.value)
        old = Value(self.b, self.b.load(slot, typ=t))
        self.b.store(combine(fold.combine, old, value.splat() if lanes else value, fold.value.dtype).raw, slot)

    def _reduce_lanes(self, stmt: Reduce) -> list[Value]:
        partials = [self._partials(f) for f in stmt.folds]

        def body() -> None:
            self._run(stmt.body)
            for fold, own in zip(stmt.folds, partials, strict=True):
                own.take(self.value(fold.value).splat(), self.mask(None))

        self._chunks(stmt, const(0, int64), const(stmt.extent, int64), body)
        return [self._fold_lanes(fold, own.total()) for fold, own in zip(stmt.folds, partials, strict=True)]

    def _partials(self, fold: Fold) -> Partials:
        slot, dtype = self._accumulator(fold, LANES), fold.value.dtype
        if fold.combine not in ("max", "min") or dtype.kind != "float":
            return Partials(self.b, fold, slot)
        nans = self.alloca(type_of(register_type(dtype), LANES))
        self.b.store(constant(register_type(dtype), 0, LANES), nans)
        return Extremes(self.b, fold, slot, nans)

    def _fold_lanes(self, fold: Fold, x: Value) -> Value:
        if fold.value.dtype in (float16, bfloat16):
            return fold_tree(fold, [x.lane(i) for i in range(LANES)])
        half = LANES // 2
        while half:
            low, high = (
                Value(self.b, self.b.shuffle_vector(x.raw, poison(x.raw.type), ir.Constant(ir.VectorType(I32, half), picks)))
                for picks in (list(range(half)), list(range(half, 2 * half)))
            )
            x = combine(fold.combine, low, high, fold.value.dtype)
            half //= 2
        return Value(self.b, self.b.extract_element(x.raw, ir.Constant(I32, 0)))

    def _reduce_serial(self, stmt: Reduce) -> list[Value]:
        lanes = LANES if self.chunk is not None else 0
        cost = 1 + sum(1 + SCALARS[x.op].flops if x.op in SCALARS else 1 for x in walk(*_expressions(stmt)))
        whole = stmt.extent < 2 * LANES and stmt.extent * cost <= _LITERAL_COST
        if cost <= _UNROLL_COST or stmt.extent <= 4 or whole:
            return self._reduce_unrolled(stmt, lanes)
        return self._reduce_rolled(stmt, lanes)

    def _element(self, stmt: Reduce, index: Value, slots: list[ir.Value], lanes: int) -> None:
        with self.scope(_written(stmt.body)):
            self.known[stmt.var] = index
            self._run(stmt.body)
            for fold, slot in zip(stmt.folds, slots, strict=True):
                self._accumulate(fold, slot, lanes)

    def _reduce_unrolled(self, stmt: Reduce, lanes: int) -> list[Value]:
        """The body LANES times in a row, each with its own partial in a register; one even where nothing is summed."""
        partials = [[self._accumulator(f, lanes) for f in stmt.folds] for _ in range(max(1, min(LANES, stmt.extent)))]
        whole = stmt.extent // LANES * LANES if stmt.extent >= 2 * LANES else 0

        def block(i: Value) -> None:
            for j in range(LANES):
                self._element(stmt, i + j if j else i, partials[j], lanes)

        if whole:
            self._loop(literal(self.b, 0, int64), literal(self.b, whole, int64), LANES, block)
        for r in range(whole, stmt.extent):
            self._element(stmt, literal(self.b, r, int64), partials[r % LANES], lanes)
        totals = []
        for k, fold in enumerate(stmt.folds):
            t = type_of(register_type(fold.value.dtype), lanes)
            totals.append(fold_tree(fold, [Value(self.b, self.b.load(p[k], typ=t)) for p in partials]))
        return totals

    def _reduce_rolled(self, stmt: Reduce, lanes: int) -> list[Value]:
        """The body once; the partials lie in an array, of which each element uses the next."""
        types = [type_of(register_type(f.value.dtype), lanes) for f in stmt.folds]
        slots = [self._accumulator(f, lanes, LANES) for f in stmt.folds]

        def body(i: Value) -> None:
            turn = (i & (LANES - 1)).raw
            self._element(stmt, i, [self._partial(s, turn, t) for s, t in zip(slots, types, strict=True)], lanes)

        self._loop(literal(self.b, 0, int64), literal(self.b, stmt.extent, int64), 1, body)
        totals = []
        for fold, slot, t in zip(stmt.folds, slots, types, strict=True):
            partials = [self.b.load(self._partial(slot, ir.Constant(I64, j), t), typ=t) for j in range(LANES)]
            totals.append(fold_tree(fold, [Value(self.b, p) for p in partials]))
        return totals


_STATEMENTS: dict[type[Stmt], Callable[..., None]] = {
    For: _Emitter._for,
    Let: _Emitter._let,
    Store: _Emitter._store,
    Prefetch: _Emitter._prefetch,
    Reduce: _Emitter._reduce,
    If: _Emitter._if,
    While: _Emitter._while,
}


def _written(body: Body) -> frozenset[Buffer]:
    """The buffers that the statements store to."""
    found: set[Buffer] = set()
    for stmt in body:
        if isinstance(stmt, Store):
            found.update(w.buffer for w in stmt.writes)
        for inner in children(stmt):
            found |= _written(inner)
    return frozenset(found)


def _expressions(stmt: Stmt) -> Iterator[Expr]:
    yield from expressions(stmt)
    for body in children(stmt):
        for inner in body:
            yield from _expressions(inner)
