"""What the tuner brings: regret against exhaustive search, trials to 95% of the best, and a training step before and after.

    python benchmarks/tuner.py regret [--candidates 40] [--file costs.json]
    python benchmarks/tuner.py step [--recipe shakespeare] [--budget 60]
    python -m benchmarks.tuner steps [--only gpt cnn] [--budget 30]

`regret` measures the same number of candidates of each of a spread of products (a sample of all blockings, and the heuristic's)
and keeps the costs in a file, from which the tables can be made again. Then the products are dealt into folds; what is said of
a product was learned from the other folds alone. A cost is relative to the heuristic's, timed beside it. `steps` tunes the
first case of families of training steps, as ``ms.jit(step, tune=…)`` does.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import mainspring as ms
from mainspring.autotune.cases import CASES, measured
from mainspring.autotune.learned import CAUTION, MARGIN, store, table
from mainspring.base import flags
from mainspring.compile.choose import HEURISTIC, using
from mainspring.compile.target import chosen
from mainspring.learned.tune import ModelSearch, RandomSearch, Surrogate, Table, Trials

FOLDS, SHARE = 4, 0.95
SEEDS, BATCH = 3, 4  # searches of a product; trials between two fits of a model


def relative(name: str, count: int) -> dict[str, Any]:
    """Costs of `count` candidates of a case and of the heuristic's, relative to that one's."""
    found = measured(CASES[name], count, chosen())
    of, base = table(found.site), found.seconds[found.site.default]
    return {"default": of.default, "seconds": base, "of": len(of.names), "guess": of.guess,
            "costs": {n: s / base for n, s in found.seconds.items()},
            "numbers": {n: of.encode(n).tolist() for n in found.seconds}}


def tables(cases: dict[str, dict[str, Any]]) -> None:
    """Print regrets and trials, each product judged by what the others taught."""
    names = list(cases)
    regrets: dict[str, list[float]] = {}
    trials: dict[str, list[float]] = {}
    ordered: list[np.ndarray] = []
    print(f"{'product':28s} {'µs':>8s} {'heuristic':>10s} {'learned':>8s}   (cost / cost of the best measured)", flush=True)
    for fold in range(FOLDS):
        model = _model([cases[n] for i, n in enumerate(names) if i % FOLDS != fold])
        for name in names[fold::FOLDS]:
            of, costs = _table(cases[name]), cases[name]["costs"]
            for label, cost in _choices(of, costs, model).items():
                regrets.setdefault(label, []).append(cost / min(costs.values()))
            for label, make in _searches(of, model).items():
                trials.setdefault(label, []).append(statistics.mean(_trials_to(make(seed), costs) for seed in range(SEEDS)))
            ordered.append(_ordered(of, costs, model))
            heuristic, learned = regrets["heuristic"][-1], regrets[LEARNED][-1]
            print(f"{name:28s} {cases[name]['seconds'] * 1e6:8.1f} {heuristic:10.2f} {learned:8.2f}", flush=True)
    right = np.concatenate(ordered)
    print(f"\nheld-out pairs of candidates over 5% apart that the model orders rightly: {right.mean():.0%} of {len(right)}")
    print(f"\n{'regret on held-out products':60s} geometric mean   worst")
    for label, values in regrets.items():
        print(f"  {label:58s} {statistics.geometric_mean(values):14.3f} {max(values):8.3f}")
    print(f"\n{f'trials to {SHARE:.0%} of the best, {SEEDS} seeds':60s}           mean   worst")
    for label, values in trials.items():
        print(f"  {label:58s} {statistics.mean(values):14.1f} {max(values):8.1f}")


LEARNED = "learned: the model where it is sure, else the heuristic"


def _choices(of: Table, costs: dict[str, float], model: Surrogate) -> dict[str, float]:
    """The cost of what each way to choose without measuring takes."""
    mean, spread = model.predict(of.numbers)
    gain = mean[of.names.index(of.default)] - mean - CAUTION * spread
    sure = of.names[int(gain.argmax())] if gain.max() > MARGIN else of.default
    return {"heuristic": costs[of.default], LEARNED: costs[sure],
            "learned: always the model": costs[of.names[int(mean.argmin())]],
            "any, on average": statistics.mean(costs.values())}


def _ordered(of: Table, costs: dict[str, float], model: Surrogate) -> np.ndarray:
    """For pairs of candidates that are clearly apart, whether the model orders them rightly."""
    mean, truth = model.predict(of.numbers)[0], np.array([costs[n] for n in of.names])
    a, b = np.random.default_rng(0).integers(len(truth), size=(2, 2000))
    apart = np.abs(np.log(truth[a] / truth[b])) > 0.05
    right: np.ndarray = ((mean[a] < mean[b]) == (truth[a] < truth[b]))[apart]
    return right


def _table(case: dict[str, Any]) -> Table:
    return Table(tuple(case["costs"]), np.array([case["numbers"][n] for n in case["costs"]]), case["default"], case["guess"])


def _model(cases: list[dict[str, Any]]) -> Surrogate:
    trials = Trials()
    for group, case in enumerate(cases):
        for name, cost in case["costs"].items():
            trials.add(np.array(case["numbers"][name]), cost, 1.0, group)
    return Surrogate.fit(trials, guess=cases[0]["guess"])


class Ordered(RandomSearch):
    """Candidates in the order of what they should cost by the facts of the target."""

    def _propose(self, count: int, chosen: list[Any]) -> None:
        domain = self.domain
        assert isinstance(domain, Table) and domain.guess is not None
        pool = sorted(self._unasked([]), key=lambda name: float(domain.encode(name)[domain.guess]))
        for name in pool[: count - len(chosen)]:
            self._take(name, chosen)


def _searches(of: Table, model: Surrogate) -> dict[str, Callable[[int], RandomSearch]]:
    count = len(of.names)
    return {"random": lambda seed: RandomSearch(of, count, seed=seed),
            "in the order of what they should cost": lambda seed: Ordered(of, count, seed=seed),
            "model": lambda seed: ModelSearch(of, count, seed=seed),
            "model that knows other products": lambda seed: ModelSearch(of, count, seed=seed, prior=model)}


def _trials_to(search: RandomSearch, costs: dict[str, float]) -> int:
    """Trials until something within best / SHARE was found."""
    goal = min(costs.values()) / SHARE
    while not search.should_stop():
        for config in search.ask(BATCH):
            search.tell(config, costs[config])
            if costs[config] <= goal:
                return len(search.told)
    return len(search.told)


def regret(count: int, file: Path | None) -> None:
    cases: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file and file.exists() else {}
    for name in CASES:
        if name not in cases:
            cases[name] = relative(name, count)
            if file:
                file.write_text(json.dumps(cases))
    tables(cases)


def step(recipe: str, budget: float) -> None:
    """A training step of `recipe`, before and after tuning into a database of its own."""
    from mainspring.tools.tuning import carry_out

    with tempfile.TemporaryDirectory() as folder, flags.override(tuned=1):
        carry_out(recipe, budget, Path(folder) / "tuned.sqlite3", again=False)


def steps(names: Sequence[str], budget: float, rounds: int = 11) -> None:
    """Training steps of `benchmarks`, by heuristics and tuned for `budget` seconds each, in interleaved rounds."""
    for name in names:
        family = importlib.import_module(f"benchmarks.{name}_step")
        case = family.FAMILY.cases[0]
        with tempfile.TemporaryDirectory() as folder, flags.override(tuned=1, database=str(Path(folder) / "tuned.sqlite3")):
            with using(HEURISTIC):
                plain = family.mainspring(case)
                plain.run()
            with mock.patch.object(ms, "jit", partial(ms.jit, tune=budget)):
                tuned = family.mainspring(case)
                tuned.run()
            winners = store(flags.database()).winners()
        times: tuple[list[float], list[float]] = ([], [])
        for i in range(rounds):
            for which in (0, 1) if i % 2 else (1, 0):
                times[which].append(_run_seconds((plain, tuned)[which].run))
        gain = statistics.median(a / b for a, b in zip(*times, strict=True))
        kinds = Counter(w.kind for w in winners), Counter(w.kind for w in winners if w.gain > 1)
        asked = ", ".join([f"{kinds[1][kind]} of {count} {kind}" for kind, count in sorted(kinds[0].items())])
        print(f"{name:6s} {case.name:30s} {statistics.median(times[0]) * 1e3:8.3f} ms by heuristics, "
              f"{statistics.median(times[1]) * 1e3:8.3f} tuned for {budget:.0f} s, {gain:.3f}×; "
              f"other than the heuristic's: {asked}", flush=True)


def _run_seconds(run: Callable[[], Any], least: float = 0.03) -> float:
    """Seconds of a run, over as many as take `least`."""
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < least:
        run()
        count += 1
    return (time.perf_counter() - started) / count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("regret", "step", "steps"))
    parser.add_argument("--candidates", type=int, default=40)
    parser.add_argument("--file", type=Path, help="costs measured before; measured ones are added")
    parser.add_argument("--recipe", default="shakespeare")
    parser.add_argument("--budget", type=float, default=60.0)
    parser.add_argument("--only", nargs="*", default=["gpt", "cnn", "mlp", "lstm"], help="families of `steps`")
    args = parser.parse_args()
    if args.what == "regret":
        regret(args.candidates, args.file)
    elif args.what == "step":
        step(args.recipe, args.budget)
    else:
        steps(args.only, args.budget)
