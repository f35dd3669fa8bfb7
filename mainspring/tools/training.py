"""What `mainspring train` and `mainspring generate` do, once their options are read."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainspring import recipes
from mainspring.base.errors import ArgumentError, DataError
from mainspring.ops.precision import Precision
from mainspring.recipes import Recipe
from mainspring.recipes.sampling import Sampling
from mainspring.tools import live
from mainspring.tools.report import environment, write_report
from mainspring.train import Interrupt, Outcome, RunFolder, Settings, Task, fit
from mainspring.train.folder import next_free
from mainspring.train.settings import from_text

_MAY_CHANGE = {"steps", "keep", "eval_every", "log_every", "patience"}  # at a resume; the rest belongs to model and data


@dataclass(frozen=True)
class Order:
    """What the user asked for: a recipe, settings that differ from its own, and where."""

    recipe: str | None
    given: dict[str, Any]
    assignments: tuple[str, ...] = ()
    out: Path | None = None
    overwrite: bool = False
    resume: Path | None = None


def carry_out(order: Order) -> int:
    """Train as ordered; gives the exit code."""
    recipe, settings = _resumed_plan(order) if order.resume else _new_plan(order)
    config = {"recipe": recipe.name, **settings.as_json()}
    task = recipe.task(settings)
    folder = _folder(order, recipe, config)
    folder.write("environment.json", json.dumps(environment(), indent=1) + "\n")
    view = live.view()
    view.note(f"{recipe.name}: {recipe.summary}; run folder {folder.path}")
    with Interrupt() as stop:
        outcome = fit(task, settings, folder, config, resume=order.resume is not None, view=view, should_stop=stop)
    if not outcome.finished:
        view.note(f"stopped at step {outcome.step}, which is saved; go on with: mainspring train --resume {folder.path}")
        return 128 + (stop.signal or 0)
    _finish(recipe, settings, task, outcome, folder)
    view.note(_summary(outcome, folder))
    return 0


def _new_plan(order: Order) -> tuple[Recipe, Settings]:
    recipe = recipes.find(order.recipe or recipes.DEFAULT)
    given = dict(order.given)
    for assignment in order.assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ArgumentError("train", "--set", "it must be NAME=VALUE", assignment, "--set width=256")
        given[name] = from_text(recipe.config, name, text)
    if given.get("data") is not None:
        given["data"] = os.path.abspath(given["data"])
    return recipe, recipe.config(**given)


def _resumed_plan(order: Order) -> tuple[Recipe, Settings]:
    _, stored = RunFolder.existing(str(order.resume))
    recipe, settings = _recorded(stored, str(order.resume))
    if order.out is not None and order.out.absolute() != Path(str(order.resume)).absolute():
        raise ArgumentError("train", "out", "a resumed run stays in its folder", str(order.out), f"--resume {order.resume}")
    if order.recipe not in (None, recipe.name):
        raise ArgumentError("train", "recipe", f"the run in {order.resume} is of {recipe.name}", str(order.recipe), recipe.name)
    wanted, changed = _new_plan(dataclasses.replace(order, recipe=recipe.name)), {}
    for name in {*order.given, *[a.partition("=")[0] for a in order.assignments]}:
        value = getattr(wanted[1], name)
        if value != getattr(settings, name) and name not in _MAY_CHANGE:
            rule = f"a resumed run keeps its {name}, which is {getattr(settings, name)!r}"
            raise ArgumentError("train", name, rule, repr(value), f"--resume {order.resume}, without it")
        changed[name] = value
    return recipe, dataclasses.replace(settings, **changed)


def _recorded(config: dict[str, Any], run: str) -> tuple[Recipe, Settings]:
    """The recipe and the settings that a run was started with."""
    try:
        recipe = recipes.find(config.pop("recipe"))
        return recipe, recipe.config(**config)
    except (KeyError, TypeError, ArgumentError) as error:
        rule = "its config.json must name a recipe and its settings"
        got = f"{run}: {str(error).splitlines()[0]}"
        raise DataError("run", "path", rule, got, "start it again with this version") from error


def _folder(order: Order, recipe: Recipe, config: dict[str, Any]) -> RunFolder:
    if order.resume:
        folder = RunFolder(order.resume)
        folder.write("config.json", json.dumps(config, indent=1) + "\n")
        return folder
    named = Path("runs") / recipe.name if order.overwrite else next_free("runs", recipe.name)
    return RunFolder.create(order.out or named, config, overwrite=order.overwrite)


def _finish(recipe: Recipe, settings: Settings, task: Task, outcome: Outcome, folder: RunFolder) -> None:
    with settings.policy.applied():
        sample = recipe.sample(settings, outcome.model, task)
    folder.write("sample.txt", sample)
    write_report(folder.path)


def _summary(outcome: Outcome, folder: RunFolder) -> str:
    values = ", ".join(f"{name} {value:.4f}" for name, value in outcome.validation.items() if name != "loss")
    best = f"best validation loss {outcome.progress.best_loss:.4f} at step {outcome.progress.best_step}"
    return f"done: {best}{f', {values} at the end' if values else ''}; see {folder.path / 'report.html'}"


def generate(run: Path, prompt: str, sampling: Sampling) -> Iterator[str]:
    """Pieces of the text that the model of `run` writes after `prompt`."""
    folder, config = RunFolder.existing(run)
    recipe, settings = _recorded(config, str(run))
    if recipe.generate is None:
        able = ", ".join(name for name in recipes.NAMES if recipes.find(name).generate)
        raise ArgumentError("generate", "run", f"it must be of a recipe that writes text ({able})", f"{run}: {recipe.name}", "")
    return _following(settings.policy, recipe.generate(settings, folder.checkpoints, prompt, sampling))


def _following(policy: Precision, pieces: Iterator[str]) -> Iterator[str]:
    with policy.applied():
        yield from pieces
