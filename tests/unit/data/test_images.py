"""Image readers, on small files written in the published formats."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from mainspring.base.errors import DataError
from mainspring.data import digits, images
from mainspring.data.images import read_idx

RNG = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def pictures(n: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (n, *shape), np.uint8)


def labels(n: int) -> np.ndarray:
    return (np.arange(n) % 10).astype(np.uint8)


def write_mnist(folder: Path, train: np.ndarray, test: np.ndarray) -> None:
    for name, part in (("train", train), ("t10k", test)):
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(part)))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels(len(part))))


def channels_first(part: np.ndarray) -> np.ndarray:
    return part.transpose(0, 3, 1, 2).reshape(len(part), -1)


def write_cifar_binary(folder: Path, train: np.ndarray, test: np.ndarray) -> None:
    def records(part: np.ndarray) -> bytes:
        return np.concatenate([labels(len(part))[:, None], channels_first(part)], axis=1).tobytes()

    (folder / "data_batch_1.bin").write_bytes(records(train))
    (folder / "test_batch.bin").write_bytes(records(test))


def write_cifar_python(folder: Path, train: np.ndarray, test: np.ndarray) -> None:
    for name, part in (("data_batch_1", train), ("test_batch", test)):
        held = {b"data": channels_first(part), b"labels": labels(len(part)).tolist(), b"batch_label": b"x"}
        (folder / name).write_bytes(pickle.dumps(held, protocol=2))


def write_npz(folder: Path, train: np.ndarray, test: np.ndarray) -> None:
    np.savez(folder / "d.npz", x_train=train, y_train=labels(len(train))[:, None], x_test=test, y_test=labels(len(test)))


@pytest.mark.parametrize("write", [write_mnist, write_cifar_binary, write_cifar_python, write_npz])
def test_every_format_reads_back(tmp_path, write) -> None:
    shape = (7, 5) if write is write_mnist else (32, 32, 3)
    train, test = pictures(20, *shape), pictures(10, *shape)
    write(tmp_path, train, test)
    data = images(tmp_path)
    channels = data.train_images.shape[-1]
    np.testing.assert_array_equal(data.train_images, train.reshape(20, *shape[:2], channels))
    np.testing.assert_array_equal(data.test_images, test.reshape(10, *shape[:2], channels))
    np.testing.assert_array_equal(data.train_labels, labels(20))
    assert data.test_labels.dtype == np.int32 and data.classes == 10


def test_digits() -> None:
    pytest.importorskip("sklearn")
    data = digits()
    assert data.train_images.shape == (1437, 8, 8, 1) and data.test_images.shape == (360, 8, 8, 1)
    assert data.train_images.max() == 255 and data.classes == 10


def test_a_pickle_that_names_code_is_refused(tmp_path) -> None:
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "touched",)

    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match="it names"):
        images(tmp_path)
    assert not (tmp_path / "touched").exists()


def cut(name: str, size: int):
    def damage(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:size])

    return damage


@pytest.mark.parametrize(
    ("write", "damage", "says"),
    [
        (write_mnist, cut("train-labels-idx1-ubyte", 12), "4 bytes, header says 20"),
        (write_mnist, cut("train-labels-idx1-ubyte", 0), "empty"),
        (write_mnist, cut("t10k-images-idx3-ubyte.gz", 40), "cut short"),
        (write_mnist, lambda folder: (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(labels(9))), r"labels \(9,\)"),
        (write_mnist, lambda folder: (folder / "t10k-labels-idx1-ubyte").unlink(), "exactly one file"),
        (write_cifar_binary, cut("test_batch.bin", 100), "3,073"),
        (write_cifar_python, cut("test_batch", 100), "pickle of arrays"),
        (write_npz, cut("d.npz", 300), "npz"),
        (write_npz, lambda folder: np.savez(folder / "d.npz", x_train=pictures(1, 2, 2)), "y_train"),
        (write_npz, lambda folder: [path.unlink() for path in folder.iterdir()], "holds nothing"),
    ],
)
def test_damage_is_our_error(tmp_path, write, damage, says: str) -> None:
    shape = (7, 5) if write is write_mnist else (32, 32, 3)
    write(tmp_path, pictures(20, *shape), pictures(10, *shape))
    damage(tmp_path)
    with pytest.raises(DataError, match=says):
        images(tmp_path)


def test_missing_folder_and_wrong_file(tmp_path) -> None:
    with pytest.raises(DataError, match="existing folder"):
        images(tmp_path / "none")
    (tmp_path / "x").write_bytes(b"PNG?")
    with pytest.raises(DataError, match="idx file"):
        read_idx(tmp_path / "x")
