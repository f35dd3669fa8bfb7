"""Indexing against NumPy: keys, scatters and dynamic slices; compiled loops against the references; gradients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mainspring.autodiff.reverse import grad
from mainspring.base.errors import ArgumentError, AxisError, DTypeError, MainspringError, ShapeError, TraceError
from mainspring.interpret.staged import evaluate, trace
from mainspring.ir.op import OPS
from mainspring.ops import indexing as ix
from mainspring.ops.elementwise import multiply
from mainspring.ops.reduce import sum as total
from mainspring.tensor import asarray
from mainspring.types.dtype import ALL, int32, int64
from mainspring.types.shape import TensorType
from tests.unit.ops.kernels import check_gradients, compilers, run_space, run_template

RNG = np.random.default_rng(0)
MODES = {"add": np.add, "multiply": np.multiply, "max": np.maximum, "min": np.minimum}


def numbers(*shape, dtype=np.float64):
    return (RNG.standard_normal(shape) * 3).astype(dtype)


def keys(shape):
    return st.one_of(
        hnp.basic_indices(shape, allow_newaxis=True),
        hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(max_dims=2, max_side=3)),
        hnp.arrays(bool, shape), hnp.arrays(bool, shape[:1]), mixed_keys(shape),
    )


@st.composite
def mixed_keys(draw, shape):
    """Integer arrays, ints, slices, None and an ellipsis in any order."""
    rows = draw(st.sampled_from([(), (1,), (3,), (2, 1)]))
    parts = []
    for n in shape:
        inside = st.integers(-n, n - 1)
        parts.append(draw(st.one_of(inside, st.slices(n), hnp.arrays(np.int64, rows, elements=inside))))
    first = draw(st.integers(0, len(parts)))
    last = draw(st.integers(first, len(parts)))
    key = [*parts[:first], ..., *parts[last:]] if draw(st.booleans()) else parts[:first]
    if draw(st.booleans()):
        key.insert(draw(st.integers(0, len(key))), None)
    return tuple(key)


@settings(max_examples=400)
@given(st.data())
def test_getitem_is_numpy(data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
    key = data.draw(keys(shape))
    x = np.arange(np.prod(shape)).reshape(shape)
    expected = x[key]
    got = asarray(x)[key]
    assert got.shape == np.shape(expected)
    assert got.tolist() == expected.tolist()


@settings(max_examples=200)
@given(st.data())
def test_at_is_numpy_assignment(data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
    key = data.draw(keys(shape))
    x = np.arange(np.prod(shape), dtype=np.float64).reshape(shape) - 3
    values = np.arange(x[key].size, dtype=np.float64).reshape(np.shape(x[key])) + 100
    expected = x.copy()
    expected[key] = values
    assert asarray(x).at[key].set(values).tolist() == expected.tolist()
    for mode, ufunc in MODES.items():
        expected = x.copy()
        ufunc.at(expected, key, 2.5)
        assert getattr(asarray(x).at[key], mode)(2.5).tolist() == expected.tolist()


@pytest.mark.parametrize("key", [
    (np.int64(1),), asarray(1), [0, -1], (asarray([[0, 1]]), slice(None, None, -2)), True, False, (slice(None), True, [0, 1]),
    (slice(None), [0, 1], ..., [1, 0]), ([0, 1], [1, 0], ..., slice(None)), np.array(True), [], ([], 0), (..., None, [1, 0]),
    ([True, False, True], [0, 3]), np.array([1, 0], np.uint8),
], ids=repr)
def test_special_keys(key):
    x = np.arange(24).reshape(3, 4, 2)
    plain = tuple(k.numpy() if hasattr(k, "numpy") else k for k in (key if isinstance(key, tuple) else (key,)))
    expected = x[tuple(np.asarray(k, np.int64) if isinstance(k, list) and not k else k for k in plain)]
    got = asarray(x)[key]
    assert got.shape == expected.shape and got.tolist() == expected.tolist()


def test_traced_indices():
    def function(x, i, row):
        return [x[i], x[row, i], x[:, row].at[0, i].set(7.0), x.at[row].add(1.0), ix.take(x, row, axis=1)]

    types = (TensorType((3, 4), asarray(1.0).dtype), TensorType((), int32), TensorType((2,), int64))
    of = trace(function, types).graph
    x = asarray(numbers(3, 4, dtype=np.float32))
    i, row = asarray(np.int32(-2)), asarray([2, 0])
    for got, expected in zip(evaluate(of, [x, i, row]), function(x, i, row), strict=True):
        assert got.shape == expected.shape and got.tolist() == expected.tolist()


@pytest.mark.parametrize("error, use", [
    (AxisError, lambda x: x[3]), (AxisError, lambda x: x[0, -5]), (AxisError, lambda x: x[0, 0, 0]),
    (AxisError, lambda x: x[[0, 3]]),
    (AxisError, lambda x: x[[0], 4]), (DTypeError, lambda x: x[1.0]), (DTypeError, lambda x: x[[1.0]]),
    (DTypeError, lambda x: x["a"]),
    (ArgumentError, lambda x: x[..., ...]), (ArgumentError, lambda x: x[::0]), (AxisError, lambda x: x[[True, False]]),
    (ShapeError, lambda x: x[[0, 1], [0, 1, 2]]), (ShapeError, lambda x: x.at[0].set([1.0, 2.0])),
    (ArgumentError, lambda x: x[:1.5]),
    (DTypeError, lambda x: x.astype("int32").at[0].set(1.5)), (DTypeError, lambda x: x.astype(bool).at[0].add(True)),
    (ShapeError, lambda x: x.at[asarray([True])].set(0.0)), (AxisError, lambda x: x.at[asarray([9])].set(0.0)),
    (AxisError, lambda x: ix.take(x, asarray([0]))), (AxisError, lambda x: ix.take(x, asarray([4]), axis=1)),
    (DTypeError, lambda x: ix.take(x, asarray([0.5]), axis=0)), (ShapeError, lambda x: ix.take_along_axis(x, asarray([0]))),
    (ArgumentError, lambda x: ix.put_along_axis(x, x.astype("int64"), 1.0, mode="mean")),
    (ShapeError, lambda x: ix.dynamic_slice(x, (0,), (1, 1))),
    (ShapeError, lambda x: ix.dynamic_slice(x, (0, 0), (4, 1))),
    (ShapeError, lambda x: ix.dynamic_slice(x, (asarray([0]), 0), (1, 1))),
    (AxisError, lambda x: ix.diagonal(x, axis1=0, axis2=0)), (ShapeError, lambda x: ix.tril(x[0])),
    (ShapeError, lambda x: ix.nonzero(x[0, 0])),
    (ArgumentError, lambda x: ix.meshgrid(x[0], indexing="yx")), (ShapeError, lambda x: ix.meshgrid(x, x)),
])
def test_misuse(error, use):
    with pytest.raises(error) as raised:
        use(asarray(np.zeros((3, 4), np.float32)))
    assert isinstance(raised.value, MainspringError)


@pytest.mark.parametrize("use, hint", [
    (lambda x, mask, i: x[mask], "ms.where"), (lambda x, mask, i: x[i:], "ms.dynamic_slice"),
    (lambda x, mask, i: ix.nonzero(x), "eager"),
    (lambda x, mask, i: ix.unique_values(x), "eager"), (lambda x, mask, i: x.at[mask].set(np.ones(2, np.float32)), "ms.where"),
])
def test_what_cannot_be_traced_says_so(use, hint):
    types = (TensorType((3,), asarray(1.0).dtype), TensorType((3,), asarray(True).dtype), TensorType((), int64))
    with pytest.raises(TraceError, match=hint):
        trace(lambda *xs: [use(*xs)], types)


def test_a_traced_mask_can_be_written_through():
    x, mask = asarray(numbers(3, 2)), asarray([True, False, True])
    of = trace(lambda x, m: [x.at[m].set(0.0), x.at[m].add([1.0, 2.0])], (x._type, mask._type)).graph
    for got, expected in zip(evaluate(of, [x, mask]), (x.at[mask].set(0.0), x.at[mask].add([1.0, 2.0])), strict=True):
        assert got.tolist() == expected.tolist()


# ------------------------------------------------------------------------------------------------- compiled loops

SCATTERS = [  # shape of x, axes, shape of the index
    ((5, 3), (0,), (7,)), ((5, 70), (0,), (4, 2)), ((4, 3, 2), (1,), (5,)), ((4, 3, 2), (0, 2), (6,)), ((6,), (0,), ()),
    ((4, 3), (0, 1), (9,)),
    ((3, 4, 1, 5), (1, 3), (8,)), ((4, 3), (0,), (0,)), ((2, 300), (0,), (3,)),
]


@pytest.mark.parametrize("dtype", ALL, ids=repr)
@pytest.mark.parametrize("mode", ["set", *MODES])
def test_scatter_template(dtype, mode):
    if dtype.name == "bool" and mode != "set":
        pytest.skip("bools are only set")
    for shape, axes, index_shape in SCATTERS:
        index_dtype = RNG.choice(["int8", "int64", "uint16"])
        low = int(index_dtype != "uint16")
        indices = [RNG.integers(-shape[a] * low, shape[a], index_shape).astype(index_dtype) for a in axes]
        x = numbers(*shape).astype(dtype.numpy)
        updates = numbers(*index_shape, *[n for i, n in enumerate(shape) if i not in axes]).astype(dtype.numpy)
        with np.errstate(all="ignore"):
            expected = OPS["scatter"].reference(x, updates, *indices, axes=axes, mode=mode)
        for compiler in compilers(dtype):
            (got,) = run_template("scatter", x, updates, *indices, axes=axes, mode=mode, compiler=compiler)
            assert got.tobytes() == expected.tobytes(), (shape, axes, compiler)


def test_scatter_template_drops_indices_out_of_range():
    x, updates, index = np.zeros((3, 2), np.float32), np.ones((5, 2), np.float32), np.array([0, 3, -4, -1, 2**40])
    (got,) = run_template("scatter", x, updates, index, axes=(0,), mode="add")
    assert got.tolist() == [[1, 1], [0, 0], [1, 1]]
    with pytest.raises(AxisError, match="extent 3"):
        asarray(x).at[asarray(index)].add(1.0)


@pytest.mark.parametrize("dtype", ALL, ids=repr)
def test_gather_space(dtype):
    for shape, axes, index_shape in SCATTERS:
        if not np.prod(index_shape):
            continue
        x = numbers(*shape).astype(dtype.numpy)
        indices = [RNG.integers(-shape[a], shape[a], index_shape).astype(np.int32) for a in axes]
        expected = OPS["gather"].reference(x, *indices, axes=axes)
        assert run_space("gather", x, *indices, axes=axes).tobytes() == np.ascontiguousarray(expected).tobytes()


def test_gather_space_clamps():
    assert run_space("gather", np.arange(4.0), np.array([-9, 9, 3, -4]), axes=(0,)).tolist() == [0, 3, 3, 0]


@pytest.mark.parametrize("starts", [(0, 0), (1, 2), (-3, 9), (2, -1)])
def test_dynamic_slices(starts):
    x, update = numbers(4, 5), numbers(2, 3)
    first = [min(max(a, 0), n - m) for a, n, m in zip(starts, x.shape, update.shape, strict=True)]
    window = tuple(slice(a, a + m) for a, m in zip(first, update.shape, strict=True))
    expected = x.copy()
    expected[window] = update
    arrays = [np.asarray(a) for a in starts]
    assert ix.dynamic_slice(asarray(x), starts, (2, 3)).tolist() == x[window].tolist()
    assert ix.dynamic_slice(asarray(x), asarray(np.array(starts)), (2, 3)).tolist() == x[window].tolist()
    assert ix.dynamic_update_slice(asarray(x), update, starts).tolist() == expected.tolist()
    assert run_space("dynamic_slice", x, *arrays, sizes=(2, 3)).tolist() == x[window].tolist()
    assert run_space("dynamic_update_slice", x, update, *arrays).tolist() == expected.tolist()


# ------------------------------------------------------------------------------------------------------ gradients


def weighed(x):
    """A function whose second derivative is not zero."""
    return multiply(x, x)


@pytest.mark.parametrize("key", [
    (1,), (slice(2, None, -1), None), (np.array([1, 1, -1]),), (slice(1, 3), np.array([0, 2, 0])),
    (np.array([0, 2]), slice(None), np.array([1, 1])),
    (np.array([[True, False, True, True]] * 3),),
], ids=repr)
def test_getitem_and_at_gradients(key):
    x = numbers(3, 4, 2)
    value = numbers(*x[key].shape)
    check_gradients(lambda x: weighed(x[key]), x)
    for mode in ("set", "add", "multiply", "max", "min"):
        check_gradients(lambda x, v, mode=mode: weighed(getattr(x.at[key], mode)(v)), x, value)


def test_at_multiply_gradient_with_zeros():
    index = np.array([0, 1, 1, 2, 2])
    check_gradients(lambda x, v: x.at[index].multiply(v), numbers(3), np.array([0.0, 0.0, 2.0, 0.0, 0.0]), order=1)


def test_equal_extrema_share_the_gradient():
    v = asarray(np.ones(3))
    dx, dv = grad(lambda x, v: total(x.at[asarray([0, 0, 1])].max(v)), (0, 1))(asarray(np.array([1.0, 5.0])), v)
    np.testing.assert_allclose(dx.numpy(), [1 / 3, 1])
    np.testing.assert_allclose(dv.numpy(), [1 / 3, 1 / 3, 0])


def test_gradients_of_the_rest():
    x = numbers(3, 4)
    index = RNG.integers(0, 4, (3, 2))
    check_gradients(lambda x: weighed(ix.take_along_axis(x, index, axis=1)), x)
    check_gradients(lambda x, v: weighed(ix.put_along_axis(x, index, v, axis=1)), x, numbers(3, 2))
    check_gradients(lambda x: weighed(ix.dynamic_slice(x, (1, 9), (2, 2))), x)
    check_gradients(lambda x, u: weighed(ix.dynamic_update_slice(x, u, (1, 1))), x, numbers(2, 2))
    check_gradients(lambda x: weighed(ix.tril(x)), x)
    check_gradients(lambda x: weighed(ix.diagonal(x, offset=1)), x)
    check_gradients(lambda x: weighed(ix.unique_values(x)), x, staged=False)


# ------------------------------------------------------------------------------------------------ named functions


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_take_and_along_axis(axis):
    x = numbers(3, 4, 5)
    rows = RNG.integers(-3, 3, (2, 2))
    assert ix.take(asarray(x), rows, axis=axis).tolist() == np.take(x, rows, axis=axis).tolist()
    order = np.argsort(x, axis=axis)
    assert ix.take_along_axis(asarray(x), order, axis=axis).tolist() == np.sort(x, axis=axis).tolist()
    best, expected = np.argmax(x, axis=axis, keepdims=True), x.copy()
    np.put_along_axis(expected, best, 9.0, axis=axis)
    assert ix.put_along_axis(asarray(x), best, 9.0, axis=axis).tolist() == expected.tolist()


def test_one_hot():
    assert ix.one_hot(asarray([2, 0, 5]), 3).tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert ix.one_hot(asarray([1, 0]), 2, axis=0, dtype="int8").tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("k", [-5, -1, 0, 2, 5])
def test_triangles_and_diagonals(k):
    x = numbers(2, 3, 4)
    assert ix.tril(asarray(x), k=k).tolist() == np.tril(x, k).tolist()
    assert ix.triu(asarray(x), k=k).tolist() == np.triu(x, k).tolist()
    assert ix.tril(asarray(x > 0), k=k).tolist() == np.tril(x > 0, k).tolist()
    assert ix.diagonal(asarray(x), offset=k).tolist() == np.diagonal(x, k, -2, -1).tolist()
    assert ix.diagonal(asarray(x), offset=k, axis1=2, axis2=0).tolist() == np.diagonal(x, k, 2, 0).tolist()


@pytest.mark.parametrize("indexing", ["xy", "ij"])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_meshgrid(indexing, count):
    arrays = [np.arange(n + 2) for n in range(count)]
    expected = np.meshgrid(*arrays, indexing=indexing)
    assert [g.tolist() for g in ix.meshgrid(*arrays, indexing=indexing)] == [e.tolist() for e in expected]


@pytest.mark.parametrize("dtype", ALL, ids=repr)
def test_nonzero_and_unique(dtype):
    x = RNG.integers(0, 4, (3, 5)).astype(dtype.numpy)
    assert [p.tolist() for p in ix.nonzero(asarray(x))] == [p.tolist() for p in np.nonzero(x)]
    values, first, inverse, counts = ix.unique_all(asarray(x))
    assert values.dtype is dtype and values.tolist() == sorted(set(x.ravel().tolist()))
    assert x.ravel()[first.numpy()].tolist() == values.tolist()
    assert values.numpy()[inverse.numpy()].tolist() == x.tolist() and counts.numpy().sum() == x.size
    assert ix.unique_values(asarray([np.nan, np.nan, 1.0])).shape == (3,)
