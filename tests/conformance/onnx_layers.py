"""Contractions, pools, norms, attention and losses of ONNX written with functions of `mainspring`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from onnx_common import Attributes, Skip, first, fold, last, need

import mainspring as ms


def pads_of(spatial: Any, window: Any, strides: Any, dilations: Any, auto_pad: bytes, pads: Any) -> list[tuple[int, int]]:
    d = len(window)
    if auto_pad in (b"SAME_UPPER", b"SAME_LOWER"):
        found = []
        for n, k, s, e in zip(spatial, window, strides, dilations, strict=True):
            total = max(0, (-(-n // s) - 1) * s + (k - 1) * e + 1 - n)
            small = total // 2
            found.append((small, total - small) if auto_pad == b"SAME_UPPER" else (total - small, small))
        return found
    return [(pads[i], pads[i + d]) for i in range(d)] if pads and auto_pad != b"VALID" else [(0, 0)] * d


def conv(
    x: Any,
    w: Any,
    bias: Any = None,
    strides: Any = None,
    pads: Any = None,
    dilations: Any = None,
    group: int = 1,
    auto_pad: bytes = b"NOTSET",
    kernel_shape: Any = None,
) -> Any:
    d = x.ndim - 2
    strides, dilations = strides or [1] * d, dilations or [1] * d
    padding = pads_of(x.shape[2:], w.shape[2:], strides, dilations, auto_pad, pads)
    y = ms.conv(
        last(x), ms.permute_dims(w, (*range(2, d + 2), 1, 0)), stride=strides, padding=padding, dilation=dilations, groups=group
    )
    return first(y if bias is None else y + bias)


def conv_transpose(
    x: Any,
    w: Any,
    bias: Any = None,
    strides: Any = None,
    pads: Any = None,
    dilations: Any = None,
    group: int = 1,
    output_padding: Any = None,
    output_shape: Any = None,
    auto_pad: bytes = b"NOTSET",
    kernel_shape: Any = None,
) -> Any:
    d = x.ndim - 2
    strides, dilations, extra = strides or [1] * d, dilations or [1] * d, output_padding or [0] * d
    padding = pads_of(x.shape[2:], w.shape[2:], strides, dilations, b"NOTSET", pads)
    if output_shape or auto_pad.startswith(b"SAME"):
        wanted = output_shape[-d:] if output_shape else [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
        padding = []
        for i in range(d):
            total = (x.shape[2 + i] - 1) * strides[i] + extra[i] + (w.shape[2 + i] - 1) * dilations[i] + 1 - wanted[i]
            small = int(total / 2)  # towards zero, also of a negative total
            padding.append((total - small, small) if auto_pad == b"SAME_LOWER" else (small, total - small))
    y = ms.conv_transpose(
        last(x),
        ms.permute_dims(w, (*range(2, d + 2), 1, 0)),
        stride=strides,
        padding=padding,
        output_padding=extra,
        dilation=dilations,
        groups=group,
    )
    return first(y if bias is None else y + bias)


def pool_geometry(x: Any, kernel_shape: Any, strides: Any, pads: Any, dilations: Any, auto_pad: bytes, ceil_mode: int) -> Any:
    d = len(kernel_shape)
    strides, dilations = strides or [1] * d, dilations or [1] * d
    padding = pads_of(x.shape[2:], kernel_shape, strides, dilations, auto_pad, pads)
    if ceil_mode and auto_pad == b"NOTSET":
        for i, (n, k, s, e) in enumerate(zip(x.shape[2:], kernel_shape, strides, dilations, strict=True)):
            low, high = padding[i]
            reach = (k - 1) * e + 1
            places = -(-(n + low + high - reach) // s) + 1
            places -= (places - 1) * s >= n + low
            padding[i] = (low, max(high, (places - 1) * s + reach - n - low))
    return strides, dilations, padding


def max_pool(
    x: Any,
    kernel_shape: Any,
    strides: Any = None,
    pads: Any = None,
    dilations: Any = None,
    auto_pad: bytes = b"NOTSET",
    ceil_mode: int = 0,
    storage_order: int = 0,
    outputs: int = 1,
) -> Any:
    need(outputs == 1, "indices of a pool")
    strides, dilations, padding = pool_geometry(x, kernel_shape, strides, pads, dilations, auto_pad, ceil_mode)
    return first(ms.max_pool(last(x), kernel_shape, stride=strides, padding=padding, dilation=dilations))


def average_pool(
    x: Any,
    kernel_shape: Any,
    strides: Any = None,
    pads: Any = None,
    dilations: Any = None,
    auto_pad: bytes = b"NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
) -> Any:
    need(not (ceil_mode and count_include_pad and pads), "mean over padding in ceil mode")
    strides, dilations, padding = pool_geometry(x, kernel_shape, strides, pads, dilations, auto_pad, ceil_mode)
    include = bool(count_include_pad) and not ceil_mode
    return first(
        ms.avg_pool(last(x), kernel_shape, stride=strides, padding=padding, dilation=dilations, count_include_pad=include)
    )


def lp_pool(
    x: Any,
    kernel_shape: Any,
    p: int = 2,
    strides: Any = None,
    pads: Any = None,
    dilations: Any = None,
    auto_pad: bytes = b"NOTSET",
    ceil_mode: int = 0,
) -> Any:
    strides, dilations, padding = pool_geometry(x, kernel_shape, strides, pads, dilations, auto_pad, ceil_mode)
    mean = ms.avg_pool(last(ms.pow(ms.abs(x), float(p))), kernel_shape, stride=strides, padding=padding, dilation=dilations)
    return first(ms.pow(mean * float(math.prod(kernel_shape)), 1.0 / p))


def gemm(a: Any, b: Any, c: Any = None, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0) -> Any:
    y = ms.matmul(a.T if transA else a, b.T if transB else b)
    y = y if alpha == 1.0 else y * alpha
    return y if c is None else y + (c if beta == 1.0 else c * beta)


def with_zero_points(f: Callable[..., Any], *shapes: tuple[int, ...]) -> Callable[..., Any]:
    """`f` of whole numbers less their zero points, which have `shapes` when they are one a row, column or channel."""

    def call(a: Any, b: Any, za: Any = None, zb: Any = None, **attributes: Any) -> Any:
        wide = [ms.astype(x, ms.int32) for x in (a, b)]
        for i, zero in enumerate((za, zb)):
            if zero is not None:
                wide[i] = wide[i] - ms.astype(ms.reshape(zero, shapes[i]) if zero.size > 1 else ms.reshape(zero, ()), ms.int32)
        return f(*wide, **attributes)

    return call


def batch_norm(
    x: Any, scale: Any, bias: Any, mean: Any, var: Any, epsilon: float = 1e-5, momentum: float = 0.9, training_mode: int = 0
) -> Any:
    if not training_mode:
        return first(ms.batch_norm(last(x), mean, var, scale, bias, eps=epsilon))
    over = tuple(i for i in range(x.ndim) if i != 1)
    return (
        first(ms.batch_norm(last(x), None, None, scale, bias, eps=epsilon)),
        mean * momentum + ms.mean(x, axis=over) * (1 - momentum),
        var * momentum + ms.var(x, axis=over) * (1 - momentum),
    )


def layer_norm(
    x: Any, scale: Any = None, bias: Any = None, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1, outputs: int = 1
) -> Any:
    over = tuple(range(axis % x.ndim, x.ndim))
    y = ms.layer_norm(x, scale, bias, axis=over, eps=epsilon)
    return (
        (y, ms.mean(x, axis=over, keepdims=True), ms.rsqrt(ms.var(x, axis=over, keepdims=True) + epsilon))[:outputs]
        if outputs > 1
        else y
    )


def rms_norm(x: Any, scale: Any = None, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Any:
    return ms.rms_norm(x, scale, axis=tuple(range(axis % x.ndim, x.ndim)), eps=epsilon)


def lrn(x: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Any:
    low = (size - 1) // 2
    wide = ms.pad(ms.square(x), [(0, 0), (low, size - 1 - low), *[(0, 0)] * (x.ndim - 2)])
    total = fold(ms.add)(*[wide[:, i : i + x.shape[1]] for i in range(size)])
    return x / ms.pow(bias + alpha / size * total, beta)


def lp_norm(x: Any, axis: int = -1, p: int = 2) -> Any:
    total = ms.sum(ms.abs(x), axis=axis, keepdims=True) if p == 1 else ms.sqrt(ms.sum(ms.square(x), axis=axis, keepdims=True))
    return ms.where(total == 0.0, 0.0, x / ms.where(total == 0.0, 1.0, total))


def attention(
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    past_k: Any = None,
    past_v: Any = None,
    lengths: Any = None,
    is_causal: int = 0,
    scale: Any = None,
    q_num_heads: int = 0,
    kv_num_heads: int = 0,
    softcap: float = 0.0,
    qk_matmul_output_mode: int = 0,
    left_window_size: int = -1,
    right_window_size: int = -1,
    softmax_precision: int = 1,
    outputs: int = 1,
) -> Any:
    need(not softcap and lengths is None and outputs in (1, 3), "softcap, lengths or scores")
    need(left_window_size == right_window_size == -1, "windows of attention")
    flat = q.ndim == 3
    if flat:
        q = ms.reshape(q, (*q.shape[:2], q_num_heads, -1))
        k, v = (ms.reshape(x, (*x.shape[:2], kv_num_heads, -1)) for x in (k, v))
    else:
        q, k, v = (ms.swapaxes(x, 1, 2) for x in (q, k, v))
    if past_k is not None:
        k, v = (ms.concat([ms.swapaxes(past, 1, 2), x], axis=1) for past, x in ((past_k, k), (past_v, v)))
    extra: Attributes = {}
    if mask is not None:
        if mask.shape[-1] != k.shape[1]:
            raise Skip("a mask of fewer keys")
        extra["mask" if mask.dtype.kind == "bool" else "bias"] = mask
    offset = 0 if past_k is None else past_k.shape[2]
    y = ms.attention(q, k, v, causal=bool(is_causal), offset=offset, scale=scale, **extra)
    y = ms.reshape(y, (*y.shape[:2], -1)) if flat else ms.swapaxes(y, 1, 2)
    return (y, ms.swapaxes(k, 1, 2), ms.swapaxes(v, 1, 2)) if outputs == 3 else y


def nll(x: Any, labels: Any, weight: Any = None, ignore_index: Any = None, reduction: bytes = b"mean") -> Any:
    return ms.nll(x, labels, axis=1, weight=weight, ignore_index=ignore_index, reduction=reduction.decode())


def cross_entropy(
    x: Any, labels: Any, weight: Any = None, ignore_index: Any = None, reduction: bytes = b"mean", outputs: int = 1
) -> Any:
    y = ms.cross_entropy(x, labels, axis=1, weight=weight, ignore_index=ignore_index, reduction=reduction.decode())
    return (y, ms.log_softmax(x, axis=1)) if outputs == 2 else y


LAYERS: dict[str, Callable[..., Any]] = {
    "MatMul": ms.matmul,
    "Gemm": gemm,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MatMulInteger": with_zero_points(ms.matmul, (-1, 1), (-1,)),
    "ConvInteger": with_zero_points(conv, (), (-1, 1, 1, 1)),
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "LpPool": lp_pool,
    "GlobalAveragePool": lambda x: first(ms.global_avg_pool(last(x), keepdims=True)),
    "GlobalMaxPool": lambda x: first(ms.global_max_pool(last(x), keepdims=True)),
    "BatchNormalization": batch_norm,
    "InstanceNormalization": lambda x, w, b, epsilon=1e-5: first(ms.instance_norm(last(x), w, b, eps=epsilon)),
    "LayerNormalization": layer_norm,
    "RMSNormalization": rms_norm,
    "GroupNormalization": lambda x, w, b, num_groups, epsilon=1e-5, **_: first(
        ms.group_norm(last(x), num_groups, w, b, eps=epsilon)
    ),
    "LRN": lrn,
    "LpNormalization": lp_norm,
    "MeanVarianceNormalization": lambda x, axes=(0, 2, 3): ms.layer_norm(x, axis=tuple(axes), eps=0.0),
    "Attention": attention,
    "NegativeLogLikelihoodLoss": nll,
    "SoftmaxCrossEntropyLoss": cross_entropy,
}
