"""The live view of a run on a terminal: a bar with rate, loss and time left. Without a terminal: plain lines."""

from __future__ import annotations

import sys
from typing import TextIO

from mainspring.train.view import Lines, Rate, View, duration, evaluation_line

_ROOMY = 60  # columns from which the bar itself is drawn


class Live:
    """A `View` that redraws one line on standard error; evaluations scroll by above it, on standard output."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._rate, self._validation = Rate(0), ""

    def begin(self, step: int, steps: int) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._rate = Rate(steps)
        bar = [BarColumn(bar_width=None)] if self._console.width >= _ROOMY else []
        facts = TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[facts]}")
        self._bar = Progress(*bar, facts, console=self._console, expand=bool(bar), redirect_stdout=False, refresh_per_second=4)
        self._task = self._bar.add_task("train", total=steps, completed=step, facts="compiling …")
        self._bar.start()

    def stepped(self, step: int, loss: float) -> None:
        self._rate.update(step)
        self._bar.update(self._task, completed=step, facts=f"loss {loss:.3f}{self._validation}{self._pace()}")

    def _pace(self) -> str:
        if self._rate.seconds_left is None:
            return ""
        return f" · {self._rate.per_second:.0f}/s · {duration(self._rate.seconds_left)} left"

    def evaluated(self, step: int, loss: float) -> None:
        self._validation = f" (validation {loss:.3f})"
        if sys.stdout.isatty():  # the same terminal: by way of the console, which lifts it above the bar
            self.note(evaluation_line(step, loss))
        else:
            print(evaluation_line(step, loss), flush=True)

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        self._bar.stop()


def view(progress: TextIO | None = None) -> View:
    """A live view where standard error is a terminal, plain lines elsewhere."""
    return Live() if (progress or sys.stderr).isatty() else Lines()
