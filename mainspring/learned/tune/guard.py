"""The guard: nothing replaces the default that was not measured, side by side with it, to be better.

A search keeps the cheapest of many noisy measurements, so its figure is too good (the winner's curse). The guard measures the
winner anew, in pairs with the default, and believes it only when the pairs agree.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

LEVEL = 0.05  # chance that a candidate no better than the default is taken all the same


@dataclass(frozen=True)
class Verdict:
    """Whether the other is better, and the median of cost / cost of the default over the pairs."""

    better: bool
    ratio: float
    pairs: int


def confirm(default: Callable[[], float], other: Callable[[], float], *, pairs: int = 11, margin: float = 0.01) -> Verdict:
    """Measure `default` and `other` in turn, `pairs` times, each first every second time.

    The other is better when the median ratio is below 1 - `margin` and it wins so many pairs as chance would give in less than
    `LEVEL` of the cases (sign test). When it cannot win any more, the rest is not measured.
    """
    needed, ratios, lost = wins_needed(pairs), [], 0
    for i in range(pairs):
        if i % 2:
            b, a = other(), default()
        else:
            a, b = default(), other()
        ratios.append(b / a if math.isfinite(b) else math.inf)
        lost += not ratios[-1] < 1
        if pairs - lost < needed:
            break
    ratio = statistics.median(ratios)
    return Verdict(pairs - lost >= needed and ratio < 1 - margin, ratio, len(ratios))


def wins_needed(pairs: int) -> int:
    """The least number of wins of `pairs` fair coin throws that chance gives in at most `LEVEL` of the cases."""
    tail, wins = 0.0, pairs + 1
    while wins > 0 and tail + math.comb(pairs, wins - 1) / 2**pairs <= LEVEL:
        wins -= 1
        tail += math.comb(pairs, wins) / 2**pairs
    return wins
