"""The folder of a run: which file is where, made without harming what is already there.

config.json         recipe and settings        metrics.jsonl   one line a logged step and an evaluation
environment.json    machine and versions       events/         the same for TensorBoard
checkpoints/        the last few               report.html, sample.txt   written at the end
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainspring.base.errors import ArgumentError, DataError
from mainspring.train.files import replace_text

_OURS = ("config.json", "environment.json", "metrics.jsonl", "events", "checkpoints", "report.html", "sample.txt")


@dataclass(frozen=True)
class RunFolder:
    """The folder at `path`; make one with `create` or find one with `existing`."""

    path: Path

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        return self.path / "events"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: dict[str, Any], *, overwrite: bool = False) -> RunFolder:
        """A new run with its config.json written.

        Args:
            overwrite: delete a run that is there; a folder that holds anything but a run is refused all the same.

        Raises:
            ArgumentError: `path` is a file, or not empty.
            DataError: it cannot be written.
        """
        folder = cls(Path(path))
        try:
            folder._require_free(overwrite)
            folder.path.mkdir(parents=True, exist_ok=True)
            for name in _OURS:
                _remove(folder.path / name)
        except OSError as error:
            raise _unwritable(folder.path, error) from error
        folder.write("config.json", json.dumps(config, indent=1) + "\n")
        return folder

    def _require_free(self, overwrite: bool) -> None:
        if not self.path.exists():
            return
        example = f"--resume {self.path} to go on, --overwrite to start it again, or another --out"
        if not self.path.is_dir():
            raise ArgumentError("train", "out", "it must be a folder", f"{self.path} is a file", "--out runs/a")
        held = sorted(entry.name for entry in self.path.iterdir() if not _temporary(entry.name))
        if held and not (overwrite and "config.json" in held):
            rule = "only a run can be overwritten" if overwrite else "the folder must be new or empty"
            raise ArgumentError("train", "out", rule, f"{self.path} holds {', '.join(held[:6])}", example)

    @classmethod
    def existing(cls, path: str | os.PathLike[str]) -> tuple[RunFolder, dict[str, Any]]:
        """The run at `path` and its config; DataError when there is none."""
        source = Path(path) / "config.json"
        example = "mainspring train --out runs/a, later mainspring train --resume runs/a"
        try:
            config = json.loads(source.read_text(encoding="utf-8"))
        except OSError as error:
            got = f"{source}: {error.strerror or error}"
            raise DataError("run", "path", "it must be the folder of a run, with its config.json", got, example) from error
        except ValueError as error:
            raise DataError("run", "path", "its config.json must be JSON", f"{source}: {error}", example) from error
        if not isinstance(config, dict):
            raise DataError("run", "path", "its config.json must hold one JSON object", str(source), example)
        return cls(Path(path)), config

    def write(self, name: str, text: str) -> Path:
        """Replace a text file of the run in one step; DataError when the disk refuses, and then the old one stays."""
        try:
            replace_text(self.path / name, text)
        except OSError as error:
            raise _unwritable(self.path / name, error) from error
        return self.path / name


def next_free(folder: str | os.PathLike[str], name: str) -> Path:
    """``folder/name``, or the first of ``folder/name-2``, ``folder/name-3`` … that does not exist."""
    path, number = Path(folder) / name, 1
    while path.exists():
        number += 1
        path = Path(folder) / f"{name}-{number}"
    return path


def _temporary(name: str) -> bool:
    """Whether a file is what a kill left of one being written."""
    return name.startswith(".") and name.endswith(".new")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError("train", "out", "the folder must be writable", f"{path}: {error.strerror or error}", "--out runs/a")
