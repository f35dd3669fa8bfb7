"""A target's facts choose tiles, blocks and how sweeps are dealt; they change no bit of a result.

The facts are those of another machine (wide vectors and many registers, or narrow and few, large caches or small), the
instructions those of this one: LLVM splits or joins the vectors. So what is chosen for AVX-512 runs on any machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

import mainspring as ms
from mainspring import nn
from mainspring.base import flags
from mainspring.compile.target import TARGETS, Target, native

HERE = native()
FACTS = {
    "wide": replace(HERE, vector_registers=32, vector_bytes=64, l1_bytes=48 << 10, l2_bytes=2 << 20),
    "narrow": replace(HERE, vector_registers=16, vector_bytes=16, l1_bytes=32 << 10, l2_bytes=256 << 10),
}


def normal(*shape: int) -> ms.Tensor:
    return ms.asarray(np.random.default_rng(len(shape)).standard_normal(shape, np.float32))


def bytes_of(*shape: int) -> ms.Tensor:
    return ms.asarray(np.random.default_rng(len(shape)).integers(-128, 128, shape, np.int8))


def gradients(of: Callable[..., Any], count: int) -> Callable[..., Any]:
    """The sum of the squares of what `of` gives, and the gradients to its first `count` arguments."""
    return ms.value_and_grad(lambda *xs: ms.sum(ms.square(of(*xs))), tuple(range(count)))


PROGRAMS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "products": (gradients(lambda x, a, b: ms.gelu(x @ a) @ b, 3), (normal(50, 300), normal(300, 90), normal(90, 70))),
    "deep product": (lambda x, y: x.T @ y, (normal(3000, 20), normal(3000, 40))),
    "attention": (gradients(partial(ms.attention, causal=True), 3), tuple([normal(2, 3, 50, 24)] * 3)),
    "rows": (gradients(lambda x, w, b: ms.softmax(ms.layer_norm(x, w, b)) * ms.erf(x), 3),
             (normal(40, 333), normal(333), normal(333))),
    "convolution": (gradients(lambda x, w: ms.relu(ms.conv(x, w, padding=1, stride=2)), 2),
                    (normal(2, 11, 11, 5), normal(3, 3, 5, 24))),
    "lstm": (gradients(lambda model, x: model(x), 1), (nn.LSTM.create(ms.random.key(0), 20, 48), normal(11, 7, 20))),
    "bfloat16": (ms.Precision(compute=ms.bfloat16)(gradients(lambda x, w: x @ w.T, 2)), (normal(50, 130), normal(70, 130))),
    "int8": (lambda x, a, b: [ms.matmul(x, w, dtype=ms.int32) for w in (a, b.T)],
             (bytes_of(40, 130), bytes_of(130, 50), bytes_of(50, 130))),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_facts_change_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, arguments = PROGRAMS[name]

    def bits(target: str, facts: Target) -> list[bytes]:
        monkeypatch.setitem(TARGETS, target, replace(facts, name=target))
        with flags.override(target=target, cache=""):
            return [np.asarray(x).tobytes() for x in ms.tree.leaves(ms.jit(function)(*arguments))]

    wide, narrow = (bits(kind, facts) for kind, facts in FACTS.items())
    assert wide == narrow
