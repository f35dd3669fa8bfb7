"""Products of few rows and windows replaced in place: which kernels they are, and that they have the bits of many rows."""

from __future__ import annotations

import numpy as np
import pytest

import mainspring as ms
from mainspring.compile.lower import lower
from mainspring.compile.program import launches
from mainspring.compile.target import native

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def kernels(function, *arrays, donated=()):
    """Names of the kernels of `function`, in order."""
    graph = ms.jit(function).graph(*[ms.asarray(a) for a in arrays])
    return [launch.kernel.name for launch in launches(lower(graph, native(), donated).program.instrs)]


def turned(x, w):
    return ms.matmul(x, ms.matrix_transpose(w))


@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize(("k", "n"), [(40, 37), (256, 700), (270, 37), (1000, 24), (1024, 270), (1048, 40), (1500, 530)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_few_rows_have_the_bits_of_many(transposed, k, n, dtype):
    f = ms.jit(turned if transposed else ms.matmul)
    x, w = (ms.astype(ms.asarray(a), getattr(ms, dtype)) for a in (draw(40, k), draw(n, k) if transposed else draw(k, n)))
    whole = np.asarray(ms.astype(f(x, w), ms.float32))
    for rows in (1, 2, 3):
        few = np.asarray(ms.astype(f(ms.asarray(x)[:rows], w), ms.float32))
        assert few.tobytes() == whole[:rows].tobytes(), rows


def test_what_follows_a_product_of_few_rows_has_its_bits_too():
    norm = ms.jit(lambda x, w, b: ms.layer_norm(ms.gelu(ms.matmul(x, w) + b) + x))
    x, w, b = draw(40, 512), draw(512, 512), draw(512)
    assert np.asarray(norm(x[:1], w, b)).tobytes() == np.asarray(norm(x, w, b))[:1].tobytes()


@pytest.mark.parametrize("rows", [7, 32])
def test_rows_of_a_large_operand_have_the_bits_of_many(rows):
    x, w, b = draw(70, 512), draw(512, 512), draw(512)
    f = ms.jit(lambda x, w, b: ms.silu(ms.matmul(x, w) + b))
    assert np.asarray(f(x[:rows], w, b)).tobytes() == np.asarray(f(x, w, b))[:rows].tobytes()
    assert "map" in kernels(lambda x, w: ms.matmul(x, w), x[:rows], w), "its chains are summed behind it"


@pytest.mark.parametrize(("batch", "heads", "keys", "width"), [(1, 1, 5, 3), (16, 3, 20, 5), (9, 4, 300, 24), (2, 6, 150, 280)])
def test_a_query_alone_has_the_bits_it_has_among_others(batch, heads, keys, width):
    q, k, v = draw(batch, 4, heads, width), draw(batch, keys, heads, width), draw(batch, keys, heads, width)
    attend = ms.jit(lambda q, k, v, at: ms.attention(q, k, v, causal=True, offset=at))
    for at in (0, keys // 2, keys - 4):
        whole = np.asarray(attend(q, k, v, np.int32(at)))
        for i in range(4):
            alone = np.asarray(attend(np.ascontiguousarray(q[:, i : i + 1]), k, v, np.int32(at + i)))
            assert alone.tobytes() == np.ascontiguousarray(whole[:, i : i + 1]).tobytes(), (at, i)


def test_a_row_streams_its_weights_and_its_chains_are_summed_by_what_follows():
    assert kernels(lambda x, w: ms.layer_norm(ms.matmul(x, w) + x), draw(1, 512), draw(512, 512)) == ["stream", "row"]
    assert kernels(turned, draw(1, 512), draw(512, 512)) == ["columns", "map"]
    assert kernels(ms.matmul, draw(1, 40), draw(40, 512)) == ["stream"]


# ------------------------------------------------------------------------------------------------------ replaced windows


def grow(cache, x, at):
    return ms.dynamic_update_slice(cache, x * 2.0, (0, at, 0))


@pytest.mark.parametrize("shape", [(1, 3, 16), (4, 1, 16), (4, 2, 5), (4, 0, 16), (1, 1, 1)])
@pytest.mark.parametrize("at", [0, 3, 100])
def test_a_window_of_a_donated_operand_is_replaced_in_place(shape, at):
    cache, x = draw(4, 9, 16), draw(*shape)
    outside, expected = cache.copy(), cache.copy()
    start = min(at, 9 - shape[1])
    expected[: shape[0], start : start + shape[1], : shape[2]] = x * np.float32(2)
    f = ms.jit(grow, donate=0)
    held = ms.asarray(cache)
    for _ in range(2):
        held = f(held, ms.asarray(x), ms.asarray(np.int32(at)))
    assert np.array_equal(np.asarray(held), expected)
    assert np.array_equal(cache, outside), "what came from outside is not written"


def test_nothing_but_the_window_is_written():
    names = kernels(grow, draw(4, 9, 16), draw(4, 1, 16), np.int32(1), donated=(0,))
    assert names == ["map"], "no copy"


def test_a_window_made_of_the_operand_itself_is_not_in_place():
    def shift(x, at):
        return ms.dynamic_update_slice(x, ms.dynamic_slice(x, (0, 0), (4, 8)) + 1.0, (0, at))

    x = draw(4, 9)
    expected = x.copy()
    expected[:, 1:] = x[:, :8] + 1
    assert np.array_equal(np.asarray(ms.jit(shift, donate=0)(ms.asarray(x), ms.asarray(np.int32(1)))), expected)


def test_a_donated_operand_that_is_read_later_is_copied_first():
    def f(x, w, at):
        return ms.dynamic_update_slice(x, w, (at, 0)), ms.matmul(x, ms.matrix_transpose(x))

    x, w = draw(20, 16), draw(1, 16)
    new, product = ms.jit(f, donate=0)(ms.asarray(x), ms.asarray(w), ms.asarray(np.int32(5)))
    expected = x.copy()
    expected[5] = w[0]
    assert np.array_equal(np.asarray(new), expected)
    assert np.allclose(np.asarray(product), x @ x.T, atol=1e-4)
