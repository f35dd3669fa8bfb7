"""Costs fitted to this machine: what the candidates of some products take is measured, and the table of costs made to say so.

    outcome = fit(120.0)          # measure for two minutes; outcome.costs, outcome.before, outcome.after
    if outcome.better: keep(outcome, path)

The count of cycles (`blocking.cost`) is not linear in its costs, so their logarithms are sought by least squares on the
logarithm of measured over counted, outliers counting less (`scipy.optimize.least_squares`, soft L1), and pulled gently towards
the table that was there: what nothing was measured of stays. What the fitted table is worth is judged on products left out of
a fit.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mainspring.autotune.cases import CASES, Case, Measured, compared, measured
from mainspring.autotune.learned import COSTS, costs_store
from mainspring.base.errors import ArgumentError
from mainspring.compile.target import Target, chosen
from mainspring.compile.target.costs import Costs

#: the costs that products tell of
FITTED = ("multiply", "load", "chain", "step", "bank", "base", "crowd", "left", "near", "right", "crossing", "colliding",
          "left_first", "left_again", "right_first", "right_far", "lines_first", "chunk", "keep", "finish", "row", "across",
          "columns", "rows", "pack", "pack_far", "pack_across", "kernel", "kernel_across", "barrier", "task")
COUNT = 24  # candidates of a product
MIN_CASES = 6  # fewer teach nothing that holds for others
FOLDS = 3
PULL = 0.3  # towards the table that was there, a logarithm each
LEVEL = 0.5  # weight of what a product takes as a whole, beside how its candidates differ
SOFT = 0.1  # logarithm beyond which a residual counts less
FAR = 20.0  # times that a cost may differ from what it was
JUDGING = 0.15  # share of the time that is left for what was left out
WORSE = 1.005  # regret on products left out, relative to before, above which a table is not kept


@dataclass(frozen=True)
class Outcome:
    """The fitted `costs`; regret of the heuristic on products left out, by the table before and by fitted ones: one number a
    product, its time over that of the best candidate measured."""

    costs: Costs
    before: dict[str, float]
    after: dict[str, float]

    @property
    def better(self) -> bool:
        """Whether the fitted table is to be kept: what was left out is not slower for it."""
        means = [statistics.geometric_mean(regrets.values()) for regrets in (self.before, self.after)]
        return means[1] <= means[0] * WORSE


Watcher = Callable[[str], None]  # told what is measured


def fit(seconds: float, *, target: Target | None = None, cases: dict[str, Case] = CASES, count: int = COUNT,
        watch: Watcher = lambda what: None) -> Outcome:
    """Measure for about `seconds`, and fit; nothing is kept yet.

    Raises ArgumentError when the time does not suffice for `MIN_CASES` products.
    """
    target, started = target or chosen(), time.perf_counter()
    until = started + (1 - JUDGING) * seconds
    found: dict[str, Measured] = {}
    for name, case in cases.items():
        if len(found) >= min(MIN_CASES, len(cases)) and time.perf_counter() > until:
            break
        watch(name)
        found[name] = measured(case, count, target)
    if len(found) < MIN_CASES:
        raise ArgumentError("tune --fit", "cases", f"must be {MIN_CASES} products or more", str(len(found)))
    before, after = {}, {}
    for fold in range(FOLDS):
        held = list(found)[fold::FOLDS]
        other = replace(target, costs=fitted_to([m for n, m in found.items() if n not in held], target.costs))
        for name in held:
            watch(f"{name}, left out of a fit")
            times = compared(cases[name], [target, other])
            best = min(found[name].best, times[1] / times[0])
            before[name], after[name] = 1 / best, times[1] / times[0] / best
    watch("all together")
    return Outcome(fitted_to(list(found.values()), target.costs), before, after)


def fitted_to(cases: Sequence[Measured], start: Costs) -> Costs:
    """The costs by which the candidates of `cases` should take about what they took; `start` where they tell nothing."""
    from scipy.optimize import least_squares

    truth = [np.log(list(m.seconds.values())) for m in cases]
    initial = np.array([getattr(start, name) for name in FITTED])

    def table(x: np.ndarray) -> Costs:
        return replace(start, **dict(zip(FITTED, (initial * np.exp(x)).tolist(), strict=True)))

    def residuals(x: np.ndarray) -> np.ndarray:
        costs = table(x)
        off = [t - np.log([m.site.expected(m.site.candidates[n], costs) for n in m.seconds])  # type: ignore[misc]
               for t, m in zip(truth, cases, strict=True)]
        level = np.array([o.mean() for o in off])
        apart = np.concatenate([o - o.mean() for o in off])
        each = np.sqrt([len(o) for o in off]) * LEVEL
        return np.concatenate([apart, each * (level - level.mean()), PULL * x])

    limit = np.log(FAR)
    found = least_squares(residuals, np.zeros(len(FITTED)), bounds=(-limit, limit), loss="soft_l1", f_scale=SOFT, max_nfev=12)
    return table(found.x)


def keep(outcome: Outcome, path: str) -> None:
    """From now on, compilations on this machine that use the database at `path` are led by the fitted costs."""
    costs_store(path).keep_model(COSTS, outcome.costs.to_text().encode())


def forget(path: str) -> None:
    """Back to the costs of the class of machine."""
    costs_store(path).forget(COSTS)
