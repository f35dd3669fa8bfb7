"""Labelled text from any text: restore capitals and punctuation (truecasing and punctuation restoration).

With this you can turn prose into a tagging task without annotation: the input is the text in lower case without
punctuation, the label of each character says whether it was a capital and which mark followed it.

    tagged = tag(shakespeare())       # "speak, speak. First" -> "speak speak first" + labels
    restore(tagged.plain, labels)     # the text that a model's labels mean

Source of the task: Lita et al., tRuEcasIng, ACL 2003; Tilk and Alumäe, LSTM for punctuation restoration, 2015.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from mainspring.base.errors import DataError
from mainspring.base.tree import static
from mainspring.data.text import Vocabulary

MARKS = ("", ",", ".", ";", ":", "?", "!")
NUM_LABELS = 2 * len(MARKS)
_MARK_CODES = np.array([ord(mark) for mark in MARKS[1:]], np.uint32)


@dataclass(frozen=True)
class Tagged:
    """A text and a label for each of its characters.

    Attributes:
        inputs: int32 ``[n]``, tokens of the plain text in `vocabulary`.
        labels: int32 ``[n]``, ``2 * mark + capital``; `mark` indexes `MARKS`.
        vocabulary: of the plain text.
    """

    inputs: np.ndarray
    labels: np.ndarray
    vocabulary: Vocabulary = static()

    @property
    def plain(self) -> str:
        """The input as text."""
        return self.vocabulary.decode(self.inputs)


def tag(text: str, vocabulary: Vocabulary | None = None) -> Tagged:
    """The plain form of `text` with its labels.

    White space and dashes become one space; of several marks in a row the first counts. A capital whose lower case does
    not lead back to it (``İ``) stays as it is and is labelled as no capital.

    Args:
        text: any prose.
        vocabulary: of the plain text; the default is made from `text`.

    Raises:
        DataError: nothing but marks and spaces is in `text`, or a character is not in `vocabulary`.
    """
    codes = np.frombuffer(normalise(text).encode("utf-32-le", "surrogatepass"), "<u4")
    is_mark = np.isin(codes, _MARK_CODES)
    kept = np.flatnonzero(~is_mark)
    if not len(kept):
        raise DataError("tag", "text", "it must hold words", repr(text[:40]), "tag('Speak, speak.')")
    lower = _lower_case(codes[kept])
    plain = lower.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
    labels = 2 * _mark_after(codes, kept) + (lower != codes[kept])
    vocabulary = vocabulary or Vocabulary.of(plain)
    return Tagged(vocabulary.encode(plain), labels.astype(np.int32), vocabulary)


def normalise(text: str) -> str:
    """`text` as `restore` writes it: single spaces, no space before a mark, one mark at a time."""
    text = re.sub(r"[\s–—-]+", " ", text).strip()
    marks = re.escape("".join(MARKS))
    text = re.sub(rf" *([{marks}])[ {marks}]*(?<! )", r"\1", text)
    return text.lstrip("".join(MARKS) + " ")


def _lower_case(codes: np.ndarray) -> np.ndarray:
    distinct, places = np.unique(codes, return_inverse=True)
    return np.array([_lower_code(int(code)) for code in distinct], np.uint32)[places]


def _lower_code(code: int) -> int:
    lower = chr(code).lower()
    return ord(lower) if len(lower) == 1 and lower.upper() == chr(code) else code


def _mark_after(codes: np.ndarray, kept: np.ndarray) -> np.ndarray:
    following = np.append(codes, 0)[kept + 1]
    return (following[:, None] == _MARK_CODES).astype(np.int32) @ np.arange(1, len(MARKS), dtype=np.int32)


def restore(plain: str, labels: np.ndarray) -> str:
    """The text that `labels` (integers ``[len(plain)]``) make of `plain`; the inverse of `tag`."""
    labels = np.asarray(labels)
    if labels.shape != (len(plain),):
        raise DataError("restore", "labels", "one for each character", f"{labels.shape} for {len(plain)} characters")
    if labels.size and not (0 <= labels.min() and labels.max() < NUM_LABELS):
        raise DataError("restore", "labels", f"each must be in 0..{NUM_LABELS - 1}", f"{labels.min()}..{labels.max()}")
    return "".join(
        [(char.upper() if label % 2 else char) + MARKS[label // 2] for char, label in zip(plain, labels.tolist(), strict=True)]
    )
