"""Kernels of rows: long rows are done in chunks within one task, with the bits that separate kernels would give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mainspring as ms
from mainspring import nn
from mainspring.base import flags
from mainspring.compile.loops import Kernel, Stmt, children, expressions, show_kernel
from mainspring.compile.lower import lower
from mainspring.compile.program import kernels
from mainspring.compile.target import native
from mainspring.ir.scalar import Expr, walk

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


def test_the_next_row_is_prefetched_and_no_bit_depends_on_it() -> None:
    x = normal(300, 256)
    assert "prefetch b1" in show_kernel(compiled(ms.layer_norm, ms.asarray(x))[0])
    found = np.asarray(ms.jit(ms.layer_norm)(ms.asarray(x)))
    alone = np.concatenate([np.asarray(ms.jit(ms.layer_norm)(ms.asarray(part))) for part in np.split(x, 3)])
    np.testing.assert_array_equal(found.view(np.int32), alone.view(np.int32))
    with flags.override(backend="python"):
        np.testing.assert_array_equal(np.asarray(ms.jit(ms.layer_norm)(ms.asarray(x))).view(np.int32), found.view(np.int32))


def test_a_step_with_dropout_keeps_a_byte_for_each_element_and_no_random_bits() -> None:
    """The mask is drawn once, from the counter; forward and backward read the same bytes, the products' epilogues apply it."""
    x, w, v, key = ms.asarray(normal(64, 48)), ms.asarray(normal(48, 96)), ms.asarray(normal(96, 48)), ms.random.key(3)

    def loss(w: Any, v: Any, key: Any) -> Any:
        return ms.sum(ms.square(ms.dropout(ms.gelu(ms.matmul(x, w)), 0.3, key) @ v))

    found = compiled(ms.grad(loss), w, v, key)
    drawn = [k for k in found if any(e.op == "shl" for stmt in k.body for e in walk(*all_expressions(stmt)))]
    assert [(p.dtype.name, p.size) for k in drawn for p in k.params if p in k.written] == [("bool", 64 * 96)]
    readers = [k for k in found if any(p.dtype.name == "bool" for p in k.params) and k not in drawn]
    assert readers and all(k.flops > 64 * 96 * 48 for k in readers)  # products, forward and backward


def all_expressions(stmt: Stmt) -> list[Expr]:
    return [*expressions(stmt), *(x for body in children(stmt) for inner in body for x in all_expressions(inner))]


@pytest.mark.parametrize("place", [0, 7, 16, 40])
def test_a_nan_anywhere_in_a_row_is_its_maximum(place: int) -> None:
    x = normal(20, 41)
    x[3, place] = np.nan
    found = np.asarray(ms.jit(lambda x: ms.max(x, axis=-1))(ms.asarray(x)))
    np.testing.assert_array_equal(found, x.max(-1))


@pytest.mark.parametrize("name", ["softmax", "layer_norm"])
@pytest.mark.parametrize("width", [5, 100, 700])
def test_rows_done_abreast_have_the_bits_of_rows_done_alone(name: str, width: int) -> None:
    function, x = ms.jit(WHOLE[name]), normal(67, width)
    assert compiled(WHOLE[name], ms.asarray(x))[0].tasks == (17 if width < 128 else 34)
    together = np.asarray(function(ms.asarray(x)))
    alone = np.concatenate([np.asarray(function(ms.asarray(x[k : k + 1]))) for k in (0, 3, 65, 66)])
    np.testing.assert_array_equal(together[[0, 3, 65, 66]].view(np.int32), alone.view(np.int32))
    with flags.override(backend="python"):
        loops = np.asarray(ms.jit(WHOLE[name])(ms.asarray(x)))
    np.testing.assert_allclose(loops, together, rtol=1e-5, atol=1e-6)
