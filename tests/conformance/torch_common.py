"""What the tables of PyTorch ops share: arguments of PyTorch read as those of `mainspring`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mainspring as ms


class Skip(Exception):
    """A sample that asks for what has no counterpart: the reason."""


def need(condition: bool, why: str) -> None:
    if not condition:
        raise Skip(why)


def axes(dim: Any) -> Any:
    """PyTorch's `dim`, of which an empty list means all."""
    return None if dim is None or (isinstance(dim, (list, tuple)) and not dim) else tuple(dim) if isinstance(dim, list) else dim


def dtype_of(x: Any) -> Any:
    return None if x is None else str(x).removeprefix("torch.")


def cast(x: Any, dtype: Any) -> Any:
    return x if dtype is None else ms.astype(x, dtype_of(dtype))


def reduction(f: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
        if not x.ndim:
            return f(cast(x, dtype))
        return f(cast(x, dtype), axis=axes(dim), keepdims=keepdim)

    return call


def softmax_of(f: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, dim: Any = None, *args: Any, dtype: Any = None, **kw: Any) -> Any:
        x = cast(x, dtype)
        return f(x, axis=dim) if x.ndim else ms.reshape(f(ms.reshape(x, (1,)), axis=0), ())

    return call
