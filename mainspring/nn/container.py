"""Modules in a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mainspring.nn.layers import Activation
from mainspring.nn.module import Module, Stateful, keys_for


@dataclass(frozen=True, eq=False)
class Sequential(Stateful):
    """Each layer applied to the output of the one before."""

    layers: tuple[Module, ...]

    @classmethod
    def create(cls, *layers: Module | Callable[[Any], Any]) -> Sequential:
        """The layers in order; a plain function becomes an `Activation`."""
        return cls(tuple(layer if isinstance(layer, Module) else Activation(layer) for layer in layers))

    def forward(self, x: Any, *, training: bool = False, key: Any = None) -> tuple[Any, Sequential]:
        """``(y, module)``; each layer gets a key of its own."""
        layers = []
        for layer, own in zip(self.layers, keys_for(key, len(self.layers)), strict=True):
            x, layer = layer.forward(x, training=training, key=own)
            layers.append(layer)
        return x, replace(self, layers=tuple(layers))
