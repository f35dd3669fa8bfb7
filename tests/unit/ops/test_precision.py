"""`Precision`: products are those of rounded operands summed in float32, gradients' too; nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mainspring as ms
from mainspring import nn
from mainspring.base.errors import ArgumentError
from mainspring.compile.lower import prepare

HALF = ms.Precision(compute=ms.bfloat16)
RNG = np.random.default_rng(0)
A, B, C = (ms.asarray(RNG.standard_normal(shape).astype(np.float32)) for shape in ((9, 40), (40, 21), (9, 21)))


def rounded(x: Any) -> np.ndarray:
    return np.asarray(x.astype(ms.bfloat16).astype(ms.float32))


def same(x: Any, y: Any) -> None:
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def product(a: Any, b: Any) -> Any:
    return ms.matmul(a.astype(ms.bfloat16), b.astype(ms.bfloat16), dtype=ms.float32)


@pytest.mark.parametrize("how", [lambda f: f, ms.jit], ids=["eager", "compiled"])
def test_a_product_is_that_of_rounded_operands(how: Any) -> None:
    result = how(HALF(ms.matmul))(A, B)
    assert result.dtype is ms.float32
    same(result, how(product)(A, B))
    np.testing.assert_allclose(np.asarray(result), rounded(A) @ rounded(B), rtol=1e-5, atol=1e-5)


def test_gradients_are_products_of_rounded_operands_and_not_rounded_themselves() -> None:
    def pulled(a: Any, b: Any, c: Any) -> Any:
        return ms.vjp(ms.matmul, a, b)[1](c)

    da, db = ms.jit(HALF(pulled))(A, B, C)
    same(da, ms.jit(lambda c, b: product(c, b.T))(C, B))
    same(db, ms.jit(lambda a, c: product(a.T, c))(A, C))
    assert da.dtype is db.dtype is ms.float32 and (rounded(da) != np.asarray(da)).any()


def test_a_convolution_and_its_gradients() -> None:
    x, w = (ms.asarray(RNG.standard_normal(shape).astype(np.float32)) for shape in ((2, 7, 7, 5), (3, 3, 5, 18)))

    def of(x: Any, w: Any) -> Any:
        return ms.sum(ms.square(ms.conv(x, w, padding="same")))

    near = [ms.asarray(rounded(v)) for v in (x, w)]
    for got, want in zip(ms.jit(HALF(ms.grad(of, argnums=(0, 1))))(x, w), ms.grad(of, argnums=(0, 1))(*near), strict=True):
        assert got.dtype is ms.float32
        assert np.abs(np.asarray(got) - np.asarray(want)).max() < 0.02 * np.abs(np.asarray(want)).max()


def test_only_products_change() -> None:
    block = nn.TransformerBlock.create(ms.random.key(0), 32, 2)
    graph = ms.jit(HALF(ms.grad(lambda m, x: ms.sum(m(x) ** 2)))).graph(block, ms.ones((2, 8, 32)))
    narrow = {n.op.name for n in graph.nodes() if getattr(n.type, "dtype", None) is ms.bfloat16}
    assert narrow <= {"cast", "transpose", "reshape"}
    products = [n for n in graph.nodes() if n.op.name == "contract"]
    assert len(products) == 12 and {i.dtype for n in products for i in n.inputs} == {ms.bfloat16}
    assert {n.dtype for n in products} == {ms.float32}


def test_bodies_of_loops_are_computed_so() -> None:
    def repeated(a: Any, b: Any) -> Any:
        return ms.scan(lambda x, _: (ms.matmul(x, b), None), a, length=3)[0]

    b = B[:, :9] @ ms.ones((9, 40)) / 40.0
    same(ms.jit(HALF(repeated))(A, b), ms.jit(lambda a, b: product(product(product(a, b), b), b))(A, b))


def test_a_compiled_function_is_traced_for_each_precision() -> None:
    compiled = ms.jit(ms.matmul)
    plain = [compiled(A, B), compiled(A, B)]
    with HALF.applied():
        half = [compiled(A, B), compiled(A, B)]
        with ms.Precision().applied():
            same(compiled(A, B), plain[0])
    for got in half:
        same(got, ms.jit(product)(A, B))
    same(compiled(A, B), plain[1])


def test_weights_may_be_kept_in_bfloat16() -> None:
    kept = ms.Precision(compute=ms.bfloat16, params=ms.bfloat16)
    layer = nn.Linear.create(ms.random.key(1), 40, 21)
    small = kept.cast(layer)
    assert small.weight.dtype is ms.bfloat16
    same(ms.jit(kept(lambda m, x: m(x)))(small, A), ms.jit(HALF(lambda m, x: m(x)))(layer, A))


def test_weights_in_bfloat16_are_multiplied_where_they_lie() -> None:
    kept = ms.Precision(compute=ms.bfloat16, params=ms.bfloat16)
    w = B.T.astype(ms.bfloat16)
    graph = prepare(ms.jit(kept(lambda w, x: ms.matmul(x, w.T))).graph(w, A))
    right = next(n for n in graph.nodes() if n.op.name == "contract").inputs[1]
    assert right.op.name == "transpose" and right.inputs[0] is graph.inputs[0]


def test_wider_floats_and_integers_stay_as_they_are() -> None:
    wide, whole = A.astype(ms.float64), (A * 9).astype(ms.int32)
    same(HALF(ms.matmul)(wide, wide.T), ms.matmul(wide, wide.T))
    same(HALF(ms.matmul)(whole, whole.T), ms.matmul(whole, whole.T))


@pytest.mark.parametrize("wrong", [{"compute": ms.float16}, {"params": ms.int8}, {"compute": "float64"}], ids=str)
def test_other_dtypes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        ms.Precision(**wrong)
