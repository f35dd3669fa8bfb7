"""Running sums, products and extrema: against NumPy, templates against references, gradients with zeros."""

import numpy as np
import pytest

from mainspring.base.errors import ArgumentError, AxisError, DTypeError
from mainspring.ir.bind import bind
from mainspring.ir.op import OPS
from mainspring.ops import cumulative as cu
from mainspring.ops.elementwise import multiply
from mainspring.tensor import asarray
from mainspring.types.dtype import ALL, int64, uint64
from tests.unit.ops.kernels import check_gradients, compilers, run_template

RNG = np.random.default_rng(0)
UFUNCS = {"cumulative_sum": np.add, "cumulative_prod": np.multiply, "cumulative_max": np.maximum, "cumulative_min": np.minimum}
SHAPES = [((1,), 0), ((9,), 0), ((3, 5), 0), ((3, 5), 1), ((2, 4, 300), 1), ((4, 1, 3), 1), ((2, 0), 0)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [d for d in ALL if d.name != "bool"], ids=repr)
@pytest.mark.parametrize("name", UFUNCS)
def test_template_is_the_reference(name, dtype, reverse):
    for shape, axis in SHAPES:
        x = (RNG.standard_normal(shape) * 3).astype(dtype.numpy)
        if dtype.kind == "float":
            x[RNG.random(shape) < 0.02] = np.nan
        with np.errstate(all="ignore"):
            expected = OPS[name].reference(x, axis=axis, reverse=reverse)
        for compiler in compilers(dtype):
            (got,) = run_template(name, x, axis=axis, reverse=reverse, compiler=compiler)
            np.testing.assert_array_equal(got.astype(np.float64), expected.astype(np.float64), err_msg=f"{shape} {compiler}")


@pytest.mark.parametrize("name", UFUNCS)
def test_public_functions_are_numpy(name):
    x = RNG.standard_normal((3, 4))
    for axis in (0, 1, -1):
        got = getattr(cu, name)(asarray(x), axis=axis)
        np.testing.assert_allclose(got.numpy(), UFUNCS[name].accumulate(x, axis=axis))
    assert getattr(cu, name)(asarray([2, 1, 3])).dtype is int64


def test_dtypes_and_initial():
    assert cu.cumulative_sum(asarray([True, True])).tolist() == [1, 2]
    assert cu.cumulative_sum(asarray(np.array([200, 100], np.uint8))).dtype is uint64
    assert cu.cumulative_sum(asarray(np.array([200, 100], np.uint8)), dtype="uint8").tolist() == [200, 44]
    assert cu.cumulative_sum(asarray([[1, 2], [3, 4]]), axis=0, include_initial=True).tolist() == [[0, 0], [1, 2], [4, 6]]
    assert cu.cumulative_prod(asarray([2.0, 3.0]), include_initial=True).tolist() == [1, 2, 6]
    assert cu.cumulative_sum(asarray(np.zeros(0)), include_initial=True).tolist() == [0]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", UFUNCS)
def test_gradients(name, reverse):
    def function(x, axis):
        y = bind(OPS[name], x, axis=axis, reverse=reverse)
        return multiply(y, y)

    for shape, axis in [((1,), 0), ((5,), 0), ((3, 4), 0), ((2, 7), 1)]:
        check_gradients(lambda x, axis=axis: function(x, axis), RNG.standard_normal(shape))


@pytest.mark.parametrize("zeros", [[0], [2], [1, 3], [0, 1, 2, 3, 4]])
def test_gradients_of_products_with_zeros(zeros):
    x = RNG.standard_normal(5)
    x[zeros] = 0.0
    check_gradients(lambda x: cu.cumulative_prod(x, axis=0), x)


def test_diff():
    x = RNG.standard_normal((3, 5))
    for n in range(7):
        for axis in (0, 1):
            np.testing.assert_allclose(cu.diff(asarray(x), axis=axis, n=n).numpy(), np.diff(x, n, axis))
    got = cu.diff(asarray(x), axis=0, prepend=0.0, append=asarray(np.ones((2, 5))))
    np.testing.assert_allclose(got.numpy(), np.diff(x, axis=0, prepend=0.0, append=np.ones((2, 5))))
    assert cu.diff(asarray([True, False, False])).tolist() == [True, False]
    check_gradients(lambda x: multiply(*[cu.diff(x, n=2)] * 2), x)


@pytest.mark.parametrize("error, use", [
    (AxisError, lambda x: cu.cumulative_sum(x)), (AxisError, lambda x: cu.cumulative_prod(x, axis=2)),
    (DTypeError, lambda x: cu.cumulative_max(x > 0, axis=0)),
    (ArgumentError, lambda x: cu.diff(x, n=-1)),
])
def test_misuse(error, use):
    with pytest.raises(error):
        use(asarray(np.zeros((3, 4), np.float32)))
