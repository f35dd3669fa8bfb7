"""Normalization layers. All compute in float32 for 16-bit inputs and give the dtype of the input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mainspring.base.errors import ShapeError
from mainspring.base.tree import buffer, static
from mainspring.interpret.eager import as_value
from mainspring.nn import init
from mainspring.nn.module import Module, Stateful
from mainspring.ops import composed
from mainspring.ops.common import cast_to
from mainspring.ops.elementwise import stop_gradient
from mainspring.types.dtype import as_dtype, float32


def _require_channels(where: str, x: Any, channels: int) -> Any:
    value = as_value(x, where)
    if value.ndim < 2 or value.shape[-1] != channels:
        raise ShapeError(where, "x", f"must have {channels} channels in its last dim", str(value.shape))
    return value


@dataclass(frozen=True, eq=False)
class LayerNorm(Module):
    """`ms.layer_norm` over the last dim. weight: (size,); bias: (size,) or None."""

    weight: Any
    bias: Any = None
    eps: float = static(default=1e-5)

    @classmethod
    def create(cls, size: int, *, bias: bool = True, eps: float = 1e-5, dtype: Any = float32) -> LayerNorm:
        """Weights 1 and biases 0 for `size` features."""
        return cls(init.ones(None, (size,), dtype), init.zeros(None, (size,), dtype) if bias else None, eps)

    def __call__(self, x: Any) -> Any:
        """(…, size) to (…, size)."""
        return composed.layer_norm(x, self.weight, self.bias, eps=self.eps)


@dataclass(frozen=True, eq=False)
class RMSNorm(Module):
    """`ms.rms_norm` over the last dim. weight: (size,)."""

    weight: Any
    eps: float = static(default=1e-6)

    @classmethod
    def create(cls, size: int, *, eps: float = 1e-6, dtype: Any = float32) -> RMSNorm:
        """Weights 1 for `size` features."""
        return cls(init.ones(None, (size,), dtype), eps)

    def __call__(self, x: Any) -> Any:
        """(…, size) to (…, size)."""
        return composed.rms_norm(x, self.weight, eps=self.eps)


@dataclass(frozen=True, eq=False)
class GroupNorm(Module):
    """`ms.group_norm` of (batch, *spatial, channels). weight, bias: (channels,)."""

    weight: Any
    bias: Any
    groups: int = static()
    eps: float = static(default=1e-5)

    @classmethod
    def create(cls, channels: int, groups: int, *, eps: float = 1e-5, dtype: Any = float32) -> GroupNorm:
        """Weights 1 and biases 0; `groups` divides `channels`."""
        if groups < 1 or channels % groups:
            raise ShapeError("GroupNorm", "groups", "must divide the channels", f"{groups} for {channels}",
                             "nn.GroupNorm.create(32, 8)")
        return cls(init.ones(None, (channels,), dtype), init.zeros(None, (channels,), dtype), groups, eps)

    def __call__(self, x: Any) -> Any:
        """(batch, *spatial, channels) to the same."""
        value = _require_channels("GroupNorm", x, self.weight.shape[0])
        return composed.group_norm(value, self.groups, self.weight, self.bias, eps=self.eps)


@dataclass(frozen=True, eq=False)
class BatchNorm(Stateful):
    """`ms.batch_norm` of (batch, *spatial, channels): batch statistics in training, running ones in evaluation.

    Fields: weight, bias (channels,); the buffers mean and var (channels,), at least float32. ``forward(x, training=True)``
    gives the module with mean ← (1 - momentum) · mean + momentum · batch mean, and var likewise from the unbiased variance,
    as in PyTorch.
    """

    weight: Any
    bias: Any
    mean: Any = buffer()
    var: Any = buffer()
    momentum: float = static(default=0.1)
    eps: float = static(default=1e-5)

    @classmethod
    def create(cls, channels: int, *, momentum: float = 0.1, eps: float = 1e-5, dtype: Any = float32) -> BatchNorm:
        """Weights 1, biases 0, running mean 0 and variance 1."""
        one, zero = init.ones(None, (channels,), dtype), init.zeros(None, (channels,), dtype)
        wide = composed.wide_dtype(as_dtype(dtype))
        return cls(one, zero, cast_to(zero, wide), cast_to(one, wide), momentum, eps)

    def forward(self, x: Any, *, training: bool = False, key: Any = None) -> tuple[Any, BatchNorm]:
        """``(y, module)``; see the class."""
        value = _require_channels("BatchNorm", x, self.weight.shape[0])
        if not training:
            return composed.batch_norm(value, self.mean, self.var, self.weight, self.bias, eps=self.eps), self
        count = value._type.size // value.shape[-1]
        if count < 2:
            raise ShapeError("BatchNorm", "x", "must have more than one value for each channel in training", str(value.shape))
        y, mean, var = composed.batch_normalized(value, self.weight, self.bias, eps=self.eps)
        return y, replace(self, mean=self._running(self.mean, mean, 1.0), var=self._running(self.var, var, count / (count - 1)))

    def _running(self, old: Any, batch: Any, factor: float) -> Any:
        fresh: Any = cast_to(stop_gradient(batch), old.dtype)
        return stop_gradient(old) * (1.0 - self.momentum) + fresh * (factor * self.momentum)
