"""Loops cut at their seams: joined, rolled and padded tensors are read as vectors, and no bit of a result changes."""

import gc

import numpy as np
import pytest

import mainspring as ms
from mainspring.compile import loopnest
from mainspring.compile.loops import LANES, Buffer, For, all_expressions, load
from mainspring.compile.lower import lower
from mainspring.compile.program import kernels
from mainspring.compile.seams import _seams, cut
from mainspring.compile.target import by_name
from mainspring.ir.scalar import compare, const, var, walk, where
from mainspring.types.dtype import float32, int64
from tests.unit.runtime.programs import store


def normal(*shape):
    return ms.asarray(np.random.default_rng(0).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("op", ["lt", "le"])
def test_a_seam_is_where_the_condition_changes(op):
    i = var("i", 60)
    for k in (-3, -2, -1, 1, 2, 3):
        for constant in range(-70, 71, 7):
            holds = [k * j + constant < (op == "le") for j in range(-100, 101)]
            changes = [j for j in range(-99, 101) if holds[j + 100] != holds[j + 99]]
            condition = compare(op, i * k + constant, const(0, int64))
            assert condition.op == "const" or _seams(condition, i, 60) == changes


def loop(extent, seam):
    i, x, y = var("i", extent), Buffer("x", float32, 2 * extent), Buffer("y", float32, extent)
    body = store(y, i, where(i < seam, load(x, i, i < seam), load(x, i + extent, compare("le", seam, i))))
    return For(i, const(0, int64), const(extent, int64), (body,), "vector")


def test_between_seams_nothing_is_asked():
    pieces = cut(loop(64, 40))
    assert [p.stop.attr for p in pieces] == [40, 24]
    assert not any(x.op in ("where", "lt", "le") for p in pieces for x in walk(*all_expressions(p)))


@pytest.mark.parametrize("seam", [1, LANES - 1, 64 - LANES + 1, 63])
def test_a_piece_of_less_than_a_vector_is_not_cut_off(seam):
    assert len(cut(loop(64, seam))) == 1


CASES = {
    "concat": lambda x: ms.concat([x * 2, -x, x + 1], axis=-1),
    "concat in the middle": lambda x: ms.concat([x, x * x], axis=1),
    "roll": lambda x: ms.roll(x, 21, axis=-1),
    "pad": lambda x: ms.pad(x, ((0, 0), (0, 0), (16, 17))),
    "rotary": lambda x: ms.rotary(ms.reshape(x, (3, 5, 1, 64))),
    "softmax of two": lambda x: ms.softmax(ms.concat([x, -x], axis=-1)),
}


@pytest.mark.parametrize("name", CASES)
def test_no_bit_of_a_result_changes(name, monkeypatch):
    x, function = normal(3, 5, 64), CASES[name]
    both = (function, ms.grad(lambda x: ms.sum(function(x) ** 2)))
    results = [ms.jit(f)(x).numpy().tobytes() for f in both]
    gc.collect()  # an executable lives as long as who asked for it
    monkeypatch.setattr(loopnest, "cut", lambda loop: (loop,))
    assert [ms.jit(f)(x).numpy().tobytes() for f in both] == results


@pytest.mark.parametrize("name", ["concat", "roll", "pad", "rotary"])
def test_kernels_have_no_mask(name):
    program = lower(ms.jit(CASES[name]).graph(normal(3, 5, 64)), by_name("x86-64-v3")).program
    found = {x.op for k in kernels(program.instrs) for stmt in k.body for x in walk(*all_expressions(stmt))}
    assert "load" in found and not {"where", "lt", "le"} & found
