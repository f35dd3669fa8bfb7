"""The compiler's decisions, learned: the only glue between compile and learned.

With this you can tune the kernels of a function (`ms.jit(f, tune=60)`, `mainspring tune`); what won is kept in a database
(`database()`), and every later compilation on this machine uses it: a stored winner, or, for a kernel that was never measured,
what the model of the cost proposes when it is confident, else the heuristic. MS_TUNED=0 is the way back. No choice
changes a result: candidates differ in speed alone (docs/numerics.md).

Nothing is loaded before it is needed: without a database, a compilation pays one look at the file system.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mainspring import runtime
from mainspring.base import flags

if TYPE_CHECKING:
    from mainspring.compile.choose import Chooser
    from mainspring.compile.target import Target
    from mainspring.ir.graph import Graph


def database() -> str:
    """The path of the database: MS_DATABASE, or a file in the cache folder; empty when there is neither."""
    path = flags.database()
    return path or (os.path.join(flags.cache(), "tuned.sqlite3") if flags.cache() else "")


class _Tuning:
    """See `runtime.Tuning`."""

    def __init__(self) -> None:
        self._seen: tuple[Any, ...] = ()
        self._known: tuple[Chooser, Target] | None = None

    def chooser(self) -> Chooser:
        """See `runtime.Tuning`."""
        return self._read()[0]

    def target(self) -> Target:
        """See `runtime.Tuning`."""
        return self._read()[1]

    def _read(self) -> tuple[Chooser, Target]:
        """What the database says, read again when the file has changed."""
        from mainspring.compile.choose import HEURISTIC
        from mainspring.compile.target import chosen

        path = database() if flags.tuned() else ""
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return HEURISTIC, chosen()
        seen = (path, status.st_mtime_ns, status.st_size, flags.threads(), flags.target())
        if seen != self._seen or self._known is None:
            from mainspring.autotune.learned import fitted, learned_chooser

            self._seen, self._known = seen, (learned_chooser(path), fitted(path))
        return self._known

    def tune(self, graph: Graph, donated: Sequence[int], seconds: float) -> None:
        """See `autotune.tuner.tune_graph`; nothing happens when MS_TUNED is 0, or the backend is not native code."""
        if flags.tuned() and flags.backend() == "llvm":
            from mainspring.autotune.tuner import tune_graph

            tune_graph(graph, seconds, donated=donated)


def install() -> None:
    """Let compilations use what was learned."""
    runtime.use_tuning(_Tuning())
