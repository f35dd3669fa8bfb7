"""Running compiled functions: executables, the team of threads, the cache of objects on disk.

With this you can `build` the executable of a graph, and `profile` it. The compiler and LLVM are loaded here, with the first
function that is compiled, and not with the package: they are half of what `import mainspring` would cost, and eager programs
never need them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from mainspring.ir.bind import Value
from mainspring.ir.graph import Graph

if TYPE_CHECKING:
    from mainspring.compile.choose import Chooser
    from mainspring.compile.target import Target
    from mainspring.runtime.executable import Executable
    from mainspring.runtime.profiler import Profile


class Tuning(Protocol):
    """What `autotune` offers to those below it."""

    def chooser(self) -> Chooser:
        """Who decides where nobody is named: whatever was learned on this machine, or the heuristic."""

    def target(self) -> Target:
        """The machine to compile for, with the costs that were fitted on it, if any."""

    def tune(self, graph: Graph, donated: Sequence[int], seconds: float) -> None:
        """Measure, for at most so long, what is not known yet about the decisions in `graph`."""


_tuning: Tuning | None = None


def use_tuning(tuning: Tuning) -> None:
    """Let `tuning` decide, and tune, from now on."""
    global _tuning
    _tuning = tuning


def tuning() -> Tuning | None:
    """What `use_tuning` was given."""
    return _tuning


def build(graph: Graph, donated: Sequence[int] = (), tune: float = 0.0, lasting: Sequence[Value] = ()) -> Executable:
    """The executable of `graph` whose inputs at positions `donated` may be overwritten; see `executable.build`.

    Its last inputs are `lasting` in every call. What is not known about its decisions is first measured, for at most `tune`
    seconds.
    """
    from mainspring.runtime import executable  # LLVM loads with the first compiled function

    if tune and _tuning is not None:
        _tuning.tune(graph, donated, tune)
    return executable.build(graph, donated, len(lasting)).bound(lasting)


def profile(graph: Graph, values: Sequence[Value], donated: Sequence[int] = (), runs: int = 10, lasting: int = 0) -> Profile:
    """Where the time of `graph` on `values` goes; see `profiler.profile`."""
    from mainspring.runtime import profiler  # LLVM loads with the first compiled function

    return profiler.profile(graph, values, donated, runs, lasting)
