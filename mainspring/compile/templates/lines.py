"""What the templates share: a dense tensor seen as lines along one dim, and short ways to write loops."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mainspring.compile.loops import Buffer, For, Stmt, Store, Write
from mainspring.compile.template import Call
from mainspring.ir.scalar import Expr, const, minimum, var
from mainspring.types.dtype import int64
from mainspring.types.shape import Shape

BLOCK = 256  # elements of a contiguous run that one task takes


@dataclass(frozen=True)
class Lines:
    """A row-major tensor as [outer, extent, inner], where `extent` is the dim that the op runs along."""

    outer: int
    extent: int
    inner: int

    @staticmethod
    def of(shape: Shape, axis: int) -> Lines:
        return Lines(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1:]))

    def element(self, line: Expr, place: Expr, extent: int | None = None) -> Expr:
        """Where element `place` of a line is, of lines of `extent` elements if they have another."""
        return (line // self.inner * (self.extent if extent is None else extent) + place) * self.inner + line % self.inner


def store(buffer: Buffer, index: Expr | int, value: Expr, guard: Expr | None = None) -> Store:
    """buffer[index] = value, where `guard` holds."""
    return Store((Write(buffer, number(index), value, guard),))


def number(x: Expr | int) -> Expr:
    """`x` as an int64 expression."""
    return x if isinstance(x, Expr) else const(x, int64)


def loop(index: Expr, *body: Stmt, start: Expr | int = 0, stop: Expr | int | None = None, role: str = "serial") -> For:
    """A loop over all values of `index`, or from `start` to `stop`."""
    return For(index, number(start), number(index.attr[1] if stop is None else stop), body, role)


def block_of(task: Expr, extent: int, block: int, name: str) -> tuple[Expr, Expr, Expr]:
    """The index, start and stop of block `task` of a dim."""
    start = task * block
    stop = start + block if extent % block == 0 else minimum(start + block, extent)
    return var(name, extent), start, stop


def params(call: Call, *more: Buffer) -> tuple[Buffer, ...]:
    """The buffers of `call`, each once, in order."""
    return tuple(dict.fromkeys((*call.inputs, *call.outputs, *more)))
