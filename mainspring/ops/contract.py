"""Contractions: `contract` (every matmul, einsum and tensordot), and `chains`, the same before its last sum.

A contraction is a sum of products over reduced dims, closed under differentiation: its gradients are contractions. So are
convolutions (`mainspring.ops.conv`).
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
from mainspring.ops.movement import expand_dims, permute_dims, reshape, squeeze
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


def require_pair(where: str, a: TensorType, b: TensorType, dtype: DType) -> None:
    """Operands of one dtype, or any two integers of 8 bits; sums of a dtype that holds them."""
    require_kind(where, "a", a.dtype, "numeric")
    if a.dtype is not b.dtype and not _bytes(a, b):
        raise DTypeError(where, "operands", "must have equal dtypes (the public functions promote)", f"{a}, {b}")
    if dtype.kind == "bool" or (dtype.kind == "float") != (a.dtype.kind == "float"):
        raise DTypeError(where, "dtype", "must be a float for floats and an integer for integers", f"{dtype.name} of {a}, {b}",
                         "ms.matmul(x, y, dtype=ms.int32)")


def _contract_infer(a: TensorType, b: TensorType, spec: str, dtype: DType) -> TensorType:
    require_pair("contract", a, b, dtype)
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
    chunk, element = [c for c in LETTERS if c not in spec][:2]
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


def paired(where: str, a: Any, b: Any, dtype: Any = None) -> tuple[Value, Value]:
    """Both in their common dtype; integers of 8 bits whose products are summed in another one stay as they are."""
    if dtype is not None:
        left, right = as_value(a, where), as_value(b, where)
        if _bytes(left, right):
            return left, right
    x, y = promoted(where, a, b)
    require_kind(where, "x1", x.dtype, "numeric")
    return x, y


def result_dtype(where: str, operand: Value, dtype: Any) -> DType:
    return operand.dtype if dtype is None else as_dtype(dtype, where)


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def matmul(x1: Any, x2: Any, /, *, dtype: Any = None) -> Any:
    """The matrix product over the last dim of `x1` and the second last (or only) dim of `x2`; leading dims broadcast.

    Shapes: (…, m, k) @ (…, k, n) -> (…, m, n); a 1-d operand is a row on the left, a column on the right.

    Args:
        dtype: of the sums and the result; by default the operands' common dtype. int8 and uint8, in any mixture, with
            ``dtype=ms.int32`` are multiplied as they are and summed without overflow (exact below 2¹⁵ products);
            bfloat16 with ``dtype=ms.float32`` keeps the digits of the sums.
    """
    a, b = paired("matmul", x1, x2, dtype)
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError("matmul", "x1" if a.ndim == 0 else "x2", "must have at least 1 dim; multiply scalars with *",
                         f"{a.shape} @ {b.shape}", "ms.matmul(ms.ones((2, 3)), ms.ones((3, 4)))")
    left, right = (expand_dims(a, axis=0) if a.ndim == 1 else a), (expand_dims(b, axis=1) if b.ndim == 1 else b)
    if left.shape[-1] != right.shape[-2]:
        raise ShapeError("matmul", "x2", f"its dim {-2 if b.ndim > 1 else 0} must equal the last dim of x1",
                         f"{a.shape} @ {b.shape}",
                         "ms.matmul(ms.ones((2, 3)), ms.ones((3, 4)))")
    product = _batched(left, right, result_dtype("matmul", a, dtype))
    if a.ndim == 1:
        product = squeeze(product, -2)
    return squeeze(product, -1) if b.ndim == 1 else product


def _batched(a: Value, b: Value, dtype: DType) -> Value:
    batch = broadcast_shapes(a.shape[:-2], b.shape[:-2], where="matmul")
    names = LETTERS[: len(batch)]
    if not any(n != 1 for n in b.shape[:-2]) and len(b.shape) - 2 <= len(a.shape) - 2:
        b = reshape(b, b.shape[-2:])  # one matrix for all rows: no batch at all
        return bind(CONTRACT, a, b, spec=f"{names}XK,KY->{names}XY", dtype=dtype)
    a, b = broadcast(a, (*batch, *a.shape[-2:])), broadcast(b, (*batch, *b.shape[-2:]))
    return bind(CONTRACT, a, b, spec=f"{names}XK,{names}KY->{names}XY", dtype=dtype)


def vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """Σ x1·x2 along `axis`, the other dims broadcast."""
    a, b = paired("vecdot", x1, x2)
    if axis >= 0 or axis < -min(a.ndim, b.ndim):
        raise ArgumentError("vecdot", "axis", f"must lie in [-{min(a.ndim, b.ndim)}, -1]", str(axis),
                            "ms.vecdot(x, y, axis=-1)")
    if a.shape[axis] != b.shape[axis]:
        raise ShapeError("vecdot", "x2", f"must have the extent of x1 in dim {axis}", f"{a.shape} and {b.shape}")
    a, b = (permute_dims(v, (*[i for i in range(v.ndim) if i != v.ndim + axis], v.ndim + axis)) for v in (a, b))
    shape = broadcast_shapes(a.shape[:-1], b.shape[:-1], where="vecdot")
    names = LETTERS[: len(shape)]
    a, b = broadcast(a, (*shape, a.shape[-1])), broadcast(b, (*shape, b.shape[-1]))
    return bind(CONTRACT, a, b, spec=f"{names}K,{names}K->{names}", dtype=a.dtype)


def tensordot(x1: Any, x2: Any, /, *, axes: int | Sequence[Sequence[int]] = 2) -> Any:
    """Products summed over `axes`: the last n dims of `x1` with the first n of `x2`, or two equally long lists of dims."""
    a, b = paired("tensordot", x1, x2)
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
    la = list(LETTERS[: a.ndim])
    lb = list(LETTERS[a.ndim: a.ndim + b.ndim])
    for i, j in zip(of_a, of_b, strict=True):
        lb[j] = la[i]
    out = [c for i, c in enumerate(la) if i not in of_a] + [c for j, c in enumerate(lb) if j not in of_b]
    return bind(CONTRACT, a, b, spec=f"{''.join(la)},{''.join(lb)}->{''.join(out)}", dtype=a.dtype)


def outer(x1: Any, x2: Any, /) -> Any:
    """Products of all pairs of two vectors: shape (m, n)."""
    a, b = paired("outer", x1, x2)
    return bind(CONTRACT, reshape(a, (-1,)), reshape(b, (-1,)), spec="a,b->ab", dtype=a.dtype)
