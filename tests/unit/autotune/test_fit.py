"""Fitted costs: found again where they are known, used and dropped, and never in the way of a result or of a compilation."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import mainspring as ms
from mainspring.autotune import cases, fit, learned
from mainspring.base import flags
from mainspring.base.errors import ArgumentError
from mainspring.compile.choose import Site
from mainspring.compile.target import TARGETS, chosen
from mainspring.compile.target.costs import COSTS, Costs
from mainspring.learned.tune import Winner
from mainspring.runtime.executable import build, target_in_force
from mainspring.tools.cli import app

OTHER = replace(chosen().costs, barrier=1.0, kernel=500.0, kernel_across=500.0, task=1e6, wake_ns=1.0, strip_rows=1.0)
ARRAYS = [np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in ((150, 300), (300, 200))]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    """A database of its own, in force."""
    path = str(tmp_path / "tuned.sqlite3")
    with flags.override(database=path, tuned=1):
        yield path


def product() -> Any:
    return ms.jit(ms.matmul).graph(*[ms.asarray(a) for a in ARRAYS])


def kept(path: str, costs: Costs = OTHER) -> None:
    fit.keep(fit.Outcome(costs, {"a": 1.2}, {"a": 1.1}), path)


def test_a_table_comes_back_from_its_text_and_another_text_is_refused() -> None:
    assert Costs.from_text(OTHER.to_text()) == OTHER and OTHER.key != chosen().costs.key
    for wrong in ("", "{}", "[1]", "\x00", OTHER.to_text()[:-9], OTHER.to_text().replace("barrier", "barriers"),
                  OTHER.to_text().replace("500.0", "-1.0"), OTHER.to_text().replace("500.0", "NaN"),
                  OTHER.to_text().replace("500.0", '"much"')):
        with pytest.raises(ArgumentError):
            Costs.from_text(wrong)
    assert all(isinstance(target.costs, Costs) for target in TARGETS.values())
    assert set(COSTS) == {"avx2", "avx512", "halves", "neon"}


def test_fitted_costs_lead_compilations_until_they_are_dropped(database: str) -> None:
    graph = product()
    plain = build(graph)
    kept(database)
    assert target_in_force().costs == OTHER
    led = build(graph)
    assert led is not plain and led.program.code.objects != plain.program.code.objects and build(graph) is led
    values = [ms.asarray(a) for a in ARRAYS]
    assert np.asarray(led(values)[0]).tobytes() == np.asarray(plain(values)[0]).tobytes()
    with flags.override(tuned=0):
        assert target_in_force() == chosen() and build(graph) is plain
    fit.forget(database)
    assert target_in_force() == chosen() and build(graph).program.code.objects == plain.program.code.objects


def test_what_was_won_by_other_costs_is_not_mixed_in_and_comes_back(database: str) -> None:
    winner = Winner("tile", "p", "6x1", 1.2)
    learned.store(database).win(winner)
    kept(database)
    assert learned.store(database).winners() == []
    fit.forget(database)
    assert learned.store(database).winners() == [winner]


@pytest.mark.parametrize("damage", ["text", "of another table", "no number", "no text", "another machine", "another version"])
def test_an_entry_that_is_not_ours_falls_back_to_the_class_of_machine(database: str, damage: str) -> None:
    kept(database)
    changes = {"text": ("model", b"no table"), "of another table": ("model", b'{"task": 500.0}'),
               "no text": ("model", b"\xff\xfe"),
               "no number": ("model", OTHER.to_text().replace("500.0", "0.0").encode()),
               "another machine": ("target", "another"), "another version": ("version", "0.0.1")}
    column, value = changes[damage]
    with sqlite3.connect(database) as db:
        db.execute(f"update models set {column} = ?", (value,))
    assert learned.fitted(database) == chosen() == target_in_force()
    assert len(build(product())([ms.asarray(a) for a in ARRAYS])) == 1


def made_up(truth: Costs) -> list[cases.Measured]:
    """Cases whose candidates take what `truth` says."""
    found = []
    for name in list(cases.CASES)[:8]:
        site: Site = cases.CASES[name].problem(chosen())[0].site
        names = list(site.candidates)[:: max(1, len(site.candidates) // 12)]
        found.append(cases.Measured(site, {n: 1e-9 * site.expected(site.candidates[n], truth)  # type: ignore[misc]
                                              for n in dict.fromkeys([site.default, *names])}))
    return found


def test_a_fit_finds_the_costs_that_made_the_times_or_others_that_foretell_them() -> None:
    start = COSTS["avx2"]
    truth = replace(start, multiply=1.2, pack=12.0, barrier=9000.0, task=1500.0)
    found = made_up(truth)

    def off(costs: Costs) -> float:
        logs = [np.log([m.site.expected(m.site.candidates[n], costs) / t for n, t in m.seconds.items()]) for m in found]  # type: ignore[misc]
        return float(np.mean([np.std(x) for x in logs]))

    fitted = fit.fitted_to(found, start)
    assert off(fitted) < off(start) / 2
    untouched = fit.fitted_to(made_up(start), start)
    assert all(getattr(untouched, n) == pytest.approx(getattr(start, n), rel=1e-3) for n in fit.FITTED)


def test_a_table_is_kept_only_if_what_was_left_out_is_not_slower() -> None:
    assert fit.Outcome(OTHER, {"a": 1.2, "b": 1.0}, {"a": 1.0, "b": 1.1}).better
    assert not fit.Outcome(OTHER, {"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.1}).better


def test_a_short_fit_measures_and_judges_and_keeps_nothing(database: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(cases, "ROUNDS", (1, 1))
    monkeypatch.setattr(fit, "MIN_CASES", 3)
    small = {str(n): cases._product(24 + n, 32, 40) for n in range(3)}
    told: list[str] = []
    outcome = fit.fit(0.1, cases=small, count=2, watch=told.append)
    assert set(outcome.before) == set(outcome.after) == set(small) and min(outcome.before.values()) >= 1.0
    assert told[:3] == list(small) and not Path(database).exists()
    with pytest.raises(ArgumentError, match="3 products"):
        fit.fit(0.1, cases={})


def test_the_command_keeps_shows_and_forgets_and_loses_nothing_when_stopped(database: str, monkeypatch: Any) -> None:
    def call(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["tune", "--fit", "--database", database, *arguments])
        return f"{result.exit_code} {result.output}"

    def fitting_to(costs: Costs, after: float) -> None:
        monkeypatch.setattr(fit, "fit", lambda seconds, watch: fit.Outcome(costs, {"a": 1.1}, {"a": after}))

    def stopped(seconds: float, watch: Any) -> fit.Outcome:
        raise KeyboardInterrupt

    fitting_to(OTHER, 1.2)
    assert "not kept" in call() and "no fitted costs" in call("--show")
    fitting_to(OTHER, 1.0)
    assert "kept in" in call() and "costs fitted to this machine" in call("--show") and learned.fitted(database).costs == OTHER
    monkeypatch.setattr(fit, "fit", stopped)
    assert not call().startswith("0 ") and learned.fitted(database).costs == OTHER
    assert "forgotten" in call("--forget") and "no fitted costs" in call("--show")
    assert call("shakespeare").startswith("2 ") and call("--budget", "0").startswith("2 ")
