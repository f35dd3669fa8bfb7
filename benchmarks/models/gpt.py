"""A GPT-2 of any size, without biases in its products and with an output layer that shares the embedding's table.

Shape legend: B batch, L positions, C width, H heads, V symbols.
"""

from __future__ import annotations

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


def torch_decode(model: Any, tokens: Any, caches: list[tuple[Any, Any]], place: int) -> Any:
    """Scores of the last of `tokens` (B, L), which lie at `place` and behind; the caches (B, H, S, C / H) get them, too."""
    import torch.nn.functional as F

    end = place + tokens.shape[1]
    x = model.embedding(tokens) + model.position[place:end]
    for block, (keys, values) in zip(model.blocks, caches, strict=True):
        shape = (*x.shape[:2], keys.shape[1], keys.shape[3])
        q, k, v = (part.view(shape).transpose(1, 2) for part in block.qkv(block.norm1(x)).split(x.shape[2], 2))
        keys[:, :, place:end], values[:, :, place:end] = k, v
        y = F.scaled_dot_product_attention(q, keys[:, :, :end], values[:, :, :end], is_causal=place == 0)
        x = x + block.out(y.transpose(1, 2).reshape(x.shape))
        x = x + block.down(F.gelu(block.up(block.norm2(x))))
    return model.norm(x[:, -1]) @ model.embedding.weight.T


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


def jax_decode(w: Weights, tokens: Any, caches: Any, place: Any, heads: int) -> tuple[Any, Any]:
    """Scores of the last of `tokens` (B, L), which lie at `place` and behind; caches (B, S, H, C / H) with them."""
    import jax
    import jax.numpy as jnp

    batch, length = tokens.shape
    capacity = caches[0][0].shape[1]
    positions = place + jnp.arange(length)
    seen = jnp.arange(capacity)[None, :] <= positions[:, None]
    x, grown = w["embedding"][tokens] + w["position"][positions], []
    for b, cache in zip(w["blocks"], caches, strict=True):
        qkv = (_jax_norm(x, b["norm1"]) @ b["qkv"]).reshape(batch, length, 3, heads, -1)
        k, v = (jax.lax.dynamic_update_slice(old, qkv[:, :, 1 + i], (0, place, 0, 0)) for i, old in enumerate(cache))
        y = jax.nn.dot_product_attention(qkv[:, :, 0], k, v, mask=seen[None, None])
        x = x + y.reshape(x.shape) @ b["out"]
        x = x + jax.nn.gelu(_jax_norm(x, b["norm2"]) @ b["up"], approximate=False) @ b["down"]
        grown.append((k, v))
    return _jax_norm(x[:, -1], w["norm"]) @ w["embedding"].T, grown


# ------------------------------------------------------------------------------------------------------------- onnx


class OnnxDecoder:
    """The model in ONNX Runtime, with its own attention, which appends to a cache in place (as its GenAI library has it)."""

    def __init__(self, size: Size):
        import onnxruntime

        self.size, self.session = size, _onnx_graph(size).runner()
        self.scores = self.session.get_outputs()[-1].name
        self.binding = self.session.io_binding()
        shape = (size.batch, size.heads, size.context, size.width // size.heads)
        for layer in range(size.layers):
            for kind in ("k", "v"):
                cache = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
                self.binding.bind_ortvalue_input(f"{kind}{layer}", cache)
                self.binding.bind_ortvalue_output(f"{kind}{layer}_out", cache)

    def decode(self, tokens: np.ndarray, place: int) -> np.ndarray:
        """Scores of the last of `tokens` (B, L), which lie at `place` and behind."""
        end = place + tokens.shape[1]
        feed = {"tokens": tokens, "positions": np.arange(place, end), "last": np.full(self.size.batch, end - 1, np.int32),
                "total": np.array(end, np.int32)}
        for name, value in feed.items():
            self.binding.bind_cpu_input(name, np.ascontiguousarray(value))
        self.binding.bind_output(self.scores)
        self.session.run_with_iobinding(self.binding)
        return self.binding.get_outputs()[-1].numpy()


def _onnx_graph(size: Size) -> Any:
    from benchmarks.models.onnx import Builder

    graph, w, c = Builder(), weights(size), size.width
    tokens, positions = graph.input("tokens", np.int64, ["B", "L"]), graph.input("positions", np.int64, ["L"])
    last, total = graph.input("last", np.int32, ["B"]), graph.input("total", np.int32, [])

    def norm(w: Weights, x: str) -> str:
        return graph.node("LayerNormalization", x, graph.constant(w["weight"]), graph.constant(w["bias"]), epsilon=1e-5)

    def product(x: str, w: np.ndarray) -> str:
        return graph.node("MatMul", x, graph.constant(w))

    cache = ["B", size.heads, size.context, c // size.heads]
    x = graph.node("Add", graph.node("Gather", graph.constant(w["embedding"]), tokens),
                   graph.node("Gather", graph.constant(w["position"]), positions))
    for layer, b in enumerate(w["blocks"]):
        past = [graph.input(f"{kind}{layer}", np.float32, cache) for kind in ("k", "v")]
        parts = graph.node("Split", product(norm(b["norm1"], x), b["qkv"]), outputs=3, axis=-1, num_outputs=3)
        attended, *present = graph.node(
            "GroupQueryAttention", *parts, *past, last, total, names=[f"attended{layer}", f"k{layer}_out", f"v{layer}_out"],
            domain="com.microsoft", num_heads=size.heads, kv_num_heads=size.heads)
        for name in present:
            graph.output(name, cache)
        x = graph.node("Add", x, product(attended, b["out"]))
        x = graph.node("Add", x, product(graph.node("Gelu", product(norm(b["norm2"], x), b["up"])), b["down"]))
    x = graph.node("Gather", norm(w["norm"], x), graph.constant(np.int64(-1)), axis=1)
    graph.output(product(x, w["embedding"].T), ["B", size.symbols])
    return graph
