"""Layers: linear, convolutions, pooling, embedding, dropout, functions as layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mainspring.base.errors import ArgumentError, ShapeError
from mainspring.base.tree import static
from mainspring.interpret.eager import as_value
from mainspring.nn import init
from mainspring.nn.module import Module
from mainspring.ops import composed, pooling
from mainspring.ops.contract import matmul
from mainspring.ops.conv import conv, conv_transpose
from mainspring.ops.indexing import take
from mainspring.ops.movement import matrix_transpose, reshape
from mainspring.types.dtype import float32

Extents = int | Sequence[int]


def _hashable(value: Any) -> Any:
    """Lists, which a static field cannot hold, as tuples."""
    return tuple(_hashable(v) for v in value) if isinstance(value, (list, tuple)) else value


def _require_positive(where: str, **sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ArgumentError(where, name, "must be an int ≥ 1", repr(size), f"{name}=16")


@dataclass(frozen=True, eq=False)
class Linear(Module):
    """x · weight + bias over the last dim. weight: (in, out); bias: (out,) or None."""

    weight: Any
    bias: Any = None

    @classmethod
    def create(cls, key: Any, in_size: int, out_size: int, *, bias: bool = True,
               weight_init: init.Initializer = init.lecun_normal,
               dtype: Any = float32) -> Linear:
        """A layer from `in_size` to `out_size` features; the bias begins at 0."""
        _require_positive("Linear", in_size=in_size, out_size=out_size)
        return cls(weight_init(key, (in_size, out_size), dtype), init.zeros(None, (out_size,), dtype) if bias else None)

    def __call__(self, x: Any) -> Any:
        """(…, in) to (…, out)."""
        value = as_value(x, "Linear")
        if not value.ndim or value.shape[-1] != self.weight.shape[0]:
            raise ShapeError("Linear", "x", f"must have {self.weight.shape[0]} features in its last dim", str(value.shape))
        y = matmul(value, self.weight)
        return y if self.bias is None else y + self.bias


# ---------------------------------------------------------------------------------------------------- convolutions


@dataclass(frozen=True, eq=False)
class _Conv(Module):
    """Convolution, channels last. weight: (*window, in / groups, out); bias: (out,) or None; the rest as in `ms.conv`."""

    weight: Any
    bias: Any = None
    stride: Any = static(default=1)
    padding: Any = static(default="valid")
    dilation: Any = static(default=1)
    groups: int = static(default=1)
    dims: ClassVar[int] = 0

    @classmethod
    def create(cls, key: Any, in_channels: int, out_channels: int, window: Extents, *, stride: Extents = 1,
               padding: Any = "valid",
               dilation: Extents = 1, groups: int = 1, bias: bool = True, weight_init: init.Initializer = init.kaiming_normal,
               dtype: Any = float32) -> Any:
        """A layer from `in_channels` to `out_channels`; the bias begins at 0."""
        _require_positive(cls.__name__, in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise ShapeError(cls.__name__, "groups", "must divide the channels, in and out",
                             f"{groups} for {in_channels} -> {out_channels}")
        shape = (*_window(cls, window), *cls._channels(in_channels, out_channels, groups))
        return cls(weight_init(key, shape, dtype), init.zeros(None, (out_channels,), dtype) if bias else None,
                   _hashable(stride),
                   _hashable(padding), _hashable(dilation), groups)

    @classmethod
    def _channels(cls, in_channels: int, out_channels: int, groups: int) -> tuple[int, int]:
        return in_channels // groups, out_channels

    def __call__(self, x: Any) -> Any:
        """(batch, *spatial, in) to (batch, *places, out)."""
        y = conv(x, self.weight, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups)
        return y if self.bias is None else y + self.bias


def _window(layer: type, window: Extents) -> tuple[int, ...]:
    dims: int = layer.dims  # type: ignore[attr-defined]
    extents = tuple(window) if isinstance(window, Sequence) else (window,) * dims
    if len(extents) != dims:
        raise ArgumentError(layer.__name__, "window", f"must be an int, or {dims} of them", str(window),
                            f"{layer.__name__}.create(key, 3, 16, 3)")
    return extents


class Conv1d(_Conv):
    """Convolution over (batch, length, channels)."""

    dims = 1


class Conv2d(_Conv):
    """Convolution over (batch, height, width, channels)."""

    dims = 2


class Conv3d(_Conv):
    """Convolution over (batch, depth, height, width, channels)."""

    dims = 3


@dataclass(frozen=True, eq=False)
class _ConvTranspose(_Conv):
    """Transposed convolution. weight: (*window, out / groups, in): that of the convolution it transposes."""

    padding: Any = static(default=0)
    output_padding: Any = static(default=0)

    @classmethod
    def create(cls, key: Any, in_channels: int, out_channels: int, window: Extents, *, output_padding: Extents = 0,
               padding: Any = 0,
               **options: Any) -> Any:
        """As `Conv2d.create`; `output_padding` adds places at the high end."""
        made = super().create(key, in_channels, out_channels, window, padding=padding, **options)
        return cls(made.weight, made.bias, made.stride, made.padding, made.dilation, made.groups, _hashable(output_padding))

    @classmethod
    def _channels(cls, in_channels: int, out_channels: int, groups: int) -> tuple[int, int]:
        return out_channels // groups, in_channels

    def __call__(self, x: Any) -> Any:
        """(batch, *spatial, in) to (batch, *places, out)."""
        y = conv_transpose(x, self.weight, stride=self.stride, padding=self.padding, output_padding=self.output_padding,
                           dilation=self.dilation, groups=self.groups)
        return y if self.bias is None else y + self.bias


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution over (batch, length, channels)."""

    dims = 1


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution over (batch, height, width, channels)."""

    dims = 2


class ConvTranspose3d(_ConvTranspose):
    """Transposed convolution over (batch, depth, height, width, channels)."""

    dims = 3


# --------------------------------------------------------------------------------------------------------- pooling


@dataclass(frozen=True, eq=False)
class MaxPool(Module):
    """`ms.max_pool` over (batch, 1 to 3 spatial dims, channels)."""

    window: Any = static()
    stride: Any = static(default=None)
    padding: Any = static(default="valid")
    dilation: Any = static(default=1)

    def __call__(self, x: Any) -> Any:
        """(batch, *spatial, channels) to (batch, *places, channels)."""
        return pooling.max_pool(x, self.window, stride=self.stride, padding=self.padding, dilation=self.dilation)


@dataclass(frozen=True, eq=False)
class AvgPool(Module):
    """`ms.avg_pool` over (batch, 1 to 3 spatial dims, channels)."""

    window: Any = static()
    stride: Any = static(default=None)
    padding: Any = static(default="valid")
    count_include_pad: bool = static(default=True)

    def __call__(self, x: Any) -> Any:
        """(batch, *spatial, channels) to (batch, *places, channels)."""
        return pooling.avg_pool(x, self.window, stride=self.stride, padding=self.padding,
                                count_include_pad=self.count_include_pad)


@dataclass(frozen=True, eq=False)
class GlobalAvgPool(Module):
    """The mean over all spatial dims: (batch, *spatial, channels) to (batch, channels)."""

    def __call__(self, x: Any) -> Any:
        """(batch, *spatial, channels) to (batch, channels)."""
        return pooling.global_avg_pool(x)


@dataclass(frozen=True, eq=False)
class AdaptiveAvgPool(Module):
    """`ms.adaptive_avg_pool`: means over `places` blocks along each spatial dim."""

    places: Any = static()

    def __call__(self, x: Any) -> Any:
        """(batch, *spatial, channels) to (batch, *places, channels)."""
        return pooling.adaptive_avg_pool(x, self.places)


# ----------------------------------------------------------------------------------------------- functions, indices


@dataclass(frozen=True, eq=False)
class Activation(Module):
    """A function without parameters as a layer, e.g. ``Activation(ms.tanh)``."""

    function: Callable[[Any], Any] = static()

    def __call__(self, x: Any) -> Any:
        """function(x)."""
        return self.function(x)


@dataclass(frozen=True, eq=False)
class Flatten(Module):
    """(batch, …) to (batch, product of the rest)."""

    def __call__(self, x: Any) -> Any:
        """(batch, …) to (batch, features)."""
        value = as_value(x, "Flatten")
        return reshape(value, (value.shape[0], value._type.size // max(value.shape[0], 1)))


@dataclass(frozen=True, eq=False)
class Dropout(Module):
    """`ms.dropout`: sets a share `rate` of the elements to 0 when called with a `key`, does nothing without."""

    rate: float = static()
    random = True

    def __call__(self, x: Any, *, key: Any = None) -> Any:
        """`x`, partly 0 and the rest divided by 1 - rate, in the shape and dtype of `x`."""
        return composed.dropout(x, self.rate, key)


@dataclass(frozen=True, eq=False)
class Embedding(Module):
    """Rows of a table. weight: (entries, width)."""

    weight: Any

    @classmethod
    def create(cls, key: Any, entries: int, width: int, *, weight_init: init.Initializer | None = None,
               dtype: Any = float32) -> Embedding:
        """A table of `entries` rows; by default normal with standard deviation 1 / √width."""
        _require_positive("Embedding", entries=entries, width=width)
        shape = (entries, width)
        return cls(init.normal(key, shape, dtype, std=width**-0.5) if weight_init is None else weight_init(key, shape, dtype))

    def __call__(self, indices: Any) -> Any:
        """Integers of any shape, each in [0, entries), to (*shape, width)."""
        return take(self.weight, indices, axis=0)

    def logits(self, x: Any) -> Any:
        """x · weightᵀ: (…, width) to (…, entries), for a model whose output layer shares the table."""
        return matmul(x, matrix_transpose(self.weight))
