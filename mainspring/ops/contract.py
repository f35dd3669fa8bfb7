"""The contraction family: `contract` (every matmul, einsum and tensordot) and `conv` (1-3 d, strided, dilated, grouped).

Both are one thing, a sum of products over reduced dims, and both are closed under differentiation: the gradients of a
contraction are contractions, those of a convolution are convolutions. Convolutions are channels-last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from mainspring.base.errors import ArgumentError, DTypeError, ShapeError
from mainspring.interpret.eager import as_value
from mainspring.ir import scalar as s
from mainspring.ir.bind import Value, bind
from mainspring.ir.op import Op, Space, register
from mainspring.ops.common import broadcast, cast_to, promoted, require_kind
from mainspring.ops.movement import expand_dims, flip, permute_dims, reshape, squeeze
from mainspring.ops.reduce import SUM
from mainspring.types.dtype import DType, as_dtype, float32
from mainspring.types.shape import Shape, TensorType, broadcast_shapes, normalize_axes

# ------------------------------------------------------------------------------------------------------- contract


def _labels(spec: str) -> tuple[str, str, str]:
    inputs, out = spec.split("->")
    a, b = inputs.split(",")
    return a, b, out


def _extents(spec: str, a: Shape, b: Shape) -> dict[str, int]:
    la, lb, _ = _labels(spec)
    found: dict[str, int] = {}
    for label, n in [*zip(la, a, strict=True), *zip(lb, b, strict=True)]:
        if found.setdefault(label, n) != n:
            raise ShapeError("contract", f"dim {label!r} of {spec!r}", "must have the same extent in both operands",
                             f"{a} and {b}",
                             "ms.matmul(ms.ones((2, 3)), ms.ones((3, 4)))")
    return found


def accumulator(dtype: DType) -> DType:
    """The dtype in which products of `dtype` are summed: float32 for 16-bit floats, else itself."""
    return float32 if dtype.kind == "float" and dtype.bits == 16 else dtype


def _bytes(*operands: Any) -> bool:
    """Whether all operands are integers of 8 bits, which may differ in sign."""
    return all(x.dtype.bits == 8 and x.dtype.kind in ("int", "uint") for x in operands)


def _require_pair(where: str, a: TensorType, b: TensorType, dtype: DType) -> None:
    """Operands of one dtype, or any two integers of 8 bits; sums of a dtype that holds them."""
    require_kind(where, "a", a.dtype, "numeric")
    if a.dtype is not b.dtype and not _bytes(a, b):
        raise DTypeError(where, "operands", "must have equal dtypes (the public functions promote)", f"{a}, {b}")
    if dtype.kind == "bool" or (dtype.kind == "float") != (a.dtype.kind == "float"):
        raise DTypeError(where, "dtype", "must be a float for floats and an integer for integers", f"{dtype.name} of {a}, {b}",
                         "ms.matmul(x, y, dtype=ms.int32)")


def _contract_infer(a: TensorType, b: TensorType, spec: str, dtype: DType) -> TensorType:
    _require_pair("contract", a, b, dtype)
    extents = _extents(spec, a.shape, b.shape)
    return TensorType(tuple(extents[c] for c in _labels(spec)[2]), dtype)


@lru_cache(1024)
def _arranged(spec: str, a: Shape, b: Shape) -> tuple[tuple[Shape, Shape], ...]:
    """(order of dims, shape) of a as (batch, rows, k), of b as (batch, k, columns) and of the result of their np.matmul."""
    la, lb, lo = _labels(spec)
    extents = _extents(spec, a, b)
    batch = [c for c in la if c in lb and c in lo]
    k = [c for c in la if c in lb and c not in lo]
    rows, columns = [c for c in la if c not in lb], [c for c in lb if c not in la]
    natural = [*batch, *rows, *columns]

    def way(labels: str, *groups: list[str]) -> tuple[Shape, Shape]:
        order = tuple(labels.index(c) for group in groups for c in group)
        return order, tuple(math.prod(extents[c] for c in group) for group in groups)

    return (way(la, batch, rows, k), way(lb, batch, k, columns),
            (tuple(natural.index(c) for c in lo), tuple(extents[c] for c in natural)))


def _contract_reference(a: np.ndarray, b: np.ndarray, spec: str, dtype: DType) -> np.ndarray:
    """Through np.matmul on (batch, rows, k) and (batch, k, columns)."""
    (order_a, shape_a), (order_b, shape_b), (order, shape) = _arranged(spec, a.shape, b.shape)
    wide = accumulator(dtype).numpy
    left = a.astype(wide, copy=False).transpose(order_a).reshape(shape_a)
    right = b.astype(wide, copy=False).transpose(order_b).reshape(shape_b)
    return np.matmul(left, right).reshape(shape).transpose(order).astype(dtype.numpy, copy=False)


def _contract_space(a: TensorType, b: TensorType, spec: str, dtype: DType) -> Space:
    la, lb, lo = _labels(spec)
    extents = _extents(spec, a.shape, b.shape)
    reduced = [c for c in la if c not in lo]
    wide = accumulator(dtype)

    def element(read: Callable[..., Any], *index: Any) -> Any:
        place = dict(zip([*lo, *reduced], index, strict=True))
        x, y = read(0, *[place[c] for c in la]), read(1, *[place[c] for c in lb])
        return s.apply("mul", s.cast(x, wide), s.cast(y, wide))

    return Space(tuple(extents[c] for c in lo), element, tuple(extents[c] for c in reduced), "sum")


def _contract_vjp(ct: Value, out: Value, a: Value, b: Value, spec: str, dtype: DType) -> tuple[Any, Any]:
    la, lb, lo = _labels(spec)
    return (lambda: bind(CONTRACT, cast_to(ct, a.dtype), b, spec=f"{lo},{lb}->{la}", dtype=a.dtype),
            lambda: bind(CONTRACT, a, cast_to(ct, b.dtype), spec=f"{la},{lo}->{lb}", dtype=b.dtype))


CONTRACT = register(Op("contract", _contract_infer, _contract_reference, _contract_space, _contract_vjp,
                       "Products of `a` and `b`, summed over the labels that `spec` (an einsum of two operands) leaves out."))


# the chains of a product: what `contract` adds up (docs/numerics.md), each as a product of its own


def _chains_infer(a: TensorType, b: TensorType, spec: str, dtype: DType, chunks: int) -> TensorType:
    whole = _contract_infer(a, b, spec, dtype)
    if a.shape[_labels(spec)[0].index(_reduced(spec))] % chunks:
        raise ShapeError("chains", "chunks", "must divide the reduced dim", f"{chunks} of {a}, {b} by {spec!r}")
    return TensorType((chunks, *whole.shape), dtype)


def _reduced(spec: str) -> str:
    """The one label that `spec` leaves out."""
    la, _, lo = _labels(spec)
    left = [c for c in la if c not in lo]
    if len(left) != 1:
        raise ShapeError("chains", "spec", "must leave out one label", spec)
    return left[0]


def _chunked(spec: str) -> tuple[str, str, str]:
    """Labels of a, of b and of the result where the reduced dim is two, its chunks and their elements."""
    chunk, element = [c for c in _ALPHABET if c not in spec][:2]
    la, lb, lo = _labels(spec)
    k = _reduced(spec)
    return la.replace(k, chunk + element), lb.replace(k, chunk + element), chunk + lo


def _halved(shape: Shape, labels: str, label: str, chunks: int) -> Shape:
    """`shape` with the dim `label` as two, `chunks` of them."""
    i = labels.index(label)
    return (*shape[:i], chunks, shape[i] // chunks, *shape[i + 1:])


def _chains_reference(a: np.ndarray, b: np.ndarray, spec: str, dtype: DType, chunks: int) -> np.ndarray:
    k, (la, lb, _) = _reduced(spec), _labels(spec)
    inner_a, inner_b, inner_out = _chunked(spec)
    a, b = a.reshape(_halved(a.shape, la, k, chunks)), b.reshape(_halved(b.shape, lb, k, chunks))
    return _contract_reference(a, b, f"{inner_a},{inner_b}->{inner_out}", dtype)


def _chains_space(a: TensorType, b: TensorType, spec: str, dtype: DType, chunks: int) -> Space:
    whole = _contract_space(a, b, spec, dtype)
    size = whole.reduced[0] // chunks

    def element(read: Callable[..., Any], chunk: Any, *index: Any) -> Any:
        return whole.element(read, *index[:-1], chunk * size + index[-1])

    return Space((chunks, *whole.extents), element, (size,), "sum")


def _chains_vjp(ct: Value, out: Value, a: Value, b: Value, spec: str, dtype: DType, chunks: int) -> tuple[Any, Any]:
    k, (la, lb, _) = _reduced(spec), _labels(spec)
    inner_a, inner_b, inner_out = _chunked(spec)

    def of_a() -> Any:
        halved = reshape(b, _halved(b.shape, lb, k, chunks))
        spec_a = f"{inner_out},{inner_b}->{inner_a}"
        return reshape(bind(CONTRACT, cast_to(ct, b.dtype), halved, spec=spec_a, dtype=a.dtype), a.shape)

    def of_b() -> Any:
        halved = reshape(a, _halved(a.shape, la, k, chunks))
        spec_b = f"{inner_a},{inner_out}->{inner_b}"
        return reshape(bind(CONTRACT, halved, cast_to(ct, a.dtype), spec=spec_b, dtype=b.dtype), b.shape)

    return of_a, of_b


CHAINS = register(Op("chains", _chains_infer, _chains_reference, _chains_space, _chains_vjp,
                     "`contract` before its `chunks` of the one reduced dim are added up: dim 0 of the result counts them."))


def _pair(where: str, a: Any, b: Any, dtype: Any = None) -> tuple[Value, Value]:
    """Both in their common dtype; integers of 8 bits whose products are summed in another one stay as they are."""
    if dtype is not None:
        left, right = as_value(a, where), as_value(b, where)
        if _bytes(left, right):
            return left, right
    x, y = promoted(where, a, b)
    require_kind(where, "x1", x.dtype, "numeric")
    return x, y


def _result_dtype(where: str, operand: Value, dtype: Any) -> DType:
    return operand.dtype if dtype is None else as_dtype(dtype, where)


_ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def matmul(x1: Any, x2: Any, /, *, dtype: Any = None) -> Any:
    """The matrix product over the last dim of `x1` and the second last (or only) dim of `x2`; leading dims broadcast.

    Shapes: (…, m, k) @ (…, k, n) -> (…, m, n); a 1-d operand is a row on the left, a column on the right.

    Args:
        dtype: of the sums and the result; by default the operands' common dtype. int8 and uint8, in any mixture, with
            ``dtype=ms.int32`` are multiplied as they are and summed without overflow (exact below 2¹⁵ products);
            bfloat16 with ``dtype=ms.float32`` keeps the digits of the sums.
    """
    a, b = _pair("matmul", x1, x2, dtype)
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError("matmul", "x1" if a.ndim == 0 else "x2", "must have at least 1 dim; multiply scalars with *",
                         f"{a.shape} @ {b.shape}", "ms.matmul(ms.ones((2, 3)), ms.ones((3, 4)))")
    left, right = (expand_dims(a, axis=0) if a.ndim == 1 else a), (expand_dims(b, axis=1) if b.ndim == 1 else b)
    if left.shape[-1] != right.shape[-2]:
        raise ShapeError("matmul", "x2", f"its dim {-2 if b.ndim > 1 else 0} must equal the last dim of x1",
                         f"{a.shape} @ {b.shape}",
                         "ms.matmul(ms.ones((2, 3)), ms.ones((3, 4)))")
    product = _batched(left, right, _result_dtype("matmul", a, dtype))
    if a.ndim == 1:
        product = squeeze(product, -2)
    return squeeze(product, -1) if b.ndim == 1 else product


def _batched(a: Value, b: Value, dtype: DType) -> Value:
    batch = broadcast_shapes(a.shape[:-2], b.shape[:-2], where="matmul")
    names = _ALPHABET[: len(batch)]
    if not any(n != 1 for n in b.shape[:-2]) and len(b.shape) - 2 <= len(a.shape) - 2:
        b = reshape(b, b.shape[-2:])  # one matrix for all rows: no batch at all
        return bind(CONTRACT, a, b, spec=f"{names}XK,KY->{names}XY", dtype=dtype)
    a, b = broadcast(a, (*batch, *a.shape[-2:])), broadcast(b, (*batch, *b.shape[-2:]))
    return bind(CONTRACT, a, b, spec=f"{names}XK,{names}KY->{names}XY", dtype=dtype)


def vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """Σ x1·x2 along `axis`, the other dims broadcast."""
    a, b = _pair("vecdot", x1, x2)
    if axis >= 0 or axis < -min(a.ndim, b.ndim):
        raise ArgumentError("vecdot", "axis", f"must lie in [-{min(a.ndim, b.ndim)}, -1]", str(axis),
                            "ms.vecdot(x, y, axis=-1)")
    if a.shape[axis] != b.shape[axis]:
        raise ShapeError("vecdot", "x2", f"must have the extent of x1 in dim {axis}", f"{a.shape} and {b.shape}")
    a, b = (permute_dims(v, (*[i for i in range(v.ndim) if i != v.ndim + axis], v.ndim + axis)) for v in (a, b))
    shape = broadcast_shapes(a.shape[:-1], b.shape[:-1], where="vecdot")
    names = _ALPHABET[: len(shape)]
    a, b = broadcast(a, (*shape, a.shape[-1])), broadcast(b, (*shape, b.shape[-1]))
    return bind(CONTRACT, a, b, spec=f"{names}K,{names}K->{names}", dtype=a.dtype)


def tensordot(x1: Any, x2: Any, /, *, axes: int | Sequence[Sequence[int]] = 2) -> Any:
    """Products summed over `axes`: the last n dims of `x1` with the first n of `x2`, or two equally long lists of dims."""
    a, b = _pair("tensordot", x1, x2)
    if isinstance(axes, int):
        if axes < 0:
            raise ArgumentError("tensordot", "axes", "must be ≥ 0, or two sequences of dims", str(axes),
                                "ms.tensordot(a, b, axes=1)")
        of_a, of_b = tuple(range(a.ndim - axes, a.ndim)), tuple(range(axes))
    else:
        if not isinstance(axes, Sequence) or len(axes) != 2:
            raise ArgumentError("tensordot", "axes", "must be an int or two sequences of dims", repr(axes),
                                "ms.tensordot(a, b, axes=((1,), (0,)))")
        of_a, of_b = (normalize_axes(x, v.ndim, "tensordot", "axes") for x, v in zip(axes, (a, b), strict=True))
    exist = len(of_a) == len(of_b) <= b.ndim and all(i >= 0 for i in of_a)
    if not exist or [a.shape[i] for i in of_a] != [b.shape[i] for i in of_b]:
        raise ShapeError("tensordot", "axes", "must pair dims of equal extent", f"{a.shape} and {b.shape} over {axes}",
                         "ms.tensordot(ms.ones((2, 3)), ms.ones((3, 4)), axes=1)")
    la = list(_ALPHABET[: a.ndim])
    lb = list(_ALPHABET[a.ndim: a.ndim + b.ndim])
    for i, j in zip(of_a, of_b, strict=True):
        lb[j] = la[i]
    out = [c for i, c in enumerate(la) if i not in of_a] + [c for j, c in enumerate(lb) if j not in of_b]
    return bind(CONTRACT, a, b, spec=f"{''.join(la)},{''.join(lb)}->{''.join(out)}", dtype=a.dtype)


def outer(x1: Any, x2: Any, /) -> Any:
    """Products of all pairs of two vectors: shape (m, n)."""
    a, b = _pair("outer", x1, x2)
    return bind(CONTRACT, reshape(a, (-1,)), reshape(b, (-1,)), spec="a,b->ab", dtype=a.dtype)


def einsum(spec: str, *operands: Any) -> Any:
    """The sum of products that `spec` says, e.g. ``"bik,bkj->bij"``; operands are contracted from left to right.

    Each label is one letter; ``...`` stands for leading dims that broadcast; without ``->`` the result has the labels that
    occur once, in alphabetical order.
    """
    if not isinstance(spec, str) or not operands or set(spec) - set(_ALPHABET) - set(",->. "):
        raise ArgumentError("einsum", "spec", "must be a text of letters, commas, -> and ..., followed by at least one operand",
                            f"{spec!r} with {len(operands)} operands", 'ms.einsum("ik,kj->ij", a, b)')
    values = promoted("einsum", *operands)
    inputs, out = _parse_einsum(spec, values)
    labels, value = inputs[0], values[0]
    if len(values) == 1:
        labels, value = _diagonals(labels, value)
    for i in range(1, len(values)):
        needed = set(out).union(*inputs[i + 1:])
        (labels, value), (lb, b) = _diagonals(labels, value), _diagonals(inputs[i], values[i])
        labels, value = _sum_out(labels, value, needed | set(lb))
        lb, b = _sum_out(lb, b, needed | set(labels))
        value, b = _match_ones(labels, value, lb, b)
        kept = "".join(c for c in dict.fromkeys(labels + lb) if c in needed)
        value = bind(CONTRACT, value, b, spec=f"{labels},{lb}->{kept}", dtype=value.dtype)
        labels = kept
    labels, value = _sum_out(labels, value, set(out))
    return permute_dims(value, tuple(labels.index(c) for c in out)) if out else value


def _parse_einsum(spec: str, values: Sequence[Value]) -> tuple[list[str], str]:
    left, arrow, out = spec.replace(" ", "").partition("->")
    inputs = left.split(",")
    example = 'ms.einsum("ik,kj->ij", a, b)'
    if len(inputs) != len(values):
        raise ArgumentError("einsum", "spec", f"must name {len(values)} operands", spec, example)
    spare = [c for c in _ALPHABET if c not in spec]
    widest = max((v.ndim - len(t.replace("...", "")) for t, v in zip(inputs, values, strict=True) if "..." in t), default=0)
    dots = "".join(spare[:max(widest, 0)])
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        out = ("..." if "..." in left else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    full = []
    for position, (term, v) in enumerate(zip(inputs, values, strict=True)):
        extra = v.ndim - len(term.replace("...", ""))
        if extra < 0 or (extra and "..." not in term):
            raise ShapeError("einsum", f"operands[{position}]", f"must have the dims {term!r} names", str(v.shape), example)
        full.append(term.replace("...", dots[len(dots) - extra:]))
    out = out.replace("...", dots)
    if len(set(out)) != len(out) or not set(out) <= set("".join(full)):
        raise ArgumentError("einsum", "spec", "the result's labels must differ and occur in an operand", spec, example)
    _check_labels(spec, full, values)
    return full, out


def _check_labels(spec: str, inputs: Sequence[str], values: Sequence[Value]) -> None:
    """Each label has one extent, or 1 in an operand that is then broadcast."""
    extents: dict[str, int] = {}
    for position, (labels, v) in enumerate(zip(inputs, values, strict=True)):
        for label, n in zip(labels, v.shape, strict=True):
            if n != 1 and extents.setdefault(label, n) != n:
                raise ShapeError("einsum", f"operands[{position}]", f"label {label!r} of {spec!r} must have one extent",
                                 ", ".join(str(v.shape) for v in values),
                                 'ms.einsum("ik,kj->ij", ms.ones((2, 3)), ms.ones((3, 4)))')


def _diagonals(labels: str, value: Value) -> tuple[str, Value]:
    """Repeated labels of one operand taken along their diagonal."""
    for c in dict.fromkeys(labels):
        while labels.count(c) > 1:
            i, j = labels.index(c), labels.rindex(c)
            n = value.shape[i]
            value = permute_dims(value, (*[k for k in range(value.ndim) if k not in (i, j)], i, j))
            rest = value.shape[:-2]
            value = reshape(value, (*rest, n * n))[..., :: n + 1]  # type: ignore[index]
            labels = "".join(x for k, x in enumerate(labels) if k not in (i, j)) + c
    return labels, value


def _sum_out(labels: str, value: Value, needed: set[str]) -> tuple[str, Value]:
    axes = tuple(i for i, c in enumerate(labels) if c not in needed)
    return ("".join(c for c in labels if c in needed), bind(SUM, value, axes=axes)) if axes else (labels, value)


def _match_ones(la: str, a: Value, lb: str, b: Value) -> tuple[Value, Value]:
    """Broadcast extents of 1 that a shared label has on one side only."""
    sizes = {c: max(a.shape[la.index(c)] if c in la else 1, b.shape[lb.index(c)] if c in lb else 1) for c in la + lb}
    wide_a = tuple(sizes[c] if c in lb else n for c, n in zip(la, a.shape, strict=True))
    wide_b = tuple(sizes[c] if c in la else n for c, n in zip(lb, b.shape, strict=True))
    return (broadcast(a, wide_a) if all(n in (1, m) for n, m in zip(a.shape, wide_a, strict=True)) else a,
            broadcast(b, wide_b) if all(n in (1, m) for n, m in zip(b.shape, wide_b, strict=True)) else b)


# ----------------------------------------------------------------------------------------------------------- conv

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
    _require_pair("conv", x, w, dtype)
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
    a, b = _pair("conv", x, w, dtype)
    d = b.ndim - 2
    if a.ndim != b.ndim or not 1 <= d <= 3:
        raise ShapeError("conv", "w",
                         "x is (batch, 1 to 3 spatial dims, channels), w (window dims, channels/groups, out channels)",
                         f"{a._type}, {b._type}", "ms.conv(ms.ones((1, 8, 8, 3)), ms.ones((3, 3, 3, 16)))")
    strides, spread = _per_dim(stride, d, "conv", "stride"), _per_dim(dilation, d, "conv", "dilation")
    pads = conv_padding(padding, a.shape[1:-1], b.shape[:-2], strides, spread)
    return bind(CONV, a, b, stride=strides, padding=pads, dilation=(1,) * d, window_dilation=spread, groups=groups,
                dtype=_result_dtype("conv", a, dtype))


def conv_transpose(x: Any, w: Any, /, *, stride: int | Sequence[int] = 1, padding: int | Sequence[Any] = 0,
                   output_padding: int | Sequence[int] = 0,
                   dilation: int | Sequence[int] = 1, groups: int = 1) -> Any:
    """The transpose of `conv` in its input: spreads `x` by `stride` (a "deconvolution").

    Args:
        x: (batch, *spatial, channels). w: (*window, out channels / groups, channels): the w of the `conv` it transposes.
        padding: what that `conv` padded, so it is cut off here. output_padding: extra places at the high end.

    Returns: (batch, *places, out channels) with places = (n-1)·stride - 2·padding + dilation·(window-1) + output_padding + 1.
    """
    a, b = _pair("conv_transpose", x, w)
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

