"""What a loop tells the person who waits for it: the protocol, and plain lines that work anywhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol, TextIO

Clock = Callable[[], float]  # seconds

LINE_SECONDS = 10.0  # between lines of progress


class View(Protocol):
    """Hears what happens in a run."""

    def begin(self, step: int, steps: int) -> None:
        """The loop starts after `step` of `steps`."""

    def stepped(self, step: int, loss: float) -> None:
        """A step is done."""

    def evaluated(self, step: int, loss: float) -> None:
        """The validation loss is known."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def end(self) -> None:
        """The loop is over, for whatever reason."""


class Rate:
    """Steps a second and the time left, without the first step, which compiles."""

    def __init__(self, steps: int, clock: Clock = time.monotonic):
        self._steps, self._clock = steps, clock
        self._start: tuple[int, float] | None = None
        self.per_second = 0.0
        self.seconds_left: float | None = None

    def update(self, step: int) -> None:
        """`step` is done now."""
        now = self._clock()
        if self._start is None:
            self._start = (step, now)
            return
        first, began = self._start
        if now > began:
            self.per_second = (step - first) / (now - began)
            self.seconds_left = (self._steps - step) / self.per_second


class Lines:
    """Plain lines: evaluations to `results` (standard output), the rest to `progress` (standard error) every ten seconds."""

    def __init__(self, results: TextIO | None = None, progress: TextIO | None = None, clock: Clock = time.monotonic):
        self._results, self._progress, self._clock = results, progress, clock
        self._steps, self._next, self._rate = 0, 0.0, Rate(0, clock)

    def begin(self, step: int, steps: int) -> None:
        self._steps, self._rate = steps, Rate(steps, self._clock)
        self._next = self._clock()

    def stepped(self, step: int, loss: float) -> None:
        self._rate.update(step)
        if self._clock() >= self._next:
            self._next = self._clock() + LINE_SECONDS
            self.note(progress_line(step, self._steps, loss, self._rate))

    def evaluated(self, step: int, loss: float) -> None:
        print(evaluation_line(step, loss), file=self._results or sys.stdout, flush=True)

    def note(self, text: str) -> None:
        print(text, file=self._progress or sys.stderr, flush=True)

    def end(self) -> None:
        pass


def evaluation_line(step: int, loss: float) -> str:
    """``step 2000 validation loss 1.8700``: what a script may look for."""
    return f"step {step} validation loss {loss:.4f}"


def progress_line(step: int, steps: int, loss: float, rate: Rate) -> str:
    """``step 120/2000, loss 2.4130, 61.3 steps/s, 0:31 left``."""
    line = f"step {step}/{steps}, loss {loss:.4f}"
    if rate.seconds_left is not None:
        line += f", {rate.per_second:.1f} steps/s, {duration(rate.seconds_left)} left"
    return line


def duration(seconds: float) -> str:
    """``0:31``, ``12:05`` or ``3:07:09``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
