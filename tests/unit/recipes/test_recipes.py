"""Recipes: generation with a cache equals generation without, tasks fit their data, settings are checked."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

import mainspring as ms
from mainspring import recipes
from mainspring.base import tree
from mainspring.base.errors import ArgumentError, DataError
from mainspring.data import NUM_LABELS, Vocabulary
from mainspring.recipes import digits, shakespeare, tagger
from mainspring.recipes.sampling import Sampling

TINY = shakespeare.Config(context=8, width=16, layers=2, heads=2, batch=2, seed=3)
WORDS = "To be, or not to be, that is the question: Whether 'tis nobler in the mind to suffer. " * 12


def loud(model: shakespeare.GPT) -> shakespeare.GPT:
    """Weights ten times as large, so that the scores of an untrained model differ."""
    return tree.map(lambda leaf: leaf * 10.0, model)


def written_without_cache(model: shakespeare.GPT, prompt: np.ndarray, sampling: Sampling) -> list[int]:
    """The plain definition: each token from a full pass over its window."""
    key, context = ms.random.key(sampling.seed), TINY.context
    window, out = prompt[-context:].tolist(), []
    for number in range(sampling.tokens):
        if len(window) > context:
            window = window[-(context // 2) :]
        scores = model(np.array([window], np.int32))[0, -1]
        out.append(int(sampling.choose(scores, ms.random.fold_in(key, np.int32(number)))))
        window.append(out[-1])
    return out


WAYS = [Sampling(20, 0.0), Sampling(20, 1.0, seed=5), Sampling(20, 0.7, top_k=3, seed=6), Sampling(20, 1.3, top_k=1)]


@pytest.mark.parametrize("sampling", WAYS, ids=str)
@pytest.mark.parametrize("length", [1, 5, 8, 13])
def test_writing_with_a_cache_equals_writing_without(sampling: Sampling, length: int) -> None:
    model = loud(shakespeare.model(TINY, Vocabulary("abcdefghij")))
    prompt = np.arange(length, dtype=np.int32) % 10
    assert list(shakespeare.write(model, TINY.context, prompt, sampling)) == written_without_cache(model, prompt, sampling)


def test_choosing_among_the_likeliest_only() -> None:
    scores = ms.asarray(np.array([0.1, 3.0, 0.2, 2.9, -1.0], np.float32))
    keys = ms.random.split(ms.random.key(0), 200)
    chosen = {int(Sampling(temperature=5.0, top_k=2).choose(scores, key)) for key in keys}
    assert chosen == {1, 3}
    assert int(Sampling(temperature=0).choose(scores, keys[0])) == 1


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ArgumentError, match="mainspring train digits"):
        recipes.find("digit")
    assert [recipes.find(name).name for name in recipes.NAMES] == list(recipes.NAMES)


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        (shakespeare.Config, {"width": 130}), (shakespeare.Config, {"context": 0}), (shakespeare.Config, {"dropout": 1.0}),
        (shakespeare.Config, {"clip": 0.0}), (shakespeare.Config, {"warmup": -1}), (digits.Config, {"stages": 0}),
        (tagger.Config, {"width": 0}), (tagger.Config, {"clip": -1.0}),
    ],
    ids=str,
)  # fmt: skip
def test_settings_of_recipes_are_checked(config: type, wrong: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        config(**wrong)


def test_shakespeare_on_a_text_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(WORDS)
    config = shakespeare.Config(**{**TINY.as_json(), "data": str(tmp_path / "words.txt")})
    task = shakespeare.task(config)
    assert task.metadata["vocabulary"] == "".join(sorted(set(WORDS)))
    batch = next(task.loader)
    assert batch["inputs"].shape == batch["targets"].shape == (2, 8)
    assert task.validation(task.model)["loss"] == pytest.approx(np.log(len(set(WORDS))), rel=0.05)


def test_gpt_has_the_published_size() -> None:
    """nanoGPT counts 0.80 M parameters for this setting: 12 · layers · width² and the embedding, norms aside."""
    model = shakespeare.model(shakespeare.Config(), Vocabulary("".join(map(chr, range(65)))))
    assert sum(leaf.size for leaf in tree.leaves(model) if leaf.ndim == 2) == 12 * 4 * 128**2 + 65 * 128


@pytest.mark.parametrize(("shape", "stages"), [((8, 8, 1), 2), ((28, 28, 1), 3), ((32, 32, 3), 3), ((5, 7, 2), 1)], ids=str)
def test_the_cnn_takes_images_of_any_size(shape: tuple[int, ...], stages: int) -> None:
    model = digits.model(digits.Config(width=4, stages=stages, depth=1), shape[-1], 7)
    scores, moved = model.forward(ms.zeros((3, *shape)), training=True)
    assert scores.shape == (3, 7) and model(ms.zeros((3, *shape))).shape == (3, 7)
    assert tree.flatten(moved)[1] == tree.flatten(model)[1]


def test_digits_reads_a_folder_of_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 90), ("t10k", 40)):
        pictures, labels = rng.integers(0, 256, (count, 6, 6), np.uint8), np.arange(count, dtype=np.uint8) % 3
        for kind, array in (("images-idx3", pictures), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    config = digits.Config(data=str(tmp_path), width=4, depth=1, batch=8)
    task = digits.task(config)
    found = task.validation(task.model)
    assert set(found) == {"loss", "accuracy"} and 0 <= found["accuracy"] <= 1
    assert "of 40 right" in digits.sample(config, task.model, task)
    with pytest.raises(DataError, match="halve"):
        digits.task(digits.Config(data=str(tmp_path), stages=5))


@pytest.mark.parametrize("length", [1, 7, 8, 9, 30])
def test_the_tagger_labels_every_character_once(length: int) -> None:
    vocabulary = Vocabulary.of("abc ")
    model = tagger.model(tagger.Config(width=4, embedding=4), vocabulary)
    tokens = np.arange(length, dtype=np.int32) % 4
    labels = np.argmax(np.asarray(model(tokens[None])), axis=-1)
    assert labels.shape == (1, length) and labels.max() < NUM_LABELS
    text = tagger.restored(model, 8, tokens, vocabulary)
    assert "".join(char for char in text.lower() if char in "abc ") == vocabulary.decode(tokens)


@pytest.mark.parametrize(
    "wrong", [{"tokens": -1}, {"temperature": -0.1}, {"temperature": float("nan")}, {"top_k": 0}, {"seed": -1}], ids=str
)
def test_sampling_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]
