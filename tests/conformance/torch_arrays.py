"""Array functions of PyTorch written with functions of `mainspring`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch_common import Skip, axes, cast, dtype_of, need, reduction, softmax_of

import mainspring as ms


def floating(x: Any) -> Any:
    return x if x.dtype.kind == "float" else ms.astype(x, ms.float32)


def moment(f: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, dim: Any = None, unbiased: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        c = correction if correction is not None else 1.0 if unbiased is None else float(unbiased)
        return f(x, axis=axes(dim), correction=c, keepdims=keepdim)

    return call


def with_mean(f: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, dim: Any = None, *args: Any, keepdim: bool = False, **kw: Any) -> Any:
        return f(x, dim, *args, keepdim=keepdim, **kw), ms.mean(
            x, axis=axes(None if isinstance(dim, bool) else dim), keepdims=keepdim
        )

    return call


def extremum(f: Callable[..., Any], arg: Callable[..., Any], pair: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if isinstance(dim, ms.Tensor):
            return pair(x, dim)
        if dim is None:
            return f(x)
        if not x.ndim:
            return x, ms.zeros((), dtype="int64")
        index = arg(x, axis=dim, keepdims=True)  # PyTorch gives the gradient to the chosen element alone
        values = ms.take_along_axis(x, index, axis=dim)
        return (values, index) if keepdim else (ms.squeeze(values, dim), ms.squeeze(index, dim))

    return call


def arg(f: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        return f(x, axis=dim if x.ndim else None, keepdims=keepdim)

    return call


def pad(x: Any, pad: Any, mode: str = "constant", value: Any = None) -> Any:
    pairs = [(0, 0)] * x.ndim
    for i in range(len(pad) // 2):
        pairs[-1 - i] = (pad[2 * i], pad[2 * i + 1])
    name = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    return ms.pad(x, pairs, mode=name, value=value or 0.0)


def scatter(mode: str) -> Callable[..., Any]:
    """PyTorch's scatter family: the index may be smaller than the tensors in every dim."""

    def call(x: Any, dim: int, index: Any, src: Any, reduce: Any = None, *, include_self: bool = True) -> Any:
        how = {"sum": "add", "prod": "multiply", "amax": "max", "amin": "min", None: mode}.get(reduce, reduce)
        need(include_self and how != "mean", "without the elements themselves, or the mean")
        if not x.ndim:
            x, index = ms.reshape(x, (1,)), ms.reshape(index, (-1,))
            src = ms.reshape(src, (-1,)) if isinstance(src, ms.Tensor) else src
            return ms.reshape(call(x, 0, index, src, reduce), ())
        if index.ndim != x.ndim:
            raise Skip("index of other dims")
        if isinstance(src, ms.Tensor):
            src = src[tuple(slice(n) for n in index.shape)] if src.ndim else src
        key = tuple(
            index if i == dim % x.ndim else ms.reshape(ms.arange(n), tuple(n if j == i else 1 for j in range(x.ndim)))
            for i, n in enumerate(index.shape)
        )
        return getattr(x.at[key], how)(src)

    return call


def along(x: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
    if not x.ndim:
        return ms.reshape(ms.take(ms.reshape(x, (1,)), ms.reshape(index, (-1,))), index.shape)
    need(index.ndim == x.ndim, "dims")
    window = tuple(slice(None) if i == dim % x.ndim else slice(n) for i, n in enumerate(index.shape))
    return ms.take_along_axis(x[window], index, axis=dim)


def at_dim(x: Any, dim: int, index: Any) -> Any:
    return (*[slice(None)] * (dim % max(1, x.ndim)), index)


def index_update(mode: str) -> Callable[..., Any]:
    def call(x: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Any:
        if isinstance(source, ms.Tensor) and source.dtype.kind != "bool" and mode == "add":
            source = source * alpha
        if not x.ndim:
            return ms.reshape(
                call(
                    ms.reshape(x, (1,)),
                    0,
                    ms.reshape(index, (-1,)),
                    ms.reshape(source, (-1,)) if isinstance(source, ms.Tensor) else source,
                ),
                (),
            )
        if mode != "fill":
            return getattr(x.at[at_dim(x, dim, ms.reshape(index, (-1,)))], mode)(source)
        return x.at[at_dim(x, dim, index)].set(ms.astype(source, x.dtype) if isinstance(source, ms.Tensor) else source)

    return call


def index_put(x: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    at = x.at[tuple(slice(None) if i is None else i for i in indices)]
    need(not accumulate or x.dtype.kind != "bool", "addition of bools")
    return at.add(values) if accumulate else at.set(values)


def tensor_split(x: Any, parts: Any, dim: int = 0) -> Any:
    n = x.shape[dim]
    if isinstance(parts, ms.Tensor):
        parts = parts.tolist()
    if isinstance(parts, int):
        sizes = [n // parts + (i < n % parts) for i in range(parts)]
        parts = np.cumsum(sizes)[:-1].tolist()
    return ms.split(x, [p + n if p < 0 else p for p in parts], axis=dim)


def split(x: Any, size: Any, dim: int = 0) -> Any:
    if isinstance(size, int):
        return ms.split(x, list(range(size, x.shape[dim], size)), axis=dim)
    return ms.split(x, np.cumsum(size)[:-1].tolist(), axis=dim)


def chunk(x: Any, chunks: int, dim: int = 0) -> Any:
    return split(x, max(1, -(-x.shape[dim] // chunks)), dim) if x.shape[dim] else split(x, 1, dim)


def div(x: Any, y: Any, rounding_mode: Any = None) -> Any:
    if rounding_mode == "floor":
        return ms.floor_divide(x, y)
    q = ms.divide(x, y)
    if rounding_mode == "trunc":
        q = ms.trunc(q)
        whole = x.dtype.kind != "float" and (
            (not isinstance(y, ms.Tensor) and not isinstance(y, float))
            or getattr(getattr(y, "dtype", None), "kind", "float") != "float"
        )
        return ms.astype(q, ms.int64) if whole else q
    return q


def cumulative(f: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, dim: int, *, dtype: Any = None) -> Any:
        if not x.ndim:
            return ms.reshape(call(ms.reshape(x, (1,)), 0, dtype=dtype), ())
        return f(cast(x, dtype), axis=dim)

    return call


def first(f: Callable[..., Any]) -> Callable[..., Any]:
    """Only the first output is compared."""
    return lambda *a, **k: (f(*a, **k), None)


def arithmetic(f: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, y: Any, *, alpha: Any = 1) -> Any:
        return f(x, y) if type(alpha) is int and alpha == 1 else f(x, ms.multiply(y, alpha))

    return call


def logical(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *xs: f(*[ms.astype(x, ms.bool) if isinstance(x, ms.Tensor) else bool(x) for x in xs])


def sort(x: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    if not x.ndim:
        return x, ms.zeros((), dtype=ms.int64)
    return ms.sort(x, axis=dim, descending=descending), ms.argsort(x, axis=dim, descending=descending)


def topk(x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    return ms.topk(x, k, axis=dim, largest=largest) if x.ndim else (x, ms.zeros((), dtype=ms.int64))


def searchsorted(
    row: Any, x: Any, *, out_int32: bool = False, right: bool = False, side: Any = None, sorter: Any = None
) -> Any:
    need(row.ndim == 1, "rows")
    found = ms.searchsorted(row, x, side="right" if right or side == "right" else "left", sorter=sorter)
    return ms.astype(found, ms.int32) if out_int32 else found


def blas(product: Callable[..., Any]) -> Callable[..., Any]:
    def call(c: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
        return ms.add(ms.multiply(c, beta), ms.multiply(product(a, b), alpha))

    return call


def norm(x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    x = cast(x, dtype)
    kw = {"axis": axes(dim), "keepdims": keepdim}
    if ord == 2:
        return ms.sqrt(ms.sum(ms.square(x), **kw))
    if ord == 1:
        return ms.sum(ms.abs(x), **kw)
    if ord in (float("inf"), -float("inf")):
        return (ms.max if ord > 0 else ms.min)(ms.abs(x), **kw)
    raise Skip("order")


def of_any_dims(f: Callable[..., Any]) -> Callable[..., Any]:
    """PyTorch takes dim 0 of a tensor without dims."""
    return lambda x, dim=None, **kw: f(x, dim=dim if x.ndim else None, **kw)


def repeat(x: Any, *counts: Any) -> Any:
    return ms.tile(x, counts[0] if isinstance(counts[0], (list, tuple)) else counts)


def repeat_interleave(x: Any, repeats: Any, dim: Any = None, *, output_size: Any = None) -> Any:
    return ms.repeat(x if x.ndim else ms.reshape(x, (1,)), repeats, axis=dim)


def dims_of(args: Any) -> Any:
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], (list, tuple)) else args


def expand(x: Any, *shape: Any) -> Any:
    shape = dims_of(shape)
    lead = len(shape) - x.ndim
    return ms.broadcast_to(x, tuple(x.shape[i - lead] if n == -1 else n for i, n in enumerate(shape)))


def embedding(
    weight: Any,
    index: Any,
    padding_idx: Any = None,
    max_norm: Any = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    need(padding_idx is None and max_norm is None and not scale_grad_by_freq, "gradient options")
    return ms.take(weight, index, axis=0)


def linear(x: Any, w: Any, b: Any = None) -> Any:
    y = ms.matmul(x, w.T if w.ndim == 2 else w)
    return y if b is None else y + b


def clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    common = x
    for bound in (min, max):
        if bound is not None:
            common = ms.astype(common, ms.result_type(common, bound))
    return ms.clip(common, min, max)


def linspace(start: Any, end: Any, steps: int, *, dtype: Any = None, **_: Any) -> Any:
    need(dtype is None or "float" in str(dtype), "whole numbers are truncated at other places")
    return ms.linspace(
        start if isinstance(start, (int, float)) else float(start),
        end if isinstance(end, (int, float)) else float(end),
        steps,
        dtype=dtype_of(dtype),
    )


def diff(x: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    return ms.diff(x, axis=dim, n=n, prepend=prepend, append=append)


def where(x: Any, condition: Any, y: Any) -> Any:
    need(condition.dtype.kind == "bool", "a condition of numbers")
    return ms.where(condition, x, y)


def masked_fill(x: Any, mask: Any, value: Any) -> Any:
    x, mask = ms.broadcast_arrays(x, mask)
    return x.at[mask].set(value)


def einsum(xs: Any, spec: str) -> Any:
    return ms.einsum(spec, *xs)


def tensordot(a: Any, b: Any, dims: Any = 2) -> Any:
    return ms.tensordot(a, b, axes=dims)


def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    if not x.ndim:
        return ms.reshape(x, (1,))
    a, b = start_dim % x.ndim, end_dim % x.ndim
    return ms.reshape(x, (*x.shape[:a], int(np.prod(x.shape[a : b + 1])), *x.shape[b + 1 :]))


def stacked(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda xs, dim=0: f(list(xs), axis=dim)


def fmax(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, y: ms.where(ms.isnan(floating(x)), y, ms.where(ms.isnan(floating(y)), x, f(x, y)))


def item_key(x: Any, key: Any) -> Any:
    return x[tuple(key) if isinstance(key, list) and any(isinstance(k, (slice, type(None), type(...))) for k in key) else key]


UNARY = (
    "abs acos acosh asin asinh atan atanh ceil cos cosh erf erfc erfinv exp exp2 expm1 floor isfinite isinf isnan lgamma log "
    "log10 log1p log2 reciprocal rsqrt sigmoid sign signbit sin sinh sqrt square tan tanh trunc digamma positive real"
).split()

FREE_UNARY = {
    "neg": ms.negative,
    "round": lambda x, decimals=0: ms.round(x) if not decimals else ms.round(x * 10.0**decimals) / 10.0**decimals,
    "frac": lambda x: ms.fmod(x, 1.0),
    "bitwise_not": ms.bitwise_invert,
    "logical_not": logical(ms.logical_not),
    "sgn": ms.sign,
    "rad2deg": lambda x: x * (180.0 / ms.pi),
    "clone": ms.positive,
    "deg2rad": lambda x: x * (ms.pi / 180.0),
    "isneginf": lambda x: ms.isinf(x) & (x < 0),
    "isposinf": lambda x: ms.isinf(x) & (x > 0),
    "conj": ms.positive,
}

BINARY = {
    "atan2": ms.atan2,
    "copysign": ms.copysign,
    "eq": ms.equal,
    "ne": ms.not_equal,
    "lt": ms.less,
    "le": ms.less_equal,
    "gt": ms.greater,
    "ge": ms.greater_equal,
    "floor_divide": ms.floor_divide,
    "fmod": ms.fmod,
    "remainder": ms.remainder,
    "hypot": ms.hypot,
    "logaddexp": ms.logaddexp,
    "logaddexp2": lambda x, y: ms.logaddexp(x * np.log(2), y * np.log(2)) / float(np.log(2)),
    "maximum": ms.maximum,
    "minimum": ms.minimum,
    "mul": ms.multiply,
    "div": div,
    "true_divide": ms.divide,
    "pow": ms.pow,
    "nextafter": ms.nextafter,
    "add": arithmetic(ms.add),
    "sub": arithmetic(ms.subtract),
    "rsub": lambda x, y, alpha=1: ms.subtract(y, ms.multiply(x, alpha)),
    "bitwise_and": ms.bitwise_and,
    "bitwise_or": ms.bitwise_or,
    "bitwise_xor": ms.bitwise_xor,
    "bitwise_left_shift": ms.bitwise_left_shift,
    "bitwise_right_shift": ms.bitwise_right_shift,
    "logical_and": logical(ms.logical_and),
    "logical_or": logical(ms.logical_or),
    "logical_xor": logical(ms.logical_xor),
    "fmax": fmax(ms.maximum),
    "fmin": fmax(ms.minimum),
    "float_power": lambda x, y: ms.pow(
        ms.astype(x, ms.float64), ms.astype(y, ms.float64) if isinstance(y, ms.Tensor) else float(y)
    ),
    "xlogy": lambda x, y: ms.where(
        ms.equal(x, 0),
        0.0,
        ms.multiply(x, ms.log(y if isinstance(y, ms.Tensor) else ms.asarray(float(y), dtype=floating(x).dtype))),
    ),
    "ldexp": lambda x, y: x * ms.exp2(y),
    "heaviside": lambda x, v: ms.where(x == 0, v, ms.astype(x > 0, x.dtype)),
    "__radd__": lambda x, y: y + x,
    "__rsub__": lambda x, y: y - x,
    "__rmul__": lambda x, y: y * x,
    "__rdiv__": lambda x, y: y / x,
    "__rpow__": lambda x, y: y**x,
    "__rmod__": lambda x, y: y % x,
    "__rand__": lambda x, y: y & x,
    "__ror__": lambda x, y: y | x,
    "__rxor__": lambda x, y: y ^ x,
    "__rmatmul__": lambda x, y: y @ x,
}

REDUCTIONS = {
    "sum": reduction(ms.sum),
    "prod": reduction(ms.prod),
    "mean": reduction(ms.mean),
    "amax": reduction(ms.max),
    "amin": reduction(ms.min),
    "all": reduction(ms.all),
    "any": reduction(ms.any),
    "logsumexp": reduction(ms.logsumexp),
    "var": moment(ms.var),
    "std": moment(ms.std),
    "var_mean": with_mean(moment(ms.var)),
    "std_mean": with_mean(moment(ms.std)),
    "argmax": arg(ms.argmax),
    "argmin": arg(ms.argmin),
    "count_nonzero": of_any_dims(lambda x, dim=None: ms.count_nonzero(x, axis=axes(dim))),
    "max": extremum(ms.max, ms.argmax, ms.maximum),
    "min": extremum(ms.min, ms.argmin, ms.minimum),
    "nansum": of_any_dims(
        lambda x, dim=None, keepdim=False, dtype=None: ms.sum(
            cast(ms.where(ms.isnan(floating(x)), 0, x), dtype), axis=axes(dim), keepdims=keepdim
        )
    ),
    "aminmax": of_any_dims(
        lambda x, dim=None, keepdim=False: (ms.min(x, axis=dim, keepdims=keepdim), ms.max(x, axis=dim, keepdims=keepdim))
    ),
    "linalg.vector_norm": lambda x, ord=2, dim=None, **kw: norm(x, ord, dim if x.ndim else None, **kw),
    "trace": lambda x: ms.sum(ms.diagonal(x)),
    "cumsum": cumulative(ms.cumulative_sum),
    "cumprod": cumulative(ms.cumulative_prod),
    "cummax": first(cumulative(ms.cumulative_max)),
    "cummin": first(cumulative(ms.cumulative_min)),
    "diff": diff,
    "softmax": softmax_of(ms.softmax),
    "log_softmax": softmax_of(ms.log_softmax),
    "sort": sort,
    "msort": lambda x: sort(x, 0)[0],
    "argsort": lambda x, dim=-1, descending=False, stable=False: sort(x, dim, descending)[1],
    "topk": topk,
    "searchsorted": searchsorted,
    "bucketize": lambda x, row, *, right=False, out_int32=False: searchsorted(row, x, right=right, out_int32=out_int32),
}

MOVEMENT = {
    "reshape": lambda x, shape: ms.reshape(x, shape),
    "view": lambda x, *s: ms.reshape(x, dims_of(s)),
    "permute": lambda x, *d: ms.permute_dims(x, dims_of(d)),
    "transpose": lambda x, a, b: ms.swapaxes(x, a, b) if x.ndim else x,
    "movedim": lambda x, a, b: ms.moveaxis(x, a, b),
    "t": lambda x: ms.permute_dims(x, tuple(range(x.ndim))[::-1]),
    "T": lambda x: ms.permute_dims(x, tuple(range(x.ndim))[::-1]),
    "mT": lambda x: x.mT,
    "flatten": flatten,
    "ravel": lambda x: ms.reshape(x, (-1,)),
    "squeeze": lambda x, dim=None: (
        ms.squeeze(x, dim)
        if dim is None
        else ms.squeeze(x, tuple(d for d in (dim if isinstance(dim, (tuple, list)) else (dim,)) if x.ndim and x.shape[d] == 1))
    ),
    "unsqueeze": lambda x, dim: ms.expand_dims(x, axis=dim),
    "expand": expand,
    "expand_as": lambda x, y: ms.broadcast_to(x, y.shape),
    "broadcast_to": lambda x, shape: expand(x, shape),
    "broadcast_tensors": lambda *xs: ms.broadcast_arrays(*xs),
    "flip": lambda x, dims: ms.flip(x, axis=dims) if len(dims) else x,
    "fliplr": lambda x: ms.flip(x, axis=1),
    "flipud": lambda x: ms.flip(x, axis=0),
    "roll": lambda x, shifts, dims=None: x if not x.ndim and dims is not None else ms.roll(x, shifts, axis=axes(dims)),
    "tile": lambda x, reps: ms.tile(x, reps),
    "repeat": repeat,
    "repeat_interleave": repeat_interleave,
    "cat": stacked(ms.concat),
    "stack": stacked(ms.stack),
    "hstack": lambda xs: ms.concat([x if x.ndim else ms.reshape(x, (1,)) for x in xs], axis=0 if xs[0].ndim < 2 else 1),
    "unbind": lambda x, dim=0: ms.unstack(x, axis=dim),
    "split": split,
    "split_with_sizes": split,
    "chunk": chunk,
    "tensor_split": tensor_split,
    "narrow": lambda x, dim, start, length: x[at_dim(x, dim, slice(s := int(start) % max(1, x.shape[dim]), s + length))],
    "select": lambda x, dim, index: x[at_dim(x, dim, index)],
    "tril": lambda x, diagonal=0: ms.tril(x, k=diagonal),
    "triu": lambda x, diagonal=0: ms.triu(x, k=diagonal),
    "diagonal": lambda x, offset=0, dim1=0, dim2=1: ms.diagonal(x, offset=offset, axis1=dim1, axis2=dim2),
    "meshgrid": lambda *xs, indexing="ij": ms.meshgrid(*dims_of(xs), indexing=indexing),
    "nn.functional.pad": pad,
    "constant_pad_nd": lambda x, p, value=0: pad(x, p, "constant", value),
    "unflatten": lambda x, dim, sizes: ms.reshape(x, (*x.shape[: dim % x.ndim], *sizes, *x.shape[dim % x.ndim + 1 :])),
    "linspace": linspace,
    "eye": lambda n, m=None, dtype=None, **_: ms.eye(n, m, dtype=dtype_of(dtype)),
    "full_like": lambda x, v, dtype=None, **_: ms.full_like(x, v, dtype=dtype_of(dtype)),
    "zeros_like": lambda x, dtype=None, **_: ms.zeros_like(x, dtype=dtype_of(dtype)),
    "ones_like": lambda x, dtype=None, **_: ms.ones_like(x, dtype=dtype_of(dtype)),
    "linalg.diagonal": lambda x, offset=0, dim1=-2, dim2=-1: ms.diagonal(x, offset=offset, axis1=dim1, axis2=dim2),
}

INDEXING = {
    "gather": along,
    "take_along_dim": lambda x, index, dim=None: (
        ms.take_along_axis(x, index, axis=dim) if dim is not None else ms.take(ms.reshape(x, (-1,)), ms.reshape(index, (-1,)))
    ),
    "take": lambda x, index: ms.take(ms.reshape(x, (-1,)), index),
    "index_select": lambda x, dim, index: (
        ms.take(x, ms.reshape(index, (-1,)), axis=dim)
        if x.ndim
        else ms.reshape(ms.take(ms.reshape(x, (1,)), ms.reshape(index, (-1,))), ())
    ),
    "scatter": scatter("set"),
    "scatter_add": scatter("add"),
    "scatter_reduce": scatter("add"),
    "index_add": index_update("add"),
    "index_copy": index_update("set"),
    "index_fill": index_update("fill"),
    "index_put": index_put,
    "masked_fill": masked_fill,
    "masked_select": lambda x, mask: ms.broadcast_arrays(x, mask)[0][ms.broadcast_arrays(x, mask)[1]],
    "where": where,
    "select_scatter": lambda x, src, dim, index: x.at[at_dim(x, dim, index)].set(src),
    "slice_scatter": lambda x, src, dim=0, start=None, end=None, step=1: x.at[at_dim(x, dim, slice(start, end, step))].set(src),
    "nn.functional.one_hot": lambda x, num_classes=-1: ms.one_hot(
        x, num_classes if num_classes >= 0 else int(ms.max(x)) + 1, dtype=ms.int64
    ),
    "nn.functional.embedding": embedding,
    "__getitem__": item_key,
    "argwhere": lambda x: ms.stack(ms.nonzero(x), axis=1) if x.ndim else None,
}

CONTRACT = {
    "matmul": ms.matmul,
    "mm": ms.matmul,
    "bmm": ms.matmul,
    "mv": ms.matmul,
    "dot": ms.vecdot,
    "vdot": ms.vecdot,
    "inner": lambda a, b: ms.tensordot(a, b, axes=((-1,), (-1,))) if a.ndim and b.ndim else a * b,
    "outer": ms.outer,
    "addmm": blas(ms.matmul),
    "addmv": blas(ms.matmul),
    "baddbmm": blas(ms.matmul),
    "addr": blas(ms.outer),
    "addbmm": blas(lambda a, b: ms.sum(ms.matmul(a, b), axis=0)),
    "einsum": einsum,
    "tensordot": tensordot,
    "linalg.vecdot": lambda a, b, dim=-1: ms.vecdot(
        *ms.broadcast_arrays(a, b), axis=dim if dim < 0 else dim - max(a.ndim, b.ndim)
    ),
    "nn.functional.linear": linear,
}

OTHER = {
    "clamp": clamp,
    "clamp_min": lambda x, m: clamp(x, min=m),
    "clamp_max": lambda x, m: clamp(x, max=m),
    "lerp": lambda x, y, w: x + w * (y - x),
    "addcmul": lambda x, a, b, value=1: x + a * b * value,
    "addcdiv": lambda x, a, b, value=1: x + ms.divide(a, b) * value,
    "float": lambda x, **_: ms.astype(x, ms.float32),
    "double": lambda x, **_: ms.astype(x, ms.float64),
    "long": lambda x, **_: ms.astype(x, ms.int64),
    "int": lambda x, **_: ms.astype(x, ms.int32),
    "bool": lambda x, **_: ms.astype(x, ms.bool),
    "short": lambda x, **_: ms.astype(x, ms.int16),
    "half": lambda x, **_: ms.astype(x, ms.float16),
    "bfloat16": lambda x, **_: ms.astype(x, ms.bfloat16),
}
