"""The store of trials: keyed by machine and version, shared by processes, and begun anew where it is damaged."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mainspring.base.errors import ArgumentError
from mainspring.learned.tune import Store, Trial, Winner

TRIAL = Trial("tile", "matmul", "6x1", (1.0, 2.5), 0.25)
FAILED = Trial("tile", "matmul", "9x9", (1.0, 3.5), math.inf)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "tuned.sqlite3"


def test_nothing_is_written_by_reading(path: Path) -> None:
    store = Store(path, "machine", "1")
    assert store.trials("tile") == [] and store.winners() == [] and store.models() == {} and store.forget() == 0
    assert not path.parent.exists()


def test_what_is_kept_comes_back(path: Path) -> None:
    Store(path, "machine", "1").add([TRIAL, FAILED])
    Store(path, "machine", "1").win(Winner("tile", "matmul", "4x2", 1.2))
    Store(path, "machine", "1").win(Winner("tile", "matmul", "6x1", 1.5))
    Store(path, "machine", "1").keep_model("tile", b"\x00model")
    again = Store(path, "machine", "1")
    assert again.trials("tile") == [TRIAL, FAILED] and again.trials("strip") == []
    assert again.winners() == [Winner("tile", "matmul", "6x1", 1.5)]
    assert again.models() == {"tile": b"\x00model"}


@pytest.mark.parametrize(("target", "version"), [("machine", "2"), ("another", "1")])
def test_another_version_or_machine_sees_nothing(path: Path, target: str, version: str) -> None:
    store = Store(path, "machine", "1")
    store.add([TRIAL])
    store.win(Winner("tile", "matmul", "6x1", 1.5))
    store.keep_model("tile", b"model")
    other = Store(path, target, version)
    assert other.trials("tile") == [] and other.winners() == [] and other.models() == {}
    other.win(Winner("tile", "matmul", "2x2", 1.1))
    assert store.winners() == [Winner("tile", "matmul", "6x1", 1.5)]


def test_forgetting_is_of_a_kind_or_of_everything(path: Path) -> None:
    store = Store(path, "machine", "1")
    for kind in ("tile", "strip"):
        store.win(Winner(kind, "p", "a", 1.1))
        store.keep_model(kind, b"m")
    assert store.forget("strip") == 1
    assert [w.kind for w in store.winners()] == list(store.models()) == ["tile"]
    assert store.forget() == 1 and store.winners() == [] and store.models() == {}


@pytest.mark.parametrize("damage", ["text", "cut", "overwritten", "another schema"])
def test_a_damaged_file_is_set_aside_with_a_warning(path: Path, damage: str) -> None:
    store = Store(path, "machine", "1")
    store.add([TRIAL] * 400)
    data = bytearray(path.read_bytes())
    if damage == "text":
        data = bytearray(b"this is no database at all\n" * 100)
    elif damage == "cut":
        del data[len(data) // 2 + 100:]
    elif damage == "overwritten":
        data[4096:12288] = b"\x55" * 8192
    else:
        data[60:64] = (99).to_bytes(4, "big")  # the place of user_version
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="cannot be read"):
        assert store.trials("tile") == []
    store.add([TRIAL])
    assert store.trials("tile") == [TRIAL]
    kept = [p for p in path.parent.iterdir() if ".damaged-" in p.name]
    assert len(kept) == 1 and kept[0].read_bytes() == data


def test_an_error_within_a_write_leaves_nothing_behind(path: Path) -> None:
    store = Store(path, "machine", "1")
    with pytest.raises(ZeroDivisionError):
        store.add(Trial("tile", "p", str(i), (), 1 / (2 - i)) for i in range(4))
    assert store.trials("tile") == []


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write anywhere")
def test_a_file_that_cannot_be_written_is_an_error_that_names_it(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o500)
    with pytest.raises(ArgumentError, match="tuned"):
        Store(path, "machine", "1").add([TRIAL])


def test_a_path_that_cannot_be_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="below"):
        Store(tmp_path / "file" / "below", "machine", "1").add([TRIAL])


_WRITER = """
import sys
from mainspring.learned.tune import Store, Trial, Winner
store = Store(sys.argv[1], "machine", "1")
for i in range(25):
    store.add([Trial("tile", sys.argv[2], str(i), (float(i),), 1.0 + i)])
    store.win(Winner("tile", sys.argv[2], str(i), 1.0))
"""


def test_processes_write_at_once_and_lose_nothing(path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, str(path), f"p{i}"], stderr=subprocess.PIPE) for i in range(3)]
    for writer in writers:
        _, error = writer.communicate(timeout=120)
        assert writer.returncode == 0 and not error, error.decode()
    store = Store(path, "machine", "1")
    trials = store.trials("tile")
    assert len(trials) == 75
    assert all([t.config for t in trials if t.problem == f"p{i}"] == [str(k) for k in range(25)] for i in range(3))
    assert sorted((w.problem, w.config) for w in store.winners()) == [("p0", "24"), ("p1", "24"), ("p2", "24")]
