"""What `mainspring tune` does: tune the kernels of a recipe's training step, or of a family of shapes."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mainspring import autotune, recipes
from mainspring.autodiff.reverse import grad
from mainspring.autotune.learned import store
from mainspring.autotune.tuner import Outcome, Progress, tune_graph
from mainspring.base import flags
from mainspring.base.errors import ArgumentError
from mainspring.compile.choose import HEURISTIC, using
from mainspring.jit import jit
from mainspring.ops.composed import gelu, relu
from mainspring.ops.contract import matmul
from mainspring.ops.conv import conv
from mainspring.ops.reduce import sum as total
from mainspring.tensor import asarray
from mainspring.train.state import initial_state
from mainspring.train.step import training_step

ROUNDS = 9  # of the comparison before and after


@dataclass(frozen=True)
class Workload:
    """A function and arguments for it."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def _random(*shape: int) -> Any:
    return asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


def _products() -> list[Workload]:
    sizes = [(64, 64, 64), (128, 128, 128), (256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (128, 1024, 1024),
             (1024, 3072, 768), (768, 128, 512), (100, 300, 70)]
    return [Workload(f"matmul {m}×{n}×{k}", matmul, (_random(m, k), _random(k, n))) for m, n, k in sizes]


def _linear(x: Any, w: Any, b: Any) -> Any:
    return total(gelu(matmul(x, w) + b))


def _layers() -> list[Workload]:
    sizes = [(64, 784, 256), (64, 256, 128), (768, 128, 512), (768, 512, 128), (1024, 256, 1024), (1024, 1024, 256)]
    return [Workload(f"linear layer {m}×{k} to {n}, with gradients", grad(_linear, (0, 1, 2)),
                     (_random(m, k), _random(k, n), _random(n))) for m, k, n in sizes]


def _convolved(x: Any, w: Any) -> Any:
    return total(relu(conv(x, w, padding="same")))


def _convolutions() -> list[Workload]:
    sizes = [(32, 32, 3, 32), (32, 32, 32, 32), (32, 16, 64, 64), (32, 8, 128, 128)]
    return [Workload(f"convolution 3×3, {b}×{s}×{s}, {i} to {o} channels, with gradients", grad(_convolved, (0, 1)),
                     (_random(b, s, s, i), _random(3, 3, i, o))) for b, s, i, o in sizes]


FAMILIES: dict[str, Callable[[], list[Workload]]] = {"matmul": _products, "linear": _layers, "conv": _convolutions}


def workloads(name: str) -> list[Workload]:
    """The workloads called `name`, a family or a recipe; raises ArgumentError when there are none."""
    if name in FAMILIES:
        return FAMILIES[name]()
    if name not in recipes.NAMES:
        known = ", ".join([*recipes.NAMES, *FAMILIES])
        raise ArgumentError("tune", "name", f"it must be one of {known}", repr(name), "mainspring tune shakespeare")
    recipe = recipes.find(name)
    settings = recipe.config()
    task = recipe.task(settings)
    with task.loader:
        batch = next(task.loader)
    state = initial_state(task.model, task.optimizer, settings.seed)
    return [Workload(f"{name}, a training step", training_step(task.loss, task.optimizer), (state, batch))]


def carry_out(name: str, seconds: float, database: Path | None, again: bool) -> None:
    """Tune `name` for about `seconds`, with progress on standard error and a summary on standard output."""
    if not seconds > 0:
        raise ArgumentError("tune", "budget", "it must be positive seconds", str(seconds), "--budget 60")
    found = workloads(name)
    outcomes: list[Outcome] = []
    with flags.override(database=str(database or autotune.database()), tuned=1):
        end = time.perf_counter() + seconds
        with Bar(seconds) as bar:
            for number, workload in enumerate(found):
                share = (end - time.perf_counter()) / (len(found) - number)
                graph = jit(workload.function).graph(*workload.arguments)
                outcomes += tune_graph(graph, share, again=again, watch=bar.watch)
        _summary(outcomes)
        for workload in found:
            before, after = compared(workload)
            print(f"{workload.name}: {before * 1e3:.3f} ms by heuristics, {after * 1e3:.3f} ms tuned, {before / after:.2f}×")
    print(f"kept in {database or autotune.database()}; MS_TUNED=0 compiles without it, `mainspring tune --forget` removes it")


def compared(workload: Workload, rounds: int = ROUNDS) -> tuple[float, float]:
    """Seconds of a run (by heuristics, as learned): medians of interleaved rounds."""
    runs = []
    for chooser in (HEURISTIC, None):
        function = jit(workload.function)
        if chooser is None:
            function(*workload.arguments)
        else:
            with using(chooser):
                function(*workload.arguments)
        runs.append(function)
    times: tuple[list[float], list[float]] = ([], [])
    calls = max(1, min(100, int(0.05 / max(_seconds(runs[0], workload, 1), 1e-6))))
    for _ in range(rounds):
        for function, into in zip(runs, times, strict=True):
            into.append(_seconds(function, workload, calls))
    return statistics.median(times[0]), statistics.median(times[1])


def _seconds(function: Callable[..., Any], workload: Workload, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        function(*workload.arguments)
    return (time.perf_counter() - started) / calls


def _summary(outcomes: Sequence[Outcome]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not outcomes:
        print("nothing to tune: everything has a winner already (--again measures anew), or the time was too short")
        return
    grid = Table(title=f"{len(outcomes)} problems, {sum(o.trials for o in outcomes)} trials", padding=(0, 0))
    for column in ("problem", "uses", "µs", "trials", "heuristic", "tuned", "gain"):
        grid.add_column(column, justify="right" if column in ("uses", "µs", "trials", "gain") else "left", overflow="fold")
    for o in sorted(outcomes, key=lambda o: -o.saved):
        grid.add_row(f"{o.site.kind} {label(o.site.problem)}", str(o.uses), f"{o.seconds * 1e6:.0f}", str(o.trials),
                     o.site.default, "the same" if o.winner == o.site.default else o.winner, f"{o.gain:.2f}")
    Console().print(grid)


def label(problem: str) -> str:
    """The readable part of a problem's text."""
    return problem.rpartition(" ")[0]


def show(database: Path | None) -> None:
    """Print what is known for this machine."""
    from rich.console import Console
    from rich.table import Table

    path = str(database or autotune.database())
    found = store(path)
    winners = found.winners()
    print(f"{path}: {len(winners)} problems tuned for {found.target}; a model of {', '.join(found.models()) or 'nothing yet'}")
    if winners:
        grid = Table()
        for column in ("decision", "problem", "winner", "gain"):
            grid.add_column(column, overflow="fold")
        for w in winners:
            grid.add_row(w.kind, label(w.problem), w.config, f"{w.gain:.2f}")
        Console().print(grid)


def forget(database: Path | None) -> None:
    """Remove everything learned, for every machine and version the file knows."""
    path = str(database or autotune.database())
    print(f"{path}: {store(path).forget()} winners forgotten, with all trials, models and fitted costs")


class Bar:
    """Progress on standard error: a bar where that is a terminal, a line a problem elsewhere."""

    def __init__(self, seconds: float) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Rich

        self._console = Console(stderr=True)
        self._live = sys.stderr.isatty()
        self._bar = Rich(BarColumn(bar_width=None), TextColumn("{task.completed:.0f}/{task.total:.0f} s {task.fields[facts]}"),
                        console=self._console, expand=True, disable=not self._live)
        self._task = self._bar.add_task("tune", total=seconds, facts="…")
        self._started, self._last = time.perf_counter(), ""

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def watch(self, progress: Progress) -> None:
        """See `tuner.Progress`."""
        self.tell(f"{progress.site.kind} {label(progress.site.problem)} ({progress.number + 1}/{progress.problems}): "
                  f"{progress.trials} trials, {progress.gain:.2f} times", progress.site.problem)

    def tell(self, facts: str, of: str) -> None:
        """What is done now, and with what."""
        self._bar.update(self._task, completed=time.perf_counter() - self._started, facts=facts)
        if not self._live and of != self._last:
            self._last = of
            self._console.print(facts, markup=False, highlight=False, soft_wrap=True)
