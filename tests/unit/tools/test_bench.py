"""The harness of the benchmarks: pairs, comparison of numbers, peers that cannot take part, and what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import FAMILIES, harness, results
from benchmarks.harness import Case, Disagreement, Options, Outcome, Timing
from mainspring.base.errors import ArgumentError, DependencyError, MainspringError
from mainspring.tools import bench
from mainspring.tools.peak import Peak, Rate

FAMILY = harness.load("tests.unit.tools.family_of_tests")
QUICK = Options(threads=1, rounds=2, seconds=1e-4)
PEAK = Peak(2, {"float32": Rate(10.0, 20.0)}, {"copy": Rate(5.0, 8.0), "read": Rate(6.0, 9.0)})


def test_a_ratio_is_that_of_pairs() -> None:
    assert results.ratio([1.0, 2.0, 4.0], [2.0, 2.0, 2.0]) == (1.0, 0.5, 2.0)
    assert results.geometric_mean([0.5, 2.0]) == pytest.approx(1.0)


def test_a_share_of_the_peak_is_the_larger_of_arithmetic_and_memory() -> None:
    assert PEAK.share(1.0, operations=10e9) == pytest.approx(0.5)
    assert PEAK.share(1.0, operations=10e9, moved=8e9) == pytest.approx(1.0)
    assert PEAK.share(2.0, moved=8e9) == pytest.approx(0.5)
    assert replace(PEAK, cache=1 << 20).share(1.0, moved=1 << 20) == 0


@pytest.mark.parametrize(
    "theirs",
    [np.array([1.0, 2.001]), np.array([1.0, np.nan]), np.array([[1.0, 2.0]]), np.array([1.0])],
    ids=["value", "nan", "shape", "length"],
)
def test_disagreement_is_an_error(theirs: np.ndarray) -> None:
    ours = {"ours": [np.array([1.0, 2.0])]}
    harness.agree("family", Case("case"), {**ours, "theirs": [np.array([1.0, 2.0 + 1e-6])]}, 1e-5)
    with pytest.raises(Disagreement, match="ours and theirs"):
        harness.agree("family", Case("case"), {**ours, "theirs": [theirs]}, 1e-5)


def test_peers_take_turns_and_those_that_cannot_are_left_out_by_name() -> None:
    family = replace(FAMILY, peers={k: v for k, v in FAMILY.peers.items() if k != "different"})
    first, second = harness.run(family, QUICK)
    for outcome in (first, second):
        assert list(outcome.timings) == ["ours", "same"]
        assert all(len(timing.times) == 2 and min(timing.times) > 0 for timing in outcome.timings.values())
        assert outcome.left_out["missing"].startswith("not installed: No module named 'nothing'")
        assert outcome.left_out["broken"] == "ValueError: cannot do this"
        assert outcome.left_out["dying"].startswith("its process ended")
    assert [first.case.name, second.case.name] == ["small", "large"]


def test_a_peer_that_computes_something_else_stops_the_run() -> None:
    with pytest.raises(Disagreement, match="ours and different must agree"):
        list(harness.run(FAMILY, replace(QUICK, peers=("different",))))


def test_ours_must_work() -> None:
    with pytest.raises(MainspringError, match="broken must run it"):
        list(harness.run(replace(FAMILY, peers={"broken": FAMILY.peers["broken"]}), QUICK))


def test_sizes_are_chosen_by_parts_of_names() -> None:
    assert [c.name for c in Options().cases(FAMILY)] == ["small", "large"]
    assert [c.name for c in Options(sizes=("od",)).cases(FAMILY)] == ["odd"]
    assert len(Options(sizes=("all",)).cases(FAMILY)) == 3
    with pytest.raises(ArgumentError, match="small, large, odd"):
        Options(sizes=("huge",)).cases(FAMILY)


def _outcome() -> Outcome:
    timings = {"ours": Timing((1e-6, 1e-6), 0.5, 1 << 20), "theirs": Timing((2e-6, 3e-6), 1.0, 2 << 20)}
    return Outcome(Case("small", operations=1e4), timings, {"other": "not installed: No module named 'other'"})


def test_tables_and_numbers(tmp_path: Path) -> None:
    found = results.record(replace(FAMILY, fresh=True), _outcome(), PEAK)
    assert (found["best"], found["peers"]["ours"]["share"]) == (2.5, pytest.approx(0.5))
    text = results.table(replace(FAMILY, fresh=True), [found])
    assert "| small | 1 µs | 50% | 2.5 µs (2.50; 2.00 to 3.00) | 2.50 |" in text
    assert "1.00 s, 2 MB" in text and "left out: other (not installed" in text
    cold = results.table(replace(FAMILY, cold=True), [found])
    assert "| small | theirs | 1.00 s (2.00) |" in cold
    data = {"families": {"small": {"cases": [found]}}}
    written = results.save(tmp_path / "new", "stem", text, data)
    assert [path.name for path in written[:2]] == ["stem.md", "stem.json"] and all(path.exists() for path in written)
    assert json.loads(written[1].read_text()) == json.loads(json.dumps(data))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_well_formed(name: str) -> None:
    family = harness.load(name)
    names = [case.name for case in family.cases]
    assert family.name == name and len(names) == len(set(names)) and not family.cases[0].extra
    assert next(iter(family.peers)) == harness.OURS and set(family.peers) <= set(harness.IMPORTS)


def test_families_are_checked_and_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="gemm"):
        bench.families(["nosuch"])
    monkeypatch.setattr(bench, "_REPOSITORY", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DependencyError, match="in the repository"):
        bench.benchmarks()
