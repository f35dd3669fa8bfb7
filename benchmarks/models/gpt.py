"""A GPT-2 of any size, without biases in its products and with an output layer that shares the embedding's table.

Shape legend: B batch, L positions, C width, H heads, V symbols.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Weights = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How large it is."""

    layers: int = 4
    width: int = 256
    heads: int = 4
    context: int = 128
    batch: int = 8
    symbols: int = 65

    @property
    def name(self) -> str:
        """In the words of a table."""
        return f"{self.layers} layers, width {self.width}, {self.heads} heads, context {self.context}, batch {self.batch}"

    def forward_operations(self) -> float:
        """Of one pass over the batch: products, and the half of the scores that a causal model needs."""
        tokens = self.batch * self.context
        products = 2 * tokens * self.width * (12 * self.layers * self.width + self.symbols)
        return products + 2.0 * self.layers * tokens * self.context * self.width

    def step_operations(self) -> float:
        """Of one training step."""
        return 3 * self.forward_operations()


def weights(size: Size) -> Weights:
    """Tables, and a list of blocks; matrices are [in, out]."""
    generator, c = np.random.default_rng(0), size.width

    def matrix(rows: int, columns: int, std: float = 0.02) -> np.ndarray:
        return (generator.standard_normal((rows, columns), np.float32) * std).astype(np.float32)

    def norm() -> dict[str, np.ndarray]:
        return {"weight": np.ones(c, np.float32), "bias": np.zeros(c, np.float32)}

    small = 0.02 * (2 * size.layers) ** -0.5
    blocks = [{"norm1": norm(), "qkv": matrix(c, 3 * c), "out": matrix(c, c, small), "norm2": norm(), "up": matrix(c, 4 * c),
               "down": matrix(4 * c, c, small)} for _ in range(size.layers)]
    return {"embedding": matrix(size.symbols, c), "position": matrix(size.context, c), "blocks": blocks, "norm": norm()}


def tokens(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets (B, L)."""
    generator = np.random.default_rng(1)
    drawn = generator.integers(0, size.symbols, (size.batch, size.context + 1))
    return drawn[:, :-1].copy(), drawn[:, 1:].copy()


# ------------------------------------------------------------------------------------------------------- mainspring


def mainspring(size: Size, dtype: Any = None) -> Any:
    """The model in Mainspring; its tensors are float32 unless `dtype` says otherwise."""
    import mainspring as ms
    from mainspring import nn

    kind = dtype or ms.float32

    @dataclass(frozen=True, eq=False)
    class GPT(nn.Module):
        embedding: nn.Embedding
        position: Any
        blocks: tuple[nn.TransformerBlock, ...]
        norm: nn.LayerNorm

        def __call__(self, tokens: Any) -> Any:
            x = self.embedding(tokens) + self.position[: tokens.shape[1]]
            for block in self.blocks:
                x = block(x)
            return self.embedding.logits(self.norm(x))

        def caches(self, batch: int, capacity: int) -> Any:
            return tuple(block.cache(batch, capacity) for block in self.blocks)

        def decode(self, tokens: Any, caches: Any) -> Any:
            """``(scores of the last position, caches)`` for the next tokens."""
            place = ms.arange(tokens.shape[1], dtype=ms.int32) + caches[0].length
            x, grown = self.embedding(tokens) + ms.take(self.position, place, axis=0), []
            for block, cache in zip(self.blocks, caches, strict=True):
                x, cache = block.decode(x, cache)
                grown.append(cache)
            return self.embedding.logits(self.norm(x[:, -1])), tuple(grown)

    def tensor(x: np.ndarray) -> Any:
        return ms.astype(ms.asarray(x), kind)

    def norm(w: Weights) -> nn.LayerNorm:
        return nn.LayerNorm(tensor(w["weight"]), tensor(w["bias"]))

    def block(w: Weights) -> nn.TransformerBlock:
        attention = nn.MultiHeadAttention(nn.Linear(tensor(w["qkv"])), nn.Linear(tensor(w["out"])), size.heads, size.heads,
                                          causal=True)
        fed = nn.FeedForward(nn.Linear(tensor(w["up"])), nn.Linear(tensor(w["down"])))
        return nn.TransformerBlock(norm(w["norm1"]), attention, norm(w["norm2"]), fed)

    w = weights(size)
    return GPT(nn.Embedding(tensor(w["embedding"])), tensor(w["position"]), tuple(block(b) for b in w["blocks"]),
               norm(w["norm"]))


# ------------------------------------------------------------------------------------------------------------ torch


def torch(size: Size) -> Any:
    """The model in PyTorch, with its own fused attention."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    c, heads = size.width, size.heads

    class Block(nn.Module):
        def __init__(self, w: Weights) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)
            self.qkv, self.out, self.up, self.down = (linear(w[name]) for name in ("qkv", "out", "up", "down"))

        def forward(self, x: Any) -> Any:
            shape = (x.shape[0], x.shape[1], heads, c // heads)
            q, k, v = (part.view(shape).transpose(1, 2) for part in self.qkv(self.norm1(x)).split(c, 2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(x.shape))
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    class GPT(nn.Module):
        def __init__(self, w: Weights) -> None:
            super().__init__()
            self.embedding = nn.Embedding.from_pretrained(torch.from_numpy(w["embedding"]), freeze=False)
            self.position = nn.Parameter(torch.from_numpy(w["position"]))
            self.blocks, self.norm = nn.Sequential(*[Block(b) for b in w["blocks"]]), nn.LayerNorm(c)

        def forward(self, tokens: Any) -> Any:
            x = self.blocks(self.embedding(tokens) + self.position[: tokens.shape[1]])
            return self.norm(x) @ self.embedding.weight.T

    def linear(w: np.ndarray) -> nn.Linear:
        layer = nn.Linear(*w.shape, bias=False)
        layer.weight.data = torch.from_numpy(w.T.copy())
        return layer

    return GPT(weights(size))


# -------------------------------------------------------------------------------------------------------------- jax


def jax_forward(w: Weights, tokens: Any, heads: int) -> Any:
    """Scores (B, L, V) in JAX."""
    import jax

    x = w["embedding"][tokens] + w["position"][: tokens.shape[1]]
    for b in w["blocks"]:
        batch, length, c = x.shape
        qkv = (_jax_norm(x, b["norm1"]) @ b["qkv"]).reshape(batch, length, 3, heads, c // heads)
        y = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], is_causal=True)
        x = x + y.reshape(batch, length, c) @ b["out"]
        x = x + jax.nn.gelu(_jax_norm(x, b["norm2"]) @ b["up"], approximate=False) @ b["down"]
    return _jax_norm(x, w["norm"]) @ w["embedding"].T


def _jax_norm(x: Any, w: Weights) -> Any:
    import jax

    shifted = x - x.mean(-1, keepdims=True)
    return shifted * jax.lax.rsqrt((shifted * shifted).mean(-1, keepdims=True) + 1e-5) * w["weight"] + w["bias"]


def head_scale(size: Size) -> float:
    """1 / √(width of a head)."""
    return 1 / math.sqrt(size.width // size.heads)
