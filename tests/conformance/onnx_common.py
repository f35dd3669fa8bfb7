"""What the tables of ONNX operators share: test data as tensors, and what is skipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

import mainspring as ms

Attributes = dict[str, Any]


class Skip(Exception):
    """What a case asks for has no counterpart: the reason."""


def need(condition: Any, why: str) -> None:
    if not condition:
        raise Skip(why)


def ints(x: Any) -> list[int]:
    """A tensor that gives shapes, axes or counts, as Python ints."""
    return [int(v) for v in np.asarray(x).reshape(-1)]


def tensor(array: Any) -> Any:
    """A tensor of the test data; Skip for what has no dtype here."""
    if isinstance(array, onnx.TensorProto):
        array = numpy_helper.to_array(array)
    need(isinstance(array, np.ndarray | np.generic), "sequences and optional values")
    try:
        return ms.asarray(np.array(array))
    except ms.MainspringError as error:
        raise Skip(f"dtype {array.dtype}") from error


def fold(f: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def call(*xs: Any) -> Any:
        total = xs[0]
        for x in xs[1:]:
            total = f(total, x)
        return total

    return call


def reduction(f: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, given: Any = None, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
        over = ints(given) if given is not None else axes
        if not over and noop_with_empty_axes:
            over = ()  # no axis: the elementwise part of the reduction
        elif not over:
            over = None
        return ms.astype(f(x, axis=None if over is None else tuple(over), keepdims=bool(keepdims)), x.dtype)

    return call


def last(x: Any) -> Any:
    return ms.moveaxis(x, 1, -1)


def first(x: Any) -> Any:
    return ms.moveaxis(x, -1, 1)
