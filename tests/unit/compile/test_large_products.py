"""What large products bring near and copy: for any tail, and no bit depends on it."""

from dataclasses import replace

import numpy as np
import pytest

import mainspring as ms
from mainspring.base import flags
from mainspring.compile import choose, sites
from mainspring.compile.loops import show_kernel
from mainspring.compile.lower import lower
from mainspring.compile.products.blocking import ADDRESSES, PAGE, Extents, blocking, candidates, way_of
from mainspring.compile.program import kernels
from mainspring.compile.target import by_name
from mainspring.compile.target.costs import COSTS
from mainspring.types.dtype import float32


@pytest.fixture(autouse=True)
def every_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites, "MOST", 1 << 20)


def operands(m: int, n: int, k: int) -> list[ms.Tensor]:
    random = np.random.default_rng(m * n + k)
    return [ms.asarray(random.standard_normal(shape).astype(np.float32)) for shape in ((m, k), (k, n))]


def text(m: int, n: int, k: int, blocking: str) -> str:
    found = lower(ms.jit(ms.matmul).graph(*operands(m, n, k)), by_name("x86-64-v3"), (), fixed(blocking)).program
    return show_kernel(next(kernel for kernel in kernels(found.instrs) if kernel.name == "tile"))


def fixed(blocking: str) -> choose.Fixed:
    return choose.Fixed((("tile", blocking),))


def test_a_tile_asks_for_its_results_and_for_the_next_panels() -> None:
    kernel = text(600, 1024, 1024, "6x1 50x32 kernel")
    assert "prefetch b2" in kernel and "to write" in kernel
    assert "prefetch panels" in kernel and "into level 2" in kernel
    assert "prefetch b1" in text(600, 1024, 1024, "6x1 100x32 task")  # the rows that the task packs next
    assert "into level 2" not in text(600, 96, 64, "6x1 50x6 kernel")  # all its panels are near


def test_rows_are_copied_across_where_many_columns_follow() -> None:
    assert "scratch left" in text(120, 96, 64, "6x1 20x6 kernel")
    assert "scratch left" not in text(120, 96, 64, "6x1 20x3 kernel")


def test_with_avx512_rows_that_share_a_set_of_the_cache_or_find_no_register_are_few() -> None:
    target = by_name("x86-64-v4")
    product = Extents(1, 1024, 256, 1024, 8, float32, "place", True, 1024, 1, True)
    held = target.l1_bytes // PAGE
    assert {way_of("place", b) for b in candidates(product, target)} == {"place", "across"}
    for costs in (COSTS["avx512"], COSTS["halves"]):
        found = blocking(product, replace(target, costs=costs))
        assert way_of("place", found) == "across" or found.rows <= held * 3 // 2
    assert blocking(replace(product, way="bases"), replace(target, costs=COSTS["halves"])).rows <= ADDRESSES


@pytest.mark.parametrize("m, n, k", [(13, 98, 70), (37, 130, 259), (6, 97, 1027)])
def test_no_bit_depends_on_copies_or_on_steps_in_a_row(m: int, n: int, k: int) -> None:
    a, b = operands(m, n, k)

    def product(blocking: str) -> bytes:
        with choose.using(fixed(blocking)):
            return ms.jit(lambda a, b: ms.matmul(a, b))(a, b).numpy().tobytes()

    panels = -(-n // 16)
    found = {product(f"6x1 {tiles}x{wide} {right}")
             for tiles in (1, -(-m // 6)) for wide in (1, panels) for right in ("task", "kernel")}
    if m * n * k < 100_000:
        with flags.override(backend="python"):
            found.add(product(f"6x1 {-(-m // 6)}x{panels} task"))
    assert len(found) == 1


@pytest.mark.parametrize("m", [3, 6, 8, 14, 31])
@pytest.mark.parametrize("tiles", [1, 3, 6])
def test_columns_are_copied_for_all_tiles_of_a_task(m: int, tiles: int) -> None:
    """The vectors of the last tiles reach beyond the last row; a task has fewer tiles than the others."""
    a, b = operands(m, 48, 150)
    turned = ms.asarray(np.ascontiguousarray(a.numpy().T))
    with choose.using(fixed(f"{min(m, 6)}x1 {min(tiles, -(-m // 6))}x3 kernel")):
        found = ms.jit(lambda a, b: ms.matmul(a.mT, b))(turned, b)
    assert found.numpy().tobytes() == ms.jit(ms.matmul)(a, b).numpy().tobytes()


@pytest.mark.parametrize("target", ["native", "x86-64-v3"])
@pytest.mark.parametrize("n", [8, 24, 104])
def test_half_a_vector_of_columns_changes_no_bit(n: int, target: str) -> None:
    a, b = operands(37, n, 150)
    wide = ms.concat([b, ms.zeros((150, -n % 16))], axis=1)

    def product(b: ms.Tensor) -> np.ndarray:
        return ms.jit(lambda a, b: ms.relu(ms.matmul(a, b)) - 1)(a, b).numpy()

    halves = [f"{rows}x{vectors}.5 {-(-37 // rows)}x{-(-n // (16 * vectors + 8))} {right}"
              for rows in (4, 8) for vectors in (0, 1, 2) for right in ("place", "kernel")]
    with flags.override(target=target, cache=""):
        whole = product(wide)[:, :n].tobytes()
        with flags.override(backend="python"):
            assert product(b).tobytes() == whole
        for blocking in halves:
            with choose.using(fixed(blocking)):
                assert product(b).tobytes() == whole
