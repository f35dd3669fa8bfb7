"""Templates: loop nests for the ops that have no iteration space (sort, scatter, cumulative sums …), one function an op.

    @template("sort")
    def sort(call: Call) -> list[Kernel]: ...

A template gets the buffers of the operands and results (dense, row-major) and gives kernels to be run one after the
other, each complete before the next begins; a kernel may be launched in `Rounds`. Working memory that outlives a kernel comes
from ``call.temporary``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mainspring.compile.loops import Buffer, Kernel
from mainspring.compile.target import Target
from mainspring.types.dtype import DType
from mainspring.types.shape import TensorType


@dataclass
class Call:
    """One application to be lowered: buffers and types of operands and results, the static parameters, and for what machine."""

    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    input_types: tuple[TensorType, ...]
    output_types: tuple[TensorType, ...]
    static: dict[str, Any]
    target: Target
    temporaries: list[Buffer] = field(default_factory=list)

    def temporary(self, name: str, dtype: DType, size: int) -> Buffer:
        """A buffer of global memory that lives from the first to the last of the kernels."""
        buffer = Buffer(name, dtype, size)
        self.temporaries.append(buffer)
        return buffer


@dataclass(frozen=True, eq=False)
class Rounds:
    """`kernel` is launched once for each element of `numbers` (int64, a temporary), which it knows as its param `clock`."""

    kernel: Kernel
    clock: Buffer
    numbers: Buffer


Template = Callable[[Call], Sequence[Kernel | Rounds]]
TEMPLATES: dict[str, Template] = {}


def template(name: str) -> Callable[[Template], Template]:
    """Register the loop nests of the op `name`."""

    def enter(function: Template) -> Template:
        TEMPLATES[name] = function
        return function

    return enter
