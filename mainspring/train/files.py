"""Writing files so that a crash at any moment leaves either the old content or the new, whole.

With this you can replace a file (`replace_text`) or publish a folder (`publish`) atomically and durably.
"""

from __future__ import annotations

import os
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file and wait until the disk has it."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in `folder`, where the system can be asked to."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_text(path: Path, text: str) -> None:
    """Give `path` the content `text` in one step; on failure the old content stays."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        write_durably(temporary, text.encode())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def publish(temporary: Path, final: Path) -> None:
    """Give a finished folder its name, which nothing else may have, durably."""
    sync_folder(temporary)
    os.rename(temporary, final)
    sync_folder(final.parent)
