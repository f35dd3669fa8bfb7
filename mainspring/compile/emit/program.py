"""Programs → LLVM: one function that every thread of the team runs, with no Python in between.

With this you can emit ``void name(ptr bases, ptr arena, ptr scratch, ptr team, i64 tid, i64 n)`` (`emit_program`): the
launches and barriers of a program in order, its loops and branches as native control flow. `bases` is the pointer
table, `scratch` n pieces of `stride` bytes, `team` the state of `runtime/team` (its first word is the address of the barrier;
it may be null when n is 1).

A step of a large model has many hundred launches, so a launch is one call: of `launch_<params>`, emitted once for each number
of params, with a constant table of what to launch on what. The thread's frame, on its stack, holds what the tables refer to:

    frame := bases, arena, own, scratch, tid, n, 0, thread, offset*       one offset for each distinct `strides` of a Ref
    table := place of the kernel, tasks, (base, offset in bytes, place in the frame of a further offset)*

In rounds that are apart, a thread is alone as far as its frame says, and a word of the team's state says whose turn it is.
In a timed program the table ends with the place in the table of cycles, and a launch adds to it what it took.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir

from mainspring.compile.loops import Kernel
from mainspring.compile.program import (
    ARENA,
    OWN,
    TIMED_THREADS,
    Barrier,
    Branch,
    Instr,
    Launch,
    Loop,
    Program,
    Ref,
    Repeat,
    launches,
)

PTR, I64, I8, VOID = ir.PointerType(), ir.IntType(64), ir.IntType(8), ir.VoidType()
PROGRAM_TYPE = ir.FunctionType(VOID, [PTR, PTR, PTR, PTR, I64, I64])
ENTRY_TYPE = ir.FunctionType(VOID, [PTR, PTR, I64, I64])
_BARRIER_TYPE = ir.FunctionType(VOID, [PTR, I64])
_TURN_TYPE = ir.FunctionType(I64, [PTR, ir.IntType(1), I64])
_LAUNCH_TYPE = ir.FunctionType(VOID, [PTR, PTR, PTR])

_BASES, _ARENA, _OWN, _SCRATCH, _TID, _N, _ZERO, _THREAD, _OFFSETS = range(9)  # places in the frame
assert (_ARENA, _OWN) == (-ARENA, -OWN)
TURNS = 896  # bytes behind the start of a team's state: the next round of those that are apart, 0 between two programs
Strides = tuple[tuple[str, int], ...]


def kernel_type(params: int) -> ir.FunctionType:
    """``void kernel(ptr p0, …, ptr pn, ptr scratch, i64 begin, i64 end)``."""
    return ir.FunctionType(VOID, [PTR] * (params + 1) + [I64, I64])


def kernel_table(module: ir.Module, name: str, kernels: list[ir.Function] | int) -> ir.GlobalVariable:
    """The table ``name`` of kernel addresses: of functions of `module`, or so many that whoever loads it fills in."""
    size = kernels if isinstance(kernels, int) else len(kernels)
    table = ir.GlobalVariable(module, ir.ArrayType(PTR, max(size, 1)), name)
    table.initializer = ir.Constant(table.value_type, None if isinstance(kernels, int) or not kernels else kernels)
    return table


def emit_program(module: ir.Module, program: Program, name: str, table: ir.GlobalVariable, index: dict[Kernel, int],
                 stride: int) -> ir.Function:
    """The function of `program` in `module`.

    Args:
        table: addresses of the kernels, from `kernel_table`.
        index: the place of each kernel in it.
        stride: bytes of scratch a thread, the last of which are its own memory.
    """
    emitter = _Emitter(module, program, name, table, index, stride)
    emitter.block(program.instrs)
    emitter.end(program)
    return emitter.function


def emit_entry(module: ir.Module, function: ir.Function, name: str) -> ir.Function:
    """``void name(ptr args, ptr team, i64 tid, i64 n)`` for the team; args = {bases, arena, scratch}."""
    entry = ir.Function(module, ENTRY_TYPE, name)
    builder = ir.IRBuilder(entry.append_basic_block("entry"))
    args, team, tid, n = entry.args
    fields = [_load(builder, args, i, PTR) for i in range(3)]
    builder.call(function, [*fields, team, tid, n])
    builder.ret_void()
    return entry


def _opaque(pointer: ir.NamedValue) -> ir.NamedValue:
    """`pointer`, which llvmlite gives a type by what it points to, as any other pointer."""
    pointer.type = PTR
    return pointer


def _at(builder: ir.IRBuilder, pointer: ir.Value, place: ir.Value | int) -> ir.Value:
    """The address of word `place` after `pointer`."""
    return builder.gep(pointer, [I64(place) if isinstance(place, int) else place], source_etype=I64)


def _load(builder: ir.IRBuilder, pointer: ir.Value, place: ir.Value | int, kind: ir.Type = I64) -> ir.Value:
    return builder.load(_at(builder, pointer, place), typ=kind)


def _strides(instrs: tuple[Instr, ...]) -> Iterator[Strides]:
    """The strides of every Ref of every launch, that of a Ref which stays put excepted."""
    return (r.strides for launch in launches(instrs) for r in launch.refs if r.strides)


class _Emitter:
    """The builder of one program, its frame, and the counters that are live where the builder stands."""

    def __init__(self, module: ir.Module, program: Program, name: str, table: ir.GlobalVariable, index: dict[Kernel, int],
                 stride: int):
        self.module, self.name, self.table, self.index = module, name, table, index
        self.function = ir.Function(module, PROGRAM_TYPE, name)
        self.bases, self.arena, scratch, self.team, tid, self.n = self.function.args
        self.offsets = {s: _OFFSETS + i for i, s in enumerate(dict.fromkeys(_strides(program.instrs)))}
        self.launchers: dict[int, ir.Function] = {}
        self.cycles = program.bases - 1 if program.timed else None  # the base of the table of cycles
        self.launched = 0
        self.counters: dict[str, ir.Value] = {}
        self.builder = builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.frame = _opaque(builder.alloca(ir.ArrayType(I64, _OFFSETS + len(self.offsets))))
        mine = builder.gep(scratch, [builder.mul(tid, I64(stride))], source_etype=I8)
        own = builder.gep(mine, [I64(stride - program.own)], source_etype=I8)
        self.tid = tid
        for place, value in enumerate((self.bases, self.arena, own, mine, tid, self.n, I64(0), tid)):
            builder.store(value, _at(builder, self.frame, place))
        self.wait = self.waiter()

    def block(self, instrs: tuple[Instr, ...]) -> None:
        for instr in instrs:
            _EMIT[type(instr)](self, instr)

    # instructions

    def launch(self, instr: Launch) -> None:
        words = [self.index[instr.kernel], instr.kernel.tasks]
        for r in instr.refs:
            words += [r.base, r.offset, self.offsets[r.strides] if r.strides else _ZERO]
        if self.cycles is not None:
            words.append(self.launched * TIMED_THREADS)
        self.launched += 1
        name = self.module.get_unique_name(f"{self.name}_launch")
        constant = ir.GlobalVariable(self.module, ir.ArrayType(I64, len(words)), name)
        constant.linkage, constant.global_constant = "internal", True
        constant.initializer = ir.Constant(constant.value_type, words)
        self.builder.call(self.launcher(len(instr.refs)), [_opaque(constant), self.frame, _opaque(self.table)])

    def barrier(self, instr: Barrier) -> None:
        self.builder.call(self.wait, [self.team, self.n])

    def repeat(self, instr: Repeat) -> None:
        if instr.count <= 0:
            return
        if instr.apart:
            self.apart(instr)
            return
        builder, before = self.builder, self.builder.block
        body, after = (self.function.append_basic_block(f"repeat_{word}") for word in ("body", "after"))
        builder.branch(body)
        builder.position_at_end(body)
        step = builder.phi(I64)
        step.add_incoming(I64(0), before)
        outer = dict(self.counters)
        self.counters[instr.var] = builder.sub(I64(instr.count - 1), step) if instr.reverse else step
        self.move(instr)
        self.block(instr.body)
        self.counters = outer
        following = builder.add(step, I64(1))
        step.add_incoming(following, builder.block)
        builder.cbranch(builder.icmp_unsigned("<", following, I64(instr.count)), body, after)
        builder.position_at_end(after)

    def apart(self, instr: Repeat) -> None:
        """Rounds by whoever comes next, in which this thread is alone."""
        builder, before = self.builder, self.builder.block
        turn, body, after = (self.function.append_basic_block(f"apart_{word}") for word in ("turn", "body", "after"))
        alone = builder.icmp_unsigned("==", self.n, I64(1))
        for place, value in ((_TID, I64(0)), (_N, I64(1))):
            builder.store(value, _at(builder, self.frame, place))
        builder.branch(turn)
        builder.position_at_end(turn)
        step = builder.phi(I64)
        step.add_incoming(I64(0), before)
        number = builder.call(self.taker(), [self.team, alone, step])
        builder.cbranch(builder.icmp_unsigned("<", number, I64(instr.count)), body, after)
        builder.position_at_end(body)
        self.counters = {instr.var: number}
        self.move(instr)
        self.block(instr.body)
        self.counters = {}
        step.add_incoming(builder.add(step, I64(1)), builder.block)
        builder.branch(turn)
        builder.position_at_end(after)
        for place, value in ((_TID, self.tid), (_N, self.n)):
            builder.store(value, _at(builder, self.frame, place))

    def end(self, program: Program) -> None:
        """Give the turns back, behind the barrier that follows them."""
        if any(isinstance(instr, Repeat) and instr.apart for instr in program.instrs):
            first = self.builder.icmp_unsigned("==", self.tid, I64(0))
            several = self.builder.icmp_unsigned("!=", self.n, I64(1))
            with self.builder.if_then(self.builder.and_(first, several)):
                self.builder.store(I64(0), self.builder.gep(self.team, [I64(TURNS)], source_etype=I8))
        self.builder.ret_void()

    def move(self, instr: Repeat) -> None:
        """Bring the offsets that depend on the counter of `instr` up to date; inner counters do so for theirs."""
        for strides in dict.fromkeys(_strides(instr.body)):
            names = [name for name, _ in strides]
            if instr.var in names and all(name in self.counters for name in names):
                self.builder.store(self.offset(strides), _at(self.builder, self.frame, self.offsets[strides]))

    def loop(self, instr: Loop) -> None:
        builder = self.builder
        test, body, after = (self.function.append_basic_block(f"loop_{word}") for word in ("test", "body", "after"))
        builder.branch(test)
        builder.position_at_end(test)
        self.block(instr.test)
        builder.cbranch(self.flag(instr.flag), body, after)
        builder.position_at_end(body)
        self.block(instr.body)
        builder.branch(test)
        builder.position_at_end(after)

    def branch(self, instr: Branch) -> None:
        with self.builder.if_else(self.flag(instr.flag)) as (then, other):
            with then:
                self.block(instr.then)
            with other:
                self.block(instr.other)

    # values

    def offset(self, strides: Strides) -> ir.Value:
        total: ir.Value = I64(0)
        for name, stride in strides:
            total = self.builder.add(total, self.builder.mul(self.counters[name], I64(stride)))
        return total

    def flag(self, ref: Ref) -> ir.Value:
        builder = self.builder
        base = self.arena if ref.base == ARENA else _load(builder, self.bases, ref.base, PTR)
        offset = builder.add(self.offset(ref.strides), I64(ref.offset))
        value = builder.load(builder.gep(base, [offset], source_etype=I8), typ=I8)
        return builder.icmp_unsigned("!=", value, I8(0))

    # the functions that instructions call

    def internal(self, kind: ir.FunctionType, suffix: str) -> tuple[ir.Function, ir.IRBuilder]:
        function = ir.Function(self.module, kind, f"{self.name}_{suffix}")
        function.linkage = "internal"
        function.attributes.add("noinline")
        return function, ir.IRBuilder(function.append_basic_block("entry"))

    def waiter(self) -> ir.Function:
        """wait(team, n): the barrier, unless this thread is alone."""
        function, builder = self.internal(_BARRIER_TYPE, "wait")
        team, n = function.args
        with builder.if_then(builder.icmp_unsigned("!=", n, I64(1))):
            builder.call(builder.load(team, typ=_BARRIER_TYPE.as_pointer()), [team, n])
        builder.ret_void()
        return function

    def taker(self) -> ir.Function:
        """turn(team, alone, step): the number of the next round; `step` for a thread that is alone."""
        function, builder = self.internal(_TURN_TYPE, "turn")
        team, alone, step = function.args
        with builder.if_then(alone):
            builder.ret(step)
        word = builder.gep(team, [I64(TURNS)], source_etype=I8)
        builder.ret(builder.atomic_rmw("add", word, I64(1), "monotonic"))
        return function

    def launcher(self, params: int) -> ir.Function:
        """launch(what, frame, kernels): the tasks [tasks*tid/n, tasks*(tid+1)/n) of a kernel of so many params."""
        if params not in self.launchers:
            function, builder = self.internal(_LAUNCH_TYPE, f"launch_{params}")
            what, frame, kernels = function.args
            tasks, tid, n = _load(builder, what, 1), _load(builder, frame, _TID), _load(builder, frame, _N)
            begin, end = (builder.udiv(builder.mul(tasks, t), n) for t in (tid, builder.add(tid, I64(1))))
            with builder.if_then(builder.icmp_unsigned("<", begin, end)):
                pointers = [_pointer(builder, what, frame, 2 + 3 * i) for i in range(params)]
                kernel = _load(builder, kernels, _load(builder, what, 0), kernel_type(params).as_pointer())
                operands = [*pointers, _load(builder, frame, _SCRATCH, PTR), begin, end]
                if self.cycles is None:
                    builder.call(kernel, operands)
                else:
                    self.timed(builder, kernel, operands, _load(builder, what, 2 + 3 * params), frame)
            builder.ret_void()
            self.launchers[params] = function
        return self.launchers[params]

    def timed(self, builder: ir.IRBuilder, kernel: ir.Value, operands: list[ir.Value], place: ir.Value,
              frame: ir.Value) -> None:
        """The call, and the cycles that it took added to those of this launch and thread."""
        clock = self.module.globals.get("llvm.readcyclecounter") or ir.Function(
            self.module, ir.FunctionType(I64, []), "llvm.readcyclecounter")
        before = builder.call(clock, [])
        builder.call(kernel, operands)
        taken = builder.sub(builder.call(clock, []), before)
        thread = builder.urem(_load(builder, frame, _THREAD), I64(TIMED_THREADS))
        table = _load(builder, _load(builder, frame, _BASES, PTR), self.cycles, PTR)
        at = _at(builder, table, builder.add(place, thread))
        builder.store(builder.add(builder.load(at, typ=I64), taken), at)


def _pointer(builder: ir.IRBuilder, what: ir.Value, frame: ir.Value, place: int) -> ir.Value:
    """The address that the three words of a launch's table at `place` stand for."""
    base, offset, further = (_load(builder, what, place + i) for i in range(3))
    entry = builder.select(builder.icmp_signed("<", base, I64(0)), _at(builder, frame, builder.neg(base)),
                           _at(builder, _load(builder, frame, _BASES, PTR), base))
    total = builder.add(offset, _load(builder, frame, further))
    return builder.gep(builder.load(entry, typ=PTR), [total], source_etype=I8)


_EMIT: dict[type, Callable[[_Emitter, Any], None]] = {
    Launch: _Emitter.launch, Barrier: _Emitter.barrier, Repeat: _Emitter.repeat, Loop: _Emitter.loop, Branch: _Emitter.branch,
}
