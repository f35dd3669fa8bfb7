"""The chooser that has measured: stored winners first, then a confident model, then the heuristic."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np

from mainspring._version import __version__
from mainspring.base import flags
from mainspring.base.errors import ArgumentError
from mainspring.compile.choose import HEURISTIC, Chooser, Site
from mainspring.compile.target import Target, chosen
from mainspring.compile.target.costs import Costs
from mainspring.learned.tune import Store, Surrogate, Table, Winner
from mainspring.runtime import kernel_cache

COSTS = "costs"  # under which the database keeps the costs of a machine
MARGIN = 0.1  # gain (as a logarithm) below which a proposal is not worth leaving the heuristic for
CAUTION = 0.5  # spreads by which a proposal must gain beyond that


def store(path: str) -> Store:
    """The database at `path` for this machine, number of threads, and version of the compiler: every byte of it, and the costs
    that lead it."""
    return Store(path, f"{_machine()}, {flags.threads()} threads", f"{_version()} {fitted(path).costs.key}")


def costs_store(path: str) -> Store:
    """The database at `path` for the costs of this machine, whatever the number of threads."""
    return Store(path, _machine(), _version())


def _machine() -> str:
    target = chosen()
    return f"{target.cpu} {hashlib.sha256(target.key.encode()).hexdigest()[:8]}"  # the key holds a hundred features


def _version() -> str:
    return f"{__version__} {kernel_cache.digest('tuned')[:12]}"


def fitted(path: str) -> Target:
    """This machine with the costs that the database at `path` holds for it; with those of its class where there are none, or
    none that can be read."""
    target = chosen()
    try:
        found = costs_store(path).models().get(COSTS)
        return target if found is None else replace(target, costs=Costs.from_text(found))
    except ArgumentError:
        return target


def learned_chooser(path: str) -> Chooser:
    """What the database at `path` says about this machine; the heuristic when it says nothing, or cannot be read."""
    try:
        found = store(path)
        winners, models = found.winners(), found.models()
        return Learned.of(winners, models) if winners or models else HEURISTIC
    except ArgumentError:  # locked for long, or not ours to read: a compilation goes on without
        return HEURISTIC


def table(site: Site) -> Table:
    """The candidates of `site` for a search: their numbers, how those differ from the default's, and what they should cost."""
    names, numbers = tuple(site.candidates), site.numbers()
    at = names.index(site.default)
    rows = np.concatenate([numbers, numbers - numbers[at]], axis=1)
    if site.expected is None:
        return Table(names, rows, site.default)
    costs = np.log([max(site.expected(value, None), 1e-9) for value in site.candidates.values()])
    return Table(names, np.concatenate([rows, (costs - costs[at])[:, None]], axis=1), site.default, rows.shape[1])


def proposal(site: Site, model: Surrogate) -> str:
    """The candidate that `model` is sure is better than the default; else the default."""
    of = table(site)
    mean, spread = model.predict(of.numbers)
    gain = mean[of.names.index(of.default)] - mean - CAUTION * spread
    best = int(gain.argmax())
    return of.names[best] if gain[best] > MARGIN else of.default


@dataclass(frozen=True)
class Learned:
    """Winners by (kind, problem), and a model for each kind that has one."""

    key: str
    winners: dict[tuple[str, str], str]
    models: dict[str, Surrogate]
    proposed: dict[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def of(cls, winners: list[Winner], models: dict[str, bytes]) -> Learned:
        hasher = hashlib.sha256(repr(winners).encode())
        for data in models.values():
            hasher.update(hashlib.sha256(data).digest())
        return cls(hasher.hexdigest(), {(w.kind, w.problem): w.config for w in winners},
                   {kind: Surrogate.from_bytes(data) for kind, data in models.items()})

    def choose(self, site: Site) -> str:
        """The winner; else the proposal; else the heuristic's."""
        at = (site.kind, site.problem)
        name = self.winners.get(at)
        if name is None and site.kind in self.models:
            name = self.proposed.get(at) or self.proposed.setdefault(at, proposal(site, self.models[site.kind]))
        return name or site.default
