"""Searches: asked for configurations, told their costs, until they say stop.

With this you can look for the cheapest configuration at random (`RandomSearch`, the yardstick) or led by a model of the cost
(`ModelSearch`), which may start from trials of other problems. The default is always the first to be asked for: everything
is judged against it.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from mainspring.base.errors import ArgumentError
from mainspring.learned.tune.space import Config, Domain, Table, everything
from mainspring.learned.tune.surrogate import Surrogate, Trials

POOL = 512  # configurations of an uncountable space that a model looks at before it proposes
WARM = 6  # trials that are drawn at random before a model without earlier knowledge is asked
EXPLORE = 0.15  # share of the proposals that are drawn at random
ALIKE = 0.05  # by which a likeness of what is already in a batch is put back, as a logarithm
CAUTION = 0.5  # spreads that are taken off a prediction: what is not known may be good


class Search(Protocol):
    """ask, tell, should_stop."""

    def ask(self, count: int = 1) -> list[Config]: ...

    def tell(self, config: Config, cost: float) -> None: ...

    def should_stop(self) -> bool: ...


class RandomSearch:
    """Configurations drawn without return, the default first."""

    def __init__(self, domain: Domain, budget: int, patience: int | None = None, seed: int = 0):
        if budget < 1:
            raise ArgumentError(type(self).__name__, "budget", "must be at least 1 trial", str(budget), "64")
        self.domain, self.budget, self.patience = domain, budget, patience
        self.rng = np.random.default_rng(seed)
        self.told: dict[str, tuple[Config, float]] = {}
        self.asked: set[str] = set()
        self._since = 0

    def ask(self, count: int = 1) -> list[Config]:
        """At most `count` configurations that were not asked for before; fewer when there are no more."""
        count = min(count, self.budget - len(self.asked))
        chosen: list[Config] = []
        if not self.asked and count > 0:
            self._take(self.domain.default, chosen)
        if len(chosen) < count:
            self._propose(count, chosen)
        return chosen

    def _take(self, config: Config, chosen: list[Config]) -> None:
        key = self.domain.key(config)
        if key not in self.asked:
            self.asked.add(key)
            chosen.append(config)

    def _unasked(self, around: list[Config]) -> list[Config]:
        pool = everything(self.domain, self.rng, POOL, around)
        return [c for c in pool if self.domain.key(c) not in self.asked]

    def _propose(self, count: int, chosen: list[Config]) -> None:
        pool = self._unasked([])
        for i in self.rng.permutation(len(pool))[: count - len(chosen)]:
            self._take(pool[int(i)], chosen)

    def tell(self, config: Config, cost: float) -> None:
        """`config` costs `cost` (> 0; infinity when it failed). Telling it again keeps the later figure."""
        if not cost > 0:
            raise ArgumentError(f"{type(self).__name__}.tell", "cost", "must be positive, infinity for a failure", repr(cost))
        key = self.domain.key(config)
        better = cost < self.best_cost
        self.told[key] = (config, float(cost))
        self.asked.add(key)
        self._since = 0 if better else self._since + 1

    def should_stop(self) -> bool:
        """Whether the budget or the space is used up, or nothing better was told for `patience` trials."""
        used = len(self.asked) >= min(self.budget, self.domain.size)
        return used or (self.patience is not None and self._since >= self.patience)

    @property
    def best(self) -> Config:
        """The cheapest that was told; the default before anything was."""
        return min(self.told.values(), key=lambda t: t[1], default=(self.domain.default, 0.0))[0]

    @property
    def best_cost(self) -> float:
        """Its cost; infinity before anything was told."""
        return min([cost for _, cost in self.told.values()], default=math.inf)


class ModelSearch(RandomSearch):
    """Proposals by a model of the cost, fitted anew before each; some at random; those of one batch unlike each other.

    Args:
        prior: a model of other problems of this kind, encoded alike. With it, or with a `guess` of the domain, the first
            proposals are informed.
    """

    def __init__(self, domain: Domain, budget: int, patience: int | None = None, seed: int = 0, prior: Surrogate | None = None):
        super().__init__(domain, budget, patience, seed)
        guess = domain.guess if isinstance(domain, Table) else None
        self.prior = prior or (None if guess is None else Surrogate((), None, guess))

    def _propose(self, count: int, chosen: list[Config]) -> None:
        if len(self.told) < WARM and self.prior is None:
            super()._propose(count, chosen)
            return
        pool = self._unasked([c for c, _ in sorted(self.told.values(), key=lambda t: t[1])[:5]])
        if not pool:
            return
        rows = np.stack([self.domain.encode(c) for c in pool])
        mean, spread = self._model().predict(rows)
        score = mean - CAUTION * spread
        scale = np.maximum(rows.std(axis=0), 1e-9)
        while len(chosen) < count and np.isfinite(score).any():
            explore = self.rng.random() < EXPLORE
            at = int(self.rng.choice(np.flatnonzero(np.isfinite(score)))) if explore else int(score.argmin())
            self._take(pool[at], chosen)
            far = np.abs((rows - rows[at]) / scale).mean(axis=1)
            score = score + ALIKE * np.exp(-far * 4)  # a batch of near copies would teach one thing
            score[at] = np.inf

    def _model(self) -> Surrogate:
        """The prior, corrected by what was told of this problem."""
        reference = self.told.get(self.domain.key(self.domain.default), (None, self.best_cost))[1]
        if self.prior is not None and not math.isfinite(reference):
            return self.prior
        own = Trials()
        for config, cost in self.told.values():
            own.add(self.domain.encode(config), cost, reference if math.isfinite(reference) else 1.0)
        return Surrogate.fit(own, len(self.told), self.prior)
