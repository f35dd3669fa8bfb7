"""Errors as designed text: the argument, the rule, the value, and a right example.

With this you can raise an error that a user can act on without reading our source:

    raise ShapeError("matmul", "b", "its rows must equal the columns of `a`",
                     f"a.shape={a.shape}, b.shape={b.shape}", "ms.matmul(ms.ones((2, 3)), ms.ones((3, 4)))")
"""

from __future__ import annotations

import linecache
import os
import sys
from types import FrameType

PACKAGE_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def user_line() -> str:
    """The innermost line of the caller's own code, as ``file:line: source``; empty when there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((PACKAGE_DIR, "<")):
        frame = frame.f_back
    if frame is None:
        return ""
    filename, line = frame.f_code.co_filename, frame.f_lineno
    return f"{filename}:{line}: {linecache.getline(filename, line).strip()}"


class MainspringError(Exception):
    """The root of all errors that Mainspring raises on purpose.

    Args:
        where: the public function or object that refuses, e.g. ``"matmul"``.
        argument: the name of the offending argument.
        rule: what must hold.
        value: what was given instead, with its numbers.
        example: a call that is right.
    """

    def __init__(self, where: str, argument: str = "", rule: str = "", value: str = "", example: str = ""):
        self.where, self.argument, self.rule, self.value, self.example = where, argument, rule, value, example
        lines = [f"{where}: `{argument}`: {rule}" if argument else f"{where}: {rule}" if rule else where]
        if value:
            lines.append(f"  got:   {value}")
        if example:
            lines.append(f"  write: {example}")
        source = user_line()
        if source:
            lines.append(f"  at:    {source}")
        super().__init__("\n".join(lines))


class ShapeError(MainspringError, ValueError):
    """Shapes that do not fit."""


class DTypeError(MainspringError, TypeError):
    """A dtype that the operation does not take, or a pair with no common dtype."""


class AxisError(MainspringError, IndexError, ValueError):
    """An axis or index out of range."""


class ArgumentError(MainspringError, ValueError):
    """A parameter outside its allowed values."""


class TreeError(MainspringError, TypeError):
    """A tree of the wrong structure."""


class UsageError(MainspringError, TypeError):
    """A tensor used as what it is not: changed in place, read as a Python number or sequence that it cannot be."""


class TraceError(MainspringError, TypeError):
    """A traced value used where a concrete one is needed, or one that escaped its trace."""


class GradientError(MainspringError, TypeError):
    """A derivative that does not exist, or was asked of something that has none."""


class GraphError(MainspringError, ValueError):
    """A graph that the verifier or the parser rejects."""


class CompileError(MainspringError, RuntimeError):
    """The compiler cannot make code of a graph."""


class DonationError(MainspringError, RuntimeError):
    """A tensor was used after its buffer had been handed over."""


class CheckpointError(MainspringError, OSError):
    """A checkpoint that is missing, truncated or corrupt, or cannot be written."""


class DataError(MainspringError, OSError):
    """Data that cannot be read or does not have the expected form."""


class TrainingError(MainspringError, RuntimeError):
    """Training cannot go on, e.g. because the loss is not finite."""


class DependencyError(MainspringError, ImportError):
    """An optional dependency is not installed."""
