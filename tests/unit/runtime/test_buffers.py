"""The pool of result memory: blocks come back when nobody refers to them, and not before."""

import gc
import threading

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


def test_a_supplier_gives_a_piece_again_once_nobody_refers_to_it():
    supply = buffers.supplier(100)
    memory, first = supply()
    view = np.ndarray((4,), np.float32, memory, first - memory.__array_interface__["data"][0])[1:]
    del memory
    second, other = supply()
    assert other != first  # the view still shows it
    del view, second
    assert {supply()[1], supply()[1]} == {first, other}


def test_a_supplier_keeps_few_pieces_and_none_that_is_large():
    supply = buffers.supplier(100)
    held = [supply() for _ in range(10)]
    assert len({start for _, start in held}) == 10
    starts = {start for _, start in held}
    del held
    kept = {supply()[1] for _ in range(10)}
    assert kept <= starts and len(kept) <= buffers.KEPT
    buffers.clear()
    large = buffers.supplier(SIZE)
    memory, first = large()
    del memory
    assert buffers.allocate(SIZE)[1] == first  # it went to the pool


def test_small_results_that_are_kept_are_never_overwritten_by_any_thread():
    f = ms.jit(lambda x: x + 1)
    wrong = []

    def work(seed: int) -> None:
        kept = []
        for i in range(400):
            x = np.full(5, seed * 1000 + i, np.float32)
            y = f(x)
            kept.append((i, y if i % 2 else y.numpy()[1:]))
            kept = kept[-3:] if i % 7 else kept[:1]
            wrong.extend([i for i, z in kept if float(z[0]) != seed * 1000 + i + 1])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
