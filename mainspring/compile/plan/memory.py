"""The memory plan: where every buffer lies, and where barriers must stand.

Steps are instructions over `Slot`s (a buffer without a place). `plan` gives each temporary slot an offset in one arena, so
that slots whose lives overlap never do, and puts a barrier before a step that touches what another touched since the last.
Time is counted in barriers: between two of them steps run at once, and nothing is reused.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field

from mainspring.compile.loops import Kernel
from mainspring.compile.program import ARENA, OWN, Barrier, Branch, Instr, Launch, Loop, Program, Ref, Repeat
from mainspring.compile.target.costs import COSTS, Costs

ALIGN = 64
MANY = 4000  # slots from which on places are looked for in one order only


@dataclass(eq=False)
class Slot:
    """A buffer: of the call (`base` is its place in the pointer table) or temporary (`base` None)."""

    nbytes: int
    base: int | None = None


@dataclass(frozen=True)
class View:
    """A part of a slot: from `offset`, moved by `strides` bytes for each count of the enclosing repeats."""

    slot: Slot
    offset: int = 0
    strides: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Run:
    """Launch `kernel` on `views`."""

    kernel: Kernel
    views: tuple[View, ...]


@dataclass(frozen=True)
class RepeatSteps:
    """`body` for the counter `var`; rounds `apart` are run by one thread each."""

    count: int
    var: str
    body: tuple[Step, ...]
    reverse: bool
    apart: bool = False


@dataclass(frozen=True)
class LoopSteps:
    """`test`, then `body` while the flag holds."""

    flag: View
    test: tuple[Step, ...]
    body: tuple[Step, ...]


@dataclass(frozen=True)
class BranchSteps:
    """`then` or `other`, by the flag."""

    flag: View
    then: tuple[Step, ...]
    other: tuple[Step, ...]


Step = Run | RepeatSteps | LoopSteps | BranchSteps


@dataclass
class _Life:
    """Where a slot is used: (time, the loops around it, innermost last)."""

    uses: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)


class _Planner:
    def __init__(self) -> None:
        self.time = 0
        self.lives: dict[Slot, _Life] = {}
        self.loops: list[int] = []  # numbers of the loops around the current step
        self.spans: list[list[int]] = []  # [first, last] time of each loop
        self.apart: set[int] = set()  # loops whose rounds are apart
        self.reads: set[Slot] = set()
        self.writes: set[Slot] = set()

    def steps(self, steps: Sequence[Step]) -> list[tuple[Step, object]]:
        """Steps with barriers between them (None marks a barrier), bodies planned in turn."""
        result: list[tuple[Step, object]] = []
        for step in steps:
            if isinstance(step, Run):
                self._run(step, result)
            elif isinstance(step, RepeatSteps):
                self._barrier(result)
                if step.apart:
                    self.apart.add(len(self.spans))
                result.append((step, self._loop([step.body])))
                if step.apart:
                    result.append((None, None))  # type: ignore[arg-type]  # all rounds are done
            elif isinstance(step, LoopSteps):
                self._barrier(result)
                result.append((step, self._loop([step.test, step.body], step.flag.slot)))
                result.append((None, None))  # type: ignore[arg-type]  # all have read the flag
            else:
                self._barrier(result)
                self._use(step.flag.slot)
                bodies = []
                for body in (step.then, step.other):
                    bodies.append(self._region(body))
                    self._next()
                result.append((step, bodies))
        return result

    def _run(self, step: Run, result: list[tuple[Step, object]]) -> None:
        written = {v.slot for p, v in zip(step.kernel.params, step.views, strict=True) if p in step.kernel.written}
        read = {v.slot for v in step.views} - written
        if read & self.writes or written & (self.writes | self.reads):
            self._barrier(result)
        for slot in dict.fromkeys([v.slot for v in step.views]):  # in order, so that equal programs have equal places
            self._use(slot)
        self.reads |= read
        self.writes |= written
        result.append((step, None))

    def _barrier(self, result: list) -> None:  # type: ignore[type-arg]
        if self.reads or self.writes:
            result.append((None, None))
        self._next()

    def _next(self) -> None:
        self.reads, self.writes = set(), set()
        self.time += 1

    def _region(self, body: Sequence[Step]) -> list[tuple[Step, object]]:
        inner = self.steps(body)
        inner.append((None, None))  # type: ignore[arg-type]
        self._next()
        return inner

    def _loop(self, bodies: list[Sequence[Step]], flag: Slot | None = None) -> list[list[tuple[Step, object]]]:
        number = len(self.spans)
        self.time += 1
        self.spans.append([self.time, self.time])
        self.loops.append(number)
        planned = []
        for body in bodies:
            self.reads, self.writes = set(), set()
            planned.append(self._region(body))
            if flag is not None:
                self._use(flag)
        self.loops.pop()
        self.spans[number][1] = self.time
        self.time += 1
        return planned  # type: ignore[return-value]

    def _use(self, slot: Slot) -> None:
        if slot.base is None:
            self.lives.setdefault(slot, _Life()).uses.append((self.time, tuple(self.loops)))

    def own(self, life: _Life) -> bool:
        """Whether a slot lives in one round of a loop whose rounds are apart, so that each thread needs one."""
        return all(self.apart.intersection(around) for _, around in life.uses)

    def interval(self, life: _Life) -> tuple[int, int]:
        """First and last time of a slot; a use in a loop that not all uses share counts for the whole loop."""
        shared = life.uses[0][1]
        for _, around in life.uses[1:]:
            common = 0
            while common < min(len(shared), len(around)) and shared[common] == around[common]:
                common += 1
            shared = shared[:common]
        first, last = life.uses[0][0], life.uses[0][0]
        for time, around in life.uses:
            span = self.spans[around[len(shared)]] if len(around) > len(shared) else (time, time)
            first, last = min(first, span[0]), max(last, span[1])
        return first, last


def _place(planner: _Planner, own: bool) -> tuple[dict[Slot, int], int]:
    """An offset for each temporary slot that is a thread's `own`, or for each other one, and the bytes of their arena: the best
    of a few orders in which slots are placed."""
    slots = [_Placed(slot, max(ALIGN, -(-slot.nbytes // ALIGN) * ALIGN), *planner.interval(life))
             for slot, life in planner.lives.items() if planner.own(life) == own]
    orders = (lambda x: (x.first, -x.size), lambda x: (-x.size, x.first), lambda x: (-x.size * (x.last - x.first + 1), x.first))
    tried = [_first_fit(sorted(slots, key=order)) for order in orders[: 1 if len(slots) > MANY else None]]
    return min(tried, key=lambda result: result[1])


@dataclass(frozen=True, eq=False)
class _Placed:
    """A slot of so many bytes, a multiple of ALIGN, that lives from time `first` to `last`."""

    slot: Slot
    size: int
    first: int
    last: int


def _first_fit(slots: Sequence[_Placed]) -> tuple[dict[Slot, int], int]:
    """Each slot, in this order, at the lowest offset that is free as long as it lives; and the end of all."""
    offsets: dict[Slot, int] = {}
    taken: list[tuple[int, int, int, int]] = []  # (offset, end, first, last), by offset
    for x in slots:
        at = 0
        for offset, end, first, last in taken:
            if first <= x.last and x.first <= last:
                if offset - at >= x.size:
                    break
                at = max(at, end)
        offsets[x.slot] = at
        insort(taken, (at, at + x.size, x.first, x.last))
    return offsets, max([end for _, end, _, _ in taken], default=0)


def plan(steps: Sequence[Step], bases: int, work: float, costs: Costs = COSTS["avx2"]) -> Program:
    """The program of `steps`."""
    planner = _Planner()
    planned = planner.steps(steps)
    offsets, arena = _place(planner, False)
    own_offsets, own = _place(planner, True)

    def ref(view: View) -> Ref:
        if view.slot.base is not None:
            return Ref(view.slot.base, view.offset, view.strides)
        base, offset = (OWN, own_offsets[view.slot]) if view.slot in own_offsets else (ARENA, offsets[view.slot])
        return Ref(base, offset + view.offset, view.strides)

    def emit(part: Sequence[tuple[Step, object]], apart: bool = False) -> tuple[Instr, ...]:
        result: list[Instr] = []
        for step, inner in part:
            if step is None:
                if not apart and not (result and isinstance(result[-1], Barrier)):
                    result.append(Barrier())
            elif isinstance(step, Run):
                result.append(Launch(step.kernel, tuple([ref(v) for v in step.views])))
            elif isinstance(step, RepeatSteps):
                body = emit(inner[0], step.apart)  # type: ignore[index]
                result.append(Repeat(step.count, step.var, body, step.reverse, step.apart))
            elif isinstance(step, LoopSteps):
                result.append(Loop(ref(step.flag), emit(inner[0]), emit(inner[1])))  # type: ignore[index]
            else:
                result.append(Branch(ref(step.flag), emit(inner[0]), emit(inner[1])))  # type: ignore[index]
        return tuple(result)

    return Program(emit(planned), bases, arena, work, costs=costs, own=-(-own // 128) * 128)
