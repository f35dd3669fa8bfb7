"""TensorBoard event files of scalars, written without TensorFlow: a few protobuf fields in TFRecord frames.

With this you can point `tensorboard --logdir run` at a run. Sources: tensorboard/compat/proto/event.proto and
summary.proto; tensorflow/core/lib/io/record_writer.h for the frame and its masked CRC-32C.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import time
from pathlib import Path

from mainspring.base.errors import DataError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf wire types
_SESSION_START = 1


class EventWriter:
    """Appends scalars to a new event file in `folder`.

    Args:
        folder: made when missing. Several event files in it form one run.
        resume_step: when given, TensorBoard forgets the points after this step that earlier files hold.

    Raises:
        DataError: the file cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], *, resume_step: int | None = None):
        now = time.time()
        self.path = Path(folder) / f"events.out.tfevents.{now:017.6f}.{os.getpid()}.mainspring"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "xb")  # noqa: SIM115 (open for the life of the writer)
        except OSError as error:
            raise self._refusal(error) from error
        self._append(_event(now, 0, _field(3, b"brain.Event:2")))
        if resume_step is not None:
            self._append(_event(now, resume_step + 1, _field(7, _number(1, _SESSION_START))))

    def write(self, step: int, values: dict[str, float], wall_time: float | None = None) -> None:
        """Append the scalars `values` (tag → value) of a step; `wall_time` in seconds, now by default."""
        summary = b"".join([_field(1, _field(1, tag.encode()) + _float(2, value)) for tag, value in values.items()])
        self._append(_event(time.time() if wall_time is None else wall_time, step, _field(5, summary)))

    def _append(self, event: bytes) -> None:
        try:
            self._file.write(_record(event))
            self._file.flush()
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> DataError:
        got = f"{self.path}: {error.strerror or error}"
        return DataError("EventWriter", "folder", "the event file must be writable", got, "EventWriter('run/tensorboard')")

    def close(self) -> None:
        with contextlib.suppress(OSError):  # each event was flushed: what cannot be written was reported by `write`
            self._file.close()

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _event(wall_time: float, step: int, what: bytes) -> bytes:
    return _key(1, _FIXED64) + struct.pack("<d", wall_time) + _number(2, step) + what


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _number(field: int, value: int) -> bytes:
    return _key(field, _VARINT) + _varint(value & 0xFFFFFFFFFFFFFFFF)


def _float(field: int, value: float) -> bytes:
    return _key(field, _FIXED32) + bytes(ctypes.c_float.__ctype_le__(value))  # too large for a float32 becomes inf


def _field(field: int, content: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + _masked_crc(length) + content + _masked_crc(content)


def _masked_crc(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC_TABLE = _crc_table()


def crc32c(content: bytes) -> int:
    """CRC-32C (Castagnoli), e.g. 0xE3069283 of ``b"123456789"``. Source: RFC 3720, appendix B.4."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF
