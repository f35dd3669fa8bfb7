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
from dataclasses import dataclass, field, replace

import numpy as np

from mainspring.base.errors import MainspringError
from mainspring.compile.canonical import program_text
from mainspring.compile.loops import Buffer
from mainspring.compile.lower import Lowered, Made
from mainspring.compile.plan.memory import RepeatSteps, Run, Slot, View, plan
from mainspring.compile.program import Program
from mainspring.compile.target import Target
from mainspring.ir.graph import Graph
from mainspring.runtime import kernel_cache
from mainspring.runtime.buffers import aligned
from mainspring.runtime.native import NativeProgram
from mainspring.types.dtype import as_dtype

SAMPLE_S = 4e-4  # a timing lasts at least so long
TURNS_BYTES = 4 << 20  # sets of operands are made until they take so much, at most MAX_TURNS
MAX_TURNS = 8
SPANS = ((2, 1.25), (2, 1.08), (5, 1.04))  # rounds, and how far behind the best a candidate may be to go on to the next ones
CALL_S = 1e-4  # the kernels run so long in a call: waking the team takes a twentieth of it
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
    return replace(plan(steps, len(buffers), 0.0), told=alone)


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
    """Candidates, each a program on the same buffers: compiled when asked for, equal ones once, and timed side by side.

    Args:
        buffers: the bases of the programs, in order; `written`: those that hold what a program computes.
        repeats: how often a program does its work.
    """

    buffers: list[Buffer]
    written: list[Buffer]
    target: Target
    repeats: int = 1

    def __post_init__(self) -> None:
        self.operands = Operands.of(self.buffers)
        self.known: dict[str, NativeProgram] = {}
        self.expected: bytes | None = None

    def pieces(self, programs: dict[str, Program]) -> dict[str, Piece | None]:
        """Candidates by name, compiled in parallel; None for one that cannot be, or does not give the first one's bytes."""
        with ThreadPoolExecutor(2) as pool:
            compiled = dict(zip(programs, pool.map(self._compiled, programs.values()), strict=True))
        return {name: self._checked(Piece(name, self.buffers, p, self.repeats)) if p else None for name, p in compiled.items()}

    def _compiled(self, program: Program) -> NativeProgram | None:
        text = f"{program_text(program)} alone {program.alone}"
        if text not in self.known:
            try:
                code = kernel_cache.get_or_make(text, self.target.key,
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

    def race(self, pieces: Sequence[Piece]) -> None:
        """Sample all of `pieces` in interleaved rounds. The further one is behind the best, the sooner it leaves: what is
        close gets the rounds that it takes to tell it apart from noise. The first, with which all are compared, stays."""
        running = list(pieces)
        for rounds, behind in SPANS:
            for number in range(rounds):
                for piece in running if number % 2 == 0 else reversed(running):
                    piece.sample(self.operands)
            best = min(p.seconds for p in running)
            running = [p for p in running if p is pieces[0] or p.seconds <= behind * best]
            if len(running) < 2:
                break


class PieceBench(Bench):
    """The candidates of one piece of a program.

    Args:
        default: what the heuristic makes of it.
        alone: whether the program runs on the caller's thread alone.
    """

    def __init__(self, default: Made, target: Target, alone: bool):
        kernels, _ = default
        buffers = outer_buffers(default)
        work = sum(k.flops for k in kernels) / 60 + sum(b.size * b.dtype.itemsize for b in buffers) / 16  # nanoseconds
        repeats = max(1, min(64, int(CALL_S * 1e9 / max(work, 1.0))))
        super().__init__(buffers, [b for b in buffers if any(b in k.written for k in kernels)], target, repeats)
        self.alone = alone

    def made(self, made: dict[str, Made]) -> dict[str, Piece | None]:
        """See `pieces`."""
        return self.pieces({name: piece_program(m, self.buffers, self.repeats, self.alone) for name, m in made.items()})


def whole_bench(graph: Graph, lowered: Lowered, target: Target) -> Bench:
    """Programs that compute all of `graph`, on operands of its types; `lowered` without donated inputs."""
    ins, outs = ([Buffer(f"{name}{i}", t.dtype, t.size) for i, t in enumerate(types)]
                 for name, types in (("in", graph.input_types), ("out", graph.output_types)))
    constants = [Buffer(f"constant{i}", as_dtype(c.dtype), c.size) for i, c in enumerate(lowered.constants)]
    bench = Bench([*ins, *outs, *constants], outs, target)
    for operands in bench.operands.sets:
        operands.update(zip(constants, [_copied(c) for c in lowered.constants], strict=True))
    return bench
