"""Decisions: what the compiler may do in one of several ways, as a site with named candidates, asked of a chooser.

    tile = decide((6, 2), lambda: product_site(...))    # in the compiler: what the heuristic does, what else there is

With this you can describe a decision (`Site`, `Candidate`), answer it (`Chooser`: the heuristic, or one that has measured), and
ask a chooser while kernels are made (`Decide`). A site is text and numbers, so that what was learned of one outlives the
process. No candidate changes a bit of a result (docs/numerics.md): choosers change speed alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Candidate:
    """One way: its name, what the compiler makes of it, and numbers (see `Site.features`) by which its cost may be foretold."""

    name: str
    value: Any
    features: tuple[float, ...] = ()


@dataclass(frozen=True)
class Site:
    """A decision: its kind (``"tile"``), the problem as text (equal texts are the same problem), and the candidates.

    Args:
        default: place of the heuristic's candidate.
        features: names of the candidates' numbers; the same for all sites of a kind.
    """

    kind: str
    problem: str
    candidates: tuple[Candidate, ...]
    default: int
    features: tuple[str, ...] = ()

    def named(self, name: str) -> Candidate | None:
        """The candidate called `name`, if there is one."""
        return next((c for c in self.candidates if c.name == name), None)


def problem(label: str, text: str) -> str:
    """What is decided about: a readable label, and a digest of all that `text` says."""
    return f"{label} {hashlib.sha256(text.encode()).hexdigest()[:24]}"


class Chooser(Protocol):
    """Whoever decides. `key`: text that is equal for choosers that choose alike."""

    @property
    def key(self) -> str: ...

    def choose(self, site: Site) -> Candidate: ...


@dataclass(frozen=True)
class Heuristic:
    """Takes what the compiler would do by itself."""

    key: str = ""

    def choose(self, site: Site) -> Candidate:
        return site.candidates[site.default]


@dataclass(frozen=True)
class Fixed:
    """Takes the candidates of these names, by kind, and by kind and problem; elsewhere the heuristic's."""

    names: tuple[tuple[str, str], ...] = ()
    of_problems: tuple[tuple[tuple[str, str], str], ...] = ()

    @property
    def key(self) -> str:
        return repr((self.names, self.of_problems)) if self.names or self.of_problems else ""

    def choose(self, site: Site) -> Candidate:
        name = dict(self.of_problems).get((site.kind, site.problem)) or dict(self.names).get(site.kind)
        return (site.named(name) if name is not None else None) or site.candidates[site.default]


HEURISTIC = Heuristic()


@dataclass(frozen=True)
class Decision:
    """What was chosen at a site, by name."""

    site: Site
    name: str

    @property
    def deviates(self) -> bool:
        """Whether it is not what the heuristic does."""
        return self.name != self.site.candidates[self.site.default].name


class Decide:
    """Asks `chooser` and keeps what it answered. Under the heuristic alone, sites are not even made."""

    def __init__(self, chooser: Chooser):
        self.chooser = chooser
        self.made: list[Decision] = []

    def __call__(self, default: T, site: Callable[[], Site]) -> T:
        """The value decided for, between candidates whose heuristic one has the value `default`."""
        if self.chooser is HEURISTIC:
            return default
        asked = site()
        if len(asked.candidates) < 2:
            return default
        chosen = self.chooser.choose(asked)
        self.made.append(Decision(asked, chosen.name))
        value: T = chosen.value
        return value


# ------------------------------------------------------------------------------------------------ who decides, as context

_in_force: ContextVar[Chooser | None] = ContextVar("chooser", default=None)


def in_force() -> Chooser | None:
    """The chooser of the innermost `using`, None outside."""
    return _in_force.get()


@contextlib.contextmanager
def using(chooser: Chooser) -> Iterator[None]:
    """Compile with `chooser` within a ``with`` block."""
    token = _in_force.set(chooser)
    try:
        yield
    finally:
        _in_force.reset(token)


# -------------------------------------------------------------------------------------------- decisions as text and bytes


def deviations(decisions: Sequence[Decision]) -> str:
    """The decisions that are not the heuristic's, as text: with the graph and the target, what a compiled program depends on.

    Sites are met in a fixed order, and what is asked next depends on what was answered before and on nothing else: equal texts
    mean equal programs.
    """
    found = dict.fromkeys((d.site.kind, d.site.problem, d.name) for d in decisions if d.deviates)
    return json.dumps(list(found)) if found else ""


def replayed(sites: Sequence[Site], chooser: Chooser) -> list[Decision]:
    """What `chooser` would decide at `sites`."""
    return [Decision(site, chooser.choose(site).name) for site in sites]


def to_bytes(decisions: Sequence[Decision]) -> bytes:
    """The sites of `decisions`, each once, for `from_bytes`."""
    sites = dict.fromkeys(d.site for d in decisions)
    return json.dumps([[x.kind, x.problem, [[c.name, c.features] for c in x.candidates], x.default, x.features]
                       for x in sites]).encode()


def from_bytes(data: bytes) -> list[Site]:
    """The sites that `to_bytes` wrote; their candidates have names and features but no values."""
    return [Site(kind, problem, tuple([Candidate(name, None, tuple(numbers)) for name, numbers in candidates]), default,
                 tuple(features)) for kind, problem, candidates, default, features in json.loads(data)]
