"""After a large compilation: the memory that LLVM was at work in goes back to the system.

With this you can `give_back` what the C library keeps of freed memory, and the pages of LLVM's own code: some 60 MB that came
from its file, are not needed to run what was compiled, and come again, from the system's cache of files, when they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import Any

_MAPS = Path("/proc/self/maps")
_DONTNEED = 4  # madvise: these pages may go; of a mapping that is never written, they are found in the file again


def give_back() -> None:
    """Make this process smaller, on Linux; elsewhere nothing happens."""
    if sys.platform != "linux":
        return
    trim, advise = _libc()
    if trim is not None:
        trim(0)
    for start, size in _code_of_llvm():
        advise(start, size, _DONTNEED)


@cache
def _libc() -> tuple[Any, Any]:
    """malloc_trim, which glibc alone has, and madvise."""
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return getattr(libc, "malloc_trim", None), libc.madvise


@cache
def _code_of_llvm() -> list[tuple[int, int]]:
    """(address, bytes) of the executable pages of llvmlite's library: what the loader wrote to is not among them."""
    found = []
    with contextlib.suppress(OSError):
        for line in _MAPS.read_text().splitlines():
            place, rights, *_, path = line.split(maxsplit=5)
            if rights == "r-xp" and Path(path).name.startswith("libllvmlite"):
                start, stop = (int(x, 16) for x in place.split("-"))
                found.append((start, stop - start))
    return found
