"""Checkpoints: exact round trips, and whole files whatever happens to the writer."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mainspring.base import tree
from mainspring.base.errors import ArgumentError, CheckpointError
from mainspring.train import files
from mainspring.train.checkpoint import LATEST, MANIFEST, TENSORS, latest, latest_valid, load, save

INTEGERS = [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
DTYPES = ["bool", *INTEGERS, "float16", "float32", "float64", ml_dtypes.bfloat16]
REPOSITORY = Path(__file__).parents[3]


@dataclass(frozen=True)
class Model:
    weight: Any
    layers: Any
    name: str = tree.static(default="m")


def state(step: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    return {
        "model": Model(rng.normal(size=(5, 3)).astype(np.float32), [np.full((), step), (None, np.zeros((0, 4)))]),
        "key": np.array([step, 2**64 - 1], np.uint64),
        "rate": np.float32(0.1),
    }


def same(a: Any, b: Any) -> None:
    assert tree.flatten(a)[1] == tree.flatten(b)[1]
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)])
def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path, dtype, shape) -> None:
    bits = np.random.default_rng(0).integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8)
    array = (bits & 1 if dtype == "bool" else bits).view(dtype).reshape(shape)
    save(tmp_path, 1, {"x": array})
    same(load(tmp_path, {"x": array}).state, {"x": array})
    assert load(tmp_path).state["x"].dtype == np.dtype(dtype)


def test_views_and_foreign_byte_order_are_stored_as_their_values(tmp_path) -> None:
    views = {"t": np.arange(12.0).reshape(3, 4).T, "step": np.arange(9)[::-2], "big": np.arange(3, dtype=">i4"), "number": 2.5}
    save(tmp_path, 1, views)
    found = load(tmp_path).state
    for name, want in views.items():
        np.testing.assert_array_equal(found[name], want)


def test_everything_given_comes_back(tmp_path) -> None:
    loader, config = {"epoch": 1, "batch": 7, "key": 2**63}, {"width": 8, "sizes": (1, 2), 10: "int key", 9: "another"}
    path = save(tmp_path / "new" / "folder", 200, state(3), loader=loader, config=config, metadata={"note": "é"})
    found = load(path, state(), wrap=lambda array: np.array(array))
    assert path.name == "step-00000200" and found.path == path and found.step == 200
    assert found.loader == loader and found.metadata == {"note": "é"}
    assert found.config == {"width": 8, "sizes": [1, 2], "10": "int key", "9": "another"}
    same(found.state, state(3))


def test_equal_states_make_equal_bytes(tmp_path) -> None:
    a, b = save(tmp_path / "a", 5, state(1)), save(tmp_path / "b", 5, state(1))
    assert [(a / n).read_bytes() for n in names(a)] == [(b / n).read_bytes() for n in names(b)]


def test_the_last_are_kept(tmp_path) -> None:
    for step in range(0, 60, 10):
        save(tmp_path, step, state(step), keep=3)
    assert names(tmp_path) == ["latest", "step-00000030", "step-00000040", "step-00000050"]
    assert latest(tmp_path).name == "step-00000050"


def test_damaged_ones_do_not_count_as_kept_and_later_ones_stay(tmp_path) -> None:
    for step in (10, 20, 30, 90):
        save(tmp_path, step, state(step), keep=9)
    (tmp_path / "step-00000030" / TENSORS).write_bytes(b"")
    save(tmp_path, 40, state(40), keep=2)
    assert names(tmp_path) == ["latest", "step-00000020", "step-00000030", "step-00000040", "step-00000090"]
    assert load(tmp_path).step == latest_valid(tmp_path).name.count("4") * 40 == 40


def test_the_same_step_is_replaced(tmp_path) -> None:
    save(tmp_path, 10, state(1))
    save(tmp_path, 10, state(2))
    assert names(tmp_path) == ["latest", "step-00000010"]
    same(load(tmp_path, state()).state, state(2))


def test_a_kill_between_old_and_new_name_loses_nothing(tmp_path) -> None:
    save(tmp_path, 10, state(1))
    os.rename(tmp_path / "step-00000010", tmp_path / "step-00000010.replaced")
    same(load(latest_valid(tmp_path), state()).state, state(1))
    save(tmp_path, 10, state(2))
    assert names(tmp_path) == ["latest", "step-00000010"]


def cut(name: str, keep: float):
    def damage(path: Path) -> None:
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[: int(len(content) * keep)])

    return damage


def flip(name: str, where: float):
    def damage(path: Path) -> None:
        content = bytearray((path / name).read_bytes())
        content[int((len(content) - 1) * where)] ^= 4
        (path / name).write_bytes(content)

    return damage


def edit_step(path: Path) -> None:
    text = (path / MANIFEST).read_text()
    (path / MANIFEST).write_text(text.replace('"step": 20', '"step": 21'))


def other_format(path: Path) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps({**manifest, "format": 2}))


DAMAGES = {
    "tensors cut": cut(TENSORS, 0.5),
    "tensors empty": cut(TENSORS, 0),
    **{f"tensors flipped at {where}": flip(TENSORS, where) for where in (0, 0.1, 0.5, 1)},
    "tensors gone": lambda path: (path / TENSORS).unlink(),
    "manifest cut": cut(MANIFEST, 0.5),
    "manifest empty": cut(MANIFEST, 0),
    "manifest gone": lambda path: (path / MANIFEST).unlink(),
    "manifest edited": edit_step,
    "manifest no object": lambda path: (path / MANIFEST).write_text("[1]"),
    "manifest no text": lambda path: (path / MANIFEST).write_bytes(b"\xff\xfe"),
    "other format": other_format,
    "emptied": lambda path: [file.unlink() for file in path.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_found_and_the_one_before_is_used(tmp_path, damage) -> None:
    save(tmp_path, 10, state(1))
    damage(save(tmp_path, 20, state(2)))
    with pytest.raises(CheckpointError, match="step-00000020") as caught:
        load(tmp_path, state())
    assert "latest_valid" in str(caught.value)
    with pytest.warns(UserWarning, match="step-00000020"):
        found = latest_valid(tmp_path)
    same(load(found, state()).state, state(1))


def test_without_a_whole_one_every_reason_is_named(tmp_path) -> None:
    cut(TENSORS, 0.5)(save(tmp_path, 10, state()))
    cut(MANIFEST, 0.5)(save(tmp_path, 20, state()))
    with pytest.raises(CheckpointError, match=r"step-00000020.*step-00000010"):
        latest_valid(tmp_path)


@pytest.mark.parametrize("pointer", [None, b"", b"step-00000099\n", b"../elsewhere\n", b"\xff\n"])
def test_a_lost_pointer_does_not_matter(tmp_path, pointer: bytes | None) -> None:
    save(tmp_path, 10, state(1))
    save(tmp_path, 20, state(2))
    (tmp_path / LATEST).unlink() if pointer is None else (tmp_path / LATEST).write_bytes(pointer)
    assert load(tmp_path, state()).step == 20


@pytest.mark.parametrize(
    ("like", "says"),
    [
        ({"a": np.zeros(3, np.float32), "b": {"c": np.zeros(2)}}, r"a: wanted float32\[3\], got float32\[4\]"),
        ({"a": np.zeros(4, np.float64), "b": {"c": np.zeros(2)}}, r"a: wanted float64\[4\], got float32\[4\]"),
        ({"a": np.zeros(4, np.float32), "b": {"d": np.zeros(2)}}, "b.c: not in the tree"),
        ({"a": np.zeros(4, np.float32), "b": {"c": np.zeros(2), "d": 1}}, "b.d: not in the checkpoint"),
        ({}, "a: not in the tree"),
    ],
)
def test_another_tree_is_refused_by_path(tmp_path, like, says: str) -> None:
    save(tmp_path, 1, {"a": np.zeros(4, np.float32), "b": {"c": np.zeros(2)}})
    with pytest.raises(CheckpointError, match=says):
        load(tmp_path, like)


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (ArgumentError, lambda folder: save(folder, -1, state())),
        (ArgumentError, lambda folder: save(folder, 1, state(), keep=0)),
        (CheckpointError, lambda folder: save(folder, 1, {"name": "text"})),
        (CheckpointError, lambda folder: save(folder, 1, {"f": print})),
        (CheckpointError, lambda folder: save(folder, 1, {"z": np.zeros(2, complex)})),
        (CheckpointError, lambda folder: save(folder, 1, {"a.b": np.zeros(1), "a": {"b": np.zeros(1)}})),
        (CheckpointError, lambda folder: save(folder, 1, state(), config={"x": np.zeros(2)})),
        (CheckpointError, lambda folder: load(folder / "none")),
        (CheckpointError, lambda folder: load(folder / "step-00000005")),
        (CheckpointError, lambda folder: latest_valid(folder / "none")),
    ],
)
def test_misuse_is_our_error_and_writes_nothing(tmp_path, error, call) -> None:
    with pytest.raises(error):
        call(tmp_path)
    assert names(tmp_path) == []


def test_a_file_in_the_way_is_our_error(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="file"):
        save(tmp_path / "file", 1, state())


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no right to mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
def test_a_full_disk_leaves_the_earlier_whole(tmp_path) -> None:
    with small_disk(tmp_path / "disk", "256k"):
        folder = tmp_path / "disk" / "checkpoints"
        save(folder, 1, state(1))
        with pytest.raises(CheckpointError, match=r"No space left on device.*bytes free"):
            save(folder, 2, {"x": np.zeros(1 << 20, np.uint8)})
        assert names(folder) == ["latest", "step-00000001"]
        same(load(folder, state()).state, state(1))


@pytest.mark.parametrize("failing", range(7))
def test_a_disk_that_fails_at_any_call_leaves_the_earlier_whole(tmp_path, monkeypatch, failing: int) -> None:
    save(tmp_path, 1, state(1))
    calls = iter(range(100))

    def fsync(handle: int) -> None:
        if next(calls) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", fsync)
    with contextlib.suppress(CheckpointError):
        save(tmp_path, 2, state(2), keep=1)
    monkeypatch.undo()
    assert not [name for name in names(tmp_path) if name.startswith(".")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load(latest_valid(tmp_path), state())
    same(found.state, state(found.step))


WRITER = """
import sys, numpy as np
from mainspring.train.checkpoint import save
step = int(sys.argv[2])
while True:
    step += 1
    save(sys.argv[1], step, {"x": np.full(20_000, step), "step": np.array(step)}, loader={"batch": step}, keep=2)
    print(step, flush=True)
"""


def test_kill_at_any_moment_loses_no_step_reported_as_saved(tmp_path) -> None:
    rng, reported = random.Random(0), 0
    for _ in range(8):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(reported)]
        writer = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        writer.stdout.readline()  # it has begun
        time.sleep(rng.uniform(0, 0.05))
        writer.send_signal(signal.SIGKILL)
        lines = [int(line) for line in writer.communicate()[0].split("\n") if line]
        reported = max([reported + 1, *lines])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = load(latest_valid(tmp_path))
        assert found.step >= reported and found.loader == {"batch": found.step}
        assert (found.state["x"] == found.step).all() and found.state["step"] == found.step
        reported = found.step
