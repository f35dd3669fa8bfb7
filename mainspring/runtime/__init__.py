"""Running compiled functions: executables, the team of threads, the cache of objects on disk.

With this you can `build` the executable of a graph, and `profile` it. The compiler and LLVM are loaded here, with the first
function that is compiled, and not with the package: they are half of what `import mainspring` would cost, and eager programs
never need them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mainspring.ir.bind import Value
from mainspring.ir.graph import Graph

if TYPE_CHECKING:
    from mainspring.runtime.executable import Executable
    from mainspring.runtime.profiler import Profile


def build(graph: Graph, donated: Sequence[int] = ()) -> Executable:
    """The executable of `graph` whose inputs at positions `donated` may be overwritten; see `executable.build`."""
    from mainspring.runtime import executable  # LLVM loads with the first compiled function

    return executable.build(graph, donated)


def profile(graph: Graph, values: Sequence[Value], donated: Sequence[int] = (), runs: int = 10) -> Profile:
    """Where the time of `graph` on `values` goes; see `profiler.profile`."""
    from mainspring.runtime import profiler  # LLVM loads with the first compiled function

    return profiler.profile(graph, values, donated, runs)
