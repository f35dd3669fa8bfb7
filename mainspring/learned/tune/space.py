"""What can be set, and to what: named dims, or a table of candidates.

With this you can describe a search space (`Space` of `Choice`, `Whole` and `Real` dims, or a `Table` of named candidates with
given numbers). All are a `Domain`: configurations can be drawn, changed a little, and turned into numbers for a model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from mainspring.base.errors import ArgumentError

Config = Any  # of a Space a dict name -> value, of a Table the name of a candidate


class Domain(Protocol):
    """What a search needs to know of a space."""

    @property
    def default(self) -> Config: ...

    @property
    def size(self) -> float:
        """The number of configurations; infinity when they cannot be counted."""

    def sample(self, rng: np.random.Generator) -> Config:
        """Any configuration."""

    def near(self, config: Config, rng: np.random.Generator) -> Config:
        """One that differs a little from `config`."""

    def encode(self, config: Config) -> np.ndarray:
        """Numbers for a model, float64 ``[width]``."""

    def key(self, config: Config) -> str:
        """Text that is equal for equal configurations."""


@dataclass(frozen=True)
class Choice:
    """One of `values`, without order."""

    name: str
    values: tuple[Any, ...]

    @property
    def size(self) -> float:
        return len(self.values)

    def sample(self, rng: np.random.Generator) -> Any:
        return self.values[int(rng.integers(len(self.values)))]

    def near(self, value: Any, rng: np.random.Generator) -> Any:
        return self.sample(rng)

    def encode(self, value: Any) -> list[float]:
        return [float(value == v) for v in self.values]

    def holds(self, value: Any) -> bool:
        return value in self.values


@dataclass(frozen=True)
class Whole:
    """An integer in low … high, both included; `log`: it is the ratio of two values that counts."""

    name: str
    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        _check_range(self.name, self.low, self.high, self.log)

    @property
    def size(self) -> float:
        return self.high - self.low + 1

    def sample(self, rng: np.random.Generator) -> int:
        return self._round(rng.uniform(self._scale(self.low), self._scale(self.high)))

    def near(self, value: int, rng: np.random.Generator) -> int:
        low, high = self._scale(self.low), self._scale(self.high)
        moved = self._round(self._scale(value) + rng.normal() * (high - low) / 8)
        return moved if moved != value else int(np.clip(value + rng.choice([-1, 1]), self.low, self.high))

    def encode(self, value: int) -> list[float]:
        return [self._scale(value)]

    def holds(self, value: Any) -> bool:
        return isinstance(value, (int, np.integer)) and self.low <= value <= self.high

    def _scale(self, value: float) -> float:
        return math.log2(value) if self.log else float(value)

    def _round(self, scaled: float) -> int:
        return int(np.clip(round(2.0**scaled if self.log else scaled), self.low, self.high))


@dataclass(frozen=True)
class Real:
    """A number in low … high; `log`: it is the ratio of two values that counts."""

    name: str
    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        _check_range(self.name, self.low, self.high, self.log)

    @property
    def size(self) -> float:
        return math.inf

    def sample(self, rng: np.random.Generator) -> float:
        return self._value(rng.uniform(self._scale(self.low), self._scale(self.high)))

    def near(self, value: float, rng: np.random.Generator) -> float:
        low, high = self._scale(self.low), self._scale(self.high)
        return self._value(self._scale(value) + rng.normal() * (high - low) / 8)

    def encode(self, value: float) -> list[float]:
        return [self._scale(value)]

    def holds(self, value: Any) -> bool:
        return isinstance(value, (int, float, np.number)) and self.low <= value <= self.high

    def _scale(self, value: float) -> float:
        return math.log2(value) if self.log else float(value)

    def _value(self, scaled: float) -> float:
        return float(np.clip(2.0**scaled if self.log else scaled, self.low, self.high))


Dim = Choice | Whole | Real


def _check_range(name: str, low: float, high: float, log: bool) -> None:
    if not low <= high or (log and low <= 0):
        rule = "low must not exceed high, and a logarithmic dim must be positive"
        raise ArgumentError("tune", name, rule, f"{low} … {high}", 'Whole("pages", 64, 4096, log=True)')


@dataclass(frozen=True)
class Space:
    """The product of `dims`; `default` is the configuration that stands without tuning, a dict name -> value."""

    dims: tuple[Dim, ...]
    default: dict[str, Any]

    def __post_init__(self) -> None:
        self.check(self.default)

    def check(self, config: dict[str, Any]) -> None:
        """Raises ArgumentError where `config` is not of this space."""
        names = [d.name for d in self.dims]
        if set(config) != set(names):
            raise ArgumentError("Space", "config", f"must set {', '.join(names)}", str(sorted(config)))
        for dim in self.dims:
            if not dim.holds(config[dim.name]):
                raise ArgumentError("Space", dim.name, f"must be of {dim}", repr(config[dim.name]))

    @property
    def size(self) -> float:
        return math.prod(d.size for d in self.dims)

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        return {d.name: d.sample(rng) for d in self.dims}

    def near(self, config: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        changed = self.dims[int(rng.integers(len(self.dims)))]
        return {d.name: d.near(config[d.name], rng) if d is changed else config[d.name] for d in self.dims}

    def encode(self, config: dict[str, Any]) -> np.ndarray:
        return np.array([x for d in self.dims for x in d.encode(config[d.name])])

    def key(self, config: dict[str, Any]) -> str:
        return json.dumps({d.name: config[d.name] for d in self.dims}, sort_keys=True, default=str)


@dataclass(frozen=True, eq=False)
class Table:
    """Candidates by name, each with its row of `numbers`, float ``[candidates, width]``.

    `guess`: which of the numbers says what the candidate may cost, as a logarithm relative to the default's.
    """

    names: tuple[str, ...]
    numbers: np.ndarray
    default: str
    guess: int | None = None
    _place: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_place", {name: i for i, name in enumerate(self.names)})
        if self.default not in self._place:
            raise ArgumentError("Table", "default", f"must be one of {', '.join(self.names)}", repr(self.default))

    @property
    def size(self) -> float:
        return len(self.names)

    def sample(self, rng: np.random.Generator) -> str:
        return self.names[int(rng.integers(len(self.names)))]

    def near(self, config: str, rng: np.random.Generator) -> str:
        return self.sample(rng)

    def encode(self, config: str) -> np.ndarray:
        row: np.ndarray = self.numbers[self._place[config]]
        return row

    def key(self, config: str) -> str:
        return config


def everything(domain: Domain, rng: np.random.Generator, at_most: int, around: Sequence[Config]) -> list[Config]:
    """All configurations of a table; of a space so many drawn, half of them near `around`; each once."""
    if isinstance(domain, Table):
        return list(domain.names)
    found = {domain.key(c): c for c in around}
    for i in range(at_most):
        config = domain.near(around[i % len(around)], rng) if around and i % 2 else domain.sample(rng)
        found.setdefault(domain.key(config), config)
    return list(found.values())
