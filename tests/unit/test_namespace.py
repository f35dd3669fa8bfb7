"""The public face: the names of the array API standard 2024.12, the laws of its dtype functions, and a light import."""

from __future__ import annotations

import inspect
import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest

import mainspring as ms
from mainspring.base.errors import ArgumentError, DTypeError
from mainspring.types import dtype as dt

STANDARD = tuple("""
e inf nan newaxis pi
bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64
arange asarray empty empty_like eye from_dlpack full full_like linspace meshgrid ones ones_like tril triu zeros zeros_like
astype can_cast finfo iinfo isdtype result_type
abs acos acosh add asin asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_invert bitwise_or bitwise_right_shift
bitwise_xor ceil clip conj copysign cos cosh divide equal exp expm1 floor floor_divide greater
greater_equal hypot imag isfinite isinf isnan
less less_equal log log1p log2 log10 logaddexp logical_and logical_not logical_or logical_xor maximum minimum multiply negative
nextafter not_equal positive pow real reciprocal remainder round sign signbit sin sinh square sqrt subtract tan tanh trunc
take take_along_axis
matmul matrix_transpose tensordot vecdot
broadcast_arrays broadcast_to concat expand_dims flip moveaxis permute_dims repeat reshape roll squeeze stack tile unstack
argmax argmin count_nonzero nonzero searchsorted where
unique_all unique_counts unique_inverse unique_values
argsort sort
cumulative_sum cumulative_prod max mean min prod std sum var
all any diff
__array_api_version__ __array_namespace_info__
""".split())


@pytest.mark.parametrize("name", STANDARD)
def test_every_name_of_the_standard_exists(name):
    assert hasattr(ms, name) and name in ms.__all__


def test_the_list_of_names_is_the_names():
    light = {name for name in ms.__all__ if name not in ms._LAZY}
    assert sorted(ms.__all__) == sorted(set(ms.__all__))
    assert light <= set(vars(ms))
    public = {n for n, v in vars(ms).items() if n[0] != "_" and not inspect.ismodule(v)} - {"TYPE_CHECKING", "Any",
                                                                                            "annotations"}
    assert public <= set(ms.__all__)


def test_every_function_says_what_it_does():
    missing = [n for n in ms.__all__ if n not in ms._LAZY and callable(getattr(ms, n)) and not getattr(ms, n).__doc__]
    assert not missing


def test_names_that_do_not_exist():
    with pytest.raises(AttributeError, match="complex dtypes do not exist yet"):
        ms.complex64  # noqa: B018
    with pytest.raises(AttributeError, match="concatenate"):
        ms.concatenate  # noqa: B018


def test_the_import_is_light():
    code = ("import sys, json; before = set(sys.modules); import mainspring; "
            "print(json.dumps(sorted({m.partition('.')[0] for m in set(sys.modules) - before})))")
    loaded = set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout))
    third = {m for m in loaded if m not in sys.stdlib_module_names and not m.startswith("_")}
    assert third <= {"mainspring", "numpy", "ml_dtypes", "llvmlite"}


# -------------------------------------------------------------------------------------------- dtypes and creation


@pytest.mark.parametrize("a, b", list(itertools.product(dt.ALL, dt.ALL)), ids=repr)
def test_result_type_is_commutative_and_what_addition_gives(a, b):
    try:
        common = ms.result_type(a, b)
    except DTypeError:
        assert {a.kind, b.kind} == {"int", "uint"}
        return
    assert common is ms.result_type(b, a) is ms.result_type(ms.ones(2, dtype=a), b)
    if (a, b) != (dt.bool_, dt.bool_):
        assert ms.add(ms.ones(2, dtype=a), ms.ones(2, dtype=b)).dtype is common
    if ms.can_cast(a, b):
        assert common is b


@pytest.mark.parametrize("dtype", dt.FLOATS, ids=repr)
def test_finfo(dtype):
    info = ms.finfo(ms.ones(1, dtype=dtype))
    one = ms.ones((), dtype=dtype)
    assert info.bits == dtype.bits and info.dtype is dtype and info.min == -info.max
    assert all(type(v) is float for v in (info.eps, info.max, info.min, info.smallest_normal))
    assert bool(one + info.eps > one) and not bool(one + info.eps / 4 > one)
    assert bool(ms.isinf(ms.asarray(info.max, dtype=dtype) * 2))


@pytest.mark.parametrize("dtype", dt.INTEGERS, ids=repr)
def test_iinfo(dtype):
    info = ms.iinfo(dtype)
    assert (info.min, info.max) == (np.iinfo(dtype.name).min, np.iinfo(dtype.name).max) and info.bits == dtype.bits
    with pytest.raises(DTypeError):
        ms.asarray(info.max + 1, dtype=dtype)


def test_isdtype_and_inspection():
    info = ms.__array_namespace_info__()
    assert ms.isdtype(ms.float32, "real floating") and not ms.isdtype(ms.bool, "numeric")
    assert ms.isdtype(ms.uint8, ("bool", "unsigned integer")) and ms.isdtype(ms.int8, ms.int8)
    assert info.dtypes(kind="signed integer") == {f"int{b}": getattr(ms, f"int{b}") for b in (8, 16, 32, 64)}
    defaults = info.default_dtypes()
    assert defaults["real floating"] is ms.zeros(1).dtype and defaults["integral"] is ms.arange(1).dtype
    assert info.devices() == [info.default_device()] == [ms.ones(1).device]
    with pytest.raises(ArgumentError, match="real floating"):
        ms.isdtype(ms.float32, "floating")


def test_a_dtype_compares_with_anything():
    assert ms.float32 == "float32" == ms.float32 and ms.float32 == np.dtype("float32") and ms.float32 == np.float32
    assert ms.float64 != None and ms.float32 != {} and ms.float32 != "nonsense" and ms.float32 != 3  # noqa: E711


@pytest.mark.parametrize("arguments", [(5,), (0,), (2, 7), (7, 2), (7, 2, -2), (0, 1, 0.1), (1.5,), (-3, 3, 2),
                                       (2**60, 2**60 + 5)])
@pytest.mark.parametrize("dtype", [None, "float32", "float64", "int64"])
def test_arange_is_numpys(arguments, dtype):
    if dtype == "int64" and any(isinstance(a, float) for a in arguments):
        return
    expected = np.arange(*arguments, dtype=dtype)
    t = ms.arange(*arguments, dtype=dtype)
    np.testing.assert_allclose(t.numpy(), expected, rtol=1e-6, atol=1e-7)
    assert t.dtype == (dtype or ("float32" if expected.dtype.kind == "f" else "int64"))


def test_other_creation():
    np.testing.assert_allclose(ms.linspace(0, 1, 11).numpy(), np.linspace(0, 1, 11, dtype="f4"))
    assert ms.linspace(0.1, 0.7, 7, dtype="float64")[-1].item() == 0.7
    assert ms.linspace(0, 1, 4, endpoint=False).tolist() == [0.0, 0.25, 0.5, 0.75]
    assert [ms.linspace(3, 4, n).tolist() for n in (0, 1)] == [[], [3.0]]
    for rows, columns, k in itertools.product((0, 2, 3), (None, 0, 4), (-9, -1, 0, 2, 2**70)):
        assert ms.eye(rows, columns, k=k).tolist() == np.eye(rows, columns, k=max(-9, min(k, 9))).tolist()
    assert ms.full((2,), 3).dtype == ms.int64 and ms.full(2, True).dtype == ms.bool and ms.full((), 1.5).item() == 1.5
    assert ms.full(2, ms.asarray(4, dtype="int8")).tolist() == [4, 4]
    like = ms.ones_like(ms.zeros((2, 0), dtype="uint8"))
    assert like.shape == (2, 0) and like.dtype == ms.uint8


@pytest.mark.parametrize("make", [
    lambda t: ms.zeros(t.shape), lambda t: ms.full_like(t, 2.5), lambda t: ms.arange(0, 3, 0.25),
    lambda t: ms.linspace(0, 1, 9), lambda t: ms.eye(3, k=1),
    lambda t: ms.full((2, 2), t[0]), lambda t: ms.repeat(t, 2), lambda t: ms.repeat(t, [1, 0, 2]),
], ids=["zeros", "full_like", "arange", "linspace", "eye", "full", "repeat", "repeats"])
def test_creation_means_the_same_when_traced(make):
    t = ms.asarray([1.0, 2.0, 3.0])
    assert ms.jit(make)(t).tolist() == make(t).tolist()


def test_constants():
    assert (ms.e, ms.pi, ms.inf, ms.newaxis) == (math.e, math.pi, math.inf, None) and math.isnan(ms.nan)
