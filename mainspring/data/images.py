"""Labelled images from files as they are published: MNIST-like idx files, CIFAR-10, and scikit-learn's digits.

With this you can write `data = images("path/to/fashion_mnist")`, whatever of these the folder holds.
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mainspring.base.errors import DataError, DependencyError
from mainspring.base.tree import static
from mainspring.data.text import read_bytes

_EXAMPLE = "images('data/fashion_mnist')"


@dataclass(frozen=True)
class ImageData:
    """Images with labels, for training and for testing.

    Attributes:
        train_images, test_images: uint8 ``[n, height, width, channels]``, 0 to 255.
        train_labels, test_labels: int32 ``[n]``, 0 to `classes` - 1.
        classes: number of classes.
        name: where they come from.

    Raises:
        DataError: counts of images and labels differ, shapes are wrong, or a part is empty.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int = static()
    name: str = static()

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            pictures, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            if pictures.ndim != 4 or labels.shape != pictures.shape[:1] or not len(labels):
                got = f"{part} images {pictures.shape}, labels {labels.shape}"
                raise DataError(self.name, part, "images [n, height, width, channels] and labels [n], n ≥ 1", got, _EXAMPLE)
            if labels.min() < 0 or labels.max() >= self.classes:
                got = f"{labels.min()}..{labels.max()}"
                raise DataError(self.name, f"{part} labels", f"they must be in 0..{self.classes - 1}", got, _EXAMPLE)


def images(folder: str | os.PathLike[str]) -> ImageData:
    """The image data that `folder` holds, recognised by its file names.

    Known are the idx files of MNIST and its kin (``train-images-idx3-ubyte``, ``.gz`` or not), CIFAR-10's binary version
    (``data_batch_1.bin`` …) and Python version (``data_batch_1`` …), and one ``.npz`` with ``x_train, y_train, x_test,
    y_test``.

    Raises:
        DataError: the folder is missing or holds none of these, or a file is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("images", "folder", "it must be an existing folder", str(folder), _EXAMPLE)
    for marker, reader in (
        ("train-images*", _read_mnist),
        ("data_batch_1.bin", _read_cifar_binary),
        ("data_batch_1", _read_cifar_python),
        ("*.npz", _read_npz),
    ):
        if any(folder.glob(marker)):
            return reader(folder)
    held = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
    rule = "it must hold train-images-idx3-ubyte(.gz), data_batch_1(.bin), or one .npz"
    raise DataError("images", "folder", rule, f"{folder} holds {held}", _EXAMPLE)


def digits() -> ImageData:
    """Scikit-learn's digits: 8×8 grey, 10 classes, the first 1,437 for training and the last 360 for testing.

    Their values 0 to 16 are spread over 0 to 255. Source: Alpaydin and Kaynak, UCI, 1998.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DependencyError("digits", "", "scikit-learn must be installed", "", "pip install 'mainspring[digits]'") from error
    raw = load_digits()
    pictures = np.rint(raw.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = raw.target.astype(np.int32)
    return ImageData(pictures[:1437], labels[:1437], pictures[1437:], labels[1437:], 10, "digits")


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of an idx file of unsigned bytes, ``.gz`` or not: uint8 of the shape that its header names.

    Source: LeCun, Cortes and Burges, "The MNIST database", file formats.
    """
    path = Path(path)
    content = read_bytes(path, "read_idx")
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        rule = "it must be an idx file of unsigned bytes (0x00 0x00 0x08 …)"
        raise DataError("read_idx", "path", rule, f"{path}: {content[:4].hex(' ') or 'empty'}", _EXAMPLE)
    dims = content[3]
    shape = tuple(np.frombuffer(content[4 : 4 + 4 * dims], ">u4").tolist())
    body = content[4 + 4 * dims :]
    if len(shape) != dims or len(body) != int(np.prod(shape)):
        got = f"{path}: {len(body)} bytes, header says {' × '.join(map(str, shape))}"
        raise DataError("read_idx", "path", "its size must be that of its header", got, _EXAMPLE)
    return np.frombuffer(body, np.uint8).reshape(shape)


def _read_mnist(folder: Path) -> ImageData:
    def part(name: str) -> tuple[np.ndarray, np.ndarray]:
        pictures = read_idx(_only(folder, f"{name}-images*"))
        return pictures[..., None], read_idx(_only(folder, f"{name}-labels*")).astype(np.int32)

    return _image_data(folder, *part("train"), *part("t10k"))


def _read_cifar_binary(folder: Path) -> ImageData:
    def part(path: Path) -> tuple[np.ndarray, np.ndarray]:
        content = read_bytes(path, "images")
        if len(content) % 3073:
            got = f"{path}: {len(content)} bytes"
            raise DataError("images", "folder", "a CIFAR-10 binary file holds records of 3,073 bytes", got, _EXAMPLE)
        records = np.frombuffer(content, np.uint8).reshape(-1, 3073)
        return _channels_last(records[:, 1:]), records[:, 0].astype(np.int32)

    train = [part(path) for path in sorted(folder.glob("data_batch_[1-5].bin"))]
    return _image_data(folder, *_joined(train), *part(_only(folder, "test_batch.bin")))


def _read_cifar_python(folder: Path) -> ImageData:
    def part(path: Path) -> tuple[np.ndarray, np.ndarray]:
        held = _unpickle(path)
        try:
            return _channels_last(np.asarray(held[b"data"], np.uint8)), np.asarray(held[b"labels"], np.int32)
        except (KeyError, TypeError, ValueError) as error:
            rule = "a CIFAR-10 batch holds b'data' [n, 3072] and b'labels' [n]"
            raise DataError("images", "folder", rule, f"{path}: {error}", _EXAMPLE) from error

    train = [part(path) for path in sorted(folder.glob("data_batch_[1-5]"))]
    return _image_data(folder, *_joined(train), *part(_only(folder, "test_batch")))


class _ArraysOnly(pickle.Unpickler):
    """Reads pickles of containers and arrays and refuses every other class: a pickle can name any code to run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.ndarray.__new__
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode("latin1")
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _unpickle(path: Path) -> Any:
    try:
        return _ArraysOnly(io.BytesIO(read_bytes(path, "images")), encoding="bytes").load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle may fail in any way
        raise DataError("images", "folder", "a CIFAR-10 batch is a pickle of arrays", f"{path}: {error}", _EXAMPLE) from error


def _read_npz(folder: Path) -> ImageData:
    path = _only(folder, "*.npz")
    try:
        with np.load(io.BytesIO(read_bytes(path, "images")), allow_pickle=False) as held:
            parts = [held[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        rule = "an .npz must hold x_train, y_train, x_test, y_test"
        raise DataError("images", "folder", rule, f"{path}: {error}", _EXAMPLE) from error
    for position in (0, 2):
        if parts[position].dtype != np.uint8:
            raise DataError("images", "folder", "images must be uint8", f"{path}: {parts[position].dtype}", _EXAMPLE)
        if parts[position].ndim == 3:
            parts[position] = parts[position][..., None]
    return _image_data(folder, *parts)


def _image_data(
    folder: Path, train_images: np.ndarray, train_labels: np.ndarray, test_images: np.ndarray, test_labels: np.ndarray
) -> ImageData:
    train_labels, test_labels = train_labels.reshape(-1).astype(np.int32), test_labels.reshape(-1).astype(np.int32)
    classes = int(train_labels.max(initial=0)) + 1
    return ImageData(train_images, train_labels, test_images, test_labels, classes, folder.name)


def _channels_last(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    pictures, labels = zip(*parts, strict=True)
    return np.concatenate(pictures), np.concatenate(labels)


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        held = ", ".join(path.name for path in found) or "none"
        raise DataError("images", "folder", f"exactly one file {pattern} is needed in {folder}", held, _EXAMPLE)
    return found[0]
