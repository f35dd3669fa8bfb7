"""Groups that are alike are lowered once: the program is the one that lowers each for itself."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest

import mainspring as ms
from mainspring.compile import lower as lowering
from mainspring.compile.canonical import program_text
from mainspring.compile.fusion.likeness import Likeness, likeness
from mainspring.compile.lower import lower
from mainspring.compile.program import Launch, Program
from mainspring.compile.target import chosen

RNG = np.random.default_rng(0)


def drawn(*shape: int) -> ms.Tensor:
    return ms.asarray(RNG.standard_normal(shape, np.float32))


X, W, V = drawn(24, 40), drawn(40, 40), drawn(40, 40)
IMAGE, LARGER, WINDOW, OTHER = drawn(2, 32, 32, 32), drawn(2, 34, 34, 32), drawn(3, 3, 32, 32), drawn(3, 3, 32, 32)


def layers(x, *weights):
    for w in weights:
        x = x + ms.tanh(ms.rms_norm(x, ms.ones(40)) @ w)
    return ms.sum(x * x)


ALIKE = {
    "layers and their gradients": (ms.value_and_grad(lambda ws, x: layers(x, *ws)), ((W, V, W * 2), X)),
}
UNLIKE = {
    "one in a loop": (
        lambda x, w, v: ms.scan(lambda h, _: (ms.tanh(h @ w), ms.sum(h)), ms.tanh(x @ v), ms.arange(3)), (X, W, V)),
    "other literals": (lambda x, y: (ms.sin(x) * 2, ms.sin(y) * 3), (X, X + 1)),
    "operands in turn": (lambda x, y: (ms.sin(x) - y, x - ms.sin(y)), (X, X + 1)),
    "one operand twice": (lambda x, y: (ms.sin(x) * ms.exp(y), ms.sin(x) * ms.exp(x)), (X, X + 1)),
    "one stores more": (lambda x, w, v: (y := ms.exp(x @ w), ms.sin(ms.exp(x @ v)), ms.sum(y, axis=0)), (X, W, V)),
    "one with zeros around it": (
        lambda x, w, v: (ms.conv(ms.relu(ms.conv(x, w, padding=1)), v, padding=1), ms.relu(ms.conv(x, v, padding=1))),
        (IMAGE, WINDOW, OTHER)),
    "one reads zeros around an image": (
        lambda x, y, w, v: (ms.conv(ms.relu(ms.conv(x, w, padding=1)), v, padding=1), ms.conv(y, v)),
        (IMAGE, LARGER, WINDOW, OTHER)),
    "one lasts": (lambda x, w: (x @ w, x @ V), (X, W)),
}


def programs(function, args) -> Program:
    found = ms.jit(function).graph(*args)
    lasting = len(found.inputs) - len(ms.tree.flatten(args)[0])
    return lower(found, chosen(), lasting=lasting).program


@pytest.mark.parametrize("name", [*ALIKE, *UNLIKE])
def test_it_is_the_program_that_lowers_each_for_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, args = (ALIKE | UNLIKE)[name]
    shared = programs(function, args)
    launched = [i.kernel for i in shared.instrs if isinstance(i, Launch)]
    assert (len(set(launched)) < len(launched)) == (name in ALIKE)
    number = count()
    monkeypatch.setattr(lowering, "likeness", lambda *of: Likeness(next(number), likeness(*of).operands))
    assert program_text(shared) == program_text(programs(function, args))
