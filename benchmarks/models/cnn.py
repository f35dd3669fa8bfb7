"""A residual network: a 3×3 stem, one block of two 3×3 convolutions a stage, each stage at half the size of the one before.

Images are 32×32×3 and channels-last here; a peer whose own layout is channels-first gets its operands in that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

CLASSES, EPS, MOMENTUM = 10, 1e-5, 0.1
Weights = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How large it is."""

    channels: tuple[int, ...] = (32, 64, 128)
    batch: int = 32
    side: int = 32

    @property
    def name(self) -> str:
        return f"{'-'.join(map(str, self.channels))} channels, {self.side}x{self.side}x3, batch {self.batch}"

    def stages(self) -> list[tuple[int, int, int, int]]:
        """(channels in, channels out, stride, side of the result) of each."""
        befores = (self.channels[0], *self.channels)
        return [(a, b, 2 if i else 1, self.side >> i) for i, (a, b) in enumerate(zip(befores, self.channels, strict=False))]

    def forward_operations(self) -> float:
        """Of one pass over the batch, convolutions only."""
        total = 2 * 9 * 3 * self.channels[0] * self.side**2
        for a, b, _, side in self.stages():
            total += 2 * side**2 * b * (9 * (a + b) + (a if a != b else 0))
        return float(total * self.batch)

    def step_operations(self) -> float:
        """Of one training step: the stem needs no gradient of the images."""
        return 3 * self.forward_operations() - 2.0 * 9 * 3 * self.channels[0] * self.side**2 * self.batch


def weights(size: Size) -> Weights:
    """Convolutions (*window, in, out); norms begin at 1 and 0."""
    generator = np.random.default_rng(0)

    def conv(window: int, a: int, b: int) -> np.ndarray:
        return generator.standard_normal((window, window, a, b), np.float32) * np.float32((2 / (window**2 * a)) ** 0.5)

    blocks = [{"conv1": conv(3, a, b), "conv2": conv(3, b, b), **({"short": conv(1, a, b)} if a != b else {}), "stride": stride}
              for a, b, stride, _ in size.stages()]
    last = size.channels[-1]
    head = generator.standard_normal((last, CLASSES), np.float32) * np.float32(last**-0.5)
    return {"stem": conv(3, 3, size.channels[0]), "blocks": blocks, "head": head, "bias": np.zeros(CLASSES, np.float32)}


def batch(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Images (batch, side, side, 3) and their classes."""
    generator = np.random.default_rng(1)
    images = generator.standard_normal((size.batch, size.side, size.side, 3), np.float32)
    return images, generator.integers(0, CLASSES, size.batch)


# ------------------------------------------------------------------------------------------------------- mainspring


def mainspring(size: Size) -> Any:
    """The network in Mainspring."""
    import mainspring as ms
    from mainspring import nn

    @dataclass(frozen=True, eq=False)
    class Normed(nn.Stateful):
        conv: nn.Conv2d
        norm: nn.BatchNorm

        def forward(self, x: Any, *, training: bool = False, key: Any = None) -> Any:
            y, norm = self.norm.forward(self.conv(x), training=training)
            return y, replace(self, norm=norm)

    @dataclass(frozen=True, eq=False)
    class Block(nn.Stateful):
        first: Normed
        second: Normed
        short: Normed | None

        def forward(self, x: Any, *, training: bool = False, key: Any = None) -> Any:
            h, first = self.first.forward(x, training=training)
            h, second = self.second.forward(nn.relu(h), training=training)
            across, short = (x, None) if self.short is None else self.short.forward(x, training=training)
            return nn.relu(h + across), Block(first, second, short)

    @dataclass(frozen=True, eq=False)
    class Net(nn.Stateful):
        stem: Normed
        blocks: tuple[Block, ...]
        head: nn.Linear

        def forward(self, x: Any, *, training: bool = False, key: Any = None) -> Any:
            x, stem = self.stem.forward(x, training=training)
            x, blocks = nn.relu(x), []
            for block in self.blocks:
                x, block = block.forward(x, training=training)
                blocks.append(block)
            return self.head(ms.global_avg_pool(x)), replace(self, stem=stem, blocks=tuple(blocks))

    def normed(w: np.ndarray, stride: int = 1) -> Normed:
        return Normed(nn.Conv2d(ms.asarray(w), None, stride, w.shape[0] // 2), nn.BatchNorm.create(w.shape[3]))

    def block(w: Weights) -> Block:
        short = normed(w["short"], w["stride"]) if "short" in w else None
        return Block(normed(w["conv1"], w["stride"]), normed(w["conv2"]), short)

    w = weights(size)
    head = nn.Linear(ms.asarray(w["head"]), ms.asarray(w["bias"]))
    return Net(normed(w["stem"]), tuple(block(b) for b in w["blocks"]), head)


# ------------------------------------------------------------------------------------------------------------ torch


def torch(size: Size) -> Any:
    """The network in PyTorch, in its channels-last memory format, which is the faster one on processors."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Block(nn.Module):
        def __init__(self, w: Weights) -> None:
            super().__init__()
            self.first, self.second = normed(w["conv1"], w["stride"]), normed(w["conv2"])
            self.short = normed(w["short"], w["stride"]) if "short" in w else nn.Identity()

        def forward(self, x: Any) -> Any:
            return F.relu(self.second(F.relu(self.first(x))) + self.short(x))

    def normed(w: np.ndarray, stride: int = 1) -> nn.Sequential:
        conv = nn.Conv2d(w.shape[2], w.shape[3], w.shape[0], stride, w.shape[0] // 2, bias=False)
        conv.weight.data = torch.from_numpy(channels_first(w))
        return nn.Sequential(conv, nn.BatchNorm2d(w.shape[3], EPS, MOMENTUM))

    w = weights(size)
    head = nn.Linear(*w["head"].shape)
    head.weight.data = torch.from_numpy(w["head"].T.copy())
    head.bias.data = torch.from_numpy(w["bias"])
    blocks = [Block(b) for b in w["blocks"]]
    net = nn.Sequential(normed(w["stem"]), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    return net.to(memory_format=torch.channels_last)


def torch_images(size: Size) -> Any:
    """The images for `torch`."""
    import torch

    return torch.from_numpy(batch(size)[0]).permute(0, 3, 1, 2)


def channels_first(w: np.ndarray) -> np.ndarray:
    """(*window, in, out) as (out, in, *window)."""
    return np.ascontiguousarray(w.transpose(3, 2, 0, 1))


# -------------------------------------------------------------------------------------------------------------- jax


def jax_parameters(size: Size) -> tuple[Weights, Weights]:
    """Parameters and running statistics, trees for `jax_forward`."""
    w = weights(size)

    def norm(conv: np.ndarray) -> Weights:
        return {"conv": conv, "weight": np.ones(conv.shape[3], np.float32), "bias": np.zeros(conv.shape[3], np.float32)}

    def running(conv: np.ndarray) -> Weights:
        return {"mean": np.zeros(conv.shape[3], np.float32), "var": np.ones(conv.shape[3], np.float32)}

    trees = []
    for make in (norm, running):
        blocks = [{name: make(b[name]) for name in ("conv1", "conv2", "short") if name in b} for b in w["blocks"]]
        trees.append({"stem": make(w["stem"]), "blocks": blocks})
    return {**trees[0], "head": w["head"], "bias": w["bias"]}, trees[1]


def jax_forward(w: Weights, statistics: Weights, x: Any, training: bool) -> tuple[Any, Weights]:
    """Scores and the new running statistics, in JAX."""
    import jax

    def normed(w: Weights, s: Weights, x: Any, stride: int = 1) -> tuple[Any, Weights]:
        pad, dims = w["conv"].shape[0] // 2, ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, w["conv"], (stride, stride), [(pad, pad)] * 2, dimension_numbers=dims)
        if training:
            mean, var, count = y.mean((0, 1, 2)), y.var((0, 1, 2)), y.size // y.shape[-1]
            fresh = {"mean": mean, "var": var * count / (count - 1)}
            s = jax.tree.map(lambda old, new: (1 - MOMENTUM) * old + MOMENTUM * new, s, jax.lax.stop_gradient(fresh))
        else:
            mean, var = s["mean"], s["var"]
        return (y - mean) * (jax.lax.rsqrt(var + EPS) * w["weight"]) + w["bias"], s

    x, stem = normed(w["stem"], statistics["stem"], x)
    x, blocks = jax.nn.relu(x), []
    for number, (b, s) in enumerate(zip(w["blocks"], statistics["blocks"], strict=True)):
        stride = 2 if number else 1
        h, first = normed(b["conv1"], s["conv1"], x, stride)
        h, second = normed(b["conv2"], s["conv2"], jax.nn.relu(h))
        across, short = normed(b["short"], s["short"], x, stride) if "short" in b else (x, None)
        x = jax.nn.relu(h + across)
        blocks.append({"conv1": first, "conv2": second, **({"short": short} if short else {})})
    return x.mean((1, 2)) @ w["head"] + w["bias"], {"stem": stem, "blocks": blocks}


# ------------------------------------------------------------------------------------------------------------- onnx


def onnx(size: Size) -> Any:
    """A session of ONNX Runtime that maps images (channels first) ``x`` to scores, in evaluation."""
    from benchmarks.models.onnx import Builder

    graph, w = Builder(), weights(size)

    def normed(w: np.ndarray, x: str, stride: int = 1) -> str:
        pad, one = w.shape[0] // 2, np.ones(w.shape[3], np.float32)
        y = graph.node("Conv", x, graph.constant(channels_first(w)), pads=[pad] * 4, strides=[stride] * 2)
        scale, shift, mean, var = (graph.constant(value) for value in (one, 0 * one, 0 * one, one))
        return graph.node("BatchNormalization", y, scale, shift, mean, var, epsilon=EPS)

    x = graph.input("x", np.float32, (size.batch, 3, size.side, size.side))
    x = graph.node("Relu", normed(w["stem"], x))
    for b in w["blocks"]:
        h = graph.node("Relu", normed(b["conv1"], x, b["stride"]))
        across = normed(b["short"], x, b["stride"]) if "short" in b else x
        x = graph.node("Relu", graph.node("Add", normed(b["conv2"], h), across))
    pooled = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    graph.output(graph.node("Gemm", pooled, graph.constant(w["head"]), graph.constant(w["bias"])), (size.batch, CLASSES))
    return graph.runner()
