"""The installed command from end to end, in processes of its own: real data, real kills, real signals, a real full disk."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mainspring.train import checkpoint, read_metrics

COMMAND = [sys.executable, "-c", "from mainspring.tools.cli import main; main()"]
SMALL = ("--set", "width=32", "--set", "layers=2", "--set", "context=16")
WHOLE_RUN = {"config.json", "environment.json", "metrics.jsonl", "events", "checkpoints", "report.html", "sample.txt"}
ENVIRONMENT = {**os.environ, "COLUMNS": "200", "MS_DEBUG": "0"}


def start(*arguments: object, **options: object) -> subprocess.Popen[str]:
    words = [*COMMAND, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, **options)  # type: ignore[call-overload, no-any-return]


def command(*arguments: object, code: int = 0, **options: object) -> tuple[str, str]:
    """Run it to its end; gives what it printed to standard output and standard error."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    assert "Traceback" not in err
    return out, err


def final_bytes(run: Path) -> dict[str, bytes]:
    """What must not depend on how often a run was killed, nor on threads."""
    last = checkpoint.latest(run / "checkpoints")
    return {"metrics": (run / "metrics.jsonl").read_bytes()} | {path.name: path.read_bytes() for path in last.iterdir()}


def wait_for(condition: object, process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of twenty steps with two checkpoints, not to be changed."""
    run = tmp_path_factory.mktemp("trained") / "run"
    command("train", *SMALL, "--steps", 20, "--eval-every", 10, "--out", run)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.mark.parametrize(("recipe", "classes", "counts"), [
    ("shakespeare", 65, (1, 3, 8)), ("digits", 10, (1, 2)), ("tagger", 14, (1, 2))])
def test_twenty_steps_learn_and_give_the_same_bits_for_any_number_of_threads(
        tmp_path: Path, recipe: str, classes: int, counts: tuple[int, ...]) -> None:
    runs = {threads: tmp_path / str(threads) for threads in counts}
    for threads, run in runs.items():
        out, _ = command("train", recipe, "--steps", 20, "--eval-every", 10, "--threads", threads, "--out", run)
        lines = re.findall(r"^step (\d+) validation loss (\d+\.\d+)$", out, re.MULTILINE)
        assert [int(step) for step, _ in lines] == [10, 20] and len(out.splitlines()) == 2
        assert float(lines[-1][1]) < np.log(classes) * 0.85
        assert {path.name for path in run.iterdir()} == WHOLE_RUN
        assert len((run / "sample.txt").read_text()) > 100 and "<svg" in (run / "report.html").read_text()
        assert final_bytes(run) == final_bytes(runs[1])


def test_killed_at_any_moment_and_resumed(tmp_path: Path) -> None:
    job = ("train", "--steps", 60, "--eval-every", 20, *SMALL)
    command(*job, "--out", tmp_path / "whole")
    killed = tmp_path / "killed"
    process = start(*job, "--out", killed)
    for moment in ((killed / "config.json").exists, lambda: checkpoints(killed), lambda: len(checkpoints(killed)) >= 2):
        wait_for(moment, process)
        process.kill()
        process.communicate()
        process = start("train", "--resume", killed)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert final_bytes(killed) == final_bytes(tmp_path / "whole")
    assert (killed / "report.html").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    run = tmp_path / "run"
    process = start("train", "--steps", 100000, "--eval-every", 30, *SMALL, "--out", run)
    wait_for(lambda: checkpoints(run), process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and f"--resume {run}" in err
    stopped = checkpoint.load(run / "checkpoints").step
    assert f"stopped at step {stopped}" in err
    out, _ = command("train", "--resume", run, "--steps", stopped + 5)
    assert re.search(rf"^step {stopped + 5} validation loss", out, re.MULTILINE)


def test_generate_is_a_function_of_its_seed(trained: Path) -> None:
    ask = ("generate", trained, "--prompt", "ROMEO:", "--tokens", 40, "--top-k", 10, "--seed")
    first, again, other = (command(*ask, seed)[0] for seed in (1, 1, 2))
    assert first == again != other and first.startswith("ROMEO:") and len(first) == len("ROMEO:") + 40 + 1
    _, err = command("generate", trained, "--prompt", "Ω", code=1)
    assert "Ω" in err and "65 symbols" in err


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    run = tmp_path / "run"
    wild = ("--learning-rate", 1e30, "--set", "warmup=0")
    _, err = command("train", *SMALL, "--steps", 50, "--eval-every", 1, *wild, "--out", run, code=1)
    assert "finite" in err and "step" in err and "--learning-rate" in err
    for path in checkpoints(run):
        assert all(np.isfinite(leaf.astype(np.float64)).all() for leaf in checkpoint.load(path).state.values())


def test_a_full_disk_leaves_what_was_saved(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "checkpoints" in path.parts}
    limit = 1 << 14  # bytes a file may have: less than a checkpoint, as a disk that is nearly full

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    _, err = command("train", "--resume", run, "--steps", 30, code=1, preexec_fn=limited)
    assert "disk must take the whole checkpoint" in err
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "checkpoints" in path.parts}
    assert after == before
    command("train", "--resume", run, "--steps", 30)
    assert read_metrics(run / "metrics.jsonl")[-1]["step"] == 30


def test_a_torn_checkpoint_is_passed_over(run: Path) -> None:
    newest = checkpoints(run)[-1] / checkpoint.TENSORS
    newest.write_bytes(newest.read_bytes()[:1000])
    out, err = command("train", "--resume", run)
    assert "step-00000020" in err and "step 20 validation loss" in out
    for path in checkpoints(run):
        (path / checkpoint.MANIFEST).write_text("{")
    _, err = command("generate", run, code=1)
    assert "one checkpoint in it must be whole" in err
