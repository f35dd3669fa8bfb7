"""What the compiler takes out of loops: tests for the border of convolutions, and launches that do the same in every round."""

import numpy as np
import pytest

import mainspring as ms
from mainspring.compile.lower import lower, prepare
from mainspring.compile.program import Launch, Repeat, kernels
from mainspring.compile.target import by_name


def normal(*shape):
    return ms.asarray(np.random.default_rng(0).normal(size=shape).astype(np.float32))


def test_packing_of_weights_leaves_the_loop():
    def states(h, w, xs):
        return ms.scan(lambda h, x: (ms.tanh(h @ w + x),) * 2, h, xs)[1]

    # 48 columns are one and a half panels, so the weights have to be packed
    program = lower(ms.jit(states).graph(normal(8, 48), normal(48, 48), normal(5, 8, 48)), by_name("x86-64-v4")).program
    loop = next(i for i in program.instrs if isinstance(i, Repeat))
    assert "pack" not in [k.name for k in kernels(loop.body)]
    assert "pack" in [i.kernel.name for i in program.instrs if isinstance(i, Launch)]


def test_two_products_with_the_same_right_operand_pack_it_once():
    def products(a, b, d):
        return ms.matmul(ms.matrix_transpose(a), d), ms.matmul(ms.matrix_transpose(b), d)

    operands = normal(300, 256), normal(300, 256), normal(300, 256)
    program = lower(ms.jit(products).graph(*operands), by_name("x86-64-v3")).program
    assert [i.kernel.name for i in program.instrs if isinstance(i, Launch)] == ["pack", "tile", "tile"]
    for result, left in zip(ms.jit(products)(*operands), operands, strict=False):
        assert result.numpy().tobytes() == ms.jit(ms.matmul)(ms.matrix_transpose(left), operands[2]).numpy().tobytes()


def test_a_permuted_left_operand_changes_no_bit():
    def gradient(x, d):
        return ms.tensordot(ms.permute_dims(x, (1, 0, 2)), d, axes=((0, 1), (0, 1)))

    x, d = normal(6, 50, 40), normal(50, 6, 70)
    flat = ms.asarray(np.ascontiguousarray(x.numpy().transpose(1, 0, 2)).reshape(300, 40))
    product = ms.jit(lambda a, b: ms.matmul(ms.matrix_transpose(a), b))(flat, ms.reshape(d, (300, 70)))
    assert ms.jit(gradient)(x, d).numpy().tobytes() == product.numpy().tobytes()


def test_forward_and_gradient_of_a_convolution_share_one_padded_array():
    def loss(w, x):
        return ms.sum(ms.conv(x, w, padding=1) ** 2)

    graph = prepare(ms.jit(ms.grad(loss)).graph(normal(3, 3, 8, 16), normal(2, 8, 8, 8)))
    assert sum(n.op.name == "pad" and n.inputs[0] is graph.inputs[1] for n in graph.nodes()) == 1
    assert all(p == (0, 0) for n in graph.nodes() if n.op.name == "conv" for p in n.static["padding"])


OPTIONS = ({"padding": 1}, {"padding": 1, "stride": 2}, {"padding": 2, "dilation": 2}, {"padding": ((-1, 2), (1, -1))})


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("size, channels", [(9, 8), (32, 16)])
def test_gradients_of_windows_agree_with_the_reference(options, size, channels):
    x, w = normal(4, size, size, channels), normal(3, 3, channels, 16)
    gradient = ms.grad(lambda p: ms.sum(ms.conv(p[0], p[1], **options) ** 2) * 1e-3)
    for compiled, eager in zip(ms.jit(gradient)((x, w)), gradient((x, w)), strict=True):
        np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-4 * float(ms.max(ms.abs(eager))))


@pytest.mark.parametrize("stride, window, extent, padding", [
    (2, 3, 8, 1), (2, 1, 8, 0), (2, 3, 9, 1), (3, 4, 11, 2), (4, 2, 9, 1), ((2, 1), 3, 8, 1), (2, 5, 7, 2), (3, 1, 7, 0)])
def test_gradients_of_strided_convolutions_multiply_no_zeros(stride, window, extent, padding):
    x, w = normal(2, extent, extent, 4), normal(window, window, 2, 6)

    def loss(x):
        return ms.sum(ms.sin(ms.conv(x, w, stride=stride, padding=padding, groups=2)))

    compiled = ms.jit(ms.grad(loss))
    np.testing.assert_allclose(compiled(x), ms.grad(loss)(x), rtol=2e-5, atol=2e-5)
    graph = prepare(compiled.graph(x))
    assert all(set(n.static["dilation"]) == {1} for n in graph.nodes() if n.op.name == "conv")
    assert not any(any(n.static["interior"]) for n in graph.nodes() if n.op.name == "pad")


def test_transposed_convolutions_of_any_dims_agree_with_eager_mode():
    for d in (1, 2, 3):
        x, w = normal(2, *[5] * d, 3), normal(*[3] * d, 4, 3)
        for stride in (2, 3):
            def f(x, w, stride=stride):
                return ms.conv_transpose(x, w, stride=stride, padding=1)

            np.testing.assert_allclose(ms.jit(f)(x, w), f(x, w), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("n", [4, 7, 8, 15])
def test_a_border_may_begin_at_any_lane(n):
    """LLVM knows that half a vector lies outside: it must be zeros all the same."""
    pads = [(low, high) for low in (0, 1, 2) for high in (1, 2, 5, 9)]
    x = np.arange(1, 6 * n + 1, dtype=np.float32).reshape(2, 3, n)
    found = ms.jit(lambda x: tuple(ms.pad(x, ((0, 0), (1, 1), p)) for p in pads))(x)
    for p, a in zip(pads, found, strict=True):
        assert np.array_equal(np.asarray(a), np.pad(x, ((0, 0), (1, 1), p))), p
