"""Donation: an output takes the memory of an input that the caller gave away, so that an update is in place.

Allowed when everything that reads the input comes before the one kernel that writes the output, or is that kernel and reads
each element at the very place where it then writes it. An output that begins as a copy of an input which nobody reads later
lives in that input, and the copy is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from mainspring.compile.loops import Body, Buffer, Kernel, Store, children, expressions
from mainspring.compile.memory import BranchSteps, LoopSteps, RepeatSteps, Run, Slot, Step, View
from mainspring.compile.rename import rename_buffer
from mainspring.ir import scalar as s
from mainspring.types.shape import TensorType


def reuse_donated(
    steps: Sequence[Step], donated: Sequence[Slot], outputs: Sequence[Slot], types: dict[Slot, TensorType]
) -> tuple[list[Step], list[Slot | None]]:
    """Steps in which outputs live in donated inputs of their type where possible, and for each output the input it lives in."""
    touched: dict[Slot, list[int]] = {}
    written: dict[Slot, list[int]] = {}
    for at, step in enumerate(steps):
        for slot in _slots(step):
            touched.setdefault(slot, []).append(at)
        for slot in _written(step):
            written.setdefault(slot, []).append(at)
    free = dict.fromkeys(donated)
    homes: dict[Slot, Slot] = {}
    left_out: set[int] = set()
    for out in outputs:
        writers = written.get(out, [])
        if out.nbytes == 0 or not writers or touched[out][0] != writers[0] or not isinstance(steps[writers[0]], Run):
            continue
        alike = [slot for slot in free if types[slot] == types[out]]
        if len(writers) == 1:
            home = _home(steps[writers[0]], writers[0], out, alike, touched)  # type: ignore[arg-type]
        else:
            home = _copied(steps[writers[0]], writers[0], alike, touched)  # type: ignore[arg-type]
            left_out.update([writers[0]] if home else [])
        if home is not None:
            del free[home]
            homes[out] = home
    kept = [step for at, step in enumerate(steps) if at not in left_out]
    return [_moved(step, homes) for step in kept], [homes.get(out) for out in outputs]


def _copied(first: Run, at: int, free: Iterable[Slot], touched: dict[Slot, list[int]]) -> Slot | None:
    """The donated slot that the output begins as a copy of, when nobody reads that slot afterwards."""
    source = first.views[0].slot
    return source if first.kernel.name == "copy" and source in free and touched[source][-1] == at else None


def _home(writer: Run, at: int, out: Slot, free: Iterable[Slot], touched: dict[Slot, list[int]]) -> Slot | None:
    """A donated slot in which `out` may live; those that its writer reads come first."""
    own = {v.slot for v in writer.views}
    fitting = [slot for slot in free if touched.get(slot, [-1])[-1] <= at]
    for slot in sorted(fitting, key=lambda x: x not in own):
        if slot not in own or _in_place(writer, slot, out):
            return slot
    return None


def _in_place(run: Run, read: Slot, written: Slot) -> bool:
    """Whether the kernel reads `read` only at the index at which it then writes `written`, in the same statement list."""
    buffers = {v.slot: p for p, v in zip(run.kernel.params, run.views, strict=True)}
    source, target = buffers[read], buffers[written]
    if source.dtype is not target.dtype or sum(v.slot is read for v in run.views) > 1 or source in run.kernel.written:
        return False
    return _pointwise(run.kernel.body, source, target)


def _pointwise(body: Body, source: Buffer, target: Buffer) -> bool:
    reads = [x for stmt in _statements(body) for x in s.walk(*expressions(stmt)) if x.op == "load" and x.attr is source]
    writes = [w for stmt in _statements(body) if isinstance(stmt, Store) for w in stmt.writes if w.buffer is target]
    homes = [b for b in _bodies(body)
             if any(x.op == "load" and x.attr is source for stmt in b for x in s.walk(*expressions(stmt)))]
    together = len(homes) == 1 and any(isinstance(stmt, Store) and any(w.buffer is target for w in stmt.writes)
                                       for stmt in homes[0])
    return len(writes) == 1 and together and all(x.args[0] is writes[0].index for x in reads)


def _bodies(body: Body) -> Iterator[Body]:
    yield body
    for stmt in body:
        for inner in children(stmt):
            yield from _bodies(inner)


def _statements(body: Body) -> Iterator[object]:
    for part in _bodies(body):
        yield from part


def _slots(step: Step) -> set[Slot]:
    if isinstance(step, Run):
        return {v.slot for v in step.views}
    if isinstance(step, RepeatSteps):
        return set().union(*[_slots(x) for x in step.body])
    if isinstance(step, LoopSteps):
        return {step.flag.slot}.union(*[_slots(x) for x in step.test + step.body])
    return {step.flag.slot}.union(*[_slots(x) for x in step.then + step.other])


def _written(step: Step) -> set[Slot]:
    if isinstance(step, Run):
        return {v.slot for p, v in zip(step.kernel.params, step.views, strict=True) if p in step.kernel.written}
    return _slots(step)


def _moved(step: Step, homes: dict[Slot, Slot]) -> Step:
    def view(v: View) -> View:
        return View(homes[v.slot], v.offset, v.strides) if v.slot in homes else v

    def part(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        return tuple([_moved(x, homes) for x in steps])

    if isinstance(step, Run):
        moved = Run(step.kernel, tuple([view(v) for v in step.views]))
        for home in {homes[v.slot] for v in step.views if v.slot in homes}:
            moved = _merged(moved, home)
        return moved
    if isinstance(step, RepeatSteps):
        return replace(step, body=part(step.body))
    if isinstance(step, LoopSteps):
        return LoopSteps(view(step.flag), part(step.test), part(step.body))
    assert isinstance(step, BranchSteps)
    return BranchSteps(view(step.flag), part(step.then), part(step.other))


def _merged(run: Run, home: Slot) -> Run:
    """A kernel knows one memory by one param: the read one is renamed to the written one."""
    at = [i for i, v in enumerate(run.views) if v.slot is home]
    if len(at) == 1:
        return run
    kernel = run.kernel
    written = next(kernel.params[i] for i in at if kernel.params[i] in kernel.written)
    others = {kernel.params[i] for i in at} - {written}
    body = kernel.body
    for other in others:
        body = rename_buffer(body, other, written)
    kept = [i for i, p in enumerate(kernel.params) if p not in others]
    renamed: Kernel = replace(kernel, params=tuple(kernel.params[i] for i in kept), body=body)
    return Run(renamed, tuple(run.views[i] for i in kept))


