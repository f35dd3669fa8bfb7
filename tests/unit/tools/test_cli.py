"""The command: help, versions, and every way to ask for the wrong thing, each with one message and an exit code."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mainspring._version import __version__
from mainspring.tools.cli import app

COMMANDS = ("train", "generate", "report", "tune", "info", "bench")


def call(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, arguments, env=environment)


@pytest.mark.parametrize("width", ["200", "80", "20"])
def test_help_names_every_command(width: str) -> None:
    found = call("--help", COLUMNS=width)
    assert found.exit_code == 0 and all(command in found.output for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    assert call(command, "--help", COLUMNS="30").exit_code == 0


def test_version() -> None:
    assert call("--version").output == f"mainspring {__version__}\n"


def test_the_command_starts_quickly_and_loads_nothing_heavy() -> None:
    script = (
        "import sys, mainspring.tools.cli\n"
        "heavy = {'sklearn', 'scipy', 'jinja2', 'safetensors', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert time.perf_counter() - start < 20  # a bound against accidents, not a measurement


WRONG = {
    "unknown recipe": (("train", "shakespear"), 2, "shakespeare"),
    "unknown option": (("train", "--stepz", "3"), 2, "--stepz"),
    "tune nothing": (("tune",), 2, "mainspring tune shakespeare"),
    "tune what is not known": (("tune", "everything"), 2, "matmul"),
    "tune for no time": (("tune", "matmul", "--budget", "0"), 2, "positive"),
    "text for a number": (("train", "--steps", "many"), 2, "integer"),
    "no steps": (("train", "--steps", "0"), 2, "at least 1"),
    "negative batch": (("train", "--batch", "-4"), 2, "at least 1"),
    "rate of zero": (("train", "--learning-rate", "0"), 2, "positive"),
    "rate that is no number": (("train", "--learning-rate", "nan"), 2, "positive"),
    "negative seed": (("train", "--seed", "-1"), 2, "seed"),
    "no threads": (("train", "--threads", "0"), 2, "1..1024"),
    "too many threads": (("train", "--threads", "100000"), 2, "1..1024"),
    "average of one": (("train", "--ema", "1.0"), 2, "between 0 and 1"),
    "no patience": (("train", "--patience", "0"), 2, "at least 1"),
    "a setting without value": (("train", "--set", "width"), 2, "NAME=VALUE"),
    "an unknown setting": (("train", "--set", "wide=8"), 2, "wide"),
    "a setting of the wrong type": (("train", "--set", "width=broad"), 2, "broad"),
    "a width that heads do not divide": (("train", "--set", "width=130"), 2, "heads"),
    "resume nothing": (("train", "--resume", "nowhere"), 1, "config.json"),
    "resume elsewhere": (("train", "--resume", "run", "--out", "other"), 2, "stays in its folder"),
    "resume with another recipe": (("train", "digits", "--resume", "run"), 2, "shakespeare"),
    "resume with another model": (("train", "--resume", "run", "--set", "width=64"), 2, "keeps its width"),
    "missing data": (("train", "--data", "missing.txt"), 1, "missing.txt"),
    "data that is binary": (("train", "--data", "binary.txt"), 1, "UTF-8"),
    "data that is empty": (("train", "--data", "empty.txt"), 1, "empty"),
    "data that is too short": (("train", "--data", "short.txt"), 1, "window"),
    "data that is a folder": (("train", "--data", "full"), 1, "readable"),
    "images that are missing": (("train", "digits", "--data", "nowhere"), 1, "folder"),
    "images of no known kind": (("train", "digits", "--data", "full"), 1, "idx3"),
    "a cut image file": (("train", "digits", "--data", "cut"), 1, "damaged"),
    "a folder that holds something": (("train", "--out", "full"), 2, "empty"),
    "overwrite what is no run": (("train", "--out", "full", "--overwrite"), 2, "only a run"),
    "out is a file": (("train", "--out", "short.txt"), 2, "file"),
    "out below a file": (("train", "--out", "short.txt/run"), 1, "short.txt"),
    "generate from nothing": (("generate", "nowhere"), 1, "config.json"),
    "generate without a checkpoint": (("generate", "run"), 1, "checkpoint"),
    "generate from digits": (("generate", "pictures"), 2, "writes text"),
    "negative temperature": (("generate", "run", "--temperature", "-1"), 2, "temperature"),
    "choose among none": (("generate", "run", "--top-k", "0"), 2, "top_k"),
    "negative tokens": (("generate", "run", "--tokens", "-5"), 2, "tokens"),
    "report of nothing": (("report", "nowhere"), 1, "metrics.jsonl"),
    "a config that is no JSON": (("train", "--resume", "torn"), 1, "JSON"),
    "a config of another version": (("train", "--resume", "future"), 1, "settings"),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with some files, and runs that never got further than their config."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x80")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("To be, or not to be")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b\x08\x00cut")
    configs = {"run": {"recipe": "shakespeare"}, "pictures": {"recipe": "digits"}}
    configs["future"] = {"recipe": "shakespeare", "warp": "9"}
    for name, config in configs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text('{"recipe": "sha')
    return tmp_path


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.replace(" ", "-"))
def test_misuse(case: str, place: Path) -> None:
    arguments, code, words = WRONG[case]
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    found = call(*arguments, COLUMNS="400")
    message = " ".join(found.output.split())
    assert found.exit_code == code, found.output
    assert words in message and "Traceback" not in message
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_debug_shows_where_an_error_came_from(place: Path) -> None:
    found = call("train", "nosuch", MS_DEBUG="1")
    assert found.exit_code != 0 and type(found.exception).__name__ == "ArgumentError"


def test_report_of_a_run(place: Path) -> None:
    (place / "run" / "metrics.jsonl").write_text('{"step": 1, "train_loss": 2.5}\n')
    assert call("report", "run").exit_code == 0
    assert "<svg" in (place / "run" / "report.html").read_text()


@pytest.mark.parametrize("width", ["200", "30"])
def test_info_without_measuring(width: str) -> None:
    found = call("info", "--no-measure", COLUMNS=width)
    assert found.exit_code == 0
    assert all(word in found.output for word in (__version__, "processor", "threads", "compiled", "scikit"))
