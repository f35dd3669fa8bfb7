"""A folder of compiled objects, keyed by what they were compiled from.

With this you can keep bytes between processes: `get`, `put`, `get_or_make`. An entry is written whole or not at all,
carries a checksum, and is ignored when damaged; the least recently used go when the folder grows past
`flags.cache_mb`. A folder that cannot be written costs one warning and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import llvmlite
import numpy as np

from mainspring.base import flags

_MAGIC = b"mainspring-cache-1\n"
_SUFFIX = ".bin"
_warned = False
_written = 0  # bytes put since the folder was last measured


def digest(*texts: str) -> str:
    """The key of an entry: a hash of `texts` and of the versions that what is compiled depends on."""
    hasher = hashlib.sha256(_versions())
    for text in texts:
        data = text.encode()
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()


@cache
def _versions() -> bytes:
    """The library versions and every byte of the compiler itself: an edited emitter never meets old objects."""
    package = Path(__file__).resolve().parent.parent
    hasher = hashlib.sha256(f"{llvmlite.__version__} {np.__version__}".encode())
    for folder in ("types", "ir", "ops", "autodiff", "compile", "runtime"):
        for path in sorted((package / folder).rglob("*.py")):
            hasher.update(path.name.encode() + path.read_bytes())
    return hasher.digest()


def get(key: str) -> bytes | None:
    """The bytes stored under `key`, or None. A damaged entry counts as absent and is removed."""
    path = _path(key)
    if path is None:
        return None
    try:
        data = path.read_bytes()
    except OSError:
        return None
    payload = _checked(data)
    with contextlib.suppress(OSError):
        if payload is None:
            path.unlink()
        else:
            os.utime(path)  # marks it as used; the access time itself is often not kept
    return payload


def put(key: str, payload: bytes) -> None:
    """Store `payload` under `key`, atomically. Failure to write is no error: it warns once."""
    path = _path(key)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, _MAGIC + hashlib.sha256(payload).digest() + payload)
    except OSError as error:
        _warn(path, error)
        return
    _evict(path.parent, len(payload))


def get_or_make(text: str, target: str, make: Callable[[], bytes]) -> bytes:
    """The bytes made from `text` for `target`: from the folder, or by `make()` and then kept."""
    key = digest(text, target)
    found = get(key)
    if found is None:
        found = make()
        put(key, found)
    return found


def _path(key: str) -> Path | None:
    folder = flags.cache()
    return Path(folder) / (key + _SUFFIX) if folder else None


def _checked(data: bytes) -> bytes | None:
    head = len(_MAGIC)
    if data[:head] != _MAGIC:
        return None
    checksum, payload = data[head : head + 32], data[head + 32 :]
    return payload if hashlib.sha256(payload).digest() == checksum else None


def _write(path: Path, data: bytes) -> None:
    """All of `data` under `path`, or nothing."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _warn(path: Path, error: OSError) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(f"compiled objects are not kept: cannot write to {path.parent} ({error.strerror}); "
                      "set MS_CACHE to a folder that can be written, or to the empty string", stacklevel=4)


def _evict(folder: Path, added: int) -> None:
    """Remove the least recently used entries until the folder is within its limit, looked at now and then."""
    global _written
    limit = flags.cache_mb() << 20
    _written += added
    if 0 < _written - added and _written < limit // 16:
        return
    _written = added
    entries = []
    with contextlib.suppress(OSError):
        for item in os.scandir(folder):
            if item.name.endswith(_SUFFIX):
                with contextlib.suppress(OSError):
                    status = item.stat()
                    entries.append((status.st_mtime_ns, status.st_size, item.path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit:
            return
        with contextlib.suppress(OSError):
            os.unlink(path)
            total -= size
