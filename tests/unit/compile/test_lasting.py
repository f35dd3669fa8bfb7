"""What a jitted function closes over: what depends on it alone is made once, and no bit of a result changes."""

from __future__ import annotations

import numpy as np
import pytest

import mainspring as ms
from mainspring.base import flags
from mainspring.compile.lower import Lowered, lower
from mainspring.compile.plan.lasting import LITTLE
from mainspring.compile.program import kernels
from mainspring.compile.target import chosen
from mainspring.ir.graph import Graph
from mainspring.runtime import executable as executables

RNG = np.random.default_rng(0)


def drawn(*shape: int) -> ms.Tensor:
    return ms.asarray(RNG.standard_normal(shape, np.float32))


def lowered(function, *args) -> Lowered:
    """What becomes of `function` of `args`; all further inputs of its graph last."""
    graph: Graph = ms.jit(function).graph(*args)
    return lower(graph, chosen(), lasting=len(graph.inputs) - len(args))


def names(of) -> set[str]:
    return {k.name for k in kernels(of.instrs)} if of else set()


W, W2, SCALE, VAR, BIAS = drawn(256, 1024), drawn(1024, 256), drawn(1024), ms.abs(drawn(1024)), drawn(1024)
WINDOW, CHANNEL = drawn(3, 3, 24, 96), drawn(96)


def fed(x, w, w2, scale, var, bias):
    return ms.gelu((x @ w) * (scale * ms.rsqrt(var + 1e-5)) + bias) @ w2


def windows(x, w, scale, var, bias):
    return ms.relu(ms.conv(x, w, padding=1) * (scale * ms.rsqrt(ms.abs(var) + 1e-5)) + bias)


CASES = {
    **{f"fed forward, {rows} rows": (fed, drawn(rows, 256), (W, W2, SCALE, VAR, BIAS)) for rows in (1, 3, 5, 32, 100)},
    "windows": (windows, drawn(2, 9, 9, 24), (WINDOW, CHANNEL, CHANNEL, CHANNEL)),
    "transposed": (lambda x, w: x @ ms.permute_dims(w, (1, 0)), drawn(40, 1024), (W,)),
    "a row of weights": (lambda x, w: x * ms.softmax(w, axis=-1), drawn(5, 256, 1024), (W,)),
    "a batch of products": (lambda x, w: x @ ms.reshape(w, (4, 64, 1024)), drawn(4, 20, 64), (W,)),
    "weights alone": (lambda x, w, w2: (w @ w2, x + 1), drawn(3), (W, W2)),
    "in a loop": (lambda x, w: ms.scan(lambda c, y: (ms.tanh(c @ w + y), ms.sum(c)), x[0], x), drawn(6, 20, 256),
                  (drawn(256, 256),)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_bits_are_those_of_arguments(name: str) -> None:
    function, x, weights = CASES[name]
    closed = ms.jit(lambda x: function(x, *weights))
    expected = ms.jit(function)(x, *weights)
    for _ in range(2):
        got = closed(x)
        for a, b in zip(ms.tree.flatten(got)[0], ms.tree.flatten(expected)[0], strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_packing_and_what_there_is_of_a_channel_is_done_once() -> None:
    found = lowered(lambda x: windows(x, WINDOW, CHANNEL, CHANNEL, CHANNEL), drawn(2, 9, 9, 24))
    assert names(found.once) == {"pack", "steps", "map"}
    assert not names(found.program) & {"pack", "steps"}
    assert not any("rsqrt" in str(k.body) for k in kernels(found.program.instrs))
    assert sum(found.kept) < 4 * WINDOW.nbytes


def test_what_is_much_larger_than_its_source_is_not_kept() -> None:
    key = ms.random.key(3)
    small, large = drawn(1000), 1 << 18
    found = lowered(lambda x: x + ms.random.normal(key, (large,)) + ms.sum(ms.exp(small[:, None] - small)), drawn(large))
    assert all(nbytes <= LITTLE for nbytes in found.kept)


def test_nothing_closed_over_keeps_nothing() -> None:
    found = lowered(lambda x, w: x @ w, drawn(40, 256), W)
    assert found.once is None and not found.kept


def test_traces_of_one_graph_keep_their_own() -> None:
    for rows, k, n in ((40, 256, 1024), (8, 16, 32)):  # the team, and the caller's thread
        x, others, plain = drawn(rows, k), [drawn(k, n) for _ in range(3)], ms.jit(lambda x, w: x @ w)
        closed = [ms.jit(_closed(w)) for w in others]
        for _ in range(2):
            for f, w in zip(closed, others, strict=True):
                assert np.array_equal(np.asarray(f(x)), np.asarray(plain(x, w)))


def _closed(w):
    return lambda x: x @ w


def test_donated_state_beside_what_lasts() -> None:
    step = ms.jit(lambda state, x: (state + x @ W, ms.sum(state)), donate=0)
    plain = ms.jit(lambda state, x, w: (state + x @ w, ms.sum(state)))
    x, a, b = drawn(40, 256), ms.zeros((40, 1024)), ms.zeros((40, 1024))
    for _ in range(3):
        (a, s), (b, t) = step(a, x), plain(b, x, W)
        assert np.array_equal(np.asarray(a), np.asarray(b)) and float(s) == float(t)
    a, _ = step.repeat(a, [x, x])
    for _ in range(2):
        b, _ = plain(b, x, W)
    assert np.array_equal(np.asarray(a), np.asarray(b))


def test_gradients_reach_what_is_closed_over() -> None:
    closed = ms.jit(_closed(W))
    x = drawn(8, 256)
    got = ms.grad(lambda x: ms.sum(closed(x) ** 2))(x)
    assert np.allclose(np.asarray(got), np.asarray(ms.grad(lambda x: ms.sum((x @ W) ** 2))(x)), rtol=1e-4, atol=1e-3)


def test_python_does_the_same() -> None:
    x = drawn(1, 2, 2, 24)
    closed = lambda x: windows(x, WINDOW, CHANNEL, CHANNEL, CHANNEL)  # noqa: E731
    native = np.asarray(ms.jit(closed)(x))
    with flags.override(backend="python"):
        assert np.asarray(ms.jit(closed)(x)).tobytes() == native.tobytes()


def test_from_disk_it_is_the_same() -> None:
    x = drawn(40, 256)
    first = np.asarray(ms.jit(_closed(W))(x))
    executables._built.clear()
    assert np.asarray(ms.jit(_closed(W))(x)).tobytes() == first.tobytes()
