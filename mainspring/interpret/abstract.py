"""Abstract: types only. With this you can ask what a function returns without computing or tracing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mainspring.ir.bind import Value, interpreting, new_value, not_recording
from mainspring.ir.op import Op
from mainspring.types.shape import TensorType


class Abstract:
    """Gives every application a value without data."""

    def apply(self, op: Op, args: tuple[Value, ...], static: dict[str, Any]) -> Any:
        types = op.infer(*[a._type for a in args], **static)
        if isinstance(types, TensorType):
            return new_value(None, types, self)
        return tuple([new_value(None, t, self) for t in types])


def result_types(function: Callable[..., Any], *types: TensorType) -> Any:
    """What ``function`` gives for values of `types`; the result holds values that have a type only."""
    interpreter = Abstract()
    with interpreting(interpreter), not_recording():
        return function(*[new_value(None, t, interpreter) for t in types])


