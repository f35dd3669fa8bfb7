"""Steps of a convolution that multiply zeros around an image are left out, and no bit depends on it."""

import numpy as np
import pytest

import mainspring as ms
from mainspring.base import flags
from mainspring.compile.loops import show_kernel
from mainspring.compile.lower import lower
from mainspring.compile.products import contraction
from mainspring.compile.program import kernels
from mainspring.compile.target import by_name

SHAPES = {  # x, w, options
    "same": ((2, 8, 8, 24), (3, 3, 24, 24), {"padding": 1}),
    "in halves": ((2, 9, 8, 5), (3, 2, 5, 32), {"padding": ((1, 1), (0, 1)), "stride": 2}),
    "spread": ((1, 6, 16, 8), (3, 3, 8, 32), {"padding": 4, "dilation": 3}),
    "zeros alone": ((2, 2, 8, 16), (5, 1, 16, 32), {"padding": ((4, 6), (0, 0))}),
    "one dim": ((40, 5, 8), (3, 8, 32), {"padding": 1}),
}


def normal(*shape: int) -> ms.Tensor:
    return ms.asarray(np.random.default_rng(len(shape)).standard_normal(shape, np.float32))


def gradients(options):
    return ms.grad(lambda x, w: ms.sum(ms.square(ms.relu(ms.conv(x, w, **options)))), (0, 1))


@pytest.mark.parametrize("name", SHAPES)
def test_no_bit_depends_on_what_is_left_out(name, monkeypatch):
    x, w, options = SHAPES[name]
    arguments = normal(*x), normal(*w)

    def bits():
        with flags.override(cache=""):
            results = [ms.jit(lambda x, w: ms.conv(x, w, **options))(*arguments), *ms.jit(gradients(options))(*arguments)]
        return [r.numpy().tobytes() for r in results]

    found = bits()
    with flags.override(target="x86-64-v3"):
        assert bits() == found
    monkeypatch.setattr(contraction, "zeros_of", lambda of: None)
    assert bits() == found


def test_a_window_s_gradient_of_long_images_leaves_out_zeros(monkeypatch):
    gradient = ms.jit(lambda x, w: gradients({"padding": 1})(x, w)[1])
    arguments = normal(17, 12, 12, 16), normal(3, 3, 16, 16)
    found = gradient(*arguments).numpy().tobytes()
    monkeypatch.setattr(contraction, "zeros_of", lambda of: None)
    with flags.override(cache=""):
        assert ms.jit(lambda x, w: gradients({"padding": 1})(x, w)[1])(*arguments).numpy().tobytes() == found


def test_tiles_of_one_row_of_places_begin_behind_the_zeros():
    program = lower(ms.jit(lambda x, w: ms.conv(x, w, padding=1)).graph(normal(2, 8, 8, 16), normal(3, 3, 16, 32)),
                    by_name("x86-64-v4")).program
    assert "max" in show_kernel(next(kernel for kernel in kernels(program.instrs) if kernel.name == "tile"))
