"""Memory of results: on cache lines, and given back to a pool, so that a large result is not new pages every time.

With this you can ask for memory (`allocate`), or for a function that gives pieces of one size (`supplier`). A block of POOLED
bytes or more returns to the pool when nobody refers to it any more, neither a tensor nor a NumPy view of it; the pool keeps at
most POOL_BYTES and gives a block to the next result of its size. The system hands out and zeroes fresh pages at a few GB/s,
which would cost an elementwise kernel more than its work.
"""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial

import numpy as np

ALIGNMENT = 64  # bytes: a full vector, a cache line
POOLED = 1 << 16
POOL_BYTES = 1 << 28
KEPT = 3  # pieces that a supplier keeps: two that a loop alternates between, and one that outlives them
_PAGE = 4096

_free: defaultdict[int, list[np.ndarray]] = defaultdict(list)
_kept = 0  # bytes in the pool


def _alone() -> int:
    """What Python counts of memory that one object holds, and the local name that is asked about."""
    memory, _ = piece = (np.empty(1, np.uint8), 0)
    return sys.getrefcount(memory) if piece else 0


_ALONE = _alone()


class _Block(np.ndarray):
    """Memory that goes back to the pool. A view of it refers to the array below (NumPy shortens chains of views), so that one's
    references are counted: memory that a view still shows is left to that view."""

    def __del__(self) -> None:
        global _kept
        memory = self.base
        if type(memory) is np.ndarray and memory.nbytes == self.nbytes and sys.getrefcount(memory) == _ALONE \
                and _kept + memory.nbytes <= POOL_BYTES:
            _kept += memory.nbytes
            _free[memory.nbytes].append(memory)


def allocate(nbytes: int) -> tuple[np.ndarray, int]:
    """New memory of at least `nbytes`, and the first address in it on a cache line (NumPy promises 16 bytes)."""
    memory = np.empty(nbytes + ALIGNMENT, np.uint8) if nbytes < POOLED else _pooled(nbytes)
    start = memory.__array_interface__["data"][0]
    return memory, start + -start % ALIGNMENT


def supplier(nbytes: int) -> Callable[[], tuple[np.ndarray, int]]:
    """A function that gives memory of `nbytes` as `allocate` does, and small memory again once nobody else refers to it.

    It keeps the last few pieces that it gave. A loop that drops a result when it has the next one stays in one or two of them,
    which costs no allocation and finds them in the first-level cache.
    """
    if nbytes + ALIGNMENT >= POOLED:
        return partial(allocate, nbytes)
    kept: deque[tuple[np.ndarray, int]] = deque()
    take, keep, references, tries = kept.popleft, kept.append, sys.getrefcount, range(KEPT)

    def supply() -> tuple[np.ndarray, int]:
        for _ in tries:
            try:
                memory, start = piece = take()  # no other thread sees it now
            except IndexError:
                break
            free = references(memory) == _ALONE
            keep(piece)
            if free:
                return memory, start
        memory, start = allocate(nbytes)
        keep((memory, start))
        if len(kept) > KEPT:
            take()
        return memory, start

    return supply


def aligned(nbytes: int, alignment: int = ALIGNMENT) -> np.ndarray:
    """New bytes that begin at a multiple of `alignment`, outside the pool: working memory that lives long."""
    memory = np.empty(nbytes + alignment, np.uint8)
    start = -memory.__array_interface__["data"][0] % alignment
    return memory[start : start + nbytes]


def _pooled(nbytes: int) -> np.ndarray:
    global _kept
    size = -(-(nbytes + ALIGNMENT) // _PAGE) * _PAGE
    try:
        memory = _free[size].pop()
        _kept -= size
    except IndexError:
        memory = np.empty(size, np.uint8)
    return memory.view(_Block)


def clear() -> None:
    """Give the pool's memory back to the system."""
    global _kept
    _free.clear()
    _kept = 0
