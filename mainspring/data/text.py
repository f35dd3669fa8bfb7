"""Text as tokens: the tiny Shakespeare text that ships with the package, text files, and a vocabulary of characters.

With this you can write `tokens = Vocabulary.of(text).encode(text)` and `train, validation = split(tokens)`.
"""

from __future__ import annotations

import gzip
import lzma
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mainspring.base.errors import ArgumentError, DataError
from mainspring.base.tree import static

_SHIPPED = Path(__file__).with_name("shakespeare.txt.xz")
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}

TextOrTokens = TypeVar("TextOrTokens", str, np.ndarray)


def shakespeare() -> str:
    """The tiny Shakespeare text: 1,115,394 characters of 65 kinds, public domain.

    Source: Karpathy, char-rnn, data/tinyshakespeare/input.txt.
    """
    return read_text(_SHIPPED)


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file, which may be compressed (``.gz``, ``.xz``); line ends become ``\\n``.

    Raises:
        DataError: the file is missing, unreadable, damaged, not UTF-8, or empty.
    """
    path = Path(path)
    content = read_bytes(path, "read_text")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        got = f"{path}: byte {error.object[error.start]:#04x} at offset {error.start}"
        raise DataError("read_text", "path", "the file must be UTF-8 text", got, "read_text('book.txt')") from error
    if not text:
        raise DataError("read_text", "path", "the file must not be empty", str(path), "read_text('book.txt')")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_bytes(path: Path, where: str) -> bytes:
    """The bytes of a file, decompressed when its name ends in ``.gz`` or ``.xz``; DataError when they cannot be had."""
    try:
        with _OPENERS.get(path.suffix, open)(path, "rb") as file:
            return bytes(file.read())
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(where, "path", "the compressed file is damaged or cut short", f"{path}: {error}") from error
    except OSError as error:
        raise DataError(where, "path", "the file must exist and be readable", f"{path}: {error.strerror or error}") from error


@dataclass(frozen=True)
class Vocabulary:
    """The distinct characters of a text, sorted; the token of a character is its position."""

    symbols: str = static()

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """The vocabulary of all characters in `text`."""
        return cls("".join(sorted(set(text))))

    def __post_init__(self) -> None:
        if "".join(sorted(set(self.symbols))) != self.symbols:
            rule = "the symbols must be distinct and sorted"
            raise ArgumentError("Vocabulary", "symbols", rule, repr(self.symbols[:80]), "Vocabulary.of(text)")

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> np.ndarray:
        """The tokens of `text`: int32 of shape ``[len(text)]``; raises DataError for a character it does not have."""
        known, codes = _code_points(self.symbols), _code_points(text)
        tokens = np.searchsorted(known, codes).astype(np.int32)
        found = np.zeros(len(codes), bool)
        inside = tokens < len(known)
        found[inside] = known[tokens[inside]] == codes[inside]
        if not found.all():
            where = int(np.argmin(found))
            rule = f"every character must be one of the {len(self)} symbols of this vocabulary"
            got = f"{text[where]!r} at position {where}"
            raise DataError("Vocabulary.encode", "text", rule, got, "Vocabulary.of(text).encode(text)")
        return tokens

    def decode(self, tokens: np.ndarray) -> str:
        """The text of integer `tokens` of shape ``[n]``; raises DataError for a token out of range."""
        tokens = np.asarray(tokens)
        if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
            got = f"shape {tokens.shape}, dtype {tokens.dtype}"
            raise DataError("Vocabulary.decode", "tokens", "they must be integers of one dim", got, "decode(np.array([1, 2]))")
        outside = (tokens < 0) | (tokens >= len(self))
        if outside.any():
            where = int(np.argmax(outside))
            raise DataError(
                "Vocabulary.decode", "tokens", f"each must be in 0..{len(self) - 1}", f"{tokens[where]} at position {where}"
            )
        return "".join([self.symbols[token] for token in tokens.tolist()])


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def split(sequence: TextOrTokens, fraction: float = 0.9) -> tuple[TextOrTokens, TextOrTokens]:
    """The first `fraction` of a text or token array and the rest, as nanoGPT splits: ``n * fraction`` rounded down.

    Source: nanoGPT, data/shakespeare_char/prepare.py.
    """
    if not 0 < fraction < 1:
        raise ArgumentError("split", "fraction", "it must be between 0 and 1", str(fraction), "split(tokens, 0.9)")
    cut = int(len(sequence) * fraction)
    return sequence[:cut], sequence[cut:]
