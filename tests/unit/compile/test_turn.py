"""Loops that transpose: found where they are safe, and the same elements as one by one."""

from dataclasses import replace

import numpy as np
import pytest

from mainspring.compile.emit.turn import turning
from mainspring.compile.loops import Buffer, For, Let, load, load_wide
from mainspring.compile.target import native
from mainspring.ir import scalar as S
from mainspring.types import dtype as D
from tests.unit.compile.native import number, run, store

DTYPES = (D.float32, D.float64, D.float16, D.bfloat16, D.int16, D.int32, D.int64)


def transposing(source: Buffer, target: Buffer, rows: int, columns: int, pitch: int, stop: S.Expr | None = None) -> For:
    """target[i + j·pitch] = source[i·columns + j] for j below `stop`, the beginning of row i bound by a Let."""
    i, j, begin = S.var("i", rows), S.var("j", columns), S.ref("begin", D.int64)
    end = number(columns) if stop is None else stop
    inner = For(j, number(0), end, (store(target, i + j * pitch, load(source, begin + j)),), "vector")
    return For(i, number(0), number(rows), (Let(begin, i * columns), inner))


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("rows, columns", [(16, 16), (16, 48), (33, 70), (9, 100), (100, 8), (4, 16), (6, 50), (22, 33)])
def test_blocks_and_their_tails(dtype: D.DType, rows: int, columns: int, width: int) -> None:
    pitch = rows + 3
    x = np.random.default_rng(0).integers(-99, 99, (rows, columns)).astype(dtype.numpy)
    source, target = Buffer("source", dtype, x.size), Buffer("target", dtype, columns * pitch)
    out = np.full((columns, pitch), 7, dtype.numpy)
    statement = transposing(source, target, rows, columns, pitch)
    assert turning(statement) is not None
    run((statement,), {source: x.ravel(), target: out.reshape(-1)}, target=replace(native(), vector_bytes=width))
    assert np.array_equal(out[:, :rows], x.T) and (out[:, rows:] == 7).all()


def test_words_of_several_elements_are_turned_as_a_whole() -> None:
    x = np.random.default_rng(0).integers(-99, 99, (33, 140)).astype(np.int16)
    source, target = Buffer("source", D.int16, x.size), Buffer("target", D.uint32, 70 * 40)
    i, j = S.var("i", 33), S.var("j", 70)
    word = load_wide(source, i * 140 + j * 2, D.uint32)
    statement = For(i, number(0), number(33), (For(j, number(0), number(70), (store(target, i + j * 40, word),), "vector"),))
    assert turning(statement) is not None
    out = np.zeros((70, 40), np.uint32)
    run((statement,), {source: x.ravel(), target: out.reshape(-1)})
    assert np.array_equal(out[:, :33], x.view(np.uint32).T) and not out[:, 33:].any()


def test_bounds_known_only_when_run() -> None:
    x = np.random.default_rng(0).normal(size=(20, 64)).astype(np.float32)
    source, target, limit = (Buffer(n, d, s) for n, d, s in
                             (("source", D.float32, x.size), ("target", D.float32, 64 * 20), ("limit", D.int64, 1)))
    for count in (0, 5, 16, 50, 64):
        out = np.zeros((64, 20), np.float32)
        statement = transposing(source, target, 20, 64, 20, load(limit, 0))
        run((statement,), {source: x.ravel(), target: out.reshape(-1), limit: np.array([count])})
        assert np.array_equal(out[:count], x.T[:count]) and not out[count:].any()


def test_what_overlaps_or_reads_what_it_writes_is_left_alone() -> None:
    source, target = Buffer("source", D.float32, 400), Buffer("target", D.float32, 4000)
    assert turning(transposing(source, target, 20, 20, 19)) is None  # row 19 and the next column's row 0 are one element
    assert turning(transposing(target, target, 20, 20, 20)) is None
    assert turning(transposing(source, target, 3, 20, 20)) is None  # not worth a block
