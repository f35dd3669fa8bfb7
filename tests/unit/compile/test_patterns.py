"""Short dims joined into one loop: lanes hold what their patterns say, loads are runs of memory, and results are the same."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from llvmlite import ir

import mainspring as ms
from mainspring.compile.emit.llvm import emit_kernel
from mainspring.compile.emit.patterns import MOST_RUNS, Pattern, Patterns, period, runs
from mainspring.compile.loops import LANES
from mainspring.compile.lower import lower
from mainspring.compile.program import kernels
from mainspring.compile.target import by_name
from mainspring.ir.scalar import Expr, const, var
from mainspring.types.dtype import int64

INDEX, TASK = var("i", 4800), var("task", 9)
INDICES: dict[str, Expr] = {
    "colours": INDEX % 3 * 1024 + INDEX // 3,
    "upwards": INDEX // 6 * 3 + INDEX % 3 + TASK * 100,
    "nested": (INDEX // 3 + TASK * 16) // 2 % 4 - INDEX % 3,
    "folded": (INDEX + 5) // 2 - (INDEX + TASK * 48) % 12,
}


def evaluated(x: Expr, at: dict[Expr, int]) -> int:
    if x in at or x.op == "const":
        return at.get(x, x.attr)
    return getattr(operator, x.op)(*[evaluated(y, at) for y in x.args])


@pytest.mark.parametrize("name", INDICES)
def test_a_pattern_is_what_the_lanes_hold(name):
    x = INDICES[name]
    every = period([x], INDEX)
    for begin in (0, 5, LANES, 2 * LANES):
        found = Patterns(INDEX, Pattern(every, (begin,) * LANES), lambda y: y is TASK).of(x)
        assert found is not None
        for turn, task in ((0, 0), (1, 3), (7, 8)):
            held = [evaluated(x, {INDEX: turn * every + begin + lane, TASK: task}) for lane in range(LANES)]
            rest = {h - o for h, o in zip(held, found.offsets, strict=True)}
            assert len(rest) == 1 and (rest == {0} if not found.modulus else rest.pop() % found.modulus == 0)


def test_what_is_not_known_has_no_pattern():
    aligned = Patterns(INDEX, Pattern(LANES, (0,) * LANES), lambda y: y is TASK)
    assert aligned.of(INDEX // 3) is None and aligned.of(INDEX * TASK) is None and aligned.of((INDEX + TASK) // 2) is None
    assert aligned.truth(INDEX < 5) is None and aligned.truth(INDEX % 2 < 1) == (True, False) * (LANES // 2)


def test_a_period_is_not_followed_too_far():
    assert [period([INDEX // n], INDEX) for n in (1, 2, 3, 7, 8, 9, 16, 64, 1000)] == [16, 16, 48, 112, 16, 16, 16, 16, 16]


def test_runs_hold_every_active_place_and_no_more_than_a_few():
    rng = np.random.default_rng(0)
    for _ in range(200):
        places = [int(p) for p in rng.choice(rng.integers(0, 400, rng.integers(1, 8)), LANES) + rng.integers(0, 5, LANES)]
        active = [bool(a) for a in rng.random(LANES) < 0.7]
        wanted = {p for p, a in zip(places, active, strict=True) if a}
        found = runs(places, active)
        if found is None:
            assert len(wanted) > MOST_RUNS
            continue
        inside = [start + i for start, length in found for i in range(length)]
        ends = {start for start, _ in found} | {start + length - 1 for start, length in found}
        assert wanted <= set(inside) and ends <= wanted and len(inside) == len(set(inside))


CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "stack": (lambda x: ms.stack([x, x * 2], axis=-1), lambda x: np.stack([x, x * 2], -1)),
    "concat": (lambda x: ms.concat([x, x + x], axis=-1), lambda x: np.concatenate([x, x + x], -1)),
    "repeat": (lambda x: ms.repeat(ms.repeat(x, 2, axis=1), 2, axis=0), lambda x: np.repeat(np.repeat(x, 2, 1), 2, 0)),
    "transpose": (lambda x: ms.reshape(x, x.shape[::-1]).T, lambda x: x.reshape(x.shape[::-1]).T),
    "flip": (lambda x: ms.flip(x, axis=1), lambda x: x[:, ::-1]),
    "roll": (lambda x: ms.roll(x, 1, axis=1), lambda x: np.roll(x, 1, 1)),
    "pad": (lambda x: ms.pad(x, [(0, 0), (1, 2)]), lambda x: np.pad(x, [(0, 0), (1, 2)])),
    "row and column": (lambda x: x * x[0] + x[:, :1], lambda x: x * x[0] + x[:, :1]),
    "index": (lambda x: x + ms.astype(ms.arange(x.shape[1]), x.dtype), lambda x: x + np.arange(x.shape[1]).astype(x.dtype)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_narrow_tensors_are_what_numpy_says(name, dtype):
    ours, reference = CASES[name]
    shapes = [(1, 3), (5, 2), (11, 3), (16, 5), (700, 3), (2500, 2), (300, 10), (200, 15)]
    drawn = [np.random.default_rng(1).integers(-9, 9, shape).astype(dtype) for shape in shapes]
    results = ms.jit(lambda *xs: [ours(x) for x in xs])(*map(ms.asarray, drawn))
    for x, result in zip(drawn, results, strict=True):
        np.testing.assert_array_equal(np.asarray(result), reference(x))


@pytest.mark.parametrize("name", ["stack", "repeat", "transpose", "row and column"])
def test_no_lane_is_gathered(name):
    x = ms.asarray(np.zeros((160, 3), np.float32))
    for number, kernel in enumerate(kernels(lower(ms.jit(CASES[name][0]).graph(x), by_name("x86-64-v3")).program.instrs)):
        module = ir.Module()
        emit_kernel(module, kernel, f"kernel{number}", by_name("x86-64-v3"))
        assert "masked" not in str(module) and "shufflevector" in str(module)


def test_a_known_index_is_a_constant():
    third = Patterns(INDEX, Pattern(48, (16,) * LANES), lambda _: False)
    assert third.of(INDEX % 3) == Pattern(0, tuple([i % 3 for i in range(16, 32)]))
    assert Patterns(None, Pattern(1, (0,) * LANES), lambda _: True).of(const(7, int64)) == Pattern.of(7)
