"""Elementwise, array and reduction operators of ONNX written with functions of `mainspring`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import helper, numpy_helper
from onnx_common import Skip, fold, ints, need, reduction, tensor

import mainspring as ms


def number(x: Any) -> Any:
    return np.asarray(x).reshape(-1)[0].item()


def dtype_of(code: int) -> Any:
    try:
        return ms.asarray(np.zeros(0, helper.tensor_dtype_to_np_dtype(code))).dtype
    except Exception as error:
        raise Skip("dtype") from error


def common(*xs: Any) -> list[Any]:
    return [ms.astype(x, ms.result_type(*xs)) for x in xs]


def div(x: Any, y: Any) -> Any:
    if x.dtype.kind == "float":
        return ms.divide(x, y)
    q = ms.floor_divide(x, y)  # whole numbers: towards zero
    return q if x.dtype.kind == "uint" else q + ms.astype((q < 0) & (q * y != x), q.dtype)


def mod(x: Any, y: Any, fmod: int = 0) -> Any:
    return (ms.fmod if fmod else ms.remainder)(x, y)


def power(x: Any, y: Any) -> Any:
    return ms.astype(
        ms.pow(*common(x, y)) if (x.dtype.kind == "float") >= (y.dtype.kind == "float") else ms.pow(ms.astype(x, y.dtype), y),
        x.dtype,
    )


def clip(x: Any, low: Any = None, high: Any = None, min: Any = None, max: Any = None) -> Any:
    return ms.clip(x, low if low is not None else min, high if high is not None else max)


def is_inf(x: Any, detect_negative: int = 1, detect_positive: int = 1) -> Any:
    return ms.isinf(x) & ((x < 0) & bool(detect_negative) | (x > 0) & bool(detect_positive))


def cast(x: Any, to: int, **_: Any) -> Any:
    return ms.astype(x, dtype_of(to))


def shrink(x: Any, bias: float = 0.0, lambd: float = 0.5) -> Any:
    y = ms.where(x < -lambd, x + bias, ms.where(x > lambd, x - bias, ms.zeros_like(x)))
    return ms.astype(y, x.dtype)


def bit_shift(x: Any, y: Any, direction: bytes) -> Any:
    return (ms.bitwise_left_shift if direction == b"LEFT" else ms.bitwise_right_shift)(x, y)


def of_bool(f: Callable[..., Any], on_bool: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, **k: on_bool(x, **k) if x.dtype.kind == "bool" else bounded(f, x, **k)


def bounded(f: Callable[..., Any], x: Any, axis: Any, keepdims: bool) -> Any:
    over = range(x.ndim) if axis is None else axis
    if x.size or all(x.shape[a] for a in over):
        return f(x, axis=axis, keepdims=keepdims)
    raise Skip("the greatest or least of none")


def arg(f: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Any:
        if not select_last_index:
            return f(x, axis=axis, keepdims=bool(keepdims))
        return x.shape[axis] - 1 - f(ms.flip(x, axis=axis), axis=axis, keepdims=bool(keepdims))

    return call


def cumulative(f: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, axis: Any, exclusive: int = 0, reverse: int = 0) -> Any:
        place = ints(axis)[0] % x.ndim
        x = ms.flip(x, axis=place) if reverse else x
        y = f(x, axis=place, include_initial=bool(exclusive), dtype=x.dtype)
        y = ms.take(y, ms.arange(x.shape[place]), axis=place) if exclusive else y
        return ms.flip(y, axis=place) if reverse else y

    return call


def hardmax(x: Any, axis: int = -1) -> Any:
    return ms.one_hot(ms.argmax(x, axis=axis), x.shape[axis], axis=axis, dtype=x.dtype)


def reshape(x: Any, shape: Any, allowzero: int = 0) -> Any:
    return ms.reshape(x, [x.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(ints(shape))])


def squeeze(x: Any, given: Any = None, axes: Any = None) -> Any:
    over = ints(given) if given is not None else axes
    return ms.squeeze(x, tuple(over) if over is not None else None)


def unsqueeze(x: Any, given: Any = None, axes: Any = None) -> Any:
    return ms.expand_dims(x, axis=tuple(ints(given) if given is not None else axes))


def expand(x: Any, shape: Any) -> Any:
    return ms.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(ints(shape))))


def split(x: Any, sizes: Any = None, axis: int = 0, num_outputs: int = 0, split: Any = None, outputs: int = 1) -> Any:
    n = x.shape[axis]
    given = ints(sizes) if sizes is not None else split
    part = -(-n // (num_outputs or outputs))
    cuts = (
        np.cumsum(given)[:-1].tolist()
        if given is not None
        else [min(n, part * (i + 1)) for i in range((num_outputs or outputs) - 1)]
    )
    return tuple(ms.split(x, cuts, axis=axis))


def slice_(
    x: Any, starts: Any = None, ends: Any = None, axes_: Any = None, steps: Any = None, axes: Any = None, **old: Any
) -> Any:
    first, last = ints(starts if starts is not None else old["starts"]), ints(ends if ends is not None else old["ends"])
    over = ints(axes_) if axes_ is not None else axes or list(range(len(first)))
    by = ints(steps) if steps is not None else [1] * len(first)
    key = [slice(None)] * x.ndim
    for a, i, j, k in zip(over, first, last, by, strict=True):
        key[a] = slice(i, None if k < 0 and j < -x.shape[a] else j, k)
    return x[tuple(key)]


def pad(
    x: Any,
    pads_: Any = None,
    fill: Any = None,
    axes_: Any = None,
    mode: bytes = b"constant",
    pads: Any = None,
    value: float = 0.0,
) -> Any:
    amounts = ints(pads_) if pads_ is not None else pads
    over = [a % x.ndim for a in ints(axes_)] if axes_ is not None else list(range(x.ndim))
    pairs = [(0, 0)] * x.ndim
    for i, a in enumerate(over):
        pairs[a] = (amounts[i], amounts[i + len(over)])
    return ms.pad(x, pairs, mode=mode.decode(), value=number(fill) if fill is not None else value)


def flatten(x: Any, axis: int = 1) -> Any:
    axis = axis % x.ndim if axis < 0 else axis
    return ms.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def transpose(x: Any, perm: Any = None) -> Any:
    return ms.permute_dims(x, tuple(perm) if perm is not None else tuple(range(x.ndim))[::-1])


def depth_to_space(x: Any, blocksize: int, mode: bytes = b"DCR") -> Any:
    b, c, h, w = x.shape
    k, d = blocksize, c // blocksize**2
    if mode == b"DCR":
        y = ms.permute_dims(ms.reshape(x, (b, k, k, d, h, w)), (0, 3, 4, 1, 5, 2))
    else:
        y = ms.permute_dims(ms.reshape(x, (b, d, k, k, h, w)), (0, 1, 4, 2, 5, 3))
    return ms.reshape(y, (b, d, h * k, w * k))


def space_to_depth(x: Any, blocksize: int, mode: bytes = b"DCR") -> Any:
    b, c, h, w = x.shape
    k = blocksize
    order = (0, 3, 5, 1, 2, 4) if mode == b"DCR" else (0, 1, 3, 5, 2, 4)
    y = ms.permute_dims(ms.reshape(x, (b, c, h // k, k, w // k, k)), order)
    return ms.reshape(y, (b, c * k * k, h // k, w // k))


def trilu(x: Any, k: Any = None, upper: int = 1) -> Any:
    return (ms.triu if upper else ms.tril)(x, k=ints(k)[0] if k is not None else 0)


def constant(
    value: Any = None,
    value_float: Any = None,
    value_floats: Any = None,
    value_int: Any = None,
    value_ints: Any = None,
    **_: Any,
) -> Any:
    if value is not None:
        return tensor(numpy_helper.to_array(value))
    for given, dtype in ((value_float, "float32"), (value_floats, "float32"), (value_int, "int64"), (value_ints, "int64")):
        if given is not None:
            return ms.asarray(np.asarray(given, dtype))
    raise Skip("strings")


def constant_of_shape(shape: Any, value: Any = None) -> Any:
    fill = ms.asarray(numpy_helper.to_array(value)[0]) if value is not None else ms.asarray(np.float32(0))
    return ms.full(tuple(ints(shape)), fill)


def eye_like(x: Any, k: int = 0, dtype: Any = None) -> Any:
    return ms.eye(*x.shape, k=k, dtype=dtype_of(dtype) if dtype else x.dtype)


def range_(start: Any, stop: Any, step: Any) -> Any:
    return ms.arange(number(start), number(stop), number(step), dtype=start.dtype)


def shape_of(x: Any, start: int = 0, end: Any = None) -> Any:
    return ms.asarray(np.asarray(x.shape[start:end], np.int64))


def one_hot(index: Any, depth: Any, values: Any, axis: int = -1) -> Any:
    n, whole = int(number(depth)), ms.astype(index, ms.int64)
    hot = ms.one_hot(ms.where(whole < 0, whole + n, whole), n, axis=axis, dtype=ms.bool)
    return ms.where(hot, values[1], values[0])


def reverse_sequence(x: Any, lengths: Any, batch_axis: int = 1, time_axis: int = 0) -> Any:
    y = ms.moveaxis(x, (batch_axis, time_axis), (0, 1))
    place = ms.expand_dims(ms.arange(y.shape[1]), axis=0)
    n = ms.expand_dims(lengths, axis=1)
    index = ms.where(place < n, n - 1 - place, place)
    index = ms.reshape(index, (*index.shape, *[1] * (y.ndim - 2)))
    return ms.moveaxis(ms.take_along_axis(y, index, axis=1), (0, 1), (batch_axis, time_axis))


def gather_nd(x: Any, index: Any, batch_dims: int = 0) -> Any:
    lead = [
        ms.reshape(ms.arange(n), tuple(n if j == i else 1 for j in range(index.ndim - 1)))
        for i, n in enumerate(x.shape[:batch_dims])
    ]
    return x[(*lead, *[index[..., k] for k in range(index.shape[-1])])]


def scatter_elements(x: Any, index: Any, updates: Any, axis: int = 0, reduction: bytes = b"none") -> Any:
    mode = {b"none": "set", b"mul": "multiply"}.get(reduction, reduction.decode())
    if index.shape == tuple(index.shape[axis] if i == axis % x.ndim else n for i, n in enumerate(x.shape)):
        return ms.put_along_axis(x, index, updates, axis=axis, mode=mode)
    key = tuple(
        index if i == axis % x.ndim else ms.reshape(ms.arange(n), tuple(n if j == i else 1 for j in range(x.ndim)))
        for i, n in enumerate(index.shape)
    )
    return getattr(x.at[key], mode)(updates)


def scatter_nd(x: Any, index: Any, updates: Any, reduction: bytes = b"none") -> Any:
    mode = {b"none": "set", b"mul": "multiply"}.get(reduction, reduction.decode())
    return getattr(x.at[tuple(index[..., k] for k in range(index.shape[-1]))], mode)(updates)


def topk(x: Any, k: Any, axis: int = -1, largest: int = 1, sorted: int = 1) -> Any:
    return ms.topk(x, ints(k)[0], axis=axis, largest=bool(largest))


def compress(x: Any, condition: Any, axis: Any = None) -> Any:
    if axis is None:
        x, axis = ms.reshape(x, (-1,)), 0
    return ms.take(x, ms.nonzero(condition)[0], axis=axis)


def unique(x: Any, axis: Any = None, sorted: int = 1) -> Any:
    need(axis is None and sorted, "unique slices")
    found = ms.unique_all(x)
    return found.values, found.indices, ms.reshape(found.inverse_indices, (-1,)), found.counts


def gelu(x: Any, approximate: bytes = b"none") -> Any:
    return ms.gelu(x, approximate=approximate == b"tanh")


def softmax(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, axis=-1: f(x, axis=axis)


SAME_NAME = (
    "Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor Log Reciprocal Relu Round Sigmoid Sign Sin Sinh Softplus "
    "Softsign Sqrt Tan Tanh Mish Equal Greater Less Add Where Einsum Tile"
).split()


def scatterless(x: Any, index: Any, axis: int) -> Any:
    window = tuple(slice(None) if i == axis % x.ndim else slice(n) for i, n in enumerate(index.shape))
    return ms.take_along_axis(x[window], index, axis=axis)


ARRAYS: dict[str, Callable[..., Any]] = {
    **{name: getattr(ms, name.lower()) for name in SAME_NAME},
    "Tile": lambda x, n: ms.tile(x, ints(n)),
    "Einsum": lambda *xs, equation: ms.einsum(equation.decode(), *xs),
    "Sub": ms.subtract,
    "Mul": ms.multiply,
    "Div": div,
    "Mod": mod,
    "Pow": power,
    "Neg": ms.negative,
    "IsNaN": ms.isnan,
    "IsInf": is_inf,
    "Not": ms.logical_not,
    "And": ms.logical_and,
    "Or": ms.logical_or,
    "Xor": ms.logical_xor,
    "BitwiseAnd": ms.bitwise_and,
    "BitwiseOr": ms.bitwise_or,
    "BitwiseXor": ms.bitwise_xor,
    "BitwiseNot": ms.bitwise_invert,
    "BitShift": bit_shift,
    "GreaterOrEqual": ms.greater_equal,
    "LessOrEqual": ms.less_equal,
    "Identity": lambda x: x,
    "Max": fold(ms.maximum),
    "Min": fold(ms.minimum),
    "Sum": fold(ms.add),
    "Mean": lambda *xs: fold(ms.add)(*xs) / float(len(xs)),
    "Clip": clip,
    "Cast": cast,
    "CastLike": lambda x, y, **_: ms.astype(x, y.dtype),
    "BitCast": lambda x, to: ms.bitcast(x, dtype_of(to)),
    "Celu": lambda x, alpha=1.0: ms.celu(x, alpha),
    "Elu": lambda x, alpha=1.0: ms.elu(x, alpha),
    "LeakyRelu": lambda x, alpha=0.01: ms.leaky_relu(x, alpha),
    "PRelu": ms.prelu,
    "Gelu": gelu,
    "HardSwish": ms.hard_swish,
    "Swish": lambda x, alpha=1.0: x * ms.sigmoid(x * alpha),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: ms.clip(x * alpha + beta, 0.0, 1.0),
    "Shrink": shrink,
    "ThresholdedRelu": lambda x, alpha=1.0: ms.where(x > alpha, x, 0.0),
    "Softmax": softmax(ms.softmax),
    "LogSoftmax": softmax(ms.log_softmax),
    "Hardmax": hardmax,
    "ReduceSum": reduction(ms.sum),
    "ReduceProd": reduction(ms.prod),
    "ReduceMean": reduction(ms.mean),
    "ReduceMax": reduction(of_bool(ms.max, ms.any)),
    "ReduceMin": reduction(of_bool(ms.min, ms.all)),
    "ReduceL1": reduction(lambda x, **k: ms.sum(ms.abs(x), **k)),
    "ReduceL2": reduction(lambda x, **k: ms.sqrt(ms.sum(ms.square(x), **k))),
    "ReduceLogSum": reduction(lambda x, **k: ms.log(ms.sum(x, **k))),
    "ReduceLogSumExp": reduction(ms.logsumexp),
    "ReduceSumSquare": reduction(lambda x, **k: ms.sum(ms.square(x), **k)),
    "ArgMax": arg(ms.argmax),
    "ArgMin": arg(ms.argmin),
    "CumSum": cumulative(ms.cumulative_sum),
    "CumProd": cumulative(ms.cumulative_prod),
    "Reshape": reshape,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Expand": expand,
    "Concat": lambda *xs, axis: ms.concat(xs, axis=axis),
    "Split": split,
    "Slice": slice_,
    "Pad": pad,
    "Flatten": flatten,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Trilu": trilu,
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "EyeLike": eye_like,
    "Range": range_,
    "Shape": shape_of,
    "Size": lambda x: ms.asarray(np.int64(x.size)),
    "OneHot": one_hot,
    "ReverseSequence": reverse_sequence,
    "Gather": lambda x, i, axis=0: ms.take(x, i, axis=axis),
    "GatherElements": lambda x, i, axis=0: scatterless(x, i, axis),
    "GatherND": gather_nd,
    "ScatterElements": scatter_elements,
    "Scatter": scatter_elements,
    "ScatterND": scatter_nd,
    "TopK": topk,
    "Compress": compress,
    "NonZero": lambda x: ms.stack(ms.nonzero(x)) if x.ndim else x,
    "Unique": unique,
    "Selu": lambda x, alpha=1.6732632423543772, gamma=1.0507009873554805: ms.elu(x, alpha) * gamma,
}
