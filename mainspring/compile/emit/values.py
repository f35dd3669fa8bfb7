"""Values of expressions inside a kernel: what is known where, what is the same for all lanes, and how memory is reached.

With this you can write the statements of a kernel in terms of `value(expr)`. Inside a vector loop the emitter works on a
`Chunk` of LANES iterations. `stride` says how an integer grows from lane to lane: by 0 it is one scalar; by 1 or -1 an
access is contiguous; otherwise a pattern may say which runs of memory the lanes read, or it is a gather or a scatter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from mainspring.base.errors import CompileError
from mainspring.compile.emit.dot import DOT_PRODUCTS, dot
from mainspring.compile.emit.memory import Memory
from mainspring.compile.emit.patterns import ANY, Pattern, Patterns, runs
from mainspring.compile.emit.scalar import fixed, floor_divide, from_memory, literal, memory_type, modulo, primitive
from mainspring.compile.loops import LANES, Buffer, Write
from mainspring.compile.target import Target
from mainspring.compile.vectormath.values import I1, I8, I32, I64, Value, held, type_of
from mainspring.ir.scalar import Expr, affine, is_const, show
from mainspring.types.dtype import bool_, float32, float64, int64, uint32

_AFFINE = ("add", "sub", "mul", "floordiv", "mod")
_TESTS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<="}

LANE_NUMBERS = ir.Constant(ir.VectorType(I8, LANES), list(range(LANES)))
_HALF = tuple([i < LANES // 2 for i in range(LANES)])
_IOTA = ir.Constant(ir.VectorType(I64, LANES), list(range(LANES)))


def _within_period(x: Expr, chunk: Chunk) -> bool:
    """Whether a whole chunk has one quotient in `x` (a floordiv or mod): period and beginning are multiples of LANES."""
    if not (chunk.aligned and is_const(x.args[1]) and x.args[1].attr > 0 and x.args[1].attr % LANES == 0):
        return False
    terms, rest = affine(x.args[0])
    return rest % LANES == 0 and all(k % LANES == 0 or t is chunk.var for t, k in terms.items())


_FOLDED: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "min": min,
}


@dataclass(frozen=True)
class Chunk:
    """LANES iterations of a vector loop: `var` is base, base + 1, …; lanes outside `mask` do not exist."""

    var: Expr
    base: Value
    mask: Value | None
    start: Pattern  # what is known of base
    active: tuple[bool, ...] | None = (True,) * LANES  # the lanes that exist, if that is known

    @property
    def half(self) -> bool:
        """Whether the lanes that exist are known to be the lower half: in a register of half the width."""
        return self.active == _HALF

    @property
    def aligned(self) -> bool:
        return self.start.modulus % LANES == 0 and self.start.offsets[0] % LANES == 0


class Values(Memory):
    """Writes expressions into blocks. `known` maps every expression that has a value here to it, indices and refs too."""

    def __init__(self, entry: ir.IRBuilder, b: ir.IRBuilder, target: Target):
        super().__init__(entry, b)
        self.target = target
        self.known: dict[Expr, Value] = {}
        self.firsts: dict[Expr, Value] = {}  # the same, of lane 0
        self.strides: dict[Expr, int | None] = {}  # from lane to lane, while there is a chunk
        self.chunk: Chunk | None = None
        self.patterns = self._patterns(None)
        self._loaded: dict[Expr, frozenset[Buffer]] = {}
        self._made_of: dict[Buffer, list[Expr]] = {}  # every expression met that reads it
        self._ranges: dict[Expr, tuple[float, float]] = {}

    @contextmanager
    def scope(self, written: frozenset[Buffer] = frozenset()) -> Iterator[None]:
        """What is found out inside is not known outside; what a loop writes is not known at its top."""
        outside = self.known, self.firsts, self.strides
        self.known, self.firsts, self.strides = dict(self.known), dict(self.firsts), dict(self.strides)
        self.forget(written)
        yield
        self.known, self.firsts, self.strides = outside

    @contextmanager
    def lanes_of(self, chunk: Chunk, written: frozenset[Buffer]) -> Iterator[None]:
        """Inside, `chunk` is what is worked on."""
        with self.scope(written):
            self.chunk, self.strides, self.patterns = chunk, {}, self._patterns(chunk)
            yield
            self.chunk, self.patterns = None, self._patterns(None)

    def _patterns(self, chunk: Chunk | None) -> Patterns:
        var, start = (None, ANY) if chunk is None else (chunk.var, chunk.start)
        return Patterns(var, start, lambda x: self.stride(x) == 0)

    def bind(self, ref: Expr, x: Expr) -> None:
        """From here on `ref` is the value that `x` has now."""
        self.known[ref] = self.value(x)
        if self.chunk is not None and x.dtype is int64:
            stride = self.strides[ref] = self.stride(x)
            if stride:
                self.firsts[ref] = self.first(x)

    # ---------------------------------------------------------------------------------------------------- expressions

    def value(self, root: Expr) -> Value:
        """The value of `root` here; every distinct sub-expression is computed once."""
        known, stack = self.known, [root]
        self._loads(root)
        while stack:
            x = stack[-1]
            if x in known:
                stack.pop()
                continue
            if (settled := self._settled(x)) is not None:
                known[x] = settled
                continue
            needed = x.args[1:] if x.op == "load" else () if self._from_first(x) else x.args
            missing = [a for a in needed if a not in known]
            if missing:
                stack.extend(reversed(missing))
                continue
            stack.pop()
            known[x] = self._compute(x, [known[a] for a in needed])
        return known[root]

    def _settled(self, x: Expr) -> Value | None:
        """The lanes of `x`, an integer or a condition that differs from lane to lane, if they are constants."""
        if self.chunk is None or not x.args or self.stride(x) is not None:
            return None
        if x.dtype is bool_:
            holds = self.patterns.truth(x)
            return None if holds is None else Value(self.b, ir.Constant(type_of(I1, LANES), list(holds)))
        found = self.patterns.of(x) if x.op in _AFFINE else None
        return None if found is None or found.modulus else Value(self.b, ir.Constant(type_of(I64, LANES), list(found.offsets)))

    def _compute(self, x: Expr, args: list[Value]) -> Value:
        if x.op == "const":
            return literal(self.b, x.attr, x.dtype)
        if x.op == "load":
            return self._load(x, *(args or (None, None)))
        if x.op == "var" and self.chunk is not None and x is self.chunk.var:
            return self.chunk.base.splat() + Value(self.b, _IOTA)
        if x.op in ("var", "ref"):
            raise CompileError("emit_kernel", x.op, "every loop index and ref must be bound before it is used", show(x))
        args = args or [self.first(a) for a in x.args]
        if x.op in _TESTS and self._from_first(x):
            return self._lane_test(x, *args)
        if x.op in ("floordiv", "mod") and x.dtype is int64:
            return self._split(x, args)
        if x.op in DOT_PRODUCTS:
            return dot(x.op, *args, self.target)
        if x.op == "held" and self.chunk is not None and x.dtype is float32 and "avx512" in self.target.has:
            return Value(self.b, held(self.b, args[0].splat().raw))
        if x.op == "fma" and self._by_half and x.dtype in (float32, float64) and any(a.lanes for a in args):
            return Value(self.b, self._beside_zeros(Value.fma(*[Value(self.b, self._lower(a.splat().raw)) for a in args]).raw))
        if x.dtype is int64 and x.op in _FOLDED:
            a, c = fixed(args[0]), fixed(args[1])
            if a is not None and c is not None:
                return literal(self.b, _FOLDED[x.op](a, c), int64)
        return primitive(x, args)

    def _split(self, x: Expr, args: list[Value]) -> Value:
        """A quotient or remainder of integers, cheaper where no operand can be negative."""
        least = min(self._range(x.args[0])[0], self._range(x.args[1])[0] - 1)
        a, n = fixed(args[0]), fixed(args[1])
        if a is not None and n:
            return literal(self.b, a // n if x.op == "floordiv" else a % n, int64)
        divide = floor_divide if x.op == "floordiv" else modulo
        if args[0].lanes and n and least >= 0 and max(n, self._range(x.args[0])[1]) < 1 << 31:  # half the width, and multiplied
            narrow = divide(args[0].to(I32, "trunc"), literal(self.b, n, uint32), uint32, True)
            return narrow.to(I64, "zext")
        return divide(args[0], args[1], int64, least >= 0)

    def _range(self, x: Expr) -> tuple[float, float]:
        """Least and greatest value of an int64 expression, as far as known and only if it cannot have wrapped around."""
        found = self._ranges.get(x)
        if found is None:
            found = self._ranges[x] = self._find_range(x)
        return found

    def _find_range(self, x: Expr) -> tuple[float, float]:
        unknown = (-math.inf, math.inf)
        if x.op == "const":
            return x.attr, x.attr
        if x.op == "var":
            return 0, x.attr[1] - 1
        if x.dtype is not int64 or x.op not in _AFFINE:
            return unknown
        (a, b), (c, d) = self._range(x.args[0]), self._range(x.args[1])
        if -math.inf in (a, c) or math.inf in (b, d):
            return (0, d - 1) if x.op == "mod" and c > 0 and d < math.inf else unknown
        if x.op in ("floordiv", "mod"):
            if c <= 0:
                return unknown
            return (0, d - 1) if x.op == "mod" else (min(a // c, a // d), max(b // c, b // d))
        corners = [_FOLDED[x.op](p, q) for p in (a, b) for q in (c, d)]
        return (min(corners), max(corners)) if -(1 << 63) <= min(corners) and max(corners) < 1 << 63 else unknown

    def _loads(self, x: Expr) -> frozenset[Buffer]:
        """The buffers that `x` reads."""
        stack = [] if x in self._loaded else [x]
        while stack:
            y = stack[-1]
            missing = [a for a in y.args if a not in self._loaded]
            if missing:
                stack.extend(missing)
                continue
            own = frozenset([y.attr]) if y.op == "load" else frozenset()
            found = self._loaded[y] = own.union(*[self._loaded[a] for a in y.args]) if y.args else own
            for buffer in found:
                self._made_of.setdefault(buffer, []).append(y)
            stack.pop()
        return self._loaded[x]

    def forget(self, buffers: frozenset[Buffer]) -> None:
        """`buffers` were written: what was computed from their former elements is stale."""
        for buffer in buffers:
            for x in self._made_of.get(buffer, ()):
                self.known.pop(x, None)
                self.firsts.pop(x, None)

    # ---------------------------------------------------------------------------------------------------------- lanes

    def stride(self, x: Expr) -> int | None:
        """How much the integer `x` grows from lane to lane: 0 when all lanes agree (any dtype), None when irregular."""
        if self.chunk is None:
            return 0
        if x not in self.strides:
            self.strides[x] = self._find_stride(x, self.chunk)
        return self.strides[x]

    def _find_stride(self, x: Expr, chunk: Chunk) -> int | None:
        if x.op in ("const", "var"):
            return int(x is chunk.var)
        if x.op == "ref":
            return None if self.known[x].lanes else 0
        strides = [self.stride(a) for a in x.args]
        if not any(s != 0 for s in strides):
            return 0
        if x.dtype is not int64 or x.op not in _AFFINE:
            return None
        first, second = strides
        if first is None or second is None:
            return None
        if x.op in ("add", "sub"):
            return first + second if x.op == "add" else first - second
        if x.op == "mul":
            scaled = [s * a.attr for s, a in zip(strides, reversed(x.args), strict=True) if is_const(a) and s is not None]
            return scaled[0] if scaled else None
        return int(x.op == "mod") if first == 1 and _within_period(x, chunk) else None

    def _from_first(self, x: Expr) -> bool:
        """Whether `x` follows from lane 0 of its arguments: the same in all lanes, or an index beside a scalar."""
        if self.chunk is None or not x.args or x.args[0].dtype is not int64:
            return False
        if x.op in _AFFINE:
            return self.stride(x) == 0 and any(self.stride(a) != 0 for a in x.args)
        return x.op in _TESTS and {self.stride(a) for a in x.args} == {0, 1}

    def _lane_test(self, x: Expr, a: Value, c: Value) -> Value:
        """A comparison of the index first, first + 1, … with a scalar: of the number of the lane with scalar - first."""
        rising = self.stride(x.args[0]) == 1
        first, scalar = (a, c) if rising else (c, a)
        lanes = Value(self.b, LANE_NUMBERS)
        if x.op in ("eq", "ne"):
            return lanes.compare(_TESTS[x.op], (scalar - first).intrinsic("umin", 127).to(I8, "trunc"))
        bounded = all(-math.inf not in self._range(y) and math.inf not in self._range(y) for y in x.args)
        distance = scalar - first if bounded else scalar.intrinsic("ssub.sat", first)
        limit = distance.intrinsic("smax", -1).intrinsic("smin", LANES).to(I8, "trunc")
        return lanes.compare(_TESTS[x.op], limit) if rising else limit.splat().compare(_TESTS[x.op], lanes)

    def first(self, x: Expr) -> Value:
        """The scalar value of the integer `x` in lane 0, for an `x` of known stride."""
        if self.chunk is None or self.stride(x) == 0:
            return self.value(x)
        found = self.firsts.get(x)
        if found is None:
            self._loads(x)
            base = self.chunk.base
            found = self.firsts[x] = base if x is self.chunk.var else self._compute(x, [self.first(a) for a in x.args])
        return found

    # --------------------------------------------------------------------------------------------------------- memory

    def mask(self, guard: Value | None) -> Value | None:
        """The lanes that exist and for which `guard` holds; None for all."""
        mask = self.chunk.mask if self.chunk else None
        if guard is None or mask is None:
            return guard.splat() if guard is not None else mask
        return mask & guard

    @property
    def _by_half(self) -> bool:
        return self.chunk is not None and self.chunk.half

    def _load(self, x: Expr, guard: Value | None, fill: Value | None) -> Value:
        buffer, index = x.attr, x.args[0]
        stride, ratio = self.stride(index), x.dtype.itemsize // buffer.dtype.itemsize
        if stride == 0:
            return self._load_one(x, self.value(index), guard, fill)
        if stride is None and (raw := self._patterned(x, ratio)) is not None:
            return self._filled(x, raw, guard, fill)
        mask = self.mask(guard)
        if guard is not None and guard.lanes and self.chunk is not None and fixed(self.chunk.base) is not None:
            mask = Value(self.b, self._hidden(mask.raw))  # type: ignore[union-attr]
        t = type_of(memory_type(x.dtype), LANES)
        align = buffer.dtype.itemsize
        if stride == ratio and guard is None and self._by_half:
            run = self.b.load(self._address(buffer, self.first(index)), typ=ir.VectorType(t.element, LANES // 2), align=align)
            raw = self._beside_zeros(run)
        elif stride in (ratio, -ratio):
            first = self.first(index) + (0 if stride > 0 else ratio - ratio * LANES)
            raw = self._load_run(t, self._address(buffer, first), mask, align, stride < 0)
        else:
            raw = self._gather(t, self._address(buffer, self.value(index)), mask, align)
        return self._filled(x, raw, guard, fill)

    def _patterned(self, x: Expr, ratio: int) -> ir.Value | None:
        """The load `x` by runs of memory and shuffles of them, where it is known which lanes read what."""
        chunk, pattern = self.chunk, self.patterns.of(x.args[0])
        holds = self.patterns.truth(x.args[1]) if len(x.args) > 1 else (True,) * LANES
        if chunk is None or chunk.active is None or pattern is None or holds is None or ratio != 1:
            return None
        active = [a and b for a, b in zip(chunk.active, holds, strict=True)]
        places = [o - pattern.offsets[0] for o in pattern.offsets]
        found = runs(places, active)
        return None if found is None else self._load_runs(x.attr, self.first(x.args[0]), places, active, found)

    def _filled(self, x: Expr, raw: ir.Value, guard: Value | None, fill: Value | None) -> Value:
        """What was loaded for `x`; `fill` in lanes that its guard excludes, where memory gave zeros."""
        value = from_memory(Value(self.b, raw), x.dtype)
        zero = fill is None or (is_const(x.args[2], 0) and math.copysign(1.0, x.args[2].attr) > 0)
        return value if guard is None or zero else guard.where(value, fill)

    def _load_one(self, x: Expr, index: Value, guard: Value | None, fill: Value | None) -> Value:
        buffer = x.attr
        t, align = memory_type(x.dtype), buffer.dtype.itemsize
        address = self._address(buffer, index)
        if guard is not None:
            at = fixed(index)
            if at is None or not 0 <= at < buffer.size:
                address = self.b.select(guard.any().raw, address, self._spare())
        value = from_memory(Value(self.b, self.b.load(address, typ=t, align=align)), x.dtype)
        return value if guard is None else guard.where(value, fill)

    def write(self, write: Write, value: Value, guard: Value | None) -> None:
        align = write.buffer.dtype.itemsize
        stride = self.stride(write.index)
        if stride == 0 and not value.lanes and not (guard and guard.lanes):
            self._write_one(self._address(write.buffer, self.value(write.index)), value, guard, align)
            return
        mask, value = self.mask(guard), value.splat()
        if stride == 1 and guard is None and self._by_half:
            self.b.store(self._lower(value.raw), self._address(write.buffer, self.first(write.index)), align=align)
            return
        if stride in (1, -1):
            first = self.first(write.index) + (0 if stride == 1 else 1 - LANES)
            self._store_run(value.raw, self._address(write.buffer, first), mask, align, stride < 0)
            return
        if stride and mask is None:  # the distance is known: plain stores, whose addresses cost nothing
            first = self.first(write.index)
            for lane in range(LANES):
                element = self.b.extract_element(value.raw, ir.Constant(I32, lane))
                self.b.store(element, self._address(write.buffer, first + lane * stride), align=align)
            return
        self._scatter(value.raw, self._address(write.buffer, self.value(write.index).splat()), mask, align)
