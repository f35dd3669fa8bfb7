"""Attention layers and transformer blocks, with a key-value cache for generation.

Shape legend: B batch, L positions, C width of the model, H query heads, K key heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mainspring.base.errors import ArgumentError, ShapeError
from mainspring.base.tree import static
from mainspring.interpret.eager import as_value
from mainspring.nn import init
from mainspring.nn.layers import Linear
from mainspring.nn.module import Module, keys_for
from mainspring.nn.norm import LayerNorm
from mainspring.ops import composed
from mainspring.ops.attention import attention, rotary
from mainspring.ops.contract import matmul
from mainspring.ops.indexing import dynamic_update_slice
from mainspring.ops.movement import iota, reshape, slice_axis
from mainspring.types.dtype import float32


@dataclass(frozen=True, eq=False)
class KeyValueCache:
    """Keys and values of the positions seen so far, for generation.

    keys, values: (batch, capacity, key heads, head width); length: int32, the number of positions that hold something.
    """

    keys: Any
    values: Any
    length: Any

    @classmethod
    def create(cls, batch: int, capacity: int, kv_heads: int, head_size: int, dtype: Any = float32) -> KeyValueCache:
        """An empty cache for `capacity` positions."""
        shape = (batch, capacity, kv_heads, head_size)
        return cls(init.zeros(None, shape, dtype), init.zeros(None, shape, dtype), as_value(np.int32(0)))

    def append(self, keys: Any, values: Any) -> KeyValueCache:
        """The cache with keys and values (batch, L, key heads, head width) behind what it holds."""
        capacity, added = self.keys.shape[1], keys.shape[1]
        used = 0 if self.length._frame is not None else int(self.length._data)  # a traced length cannot be checked
        if used + added > capacity:
            raise ShapeError("KeyValueCache", "keys", f"the cache has room for {capacity} positions",
                             f"{used} + {added} positions",
                             "model.cache(batch, capacity=1024)")
        start = (0, self.length, 0, 0)
        return KeyValueCache(dynamic_update_slice(self.keys, keys, start), dynamic_update_slice(self.values, values, start),
                             self.length + added)


@dataclass(frozen=True, eq=False)
class MultiHeadAttention(Module):
    """Self-attention (or, with `context`, cross-attention) of several heads (Vaswani et al., 2017).

    Fields: qkv, a Linear of C to (H + 2K) · D whose columns are the queries' heads, then the keys', then the values'; out, a
    Linear of H · D to C. With K < H each key head serves H / K query heads (grouped queries, Ainslie et al., 2023).
    """

    qkv: Linear
    out: Linear
    heads: int = static()
    kv_heads: int = static()
    causal: bool = static(default=False)
    rotary_base: float | None = static(default=None)
    dropout: float = static(default=0.0)
    random = True

    @classmethod
    def create(cls, key: Any, size: int, heads: int, *, kv_heads: int | None = None, head_size: int | None = None,
               causal: bool = False, rotary: bool = False, rotary_base: float = 10000.0, bias: bool = True,
               dropout: float = 0.0, weight_init: init.Initializer = init.lecun_normal,
               out_init: init.Initializer | None = None, dtype: Any = float32) -> MultiHeadAttention:
        """A layer of width `size`.

        Args:
            heads: query heads. kv_heads: key and value heads (`heads` by default), a divisor of `heads`.
            head_size: width of a head, size / heads by default. causal: a position sees itself and those before it.
            rotary: turn queries and keys by their positions. dropout: share of attention weights dropped in training.
            weight_init, out_init: initializers of the two weights (`out_init` is `weight_init` by default).
        """
        kv_heads = heads if kv_heads is None else kv_heads
        if heads < 1 or kv_heads < 1 or heads % kv_heads or (head_size is None and size % heads):
            raise ShapeError("MultiHeadAttention", "heads",
                             "kv_heads must divide heads, and heads the size (or give head_size)",
                             f"size={size}, heads={heads}, kv_heads={kv_heads}",
                             "nn.MultiHeadAttention.create(key, 128, 4, kv_heads=2)")
        width = size // heads if head_size is None else head_size
        first, second = keys_for(key, 2)
        qkv = Linear.create(first, size, (heads + 2 * kv_heads) * width, bias=bias, weight_init=weight_init, dtype=dtype)
        out = Linear.create(second, heads * width, size, bias=bias, weight_init=out_init or weight_init, dtype=dtype)
        return cls(qkv, out, heads, kv_heads, causal, rotary_base if rotary else None, dropout)

    @property
    def head_size(self) -> int:
        """D, the width of a head."""
        return self.out.weight.shape[0] // self.heads

    def __call__(self, x: Any, *, context: Any = None, mask: Any = None, positions: Any = None, key: Any = None) -> Any:
        """(B, L, C) to (B, L, C).

        Args:
            context: (B, S, C), where keys and values come from; `x` by default.
            mask: bool, broadcastable to (B, H, L, S), true where a position may attend.
            positions: (L,) or (B, L) for rotary embedding; 0, 1, … by default. key: turns dropout on.
        """
        if context is None:
            q, k, v = self._projected(x, positions)
        else:
            q, k, v = self._crossed(x, as_value(context, "MultiHeadAttention"), positions)
        return self._merged(attention(q, k, v, causal=self.causal, mask=mask, dropout_rate=self.dropout, key=key))

    def cache(self, batch: int, capacity: int, dtype: Any = float32) -> KeyValueCache:
        """An empty cache for `capacity` positions of `batch` sequences."""
        return KeyValueCache.create(batch, capacity, self.kv_heads, self.head_size, dtype)

    def decode(self, x: Any, cache: KeyValueCache) -> tuple[Any, KeyValueCache]:
        """``(y, cache)``: the output for the next L positions x (B, L, C), which see those in `cache`; the cache with them."""
        if not self.causal:
            raise ArgumentError("decode", "self", "needs a causal layer", "causal=False",
                                "nn.MultiHeadAttention.create(key, 128, 4, causal=True)")
        place = iota(x.shape[1]) + cache.length
        q, k, v = self._projected(x, place)
        grown = cache.append(k, v)
        return self._merged(attention(q, grown.keys, grown.values, causal=True, offset=cache.length)), grown

    def _heads_of(self, projected: Any, start: int, count: int) -> Any:
        """Heads `start` to ``start + count`` of a projection, as (B, L, count, D)."""
        width = self.head_size
        part = slice_axis(projected, 2, start * width, (start + count) * width)
        return reshape(part, (*projected.shape[:2], count, width))

    def _projected(self, x: Any, positions: Any) -> tuple[Any, Any, Any]:
        projected = self.qkv(self._checked(x))
        q, k, v = (self._heads_of(projected, start, count) for start, count in
                   ((0, self.heads), (self.heads, self.kv_heads), (self.heads + self.kv_heads, self.kv_heads)))
        return self._turned(q, positions), self._turned(k, positions), v

    def _crossed(self, x: Any, context: Any, positions: Any) -> tuple[Any, Any, Any]:
        """Queries of `x`, keys and values of `context`: each by its columns of the one weight."""
        cut, end = self.heads * self.head_size, self.qkv.weight.shape[1]

        def columns(of: Any, start: int, stop: int) -> Any:
            y = matmul(self._checked(of), slice_axis(self.qkv.weight, 1, start, stop))
            return y if self.qkv.bias is None else y + slice_axis(self.qkv.bias, 0, start, stop)

        q, kv = self._heads_of(columns(x, 0, cut), 0, self.heads), columns(context, cut, end)
        k, v = self._heads_of(kv, 0, self.kv_heads), self._heads_of(kv, self.kv_heads, self.kv_heads)
        return self._turned(q, positions), self._turned(k, None), v

    def _checked(self, x: Any) -> Any:
        value = as_value(x, "MultiHeadAttention")
        if value.ndim != 3:
            raise ShapeError("MultiHeadAttention", "x", "must be (batch, length, width)", str(value.shape))
        return value

    def _turned(self, x: Any, positions: Any) -> Any:
        return x if self.rotary_base is None else rotary(x, positions, base=self.rotary_base)

    def _merged(self, heads: Any) -> Any:
        return self.out(reshape(heads, (*heads.shape[:2], heads.shape[2] * heads.shape[3])))


@dataclass(frozen=True, eq=False)
class FeedForward(Module):
    """down(activation(up(x))), or down(activation(gate(x)) · up(x)) with a gate (Shazeer, 2020)."""

    up: Linear
    down: Linear
    gate: Linear | None = None
    activation: Callable[[Any], Any] = static(default=composed.gelu)

    @classmethod
    def create(cls, key: Any, size: int, hidden: int, *, gated: bool = False, activation: Callable[[Any], Any] = composed.gelu,
               bias: bool = True, weight_init: init.Initializer = init.lecun_normal, out_init: init.Initializer | None = None,
               dtype: Any = float32) -> FeedForward:
        """From `size` features through `hidden` back to `size`."""
        first, second, third = keys_for(key, 3)
        up = Linear.create(first, size, hidden, bias=bias, weight_init=weight_init, dtype=dtype)
        down = Linear.create(second, hidden, size, bias=bias, weight_init=out_init or weight_init, dtype=dtype)
        gate = Linear.create(third, size, hidden, bias=bias, weight_init=weight_init, dtype=dtype) if gated else None
        return cls(up, down, gate, activation)

    def __call__(self, x: Any) -> Any:
        """(…, size) to (…, size)."""
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))


@dataclass(frozen=True, eq=False)
class TransformerBlock(Module):
    """Pre-norm: x + attention(norm1(x)), then x + feed_forward(norm2(x)) (Xiong et al., 2020). (B, L, C) to (B, L, C)."""

    norm1: Any
    attention: MultiHeadAttention
    norm2: Any
    feed_forward: Module
    dropout: float = static(default=0.0)
    random = True

    @classmethod
    def create(cls, key: Any, size: int, heads: int, *, kv_heads: int | None = None, hidden: int | None = None,
               causal: bool = True,
               rotary: bool = False, norm: Any = LayerNorm, activation: Callable[[Any], Any] = composed.gelu,
               gated: bool = False,
               bias: bool = True, dropout: float = 0.0, weight_init: init.Initializer = init.lecun_normal,
               out_init: init.Initializer | None = None, dtype: Any = float32) -> TransformerBlock:
        """A block of width `size`.

        Args:
            hidden: width of the feed-forward layer, 4 · size by default; `gated` and `activation` as in `FeedForward`.
            norm: the class of the two norms, LayerNorm or RMSNorm.
            dropout: share dropped of attention weights and of each branch before it is added.
            weight_init, out_init: initializers; `out_init` is that of the two weights that lead back into the residual stream.
        """
        first, second = keys_for(key, 2)
        attended = MultiHeadAttention.create(first, size, heads, kv_heads=kv_heads, causal=causal, rotary=rotary, bias=bias,
                                             dropout=dropout,
                                             weight_init=weight_init, out_init=out_init, dtype=dtype)
        fed = FeedForward.create(second, size, 4 * size if hidden is None else hidden, gated=gated, activation=activation,
                                 bias=bias,
                                 weight_init=weight_init, out_init=out_init, dtype=dtype)
        return cls(norm.create(size, dtype=dtype), attended, norm.create(size, dtype=dtype), fed, dropout)

    def __call__(self, x: Any, *, mask: Any = None, positions: Any = None, key: Any = None) -> Any:
        """The output for x (B, L, C); `mask` and `positions` as in `MultiHeadAttention`, `key` turns dropout on."""
        weights, first, second = keys_for(key, 3)
        x = x + composed.dropout(self.attention(self.norm1(x), mask=mask, positions=positions, key=weights), self.dropout,
                                 first)
        return x + composed.dropout(self.feed_forward(self.norm2(x)), self.dropout, second)

    def cache(self, batch: int, capacity: int, dtype: Any = float32) -> KeyValueCache:
        """An empty cache for `decode`."""
        return self.attention.cache(batch, capacity, dtype)

    def decode(self, x: Any, cache: KeyValueCache) -> tuple[Any, KeyValueCache]:
        """``(y, cache)`` for the next positions; see `MultiHeadAttention.decode`."""
        attended, cache = self.attention.decode(self.norm1(x), cache)
        x = x + attended
        return x + self.feed_forward(self.norm2(x)), cache
