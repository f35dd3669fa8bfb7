"""Convolutions, channels last: `conv` (1-3 d, strided, dilated, grouped) and its transpose.

A convolution is a contraction whose left operand is read through windows; its gradients are convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mainspring.base.errors import ArgumentError, ShapeError
from mainspring.ir import scalar as s
from mainspring.ir.bind import Value, bind
from mainspring.ir.op import Op, Space, register
from mainspring.ops.common import cast_to
from mainspring.ops.contract import accumulator, paired, require_pair, result_dtype
from mainspring.ops.movement import flip, permute_dims, reshape
from mainspring.types.dtype import DType
from mainspring.types.shape import Shape, TensorType

Pairs = tuple[tuple[int, int], ...]


def _conv_out(x: Shape, w: Shape, stride: Shape, padding: Pairs, dilation: Shape, window_dilation: Shape) -> Shape:
    spatial = []
    for n, k, st, (low, high), d, wd in zip(x[1:-1], w[:-2], stride, padding, dilation, window_dilation, strict=True):
        wide = max(0, (n - 1) * d + 1) + low + high
        spatial.append(max(0, (wide - ((k - 1) * wd + 1)) // st + 1))
    return (x[0], *spatial, w[-1])


def _conv_infer(x: TensorType, w: TensorType, stride: Shape, padding: Pairs, dilation: Shape, window_dilation: Shape,
                groups: int, dtype: DType) -> TensorType:
    example = "ms.conv(ms.ones((1, 8, 8, 3)), ms.ones((3, 3, 3, 16)))"
    if len(x.shape) != len(w.shape) or len(x.shape) < 3:
        raise ShapeError("conv", "w",
                         "x is (batch, 1 to 3 spatial dims, channels), w (window dims, channels/groups, out channels)",
                         f"{x}, {w}", example)
    require_pair("conv", x, w, dtype)
    if x.shape[-1] != w.shape[-2] * groups or w.shape[-1] % groups:
        raise ShapeError("conv", "w", "channels of x must be groups × channels of w, and groups divide the out channels",
                         f"x.shape={x.shape}, w.shape={w.shape}, groups={groups}", example)
    return TensorType(_conv_out(x.shape, w.shape, stride, padding, dilation, window_dilation), dtype)


def _conv_space(x: TensorType, w: TensorType, stride: Shape, padding: Pairs, dilation: Shape, window_dilation: Shape,
                groups: int, dtype: DType) -> Space:
    out = _conv_out(x.shape, w.shape, stride, padding, dilation, window_dilation)
    d, per_in, per_out = len(out) - 2, w.shape[-2], w.shape[-1] // groups
    wide = accumulator(dtype)

    def element(read: Callable[..., Any], *index: Any) -> Any:
        n, places, o, window, c = index[0], index[1: 1 + d], index[1 + d], index[2 + d: 2 + 2 * d], index[-1]
        spatial, guards = [], []
        for i in range(d):
            at = places[i] * stride[i] + window[i] * window_dilation[i] - padding[i][0]
            guards += [s.compare("le", 0, at), s.compare("lt", at, (x.shape[1 + i] - 1) * dilation[i] + 1)]
            if dilation[i] > 1:
                guards.append(s.compare("eq", at % dilation[i], 0))
            spatial.append(at // dilation[i])
        channel = (o // per_out) * per_in + c if groups > 1 else c
        left = read(0, n, *spatial, channel, guard=s.both(*guards), fill=0)
        return s.apply("mul", s.cast(left, wide), s.cast(read(1, *window, c, o), wide))

    return Space(out, element, w.shape[:-1], "sum")


def _conv_reference(x: np.ndarray, w: np.ndarray, stride: Shape, padding: Pairs, dilation: Shape, window_dilation: Shape,
                    groups: int, dtype: DType) -> np.ndarray:
    out = _conv_out(x.shape, w.shape, stride, padding, dilation, window_dilation)
    d, wide_dtype = len(out) - 2, accumulator(dtype).numpy
    full = [max(0, (n - 1) * k + 1) for n, k in zip(x.shape[1:-1], dilation, strict=True)]
    reach = [(m - 1) * st + (k - 1) * wd + 1
             for m, st, k, wd in zip(out[1:-1], stride, w.shape[:-2], window_dilation, strict=True)]
    canvas = np.zeros((x.shape[0], *[max(r, p[0] + n, 0) for r, p, n in zip(reach, padding, full, strict=True)], x.shape[-1]),
                      wide_dtype)
    source, target = [slice(None)], [slice(None)]
    for (low, _), k, n in zip(padding, dilation, x.shape[1:-1], strict=True):
        first = max(0, -(low // k)) if low < 0 else 0
        source.append(slice(first, None))
        target.append(slice(low + first * k, low + max(0, (n - 1) * k + 1), k))
    if all(n > 0 for n in x.shape):
        canvas[tuple(target)] = x.astype(wide_dtype)[tuple(source)]
    windows = np.lib.stride_tricks.as_strided(
        canvas, (*out[:-1], *w.shape[:-2], x.shape[-1]),
        (canvas.strides[0], *[canvas.strides[1 + i] * stride[i] for i in range(d)],
         *[canvas.strides[1 + i] * window_dilation[i] for i in range(d)], canvas.strides[-1]), writeable=False)
    per_in, per_out = w.shape[-2], w.shape[-1] // groups
    parts = [np.tensordot(windows[..., g * per_in: (g + 1) * per_in], w[..., g * per_out: (g + 1) * per_out].astype(wide_dtype),
                          axes=d + 1) for g in range(groups)]
    return np.concatenate(parts, axis=-1).astype(dtype.numpy)


def _conv_vjp(given: Value, out: Value, x: Value, w: Value, stride: Shape, padding: Pairs, dilation: Shape,
              window_dilation: Shape, groups: int, dtype: DType) -> tuple[Any, Any]:
    d, ct = len(stride), cast_to(given, x.dtype)
    per_in, per_out = w.shape[-2], w.shape[-1] // groups
    window = w.shape[:-2]

    def of_input() -> Value:
        """The cotangent, spread by `stride`, under the flipped window."""
        flipped = flip(w, axis=tuple(range(d)))
        parts = reshape(flipped, (*window, per_in, groups, per_out))
        swapped = reshape(permute_dims(parts, (*range(d), d + 2, d + 1, d)), (*window, per_out, groups * per_in))
        pads = []
        for i in range(d):
            reach = (window[i] - 1) * window_dilation[i]
            low = reach - padding[i][0]
            wide = max(0, (x.shape[1 + i] - 1) * dilation[i] + 1)
            pads.append((low, wide - max(0, (ct.shape[1 + i] - 1) * stride[i] + 1) - low + reach))
        return bind(CONV, ct, swapped, stride=dilation, padding=tuple(pads), dilation=stride, window_dilation=window_dilation,
                    groups=groups, dtype=x.dtype)

    def of_window() -> Value:
        """The input under the cotangent as window: channels are the batch, the batch one more spatial dim, the outermost."""
        left = permute_dims(reshape(x, (*x.shape[:-1], groups, per_in)), (d + 2, *range(d + 2)))
        right = reshape(ct, (*ct.shape[:-1], 1, ct.shape[-1]))
        pads = [(0, 0)]
        for i in range(d):
            wide = max(0, (x.shape[1 + i] - 1) * dilation[i] + 1)
            reach = max(0, (ct.shape[1 + i] - 1) * stride[i] + 1)
            pads.append((padding[i][0], (window[i] - 1) * window_dilation[i] + reach - wide - padding[i][0]))
        result = bind(CONV, left, right, stride=(1, *window_dilation), padding=tuple(pads), dilation=(1, *dilation),
                      window_dilation=(1, *stride), groups=groups, dtype=w.dtype)
        return permute_dims(reshape(result, (per_in, *window, w.shape[-1])), (*range(1, d + 1), 0, d + 1))

    return of_input, of_window


CONV = register(Op("conv", _conv_infer, _conv_reference, _conv_space, _conv_vjp,
                   "Windows of `x` (batch, spatial…, channels) times `w` (window…, channels/groups, out channels), summed. "
                   "`dilation` spreads `x`, `window_dilation` spreads `w`; `dtype` is that of the result."))


def _per_dim(value: int | Sequence[int], d: int, where: str, argument: str) -> Shape:
    result = (value,) * d if isinstance(value, int) else tuple(value)
    if len(result) != d or any(not isinstance(n, int) or n < 1 for n in result):
        raise ArgumentError(where, argument, f"must be an int ≥ 1, or {d} of them", str(value), f"{argument}=1")
    return result


def conv_padding(padding: str | int | Sequence[Any], x: Shape, window: Shape, stride: Shape, window_dilation: Shape,
                 where: str = "conv") -> Pairs:
    """`padding` ("same", "valid", an int, ints or pairs) as (low, high) pairs; "same" gives ⌈n / stride⌉ places."""
    d = len(window)
    if padding == "valid":
        return ((0, 0),) * d
    if padding == "same":
        pairs = []
        for n, k, st, wd in zip(x, window, stride, window_dilation, strict=True):
            total = max(0, (-(-n // st) - 1) * st + (k - 1) * wd + 1 - n)
            pairs.append((total // 2, total - total // 2))
        return tuple(pairs)
    if isinstance(padding, str):
        raise ArgumentError(where, "padding", "must be 'same', 'valid', an int, or a (low, high) pair for each spatial dim",
                            repr(padding), 'padding="same"')
    entries = padding if isinstance(padding, Sequence) else (padding,) * d
    if len(entries) != d or not all(isinstance(p, int) or (isinstance(p, Sequence) and len(p) == 2) for p in entries):
        raise ArgumentError(where, "padding", f"must be an int, or {d} ints or (low, high) pairs", str(padding),
                            'padding="same"')
    return tuple((p, p) if isinstance(p, int) else (int(p[0]), int(p[1])) for p in entries)


def conv(x: Any, w: Any, /, *, stride: int | Sequence[int] = 1, padding: str | int | Sequence[Any] = "valid",
         dilation: int | Sequence[int] = 1,
         groups: int = 1, dtype: Any = None) -> Any:
    """Convolution (cross-correlation), channels last, over 1 to 3 spatial dims.

    Args:
        x: (batch, *spatial, channels).
        w: (*window, channels / groups, out channels).
        stride: step of the window. padding: "valid", "same", an int, or a (low, high) pair a dim.
        dilation: distance between the window's taps. groups: channel groups convolved apart.
        dtype: of the sums and the result, as in `matmul`.

    Returns: (batch, *places, out channels).
    """
    a, b = paired("conv", x, w, dtype)
    d = b.ndim - 2
    if a.ndim != b.ndim or not 1 <= d <= 3:
        raise ShapeError("conv", "w",
                         "x is (batch, 1 to 3 spatial dims, channels), w (window dims, channels/groups, out channels)",
                         f"{a._type}, {b._type}", "ms.conv(ms.ones((1, 8, 8, 3)), ms.ones((3, 3, 3, 16)))")
    strides, spread = _per_dim(stride, d, "conv", "stride"), _per_dim(dilation, d, "conv", "dilation")
    pads = conv_padding(padding, a.shape[1:-1], b.shape[:-2], strides, spread)
    return bind(CONV, a, b, stride=strides, padding=pads, dilation=(1,) * d, window_dilation=spread, groups=groups,
                dtype=result_dtype("conv", a, dtype))


def conv_transpose(x: Any, w: Any, /, *, stride: int | Sequence[int] = 1, padding: int | Sequence[Any] = 0,
                   output_padding: int | Sequence[int] = 0,
                   dilation: int | Sequence[int] = 1, groups: int = 1) -> Any:
    """The transpose of `conv` in its input: spreads `x` by `stride` (a "deconvolution").

    Args:
        x: (batch, *spatial, channels). w: (*window, out channels / groups, channels): the w of the `conv` it transposes.
        padding: what that `conv` padded, so it is cut off here. output_padding: extra places at the high end.

    Returns: (batch, *places, out channels) with places = (n-1)·stride - 2·padding + dilation·(window-1) + output_padding + 1.
    """
    a, b = paired("conv_transpose", x, w)
    d = b.ndim - 2
    if a.ndim != b.ndim or a.shape[-1] != b.shape[-1] or a.shape[-1] % groups:
        raise ShapeError("conv_transpose", "w", "must be (*window, out channels / groups, channels of x)",
                         f"x.shape={a.shape}, w.shape={b.shape}, groups={groups}",
                         "ms.conv_transpose(ms.ones((1, 4, 4, 8)), ms.ones((3, 3, 16, 8)), stride=2)")
    strides, spread = _per_dim(stride, d, "conv_transpose", "stride"), _per_dim(dilation, d, "conv_transpose", "dilation")
    pads = conv_padding(padding, a.shape[1:-1], b.shape[:-2], strides, spread, "conv_transpose")
    extra = (output_padding,) * d if isinstance(output_padding, int) else tuple(output_padding)
    per_in, per_out = b.shape[-1] // groups, b.shape[-2]
    parts = reshape(flip(b, axis=tuple(range(d))), (*b.shape[:d], per_out, groups, per_in))
    swapped = reshape(permute_dims(parts, (*range(d), d + 2, d + 1, d)), (*b.shape[:d], per_in, groups * per_out))
    reach = [(k - 1) * wd for k, wd in zip(b.shape[:d], spread, strict=True)]
    inner = tuple((r - low, r - high + e) for r, (low, high), e in zip(reach, pads, extra, strict=True))
    return bind(CONV, a, swapped, stride=(1,) * d, padding=inner, dilation=strides, window_dilation=spread, groups=groups,
                dtype=a.dtype)
