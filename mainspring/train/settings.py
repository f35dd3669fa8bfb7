"""`Settings`: the numbers that say how a run goes, checked when they are made and kept in the run's config.json.

A recipe adds its own by deriving from it: ``class Config(Settings): width: int = 128``.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any

from mainspring.base.errors import ArgumentError
from mainspring.ops.precision import Precision
from mainspring.types.dtype import as_dtype


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a run goes.

    Attributes:
        steps: optimizer steps in all.
        batch: items in a batch.
        learning_rate: of the optimizer, at its highest.
        seed: of everything random: weights, order of the data, dropout.
        data: a file or folder of the user's own; None takes what the recipe brings.
        eval_every: steps between evaluations, each of which also saves a checkpoint; the last step is always evaluated.
        log_every: steps between lines of metrics.jsonl.
        keep: checkpoints to keep.
        patience: stop after so many evaluations without a lower validation loss; None never does. The checkpoint of the best
            one is then among those kept.
        precision: "float32", or "bfloat16" to multiply in bfloat16 (see `ms.Precision`), in training, evaluation and use.
        steps_per_call: steps that are done in one native call; None: one, or several where a step takes less than 2 ms.
            Results do not depend on it.
        ema: decay of a moving average of the weights, which is then what is evaluated and used; None keeps none.

    Raises:
        ArgumentError: a value has the wrong type or is out of range.
    """

    steps: int = 1000
    batch: int = 32
    learning_rate: float = 1e-3
    seed: int = 1337
    data: str | None = None
    eval_every: int = 250
    log_every: int = 10
    keep: int = 3
    patience: int | None = None
    ema: float | None = None
    precision: str = "float32"
    steps_per_call: int | None = None

    def __post_init__(self) -> None:
        for name, kinds in field_types(type(self)).items():
            self._require_type(name, kinds)
        for name in ("steps", "batch", "eval_every", "log_every", "keep", "patience", "steps_per_call"):
            self.require(name, lambda value: value >= 1, "it must be at least 1")
        self.require("learning_rate", lambda value: 0 < value < math.inf, "it must be positive and finite")
        self.require("seed", lambda value: 0 <= value < 1 << 63, "it must be in 0..2⁶³-1")
        self.require("ema", lambda value: 0 < value < 1, "it must be between 0 and 1")
        self.require("precision", lambda value: value in ("float32", "bfloat16"), "it must be float32 or bfloat16")

    def require(self, name: str, holds: Any, rule: str) -> None:
        """Refuse the setting `name` unless it is None or `holds` for it."""
        value = getattr(self, name)
        if value is not None and not holds(value):
            raise ArgumentError("settings", name, rule, repr(value), _example(type(self), name))

    def _require_type(self, name: str, kinds: tuple[type, ...]) -> None:
        value = getattr(self, name)
        if float in kinds and type(value) is int:
            object.__setattr__(self, name, float(value))
        elif type(value) not in kinds:
            words = " or ".join("nothing" if kind is types.NoneType else kind.__name__ for kind in kinds)
            raise ArgumentError("settings", name, f"it must be of type {words}", repr(value), _example(type(self), name))

    @property
    def policy(self) -> Precision:
        """The `Precision` that `precision` names."""
        return Precision(compute=as_dtype(self.precision))

    def as_json(self) -> dict[str, Any]:
        """The settings as a dict that JSON can hold."""
        return dataclasses.asdict(self)


def field_types(kind: type[Settings]) -> dict[str, tuple[type, ...]]:
    """The types that each setting may have: ``{"data": (str, NoneType), ...}``."""
    hints = typing.get_type_hints(kind)
    return {field.name: typing.get_args(hints[field.name]) or (hints[field.name],) for field in dataclasses.fields(kind)}


def from_text(kind: type[Settings], name: str, text: str) -> Any:
    """The value of the setting `name` that `text` means: ``from_text(Config, "width", "256") == 256``.

    Raises:
        ArgumentError: there is no such setting, or the text does not fit its type.
    """
    known = field_types(kind)
    if name not in known:
        raise ArgumentError(
            "settings", name, f"it must be one of {', '.join(known)}", f"{name}={text}", _example(kind, "steps")
        )
    if types.NoneType in known[name] and text.lower() == "none":
        return None
    for wanted in known[name]:
        try:
            return _PARSERS[wanted](text)
        except (KeyError, ValueError):
            continue
    words = " or ".join(kind.__name__ for kind in known[name] if kind is not types.NoneType)
    raise ArgumentError("settings", name, f"it must be of type {words}", repr(text), _example(kind, name))


def _example(kind: type[Settings], name: str) -> str:
    return f"{name}={kind.__dataclass_fields__[name].default}"


def _truth(text: str) -> bool:
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]


_PARSERS: dict[type, Any] = {int: int, float: float, str: str, bool: _truth}
