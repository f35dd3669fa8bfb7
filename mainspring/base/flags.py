"""Every environment variable of Mainspring, typed and documented, in one place.

With this you can read a setting (`flags.debug()`), change it for a while (`with flags.override(verify=1):`) and print
the page of all of them (`flags.document()`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mainspring.base.errors import ArgumentError


@dataclass(frozen=True)
class Flag:
    """One setting: its name, the environment variable that presets it, how its text is read, and what it does."""

    name: str
    variable: str
    default: Any
    parse: Callable[[str], Any]
    doc: str

    def __call__(self) -> Any:
        if self.name in _overrides:
            return _overrides[self.name]
        text = os.environ.get(self.variable)
        if text is None:
            return self.default
        try:
            return self.parse(text)
        except ValueError as error:
            raise ArgumentError(self.variable, "value", self.doc, repr(text), f"{self.variable}={self.default}") from error


_overrides: dict[str, Any] = {}
FLAGS: dict[str, Flag] = {}


def _flag(name: str, default: Any, parse: Callable[[str], Any], doc: str) -> Flag:
    FLAGS[name] = Flag(name, f"MS_{name.upper()}", default, parse, doc)
    return FLAGS[name]


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(text)
        return text

    return parse


def _level(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not low <= int(text) <= high:
            raise ValueError(text)
        return int(text)

    return parse


def _default_threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _default_cache() -> str:
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"), "mainspring")


debug = _flag("debug", 0, _level(0, 6),
              "1 timings, 2 kernels, 3 graph, 4 loops, 5 LLVM, 6 assembly; each includes those before")
verify = _flag("verify", 0, _level(0, 2), "1 verifies the graph after tracing, 2 also between all passes")
backend = _flag("backend", "llvm", _choice("llvm", "python", "reference"),
                "how compiled functions run: native code, the same loops as Python, or op by op with NumPy")
threads = _flag("threads", _default_threads(), _level(1, 1024),
                "threads of the team; the default is the cores this process may use")
cache = _flag("cache", _default_cache(), str, "folder of compiled objects; the empty string turns the disk cache off")
cache_mb = _flag("cache_mb", 512, _level(1, 1 << 20), "size in MB above which the oldest compiled objects are removed")
target = _flag("target", "native", str, "machine to compile for: native, or a name from mainspring.compile.target")
tuned = _flag("tuned", 1, _level(0, 1), "1 compiles as `mainspring tune` has learned, 0 by heuristics alone")
database = _flag("database", "", str, "file of what was learned; by default tuned.sqlite3 in the folder of compiled objects")


@contextlib.contextmanager
def override(**values: Any) -> Iterator[None]:
    """Set flags by name within a ``with`` block (for the whole process)."""
    for name in values:
        if name not in FLAGS:
            raise ArgumentError("flags.override", name, f"must be one of {', '.join(FLAGS)}", name, "flags.override(debug=1)")
    before = dict(_overrides)
    _overrides.update(values)
    try:
        yield
    finally:
        _overrides.clear()
        _overrides.update(before)


def document() -> str:
    """All flags as a Markdown table: the source of docs/environment.md."""
    rows = [f"| `{f.variable}` | `{f.default if f.name not in ('threads', 'cache') else 'see text'}` | {f.doc} |"
            for f in FLAGS.values()]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows]) + "\n"
