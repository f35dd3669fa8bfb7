"""Donation: an output takes the memory of an input that the caller gave away, so that an update is in place.

Allowed when everything that reads the input comes before the one kernel that writes the output, or is that kernel and reads
each element at the very place where it then writes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mainspring.compile.loops import Body, Buffer, Kernel, Store, children, expressions
from mainspring.compile.memory import BranchSteps, LoopSteps, RepeatSteps, Run, Slot, Step, View
from mainspring.compile.rename import rename_buffer
from mainspring.ir import scalar as s


def reuse_donated(steps: Sequence[Step], donated: Sequence[Slot], outputs: Sequence[Slot]) -> tuple[list[Step], list[Slot | None]]:
    """Steps in which outputs live in donated inputs where possible, and for each output the input it lives in."""
    result = list(steps)
    aliases: list[Slot | None] = [None] * len(outputs)
    free = list(donated)
    for number, out in enumerate(outputs):
        found = next((slot for slot in _best(result, free, out)), None)
        if found is not None:
            free.remove(found)
            aliases[number] = found
            result = [_moved(step, out, found) for step in result]
    return result, aliases


def _best(steps: Sequence[Step], free: Sequence[Slot], out: Slot) -> Iterator[Slot]:
    """Donated slots in which `out` may live; those that its writer reads come first."""
    writers = [i for i, step in enumerate(steps) if out in _written(step)]
    if len(writers) != 1 or not isinstance(steps[writers[0]], Run) or out.nbytes == 0:
        return
    at = writers[0]
    writer: Run = steps[at]  # type: ignore[assignment]
    touched = {v.slot for v in writer.views}
    last = {slot: max((i for i, step in enumerate(steps) if slot in _slots(step)), default=-1) for slot in free}
    for slot in sorted(free, key=lambda x: x not in touched):
        if slot.nbytes == out.nbytes and last[slot] <= at and not any(out in _slots(step) for step in steps[:at]):
            if slot not in touched or _in_place(writer, slot, out):
                yield slot


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
    homes = [b for b in _bodies(body) if any(x.op == "load" and x.attr is source for stmt in b for x in s.walk(*expressions(stmt)))]
    together = len(homes) == 1 and any(isinstance(stmt, Store) and any(w.buffer is target for w in stmt.writes) for stmt in homes[0])
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


def _moved(step: Step, out: Slot, home: Slot) -> Step:
    def view(v: View) -> View:
        return View(home, v.offset, v.strides) if v.slot is out else v

    if isinstance(step, Run):
        views = tuple(view(v) for v in step.views)
        if views == step.views:
            return step
        return _merged(Run(step.kernel, views), home)
    if isinstance(step, RepeatSteps):
        return replace(step, body=tuple(_moved(x, out, home) for x in step.body))
    if isinstance(step, LoopSteps):
        return LoopSteps(view(step.flag), *(tuple(_moved(x, out, home) for x in part) for part in (step.test, step.body)))
    assert isinstance(step, BranchSteps)
    return BranchSteps(view(step.flag), *(tuple(_moved(x, out, home) for x in part) for part in (step.then, step.other)))


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


