"""Metrics of a run as JSON lines, one object a line, that survive a kill.

With this you can write `metrics.write(200, loss=1.9)` and read all of it back with `read_metrics`. The lines hold what
they are given and nothing else (no clock), so a run that was killed and resumed ends with the same bytes as one that was
not, if it writes the lines of a step before the checkpoint of that step.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from mainspring.base.errors import ArgumentError, DataError


class MetricsWriter:
    """Appends lines ``{"step": 200, "loss": 1.9}`` to a file, each handed to the system at once.

    Args:
        path: the file; its folder is made when missing.
        resume_step: None starts a new file and refuses one that holds something; a step keeps the lines up to this step
            and cuts off the rest, with a last line that a kill left torn; -1 starts over.

    Raises:
        DataError: the file cannot be written, or holds something and `resume_step` is None.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume_step: int | None = None):
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = open(self.path, "ab")  # noqa: SIM115 (open for the life of the writer)
            kept = _kept_bytes(self.path, resume_step)
            if kept < self.path.stat().st_size:
                self._file.truncate(kept)
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> DataError:
        if isinstance(error, DataError):
            return error
        got = f"{self.path}: {error.strerror or error}"
        return DataError("MetricsWriter", "path", "the file must be writable", got, "MetricsWriter('run/metrics.jsonl')")

    def write(self, step: int, **values: Any) -> None:
        """Append one line; the values are numbers, strings or booleans, and a number that is not finite becomes null."""
        try:
            line = json.dumps({"step": int(step), **{name: _plain(value) for name, value in values.items()}})
        except (TypeError, ValueError) as error:
            rule = "each must be a number, a string or a boolean"
            raise ArgumentError("MetricsWriter.write", "values", rule, str(error), "write(200, loss=1.9)") from error
        try:
            self._file.write(line.encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise self._refusal(error) from error

    def sync(self) -> None:
        """Wait until the disk has every line: call it before a checkpoint, which a power cut must not outlive."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._refusal(error) from error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # each line was flushed: what cannot be written was reported by `write`
            self._file.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _plain(value: Any) -> Any:
    """A Python value of a scalar: NumPy's and Mainspring's have `item`."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _kept_bytes(path: Path, resume_step: int | None) -> int:
    if resume_step is None:
        if path.stat().st_size:
            rule = "the file must be new or empty when a run starts"
            got = f"{path} holds {path.stat().st_size:,} bytes"
            raise DataError("MetricsWriter", "path", rule, got, "MetricsWriter(path, resume_step=200), or another folder")
        return 0
    kept = 0
    for end, line in _lines(path.read_bytes()):
        if line is None or line["step"] > resume_step:
            break
        kept = end
    return kept


def _lines(content: bytes) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """(offset of its end, object) of each line; None for one that is torn or no metrics line."""
    start = 0
    while start < len(content):
        newline = content.find(b"\n", start)
        end = len(content) if newline < 0 else newline + 1
        yield end, None if newline < 0 else _parsed(content[start:end])
        start = end


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("step"), int) else None


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a metrics file as dicts; a torn last line is left out.

    Raises:
        DataError: the file is missing or unreadable, or a line before the last is not a metrics line.
    """
    example = "read_metrics('run/metrics.jsonl')"
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        got = f"{path}: {error.strerror or error}"
        raise DataError("read_metrics", "path", "the file must exist and be readable", got, example) from error
    found = []
    for number, (end, line) in enumerate(_lines(content), start=1):
        if line is not None:
            found.append(line)
        elif end < len(content):
            rule = "every line must be a JSON object with an integer `step`"
            raise DataError("read_metrics", "path", rule, f"{path}, line {number}", example)
    return found
