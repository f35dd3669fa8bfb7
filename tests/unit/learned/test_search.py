"""Spaces, searches, the model of the cost and the guard, on synthetic costs: the protocol, and that learning helps."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from mainspring.base.errors import ArgumentError
from mainspring.learned.tune import (
    Choice,
    ModelSearch,
    RandomSearch,
    Real,
    Search,
    Space,
    Surrogate,
    Table,
    Trials,
    Whole,
    confirm,
)
from mainspring.learned.tune.guard import LEVEL, wins_needed

SPACE = Space((Choice("policy", ("lru", "clock", "random")), Whole("pages", 16, 4096, log=True), Real("share", 0.0, 1.0)),
              {"policy": "random", "pages": 64, "share": 0.5})
SEARCHES = (RandomSearch, ModelSearch)


def cost(config: dict) -> float:
    """Least, 1, at clock, 1024, 0.25."""
    knobs = 1 + 0.4 * (config["policy"] != "clock") + 0.2 * abs(math.log2(config["pages"] / 1024))
    return knobs * (1 + abs(config["share"] - 0.25))


def problem(number: int, count: int = 80) -> tuple[Table, dict[str, float]]:
    """A table whose costs follow from its numbers in the same way for every `number`, on another scale."""
    rng = np.random.default_rng(number)
    x = rng.uniform(size=(count, 6))
    costs = (number + 1) * np.exp(np.abs(x[:, 0] - 0.3) + 0.8 * x[:, 1] * x[:, 2] + 0.3 * (x[:, 3] > 0.5))
    names = tuple([f"c{i}" for i in range(count)])
    return Table(names, x, names[0]), dict(zip(names, costs.tolist(), strict=True))


def drive(search: Search, costs: dict[str, float] | None = None, batch: int = 4) -> list[float]:
    told = []
    while not search.should_stop():
        asked = search.ask(batch)
        assert 0 < len(asked) <= batch
        for config in asked:
            told.append(cost(config) if costs is None else costs[config])
            search.tell(config, told[-1])
    return told


# --------------------------------------------------------------------------------------------------------------- spaces


def test_draws_and_neighbours_stay_in_the_space_and_have_numbers_of_one_length() -> None:
    rng = np.random.default_rng(0)
    config = SPACE.default
    for _ in range(200):
        config = SPACE.near(config, rng) if rng.random() < 0.7 else SPACE.sample(rng)
        SPACE.check(config)
        assert SPACE.encode(config).shape == (5,)
        assert SPACE.key(config) == SPACE.key(dict(reversed(config.items())))


@pytest.mark.parametrize(("what", "says"), [
    (lambda: Whole("pages", 9, 3), "low"),
    (lambda: Real("rate", 0.0, 1.0, log=True), "positive"),
    (lambda: Space((Whole("pages", 1, 9),), {"pages": 10}), "pages"),
    (lambda: Space((Whole("pages", 1, 9),), {"page": 3}), "pages"),
    (lambda: Table(("a", "b"), np.zeros((2, 1)), "c"), "default"),
    (lambda: RandomSearch(SPACE, 0), "budget"),
    (lambda: RandomSearch(SPACE, 9).tell(SPACE.default, -1.0), "cost"),
    (lambda: ModelSearch(SPACE, 9).tell(SPACE.default, math.nan), "cost"),
    (lambda: Surrogate.fit(Trials()), "trials"),
    (lambda: Surrogate.from_bytes(b"nothing"), "to_bytes"),
])
def test_bad_input_is_an_error_that_names_it(what, says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        what()


# ------------------------------------------------------------------------------------------------------------- searches


@pytest.mark.parametrize("kind", SEARCHES)
def test_the_default_is_asked_first_and_nothing_twice(kind) -> None:
    search = kind(SPACE, budget=25)
    first = search.ask(1)
    assert first == [SPACE.default]
    seen = [SPACE.key(first[0])]
    search.tell(first[0], cost(first[0]))
    while not search.should_stop():
        for config in search.ask(3):
            seen.append(SPACE.key(config))
            search.tell(config, cost(config))
    assert len(seen) == len(set(seen)) == 25
    assert cost(search.best) == search.best_cost == min(cost(c) for c, _ in search.told.values())


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_table_is_searched_to_its_end_and_no_further(kind) -> None:
    table, costs = problem(0, count=17)
    search = kind(table, budget=1000)
    assert sorted(drive(search, costs)) == sorted(costs.values())
    assert search.ask(3) == [] and search.best == min(costs, key=costs.__getitem__)


@pytest.mark.parametrize("kind", SEARCHES)
def test_patience_ends_a_search_that_finds_nothing_better(kind) -> None:
    search = kind(SPACE, budget=500, patience=10)
    while not search.should_stop():
        for config in search.ask(2):
            search.tell(config, 1.0)
    assert len(search.told) == 12


@pytest.mark.parametrize("kind", SEARCHES)
def test_failures_are_told_as_infinity_and_never_win(kind) -> None:
    search = kind(SPACE, budget=30)
    for i in range(6):
        for config in search.ask(4):
            search.tell(config, math.inf if i % 2 or not search.told else cost(config))
    assert math.isfinite(search.best_cost)


def test_equal_seeds_search_alike() -> None:
    assert drive(ModelSearch(SPACE, 18, seed=3)) == drive(ModelSearch(SPACE, 18, seed=3))


def test_a_guess_of_the_cost_leads_the_first_trials_and_is_corrected() -> None:
    table, costs = problem(0, count=60)
    said = np.log([costs[name] / costs[table.default] for name in table.names])
    informed = Table(table.names, np.concatenate([table.numbers, said[:, None]], axis=1), table.default, table.numbers.shape[1])
    assert min(costs.values()) in drive(ModelSearch(informed, 4), costs)
    model, told = ModelSearch(informed, 60), Trials()
    for name, row in zip(table.names, informed.numbers, strict=True):  # the truth is twice what was said, but for the default
        told.add(row, 1.0 if name == table.default else 2 * costs[name] / costs[table.default], 1.0)
    assert model.prior is not None and np.array_equal(model.prior.predict(informed.numbers)[0], said)
    corrected = Surrogate.from_bytes(Surrogate.fit(told, guess=informed.guess).to_bytes())
    off = corrected.predict(informed.numbers)[0] - said
    assert 0.5 < np.median(off) < 0.8


def test_a_model_finds_better_than_chance_with_the_same_trials() -> None:
    wins = [min(drive(ModelSearch(SPACE, 32, seed=i))) < min(drive(RandomSearch(SPACE, 32, seed=i))) for i in range(3)]
    assert all(wins)


# ---------------------------------------------------------------------------------------------------------------- model


def learned(problems: range) -> Surrogate:
    trials = Trials()
    for number in problems:
        table, costs = problem(number)
        for name in table.names[::2]:
            trials.add(table.encode(name), costs[name], costs[table.default], number)
    return Surrogate.fit(trials)


def test_the_model_ranks_the_candidates_of_problems_it_has_not_seen() -> None:
    model = learned(range(6))
    for number in (20, 21):
        table, costs = problem(number)
        mean, spread = model.predict(table.numbers)
        truth = np.array(list(costs.values()))
        rng = np.random.default_rng(0)
        a, b = rng.integers(len(truth), size=(2, 2000))
        apart = np.abs(np.log(truth[a] / truth[b])) > 0.1
        assert np.mean((mean[a] < mean[b])[apart] == (truth[a] < truth[b])[apart]) > 0.85
        assert truth[mean.argmin()] < np.quantile(truth, 0.1)
        assert (spread >= 0).all() and spread.max() > 0


def test_what_was_learned_of_other_problems_leads_the_first_proposals() -> None:
    table, costs = problem(30)
    search = ModelSearch(table, 8, prior=learned(range(6)))
    assert min(drive(search, costs)) < np.quantile(list(costs.values()), 0.05)


def test_a_model_survives_being_kept_as_bytes() -> None:
    model, (table, _) = learned(range(4)), problem(9)
    for a, b in zip(model.predict(table.numbers), Surrogate.from_bytes(model.to_bytes()).predict(table.numbers), strict=True):
        assert (a == b).all()
    with pytest.raises(ArgumentError, match="to_bytes"):
        Surrogate.from_bytes(model.to_bytes()[:200])


# ---------------------------------------------------------------------------------------------------------------- guard


def noisy(true: float, rng: np.random.Generator):
    """Measurements with noise of ten percent and now and then an outlier."""
    return lambda: true * rng.lognormal(sigma=0.1) * (1 + 4 * (rng.random() < 0.05))


def test_the_guard_rarely_believes_what_is_no_better_and_mostly_what_is() -> None:
    rng = np.random.default_rng(1)
    wrong = sum(confirm(noisy(1.0, rng), noisy(true, rng)).better for true in (1.0, 1.02, 1.1) for _ in range(100))
    right = sum(confirm(noisy(1.0, rng), noisy(0.7, rng)).better for _ in range(100))
    assert wrong <= 300 * LEVEL and right >= 95


def test_search_and_guard_never_end_worse_than_the_default() -> None:
    """What is cheapest as measured is the luckiest of many; the guard's word is what counts."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        table, costs = problem(seed, count=30)
        best = min(costs, key=costs.__getitem__)
        costs = {name: max(c, 1.0) for name, c in costs.items()} | {table.default: costs[best] * 0.9}  # the default is the best
        search = RandomSearch(table, 30, seed=seed)
        while not search.should_stop():
            for config in search.ask(4):
                search.tell(config, noisy(costs[config], rng)())
        verdict = confirm(noisy(costs[table.default], rng), noisy(costs[search.best], rng))
        chosen = search.best if verdict.better else table.default
        assert costs[chosen] <= costs[table.default]


def test_the_sign_test_asks_for_more_wins_of_more_pairs() -> None:
    for pairs in range(5, 40):
        wins = wins_needed(pairs)
        tail = sum(math.comb(pairs, i) for i in range(wins, pairs + 1)) / 2**pairs
        assert wins <= pairs and tail <= LEVEL < tail + math.comb(pairs, wins - 1) / 2**pairs
    assert all(a <= b for a, b in pairwise([wins_needed(n) for n in range(5, 40)]))


def test_a_hopeless_candidate_is_not_measured_to_the_end() -> None:
    verdict = confirm(lambda: 1.0, lambda: 2.0, pairs=11)
    assert not verdict.better and verdict.pairs < 11 and verdict.ratio == 2.0
