"""Sources and the loader: order as a pure function, exact resumption, clean ends."""

from __future__ import annotations

import gc
import json
import pickle
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.base import tree
from mainspring.base.errors import ArgumentError, DataError
from mainspring.data import Batches, Dataset, Loader, Windows, next_symbol
from mainspring.data.loader import SLOW_BATCHES


def numbers(n: int) -> Dataset:
    return Dataset({"x": np.arange(n), "y": {"z": np.arange(n * 3).reshape(n, 3)}})


def threads() -> int:
    return sum(thread.name == "mainspring-loader" for thread in threading.enumerate())


def take(loader: Loader, count: int) -> list[list[int]]:
    return [next(loader)["x"].tolist() for _ in range(count)]


def test_windows_by_hand() -> None:
    source = next_symbol(np.arange(10), 4)
    assert len(source) == 6
    batch = source.take(np.array([0, 5]))
    assert batch["inputs"].tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]
    assert (batch["targets"] == batch["inputs"] + 1).all()


@given(n=st.integers(1, 60), length=st.integers(1, 20), stride=st.integers(1, 20))
def test_windows_are_all_that_fit(n: int, length: int, stride: int) -> None:
    if n < length:
        with pytest.raises(DataError):
            Windows(np.arange(n), length, stride)
        return
    source = Windows(np.arange(n), length, stride)
    starts = range(0, n - length + 1, stride)
    assert source.take(np.arange(len(source))).tolist() == [list(range(s, s + length)) for s in starts]


@given(n=st.integers(1, 50), size=st.integers(1, 12), key=st.none() | st.integers(0, 2**64 - 1), drop=st.booleans())
def test_an_epoch_holds_every_item_once(n: int, size: int, key: int | None, drop: bool) -> None:
    if drop and n < size:
        with pytest.raises(DataError):
            Batches(numbers(n), size, key, drop)
        return
    batches = Batches(numbers(n), size, key, drop)
    for epoch in (0, 5):
        seen = [x for index in range(len(batches)) for x in batches.batch(epoch, index)["x"].tolist()]
        assert len(set(seen)) == len(seen) == (n // size * size if drop else n)
        if key is None:
            assert seen == sorted(seen)


def test_order_is_fixed_by_key_and_epoch() -> None:
    order = Batches(numbers(8), 2, key=7).order
    assert order(3).tolist() == [2, 5, 7, 3, 0, 6, 4, 1]  # must never change: runs resume across versions
    assert order(3).tolist() == order(3).tolist() != order(4).tolist()
    assert Batches(numbers(8), 2, key=8).order(3).tolist() != order(3).tolist()


@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize("done", [0, 1, 4, 5, 13])
def test_a_restored_loader_goes_on_exactly(prefetch: int, done: int) -> None:
    def augment(batch, generator):
        return {"x": batch["x"] + generator.integers(0, 1000)}

    def fresh() -> Loader:
        return Loader(numbers(21), 4, key=11, prefetch=prefetch, transform=augment)

    with fresh() as straight, fresh() as first, fresh() as second:
        want = take(straight, done + 12)
        assert take(first, done) == want[:done]
        take(second, 2)
        second.restore(json.loads(json.dumps(first.state())))
        assert take(second, 12) == want[done:]
    assert threads() == 0


def test_one_epoch_gives_the_rest_of_it() -> None:
    with Loader(numbers(10), 3, drop_last=False) as loader:
        assert [batch["x"].tolist() for batch in loader.one_epoch()] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
        next(loader)
        assert len(list(loader.one_epoch())) == len(loader) - 1 == 3
        assert loader.epoch == 2


class Faulty:
    """Item 5 fails while `broken`."""

    broken = True

    def __len__(self) -> int:
        return 8

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        if self.broken and 5 in indices:
            raise ValueError("bad sector")
        return {"x": indices}


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_item_that_fails_is_named_and_can_be_tried_again(prefetch: int) -> None:
    source = Faulty()
    with Loader(source, 2, prefetch=prefetch) as loader:
        assert take(loader, 2) == [[0, 1], [2, 3]]
        for _ in range(2):
            with pytest.raises(DataError, match="batch 2 of epoch 0, item 5: ValueError: bad sector"):
                next(loader)
        source.broken = False
        assert take(loader, 2) == [[4, 5], [6, 7]]


def test_a_transform_that_fails_is_our_error() -> None:
    loader = Loader(numbers(8), 2, transform=lambda batch, generator: batch["no"])
    with loader, pytest.raises(DataError, match="transform"):
        next(loader)


@pytest.mark.parametrize("slow", [True, False])
def test_a_thread_is_started_for_batches_that_take_long_only(slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mainspring.data.loader.SLOW_S", -1.0 if slow else 1e9)
    with Loader(numbers(100), 2, key=3) as automatic, Loader(numbers(100), 2, key=3, prefetch=0) as plain:
        for i in range(70):  # beyond the end of the epoch
            assert next(automatic)["x"].tolist() == next(plain)["x"].tolist()
            assert threads() == (slow and i >= SLOW_BATCHES)


def test_a_data_set_is_pickled_with_its_arrays() -> None:
    data = numbers(20)
    first = data.take(np.array([3, 1]))
    again = pickle.loads(pickle.dumps(data)).take(np.array([3, 1]))
    assert [x.tolist() for x in tree.leaves(again)] == [x.tolist() for x in tree.leaves(first)]


def test_a_loader_that_is_dropped_ends_its_thread() -> None:
    loader = Loader(numbers(100), 2, prefetch=2)
    next(loader)
    assert threads() == 1
    gone = weakref.ref(loader)
    del loader
    gc.collect()
    assert gone() is None and threads() == 0


def test_stored_arrays_are_read_only() -> None:
    x = np.arange(4)
    source = Dataset({"x": x})
    with pytest.raises(ValueError, match="read-only"):
        source.arrays["x"][0] = 1
    x[0] = 9  # the caller's own array stays his


STATE = Loader(numbers(8), 2, key=1).state()


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (DataError, lambda: Dataset({})),
        (DataError, lambda: Dataset({"x": np.arange(3), "y": np.arange(4)})),
        (DataError, lambda: Dataset(np.float32(1))),
        (ArgumentError, lambda: Windows(np.arange(5), 0)),
        (ArgumentError, lambda: Windows(np.arange(5), 2, -1)),
        (DataError, lambda: next_symbol(np.arange(4), 4)),
        (ArgumentError, lambda: Loader(numbers(4), 0)),
        (ArgumentError, lambda: Loader(numbers(4), 2, key=-1)),
        (ArgumentError, lambda: Loader(numbers(4), 2, prefetch=-1)),
        (DataError, lambda: Loader(numbers(4), 5)),
        (DataError, lambda: Loader(numbers(9), 2, key=1).restore(STATE)),
        (DataError, lambda: Loader(numbers(8), 2, key=2).restore(STATE)),
        (DataError, lambda: Loader(numbers(8), 2, key=1).restore({**STATE, "batch": 4})),
        (DataError, lambda: Loader(numbers(8), 2, key=1).restore({})),
    ],
)
def test_misuse_is_our_error(error: type[Exception], call) -> None:
    with pytest.raises(error):
        call()
