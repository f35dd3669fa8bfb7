"""Decisions: what the compiler may do in one of several ways, as a site with named candidates, asked of a chooser.

    tile = decide((6, 2), lambda: product_site(...))    # in the compiler: what the heuristic does, what else there is

With this you can describe a decision (`Site`), answer it (`Chooser`: the heuristic, or one that has measured), and ask a
chooser while kernels are made (`Decide`). What is decided about is text, candidates have names and numbers: so what was learned
of a site outlives the process. No candidate changes a bit of a result (docs/numerics.md): choosers change speed alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np

from mainspring.compile.target.costs import Costs

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Site:
    """A decision: its kind (``"tile"``), the problem as text (equal texts are the same problem), and the candidates.

    Args:
        default: name of the heuristic's candidate.
        options: gives the candidates, name -> what the compiler makes of it; asked only when it matters.
        facts: numbers of a candidate by which its cost may be foretold, by name; the same names for all sites of a kind.
        expected: what a candidate should cost by a table of costs (the target's when None), in any unit; all sites of a kind
            have it, or none.
    """

    kind: str
    problem: str
    default: str
    options: Callable[[], dict[str, Any]]
    facts: Callable[[Any], dict[str, float]]
    expected: Callable[[Any, Costs | None], float] | None = None

    @cached_property
    def candidates(self) -> dict[str, Any]:
        """All candidates by name, the default among them."""
        return self.options()

    def numbers(self) -> np.ndarray:
        """The candidates' numbers, float64 ``[candidates, width]``."""
        return np.array([list(self.facts(value).values()) for value in self.candidates.values()], np.float64)


def problem(label: str, text: str) -> str:
    """What is decided about: a readable label, and a digest of all that `text` says."""
    return f"{label} {hashlib.sha256(text.encode()).hexdigest()[:24]}"


class Chooser(Protocol):
    """Whoever decides. `key`: text that is equal for choosers that choose alike."""

    @property
    def key(self) -> str: ...

    def choose(self, site: Site) -> str:
        """The name of a candidate; one that does not exist stands for the default."""


@dataclass(frozen=True)
class Heuristic:
    """Takes what the compiler would do by itself."""

    key: str = ""

    def choose(self, site: Site) -> str:
        return site.default


@dataclass(frozen=True)
class Fixed:
    """Takes the candidates of these names, by kind, and by (kind, problem); elsewhere the heuristic's."""

    names: tuple[tuple[str, str], ...] = ()
    of_problems: tuple[tuple[tuple[str, str], str], ...] = ()

    @property
    def key(self) -> str:
        return repr((self.names, self.of_problems))

    def choose(self, site: Site) -> str:
        return dict(self.of_problems).get((site.kind, site.problem)) or dict(self.names).get(site.kind) or site.default


HEURISTIC = Heuristic()


@dataclass(frozen=True)
class Decision:
    """What was chosen at a site, by name."""

    site: Site
    name: str


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
        name = self.chooser.choose(asked)
        if name != asked.default and name not in asked.candidates:
            name = asked.default
        self.made.append(Decision(asked, name))
        return default if name == asked.default else asked.candidates[name]  # type: ignore[no-any-return]


def deviations(decisions: Sequence[Decision]) -> str:
    """The decisions that are not the heuristic's, as text: with the graph and the target, what a compiled program depends on.

    Sites are met in a fixed order, and what is asked next depends on what was answered before and on nothing else: equal texts
    mean equal programs.
    """
    found = dict.fromkeys((d.site.kind, d.site.problem, d.name) for d in decisions if d.name != d.site.default)
    return json.dumps(list(found)) if found else ""


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
