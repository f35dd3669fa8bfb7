"""The pool of result memory: blocks come back when nobody refers to them, and not before."""

import gc

import numpy as np

import mainspring as ms
from mainspring.runtime import buffers

SIZE = buffers.POOLED


def test_a_block_comes_back_when_nobody_refers_to_it():
    buffers.clear()
    memory, first = buffers.allocate(SIZE)
    view = np.ndarray((4,), np.float32, memory, 64)
    del memory
    assert buffers.allocate(SIZE)[1] != first  # the view still shows it
    buffers.clear()
    del view
    memory, first = buffers.allocate(SIZE)
    del memory
    assert buffers.allocate(SIZE)[1] == first


def test_blocks_lie_on_cache_lines_and_hold_what_was_asked_for():
    for nbytes in (1, 63, SIZE - 1, SIZE, 3 * SIZE + 5):
        memory, start = buffers.allocate(nbytes)
        begin = memory.__array_interface__["data"][0]
        assert start % buffers.ALIGNMENT == 0 and begin <= start and start + nbytes <= begin + memory.nbytes


def test_the_pool_keeps_no_more_than_its_limit():
    buffers.clear()
    held = [buffers.allocate(buffers.POOL_BYTES // 3)[0] for _ in range(4)]
    del held
    assert 0 < buffers._kept <= buffers.POOL_BYTES
    buffers.clear()


def test_results_that_are_kept_are_never_overwritten():
    f = ms.jit(lambda x: x + 1)
    x = ms.zeros((SIZE,))
    results, arrays = [], []
    for i in range(20):
        y = f(x + float(i))
        if i % 3 == 0:
            results.append(y)
        elif i % 3 == 1:
            arrays.append((i, np.asarray(y)))
        del y
    gc.collect()
    assert [float(y[0]) for y in results] == [float(i + 1) for i in range(0, 20, 3)]
    assert all((a == i + 1).all() for i, a in arrays)
