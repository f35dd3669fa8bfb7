"""Depthwise convolutions: lanes of channels have the bits that each channel has alone, forward and in both gradients."""

from __future__ import annotations

import numpy as np
import pytest

import mainspring as ms
from mainspring.base import flags
from mainspring.compile.lower import lower
from mainspring.compile.program import launches
from mainspring.compile.target import native

RNG = np.random.default_rng(0)
# spatial dims, window, channels, batch, parameters: rows even and not, lanes whole and not, short and long sums
CASES = {
    "3x3": ((12, 12), (3, 3), 32, 2, {"padding": 1}),
    "3x3 of odd places": ((11, 13), (3, 3), 19, 1, {"padding": 1, "stride": 2}),
    "5x5, long": ((14, 14), (5, 5), 40, 5, {"padding": 2}),
    "spread window": ((10, 10), (3, 3), 9, 2, {"padding": 2, "dilation": 2}),
    "1-D, long": ((200,), (3,), 150, 8, {}),
    "3-D": ((5, 6, 7), (3, 3, 3), 16, 2, {"padding": 1}),
}


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def setting(name):
    """(the convolution with an epilogue and its two gradients, operands)"""
    spatial, window, channels, batch, static = CASES[name]
    x, w = draw(batch, *spatial, channels), draw(*window, 1, channels)

    def conv(x, w):
        return ms.conv(x, w, groups=x.shape[-1], **static)

    def all_of(x, w):
        y, back = ms.vjp(conv, x, w)
        return ms.relu(y) + 1, *back(y - 0.5)

    return all_of, (x, w)


@pytest.mark.parametrize("name", CASES)
def test_a_channel_has_the_bits_it_has_alone(name):
    all_of, operands = setting(name)
    whole = [np.asarray(v) for v in ms.jit(all_of)(*operands)]
    for c in (0, operands[0].shape[-1] // 2, operands[0].shape[-1] - 1):
        alone = ms.jit(all_of)(*[np.ascontiguousarray(v[..., c : c + 1]) for v in operands])
        for one, every in zip(alone, whole, strict=True):
            assert np.asarray(one).tobytes() == np.ascontiguousarray(every[..., c : c + 1]).tobytes(), c


@pytest.mark.parametrize("name", ["3x3 of odd places", "5x5, long"])
def test_threads_change_no_bit(name):
    all_of, operands = setting(name)
    found = set()
    for threads in (1, 2, 3, 8):
        with flags.override(threads=threads):
            found.add(b"".join(np.asarray(v).tobytes() for v in ms.jit(all_of)(*operands)))
    assert len(found) == 1


@pytest.mark.parametrize("name", CASES)
def test_they_are_kernels_of_lanes(name):
    all_of, operands = setting(name)
    graph = ms.jit(all_of).graph(*[ms.asarray(v) for v in operands])
    names = [launch.kernel.name for launch in launches(lower(graph, native()).program.instrs)]
    assert names.count("lanes") >= 3, names


def test_results_in_place_of_what_they_are_added_to():
    """The last tile begins early: what it has in common with the one before must not be added twice."""
    x, w, y = draw(1, 4, 7, 16), draw(3, 3, 1, 16), draw(1, 4, 7, 16)
    step = ms.jit(lambda y, x, w: ms.conv(x, w, padding=1, groups=16) + y, donate=0)
    apart = np.asarray(ms.conv(ms.asarray(x), ms.asarray(w), padding=1, groups=16)) + y
    assert np.allclose(np.asarray(step(ms.asarray(y.copy()), x, w)), apart, atol=1e-5)
