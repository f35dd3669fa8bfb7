"""MS_TARGET: the machine that is compiled for changes the code and no bit of the result."""

from pathlib import Path

import numpy as np
import pytest

import mainspring as ms
from mainspring.base import flags
from mainspring.base.errors import ArgumentError
from mainspring.compile import target as targets
from mainspring.compile.target import TARGETS, Target, chosen, native
from mainspring.compile.target.caches import caches, share


def here(name):
    """Whether this process can run code for the target."""
    own = native()
    return TARGETS[name].triple.split("-")[0] == own.triple.split("-")[0] and TARGETS[name].has <= own.has


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_every_target_that_runs_here_gives_the_same_bits(name):
    if not here(name):
        pytest.skip(f"{name} does not run on this machine")
    x, w = ms.random.normal(ms.random.key(0), (33, 300)), ms.random.normal(ms.random.key(1), (300, 50))

    def bits(target):
        with flags.override(target=target):
            return np.asarray(ms.jit(lambda x, w: ms.softmax(ms.gelu(x @ w)))(x, w)).tobytes()

    assert bits(name) == bits("native")


def test_a_target_of_another_architecture_is_refused():
    other = next(name for name, t in TARGETS.items() if t.triple.split("-")[0] != native().triple.split("-")[0])
    with flags.override(target=other), pytest.raises(ArgumentError, match="architecture"):
        chosen()


def test_an_unknown_target_is_refused():
    with flags.override(target="abacus"), pytest.raises(ArgumentError, match="x86-64-v3"):
        chosen()


CACHES = (("1", "Data", "48K", "0-1"), ("1", "Instruction", "32K", "0"), ("2", "Unified", "2M", "0-1,4,6-7"),
          ("3", "Unified", "?", "0"))


def test_a_thread_counts_on_its_share_of_a_cache(tmp_path: Path) -> None:
    for i, facts in enumerate(CACHES):
        place = tmp_path / f"index{i}"
        place.mkdir()
        for name, text in zip(("level", "type", "size", "shared_cpu_list"), facts, strict=True):
            (place / name).write_text(text + "\n")
    assert [str(c) for c in caches(tmp_path)] == ["L1 data 48K", "L1 instruction 32K", "L2 unified 2048K"]
    assert (share(1, tmp_path), share(2, tmp_path), share(3, tmp_path)) == (24 << 10, (2 << 20) // 5, None)
    assert caches(tmp_path / "none") == ()


@pytest.mark.parametrize("told, used", [(None, 32), (0, 32), (8, 32), (24, 24), (48, 48), (4096, 32)])
def test_a_cache_that_cannot_be_is_not_believed(told: int | None, used: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "share", lambda level: None if told is None else told << 10)
    assert targets._cache_bytes(1, 16 << 10, Target.l1_bytes) == used << 10
