"""`einsum`: any product of operands with named dims, as contractions from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mainspring.base.errors import ArgumentError, ShapeError
from mainspring.ir.bind import Value, bind
from mainspring.ops.common import bind_sum, broadcast, promoted
from mainspring.ops.contract import CONTRACT, LETTERS
from mainspring.ops.movement import permute_dims, reshape


def einsum(spec: str, *operands: Any) -> Any:
    """The sum of products that `spec` says, e.g. ``"bik,bkj->bij"``; operands are contracted from left to right.

    Each label is one letter; ``...`` stands for leading dims that broadcast; without ``->`` the result has the labels that
    occur once, in alphabetical order.
    """
    if not isinstance(spec, str) or not operands or set(spec) - set(LETTERS) - set(",->. "):
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
    spare = [c for c in LETTERS if c not in spec]
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
    return ("".join(c for c in labels if c in needed), bind_sum(value, axes)) if axes else (labels, value)


def _match_ones(la: str, a: Value, lb: str, b: Value) -> tuple[Value, Value]:
    """Broadcast extents of 1 that a shared label has on one side only."""
    sizes = {c: max(a.shape[la.index(c)] if c in la else 1, b.shape[lb.index(c)] if c in lb else 1) for c in la + lb}
    wide_a = tuple(sizes[c] if c in lb else n for c, n in zip(la, a.shape, strict=True))
    wide_b = tuple(sizes[c] if c in la else n for c, n in zip(lb, b.shape, strict=True))
    return (broadcast(a, wide_a) if all(n in (1, m) for n, m in zip(a.shape, wide_a, strict=True)) else a,
            broadcast(b, wide_b) if all(n in (1, m) for n, m in zip(b.shape, wide_b, strict=True)) else b)
