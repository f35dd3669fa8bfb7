"""Metrics files and event files: the same bytes after a kill, and what TensorBoard would read."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainspring.base.errors import ArgumentError, DataError
from mainspring.train.metrics import MetricsWriter, read_metrics
from mainspring.train.tensorboard import EventWriter, crc32c


def write_steps(path: Path, steps: range, resume_step: int | None) -> bytes:
    with MetricsWriter(path, resume_step=resume_step) as metrics:
        for step in steps:
            metrics.write(step, loss=np.float32(1 / (step + 1)), rate=step * 10)
            if step % 3 == 0:
                metrics.write(step, validation_loss=2.0 / (step + 1))
    return path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(resumed=st.integers(-1, 12), torn=st.integers(0, 500), garbage=st.sampled_from([b"", b"\0" * 30, b'{"step": 3']))
def test_a_killed_and_resumed_run_has_the_same_bytes(tmp_path, resumed: int, torn: int, garbage: bytes) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    path.unlink(missing_ok=True)
    whole = write_steps(path, range(13), None)
    path.unlink()
    kept = len(write_steps(path, range(resumed + 1), None))
    path.write_bytes(whole[: kept + torn] + garbage)
    assert write_steps(path, range(resumed + 1, 13), resumed) == whole
    assert len(read_metrics(path)) == 13 + 5


def test_lines_read_back(tmp_path) -> None:
    path = tmp_path / "m.jsonl"
    with MetricsWriter(path) as metrics:
        metrics.write(np.int64(3), loss=np.float32(0.1), bad=float("nan"), worse=np.float32("inf"), note="é", done=True)
        assert json.loads(path.read_text()) == read_metrics(path)[0]  # on its way to the disk at once
        metrics.sync()
    loss = float(np.float32(0.1))
    assert read_metrics(path) == [{"step": 3, "loss": loss, "bad": None, "worse": None, "note": "é", "done": True}]


def test_a_torn_last_line_is_left_out_and_a_torn_middle_refused(tmp_path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2')
    assert read_metrics(path) == [{"step": 1}]
    path.write_bytes(b'{"step": 1}\n{"st\n{"step": 2}\n')
    with pytest.raises(DataError, match="line 2"):
        read_metrics(path)


def test_misuse_is_our_error_and_keeps_the_file(tmp_path) -> None:
    path = tmp_path / "m.jsonl"
    content = write_steps(path, range(3), None)
    with pytest.raises(DataError, match="new or empty"):
        MetricsWriter(path)
    with MetricsWriter(path, resume_step=2) as metrics, pytest.raises(ArgumentError, match="JSON"):
        metrics.write(3, loss=[object()])
    assert path.read_bytes() == content
    for wrong in (tmp_path, path / "below"):
        with pytest.raises(DataError):
            MetricsWriter(wrong)
    with pytest.raises(DataError, match="No such file"):
        read_metrics(tmp_path / "none.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_our_error() -> None:
    with MetricsWriter("/dev/full") as metrics, pytest.raises(DataError, match="No space left"):
        metrics.write(1, loss=1.0)


# Event files, decoded by hand: frames of TFRecord, then protobuf fields.


def records(content: bytes) -> list[bytes]:
    found = []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        body = content[12 : 12 + length]
        for part, at in ((content[:8], 8), (body, 12 + length)):
            crc = crc32c(part)
            rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
            assert struct.unpack("<I", content[at : at + 4])[0] == (rotated + 0xA282EAD8) % 2**32
        found.append(body)
        content = content[16 + length :]
    return found


def varint(content: bytes) -> tuple[int, bytes]:
    value = shift = 0
    for position, byte in enumerate(content, start=1):
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, content[position:]
    raise AssertionError("a varint without end")


def fields(content: bytes) -> list[tuple[int, Any]]:
    found: list[tuple[int, Any]] = []
    while content:
        key, content = varint(content)
        if key & 7 == 0:
            value, content = varint(content)
        else:
            size, content = varint(content) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], content)
            value, content = content[:size], content[size:]
        found.append((key >> 3, value))
    return found


def test_crc32c_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


def test_event_files_hold_what_tensorboard_reads(tmp_path) -> None:
    with EventWriter(tmp_path / "tb", resume_step=200) as events:
        events.write(300, {"loss": 1.5, "validation/loss": 1e300}, wall_time=12.25)
        events.write(2**40, {"loss": float("nan")})
    version, session, scalars, last = [dict(fields(record)) for record in records(events.path.read_bytes())]
    assert version[3] == b"brain.Event:2"
    assert session[2] == 201 and fields(session[7]) == [(1, 1)]
    assert struct.unpack("<d", scalars[1]) == (12.25,) and scalars[2] == 300
    values = [dict(fields(value)) for number, value in fields(scalars[5]) if number == 1]
    found = [(value[1], struct.unpack("<f", value[2])[0]) for value in values]
    assert found == [(b"loss", 1.5), (b"validation/loss", math.inf)]
    assert last[2] == 2**40 and math.isnan(struct.unpack("<f", dict(fields(dict(fields(last[5]))[1]))[2])[0])


def test_an_event_file_that_cannot_be_written_is_our_error(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError):
        EventWriter(tmp_path / "file")
