"""The tape: what was applied to the values being differentiated, and the way back.

Tapes nest: each watches its own values, the walk back is made of ordinary applications, and those an outer tape
records in turn; so gradients of gradients need nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mainspring.base.errors import GradientError
from mainspring.ir.bind import Value, context
from mainspring.ir.op import NoGradient, Op


@dataclass(frozen=True, eq=False)
class Entry:
    """One application; `several` tells whether the op has a tuple of results."""

    op: Op
    args: tuple[Value, ...]
    static: dict[str, Any]
    results: tuple[Value, ...]
    several: bool


class Tape:
    """Records applications that depend on watched values."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.watched: dict[int, Value] = {}  # by identity; holding the value keeps its id from being reused

    def watch(self, value: Value) -> None:
        """Follow `value` from now on."""
        self.watched[id(value)] = value

    def wants(self, values: Iterable[Value]) -> bool:
        """Whether any of `values` is followed."""
        return any(id(v) in self.watched for v in values)

    def record(self, op: Op, args: tuple[Value, ...], static: dict[str, Any], result: Any) -> None:
        if not self.wants(args) or (isinstance(op.vjp, NoGradient) and op.vjp.zero):
            return
        several = isinstance(result, tuple)
        results = result if several else (result,)
        self.entries.append(Entry(op, args, static, results, several))
        for r in results:
            if r.dtype.kind == "float":
                self.watch(r)

    def pull(self, outputs: Iterable[Value], cotangents: Iterable[Value | None], inputs: Iterable[Value]) -> list[Value | None]:
        """Cotangents of `inputs` from those of `outputs`; None stands for zero."""
        found: dict[int, Value] = {}
        for out, ct in zip(outputs, cotangents, strict=True):
            if ct is not None and id(out) in self.watched:
                _accumulate(found, out, ct)
        for entry in reversed(self.entries):
            cts = [found.get(id(r)) for r in entry.results]
            if any(ct is not None for ct in cts):
                self._pull_entry(entry, cts, found)
        return [found.get(id(x)) for x in inputs]

    def _pull_entry(self, entry: Entry, cts: list[Value | None], found: dict[int, Value]) -> None:
        rule = entry.op.vjp
        if isinstance(rule, NoGradient):
            raise GradientError(entry.op.name, "gradient", rule.reason, "a gradient was asked through this op",
                                "ms.stop_gradient(x) before it, or another formulation")
        ct: Any = tuple(cts) if entry.several else cts[0]
        out: Any = entry.results if entry.several else entry.results[0]
        pieces = rule(ct, out, *entry.args, **entry.static)
        for arg, piece in zip(entry.args, pieces, strict=True):
            if piece is not None and id(arg) in self.watched:
                value = piece() if callable(piece) else piece
                if value is not None:
                    _accumulate(found, arg, value)


def _accumulate(found: dict[int, Value], of: Value, ct: Any) -> None:
    before = found.get(id(of))
    found[id(of)] = ct if before is None else before + ct  # type: ignore[operator]


def wanted(values: Iterable[Value]) -> bool:
    """Whether a tape that is recording now follows any of `values`."""
    values = tuple(values)
    return any(isinstance(r, Tape) and r.wants(values) for r in context.recorders)
