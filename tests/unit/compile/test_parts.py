"""A batch in parts: what can be cut, and that no bit tells whether it was."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import mainspring as ms
from mainspring.base import flags
from mainspring.compile import lower as lowering
from mainspring.compile import parts
from mainspring.compile.lower import lower
from mainspring.compile.parts import in_parts
from mainspring.compile.program import OWN, Barrier, Launch, Program, Repeat
from mainspring.compile.target import chosen
from mainspring.runtime.native import NativeProgram

RNG = np.random.default_rng(0)


def drawn(*shape: int) -> ms.Tensor:
    return ms.asarray(RNG.standard_normal(shape, np.float32))


X, W, V = drawn(6, 9, 9, 8), drawn(3, 3, 8, 20), drawn(3, 3, 20, 20)
SHORT, BIAS, HEAD = drawn(1, 1, 8, 20), drawn(20), drawn(20, 5)
LARGE = drawn(32, 32, 32, 32), drawn(3, 3, 32, 32)


def network(x, w, v, short, bias, head):
    h = ms.relu(ms.conv(x, w, padding=1, stride=2) + bias)
    h = ms.relu(ms.conv(h, v, padding=1) + ms.conv(x, short, stride=2))
    h = ms.max_pool(h, 2)
    return ms.softmax(ms.reshape(ms.mean(h, axis=(1, 2)), (x.shape[0], -1)) @ head, axis=-1)


WEIGHTS = (W, V, SHORT, BIAS, HEAD)
CUT = {
    "a network": lambda x: network(x, *WEIGHTS),
    "several results": lambda x: (ms.conv(x, W), ms.sum(x, axis=(1, 2, 3))),
    "in another form": lambda x: ms.reshape(ms.conv(ms.pad(x, ((0, 0), (2, 1), (0, 0), (0, 0))), W), (6, -1))[:, 3:200:2],
    "pixels of bytes": lambda x: ms.conv(ms.astype(ms.astype(x * 20, ms.int8), ms.float32) / 255, W),
    "beside what is made of weights": lambda x: ms.conv(x, W * ms.softmax(BIAS)) + ms.tanh(BIAS @ HEAD[:, :1]),
}
WHOLE = {
    "norms over the batch": lambda x: (y := ms.conv(x, W)) - ms.mean(y, axis=0),
    "turned round": lambda x: ms.flip(ms.conv(x, W), axis=0),
    "every other": lambda x: ms.conv(x, W)[::2],
    "a sum": lambda x: ms.sum(ms.conv(x, W)),
    "beside its number": lambda x: ms.conv(x, W) + ms.reshape(ms.arange(6, dtype=ms.float32), (6, 1, 1, 1)),
    "each with each": lambda x: (y := ms.reshape(ms.conv(x, W), (6, -1))) @ ms.permute_dims(y, (1, 0)),
    "no windows": lambda x: ms.reshape(x, (6, -1)) @ drawn(648, 20),
}


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many parts as there are images."""
    monkeypatch.setattr(parts, "_count", lambda cut, batch, target: batch)


def compiled(function, *args) -> Program:
    found = ms.jit(function).graph(*args)
    return lower(found, chosen(), lasting=len(found.inputs) - len(args)).program


def rounds(program: Program) -> list[Repeat]:
    return [i for i in program.instrs if isinstance(i, Repeat) and i.apart]


@pytest.mark.parametrize("name", CUT)
def test_parts_have_the_bits_of_the_whole(name: str, one_by_one: None, monkeypatch: pytest.MonkeyPatch) -> None:
    function = CUT[name]
    repeat, = rounds(compiled(function, X))
    assert repeat.count == 6 and all(isinstance(i, Launch) for i in repeat.body)
    with flags.override(threads=3):
        got = [ms.tree.flatten(ms.jit(function)(X))[0] for _ in range(2)]
    monkeypatch.setattr(lowering, "in_parts", lambda *_: None)
    expected = ms.tree.flatten(lowered_anew(function, X))[0]
    for some in got:
        for a, b in zip(some, expected, strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_python_does_the_same(one_by_one: None) -> None:
    x, w, v = drawn(3, 4, 4, 2), drawn(2, 2, 2, 3), drawn(2, 2, 3, 3)
    function = ms.jit(lambda x: ms.relu(ms.conv(ms.relu(ms.conv(x, w)), v, padding=1)))
    native = np.asarray(function(x))
    with flags.override(backend="python"):
        assert np.asarray(function(x)).tobytes() == native.tobytes()


def lowered_anew(function, x):
    """The result of `function`, by another graph, so that no cached program of it is taken."""
    return ms.jit(lambda x: (function(x), x[0, 0, 0, 0] + 7))(x)[0]


@pytest.mark.parametrize("name", WHOLE)
def test_what_images_have_in_common_is_not_cut(name: str, one_by_one: None) -> None:
    assert not rounds(compiled(WHOLE[name], X))


def test_weights_that_are_arguments_are_read_whole(one_by_one: None) -> None:
    found = ms.jit(network).graph(X, *WEIGHTS)
    cut = in_parts(found, 0, chosen())
    assert cut is not None and cut.moving == {0} and cut.count == 6
    program = compiled(network, X, *WEIGHTS)
    assert any(launch.kernel.name == "pack" for launch in program.instrs if isinstance(launch, Launch))
    assert not any(launch.kernel.name == "pack" for launch in rounds(program)[0].body)


def test_a_batch_as_large_as_the_channels(one_by_one: None) -> None:
    x = drawn(20, 6, 6, 8)
    bias = ms.jit(lambda x, w, bias: ms.conv(x, w) + bias).graph(x, W, BIAS)
    cut = in_parts(bias, 0, chosen())
    assert cut is not None and cut.moving == {0}


def test_costs_lead_to_parts_of_what_no_cache_holds() -> None:
    def deep(x, w):
        for _ in range(3):
            x = ms.relu(ms.conv(x, w, padding=1))
        return x

    images, w = LARGE
    assert rounds(compiled(lambda x: deep(x, w), images))
    assert not rounds(compiled(lambda x: deep(x, w), images[:1]))
    assert not rounds(compiled(lambda x: deep(x, w), images[:2]))


def test_memory_of_a_round_is_the_threads_own(one_by_one: None) -> None:
    program = compiled(CUT["a network"], X)
    repeat, = rounds(program)
    refs = [r for launch in repeat.body for r in launch.refs if r.base == OWN]
    assert refs and program.own >= max(r.offset for r in refs) and program.own % 128 == 0
    assert not any(r.base == OWN for i in program.instrs if isinstance(i, Launch) for r in i.refs)
    assert not any(isinstance(a, Barrier) and isinstance(b, Barrier) for a, b in pairwise(program.instrs))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_several_runs_in_one_call(threads: int, one_by_one: None) -> None:
    function = ms.jit(lambda x, w: ms.relu(ms.conv(x, w, padding=1)))
    images, w = [np.asarray(drawn(6, 9, 9, 8)) for _ in range(3)], np.asarray(W)
    native = NativeProgram(lower(function.graph(X, W), chosen()).program)
    outs = [np.zeros((6, 9, 9, 20), np.float32) for _ in images]
    native.alone = False
    with flags.override(threads=threads):
        for _ in range(2):
            native.run_each([(x.ctypes.data, w.ctypes.data, y.ctypes.data) for x, y in zip(images, outs, strict=True)])
    for x, y in zip(images, outs, strict=True):
        assert np.array_equal(y, np.asarray(function(ms.asarray(x), W)))
