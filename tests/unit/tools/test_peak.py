"""The peak meter: rates are rates, streams move what they should, LLVM emits the instructions that the table means."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from mainspring.compile.emit import codegen
from mainspring.compile.target import Target, native
from mainspring.runtime import team
from mainspring.runtime.buffers import aligned
from mainspring.tools import peak

_AVX512 = Target("t", "x86_64-unknown-linux-gnu", "sapphirerapids", "", 32, 64, frozenset({"avx512", "bf16", "vnni"}))
_NEON = Target("t", "aarch64-unknown-linux-gnu", "neoverse-n1", "", 32, 16, frozenset({"neon", "dotprod"}))
_AVX2 = Target("t", "x86_64-unknown-linux-gnu", "haswell", "", 16, 32, frozenset({"avx2"}))
SIZES = {"double": 8, "float": 4, "bfloat": 2, "i16": 2, "i8": 1}
INSTRUCTIONS = {  # on AVX2, AVX-512 with VNNI, NEON
    "llvm.fma": ("vfmadd", "vfmadd", "fmla"), "dpbf16": ("", "vdpbf16ps", ""), "vpdpbusd": ("", "vpdpbusd", ""),
    "sdot": ("", "", "sdot"), "pmadd.wd": ("vpmaddwd", "", ""), "pmaddw.d": ("", "vpdpwssd", ""),
}  # fmt: skip


def test_rates_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "_PRODUCT_SECONDS", 0.01)
    found = peak.measure(threads=2, memory=False)
    assert {"float32", "float64"} <= set(found.arithmetic) and not found.memory
    assert all(0.01 < rate < 1e6 for pair in found.arithmetic.values() for rate in (pair.one, pair.all))


@pytest.mark.parametrize("product", peak._PRODUCTS, ids=lambda p: f"{p.dtype}-{p.needs or 'any'}")
def test_a_product_kernel_is_its_instruction_over_and_over(product: peak._Product) -> None:
    names = next(found for part, found in INSTRUCTIONS.items() if part in product.call)
    for name, target in zip(names, (_AVX2, _AVX512, _NEON), strict=True):
        if name:
            text, operations = peak._product_text(product, target)
            count = target.vector_registers * 3 // 4
            assert codegen.assembly(text, target).count(name) == count
            assert operations == 2 * count * target.vector_bytes // SIZES[product.operand]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("kind", ["copy", "copy past caches"])
def test_a_copy_copies(kind: str, threads: int) -> None:
    size = 8 * native().vector_bytes * 13
    source, sink = aligned(size, peak._LINE), aligned(size, peak._LINE)
    source[:] = np.random.default_rng(0).integers(0, 256, size)
    words = (ctypes.c_int64 * 3)(size, source.ctypes.data, sink.ctypes.data)
    team.dispatch(peak._kernel(peak._stream_text(kind, native())).address, ctypes.addressof(words), threads)
    assert np.array_equal(source, sink)


def test_a_read_reads_everything() -> None:
    size = 8 * native().vector_bytes * 5
    source, sink = aligned(size, peak._LINE), aligned(128, peak._LINE)
    source[:] = np.random.default_rng(0).integers(0, 256, size)
    words = (ctypes.c_int64 * 3)(size, source.ctypes.data, sink.ctypes.data)
    team.dispatch(peak._kernel(peak._stream_text("read", native())).address, ctypes.addressof(words), 1)
    width = native().vector_bytes
    assert np.array_equal(sink[:width], np.bitwise_xor.reduce(source.reshape(-1, width)))
