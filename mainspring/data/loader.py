"""Batches, drawn in the background, in an order that is a pure function of a key.

With this you can train from any point: batch ``k`` of epoch ``e`` depends on `(key, e, k)` alone, so a loader that is
restored from its state goes on with exactly the batches that would have come.

    loader = Loader(dataset, 32, key=7)
    batch = next(loader)              # goes on for ever, epoch after epoch
    for batch in loader.one_epoch():  # the rest of this epoch
    state = loader.state()            # small and JSON-able; loader.restore(state) goes on from there
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mainspring.base.errors import ArgumentError, DataError
from mainspring.data.dataset import Source

PREFETCH = 2
SLOW_S = 2e-4  # a batch that takes less is not worth a thread, which costs half of that and competes for the interpreter
SLOW_BATCHES = 3  # so many in a row, as now and then one takes long by chance

Transform = Callable[[Any, np.random.Generator], Any]


@dataclass(frozen=True)
class Batches:
    """All batches of all epochs as a function: `batch(epoch, index)`.

    Args:
        source: what to draw from.
        batch_size: items in a batch.
        key: of the shuffle, 0 ≤ key < 2⁶⁴; None keeps the order of the source.
        drop_last: leave out the last batch of an epoch when it is not full.
        transform: called with each batch and a random generator of its own, for instance to augment images.
    """

    source: Source
    batch_size: int
    key: int | None = None
    drop_last: bool = True
    transform: Transform | None = None
    _orders: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)  # of the latest epoch only

    def __post_init__(self) -> None:
        example = "Loader(dataset, 32, key=7)"
        if self.batch_size < 1:
            raise ArgumentError("Loader", "batch_size", "it must be at least 1", str(self.batch_size), example)
        if self.key is not None and not 0 <= self.key < 1 << 64:
            raise ArgumentError("Loader", "key", "it must be an integer in 0..2⁶⁴-1, or None", str(self.key), example)
        if len(self) < 1:
            got = f"{len(self.source)} items, batch_size={self.batch_size}, drop_last={self.drop_last}"
            raise DataError("Loader", "source", "it must fill at least one batch", got, "Loader(dataset, 8, drop_last=False)")

    def __len__(self) -> int:
        """Batches in an epoch."""
        items = len(self.source)
        return items // self.batch_size if self.drop_last else -(-items // self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """The item numbers of an epoch in their order, int64 ``[len(source)]``.

        A stable sort of Philox's raw words: NumPy promises those words for all its versions, but no permutation.
        """
        found = self._orders.get(epoch)
        if found is None:
            found = self._new_order(epoch)
            self._orders.clear()
            self._orders[epoch] = found
        return found

    def _new_order(self, epoch: int) -> np.ndarray:
        items = len(self.source)
        if self.key is None:
            return np.arange(items, dtype=np.int64)
        return np.argsort(self._philox(epoch, 0).random_raw(items), kind="stable")

    def _philox(self, epoch: int, stream: int) -> np.random.Philox:
        return np.random.Philox(key=np.array([self.key or 0, epoch], np.uint64), counter=np.array([0, 0, stream, 0], np.uint64))

    def batch(self, epoch: int, index: int) -> Any:
        """Batch `index` of `epoch`: a tree of arrays ``[batch_size, ...]``; raises DataError naming the item that fails."""
        items = self.order(epoch)[index * self.batch_size : (index + 1) * self.batch_size]
        try:
            batch = self.source.take(items)
        except Exception as error:
            raise self._failure(epoch, index, items, error) from error
        if self.transform is None:
            return batch
        try:
            return self.transform(batch, np.random.Generator(self._philox(epoch, index + 1)))
        except Exception as error:
            got = f"batch {index} of epoch {epoch}: {type(error).__name__}: {error}"
            raise DataError("Loader", "transform", "it must not fail", got) from error

    def _failure(self, epoch: int, index: int, items: np.ndarray, error: Exception) -> DataError:
        got = f"batch {index} of epoch {epoch}, {self._failing_item(items)}: {type(error).__name__}: {error}"
        return DataError("Loader", "source", "every item must be readable", got)

    def _failing_item(self, items: np.ndarray) -> str:
        for position in range(len(items)):
            try:
                self.source.take(items[position : position + 1])
            except Exception:
                return f"item {items[position]}"
        return f"items {', '.join(map(str, items[:8]))}{' …' if len(items) > 8 else ''}"


class Loader:
    """Batches one after the other, prepared by a background thread.

    Args:
        source, batch_size, key, drop_last, transform: see `Batches`.
        prefetch: batches prepared ahead; 0 prepares each when it is asked for, without a thread. None is two, but 0 as long as
            a batch takes less time than handing it from thread to thread.

    Raises:
        DataError: at `next`, when an item cannot be read; the loader stays at that batch.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        *,
        key: int | None = None,
        drop_last: bool = True,
        prefetch: int | None = None,
        transform: Transform | None = None,
    ):
        if prefetch is not None and prefetch < 0:
            raise ArgumentError("Loader", "prefetch", "it must not be negative", str(prefetch), "Loader(data, 32, prefetch=2)")
        self.batches = Batches(source, batch_size, key, drop_last, transform)
        self._prefetch = prefetch
        self._slow = 0  # batches in a row, of those prepared without a thread, that took long
        self._epoch, self._index = 0, 0
        self._ahead: _Ahead | None = None
        self._stop_ahead: Callable[[], Any] | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.batches)

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self._epoch

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        ahead = self._slow >= SLOW_BATCHES if self._prefetch is None else self._prefetch > 0
        batch = self._next_prefetched() if ahead else self._next_direct()
        self._epoch, self._index = _following(self._epoch, self._index, len(self))
        return batch

    def _next_direct(self) -> Any:
        start = time.perf_counter()
        batch = self.batches.batch(self._epoch, self._index)
        self._slow = self._slow + 1 if time.perf_counter() - start > SLOW_S else 0
        return batch

    def _next_prefetched(self) -> Any:
        if self._ahead is None:
            self._ahead = _Ahead(self.batches, self._epoch, self._index, self._prefetch or PREFETCH)
            self._stop_ahead = weakref.finalize(self, self._ahead.close)  # also when the loader is freed, or at exit
        batch, error = self._ahead.get()
        if error is not None:
            self.close()
            raise error
        return batch

    def one_epoch(self) -> Iterator[Any]:
        """The batches that are left of this epoch."""
        epoch = self._epoch
        while self._epoch == epoch:
            yield next(self)

    def state(self) -> dict[str, Any]:
        """Where the loader stands, as JSON-able numbers: the next batch, and what its order depends on."""
        return {"epoch": self._epoch, "batch": self._index, **self._identity()}

    def _identity(self) -> dict[str, Any]:
        b = self.batches
        return {"items": len(b.source), "batch_size": b.batch_size, "key": b.key, "drop_last": b.drop_last}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`; raises DataError when it comes from another data set, batch size or key."""
        for name, want in self._identity().items():
            if state.get(name) != want:
                rule = f"`{name}` must be that of this loader"
                raise DataError("Loader.restore", "state", rule, f"state: {state.get(name)}, loader: {want}")
        epoch, index = state.get("epoch"), state.get("batch")
        if not (isinstance(epoch, int) and isinstance(index, int) and epoch >= 0 and 0 <= index < len(self)):
            got = f"epoch={epoch}, batch={index}"
            raise DataError("Loader.restore", "state", f"epoch ≥ 0 and batch in 0..{len(self) - 1}", got, "loader.state()")
        self.close()
        self._epoch, self._index = epoch, index

    def close(self) -> None:
        """Stop the background thread; the next `next` starts it again where the loader stands."""
        if self._stop_ahead is not None:
            self._stop_ahead()
        self._ahead = self._stop_ahead = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _following(epoch: int, index: int, count: int) -> tuple[int, int]:
    return (epoch, index + 1) if index + 1 < count else (epoch + 1, 0)


class _Ahead:
    """A thread that keeps a bounded queue of batches filled. It knows the batches, not the loader, which may so be freed."""

    def __init__(self, batches: Batches, epoch: int, index: int, depth: int):
        self._queue: queue.Queue[tuple[Any, Exception | None]] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=_fill, args=(self._queue, self._stop, batches, epoch, index), name="mainspring-loader", daemon=True
        )
        self._thread.start()

    def get(self) -> tuple[Any, Exception | None]:
        return self._queue.get()

    def close(self) -> None:
        """Ends the thread: it puts at most one more batch after the stop, and one freed place takes it."""
        self._stop.set()
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break
        if self._thread is not threading.current_thread():
            self._thread.join()


def _fill(ready: queue.Queue[Any], stop: threading.Event, batches: Batches, epoch: int, index: int) -> None:
    while not stop.is_set():
        try:
            ready.put((batches.batch(epoch, index), None))
        except Exception as error:
            ready.put((None, error))
            return
        epoch, index = _following(epoch, index, len(batches))
