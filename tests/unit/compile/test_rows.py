"""Kernels of rows: long rows are done in chunks within one task, with the bits that separate kernels would give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mainspring as ms
from mainspring import nn
from mainspring.compile.loops import Kernel
from mainspring.compile.lower import lower
from mainspring.compile.program import kernels
from mainspring.compile.target import native

RNG = np.random.default_rng(5)


def compiled(function: Callable[..., Any], *arguments: Any) -> list[Kernel]:
    return kernels(lower(ms.jit(function).graph(*arguments), native()).program.instrs)


def touching(found: list[Kernel], size: int) -> list[Kernel]:
    """The kernels that read or write something of at least `size` elements."""
    return [k for k in found if any(p.size >= size for p in k.params)]


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


WHOLE: dict[str, Callable[[Any], Any]] = {
    "softmax": ms.softmax,
    "log_softmax": ms.log_softmax,
    "layer_norm": ms.layer_norm,
    "max": lambda x: ms.max(x * 2.0, axis=-1),
    "sum": lambda x: ms.sum(x, axis=-1),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("width", [4097, 8192, 9001])
def test_a_long_row_has_the_same_bits_in_a_batch_of_any_size(name: str, width: int) -> None:
    """Few rows are split into kernels of chunks, many are not."""
    function, x = ms.jit(WHOLE[name]), normal(18, width)
    whole = np.asarray(function(ms.asarray(x)))
    parts = np.concatenate([np.asarray(function(ms.asarray(x[k : k + 9]))) for k in (0, 9)])
    np.testing.assert_array_equal(whole.view(np.int32), parts.view(np.int32))


@pytest.mark.parametrize("name", WHOLE)
def test_a_long_row_is_computed_by_one_kernel(name: str) -> None:
    assert len(compiled(WHOLE[name], ms.asarray(normal(18, 9001)))) == 1


@pytest.mark.parametrize("width", [65, 9001])
def test_cross_entropy_and_its_gradient_read_the_logits_in_one_kernel(width: int) -> None:
    """There is no second array of their size but the gradient."""
    logits, labels = ms.asarray(normal(32, width)), ms.asarray(np.arange(32, dtype=np.int32))
    large = touching(compiled(ms.value_and_grad(nn.cross_entropy), logits, labels), 32 * width)
    assert [sorted(p.size for p in k.params)[-3:] for k in large] == [[32, 32 * width, 32 * width]]


def test_the_gradient_of_cross_entropy_of_long_rows() -> None:
    logits, labels = normal(20, 5000), np.arange(20, dtype=np.int32) * 250
    value, gradient = ms.jit(ms.value_and_grad(nn.cross_entropy))(ms.asarray(logits), ms.asarray(labels))
    wide = logits.astype(np.float64)
    shares = np.exp(wide - wide.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    np.testing.assert_allclose(float(value), -np.log(shares[np.arange(20), labels]).mean(), rtol=1e-6)
    shares[np.arange(20), labels] -= 1
    np.testing.assert_allclose(np.asarray(gradient), shares / 20, atol=1e-8, rtol=1e-5)


@pytest.mark.parametrize("place", [0, 7, 16, 40])
def test_a_nan_anywhere_in_a_row_is_its_maximum(place: int) -> None:
    x = normal(20, 41)
    x[3, place] = np.nan
    found = np.asarray(ms.jit(lambda x: ms.max(x, axis=-1))(ms.asarray(x)))
    np.testing.assert_array_equal(found, x.max(-1))
