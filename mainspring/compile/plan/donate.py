"""Donation: an output takes the memory of an input that the caller gave away, so that an update is in place.

Allowed when nothing that reads the input waits for the one kernel that writes the output, but perhaps that kernel, which then
must read each element at the very place where it writes it. Readers that would come later are moved before it. An output that
begins as a copy of an input, and is then written further, lives in that input without the copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mainspring.compile.loops import Body, Buffer, Kernel, Store, children, expressions
from mainspring.compile.plan.memory import BranchSteps, LoopSteps, RepeatSteps, Run, Slot, Step, View
from mainspring.compile.plan.schedule import Dependences
from mainspring.compile.rename import rename_buffer
from mainspring.ir import scalar as s
from mainspring.types.shape import TensorType


def reuse_donated(
    steps: Sequence[Step], donated: Sequence[Slot], outputs: Sequence[Slot], types: dict[Slot, TensorType]
) -> tuple[list[Step], list[Slot | None]]:
    """Steps in which outputs live in donated inputs of their type where possible, and for each output the input it lives in."""
    work = _Work(steps, donated, types)
    for out in outputs:
        work.drop_copy(out)
    for read_too in (True, False):  # a slot that the writer itself reads, then any other
        for out in outputs:
            if out not in work.homes:
                work.write_into(out, read_too)
    kept = [steps[i] for i in work.deps.order() if i not in work.left_out]
    return [_moved(step, work.homes) for step in kept], [work.homes.get(out) for out in outputs]


class _Work:
    """What is known and decided: `touching` the steps of each slot, `free` the inputs not yet taken, `left_out` steps."""

    def __init__(self, steps: Sequence[Step], donated: Sequence[Slot], types: dict[Slot, TensorType]):
        self.steps, self.types, self.deps = steps, types, Dependences(steps)
        self.free = dict.fromkeys(donated)
        self.homes: dict[Slot, Slot] = {}
        self.left_out: set[int] = set()
        self.touching: dict[Slot, list[int]] = {}
        for i, (read, written) in enumerate(zip(self.deps.reads, self.deps.writes, strict=True)):
            for slot in read | written:
                self.touching.setdefault(slot, []).append(i)

    def drop_copy(self, out: Slot) -> None:
        """An output that begins as a copy of an input, and is then written further, lives in that input."""
        touching = self.touching.get(out, [])
        if len(touching) < 2 or out not in self.deps.writes[touching[0]]:
            return
        copy, *further = touching
        source = _copied(self.steps[copy])
        if source not in self.free or self.types[source] != self.types[out]:
            return
        readers = [i for i in self.touching[source] if i != copy]
        writers = [i for i in further if out in self.deps.writes[i]]
        if not any(i == w or self.deps.waits(i, w) for i in readers for w in writers):
            self._settle(out, source, readers, writers)
            self.left_out.add(copy)

    def write_into(self, out: Slot, read_too: bool) -> None:
        """An output of one writer lives in an input of its type that this one reads (or, unless `read_too`, does not)."""
        at = self._writer(out)
        if at is None:
            return
        for home in self.free:
            readers = [i for i in self.touching.get(home, []) if i != at]
            if self.types[home] == self.types[out] and _fits(self.steps[at], at, home, out, readers, self.deps, read_too):
                self._settle(out, home, readers, [at])
                return

    def _writer(self, out: Slot) -> int | None:
        """The one launch that writes `out`, before anything reads it; None when there is no such launch."""
        touching = self.touching.get(out, [])
        alone = out.nbytes > 0 and sum(out in self.deps.writes[i] for i in touching) == 1
        first = touching[0] if alone else None
        return first if first is not None and out in self.deps.writes[first] and isinstance(self.steps[first], Run) else None

    def _settle(self, out: Slot, home: Slot, readers: Sequence[int], writers: Sequence[int]) -> None:
        for writer in writers:
            for reader in readers:
                self.deps.add(reader, writer)
        del self.free[home]
        self.homes[out] = home


def _copied(step: Step) -> Slot | None:
    """What `step` copies; None when it does anything else."""
    return step.views[0].slot if isinstance(step, Run) and step.kernel.name == "copy" else None


def _fits(writer: Run, at: int, home: Slot, out: Slot, readers: Sequence[int], deps: Dependences, read_too: bool) -> bool:
    """Whether `out`, written by step `at`, may live in `home`, which `readers` read and, if `read_too`, the writer itself."""
    if read_too != any(v.slot is home for v in writer.views):
        return False
    if read_too:
        return _in_place(writer, home, out) and not any(deps.waits(i, at) for i in readers)
    return all(i < at for i in readers)


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


