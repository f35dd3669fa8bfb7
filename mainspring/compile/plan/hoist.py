"""Out of a loop: launches that do the same in every round are done once, before it.

    repeat t: pack(w -> p); tile(x, p -> y)    →    pack(w -> p); repeat t: tile(x, p -> y)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

from mainspring.compile.plan.memory import BranchSteps, LoopSteps, RepeatSteps, Run, Slot, Step


def hoist(steps: Sequence[Step], var: str | None = None, changing: Collection[Slot] = (),
          moves: Callable[[Run], bool] = lambda step: True) -> tuple[list[Step], list[Step]]:
    """(launches to do before the loop, what stays in its body). `var`: the counter of the loop.

    A launch moves when its operands are not written in the loop (but by launches that move), nor by others (`changing`), what
    it writes is a temporary that nothing else writes, and `moves` agrees.
    """
    writers = Counter([*_written(steps), *changing])
    before: list[Step] = []
    rest: list[Step] = []
    for step in steps:
        if isinstance(step, Run) and _same_each_round(step, writers, var) and moves(step):
            before.append(step)
            writers.subtract(_written([step]))
        else:
            rest.append(step)
    return before, rest


def _same_each_round(step: Run, writers: Counter[Slot], var: str | None) -> bool:
    if any(name == var for view in step.views for name, _ in view.strides):
        return False
    written = set(_written([step]))
    return all(slot.base is None and writers[slot] == 1 for slot in written) and not any(
        writers[view.slot] for view in step.views if view.slot not in written
    )


def _written(steps: Sequence[Step]) -> Iterator[Slot]:
    """The slots that the steps write, once for each launch that does."""
    for step in steps:
        if isinstance(step, Run):
            yield from {v.slot for p, v in zip(step.kernel.params, step.views, strict=True) if p in step.kernel.written}
        elif isinstance(step, RepeatSteps):
            yield from _written(step.body)
        elif isinstance(step, LoopSteps):
            yield from _written(step.test)
            yield from _written(step.body)
        elif isinstance(step, BranchSteps):
            yield from _written(step.then)
            yield from _written(step.other)
