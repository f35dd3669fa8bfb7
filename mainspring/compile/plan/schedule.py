"""The order of launches: little memory alive at once, and as many launches as possible between two barriers.

    tile(a -> b); tile(b -> c); …; tile(a, d -> e); …    →    tile(a -> b); tile(b -> c) | tile(a, d -> e); …    `a` is free

Steps come in some order that works. First, what gives back more memory than it takes is done as soon as it can be (`_early`):
the gradient of a weight, once the gradient of its layer is there, so that neither that nor the layer's operands wait for the
end. Then each stretch between two barriers takes in what need not wait for it (`_together`): what takes little memory from far
away, what takes more from nearby, within the most that would be alive anyway. Numbers do not depend on any of this.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from mainspring.compile.plan.memory import ALIGN, BranchSteps, LoopSteps, RepeatSteps, Run, Slot, Step

CLUSTER = 4  # steps that may have to be done first for one that gives memory back
FAR, NEAR = 256, 8  # steps over which a small one, and a large one, is moved ahead
SMALL = 1 << 16  # bytes of results of a small one
FREE = 1 << 20  # bytes that may be alive whatever they were


def reads_of(step: Step) -> set[Slot]:
    """The slots that a step reads only; of control flow none, for it may write all that it touches."""
    return {v.slot for v in step.views} - writes_of(step) if isinstance(step, Run) else set()


def writes_of(step: Step) -> set[Slot]:
    """The slots that a step may write."""
    if isinstance(step, Run):
        return {v.slot for p, v in zip(step.kernel.params, step.views, strict=True) if p in step.kernel.written}
    inner = [slot for body in _bodies(step) for x in body for slot in reads_of(x) | writes_of(x)]
    return set(inner) | (set() if isinstance(step, RepeatSteps) else {step.flag.slot})


def _bodies(step: Step) -> tuple[tuple[Step, ...], ...]:
    if isinstance(step, RepeatSteps):
        return (step.body,)
    if isinstance(step, LoopSteps):
        return step.test, step.body
    return (step.then, step.other) if isinstance(step, BranchSteps) else ()


class Dependences:
    """Which steps wait for which: `direct[i]` for those before step i, `all[i]` with theirs, as bits."""

    def __init__(self, steps: Sequence[Step]):
        self.reads, self.writes = [reads_of(x) for x in steps], [writes_of(x) for x in steps]
        self.direct: list[set[int]] = [set() for _ in steps]
        self.all = [0] * len(steps)
        writer: dict[Slot, int] = {}
        readers: dict[Slot, list[int]] = {}
        for i, (read, written) in enumerate(zip(self.reads, self.writes, strict=True)):
            for slot in read | written:
                if slot in writer:
                    self.direct[i].add(writer[slot])
            for slot in read:
                readers.setdefault(slot, []).append(i)
            for slot in written:
                self.direct[i].update(readers.pop(slot, ()))
                writer[slot] = i
            for j in self.direct[i]:
                self.all[i] |= self.all[j] | 1 << j

    def waits(self, late: int, early: int) -> bool:
        """Whether step `late` waits for step `early`."""
        return bool(self.all[late] >> early & 1)

    def add(self, early: int, late: int) -> None:
        """Let `late` and what waits for it wait for `early`."""
        self.direct[late].add(early)
        gained = self.all[early] | 1 << early
        for i, known in enumerate(self.all):
            if i == late or known >> late & 1:
                self.all[i] |= gained

    def order(self) -> list[int]:
        """The steps as they came, but for those that now wait for a later one."""
        found: dict[int, None] = {}
        for root in range(len(self.all)):
            stack = [root]
            while stack:
                missing = [j for j in self.direct[stack[-1]] if j not in found]
                if missing:
                    stack += sorted(missing, reverse=True)
                else:
                    found[stack.pop()] = None
        return list(found)


def schedule(steps: Sequence[Step]) -> list[Step]:
    """`steps`, and those in the bodies of loops and branches, in a better order."""
    return _scheduled(steps, Counter(_uses(steps)))


def _uses(steps: Sequence[Step]) -> Iterator[Slot]:
    """Every temporary, once for each step that touches it, loops and their bodies counted apart."""
    for step in steps:
        yield from (slot for slot in reads_of(step) | writes_of(step) if slot.base is None)
        for body in _bodies(step):
            yield from _uses(body)


def _scheduled(steps: Sequence[Step], uses: Counter[Slot]) -> list[Step]:
    steps = [_with_bodies(step, uses) for step in steps]
    if len(steps) < 3:
        return steps
    own = Counter(_uses(steps))
    work = _Work(Dependences(steps), {slot: -(-slot.nbytes // ALIGN) * ALIGN for slot, n in own.items() if n == uses[slot]})
    return [steps[i] for i in _together(work, _early(work))]


def _with_bodies(step: Step, uses: Counter[Slot]) -> Step:
    def body(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        return tuple(_scheduled(steps, uses))

    if isinstance(step, RepeatSteps):
        return replace(step, body=body(step.body))
    if isinstance(step, LoopSteps):
        return replace(step, test=body(step.test), body=body(step.body))
    return replace(step, then=body(step.then), other=body(step.other)) if isinstance(step, BranchSteps) else step


@dataclass
class _Work:
    """Steps to be ordered. `sizes`: bytes of the temporaries that these steps alone touch."""

    deps: Dependences
    sizes: dict[Slot, int]
    touched: list[list[Slot]] = field(init=False)  # of those, by each step
    users: dict[Slot, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        both = zip(self.deps.reads, self.deps.writes, strict=True)
        self.touched = [[x for x in (*read, *written) if x in self.sizes] for read, written in both]
        self.users = {slot: [] for slot in self.sizes}
        for i, slots in enumerate(self.touched):
            for slot in slots:
                self.users[slot].append(i)


class _Progress:
    """The steps done so far, and what is alive after them."""

    def __init__(self, work: _Work):
        self.work = work
        self.done: dict[int, None] = {}
        self.left = {slot: len(users) for slot, users in work.users.items()}
        self.alive: set[Slot] = set()

    def do(self, i: int) -> None:
        self.done[i] = None
        for slot in self.work.touched[i]:
            self.left[slot] -= 1
            (self.alive.add if self.left[slot] else self.alive.discard)(slot)

    def taken(self, steps: Sequence[int]) -> int:
        """Bytes more that are alive once `steps` are done."""
        total = 0
        for slot, count in Counter([x for i in steps for x in self.work.touched[i]]).items():
            before, after = slot in self.alive, self.left[slot] > count
            total += (after - before) * self.work.sizes[slot]
        return total

    def new(self, i: int) -> int:
        """Bytes that step `i` would be the first to touch."""
        fresh = [x for x in self.work.touched[i] if x not in self.alive and self.left[x] == len(self.work.users[x])]
        return sum([self.work.sizes[x] for x in fresh])


def _early(work: _Work) -> list[int]:
    """Step by step as they come; what gives memory back, and the few steps that it needs, as soon as it can be."""
    run = _Progress(work)
    for first in range(len(work.touched)):
        if first in run.done:
            continue
        run.do(first)
        recent = deque([first])
        while recent:
            for user in _near(work, run, recent.popleft()):
                steps = None if user in run.done else _cluster(work, run, user)
                if steps and run.taken(steps) < 0:
                    for i in steps:
                        run.do(i)
                    recent.extend(steps)
    return list(run.done)


def _near(work: _Work, run: _Progress, done: int) -> list[int]:
    """The steps to come that touch what step `done` touched, and those that touch what these touch; no tiny ones count."""
    found: dict[int, None] = {done: None}
    edge = [done]
    for _ in range(2):
        slots = dict.fromkeys([slot for i in edge for slot in work.touched[i] if work.sizes[slot] >= 1024])
        edge = [u for slot in slots for u in work.users[slot] if u not in found and u not in run.done]
        found.update(dict.fromkeys(edge))
    del found[done]
    return sorted(found)


def _cluster(work: _Work, run: _Progress, last: int) -> list[int] | None:
    """`last` after what it still waits for; None when that is too much."""
    found = {last}
    stack = [last]
    while stack:
        missing = [j for j in work.deps.direct[stack.pop()] if j not in run.done and j not in found]
        found.update(missing)
        stack += missing
        if len(found) > CLUSTER:
            return None
    return sorted(found)


def _together(work: _Work, order: Sequence[int]) -> list[int]:
    """`order`, each stretch without a barrier filled with what need not wait; no more alive than in `order` itself, or FREE."""
    _, most = _stretches(work, order, None)
    return _stretches(work, order, max(most, FREE))[0]


def _stretches(work: _Work, order: Sequence[int], most: int | None) -> tuple[list[int], int]:
    """(the steps stretch by stretch, the most bytes alive in one), others skipped only while at most `most` are alive."""
    run, rest, largest = _Progress(work), list(order), 0
    while rest:
        largest = max(largest, _stretch(work, run, rest[:FAR], most))
        rest = [i for i in rest[:FAR] if i not in run.done] + rest[FAR:]
    return list(run.done), largest


def _stretch(work: _Work, run: _Progress, rest: Sequence[int], most: int | None) -> int:
    """Do those of `rest` that wait for none of `rest`; the bytes that are alive by then."""
    waiting, skipped = set(rest), 0
    alive = sum([work.sizes[slot] for slot in run.alive])
    for i in rest:
        if work.deps.direct[i] & waiting:
            if most is None:
                break
            skipped += 1
            continue
        new = run.new(i)
        if not skipped or (most is not None and alive + new <= most and (new <= SMALL or skipped <= NEAR)):
            alive += new
            run.do(i)
    return alive
