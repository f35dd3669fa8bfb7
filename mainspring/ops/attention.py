"""Attention: scaled dot products of queries with keys, a softmax, and the mean of values it weighs. And rotary positions.

Shape legend: B batch, L queries, S keys and values, H query heads, K key heads, G = H / K, D width of a head.
Tensors are BLHD and BSKD: what a projection gives, reshaped, without a transpose. Plain and causal attention is one op
(`ops/fused.py`), whose fallback is the composition written here; masks, biases, dropout and 16-bit floats use the composition.
"""

from __future__ import annotations

import math
from typing import Any

from mainspring.base.errors import ArgumentError, ShapeError
from mainspring.interpret.eager import as_value
from mainspring.ir.bind import Value, bind
from mainspring.ops.common import cast_to
from mainspring.ops.composed import as_float, dropout, wide_dtype
from mainspring.ops.elementwise import cos, exp, logical_and, sin
from mainspring.ops.fused import ATTENTION, by_query, causal_mask, fits, mix, raised, scores
from mainspring.ops.movement import concat, expand_dims, iota, slice_axis
from mainspring.types.dtype import DEFAULT_FLOAT, promote
from mainspring.types.shape import broadcast_shapes


def attention(q: Any, k: Any, v: Any, /, *, causal: bool = False, offset: Any = 0, mask: Any = None, bias: Any = None,
              scale: float | None = None, dropout_rate: float = 0.0, key: Any = None) -> Any:
    """softmax(q · kᵀ · scale + bias) · v for each head (Vaswani et al., 2017, equation 1).

    Scores and softmax are computed in float32 for 16-bit floats. A query that may attend to nothing gives zeros.

    Args:
        q: (batch, queries, heads, width).
        k: (batch, keys, key heads, width); key heads must divide heads, each serves heads / key heads of them in a row
            (grouped-query attention; one key head is multi-query attention).
        v: (batch, keys, key heads, any width).
        causal: query i attends to the keys 0 … i + offset. offset: an int or a 0-d integer tensor.
        mask: bool, broadcastable to (batch, heads, queries, keys): true where a query may attend.
        bias: float, broadcastable likewise: added to the scaled scores.
        scale: 1 / √width by default.
        dropout_rate: share of the attention weights set to 0 (the others grow to match), drawn from `key`; without `key`, none.

    Returns: (batch, queries, heads, width of v) in the dtype of q.
    Raises: ShapeError for shapes that do not fit; ArgumentError for a bad `dropout_rate`.
    """
    q_BLHD, k_BSKD, v_BSKD = _operands(q, k, v)
    scale = 1.0 / math.sqrt(q_BLHD.shape[-1]) if scale is None else float(scale)
    kept = dropout_rate == 0.0 or (key is None and 0.0 < dropout_rate <= 1.0)
    if mask is None and bias is None and kept and fits(q_BLHD._type, k_BSKD._type, v_BSKD._type):
        return _fused(q_BLHD, k_BSKD, v_BSKD, scale, causal, offset)
    allowed = _allowed(q_BLHD.shape[1], k_BSKD.shape[1], causal, offset, mask)
    # scaling the scores, not q, leaves q a plain view of its projection and becomes part of the softmax kernel
    scores_BHLS = scores(q_BLHD, k_BSKD) * scale
    for name, extra in (("mask", allowed), ("bias", bias)):
        if extra is not None:
            _check_extra(name, as_value(extra, "attention"), scores_BHLS)
    if bias is not None:
        scores_BHLS = scores_BHLS + cast_to(as_value(bias), scores_BHLS.dtype)
    if not scores_BHLS.size:
        return cast_to(mix(cast_to(scores_BHLS, v_BSKD.dtype), v_BSKD), q_BLHD.dtype)
    weights_BHLS, _, total_BHL = raised(scores_BHLS, allowed)
    weights_BHLS = dropout(cast_to(weights_BHLS, v_BSKD.dtype), dropout_rate, key)
    return cast_to(mix(weights_BHLS, v_BSKD) / by_query(total_BHL), q_BLHD.dtype)


def _fused(q: Any, k: Any, v: Any, scale: float, causal: bool, offset: Any) -> Any:
    moves = causal and not isinstance(offset, int)
    operands = (as_value(offset, "attention"),) if moves else ()
    return bind(ATTENTION, q, k, v, *operands, scale=scale, shift=(0 if moves else offset) if causal else None)[0]


def _operands(q: Any, k: Any, v: Any) -> tuple[Any, Any, Any]:
    values = [as_float(x, "attention") for x in (q, k, v)]
    common = promote(*[x.dtype for x in values], where="attention")
    a, b, c = (cast_to(x, common) for x in values)
    four = a.ndim == b.ndim == c.ndim == 4
    if not four or a.shape[::3] != b.shape[::3] or b.shape[:3] != c.shape[:3] or not b.shape[2] or a.shape[2] % b.shape[2]:
        raise ShapeError("attention", "q, k, v",
                         "must be (batch, queries, heads, width) and twice (batch, keys, key heads, width), "
                         "key heads dividing heads", f"{a.shape}, {b.shape}, {c.shape}",
                         "ms.attention(ms.ones((2, 5, 4, 8)), ms.ones((2, 7, 2, 8)), ms.ones((2, 7, 2, 8)))")
    return a, b, c


def _allowed(queries: int, keys: int, causal: bool, offset: Any, mask: Any) -> Any:
    """Where attention is allowed, or None for everywhere."""
    if mask is not None and as_value(mask).dtype.kind != "bool":
        raise ArgumentError("attention", "mask", "must be bool; add numbers with `bias`", as_value(mask).dtype.name,
                            "mask=scores > 0")
    if not causal:
        return mask
    before = causal_mask(queries, keys, offset)
    return before if mask is None else logical_and(before, mask)


def _check_extra(name: str, extra: Value, scores: Value) -> None:
    if broadcast_shapes(extra.shape, scores.shape, where="attention") != scores.shape:
        raise ShapeError("attention", name, "must broadcast to (batch, heads, queries, keys)",
                         f"{extra.shape} for {scores.shape}",
                         f"{name}=ms.reshape({name}, (batch, 1, 1, keys))")


def rotary(x: Any, /, positions: Any = None, *, base: float = 10000.0) -> Any:
    """`x` with each head's pairs of elements turned by an angle that grows with position (RoPE, Su et al., 2021).

    Element i of the first half is paired with element i of the second (as in GPT-NeoX and Llama), and turned by
    position · base^(-2i / width). Products of two turned vectors depend on the difference of their positions alone.

    Args:
        x: (batch, length, heads, width), width even.
        positions: (length,) or (batch, length) integers; 0, 1, … by default.
    """
    value = as_float(x, "rotary")
    if value.ndim != 4 or value.shape[-1] % 2:
        raise ShapeError("rotary", "x", "must be (batch, length, heads, even width)", str(value.shape),
                         "ms.rotary(ms.ones((1, 5, 2, 8)))")
    half = value.shape[-1] // 2
    wide = wide_dtype(value.dtype)
    place = iota(value.shape[1]) if positions is None else as_value(positions, "rotary")
    rate = exp(cast_to(iota(half), DEFAULT_FLOAT if wide.bits < 64 else wide) * (-math.log(base) / half))
    angle = expand_dims(cast_to(place, wide), axis=(-2, -1)) * rate  # (…, length, 1, half)
    c, s = cos(angle), sin(angle)
    a, b = (cast_to(slice_axis(value, 3, start, start + half), wide) for start in (0, half))
    return cast_to(concat([a * c - b * s, b * c + a * s], axis=-1), value.dtype)
