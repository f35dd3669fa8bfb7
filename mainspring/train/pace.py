"""How many steps are done in one native call: one, or for tiny steps as many as take some milliseconds.

Around a step of twenty microseconds the loop's own Python is most of the time. The results do not depend on the number
(`ms.jit`'s `repeat` computes what calls one by one would), so it may follow the clock.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

TINY_S = 2e-3  # a step that takes longer is done alone
CALL_S = 5e-3  # what a call of several should take: short for whoever looks at it or stops it
MOST = 64


class Pace:
    """The number of steps of the next call, `steps`: always `fixed`, or what the last calls say."""

    def __init__(self, fixed: int | None = None):
        self.fixed, self.steps = fixed, fixed or 1
        self._calls = 0

    @contextlib.contextmanager
    def measured(self, count: int) -> Iterator[None]:
        """Around a call of `count` steps."""
        start = time.perf_counter()
        yield
        each = (time.perf_counter() - start) / count
        self._calls += 1
        if self.fixed is None and self._calls > 1:  # the first compiles
            self.steps = max(1, min(MOST, 2 * self.steps, int(CALL_S / each))) if each < TINY_S else 1
