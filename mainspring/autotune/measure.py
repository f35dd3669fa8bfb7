"""Candidates as programs of their own, timed side by side.

A candidate's kernels run on the team as they would inside a large program, on operands of the true sizes; several sets of
operands take turns, so that small ones are not always found in the nearest cache. Candidates are timed in interleaved rounds,
with the default among them: a drift of the machine's speed meets all alike. What is hopeless after a few rounds is not
timed further.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from mainspring.base.errors import MainspringError
from mainspring.compile.canonical import program_text
from mainspring.compile.loops import Buffer
from mainspring.compile.lower import Made
from mainspring.compile.memory import RepeatSteps, Run, Slot, View, plan
from mainspring.compile.program import Program
from mainspring.compile.target import Target
from mainspring.runtime import kernel_cache
from mainspring.runtime.buffers import aligned
from mainspring.runtime.native import ALONE_NS, NativeProgram

SAMPLE_S = 4e-4  # a timing lasts at least so long
TURNS_BYTES = 4 << 20  # sets of operands are made until they take so much, at most MAX_TURNS
MAX_TURNS = 8
ROUNDS, EARLY = 5, 2
HOPELESS = 1.3  # times the best after EARLY rounds
OUTLIER = 1.5  # times the fastest sample of a candidate


@dataclass
class Operands:
    """Memory for the outer buffers of a piece, in several sets."""

    sets: list[dict[Buffer, np.ndarray]]

    @classmethod
    def of(cls, buffers: Sequence[Buffer]) -> Operands:
        rng = np.random.default_rng(0)
        total = max(1, sum(b.size * b.dtype.itemsize for b in buffers))
        first = {b: _filled(b, rng) for b in buffers}
        turns = [{b: _copied(a) for b, a in first.items()} for _ in range(min(MAX_TURNS, max(1, TURNS_BYTES // total)))]
        return cls(turns)


def _filled(buffer: Buffer, rng: np.random.Generator) -> np.ndarray:
    """Harmless values: floats around 1, small whole numbers (an index out of range is never followed)."""
    if buffer.dtype.kind == "float":
        return rng.uniform(0.5, 1.5, buffer.size).astype(buffer.dtype.numpy)
    return rng.integers(0, 2 if buffer.dtype.name == "bool" else 16, buffer.size).astype(buffer.dtype.numpy)


def _copied(array: np.ndarray) -> np.ndarray:
    result = aligned(array.nbytes).view(array.dtype)
    result[:] = array
    return result


def outer_buffers(made: Made) -> list[Buffer]:
    """The buffers that a piece shares with the rest of a program, in order of first use."""
    kernels, between = made
    return list(dict.fromkeys(p for k in kernels for p in k.params if p not in between))


def piece_program(made: Made, buffers: Sequence[Buffer], repeats: int, alone: bool) -> Program:
    """The kernels of `made`, `repeats` times; its bases are `buffers`."""
    kernels, between = made
    views = {b: View(Slot(b.size * b.dtype.itemsize, i)) for i, b in enumerate(buffers)}
    views |= {b: View(Slot(b.size * b.dtype.itemsize)) for b in between}
    runs = tuple([Run(k, tuple([views[p] for p in k.params])) for k in kernels if k.tasks])
    steps = runs if repeats == 1 else (RepeatSteps(repeats, "again", runs, False),)
    return plan(steps, len(buffers), 0.0 if alone else 10.0 * ALONE_NS)


@dataclass
class Piece:
    """A candidate, ready to be timed."""

    name: str
    buffers: list[Buffer]
    program: NativeProgram
    repeats: int
    samples: list[float] = field(default_factory=list)
    turn: int = 0
    calls: int = 0

    def run(self, operands: Operands) -> None:
        """One call, on the next set of operands."""
        arrays = operands.sets[self.turn % len(operands.sets)]
        self.turn += 1
        self.program.run([arrays[b].ctypes.data for b in self.buffers])

    def warm(self, operands: Operands) -> None:
        """Run once, and find out how many calls make a sample."""
        self.run(operands)
        started = time.perf_counter()
        self.run(operands)
        self.calls = 1 + int(SAMPLE_S / max(time.perf_counter() - started, 1e-7))

    def sample(self, operands: Operands) -> float:
        """Seconds for the kernels, once; kept among the samples."""
        if not self.calls:
            self.warm(operands)
        started = time.perf_counter()
        for _ in range(self.calls):
            self.run(operands)
        self.samples.append((time.perf_counter() - started) / (self.calls * self.repeats))
        return self.samples[-1]

    @property
    def seconds(self) -> float:
        """The median, without samples that something else has slowed down."""
        least = min(self.samples)
        return statistics.median([x for x in self.samples if x <= OUTLIER * least])

    def output(self, operands: Operands, written: Sequence[Buffer]) -> bytes:
        """What the kernels write."""
        self.turn = 0
        self.run(operands)
        return b"".join([operands.sets[0][b].tobytes() for b in written])


@dataclass
class Bench:
    """The candidates of one piece of a program: compiled when asked for, equal ones once, and timed side by side.

    Args:
        alone: whether the program runs on the caller's thread alone.
    """

    default: Made
    target: Target
    alone: bool

    def __post_init__(self) -> None:
        kernels, _ = self.default
        self.buffers = outer_buffers(self.default)
        self.written = [b for b in self.buffers if any(b in k.written for k in kernels)]
        self.operands = Operands.of(self.buffers)
        work = sum(k.flops for k in kernels) / 30 + sum(b.size * b.dtype.itemsize for b in self.buffers) / 8
        self.repeats = max(1, min(64, int(2e4 / max(work, 1.0))))  # so that a call is not all there is to time
        self.known: dict[str, NativeProgram] = {}
        self.expected: bytes | None = None

    def pieces(self, made: dict[str, Made]) -> dict[str, Piece | None]:
        """Candidates by name, compiled in parallel; None for one that cannot be, or does not give the default's bytes."""
        programs = {name: piece_program(m, self.buffers, self.repeats, self.alone) for name, m in made.items()}
        with ThreadPoolExecutor(2) as pool:
            compiled = dict(zip(programs, pool.map(self._compiled, programs.values()), strict=True))
        return {name: self._checked(Piece(name, self.buffers, p, self.repeats)) if p else None for name, p in compiled.items()}

    def _compiled(self, program: Program) -> NativeProgram | None:
        text = program_text(program)
        if text not in self.known:
            try:
                code = kernel_cache.get_or_make(f"{text} work {program.work}", self.target.key,
                                                lambda: NativeProgram(program, self.target).to_bytes())
                self.known[text] = NativeProgram.from_bytes(code)
            except MainspringError:
                return None
        return self.known[text]

    def _checked(self, piece: Piece) -> Piece | None:
        """An exact step follows every proposal: the bytes decide whether it is a candidate at all."""
        output = piece.output(self.operands, self.written)
        if self.expected is None:
            self.expected = output
        return piece if output == self.expected else None

    def race(self, pieces: Sequence[Piece], rounds: int = ROUNDS) -> None:
        """Sample all of `pieces` in interleaved rounds; those that are far behind after a few leave."""
        running = list(pieces)
        for number in range(rounds):
            for piece in running if number % 2 == 0 else reversed(running):
                piece.sample(self.operands)
            if number + 1 == EARLY:
                best = min(p.seconds for p in running)
                running = [p for p in running if min(p.samples) <= HOPELESS * best]
