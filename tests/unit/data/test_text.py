"""Text, its vocabulary, and the labelled text made from it."""

from __future__ import annotations

import gzip
import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.base.errors import ArgumentError, DataError
from mainspring.data import MARKS, NUM_LABELS, Vocabulary, read_text, restore, shakespeare, split, tag
from mainspring.data.tagged import normalise


def test_shakespeare_is_the_published_text() -> None:
    text = shakespeare()
    assert len(text) == 1_115_394
    assert hashlib.sha256(text.encode()).hexdigest() == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    assert len(Vocabulary.of(text)) == 65
    train, validation = split(Vocabulary.of(text).encode(text))
    assert (len(train), len(validation)) == (1_003_854, 111_540)  # nanoGPT, data/shakespeare_char/readme


@given(st.text(min_size=1))
def test_decode_undoes_encode(text: str) -> None:
    vocabulary = Vocabulary.of(text)
    tokens = vocabulary.encode(text)
    assert tokens.dtype == np.int32 and tokens.shape == (len(text),)
    assert vocabulary.decode(tokens) == text


@given(st.text(alphabet=st.sampled_from("abAB .,;!?-'\n–İßéÉ"), min_size=1))
def test_restore_undoes_tag(text: str) -> None:
    if not normalise(text):
        with pytest.raises(DataError):
            tag(text)
        return
    tagged = tag(text)
    assert restore(tagged.plain, tagged.labels) == normalise(text)
    assert not set(tagged.plain) & set("".join(MARKS))
    assert tagged.labels.min() >= 0 and tagged.labels.max() < NUM_LABELS
    again = tag(restore(tagged.plain, tagged.labels), tagged.vocabulary)
    assert (again.inputs == tagged.inputs).all() and (again.labels == tagged.labels).all()


def test_tag_by_hand() -> None:
    tagged = tag("Speak,  speak.\nFirst -- no!")
    assert tagged.plain == "speak speak first no"
    assert tagged.labels.tolist() == [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0, 0, 0, 0, 12]


def test_read_text_of_each_kind(tmp_path) -> None:
    (tmp_path / "a.txt").write_bytes("één\r\ntwo\rthree\n".encode())
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("één\n".encode(), mtime=0))
    assert read_text(tmp_path / "a.txt") == "één\ntwo\nthree\n"
    assert read_text(tmp_path / "a.txt.gz") == "één\n"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.txt", None, "No such file"),
        ("latin.txt", b"caf\xe9 noir", "0xe9 at offset 3"),
        ("empty.txt", b"", "empty"),
        ("cut.txt.gz", gzip.compress(b"hello" * 99, mtime=0)[:-9], "cut short"),
        ("not.txt.gz", b"hello", "damaged"),
        ("bad.txt.gz", gzip.compress(b"hello" * 99, mtime=0)[:12] + b"\xff" * 20, "damaged"),
        ("not.txt.xz", b"hello", "damaged"),
    ],
)
def test_unreadable_text_is_our_error(tmp_path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        read_text(tmp_path / name)
    assert name in str(caught.value)


def test_a_folder_is_no_text(tmp_path) -> None:
    with pytest.raises(DataError, match="directory"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (DataError, lambda: Vocabulary("abc").encode("abxc")),
        (DataError, lambda: Vocabulary("abc").encode("~")),
        (DataError, lambda: Vocabulary("").encode("a")),
        (DataError, lambda: Vocabulary("abc").decode(np.array([0, 3]))),
        (DataError, lambda: Vocabulary("abc").decode(np.array([-1]))),
        (DataError, lambda: Vocabulary("abc").decode(np.array([0.5]))),
        (ArgumentError, lambda: Vocabulary("ba")),
        (ArgumentError, lambda: split("abc", 1.5)),
        (DataError, lambda: tag("abc", Vocabulary("ab"))),
        (DataError, lambda: restore("abc", np.zeros(2, int))),
        (DataError, lambda: restore("abc", np.full(3, NUM_LABELS))),
    ],
)
def test_misuse_is_our_error(error: type[Exception], call) -> None:
    with pytest.raises(error):
        call()
