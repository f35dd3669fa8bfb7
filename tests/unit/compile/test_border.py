"""Results of products that are stored within the zeros that others read around them: bits are those of a pass of its own."""

from __future__ import annotations

import numpy as np
import pytest

import mainspring as ms
from mainspring.base import flags
from mainspring.compile.lower import lower
from mainspring.compile.program import kernels
from mainspring.compile.target import chosen

RNG = np.random.default_rng(0)


def drawn(*shape: int, dtype=np.float32):
    return ms.asarray(RNG.standard_normal(shape).astype(dtype))


def pair(x, w, v, act=ms.relu, **how):
    """(the value between, the result) of two convolutions."""
    between = act(ms.conv(x, w, **{**how, "stride": 1}))
    return between, ms.conv(between, v, **how)


CASES = {
    "3x3": ((2, 9, 7, 16), (3, 3, 16, 24), (3, 3, 24, 8), {"padding": 1}),
    "one image": ((1, 12, 12, 32), (3, 3, 32, 32), (3, 3, 32, 32), {"padding": 1}),
    "strided": ((2, 9, 8, 16), (3, 3, 16, 32), (3, 3, 32, 16), {"padding": 1, "stride": 2}),
    "wide": ((1, 8, 8, 4), (5, 5, 4, 20), (5, 5, 20, 3), {"padding": 2}),
    "a line": ((3, 40, 8), (3, 8, 16), (3, 16, 16), {"padding": 1}),
    "a volume": ((2, 5, 4, 6, 4), (3, 3, 3, 4, 16), (3, 3, 3, 16, 8), {"padding": 1}),
    "one side": ((2, 8, 8, 16), (3, 3, 16, 16), (2, 3, 16, 16), {"padding": ((1, 0), (0, 2))}),
    "few channels": ((2, 8, 8, 3), (3, 3, 3, 5), (3, 3, 5, 5), {"padding": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_bits_are_those_of_a_pass_of_its_own(name: str) -> None:
    x, w, v, how = CASES[name]
    x, w, v = drawn(*x), drawn(*w), drawn(*v)
    alone = ms.jit(lambda x, w, v: pair(x, w, v, **how)[1])(x, w, v)
    both = ms.jit(lambda x, w, v: pair(x, w, v, **how))(x, w, v)[1]
    assert np.asarray(alone).tobytes() == np.asarray(both).tobytes()


def block(x, w, v, u, scale):
    h = ms.relu(ms.conv(x, w, padding=1) * scale)
    h = ms.relu(ms.conv(h, v, padding=1) + h)  # read as a residual, too
    return ms.conv(h, v, padding=1, stride=2) + ms.conv(h, u, stride=2)  # and by a window of 1


def test_a_residual_and_other_windows_read_the_inside() -> None:
    args = drawn(2, 8, 8, 16), drawn(3, 3, 16, 16), drawn(3, 3, 16, 16), drawn(1, 1, 16, 16), drawn(16)
    found = lower(ms.jit(block).graph(*args), chosen())
    names = [k.name for k in kernels(found.program.instrs)]
    assert names.count("border") >= 1 and names.count("map") <= 1  # the image itself
    with flags.override(backend="reference"):
        expected = np.asarray(ms.jit(block)(*args))
    assert np.abs(np.asarray(ms.jit(block)(*args)) - expected).max() <= 1e-6 * np.abs(expected).max()


def test_gradients_go_through() -> None:
    args = drawn(2, 6, 6, 8), drawn(3, 3, 8, 16), drawn(3, 3, 16, 8)

    def loss(x, w, v):
        return ms.sum(pair(x, w, v, ms.gelu, padding=1)[1] ** 2)

    got = ms.jit(ms.grad(loss, (0, 1, 2)))(*args)
    for a, b in zip(got, ms.grad(loss, (0, 1, 2))(*args), strict=True):
        assert np.abs(np.asarray(a) - np.asarray(b)).max() <= 3e-6 * np.abs(np.asarray(b)).max()


def test_memory_that_was_used_before_shows_no_trace() -> None:
    x, w, v = drawn(2, 8, 8, 16), drawn(3, 3, 16, 16), drawn(3, 3, 16, 16)

    def deep(x, w, v):
        for _ in range(4):
            x = pair(ms.exp(x * 0.01), w, v, padding=1)[1] * 0.01
        return x

    f = ms.jit(deep)
    first = np.asarray(f(x, w, v)).tobytes()
    assert all(np.asarray(f(x, w, v)).tobytes() == first for _ in range(3))
    with flags.override(backend="python"):
        assert np.asarray(ms.jit(deep)(x[:1, :3, :3], w, v)).tobytes() == np.asarray(f(x[:1, :3, :3], w, v)).tobytes()
