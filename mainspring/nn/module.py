"""What a module is: a frozen dataclass whose fields are its parameters, so a model is a tree.

Calling a module computes: ``y = module(x)``. It changes nothing, and a layer that draws random numbers (`Dropout`) does so
only when it is given a `key`. For training there is one more method, which every module has:

    y, module = module.forward(x, training=True, key=key)

It gives the output and the module itself with its buffers brought up to date (`BatchNorm`'s running statistics); a module
without buffers comes back unchanged. So a training step stays a pure function: the new model is part of what the loss
returns beside its value (``has_aux=True``).

To write a module without buffers, define ``__call__(self, x)``; if it draws random numbers, ``random = True`` and
``__call__(self, x, *, key=None)``. To write one that holds modules with buffers, derive from `Stateful` and define `forward`
instead:

    @dataclass(frozen=True, eq=False)
    class Residual(nn.Stateful):
        conv: nn.Conv2d
        norm: nn.BatchNorm

        def forward(self, x, *, training=False, key=None):
            h, norm = self.norm.forward(self.conv(x), training=training)
            return nn.relu(x + h), replace(self, norm=norm)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from mainspring.autodiff.reverse import is_float
from mainspring.base import tree
from mainspring.ops.random import split


def _undefined(self: Module, *args: Any, **keywords: Any) -> Any:
    raise NotImplementedError(f"{type(self).__name__} defines neither __call__ nor forward")


class Module:
    """The base of all modules; derive frozen dataclasses with ``eq=False`` from it."""

    random: ClassVar[bool] = False  # whether __call__ takes `key`
    __call__: Callable[..., Any] = _undefined  # the output for an input; each module has its own arguments

    def forward(self, x: Any, *, training: bool = False, key: Any = None) -> tuple[Any, Any]:
        """``(y, module)``: the output, and this module with its buffers brought up to date when `training`."""
        return (self(x, key=key if training else None) if self.random else self(x)), self


class Stateful(Module):
    """The base of modules with buffers, of their own or in a field: they define `forward`, and a call evaluates."""

    def __call__(self, x: Any) -> Any:
        """The output for `x` in evaluation."""
        return self.forward(x)[0]

    def forward(self, x: Any, *, training: bool = False, key: Any = None) -> tuple[Any, Any]:
        raise NotImplementedError(f"{type(self).__name__} does not define forward")


def keys_for(key: Any, count: int) -> list[Any]:
    """`count` keys split from `key`; Nones for None."""
    return [None] * count if key is None else list(split(key, count))


def trainable(model: Any) -> Any:
    """`model` with None in place of the leaves that are no floats and of those in buffers: what an optimizer changes."""
    leaves, treedef = tree.flatten(model)
    chosen = zip(leaves, tree.trained(treedef), strict=True)
    return tree.unflatten(treedef, [leaf if outside and is_float(leaf) else None for leaf, outside in chosen])


def count_parameters(model: Any) -> int:
    """Number of trainable elements of `model`."""
    return sum(leaf._type.size for leaf in tree.leaves(trainable(model)))
