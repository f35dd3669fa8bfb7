"""What `mainspring tune --fit` does: the costs that lead the heuristics, fitted to this machine; shown, and forgotten."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from pathlib import Path

from mainspring import autotune
from mainspring.autotune import fit
from mainspring.autotune.fit import Outcome
from mainspring.autotune.learned import fitted
from mainspring.base.errors import ArgumentError
from mainspring.compile.target import chosen
from mainspring.compile.target.costs import Costs
from mainspring.tools.tuning import Bar


def carry_out(seconds: float, database: Path | None) -> None:
    """Fit for about `seconds`, with progress on standard error and what came of it on standard output; then keep it, if it is
    no worse on products that were left out. Whoever stops it before loses nothing: the costs stay as they are."""
    if not seconds > 0:
        raise ArgumentError("tune --fit", "budget", "it must be positive seconds", str(seconds), "--budget 120")
    path = _path(database)
    with Bar(seconds) as bar:
        outcome = fit.fit(seconds, watch=lambda what: bar.tell(what, what))
    _regrets(outcome)
    if outcome.better:
        fit.keep(outcome, path)
        _changes(outcome.costs)
        print(f"kept in {path}: compilations from now on use these costs; MS_TUNED=0 compiles without, "
              "`mainspring tune --fit --forget` forgets them")
    else:
        print("not kept: on products that were left out the costs as they are do better")


def show(database: Path | None) -> None:
    """Print the costs that compilations on this machine use, beside those of its class."""
    path = _path(database)
    found = fitted(path).costs
    print(f"{path}: {'no fitted costs for this machine' if found == chosen().costs else 'costs fitted to this machine'}")
    _changes(found)


def forget(database: Path | None) -> None:
    """Forget the fitted costs, and nothing else."""
    path = _path(database)
    fit.forget(path)
    print(f"{path}: fitted costs forgotten; compilations use those of the class of machine")


def _path(database: Path | None) -> str:
    return str(database or autotune.database())


def _regrets(outcome: Outcome) -> None:
    from rich.console import Console
    from rich.table import Table

    grid = Table(title="the heuristic's time over the best that was measured", padding=(0, 0))
    for column in ("product", "costs as they are", "fitted to others"):
        grid.add_column(column, justify="left" if column == "product" else "right", overflow="fold")
    for name, before in outcome.before.items():
        grid.add_row(name, f"{before:.2f}", f"{outcome.after[name]:.2f}")
    means = [statistics.geometric_mean(regrets.values()) for regrets in (outcome.before, outcome.after)]
    grid.add_row("geometric mean", *[f"{mean:.3f}" for mean in means])
    Console().print(grid)


def _changes(costs: Costs) -> None:
    """A line for each cost; of a fitted one, what it was."""
    usual = asdict(chosen().costs)
    for name, value in asdict(costs).items():
        print(f"  {name:22s} {value:12.6g}" + ("" if value == usual[name] else f"   (class of machine: {usual[name]:g})"))
