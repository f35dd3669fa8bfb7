"""The caches of the processor, as the system tells of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

LINE = 64  # bytes of a line of a cache
_FOLDER = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class Cache:
    """A cache of the first logical processor: `kind` is "data", "instruction" or "unified", `sharers` how many use it."""

    level: int
    kind: str
    size: int  # bytes
    sharers: int

    def __str__(self) -> str:
        return f"L{self.level} {self.kind} {self.size >> 10}K"


@cache
def caches(folder: Path = _FOLDER) -> tuple[Cache, ...]:
    """All of them, the nearest first; nothing where the system does not tell."""
    found = []
    for place in sorted(folder.glob("index*")):
        try:
            level, kind, size, sharers = ((place / name).read_text().strip() for name in
                                          ("level", "type", "size", "shared_cpu_list"))
            found.append(Cache(int(level), kind.lower(), _bytes(size), max(1, _count(sharers))))
        except (OSError, ValueError):
            continue
    return tuple(found)


def share(level: int, folder: Path = _FOLDER) -> int | None:
    """Bytes of data that one logical processor may count on in its cache of this level; None if unknown."""
    return next((c.size // c.sharers for c in caches(folder) if c.level == level and c.kind != "instruction"), None)


def _bytes(size: str) -> int:
    """``"48K"`` as a number."""
    scale = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(size[-1:], 1)
    return int(size.rstrip("KMG")) * scale


def _count(processors: str) -> int:
    """How many are in a list like ``"0-1,4"``."""
    ranges = [part.split("-") for part in processors.split(",") if part]
    return sum([int(r[-1]) - int(r[0]) + 1 for r in ranges])
