"""Sums over columns: streamed ones have the order of short ones, and those that read the same memory are one kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mainspring as ms
from mainspring.base import flags
from mainspring.compile.lower import lower, prepare
from mainspring.compile.program import launches
from mainspring.compile.target import native

RNG = np.random.default_rng(17)


def draw(*shape: int) -> Any:
    return ms.asarray(RNG.standard_normal(shape, dtype=np.float32))


def kernels(function: Callable[..., Any], *args: Any) -> list[str]:
    program = lower(ms.jit(function).graph(*args), native()).program
    return [launch.kernel.name for launch in launches(program.instrs)]


def ordered_sum(x: np.ndarray) -> np.ndarray:
    """The sum over rows in the order of docs/numerics.md."""
    partials = np.zeros((16, *x.shape[1:]), np.float32)
    for r, row in enumerate(x):
        partials[r % 16] += row
    while len(partials) > 1:
        partials = partials[: len(partials) // 2] + partials[len(partials) // 2:]
    return partials[0]


@pytest.mark.parametrize("rows", [5, 16, 31, 127, 128, 200, 1000])
@pytest.mark.parametrize("columns", [3, 16, 33, 100])
def test_the_order_of_a_sum_is_that_of_the_contract(rows, columns):
    x = draw(rows, columns)
    assert np.asarray(ms.jit(lambda x: ms.sum(x, axis=0))(x)).tobytes() == ordered_sum(np.asarray(x)).tobytes()


@pytest.mark.parametrize("shape", [(9, 20, 24), (300, 17)])
def test_folds_of_all_kinds_agree_with_the_python_emitter(shape):
    def folds(x: Any) -> Any:
        axes = tuple(range(x.ndim - 1))
        of = (ms.sum, ms.max, ms.min, ms.prod)
        return [f(x, axis=axes) for f in of], ms.any(x > 2.5, axis=axes), ms.all(x > -3.5, axis=axes)

    x, results = draw(*shape), []
    for backend in ("llvm", "python"):
        with flags.override(backend=backend, cache="", verify=2):
            four, some, every = ms.jit(folds)(x)
        results.append([np.asarray(v).tobytes() for v in (*four, some, every)])
    assert results[0] == results[1]


def test_sums_of_the_same_memory_are_one_kernel():
    def sums(g: Any, x: Any) -> Any:
        return ms.sum(g, axis=0), ms.sum(g * x, axis=0), ms.max(g, axis=0)

    assert kernels(sums, draw(500, 40), draw(500, 40)) == ["reduce"]


def test_a_sum_that_waits_for_another_is_a_kernel_of_its_own():
    def variance(x: Any) -> Any:
        mean = ms.mean(x, axis=0)
        return mean, ms.mean(ms.square(x - mean), axis=0)

    assert kernels(variance, draw(500, 40)) == ["reduce", "reduce"]


def test_the_gradient_of_batch_norm_takes_one_pass_for_its_sums():
    def gradient(x: Any, w: Any, b: Any, ct: Any) -> Any:
        return ms.vjp(lambda x, w, b: ms.batch_norm(x, None, None, w, b), x, w, b)[1](ct)

    x, w = draw(30, 12, 40), draw(40)
    assert kernels(gradient, x, w, w, x).count("reduce") == 3  # mean, variance, both sums of the gradient


def test_what_is_padded_exists_in_one_form():
    def step(x: Any, v: Any, w: Any) -> Any:
        y = ms.relu(ms.conv(x, v, padding=1))
        return ms.conv(y, w, padding=1) + y, ms.conv(y, w, padding=1, stride=2)

    graph = prepare(ms.jit(step).graph(draw(2, 8, 8, 16), draw(3, 3, 16, 16), draw(3, 3, 16, 16)))
    assert sum(n.op.name == "pad" for n in graph.nodes()) == 2
