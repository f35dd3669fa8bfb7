"""Products as models have them, and what their candidates take: the ground on which costs are fitted and tuners are judged.

With this you can measure some candidates of a case beside the heuristic's (`measured`): what each is, what it took, and what it
should have taken. A case is a function and the shapes of its operands, of float32.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mainspring.autotune.measure import Piece, PieceBench
from mainspring.autotune.tuner import Problem, made, problems
from mainspring.compile.choose import Fixed, Site
from mainspring.compile.lower import lower
from mainspring.compile.target import Target
from mainspring.jit import jit
from mainspring.ops.composed import gelu, relu
from mainspring.ops.contract import matmul
from mainspring.ops.conv import conv
from mainspring.ops.movement import matrix_transpose
from mainspring.tensor import asarray

Shape = tuple[int, ...]
ROUNDS, ROUNDS_S = (5, 25), 0.5  # of timing: so many at least and at most, and seconds after which it is enough


@dataclass(frozen=True)
class Case:
    """A function of arrays of `shapes`."""

    function: Callable[..., Any]
    shapes: tuple[Shape, ...]

    @cached_property
    def graph(self) -> Any:
        """What it computes, traced."""
        rng = np.random.default_rng(0)
        return jit(self.function).graph(*[asarray(rng.standard_normal(shape, np.float32)) for shape in self.shapes])

    def problem(self, target: Target) -> tuple[Problem, bool]:
        """The largest decision in it for `target`, and whether the program runs on the caller's thread alone."""
        lowered = lower(self.graph, target, (), Fixed())
        return max(problems(lowered.works), key=lambda p: len(p.site.candidates)), lowered.program.alone


def _product(m: int, n: int, k: int) -> Case:
    return Case(matmul, ((m, k), (k, n)))


def _transposed(m: int, n: int, k: int) -> Case:
    return Case(lambda a, b: matmul(matrix_transpose(a), b), ((k, m), (k, n)))


def _linear(m: int, n: int, k: int) -> Case:
    return Case(lambda a, b, c: gelu(matmul(a, matrix_transpose(b)) + c), ((m, k), (n, k), (n,)))


def _batched(b: int, m: int, n: int, k: int) -> Case:
    return Case(matmul, ((b, m, k), (b, k, n)))


def _conv(b: int, s: int, i: int, o: int) -> Case:
    return Case(lambda x, w: relu(conv(x, w, padding="same")), ((b, s, s, i), (3, 3, i, o)))


#: by name, of all families in turn: the first few are a fair sample of all
FAMILIES: dict[str, tuple[Callable[..., Case], tuple[Shape, ...]]] = {
    "product {}×{}×{}": (_product, (
        (256, 256, 256), (128, 1024, 512), (37, 450, 210), (96, 96, 96), (1000, 70, 300), (512, 512, 512), (16, 1024, 1024),
        (200, 800, 160))),
    "transposed {}×{}×{}": (_transposed, (
        (128, 384, 768), (100, 100, 1000), (512, 128, 768), (64, 256, 2000), (256, 256, 512))),
    "linear {}×{}×{}": (_linear, ((768, 128, 512), (64, 256, 784), (768, 512, 128), (300, 1000, 64), (32, 1024, 256))),
    "batched {} of {}×{}×{}": (_batched, ((48, 64, 64, 32), (32, 64, 32, 64), (8, 128, 128, 64), (16, 128, 32, 128))),
    "conv {0}×{1}×{1}, {2} to {3}": (_conv, ((16, 16, 32, 32), (8, 8, 64, 64), (4, 32, 3, 32), (16, 8, 128, 64))),
}


def _dealt() -> dict[str, Case]:
    found = [(round_, name.format(*shape), make(*shape)) for name, (make, shapes) in FAMILIES.items()
             for round_, shape in enumerate(shapes)]
    return {name: case for _, name, case in sorted(found, key=lambda f: f[0])}


CASES = _dealt()


@dataclass(frozen=True)
class Measured:
    """Candidates of a case: what they took, in seconds, the heuristic's among them."""

    site: Site
    seconds: dict[str, float]

    @property
    def best(self) -> float:
        """The least that a candidate took, relative to the heuristic's."""
        return min(self.seconds.values()) / self.seconds[self.site.default]


def measured(case: Case, count: int, target: Target) -> Measured:
    """`count` candidates drawn at random, and the heuristic's, timed side by side."""
    problem, alone = case.problem(target)
    site = problem.site
    names = list(site.candidates)
    drawn = [names[i] for i in np.random.default_rng(1).permutation(len(names))[:count]]
    bench = PieceBench(made(problem, site.default), target, alone)
    pieces = bench.made({n: made(problem, n) for n in dict.fromkeys([site.default, *drawn])})
    kept = {name: piece for name, piece in pieces.items() if piece is not None}
    _in_rounds([(bench, piece) for piece in kept.values()])
    return Measured(site, {name: _quick(piece) for name, piece in kept.items()})


def _in_rounds(timed: Sequence[tuple[PieceBench, Piece]]) -> None:
    """Time all, forth and back, as often as `ROUNDS` and `ROUNDS_S` allow: what disturbs one sample disturbs its neighbours."""
    started = time.perf_counter()
    for number in range(ROUNDS[1]):
        if number >= ROUNDS[0] and time.perf_counter() - started > ROUNDS_S:
            break
        for bench, piece in timed if number % 2 == 0 else reversed(timed):
            piece.sample(bench.operands)


def _quick(piece: Piece) -> float:
    """Seconds in the best quarter of the rounds: what disturbs a sample only ever makes it longer."""
    return sorted(piece.samples)[len(piece.samples) // 4]


def compared(case: Case, targets: Sequence[Target]) -> list[float]:
    """Seconds of what the heuristic takes by the costs of each of `targets`; of what is the same, the same figure."""
    timed: dict[str, tuple[PieceBench, Piece]] = {}
    names = []
    for target in targets:
        problem, alone = case.problem(target)
        names.append(problem.site.default)
        if names[-1] not in timed:
            kernels = made(problem, names[-1])
            bench = PieceBench(kernels, target, alone)
            piece = bench.made({names[-1]: kernels})[names[-1]]
            assert piece is not None  # it is what runs without a tuner
            timed[names[-1]] = bench, piece
    _in_rounds(list(timed.values()))
    return [_quick(timed[name][1]) for name in names]
