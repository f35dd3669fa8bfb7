"""Layers, activations and losses of `torch.nn.functional` written with functions of `mainspring`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch_common import Skip, need, softmax_of

import mainspring as ms


def dims_first(x: Any, d: int) -> tuple[Any, bool]:
    """(batch, *spatial, channels) of (batch, channels, *spatial) or (channels, *spatial); and whether a batch was added."""
    single = x.ndim == d + 1
    x = ms.expand_dims(x, axis=0) if single else x
    return ms.moveaxis(x, 1, -1), single


def dims_last(x: Any, single: bool) -> Any:
    x = ms.moveaxis(x, -1, 1)
    return ms.squeeze(x, 0) if single else x


def n_of(value: Any, d: int) -> tuple[int, ...]:
    value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return value * d if len(value) == 1 else value


def conv(d: int) -> Callable[..., Any]:
    def call(x: Any, w: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Any:
        x, single = dims_first(x, d)
        w = ms.permute_dims(w, (*range(2, d + 2), 1, 0))
        pads = padding if isinstance(padding, str) else n_of(padding, d)
        y = ms.conv(x, w, stride=n_of(stride, d), padding=pads, dilation=n_of(dilation, d), groups=groups)
        return dims_last(y if bias is None else y + bias, single)

    return call


def conv_transpose(d: int) -> Callable[..., Any]:
    def call(
        x: Any,
        w: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Any:
        x, single = dims_first(x, d)
        w = ms.permute_dims(w, (*range(2, d + 2), 1, 0))
        y = ms.conv_transpose(
            x,
            w,
            stride=n_of(stride, d),
            padding=n_of(padding, d),
            output_padding=n_of(output_padding, d),
            dilation=n_of(dilation, d),
            groups=groups,
        )
        return dims_last(y if bias is None else y + bias, single)

    return call


def pool_pads(shape: Any, k: Any, st: Any, p: Any, dil: Any, ceil: bool) -> Any:
    pads = []
    for n, a, b, c, e in zip(shape, k, st, p, dil, strict=True):
        reach = (a - 1) * e + 1
        extra = 0
        if ceil:
            places = -(-(n + 2 * c - reach) // b) + 1
            places -= (places - 1) * b >= n + c
            extra = max(0, (places - 1) * b + reach - n - 2 * c)
        pads.append((c, c + extra))
    return tuple(pads)


def max_pool(d: int) -> Callable[..., Any]:
    def call(
        x: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        need(not return_indices, "indices of a pool")
        x, single = dims_first(x, d)
        k, dil = n_of(kernel_size, d), n_of(dilation, d)
        st = k if not stride else n_of(stride, d)
        pads = pool_pads(x.shape[1:-1], k, st, n_of(padding, d), dil, ceil_mode)
        return dims_last(ms.max_pool(x, k, stride=st, padding=pads, dilation=dil), single)

    return call


def avg_pool(d: int) -> Callable[..., Any]:
    def call(
        x: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: Any = None,
    ) -> Any:
        need(not ceil_mode or not count_include_pad or not padding, "mean over padding in ceil mode")
        x, single = dims_first(x, d)
        k = n_of(kernel_size, d)
        st = k if not stride else n_of(stride, d)
        pads = pool_pads(x.shape[1:-1], k, st, n_of(padding, d), (1,) * d, ceil_mode)
        include = count_include_pad and not ceil_mode
        if divisor_override:
            y = ms.avg_pool(x, k, stride=st, padding=pads) * (float(np.prod(k)) / divisor_override)
        else:
            y = ms.avg_pool(x, k, stride=st, padding=pads, count_include_pad=include)
        return dims_last(y, single)

    return call


def adaptive(d: int) -> Callable[..., Any]:
    def call(x: Any, output_size: Any) -> Any:
        x, single = dims_first(x, d)
        sizes = [n if m is None else m for n, m in zip(x.shape[1:-1], n_of(output_size, d), strict=True)]
        return dims_last(ms.adaptive_avg_pool(x, sizes), single)

    return call


def channels_last(f: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, *args: Any, **kw: Any) -> Any:
        need(x.ndim > 1, "dims")
        return ms.moveaxis(f(ms.moveaxis(x, 1, -1), *args, **kw), -1, 1)

    return call


def batch_norm(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    stats = (None, None) if training else (running_mean, running_var)
    return channels_last(lambda v: ms.batch_norm(v, *stats, weight, bias, eps=eps))(x)


def instance_norm(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    need(use_input_stats, "given statistics")
    return channels_last(lambda v: ms.instance_norm(v, weight, bias, eps=eps))(x)


def layer_norm(x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    return ms.layer_norm(x, weight, bias, axis=tuple(range(-len(shape), 0)), eps=eps)


def rms_norm(x: Any, shape: Any, weight: Any = None, eps: Any = None) -> Any:
    return ms.rms_norm(x, weight, axis=tuple(range(-len(shape), 0)), eps=ms.finfo(x.dtype).eps if eps is None else eps)


def attention(
    q: Any,
    k: Any,
    v: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Any = None,
    enable_gqa: bool = False,
) -> Any:
    need(not dropout_p, "random")
    need(q.ndim == 4, "dims")
    extra = {} if attn_mask is None else {"mask" if attn_mask.dtype.kind == "bool" else "bias": attn_mask}
    q, k, v = (ms.swapaxes(x, 1, 2) for x in (q, k, v))
    return ms.swapaxes(ms.attention(q, k, v, causal=is_causal, scale=scale, **extra), 1, 2)


def classes_axis(x: Any) -> int:
    return 1 if x.ndim > 1 else 0


def cross_entropy(
    x: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    ignore = {"ignore_index": ignore_index} if target.dtype.kind != "float" else {}
    if ignore and reduction == "mean" and (np.asarray(target) == ignore_index).all():
        raise Skip("the mean of nothing is 0 here")
    if not ignore and reduction == "mean":  # PyTorch divides by the batch, as does the mean of one loss a place
        need(x.ndim >= 1, "dims")
    return ms.cross_entropy(
        x, target, axis=classes_axis(x), weight=weight, label_smoothing=label_smoothing, reduction=reduction, **ignore
    )


def nll(
    x: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    if reduction == "mean" and (np.asarray(target) == ignore_index).all():
        raise Skip("the mean of nothing is 0 here")
    return ms.nll(x, target, axis=classes_axis(x), weight=weight, ignore_index=ignore_index, reduction=reduction)


def loss(f: Callable[..., Any], **names: str) -> Callable[..., Any]:
    def call(x: Any, y: Any, *args: Any, size_average: Any = None, reduce: Any = None, **kw: Any) -> Any:
        need(not args, "positional")
        x, y = ms.broadcast_arrays(x, y)
        return f(x, y, **{names.get(k, k): v for k, v in kw.items()})

    return call


def gaussian_nll(x: Any, y: Any, var: Any, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> Any:
    need(not full, "the constant")
    if not isinstance(var, float) and var.ndim == x.ndim - 1:
        var = ms.expand_dims(var, axis=-1)
    return ms.gaussian_nll(*ms.broadcast_arrays(x, y), var, eps=eps, reduction=reduction)


def gelu(x: Any, *, approximate: str = "none") -> Any:
    return ms.gelu(x, approximate=approximate == "tanh")


def softplus(x: Any, beta: float = 1, threshold: float = 20) -> Any:
    need(threshold == 20, "threshold")
    return ms.softplus(x, beta)


def normalize(x: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Any:
    need(p == 2 and x.ndim > 0, "order")
    return x / ms.maximum(ms.sqrt(ms.sum(ms.square(x), axis=dim, keepdims=True)), eps)


def prelu(x: Any, weight: Any) -> Any:
    return ms.prelu(
        x,
        ms.reshape(weight, (-1, *[1] * (x.ndim - 2)) if x.ndim > 1 and weight.ndim else ())
        if weight.size == 1
        else ms.reshape(weight, (-1, *[1] * (x.ndim - 2))),
    )


def group_norm(x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    return channels_last(lambda v: ms.group_norm(v, groups, weight, bias, eps=eps))(x)


def bce(f: Any) -> Any:
    def call(
        x: Any,
        t: Any,
        weight: Any = None,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        pos_weight: Any = None,
    ) -> Any:
        return f(x, t, weight=weight, reduction=reduction, **({} if pos_weight is None else {"pos_weight": pos_weight}))

    return call


ACTIVATIONS = {
    "relu": ms.relu,
    "relu6": ms.relu6,
    "hardsigmoid": ms.hard_sigmoid,
    "hardswish": ms.hard_swish,
    "gelu": gelu,
    "mish": ms.mish,
    "hardtanh": lambda x, min_val=-1.0, max_val=1.0: ms.hard_tanh(x, min_val, max_val),
    "silu": ms.silu,
    "selu": ms.selu,
    "elu": lambda x, alpha=1.0: ms.elu(x, alpha),
    "celu": lambda x, alpha=1.0: ms.celu(x, alpha),
    "softsign": ms.softsign,
    "leaky_relu": lambda x, negative_slope=0.01: ms.leaky_relu(x, negative_slope),
    "softplus": softplus,
    "logsigmoid": ms.log_sigmoid,
    "tanhshrink": ms.tanh_shrink,
    "hardshrink": lambda x, lambd=0.5: ms.hard_shrink(x, lambd),
    "softshrink": lambda x, lambd=0.5: ms.soft_shrink(x, lambd),
    "glu": lambda x, dim=-1: ms.glu(x, axis=dim),
    "prelu": prelu,
    "softmin": softmax_of(ms.softmin),
    "threshold": lambda x, t, v: ms.where(x > t, x, v),
}

NN = {
    **{f"nn.functional.conv{d}d": conv(d) for d in (1, 2, 3)},
    **{f"nn.functional.conv_transpose{d}d": conv_transpose(d) for d in (1, 2, 3)},
    **{f"nn.functional.max_pool{d}d": max_pool(d) for d in (1, 2, 3)},
    **{f"nn.functional.avg_pool{d}d": avg_pool(d) for d in (1, 2, 3)},
    **{f"nn.functional.adaptive_avg_pool{d}d": adaptive(d) for d in (1, 2, 3)},
    **{f"nn.functional.{k}": v for k, v in ACTIVATIONS.items()},
    "nn.functional.batch_norm": batch_norm,
    "nn.functional.instance_norm": instance_norm,
    "nn.functional.layer_norm": layer_norm,
    "nn.functional.rms_norm": rms_norm,
    "nn.functional.group_norm": group_norm,
    "nn.functional.scaled_dot_product_attention": attention,
    "nn.functional.cross_entropy": cross_entropy,
    "nn.functional.nll_loss": nll,
    "nn.functional.mse_loss": loss(ms.mse),
    "nn.functional.l1_loss": loss(ms.mae),
    "nn.functional.huber_loss": loss(ms.huber),
    "nn.functional.smooth_l1_loss": loss(ms.smooth_l1),
    "nn.functional.kl_div": loss(ms.kl_div),
    "nn.functional.gaussian_nll_loss": gaussian_nll,
    "nn.functional.normalize": normalize,
    "nn.functional.binary_cross_entropy": bce(ms.bce),
    "nn.functional.binary_cross_entropy_with_logits": bce(ms.bce_with_logits),
}
