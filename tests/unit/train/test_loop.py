"""The loop: it learns, and a run that stops anywhere and goes on ends in the same bytes as one that did not."""

from __future__ import annotations

import dataclasses
import io
import itertools
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mainspring as ms
from mainspring import optim
from mainspring.base import tree
from mainspring.base.errors import ArgumentError, CheckpointError, DataError, TrainingError
from mainspring.data import Dataset, Loader
from mainspring.train import (
    Interrupt,
    Lines,
    RunFolder,
    Settings,
    Task,
    Validation,
    checkpoint,
    fit,
    initial_state,
    load_model,
    read_metrics,
    training_step,
)
from mainspring.train.pace import Pace
from mainspring.train.settings import from_text
from mainspring.train.view import Rate, duration


@dataclass(frozen=True)
class Line:
    """y = x · weight + bias, with a buffer that counts its uses."""

    weight: Any
    bias: Any
    uses: Any = tree.buffer()


def line() -> Line:
    return Line(ms.zeros((3,)), ms.zeros(()), ms.zeros(()))


def errors(model: Line, batch: dict[str, Any]) -> Any:
    return ms.square(ms.matmul(batch["x"], model.weight) + model.bias - batch["y"])


def loss(model: Line, batch: dict[str, Any], key: Any) -> Any:
    noise = ms.random.normal(key, (3,)) * 1e-3
    value = ms.mean(errors(model, batch)) + ms.sum(model.weight * noise)
    return value, ({"noise": ms.sum(noise)}, Line(model.weight, model.bias, model.uses + 1.0))


def rows(seed: int = 0, bad: bool = False) -> Dataset:
    x = np.random.default_rng(seed).standard_normal((64, 3)).astype(np.float32)
    y = x @ np.array([1.0, -2.0, 0.5], np.float32) + 0.25
    y[40:] = np.nan if bad else y[40:]
    return Dataset({"x": x, "y": y.astype(np.float32)})


def job(settings: Settings, bad: bool = False, rate: float = 0.1) -> Task:
    return Task(
        model=line(),
        optimizer=optim.adam(rate),
        loss=loss,
        loader=Loader(rows(bad=bad), settings.batch, key=settings.seed),
        validation=Validation(lambda model, batch: {"loss": errors(model, batch)}, rows(1), batch_size=10),
        schedule=optim.schedule.constant(rate),
    )


def quiet() -> Lines:
    return Lines(io.StringIO(), io.StringIO())


def run(folder: Path, settings: Settings, *, resume: bool = False, stop_at: int | None = None, **kwargs: Any) -> Any:
    """`fit` in a folder; `stop_at` asks it to stop after that many steps."""
    where = RunFolder(folder) if resume else RunFolder.create(folder, settings.as_json())
    steps = itertools.count(1)
    task = job(settings, **kwargs)
    config = {**settings.as_json(), "steps_per_call": None}  # it may differ from call to call, as no byte depends on it
    return fit(task, settings, where, config, resume=resume, view=quiet(), should_stop=lambda: next(steps) == stop_at)


def final_bytes(folder: Path) -> dict[str, bytes]:
    last = checkpoint.latest(folder / "checkpoints")
    return {"metrics": (folder / "metrics.jsonl").read_bytes()} | {path.name: path.read_bytes() for path in last.iterdir()}


SHORT = Settings(steps=24, batch=7, eval_every=5, log_every=2, steps_per_call=1)


def test_it_learns_and_reports(tmp_path: Path) -> None:
    settings = Settings(steps=200, batch=16, eval_every=100, log_every=50)
    outcome = run(tmp_path / "run", settings)
    assert outcome.finished and outcome.step == 200 and outcome.validation["loss"] < 1e-2
    assert float(outcome.model.uses) == 200
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [50, 100, 100, 150, 200, 200]
    assert set(lines[0]) == {"step", "train_loss", "train_noise", "learning_rate"}
    assert set(lines[-1]) == {"step", "validation_loss"}
    assert lines[-1]["validation_loss"] == outcome.validation["loss"] == outcome.progress.best_loss
    assert list((tmp_path / "run" / "events").iterdir())


@pytest.mark.parametrize("stop_at", [1, 5, 8, 23])
@pytest.mark.parametrize("setting", [{}, {"ema": 0.9}, {"precision": "bfloat16"}], ids=str)
def test_a_stopped_run_resumes_to_the_same_bytes(tmp_path: Path, stop_at: int, setting: dict[str, Any]) -> None:
    settings = Settings(**{**SHORT.as_json(), **setting})
    run(tmp_path / "whole", settings)
    stopped = run(tmp_path / "parts", settings, stop_at=stop_at)
    assert not stopped.finished and stopped.step == stop_at
    assert run(tmp_path / "parts", settings, resume=True).finished
    assert final_bytes(tmp_path / "parts") == final_bytes(tmp_path / "whole")


@pytest.mark.parametrize("group", [2, 3, 64, None])
def test_several_steps_in_a_call_leave_the_same_bytes(tmp_path: Path, group: int | None) -> None:
    grouped = dataclasses.replace(SHORT, steps_per_call=group)
    run(tmp_path / "single", SHORT)
    run(tmp_path / "grouped", grouped)
    assert final_bytes(tmp_path / "grouped") == final_bytes(tmp_path / "single")
    stopped = run(tmp_path / "parts", grouped, stop_at=7)
    assert not stopped.finished and 7 <= stopped.step <= 10  # the rest of a call is done first
    assert run(tmp_path / "parts", SHORT, resume=True).finished
    assert final_bytes(tmp_path / "parts") == final_bytes(tmp_path / "single")


@pytest.mark.parametrize("group", [1, 4])
def test_bad_data_end_the_run_at_the_same_step_in_any_call(tmp_path: Path, group: int) -> None:
    with pytest.raises(TrainingError) as error:
        run(tmp_path / "run", dataclasses.replace(SHORT, steps_per_call=group), bad=True)
    assert "at step 1" in str(error.value)
    settings = dataclasses.replace(SHORT, steps_per_call=group)
    task = job(settings)
    batches = iter([next(task.loader) for _ in range(3)])
    task.loader.close()

    class Short(Loader):
        def __next__(self) -> Any:
            try:
                return next(batches)
            except StopIteration:
                raise DataError("Loader", "source", "every item must be readable", "batch 3") from None

    broken = dataclasses.replace(task, loader=Short(rows(), settings.batch, key=settings.seed))
    folder = RunFolder.create(tmp_path / "broken", {})
    with pytest.raises(DataError):
        fit(broken, dataclasses.replace(settings, log_every=1), folder, view=quiet())
    assert [line["step"] for line in read_metrics(folder.metrics)] == [1, 2, 3]


def test_the_pace_follows_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("mainspring.train.pace.time.perf_counter", lambda: now[0])

    def calls(pace: Pace, each: float, count: int) -> list[int]:
        steps = []
        for _ in range(count):
            with pace.measured(pace.steps):
                now[0] += each * pace.steps
            steps.append(pace.steps)
        return steps

    assert calls(Pace(), 0.9e-3, 4) == [1, 2, 4, 5]
    assert calls(Pace(), 1e-5, 9)[-1] == 64
    assert calls(Pace(), 3e-3, 3) == [1, 1, 1]
    assert calls(Pace(3), 1e-5, 2) == [3, 3]


def test_what_was_written_after_the_last_checkpoint_is_done_again(tmp_path: Path) -> None:
    run(tmp_path / "whole", SHORT)
    run(tmp_path / "killed", SHORT, stop_at=12)
    with open(tmp_path / "killed" / "metrics.jsonl", "ab") as file:  # as if it had gone on and been killed within a line
        file.write(b'{"step": 14, "train_loss": 9.0}\n{"step": 16, "tra')
    run(tmp_path / "killed", SHORT, resume=True)
    assert final_bytes(tmp_path / "killed") == final_bytes(tmp_path / "whole")


def test_resume_without_a_checkpoint_starts_at_the_beginning(tmp_path: Path) -> None:
    run(tmp_path / "whole", SHORT)
    RunFolder.create(tmp_path / "early", SHORT.as_json())
    (tmp_path / "early" / "metrics.jsonl").write_text('{"step": 2, "train_loss": 9.0}\n')
    run(tmp_path / "early", SHORT, resume=True)
    assert final_bytes(tmp_path / "early") == final_bytes(tmp_path / "whole")


def test_a_finished_run_resumes_to_itself(tmp_path: Path) -> None:
    run(tmp_path / "run", SHORT)
    before = final_bytes(tmp_path / "run")
    again = run(tmp_path / "run", SHORT, resume=True)
    assert again.finished and final_bytes(tmp_path / "run") == before


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path: Path) -> None:
    run(tmp_path / "whole", SHORT)
    run(tmp_path / "run", SHORT, stop_at=12)
    weights = tmp_path / "run" / "checkpoints" / "step-00000012" / checkpoint.TENSORS
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="damaged"):
        run(tmp_path / "run", SHORT, resume=True)
    assert final_bytes(tmp_path / "run") == final_bytes(tmp_path / "whole")


def test_a_checkpoint_of_another_model_or_data_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "run", SHORT, stop_at=6)
    with pytest.raises(CheckpointError, match="optimizer"):
        run(tmp_path / "run", Settings(**{**SHORT.as_json(), "ema": 0.5}), resume=True)
    with pytest.raises(DataError, match="batch_size"):
        run(tmp_path / "run", Settings(**{**SHORT.as_json(), "batch": 8}), resume=True)


def test_the_loss_that_is_not_finite_ends_the_run_and_leaves_what_was_saved(tmp_path: Path) -> None:
    run(tmp_path / "run", SHORT, stop_at=6)
    before = {path: path.read_bytes() for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.is_file()}
    with pytest.raises(TrainingError, match=r"(?s)nan at step 7.*learning-rate.*step-00000006"):
        run(tmp_path / "run", SHORT, resume=True, bad=True)
    assert {path: path.read_bytes() for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.is_file()} == before


def test_weights_that_overflow_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="finite"):
        run(tmp_path / "run", Settings(steps=4, eval_every=1), rate=3e38)
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))


def test_patience_stops_and_keeps_the_best(tmp_path: Path) -> None:
    settings = Settings(steps=500, batch=16, eval_every=1, patience=3, keep=1)
    outcome = run(tmp_path / "run", settings, rate=0.9)
    assert outcome.finished and outcome.step == outcome.progress.best_step + 3 < 500
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert kept[0] == f"step-{outcome.progress.best_step:08d}"


def test_load_model_gives_what_fit_gave(tmp_path: Path) -> None:
    for ema in (None, 0.9):
        settings = Settings(**{**SHORT.as_json(), "ema": ema})
        outcome = run(tmp_path / str(ema), settings)
        model, found = load_model(tmp_path / str(ema) / "checkpoints", line(), optim.adam(0.1), ema)
        assert found.step == 24 and np.array_equal(np.asarray(model.weight), np.asarray(outcome.model.weight))


def test_the_average_of_weights(tmp_path: Path) -> None:
    """ema = decay · ema + (1 - decay) · weights, from the initial weights on."""
    settings = Settings(steps=3, batch=16, eval_every=1, ema=0.5)
    outcome = run(tmp_path / "run", settings)
    saved = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    weights = [checkpoint.load(path).state["model.weight"] for path in saved]
    expected = np.zeros(3, np.float32)
    for weight in weights:
        expected = expected * 0.5 + weight * 0.5
    np.testing.assert_allclose(np.asarray(outcome.model.weight), expected, rtol=1e-6)


def test_a_step_is_a_pure_function() -> None:
    step = training_step(loss, optim.adam(0.1))
    state = initial_state(line(), optim.adam(0.1), 5)
    batch = rows().take(np.arange(8))
    (once, measured), (again, _) = step(state, batch), step(state, batch)
    assert set(measured) == {"loss", "noise"} and int(once.step) == 1 and int(state.step) == 0
    for a, b in zip(tree.leaves(once), tree.leaves(again), strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("batch_size", [1, 7, 64, 100])
def test_validation_counts_each_item_once(batch_size: int) -> None:
    data = rows()
    found = Validation(lambda model, batch: {"loss": batch["y"], "positive": batch["y"] > 0}, data, batch_size)(line())
    assert found["loss"] == pytest.approx(float(data.arrays["y"].astype(np.float64).mean()), rel=1e-6)
    assert found["positive"] == pytest.approx((data.arrays["y"] > 0).mean())


def test_validation_spreads_what_it_takes() -> None:
    chosen = Validation(lambda model, batch: {}, rows(), at_most=10).items()
    assert len(chosen) == 10 and chosen[0] == 0 and set(np.diff(chosen)) <= {6, 7}


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"steps": 1.5}, {"batch": -1}, {"learning_rate": 0}, {"learning_rate": float("nan")}, {"seed": -1},
     {"eval_every": 0}, {"keep": 0}, {"patience": 0}, {"ema": 1.0}, {"data": 3}, {"steps": True}, {"precision": "float16"}],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        Settings(**wrong)


def test_settings_from_text() -> None:
    assert from_text(Settings, "steps", "12") == 12 and from_text(Settings, "learning_rate", "1e-3") == 1e-3
    assert from_text(Settings, "patience", "none") is None and from_text(Settings, "data", "a.txt") == "a.txt"
    for name, text in (("stepps", "3"), ("steps", "many"), ("ema", "x")):
        with pytest.raises(ArgumentError, match=name):
            from_text(Settings, name, text)


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ArgumentError, match=r"notes\.txt"):
            RunFolder.create(tmp_path, {}, overwrite=overwrite)
    with pytest.raises(ArgumentError, match="file"):
        RunFolder.create(tmp_path / "notes.txt", {})
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_overwrite_removes_a_run_and_nothing_else(tmp_path: Path) -> None:
    run(tmp_path / "run", SHORT)
    (tmp_path / "run" / "mine.txt").write_text("mine")
    RunFolder.create(tmp_path / "run", {"steps": 1}, overwrite=True)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "mine.txt"]


def test_interrupt_hears_the_first_signal_only() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupt() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop() and stop.signal == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_lines_without_a_terminal() -> None:
    now = [0.0]
    results, progress = io.StringIO(), io.StringIO()
    view = Lines(results, progress, lambda: now[0])
    view.begin(0, 100)
    for step in range(1, 101):
        view.stepped(step, 2.0)
        now[0] += 1.0
    view.evaluated(100, 1.87)
    assert results.getvalue() == "step 100 validation loss 1.8700\n"
    assert "step 11/100, loss 2.0000, 1.0 steps/s, 1:29 left" in progress.getvalue().splitlines()
    assert len(progress.getvalue().splitlines()) == 10


def test_rate_leaves_the_first_step_out() -> None:
    now = [0.0]
    rate = Rate(10, lambda: now[0])
    for step, time in ((1, 50.0), (2, 51.0), (6, 55.0)):
        now[0] = time
        rate.update(step)
    assert (rate.per_second, rate.seconds_left) == (1.0, 4.0)
    assert [duration(s) for s in (0, 31, 725, 11229)] == ["0:00", "0:31", "12:05", "3:07:09"]
