"""The user's tensor: operators, conversions, printing, copies, and its way to and from NumPy, torch and other producers."""

from __future__ import annotations

import copy
import operator
import pickle

import numpy as np
import pytest

import mainspring as ms
from mainspring.base.errors import ArgumentError, DTypeError, MainspringError, TraceError, UsageError

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "bfloat16", "float32",
          "float64"]
MATRIX = np.array([[1, 0, 3], [4, 5, 6]])


def tensor(dtype: str = "float32") -> ms.Tensor:
    return ms.asarray(MATRIX, dtype=dtype)


# ------------------------------------------------------------------------------------------------------- operators

ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
              operator.lt, operator.le,
              operator.gt, operator.ge, operator.eq, operator.ne]
BITWISE = [operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift]


@pytest.mark.parametrize("op", ARITHMETIC + BITWISE, ids=lambda op: op.__name__)
def test_operators_agree_with_numpy_on_both_sides(op):
    dtype = "int32" if op in BITWISE else "float64"
    a, b = MATRIX.astype(dtype) + 1, MATRIX[::-1].astype(dtype) + 1
    t, u = ms.asarray(a), ms.asarray(b)
    for result in (op(t, u), op(t, b), op(a, u)):
        assert isinstance(result, ms.Tensor)
        np.testing.assert_allclose(result.numpy(), op(a, b))
    np.testing.assert_allclose(op(t, 2).numpy(), op(a, 2))
    np.testing.assert_allclose(op(2, t).numpy(), op(2, a))


def test_unary_operators():
    t = ms.asarray([-1.5, 2.0])
    assert ((-t).tolist(), (+t).tolist(), abs(t).tolist()) == ([1.5, -2.0], [-1.5, 2.0], [1.5, 2.0])
    assert (~ms.asarray([True, False])).tolist() == [False, True]
    assert (tensor() @ tensor().mT).tolist() == (MATRIX @ MATRIX.T).tolist()


@pytest.mark.parametrize("number, dtype, expected", [
    (1, "int8", "int8"), (1, "float16", "float16"), (1.5, "float16", "float16"), (1.5, "bfloat16", "bfloat16"),
    (True, "int8", "int8"),
    (1.5, "int8", "float32"), (1, "bool", "int64"), (1.5, "bool", "float32"), (1, "uint8", "uint8"),
    (1.5, "float64", "float64"),
])
def test_a_python_number_takes_the_dtype_of_the_tensor_unless_it_is_of_a_higher_kind(number, dtype, expected):
    t = ms.ones(2, dtype=dtype)
    assert (ms.result_type(t, number) == expected) and ms.result_type(number, t) == expected
    if dtype != "bool":
        assert (t * number).dtype == (number * t).dtype == expected


def test_in_place_operators_rebind():
    t = before = tensor()
    t += 1
    t *= 2.0
    assert t is not before
    assert t.tolist() == ((MATRIX + 1) * 2.0).tolist()
    assert before.tolist() == MATRIX.tolist()


def test_item_assignment_says_what_to_write():
    t = tensor()
    with pytest.raises(UsageError, match=r"at\[key\].set\(value\)"):
        t[0] = 1.0


@pytest.mark.parametrize("other", ["a", None, 1j, [1.0, 2.0]], ids=repr)
def test_operators_leave_what_is_no_number_to_python(other):
    with pytest.raises(TypeError):
        tensor() + other


# ----------------------------------------------------------------------------------------------------- conversions


def test_numbers():
    assert (float(ms.asarray(1.5)), int(ms.asarray(7)), bool(ms.asarray(False)), complex(ms.asarray(2.0))) == (1.5, 7, False,
                                                                                                               2 + 0j)
    assert [10, 20, 30][ms.asarray(2)] == 30
    assert ms.asarray([[3]]).item() == 3
    assert f"{ms.asarray(1.2345):.2f}" == "1.23"


@pytest.mark.parametrize("convert", [float, int, bool, complex, operator.index, lambda t: t.item()])
def test_a_tensor_of_several_elements_is_no_number(convert):
    with pytest.raises(UsageError):
        convert(ms.ones((2, 3), dtype="int32"))


def test_a_float_is_no_index():
    with pytest.raises(UsageError, match="integer"):
        operator.index(ms.asarray(1.0))


def test_as_a_sequence():
    t = tensor()
    assert len(t) == 2 and [row.tolist() for row in t] == MATRIX.tolist()
    assert 5 in t and 9 not in t
    with pytest.raises(UsageError):
        len(ms.asarray(1.0))


def test_as_a_key_it_is_itself():
    t, u = ms.ones(2), ms.ones(2)
    assert {t: 1, u: 2}[t] == 1


@pytest.mark.parametrize("value, text", [
    (1.5, "Tensor(1.5, dtype=float32)"), ([True, False], "Tensor([ True, False], dtype=bool)"),
    ([], "Tensor([], dtype=float32)"),
    (np.zeros((0, 3), "int8"), "Tensor([], shape=(0, 3), dtype=int8)"), (3, "Tensor(3, dtype=int64)"),
])
def test_repr(value, text):
    assert repr(ms.asarray(value)) == text


def test_repr_of_bfloat16_and_of_a_traced_tensor():
    assert repr(ms.asarray([1, 2.5], dtype="bfloat16")) == "Tensor([1. , 2.5], dtype=bfloat16)"
    seen = []
    ms.jit(lambda t: (seen.append(repr(t)), t)[1])(ms.ones((2, 3)))
    assert seen == ["Tensor(float32[2, 3], traced)"]


@pytest.mark.parametrize("read", [float, bool, int, np.asarray, lambda t: t.tolist(), lambda t: t.__dlpack__()])
def test_a_traced_tensor_has_no_numbers(read):
    with pytest.raises(TraceError, match=r"ms\.where"):
        ms.jit(lambda t: (read(t), t)[1])(ms.asarray(1.0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("duplicate", [lambda t: pickle.loads(pickle.dumps(t)), copy.copy, copy.deepcopy],
                         ids=["pickle", "copy", "deepcopy"])
def test_copies_are_equal(dtype, duplicate):
    t = tensor(dtype)
    again = duplicate(t)
    assert again.dtype is t.dtype and again.shape == t.shape
    assert bool(ms.all(again == t))


def test_a_deep_copy_has_memory_of_its_own():
    t = tensor()
    assert not np.shares_memory(t.numpy(), copy.deepcopy(t).numpy())


# --------------------------------------------------------------------------------------- NumPy, DLPack and asarray


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_both_ways(dtype):
    t = tensor(dtype)
    array = np.asarray(t)
    assert array.dtype == t.dtype.numpy and not array.flags.writeable
    assert ms.asarray(array).dtype is t.dtype
    assert np.array(t).flags.writeable
    assert np.asarray(t, dtype="float64").dtype == np.float64


def test_asarray_copies_unless_told_to_share():
    array = np.ones(3)
    copied, shared = ms.asarray(array), ms.asarray(array, copy=False)
    array[0] = 5.0
    assert (copied[0].item(), shared[0].item()) == (1.0, 5.0)
    with pytest.raises(ArgumentError, match="copy"):
        ms.asarray([1.0], copy=False)
    with pytest.raises(ArgumentError, match="copy"):
        ms.asarray(array, copy=False, dtype="float32")


def test_asarray_of_numbers_is_exact_in_the_wanted_dtype():
    assert ms.asarray(2**64 - 1, dtype="uint64").item() == 2**64 - 1
    assert ms.asarray([1e300], dtype="float64").item() == 1e300
    assert ms.asarray(0.1, dtype="float64").item() == 0.1
    assert ms.asarray([1.0, 2]).dtype == ms.float32 and ms.asarray([1, 2]).dtype == ms.int64
    assert ms.asarray([ms.asarray(1.0), ms.asarray(2.0)]).tolist() == [1.0, 2.0]
    assert ms.asarray(memoryview(b"ab")).tolist() == [97, 98]
    assert ms.asarray(np.arange(3, dtype=">i4")).tolist() == [0, 1, 2]
    with pytest.raises(DTypeError, match="int8"):
        ms.asarray([300], dtype="int8")


@pytest.mark.parametrize("dtype", DTYPES)
def test_dlpack_round_trip(dtype):
    t = tensor(dtype)
    again = ms.from_dlpack(_Producer(t))
    assert again.dtype is t.dtype and bool(ms.all(again == t))
    assert t.__dlpack_device__() == (1, 0)
    if dtype != "bfloat16":
        assert np.shares_memory(np.from_dlpack(t), t.numpy())


class _Producer:
    """Another library's array: all that is known of it is DLPack, and the name of its dtype."""

    def __init__(self, t: ms.Tensor):
        self.t, self.dtype = t, f"other.{t.dtype.name}"

    def __dlpack__(self, **options):
        return self.t.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.t.__dlpack_device__()


def test_a_consumer_that_could_write_gets_a_copy():
    t = tensor()
    consumer = np.from_dlpack(_Old(t))
    assert not np.shares_memory(consumer, t.numpy())
    with pytest.raises(BufferError):
        t.__dlpack__(dl_device=(2, 0))


class _Old(_Producer):
    """A consumer of DLPack 0, which cannot be told that memory is read-only."""

    def __dlpack__(self, **_):
        return self.t.__dlpack__()


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool):
        theirs = torch.tensor([[1, 0, 3], [4, 5, 6]]).to(dtype)
        ours = ms.from_dlpack(theirs)
        assert ours.tolist() == theirs.tolist()
        assert torch.equal(torch.from_dlpack(ours), theirs)
        assert ms.asarray(theirs).tolist() == theirs.tolist()


@pytest.mark.parametrize("bad", ["text", None, {1, 2}, {"a": 1}, [[1], [2, 3]], object(), 1j, np.array([1, None]), [None]],
                         ids=lambda bad: type(bad).__name__)
def test_what_is_no_tensor_is_refused(bad):
    for call in (ms.asarray, ms.sin, lambda x: ms.asarray(x, dtype="float32"), lambda x: ms.add(x, 1.0)):
        with pytest.raises(MainspringError):
            call(bad)


def test_namespace_of_a_tensor():
    assert ms.ones(1).__array_namespace__() is ms is ms.ones(1).__array_namespace__(api_version="2024.12")
    with pytest.raises(ArgumentError, match="api_version"):
        ms.ones(1).__array_namespace__(api_version="1999.01")
    assert ms.ones(1).to_device("cpu").device == "cpu"
    with pytest.raises(ArgumentError, match="device"):
        ms.ones(1).to_device("tpu")
