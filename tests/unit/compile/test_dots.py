"""Dot instructions: what they mean, that they are used where a target has them, and that no product depends on them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from llvmlite import ir

import mainspring as ms
from mainspring.base import flags
from mainspring.compile.emit import codegen
from mainspring.compile.emit.array_code import OPERATIONS, fma
from mainspring.compile.emit.llvm import emit_kernel
from mainspring.compile.lower import lower
from mainspring.compile.program import kernels
from mainspring.compile.target import by_name, native
from tests.unit.compile.native import elementwise

RNG = np.random.default_rng(3)
BF16 = "x86-64-v4-bf16"
on_x86 = pytest.mark.skipif(not native().triple.startswith("x86_64"), reason="MS_TARGET must be of this architecture")


def words(elements: np.ndarray) -> np.ndarray:
    """Rows of 32 bits as words."""
    return np.ascontiguousarray(elements).view(np.uint32).reshape(-1)


def edges(kind: str) -> list[int]:
    """Numbers at the ends of a range, and in its middle."""
    info = np.iinfo(kind)
    return [info.min, info.min + 1, info.max // 2, info.max - 1, info.max]


@pytest.mark.parametrize("role", ["vector", "serial"])
@pytest.mark.parametrize("op, first, second", [("dot_i8", "int8", "int8"), ("dot_u8", "uint8", "int8"),
                                               ("dot_i16", "int16", "int16")])
def test_integers_are_exact(op: str, first: str, second: str, role: str) -> None:
    width = 4 // np.dtype(first).itemsize
    x, y = (np.concatenate([np.repeat(e.ravel(), width), RNG.choice(edges(kind), 8 * width)]).astype(kind).reshape(-1, width)
            for kind, e in zip((first, second), np.meshgrid(edges(first), edges(second)), strict=True))
    total = RNG.integers(-(2**31), 2**31, len(x)).astype(np.int32)
    want = (total.astype(np.int64) + (x.astype(np.int64) * y).sum(-1)).astype(np.int32)
    np.testing.assert_array_equal(elementwise(op, total, words(x), words(y), role=role), want)
    np.testing.assert_array_equal(OPERATIONS[op](total, words(x), words(y)), want)


@pytest.mark.parametrize("role", ["vector", "serial"])
def test_bfloat16_adds_the_upper_product_and_then_the_lower_one(role: str) -> None:
    x, y = (RNG.standard_normal((200, 2)).astype(ml_dtypes.bfloat16) for _ in range(2))
    total = (RNG.standard_normal(200) * 100).astype(np.float32)
    a, b = x.astype(np.float32), y.astype(np.float32)
    want = fma(a[:, 0], b[:, 0], fma(a[:, 1], b[:, 1], total))
    np.testing.assert_array_equal(elementwise("dot_bf16", total, words(x), words(y), role=role), want)
    np.testing.assert_array_equal(OPERATIONS["dot_bf16"](total, words(x), words(y)), want)


def product(x: Any, w: Any) -> Any:
    return ms.matmul(x, w, dtype=ms.int32 if x.dtype.kind == "int" else ms.float32)


@pytest.mark.parametrize(
    ("target", "dtype", "instruction"),
    [("x86-64-v3", "int8", "vpmaddwd"), ("x86-64-v4", "int8", "vpmaddwd"), (BF16, "int8", "vpdpbusd"),
     (BF16, "int16", "vpdpwssd"), (BF16, "bfloat16", "vdpbf16ps"), ("aarch64-dotprod", "int8", "sdot")],
)  # fmt: skip
def test_a_target_that_has_the_instruction_gets_it(target: str, dtype: str, instruction: str) -> None:
    x, w = (ms.ones(shape, dtype=dtype) for shape in ((64, 96), (96, 64)))
    module, machine = ir.Module(), by_name(target)
    for i, kernel in enumerate(kernels(lower(ms.jit(product).graph(x, w), machine).program.instrs)):
        emit_kernel(module, kernel, f"k{i}", machine)
    text = codegen.assembly(module, machine)
    step = text.count(instruction)
    assert step >= 8
    assert dtype != "bfloat16" or (text.count("vfmadd") == 0 and text.count("zmm") > step)


@on_x86
@pytest.mark.parametrize("kinds", [("int8", "int8"), ("uint8", "int8"), ("int8", "uint8"), ("uint8", "uint8"),
                                   ("int16", "int8")], ids="-".join)
def test_every_mixture_of_integers_is_exact(kinds: tuple[str, str]) -> None:
    def products(x: Any, w: Any, across: Any) -> Any:
        return [ms.matmul(a, b, dtype=ms.int32) for a, b in ((x, w), (x, across.T), (w.T, x.T))]

    shapes = ((6, 27), (27, 17))  # behind the whole words of four elements come three more
    x, w = (RNG.choice([*edges(kind), 3], shape).astype(kind) for kind, shape in zip(kinds, shapes, strict=True))
    want = (x.astype(np.int64) @ w.astype(np.int64)).astype(np.int32)
    for target in (BF16, "native"):
        with flags.override(target=target, backend="python" if target == BF16 else "llvm", cache=""):
            got = ms.jit(products)(*[ms.asarray(a) for a in (x, w, w.T.copy())])
        for result, expected in zip(got, (want, want, want.T), strict=True):
            np.testing.assert_array_equal(np.asarray(result), expected)


#: a strip, chains apart, tiles of every layout with an odd end, chunks, and a long k with a small result
CASES = [("mk,kn->mn", 2, 20, 33), ("mk,nk->mn", 1, 20, 512), ("mk,kn->mn", 3, 17, 270), ("mk,kn->mn", 9, 18, 35),
         ("mk,nk->mn", 9, 18, 34), ("km,nk->mn", 7, 17, 259), ("km,kn->mn", 4, 8, 4097)]


def bits(target: str, function: Any, *arguments: Any) -> list[bytes]:
    """The bytes of all results on `target`: of loops run by Python, where this machine may not have its instructions."""
    with flags.override(target=target, backend="python" if target == BF16 else "llvm", cache=""):
        compiled = ms.jit(ms.Precision(compute=ms.bfloat16)(function))
        return [np.asarray(r).tobytes() for r in ms.tree.leaves(compiled(*arguments))]


def normal(*shape: int) -> Any:
    return ms.asarray(RNG.standard_normal(shape).astype(np.float32))


@on_x86
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_product_has_the_same_bits_with_and_without_the_instruction(case: tuple[str, int, int, int]) -> None:
    spec, extents = case[0], dict(zip("mnk", case[1:], strict=True))
    x, w = (normal(*[extents[c] for c in labels]) for labels in spec.split("->")[0].split(","))
    assert bits(BF16, lambda x, w: ms.einsum(spec, x, w), x, w) == bits("x86-64-v3", lambda x, w: ms.einsum(spec, x, w), x, w)


@on_x86
def test_a_convolution_has_the_same_bits_with_and_without_the_instruction() -> None:
    of = ms.value_and_grad(lambda x, w: ms.sum(ms.square(ms.conv(x, w, padding=1))), (0, 1))
    x, w = normal(2, 5, 5, 3), normal(3, 3, 3, 9)
    assert bits(BF16, of, x, w) == bits("x86-64-v3", of, x, w)
