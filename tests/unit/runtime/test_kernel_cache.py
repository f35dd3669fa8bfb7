"""The folder of compiled objects: round trip, damage, limits, folders that cannot be written."""

import os
import threading
import warnings

import pytest

from mainspring.base import flags
from mainspring.runtime import kernel_cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_cache, "_warned", False)
    monkeypatch.setattr(kernel_cache, "_written", 0)
    with flags.override(cache=str(tmp_path / "cache")):
        yield tmp_path / "cache"


def test_what_is_put_is_got(folder):
    key = kernel_cache.digest("text", "target")
    assert kernel_cache.get(key) is None
    kernel_cache.put(key, b"object")
    assert kernel_cache.get(key) == b"object"
    assert [p.name for p in folder.iterdir()] == [key + ".bin"]


def test_keys_tell_texts_apart():
    assert len({kernel_cache.digest(*texts) for texts in [("a", "b"), ("ab", ""), ("a",), ("", "ab"), ("b", "a")]}) == 5


def test_made_once(folder):
    made = []
    for _ in range(2):
        assert kernel_cache.get_or_make("t", "x", lambda: made.append(1) or b"made") == b"made"
    assert made == [1]


DAMAGES = {
    "cut": lambda d: d[:-1], "emptied": lambda d: b"", "flipped": lambda d: d[:-1] + bytes([d[-1] ^ 1]),
    "shifted": lambda d: b"x" + d, "grown": lambda d: d + b"x",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_as_absent(folder, damage):
    key = kernel_cache.digest("t")
    kernel_cache.put(key, b"payload")
    path = folder / (key + ".bin")
    path.write_bytes(damage(path.read_bytes()))
    assert kernel_cache.get(key) is None
    assert not path.exists()
    kernel_cache.put(key, b"payload")
    assert kernel_cache.get(key) == b"payload"


def test_the_least_recently_used_go_first(folder):
    keys = [kernel_cache.digest(str(i)) for i in range(4)]
    with flags.override(cache_mb=1):
        for i, key in enumerate(keys[:3]):
            kernel_cache.put(key, bytes(300_000))
            os.utime(folder / (key + ".bin"), (i, i))
        assert kernel_cache.get(keys[0]) is not None  # used now
        kernel_cache.put(keys[3], bytes(300_000))
        assert [kernel_cache.get(k) is not None for k in keys] == [True, False, True, True]


def test_no_folder_no_cache(tmp_path):
    with flags.override(cache=""):
        kernel_cache.put("key", b"x")
        assert kernel_cache.get("key") is None


def test_a_folder_that_cannot_be_written_warns_once(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_cache, "_warned", False)
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with flags.override(cache=str(blocked / "cache")):
        with pytest.warns(UserWarning, match="MS_CACHE"):
            assert kernel_cache.get_or_make("t", "x", lambda: b"made") == b"made"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert kernel_cache.get_or_make("t", "x", lambda: b"made") == b"made"


def test_two_writers_leave_a_whole_entry(folder):
    key = kernel_cache.digest("t")
    payloads = [bytes([i]) * 50_000 for i in range(4)]
    writers = [threading.Thread(target=lambda p=p: [kernel_cache.put(key, p) for _ in range(20)]) for p in payloads]
    for writer in writers:
        writer.start()
    seen = [kernel_cache.get(key) for _ in range(100)]
    for writer in writers:
        writer.join()
    assert all(s is None or s in payloads for s in seen) and kernel_cache.get(key) in payloads
    assert len(list(folder.iterdir())) == 1
