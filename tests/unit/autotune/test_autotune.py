"""The tuner of kernels: a tuned program gives the bytes of an untuned one; what was learned is used, kept, and forgotten."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mainspring as ms
from mainspring import autotune
from mainspring.autotune import learned, measure, tuner
from mainspring.base import flags
from mainspring.base.errors import ArgumentError
from mainspring.compile.canonical import program_text
from mainspring.compile.choose import HEURISTIC, Decide, Fixed, Site, deviations, using
from mainspring.compile.lower import lower
from mainspring.compile.target import chosen
from mainspring.learned.tune import Surrogate, Trials, Winner
from mainspring.runtime.executable import build


def normal(*shape: int, dtype: str = "float32") -> Any:
    return ms.asarray(np.random.default_rng(0).standard_normal(shape).astype(dtype))


def linear(x: Any, w: Any, b: Any) -> Any:
    return ms.gelu(ms.matmul(x, w) + b)


#: function, arguments
PROGRAMS = {
    "product": (ms.matmul, (normal(40, 50), normal(50, 70))),
    "linear layer": (linear, (normal(33, 300), normal(300, 24), normal(24))),
    "transposed, chunks": (lambda a, b: ms.matmul(ms.matrix_transpose(a), b), (normal(300, 20), normal(300, 48))),
    "batched, float64": (ms.matmul, (normal(3, 10, 17, dtype="float64"), normal(3, 17, 20, dtype="float64"))),
    "map": (lambda x: ms.tanh(x) * 2, (normal(3, 3000),)),
    "sum of columns": (lambda x: ms.sum(x, axis=0), (normal(30, 200),)),
    "three rows": (linear, (normal(3, 300), normal(300, 40), normal(40))),
    "six rows, transposed": (lambda x, w: ms.matmul(x, ms.matrix_transpose(w)), (normal(6, 300), normal(70, 300))),
    "four columns": (ms.matmul, (normal(50, 260), normal(260, 4))),
    "norm of a residual": (lambda x, y: ms.layer_norm(ms.gelu(x) + y), (normal(40, 96), normal(40, 96))),
    "few long rows": (lambda x: ms.softmax(x * 2), (normal(4, 6000),)),
    "softmax of a product, twice used": (lambda x, w: (lambda h: ms.exp(h) / ms.sum(ms.exp(h), axis=1, keepdims=True)
                                         + ms.sum(ms.exp(h), axis=0))(x @ w), (normal(20, 50), normal(50, 48))),
    "convolution": (lambda x, w: ms.relu(ms.conv(x, w, padding="same")), (normal(2, 6, 6, 5), normal(3, 3, 5, 20))),
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    """A database of its own, in force."""
    path = str(tmp_path / "tuned.sqlite3")
    with flags.override(database=path, tuned=1):
        yield path


def sites(function: Any, arguments: Any) -> list[Site]:
    return [d.site for d in lower(ms.jit(function).graph(*arguments), chosen(), (), Fixed()).decisions]


def output(function: Any, arguments: Any) -> bytes:
    return np.asarray(ms.jit(function)(*arguments)).tobytes()


# ---------------------------------------------------------------------------------------------------------------- sites


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_candidate_changes_a_bit(name: str) -> None:
    function, arguments = PROGRAMS[name]
    with using(HEURISTIC):
        expected = output(function, arguments)
    found = sites(function, arguments)
    assert found
    for site in found:
        names = list(site.candidates)
        deep = [n for n in names if n.endswith("deep")][:2]
        for candidate in [names[0], *names[1 :: max(1, len(names) // 5)], *deep]:
            with using(Fixed(of_problems=(((site.kind, site.problem), candidate),))):
                assert output(function, arguments) == expected, (site.kind, candidate)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_site_is_well_formed(name: str) -> None:
    function, arguments = PROGRAMS[name]
    for site, again in zip(sites(function, arguments), sites(function, arguments), strict=True):
        assert site.default in site.candidates and (site.kind, site.problem) == (again.kind, again.problem)
        numbers = site.numbers()
        assert numbers.shape[0] == len(site.candidates) and np.isfinite(numbers).all()
        assert len({tuple(site.facts(c)) for c in site.candidates.values()}) == 1


def test_equal_problems_have_equal_text_and_others_another() -> None:
    def problem(function: Any, *arguments: Any) -> str:
        return sites(function, arguments)[0].problem

    a, b, c = normal(40, 50), normal(50, 70), normal(70)
    base = problem(ms.matmul, a, b)
    assert base == problem(lambda x, y: ms.matmul(x, y), b * 0 + a[0, 0], b) if a.shape == b.shape else True
    others = [problem(lambda x, y: ms.exp(x @ y), a, b), problem(linear, a, b, c), problem(ms.matmul, normal(41, 50), b),
              problem(lambda x, y: x @ ms.matrix_transpose(y), a, normal(70, 50)),
              problem(ms.matmul, normal(40, 50, dtype="float64"), normal(50, 70, dtype="float64"))]
    assert len({base, *others}) == 6


def test_the_heuristic_is_not_even_asked() -> None:
    def never() -> Site:
        raise AssertionError

    assert Decide(HEURISTIC)(7, never) == 7


def test_a_name_that_is_no_candidate_stands_for_the_default() -> None:
    site = Site("tile", "p", "a", lambda: {"a": 1, "b": 2}, lambda v: {"v": float(v)})
    decide = Decide(Fixed((("tile", "c"),)))
    assert decide(1, lambda: site) == 1 and deviations(decide.made) == ""
    decide = Decide(Fixed((("tile", "b"),)))
    assert decide(1, lambda: site) == 2 and "b" in deviations(decide.made)


def test_programs_of_other_decisions_are_not_confused() -> None:
    function, arguments = PROGRAMS["product"]
    graph, site = ms.jit(function).graph(*arguments), sites(function, arguments)[0]
    other = next(n for n in site.candidates if n != site.default)
    with using(HEURISTIC):
        plain = build(graph)
    with using(Fixed((("tile", other),))):
        tuned = build(graph)
        assert build(graph) is tuned
    with using(HEURISTIC):
        assert build(graph) is plain is not tuned
    assert plain.program.code.objects != tuned.program.code.objects
    with using(Fixed((("strip of nothing", "x"),))):  # no deviation: the untuned program, from the disk
        assert build(graph).program.code.objects == plain.program.code.objects


@pytest.mark.parametrize("name", ["linear layer", "norm of a residual", "softmax of a product, twice used"])
def test_a_joint_is_met_again_in_its_piece_which_is_another_program_apart(name: str) -> None:
    function, arguments = PROGRAMS[name]
    joints = lower(ms.jit(function).graph(*arguments), chosen(), (), Fixed()).joints
    kernels = []
    for joint in joints:
        site, piece = joint.decision.site, joint.piece()
        assert (site.kind, site.problem) in [(j.decision.site.kind, j.decision.site.problem)
                                             for j in lower(piece, chosen(), (), Fixed()).joints]
        for way in site.candidates:
            program = lower(piece, chosen(), (), Fixed(of_problems=(((site.kind, site.problem), way),))).program
            kernels.append(program_text(program))
    assert joints and len(set(kernels)) >= 2


# -------------------------------------------------------------------------------------------------------------- chooser


def chooser_of(site: Site, winner: str) -> learned.Learned:
    return learned.Learned.of([Winner(site.kind, site.problem, winner, 1.2)], {})


def test_a_stored_winner_is_used_and_another_problem_left_to_the_heuristic() -> None:
    mine, other = sites(*PROGRAMS["product"])[0], sites(*PROGRAMS["linear layer"])[0]
    chooser = chooser_of(mine, list(mine.candidates)[-1])
    assert chooser.choose(mine) == list(mine.candidates)[-1] and chooser.choose(other) == other.default


def test_a_confident_model_proposes_and_an_unsure_one_does_not() -> None:
    site = Site("tile", "p", "c0", lambda: {f"c{i}": i for i in range(10)}, lambda i: {"i": float(i), "odd": float(i % 2)})
    of, sure, unsure = learned.table(site), Trials(), Trials()
    rng = np.random.default_rng(0)
    for group in range(6):
        for i, name in enumerate(of.names):
            sure.add(of.encode(name), 0.5 if i == 7 else 1.0 + i / 50, 1.0, group)
            unsure.add(of.encode(name), float(rng.lognormal(sigma=1.0)), 1.0, group)
    assert learned.proposal(site, Surrogate.fit(sure)) == "c7"
    flat = Trials()
    for i, name in enumerate(of.names):
        flat.add(of.encode(name), 1.0 + 0.001 * (i == 0), 1.0, 0)
    assert learned.proposal(site, Surrogate.fit(flat)) == "c0"
    chooser = learned.Learned.of([], {"tile": Surrogate.fit(sure).to_bytes()})
    assert chooser.choose(site) == "c7"


# ---------------------------------------------------------------------------------------------------------------- tuner


def test_tuning_keeps_winners_and_trials_and_changes_no_bit(database: str) -> None:
    function, arguments = PROGRAMS["linear layer"]
    with using(HEURISTIC):
        expected = output(function, arguments)
    seen: list[tuner.Progress] = []
    outcomes = tuner.tune_graph(ms.jit(function).graph(*arguments), 2.0, watch=seen.append)
    kinds = [o.site.kind for o in outcomes if o.trials >= 2 and o.gain >= 1.0 and o.seconds > 0]
    assert kinds == ["tile", *["fuse"] * (len(outcomes) - 2), "team"]  # of what is fused, as much as there is time for
    store = learned.store(database)
    assert [w.config for w in store.winners()] == [o.winner for o in outcomes]
    assert len(store.trials("tile")) == outcomes[0].trials and len(seen) >= 1
    assert {o.site.kind for o in tuner.tune_graph(ms.jit(function).graph(*arguments), 1.0)} <= {"fuse"}  # the others are known
    assert output(function, arguments) == expected


def test_a_jitted_function_tunes_itself_once(database: str) -> None:
    function, arguments = PROGRAMS["product"]
    with using(HEURISTIC):
        expected = output(function, arguments)
    tuned = ms.jit(function, tune=0.6)
    assert np.asarray(tuned(*arguments)).tobytes() == expected == np.asarray(tuned(*arguments)).tobytes()
    assert "team" in {w.kind for w in learned.store(database).winners()} <= {"tile", "team"}  # as far as the time went


def test_later_compilations_use_the_winner_until_told_not_to(database: str) -> None:
    function, arguments = PROGRAMS["product"]
    graph, site = ms.jit(function).graph(*arguments), sites(function, arguments)[0]
    with using(HEURISTIC):
        plain = build(graph)
    assert build(graph).program.code.objects == plain.program.code.objects  # there is no database
    learned.store(database).win(Winner(site.kind, site.problem, list(site.candidates)[-1], 1.1))
    tuned = build(graph)
    assert tuned.program.code.objects != plain.program.code.objects
    with flags.override(tuned=0):
        assert build(graph) is plain
    learned.store(database).forget()
    assert build(graph).program.code.objects == plain.program.code.objects


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_what_does_not_make_the_whole_program_faster_is_withdrawn(database: str, monkeypatch: Any, ratio: float) -> None:
    function, arguments = PROGRAMS["product"]
    site = sites(function, arguments)[0]
    won = tuner.Outcome(site, 1, 1e-5, 2, list(site.candidates)[-1], 1.5)
    session = tuner.Session(learned.store(database), chosen(), 1.0, None)
    session.store.win(Winner(site.kind, site.problem, won.winner, won.gain))
    monkeypatch.setattr(tuner, "_pair", lambda *_: ratio)
    stands = session.believed(ms.jit(function).graph(*arguments), [won], Fixed(), learned.learned_chooser(database))
    assert stands[0].winner == session.store.winners()[0].config == (won.winner if ratio < 1 else site.default)


def test_a_program_that_a_flag_ends_is_not_run_on_made_up_operands() -> None:
    graph = ms.jit(lambda x: ms.while_loop(lambda v: ms.sum(v) < 100, lambda v: v * 2, x)).graph(normal(4))
    assert not tuner.ends(lower(graph, chosen()).program.instrs)
    assert tuner.ends(lower(ms.jit(ms.matmul).graph(*PROGRAMS["product"][1]), chosen()).program.instrs)


def test_a_candidate_with_other_bytes_is_none() -> None:
    problem = tuner.problems(lower(ms.jit(ms.matmul).graph(normal(8, 20), normal(20, 32)), chosen(), (), Fixed()).works)[0]
    default = tuner.made(problem, problem.site.default)
    bench = measure.PieceBench(default, chosen(), alone=True)
    assert bench.made({"default": default})["default"] is not None
    bench.expected = b"something else"
    assert bench.made({"wrong": default}) == {"wrong": None}


def test_the_first_of_a_race_stays_and_who_is_far_behind_leaves() -> None:
    class Fake(measure.Piece):
        def sample(self, operands: Any) -> float:
            self.samples.append(float(self.name))
            return self.samples[-1]

    def piece(name: str) -> measure.Piece:
        return Fake(name, [], None, 1)  # type: ignore[arg-type]

    pieces = [piece(name) for name in ("3", "1", "1.15", "2")]
    measure.Bench([], [], chosen()).race(pieces)
    assert [len(p.samples) for p in pieces] == [9, 9, 4, 2]


def test_a_small_program_may_run_alone_or_on_the_team_and_a_large_one_is_not_asked(database: str) -> None:
    x = normal(64, 64)
    found = [d.site for d in lower(ms.jit(ms.matmul).graph(x, x), chosen(), (), Fixed()).whole]
    assert [(s.kind, s.default, list(s.candidates)) for s in found] == [("team", "alone", ["alone", "team"])]
    large = normal(600, 600)
    assert not lower(ms.jit(ms.matmul).graph(large, large), chosen(), (), Fixed()).whole
    with using(Fixed((("team", "team"),))):
        assert not build(ms.jit(ms.matmul).graph(x, x)).program.alone


def test_reading_a_database_that_is_damaged_compiles_all_the_same(database: str) -> None:
    Path(database).write_bytes(b"no database" * 100)
    function, arguments = PROGRAMS["product"]
    with pytest.warns(UserWarning, match="cannot be read"):
        assert len(output(function, arguments)) == 40 * 70 * 4


def test_without_a_place_for_a_database_tuning_says_so() -> None:
    with flags.override(cache="", database=""), pytest.raises(ArgumentError, match="MS_DATABASE"):
        tuner.tune_graph(ms.jit(ms.matmul).graph(normal(8, 20), normal(20, 32)), 1.0)
    assert autotune.database()


@pytest.mark.parametrize("tune", [-1, "fast", float("nan"), float("inf")])
def test_a_wrong_time_is_an_error(tune: Any) -> None:
    with pytest.raises(ArgumentError, match="tune"):
        ms.jit(ms.matmul, tune=tune)


def test_without_a_database_nothing_of_the_tuner_is_loaded() -> None:
    script = ("import mainspring as ms, sys; ms.jit(lambda x: x @ x)(ms.ones((32, 32)))\n"
              "assert not {'sqlite3', 'mainspring.learned', 'mainspring.autotune.tuner'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
