"""A model of the cost, learned from trials, with a measure of what it does not know.

Trials come in groups (one problem, one machine), and costs are compared within a group only: the model predicts the logarithm
of a cost relative to that of the group's default. So trials of small problems and of large ones teach the same thing, and what
was learned of some problems ranks the candidates of another.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, field

import numpy as np

from mainspring.base.errors import ArgumentError
from mainspring.learned.tune import trees

MEMBERS = 4  # of the ensemble
ROUNDS, CORRECTIONS = 50, 20  # trees of a member; fewer where a model is corrected by the few trials of one problem
WORST = 2.0  # logarithms beyond this are no worse: what is hopeless needs no exact figure


@dataclass
class Trials:
    """Measured costs. Each is of a group, and relative to the group's default.

    Attributes:
        rows: numbers of the configurations, float ``[width]`` each.
        values: log(cost / cost of the default), at most `WORST`.
        groups: the number of each trial's group.
    """

    rows: list[np.ndarray] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)

    def add(self, row: np.ndarray, cost: float, default_cost: float, group: int = 0) -> None:
        """One trial. An infinite cost is one that failed."""
        if not (cost > 0 and 0 < default_cost < np.inf):
            raise ArgumentError("Trials.add", "cost", "must be positive", f"{cost}, default {default_cost}", "seconds")
        self.rows.append(row)
        self.values.append(float(min(np.log(cost / default_cost), WORST)))
        self.groups.append(group)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Surrogate:
    """Boosted trees, several, each fitted to groups and rows weighted differently: where they differ, nobody knows.

    A model may stand on another, whose prediction it corrects: what is known of other problems, then what this one taught.
    The lowest may stand on a guess: the number `guess` of each row is what somebody who knows the subject would say (a count of
    cycles), as a logarithm relative to the default's. Where nothing was measured, trees say nothing, and the guess stands.
    """

    members: tuple[trees.Boosted, ...]
    below: Surrogate | None = None
    guess: int | None = None

    @classmethod
    def fit(cls, trials: Trials, seed: int = 0, below: Surrogate | None = None, guess: int | None = None) -> Surrogate:
        """The model of `trials`; raises ArgumentError when there are none."""
        if not len(trials):
            raise ArgumentError("Surrogate.fit", "trials", "must hold at least one trial", "0")
        rng = np.random.default_rng(seed)
        x, y = np.stack(trials.rows).astype(np.float64), np.array(trials.values)
        y = y - cls((), below, guess).predict(x)[0]
        groups = np.array(trials.groups)
        members = []
        for _ in range(MEMBERS):  # a Bayesian bootstrap (Rubin 1981), of groups where there are several
            weights = rng.exponential(size=len(y))
            if groups.min() != groups.max():
                weights *= rng.exponential(size=groups.max() + 1)[groups]
            members.append(trees.fit(x, y, np.maximum(weights, 1e-6), rounds=ROUNDS if below is None else CORRECTIONS))
        return cls(tuple(members), below, guess)

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mean, spread) of log(cost / cost of the default), float64 ``[rows]`` each, for `x` float ``[rows, width]``."""
        x = np.asarray(x, np.float64)
        mean, spread = np.zeros(len(x)), np.zeros(len(x))
        if self.members:
            each = np.stack([m.predict(x) for m in self.members])
            mean, spread = each.mean(axis=0), each.std(axis=0)
        if self.below is not None:
            lower, its_spread = self.below.predict(x)
            return lower + mean, np.hypot(its_spread, spread)
        return mean if self.guess is None else mean + x[:, self.guess], spread

    def to_bytes(self) -> bytes:
        """The model as bytes for `from_bytes`: arrays and nothing else, and not what it stands on."""
        file = io.BytesIO()
        guess = np.array([] if self.guess is None else [self.guess], np.int64)
        parts = {name: np.stack([getattr(m, name) for m in self.members]) for name in ("feature", "threshold", "leaf")}
        np.savez(file, guess=guess, base=np.array([m.base for m in self.members]), **parts)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Surrogate:
        """The model that `to_bytes` wrote; raises ArgumentError when `data` is not whole."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                parts = [arrays[name] for name in ("base", "feature", "threshold", "leaf")]
                guess = [int(g) for g in arrays["guess"]]
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ArgumentError("Surrogate.from_bytes", "data", "must be what to_bytes wrote", str(error)) from error
        members = tuple([trees.Boosted(float(b), f, t, leaf) for b, f, t, leaf in zip(*parts, strict=True)])
        return cls(members, None, guess[0] if guess else None)
