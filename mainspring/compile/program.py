"""The program of an executable: what every thread of the team runs, once a call, with no Python in between.

    program := instr*
    instr   := Launch(kernel, refs) | Barrier() | Repeat(count, var, body) | Loop(flag, test, body) | Branch(flag, then, other)

A program is data: the memory plan has already given every buffer a place, the barriers are already where they must be.
All threads run all instructions (SPMD); of a Launch each thread takes its share of the tasks; flags are read by all
after a barrier, so every thread takes the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mainspring.compile.loops import Kernel, show_kernel
from mainspring.compile.target.costs import COSTS, Costs

ARENA, OWN = -1, -2
PLACES = {ARENA: "arena", OWN: "own"}  # as text calls what is no base
TIMED_THREADS = 64


@dataclass(frozen=True)
class Ref:
    """Where a buffer lies. `base`: index into the call's pointer table (inputs, outputs, constants), ARENA, or OWN: memory of
    the thread's own, for what lives in one round of a Repeat that is `apart`.

    The address is base + offset + sum of strides[v] * value of the enclosing Repeat counter v. Offsets and strides are bytes;
    arena offsets are multiples of 64.
    """

    base: int
    offset: int = 0
    strides: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Launch:
    """Run `kernel` with its params bound to `refs`, in order."""

    kernel: Kernel
    refs: tuple[Ref, ...]


@dataclass(frozen=True)
class Barrier:
    """Nobody passes until everybody is here."""


@dataclass(frozen=True)
class Repeat:
    """Run `body` with the counter `var` = 0 … count-1 (or count-1 … 0 when `reverse`).

    Rounds that are `apart` do not depend on each other: each is run by one thread alone, whoever comes first. They stand at
    the top of a program, at most once, and have no barriers.
    """

    count: int
    var: str
    body: tuple[Instr, ...]
    reverse: bool = False
    apart: bool = False


@dataclass(frozen=True)
class Loop:
    """Run `test`, then stop when the bool at `flag` is false, otherwise run `body` and begin again."""

    flag: Ref
    test: tuple[Instr, ...]
    body: tuple[Instr, ...]


@dataclass(frozen=True)
class Branch:
    """Run `then` when the bool at `flag` is true, else `other`."""

    flag: Ref
    then: tuple[Instr, ...]
    other: tuple[Instr, ...]


Instr = Launch | Barrier | Repeat | Loop | Branch


@dataclass(frozen=True)
class Program:
    """A whole executable. `bases`: number of entries of the pointer table; `arena`: bytes of workspace (64-aligned),
    `own`: of that of each thread (a multiple of 128).

    `work` estimates the cost of one run in nanoseconds on one core; `told` says whether it is to run on the caller's thread
    where that was decided otherwise than by this estimate.
    A `timed` program has one more base, a table of TIMED_THREADS int64 for each launch in order (`launches`), to which every
    thread adds the cycles that it spends in the kernel.
    """

    instrs: tuple[Instr, ...]
    bases: int
    arena: int
    work: float
    timed: bool = False
    told: bool | None = None
    costs: Costs = COSTS["avx2"]
    own: int = 0

    @property
    def alone(self) -> bool:
        """Whether it is to run on the caller's thread: the team would lose more by waking and waiting than it brings."""
        if self.told is not None:
            return self.told
        return self.work < self.costs.wake_ns + self.costs.barrier_ns * barriers(self.instrs)


def barriers(instrs: tuple[Instr, ...]) -> int:
    """Barriers that a run meets, if each Loop goes round once."""
    total = 0
    for instr in instrs:
        if isinstance(instr, Barrier):
            total += 1
        elif isinstance(instr, Repeat):
            total += instr.count * barriers(instr.body)
        elif isinstance(instr, Loop):
            total += barriers(instr.test + instr.body)
        elif isinstance(instr, Branch):
            total += max(barriers(instr.then), barriers(instr.other))
    return total


def launches(instrs: tuple[Instr, ...]) -> Iterator[Launch]:
    """Every launch, in the order of the text."""
    for instr in instrs:
        if isinstance(instr, Launch):
            yield instr
        elif isinstance(instr, Repeat):
            yield from launches(instr.body)
        elif isinstance(instr, Loop):
            yield from launches(instr.test + instr.body)
        elif isinstance(instr, Branch):
            yield from launches(instr.then + instr.other)


def kernels(instrs: tuple[Instr, ...]) -> list[Kernel]:
    """Every distinct kernel, in order of first launch."""
    return list(dict.fromkeys([launch.kernel for launch in launches(instrs)]))


def describe(instrs: tuple[Instr, ...], loops: bool = False, indent: str = "") -> str:
    """Instructions as indented text; with `loops`, the kernels' loop nests too."""
    lines: list[str] = []
    for instr in instrs:
        if isinstance(instr, Launch):
            lines.append(f"{indent}{instr.kernel.name} × {instr.kernel.tasks}: {', '.join(map(_show_ref, instr.refs))}")
            if loops:
                lines += [f"{indent}    {line}" for line in show_kernel(instr.kernel).splitlines()]
        elif isinstance(instr, Barrier):
            lines.append(f"{indent}barrier")
        else:
            head, parts = _HEAD[type(instr)](instr)
            lines.append(f"{indent}{head}")
            for part in parts:
                lines.append(describe(part, loops, indent + "  "))
    return "\n".join(lines)


def _show_ref(ref: Ref) -> str:
    moved = "".join(f"+{stride}·{name}" for name, stride in ref.strides)
    return f"{PLACES.get(ref.base, f'base {ref.base}')}+{ref.offset}{moved}"


_HEAD: dict[type, Callable[[Any], tuple[str, list[tuple[Instr, ...]]]]] = {
    Repeat: lambda r: (f"repeat {r.var} {'from' if r.reverse else 'to'} {r.count}{' apart' * r.apart}", [r.body]),
    Loop: lambda r: (f"loop while {_show_ref(r.flag)}", [r.test, r.body]),
    Branch: lambda r: (f"branch on {_show_ref(r.flag)}", [r.then, r.other]),
}
