"""Misuse of tensors and ops: an error of ours that names the argument, the rule, the value and the caller's line."""

from __future__ import annotations

import re

import numpy as np
import pytest

import mainspring as ms
from mainspring.base.errors import (
    ArgumentError,
    AxisError,
    DTypeError,
    GradientError,
    MainspringError,
    ShapeError,
    TraceError,
    TreeError,
    UsageError,
)

x = ms.ones((2, 3))
v = ms.arange(3)
image, window = ms.ones((1, 8, 3)), ms.ones((3, 3, 5))

#: name: (call, class, argument that the message names, what else it says)
CASES = {
    # what is no tensor
    "text": (lambda: ms.add(x, "a"), DTypeError, "x", "'a' of type str"),
    "none": (lambda: ms.sin(None), DTypeError, "x", "NoneType"),
    "objects": (lambda: ms.sum(np.array([1, None])), DTypeError, "x", "nested lists of numbers"),
    "ragged": (lambda: ms.asarray([[1], [2, 3]]), ArgumentError, "x", "equal lengths"),
    "complex": (lambda: ms.asarray([1j]), DTypeError, "dtype", "complex dtypes are not there yet"),
    "concat a number": (lambda: ms.concat(3), ArgumentError, "arrays", "sequence"),
    # shapes
    "add": (lambda: x + ms.ones((2, 4)), ShapeError, "shapes", r"\(2, 3\) with \(2, 4\)"),
    "where": (lambda: ms.where(ms.asarray([True]), x, ms.ones(4)), ShapeError, "shapes", r"\(4,\)"),
    "broadcast_to": (lambda: ms.broadcast_to(x, (3, 2)), ShapeError, "shape", r"\(3, 2\)"),
    "reshape": (lambda: x.reshape(4, 2), ShapeError, "shape", "6 elements"),
    "reshape to unknown": (lambda: x.reshape(-1, 4), ShapeError, "shape", "-1"),
    "reshape to two unknowns": (lambda: x.reshape(-1, -1), ShapeError, "shape", "≥ 0"),
    "reshape to floats": (lambda: ms.reshape(x, (2.0, 3)), ArgumentError, "shape", "2.0"),
    "negative shape": (lambda: ms.zeros((2, -1)), ShapeError, "shape", "≥ 0"),
    "float shape": (lambda: ms.zeros(2.5), ArgumentError, "shape", "2.5"),
    "more than can be counted": (lambda: ms.zeros((2**62, 4)), ShapeError, "shape", "at most"),
    "squeeze": (lambda: ms.squeeze(x, 0), ShapeError, "axis", "extent 1"),
    "T of a stack": (lambda: ms.ones((2, 2, 2)).T, ShapeError, "t", "mT"),
    "mT of a vector": (lambda: v.mT, ShapeError, "x", "at least 2 dims"),
    "concat": (lambda: ms.concat([x, ms.ones((3, 2))]), ShapeError, "arrays[1]", r"\(3, 2\)"),
    "concat dims": (lambda: ms.concat([x, v]), ShapeError, "arrays[1]", "number of dims"),
    "concat nothing": (lambda: ms.concat([]), ArgumentError, "arrays", "at least one"),
    "stack": (lambda: ms.stack([x, v]), ShapeError, "arrays[1]", "same shape"),
    "split": (lambda: ms.split(x, 2, axis=1), ShapeError, "indices_or_sections", "divide the extent 3"),
    "pad": (lambda: ms.pad(x, ((1, 1),)), ShapeError, "padding", "2 dims"),
    "pad by reflection": (lambda: ms.pad(x, 5, mode="reflect"), ShapeError, "padding", "reflect"),
    "greatest of none": (lambda: ms.max(ms.zeros(0)), ShapeError, "x", "none"),
    "matmul": (lambda: x @ x, ShapeError, "x2", r"\(2, 3\) @ \(2, 3\)"),
    "matmul of a number": (lambda: ms.matmul(x, 2.0), ShapeError, "x2", "at least 1 dim"),
    "matmul of batches": (lambda: ms.ones((2, 2, 3)) @ ms.ones((3, 3, 2)), ShapeError, "shapes", r"\(2,\) with \(3,\)"),
    "vecdot": (lambda: ms.vecdot(x, ms.ones((2, 4))), ShapeError, "x2", "extent"),
    "tensordot": (lambda: ms.tensordot(x, x, axes=1), ShapeError, "axes", "equal extent"),
    "einsum": (lambda: ms.einsum("ij,jk->ik", x, x), ShapeError, "operands[1]", "label 'j'"),
    "einsum dims": (lambda: ms.einsum("ijk->i", x), ShapeError, "operands[0]", "ijk"),
    "einsum diagonal": (lambda: ms.einsum("ii->i", x), ShapeError, "operands[0]", "label 'i'"),
    "conv": (lambda: ms.conv(image, ms.ones((3, 4, 5))), ShapeError, "w", "channels"),
    "conv dims": (lambda: ms.conv(x, x), ShapeError, "w", "spatial"),
    "update": (lambda: x.at[0].set(ms.ones(7)), ShapeError, "value", r"\(7,\)"),
    # dtypes
    "unknown dtype": (lambda: ms.zeros(3, dtype="float33"), DTypeError, "dtype", "float33"),
    "uint64 with int8": (lambda: ms.ones(2, dtype="uint64") + ms.ones(2, dtype="int8"), DTypeError, "dtype",
                         "uint64 with int8"),
    "bool sum": (lambda: ms.add(ms.asarray([True]), ms.asarray([False])), DTypeError, "x1", "bool"),
    "bits of floats": (lambda: x & x, DTypeError, "x1", "float32"),
    "condition": (lambda: ms.where(x, x, x), DTypeError, "condition", "bool"),
    "scalar range": (lambda: ms.ones(2, dtype="int8") + 300, DTypeError, "scalar", "300"),
    "integer range": (lambda: ms.asarray([300], dtype="int8"), DTypeError, "obj", "300"),
    "float index": (lambda: ms.take(x, ms.asarray([1.0]), axis=0), DTypeError, "indices[0]", "float32"),
    "an int beyond every float": (lambda: x + 10**400, DTypeError, "scalar", "float32 can hold"),
    "NaN for an integer": (lambda: ms.full(2, float("nan"), dtype="int32"), DTypeError, "scalar", "int32 can hold"),
    "limits of an integer": (lambda: ms.finfo("int8"), DTypeError, "type", "float dtype"),
    "limits of a float": (lambda: ms.iinfo("float32"), DTypeError, "type", "integer dtype"),
    # axes and indices
    "axis": (lambda: ms.sum(x, axis=2), AxisError, "axis", r"\[-2, 2\)"),
    "axis twice": (lambda: ms.sum(x, axis=(0, 0)), AxisError, "axis", "differ"),
    "axis of text": (lambda: ms.sum(x, axis="0"), ArgumentError, "axis", "int"),
    "axis of softmax": (lambda: ms.softmax(x, axis=5), AxisError, "axis", "5"),
    "axes": (lambda: ms.permute_dims(x, (0,)), AxisError, "axes", "once"),
    "index": (lambda: x[5], AxisError, "key", "5"),
    "too many indices": (lambda: x[0, 0, 0], AxisError, "key", "2 dims"),
    "index of text": (lambda: x["a"], MainspringError, "key", "'a'"),
    "mask": (lambda: x[ms.asarray([True])], AxisError, "key", "mask"),
    "array index": (lambda: x[ms.asarray([7])], AxisError, "", "7"),
    # parameters
    "einsum text": (lambda: ms.einsum("i$->i", x), ArgumentError, "spec", "letters"),
    "einsum operands": (lambda: ms.einsum("ij", x, x), ArgumentError, "spec", "2 operands"),
    "einsum result": (lambda: ms.einsum("ij->ik", x), ArgumentError, "spec", "labels"),
    "tensordot axes": (lambda: ms.tensordot(x, x, axes=((0,),)), ArgumentError, "axes", "two sequences"),
    "conv stride": (lambda: ms.conv(image, window, stride=0), ArgumentError, "stride", "≥ 1"),
    "conv padding": (lambda: ms.conv(image, window, padding="full"), ArgumentError, "padding", "full"),
    "pad mode": (lambda: ms.pad(x, 1, mode="mirror"), ArgumentError, "mode", "mirror"),
    "roll": (lambda: ms.roll(x, (1, 2), axis=0), ArgumentError, "shift", "each axis"),
    "tile": (lambda: ms.tile(x, -1), ArgumentError, "repetitions", "-1"),
    "repeat": (lambda: ms.repeat(x, -1), ArgumentError, "repeats", "-1"),
    "arange": (lambda: ms.arange(0, 3, 0), ArgumentError, "step", "not 0"),
    "linspace": (lambda: ms.linspace(0, 1, -1), ArgumentError, "num", "-1"),
    "full": (lambda: ms.full(3, x), ArgumentError, "fill_value", r"float32\[2, 3\]"),
    "device": (lambda: ms.zeros(3, device="tpu"), ArgumentError, "device", "tpu"),
    "correction": (lambda: ms.var(x, correction="a"), ArgumentError, "correction", "'a'"),
    "dlpack": (lambda: ms.from_dlpack([1]), ArgumentError, "x", "list"),
    # a tensor used as what it is not
    "assignment": (lambda: x.__setitem__(0, 1), UsageError, "t", "immutable"),
    "truth": (lambda: bool(x), UsageError, "t", r"float32\[2, 3\]"),
    "item": (lambda: x.item(), UsageError, "t", "one element"),
    "length": (lambda: len(ms.ones(())), UsageError, "t", "at least 1 dim"),
    "traced truth": (lambda: ms.jit(lambda t: t if t > 0 else -t)(ms.ones(())), TraceError, "t", "ms.cond"),
    # gradients
    "not a scalar": (lambda: ms.grad(lambda t: t * 2)(x), GradientError, "function", r"float32\[2, 3\]"),
    "no value": (lambda: ms.grad(lambda t: None)(x), GradientError, "function", "scalar"),
    "of integers": (lambda: ms.grad(lambda t: ms.sum(t) * 1.0)(v), GradientError, "argnums", "int64"),
    "of an integer result": (lambda: ms.grad(lambda t: ms.count_nonzero(t))(x), GradientError, "function", "int64"),
    "argnums": (lambda: ms.grad(ms.sum, argnums=3)(x), GradientError, "argnums", "3"),
    "argnums of text": (lambda: ms.grad(ms.sum, argnums="a")(x), ArgumentError, "argnums", "'a'"),
    "no function": (lambda: ms.grad(3)(x), GradientError, "function", "3"),
    "no pair": (lambda: ms.grad(lambda t: ms.sum(t), has_aux=True)(x), TreeError, "function", "pair"),
    "cotangent tree": (lambda: ms.vjp(lambda t: (t, t), x)[1](x), TreeError, "cotangent", "structure"),
    "cotangent shape": (lambda: ms.vjp(lambda t: t, x)[1](ms.ones(3)), GradientError, "cotangent", r"\(3,\)"),
    "tangent tree": (lambda: ms.jvp(lambda t: t, (x,), ((x,),)), TreeError, "tangents", "structure"),
    "tangent shape": (lambda: ms.jvp(lambda t: t, (x,), (ms.ones(5),)), GradientError, "tangents", r"\(5,\)"),
}


@pytest.mark.parametrize("name", CASES)
def test_misuse(name):
    call, kind, argument, says = CASES[name]
    with pytest.raises(kind) as caught:
        call()
    error, text = caught.value, str(caught.value)
    assert isinstance(error, MainspringError)
    assert error.rule and error.value, "an error says its rule and the value that broke it"
    assert f"`{argument}`" in text or not argument
    assert re.search(says, text), text
    assert re.search(rf"at:    {re.escape(__file__)}:\d+: ", text), "an error shows the caller's own line"


def test_a_refused_call_changes_nothing():
    before = x.numpy().copy()
    for call, *_ in CASES.values():
        with pytest.raises(MainspringError):
            call()
    assert (x.numpy() == before).all()
    assert ms.grad(lambda t: ms.sum(t * t))(x).tolist() == (2 * before).tolist()
