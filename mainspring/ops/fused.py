"""Fused ops: what the compiler has one kernel for, each with the composition of other ops that it stands for.

`attention` and `attention_gradient`: softmax(q · kᵀ · scale) · v for each head without the matrix of scores in memory. Their
fallbacks say what they mean, to the bit for finite values; gradients of gradients come from them.

Shape legend: B batch, L queries, S keys and values, H query heads, K key heads, G = H / K, D width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mainspring.base.errors import DTypeError, ShapeError
from mainspring.ir.bind import Value, bind
from mainspring.ir.op import Expand, Op, register
from mainspring.ops import reduce
from mainspring.ops.common import pulled_through
from mainspring.ops.composed import wide_dtype
from mainspring.ops.contract import CONTRACT
from mainspring.ops.elementwise import exp, greater, greater_equal, isfinite, where
from mainspring.ops.movement import expand_dims, iota, permute_dims, reshape
from mainspring.types.dtype import float32, float64
from mainspring.types.shape import TensorType

FUSED_DTYPES = (float32, float64)

# ------------------------------------------------------------------------------------------------- pieces of attention


def scores(q: Any, k: Any) -> Any:
    """q · kᵀ for each head: BLHD and BSKD to BHLS, in float32 for 16-bit floats."""
    b, l, h, d = q.shape
    s, heads = k.shape[1:3]
    wide = wide_dtype(q.dtype)
    if h == heads:
        return bind(CONTRACT, q, k, spec="blhd,bshd->bhls", dtype=wide)
    grouped = bind(CONTRACT, reshape(q, (b, l, heads, h // heads, d)), k, spec="blkgd,bskd->bkgls", dtype=wide)
    return reshape(grouped, (b, h, l, s))


def mix(weights: Any, v: Any) -> Any:
    """weights · v for each head: BHLS and BSKD to BLHD, in float32 for 16-bit floats."""
    b, h, l, s = weights.shape
    heads, d = v.shape[2:]
    wide = wide_dtype(v.dtype)
    if h == heads:
        return bind(CONTRACT, weights, v, spec="bhls,bshd->blhd", dtype=wide)
    grouped = bind(CONTRACT, reshape(weights, (b, heads, h // heads, l, s)), v, spec="bkgls,bskd->blkgd", dtype=wide)
    return reshape(grouped, (b, l, h, d))


def _gathered(weights: Any, x: Any, heads: int) -> Any:
    """weightsᵀ · x, summed over queries and then the heads of a group: BHLS and BLHD to BSKD."""
    b, h, l, s = weights.shape
    if h == heads:
        return bind(CONTRACT, x, weights, spec="blhd,bhls->bshd", dtype=x.dtype)
    grouped = reshape(weights, (b, heads, h // heads, l, s))
    return bind(CONTRACT, reshape(x, (b, l, heads, h // heads, x.shape[-1])), grouped, spec="blkgd,bkgls->bskd", dtype=x.dtype)


def raised(score: Any, allowed: Any) -> tuple[Any, Any, Any]:
    """(exp(score - high), high, total) along the last dim, whose extent the latter two have lost.

    Where `allowed` is false an element is 0; for a row without any, high is 0 and the total 1.
    """
    if allowed is None:
        high = reduce.max(score, axis=-1)
        weights = exp(score - expand_dims(high, axis=-1))
        return weights, high, reduce.sum(weights, axis=-1)
    kept = where(allowed, score, -math.inf)
    high = reduce.max(kept, axis=-1)
    high = where(isfinite(high), high, 0.0)
    weights = exp(kept - expand_dims(high, axis=-1))
    total = reduce.sum(weights, axis=-1)
    return weights, high, where(greater(total, 0.0), total, 1.0)


def by_query(x: Any) -> Any:
    """What a head and a query have one number of, BHL, beside BLHD: BLH1."""
    return expand_dims(permute_dims(x, (0, 2, 1)), axis=-1)


def causal_mask(queries: int, keys: int, first: Any) -> Any:
    """(queries, keys): whether key j ≤ i + `first`."""
    return greater_equal(expand_dims(iota(queries), axis=1) + first, iota(keys))


# ---------------------------------------------------------------------------------------------------------- fallbacks


def _mask(q: Any, k: Any, shift: int | None, offset: Sequence[Any]) -> Any:
    if shift is None:
        return None
    return causal_mask(q.shape[1], k.shape[1], offset[0] + shift if offset else shift)


def _composed(q: Any, k: Any, v: Any, *offset: Any, scale: float, shift: int | None) -> tuple[Any, Any, Any]:
    weights, high, total = raised(scores(q, k) * scale, _mask(q, k, shift, offset))
    return mix(weights, v) / by_query(total), high, total


def _composed_gradient(q: Any, k: Any, v: Any, high: Any, total: Any, out: Any, ct: Any, *offset: Any, scale: float,
                       shift: int | None) -> tuple[Any, Any, Any]:
    """Weights are exp(score - high), not yet divided by their total; what is divided is the cotangent of their mean."""
    kept, allowed = scores(q, k) * scale, _mask(q, k, shift, offset)
    if allowed is not None:
        kept = where(allowed, kept, -math.inf)
    weights = exp(kept - expand_dims(high, axis=-1))
    even = ct / by_query(total)
    common = permute_dims(reduce.sum(out * even, axis=-1), (0, 2, 1))
    pulled = weights * (scores(even, v) - expand_dims(common, axis=-1))
    return mix(pulled, k) * scale, _gathered(pulled, q, k.shape[2]) * scale, _gathered(weights, even, k.shape[2])


# ---------------------------------------------------------------------------------------------------------- references


def _by_head(x: np.ndarray, heads: int) -> np.ndarray:
    """BLHD as (B, K, L · G, D)."""
    b, l, h, d = x.shape
    return x.reshape(b, l, heads, h // heads, d).transpose(0, 2, 1, 3, 4).reshape(b, heads, -1, d)


def _by_place(x: np.ndarray, length: int) -> np.ndarray:
    """(B, K, L · G, D) as BLHD: the way back of `_by_head`."""
    b, heads, rows, d = x.shape
    return x.reshape(b, heads, length, rows // length, d).transpose(0, 2, 1, 3, 4).reshape(b, length, -1, d)


def _reference_scores(q: np.ndarray, k: np.ndarray, offset: Sequence[np.ndarray], scale: float,
                      shift: int | None) -> np.ndarray:
    """(B, K, L · G, S), -inf where a query may not look."""
    heads, share = k.shape[2], q.shape[2] // k.shape[2]
    score = _by_head(q, heads) @ k.transpose(0, 2, 3, 1) * k.dtype.type(scale)
    if shift is None:
        return score
    first = shift + (int(offset[0]) if offset else 0)
    place = np.arange(q.shape[1]).repeat(share)[:, None] + first
    return np.where(place >= np.arange(k.shape[1]), score, k.dtype.type(-np.inf))


def _reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, *offset: np.ndarray, scale: float,
               shift: int | None) -> tuple[np.ndarray, ...]:
    l = q.shape[1]
    with np.errstate(all="ignore"):
        score = _reference_scores(q, k, offset, scale, shift)
        high = score.max(-1, keepdims=True)
        if shift is not None:
            high = np.where(np.isfinite(high), high, q.dtype.type(0))
        weights = np.exp(score - high)
        total = weights.sum(-1, keepdims=True)
        if shift is not None:
            total = np.where(total > 0, total, q.dtype.type(1))
        out = weights @ v.transpose(0, 2, 1, 3) / total
    return _by_place(out, l), *[_by_place(x, l)[..., 0].transpose(0, 2, 1) for x in (high, total)]


def _reference_gradient(q: np.ndarray, k: np.ndarray, v: np.ndarray, high: np.ndarray, total: np.ndarray, out: np.ndarray,
                        ct: np.ndarray, *offset: np.ndarray, scale: float, shift: int | None) -> tuple[np.ndarray, ...]:
    heads = k.shape[2]
    with np.errstate(all="ignore"):
        score = _reference_scores(q, k, offset, scale, shift)
        weights = np.exp(score - _by_head(high.transpose(0, 2, 1)[..., None], heads))
        even = ct / total.transpose(0, 2, 1)[..., None]
        common = _by_head((out * even).sum(-1, keepdims=True), heads)
        q_rows, even_rows = _by_head(q, heads), _by_head(even, heads)
        pulled = weights * (even_rows @ v.transpose(0, 2, 3, 1) - common)
        dq = _by_place(pulled @ k.transpose(0, 2, 1, 3), q.shape[1]) * q.dtype.type(scale)
        dk, dv = pulled.swapaxes(-1, -2) @ q_rows * q.dtype.type(scale), weights.swapaxes(-1, -2) @ even_rows
    return dq, dk.transpose(0, 2, 1, 3), dv.transpose(0, 2, 1, 3)


# -------------------------------------------------------------------------------------------------------------- records


def fits(q: TensorType, k: TensorType, v: TensorType) -> bool:
    """Whether the fused op takes operands of these types."""
    four = len(q.shape) == len(k.shape) == len(v.shape) == 4
    return (four and q.dtype in FUSED_DTYPES and q.dtype is k.dtype is v.dtype and 0 not in (*q.shape, *k.shape, *v.shape)
            and q.shape[::3] == k.shape[::3] and k.shape[:3] == v.shape[:3] and q.shape[2] % k.shape[2] == 0)


def _checked(name: str, q: TensorType, k: TensorType, v: TensorType, offset: Sequence[TensorType]) -> None:
    if not fits(q, k, v):
        raise ShapeError(name, "q, k, v", "must be (batch, queries, heads, width) and twice (batch, keys, key heads, width) of "
                         "float32 or float64, no extent 0, key heads dividing heads", f"{q}, {k}, {v}",
                         "ms.attention(ms.ones((2, 5, 4, 8)), ms.ones((2, 7, 2, 8)), ms.ones((2, 7, 2, 8)))")
    for type_ in offset:
        if type_.shape or type_.dtype.kind != "int":
            raise DTypeError(name, "offset", "must be a 0-d integer", str(type_),
                             "ms.attention(q, k, v, causal=True, offset=3)")


def _infer(q: TensorType, k: TensorType, v: TensorType, *offset: TensorType, scale: float,
           shift: int | None) -> tuple[TensorType, ...]:
    _checked("attention", q, k, v, offset)
    b, l, h, _ = q.shape
    row = TensorType((b, h, l), q.dtype)
    return TensorType((b, l, h, v.shape[-1]), q.dtype), row, row


def _infer_gradient(q: TensorType, k: TensorType, v: TensorType, high: TensorType, total: TensorType, out: TensorType,
                    ct: TensorType, *offset: TensorType, scale: float, shift: int | None) -> tuple[TensorType, ...]:
    wanted = _infer(q, k, v, *offset, scale=scale, shift=shift)
    if (out, high, total) != wanted or ct != out:
        raise ShapeError("attention_gradient", "high, total, out, ct",
                         f"must have the types {wanted} of the results of attention", f"{high}, {total}, {out}, {ct}")
    return q, k, v


def _vjp(cts: Sequence[Value | None], outs: Sequence[Value], *inputs: Value, **static: Any) -> tuple[Value | None, ...]:
    if cts[0] is None or cts[1] is not None or cts[2] is not None:  # the row statistics matter to gradients of gradients only
        return pulled_through(_composed, cts, inputs, static)
    q, k, v, *offset = inputs
    out, high, total = outs
    pulled = bind(ATTENTION_GRADIENT, q, k, v, high, total, out, cts[0], *offset, **static)
    return (*pulled, *[None] * len(offset))


ATTENTION = register(
    Op(
        "attention",
        _infer,
        _reference,
        Expand(_composed),
        _vjp,
        "(out, high, total): Σ exp(q · kᵀ · scale - high) · v / total for each head of `q` (B, L, H, D), `k` and `v` "
        "(B, S, K, D), with the greatest score and the sum of the exponentials of each query (B, H, L). Query i sees the keys "
        "j ≤ i + shift, + offset where given; every key with shift None.",
    )
)

ATTENTION_GRADIENT = register(
    Op(
        "attention_gradient",
        _infer_gradient,
        _reference_gradient,
        Expand(_composed_gradient),
        lambda cts, outs, *inputs, **static: pulled_through(_composed_gradient, cts, inputs, static),
        "The cotangents of q, k and v from that of `out`, given the results of `attention`.",
    )
)
