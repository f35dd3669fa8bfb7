"""Attention: scaled dot products of queries with keys, a softmax, and the mean of values it weighs. And rotary positions.

Shape legend: B batch, L queries, S keys and values, H query heads, K key heads, G = H / K, D width of a head.
Tensors are BLHD and BSKD: what a projection gives, reshaped, without a transpose. Composed of contractions and a softmax; a
fused op may replace `attention` and keep this as its fallback.
"""

from __future__ import annotations

import math
from typing import Any

from mainspring.base.errors import ArgumentError, ShapeError
from mainspring.interpret.eager import as_value
from mainspring.ir.bind import Value, bind
from mainspring.ops.common import cast_to
from mainspring.ops.composed import as_float, dropout, softmax, wide_dtype
from mainspring.ops.contract import CONTRACT
from mainspring.ops.elementwise import cos, exp, greater_equal, logical_and, sin
from mainspring.ops.movement import concat, expand_dims, iota, reshape, slice_axis
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
    allowed = _allowed(q_BLHD.shape[1], k_BSKD.shape[1], causal, offset, mask)
    # scaling the scores, not q, leaves q a plain view of its projection and becomes part of the softmax kernel
    scores_BHLS = _scores(q_BLHD, k_BSKD) * (1.0 / math.sqrt(q_BLHD.shape[-1]) if scale is None else scale)
    for name, extra in (("mask", allowed), ("bias", bias)):
        if extra is not None:
            _check_extra(name, as_value(extra, "attention"), scores_BHLS)
    if bias is not None:
        scores_BHLS = scores_BHLS + cast_to(as_value(bias), scores_BHLS.dtype)
    weights_BHLS = cast_to(softmax(scores_BHLS, where=allowed), v_BSKD.dtype)
    return _mix(dropout(weights_BHLS, dropout_rate, key), v_BSKD)


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
    place_L1, place_S = expand_dims(iota(queries), axis=1) + offset, iota(keys)
    before = greater_equal(place_L1, place_S)
    return before if mask is None else logical_and(before, mask)


def _check_extra(name: str, extra: Value, scores: Value) -> None:
    if broadcast_shapes(extra.shape, scores.shape, where="attention") != scores.shape:
        raise ShapeError("attention", name, "must broadcast to (batch, heads, queries, keys)",
                         f"{extra.shape} for {scores.shape}",
                         f"{name}=ms.reshape({name}, (batch, 1, 1, keys))")


def _scores(q: Any, k: Any) -> Any:
    b, l, h, d = q.shape
    s, heads = k.shape[1:3]
    wide = wide_dtype(q.dtype)
    if h == heads:
        return bind(CONTRACT, q, k, spec="blhd,bshd->bhls", dtype=wide)
    grouped = bind(CONTRACT, reshape(q, (b, l, heads, h // heads, d)), k, spec="blkgd,bskd->bkgls", dtype=wide)
    return reshape(grouped, (b, h, l, s))


def _mix(weights: Any, v: Any) -> Any:
    b, h, l, s = weights.shape
    heads, d = v.shape[2:]
    if h == heads:
        return bind(CONTRACT, weights, v, spec="bhls,bshd->blhd", dtype=v.dtype)
    grouped = bind(CONTRACT, reshape(weights, (b, heads, h // heads, l, s)), v, spec="bkgls,bskd->blkgd", dtype=v.dtype)
    return reshape(grouped, (b, l, h, d))


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
