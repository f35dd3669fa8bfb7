"""The training loop: steps, evaluations, metrics, checkpoints, and going on where a run was cut off.

With this you can write

    task = Task(model, optimizer, loss, loader, validation)
    outcome = fit(task, Settings(steps=2000), RunFolder.create("runs/a", config), config)

A run that is killed at any moment and fitted again with ``resume=True`` ends in the same bytes of its last checkpoint and of
metrics.jsonl as one that never was: a batch is a function of (seed, number), a step's random key of (seed, step), and
the lines of a step are on the disk before the checkpoint of that step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mainspring.base import tree
from mainspring.base.errors import DataError, TrainingError
from mainspring.data.loader import Loader
from mainspring.jit import jit
from mainspring.tensor import asarray
from mainspring.train import checkpoint
from mainspring.train.evaluate import Validation
from mainspring.train.folder import RunFolder
from mainspring.train.metrics import MetricsWriter
from mainspring.train.pace import Pace
from mainspring.train.settings import Settings
from mainspring.train.state import initial_state, model_to_use, with_average
from mainspring.train.step import Loss, training_step
from mainspring.train.tensorboard import EventWriter
from mainspring.train.view import Lines, View


@dataclass(frozen=True)
class Task:
    """What is trained, on what.

    Attributes:
        model: with its initial weights.
        optimizer: an init/update pair of `ms.optim`.
        loss: see `training_step`.
        loader: of the training batches.
        validation: gives at least ``"loss"``.
        schedule: the learning rate after so many steps, for the metrics; None leaves it out.
        metadata: what else a checkpoint should hold to make the model useful (a vocabulary), as JSON.
    """

    model: Any
    optimizer: Any
    loss: Loss
    loader: Loader
    validation: Validation
    schedule: Callable[[int], Any] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """What the loop knows besides the state: the best evaluation, and how many came after it. Kept in each checkpoint."""

    best_loss: float | None = None
    best_step: int = 0
    since_best: int = 0

    def after(self, step: int, loss: float) -> Progress:
        if self.best_loss is None or loss < self.best_loss:
            return Progress(loss, step, 0)
        return dataclasses.replace(self, since_best=self.since_best + 1)


@dataclass(frozen=True)
class Outcome:
    """How `fit` ended.

    Attributes:
        model: the trained one, averaged where `settings.ema` says so.
        step: steps done.
        progress: the best evaluation.
        finished: False when it was asked to stop before; the checkpoint of this moment is saved.
        validation: the last evaluation of this call, empty when there was none.
    """

    model: Any
    step: int
    progress: Progress
    finished: bool
    validation: dict[str, float]


def fit(
    task: Task,
    settings: Settings,
    folder: RunFolder,
    config: dict[str, Any] | None = None,
    *,
    resume: bool = False,
    view: View | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train until `settings.steps`, `settings.patience` or `should_stop`.

    Args:
        config: kept in every checkpoint.
        resume: go on from the newest whole checkpoint of `folder`, or from the start when there is none.
        view: told what happens; plain lines by default.
        should_stop: asked after each step; of several in one call (`Settings.steps_per_call`), the rest is done first.

    Raises:
        TrainingError: the loss, or a weight to be saved, is not finite; earlier checkpoints are as they were.
        CheckpointError, DataError: the checkpoint to go on from does not fit, data cannot be read, the disk is full.
    """
    run = _Run(task, settings, folder, config or settings.as_json(), view or Lines())
    start = run.restored() if resume else None
    with task.loader, run.opened(start):
        try:
            run.view.begin(run.step, settings.steps)
            return run.train(should_stop)
        finally:
            run.view.end()


class _Run:
    """One call of `fit`: the state and its surroundings."""

    def __init__(self, task: Task, settings: Settings, folder: RunFolder, config: dict[str, Any], view: View):
        self.task, self.settings, self.folder, self.config, self.view = task, settings, folder, config, view
        self.optimizer = with_average(task.optimizer, settings.ema)
        self.state = initial_state(task.model, self.optimizer, settings.seed)
        self.step, self.progress, self.validation = 0, Progress(), dict[str, float]()
        self._keep = max(settings.keep, settings.patience + 1 if settings.patience else 0)

    # ------------------------------------------------------------------------------------------- going on

    def restored(self) -> int:
        """Take over the newest whole checkpoint; gives the step up to which metrics count, -1 for none."""
        if not any(self.folder.checkpoints.glob("step-*")):
            return -1
        path = checkpoint.latest_valid(self.folder.checkpoints)
        found = checkpoint.load(path, self.state, wrap=asarray)
        self.state, self.step = found.state, found.step
        self.progress = Progress(**found.metadata["progress"])
        if found.loader is not None:
            self.task.loader.restore(found.loader)
        return self.step

    @contextlib.contextmanager
    def opened(self, start: int | None) -> Any:
        with (
            MetricsWriter(self.folder.metrics, resume_step=start) as self.metrics,
            EventWriter(self.folder.events, resume_step=start) as self.events,
        ):
            yield

    # ------------------------------------------------------------------------------------------- steps

    def train(self, should_stop: Callable[[], bool]) -> Outcome:
        advance = jit(training_step(self.task.loss, self.optimizer, self.settings.policy), donate=(0,))
        pace = Pace(self.settings.steps_per_call)
        while not self._over():
            batches = self._batches(pace.steps)
            with pace.measured(len(batches)):
                self.state, measured = advance.repeat(self.state, batches)
            stopping = False
            for metrics in measured:
                self.step += 1
                self._check_and_log({name: float(value) for name, value in metrics.items()})
                stopping = should_stop() or stopping
            due = self._evaluation_is_due()
            if due:
                self._evaluate()
            if due or stopping:
                self._save()
            if stopping:
                break
        return Outcome(model_to_use(self.state, self.settings.ema), self.step, self.progress, self._over(), self.validation)

    def _batches(self, most: int) -> list[Any]:
        """The next batches, at most so many and none beyond the next evaluation."""
        every, loader = self.settings.eval_every, self.task.loader
        count = min(most, every - self.step % every, self.settings.steps - self.step)
        batches = [next(loader)]
        while len(batches) < count:
            try:
                batches.append(next(loader))
            except DataError:  # the loader stays there, and says so again when the steps before are done
                break
        return batches

    def _over(self) -> bool:
        patience = self.settings.patience
        return self.step >= self.settings.steps or (patience is not None and self.progress.since_best >= patience)

    def _evaluation_is_due(self) -> bool:
        return self.step % self.settings.eval_every == 0 or self.step == self.settings.steps

    def _check_and_log(self, values: dict[str, float]) -> None:
        if not math.isfinite(values["loss"]):
            raise self._diverged("the training loss must be finite", f"{values['loss']} at step {self.step}")
        self.view.stepped(self.step, values["loss"])
        if self.step % self.settings.log_every == 0 or self.step == self.settings.steps:
            rate = {} if self.task.schedule is None else {"learning_rate": float(self.task.schedule(self.step - 1))}
            self._write({**{f"train_{name}": value for name, value in values.items()}, **rate})

    def _evaluate(self) -> None:
        with self.settings.policy.applied():
            self.validation = self.task.validation(model_to_use(self.state, self.settings.ema))
        loss = self.validation["loss"]
        if not math.isfinite(loss):
            raise self._diverged("the validation loss must be finite", f"{loss} at step {self.step}")
        self.progress = self.progress.after(self.step, loss)
        self._write({f"validation_{name}": value for name, value in self.validation.items()})
        self.view.evaluated(self.step, loss)

    def _write(self, values: dict[str, float]) -> None:
        self.metrics.write(self.step, **values)
        self.events.write(self.step, values)

    # ------------------------------------------------------------------------------------------- saving

    def _save(self) -> None:
        self._require_finite_weights()
        self.metrics.sync()
        checkpoint.save(
            self.folder.checkpoints,
            self.step,
            self.state,
            loader=self.task.loader.state(),
            config=self.config,
            metadata={**self.task.metadata, "progress": dataclasses.asdict(self.progress)},
            keep=self._keep,
        )

    def _require_finite_weights(self) -> None:
        for path, leaf in zip(tree.paths(self.state.model), tree.leaves(self.state.model), strict=True):
            array = np.asarray(leaf)
            if leaf.dtype.kind == "float" and not np.isfinite(array.astype(np.float64)).all():
                raise self._diverged("every weight must be finite", f"{path} is not, at step {self.step}")

    def _diverged(self, rule: str, value: str) -> TrainingError:
        saved = [path.name for path in sorted(self.folder.checkpoints.glob("step-*"))]
        kept = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint had been saved yet"
        example = f"--learning-rate {self.settings.learning_rate / 3:.2g}, or look for bad values in the data ({kept})"
        return TrainingError("train", "loss", rule, value, example)
