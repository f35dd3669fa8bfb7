"""Sorting against NumPy: order of equal elements and NaN, templates against references, gradients through the order."""

import numpy as np
import pytest

from mainspring.base.errors import ArgumentError, AxisError, DTypeError, ShapeError
from mainspring.ir.op import OPS
from mainspring.ops import sorting
from mainspring.ops.elementwise import multiply
from mainspring.tensor import asarray
from mainspring.types.dtype import ALL, FLOATS
from tests.unit.ops.kernels import check_gradients, compilers, run_space, run_template

RNG = np.random.default_rng(0)
SHAPES = [((1,), 0), ((7,), 0), ((8,), 0), ((9,), 0), ((3, 16), 1), ((17, 2), 0), ((2, 33, 2), 1), ((99,), 0), ((2, 0), 1)]

# shape, axis, first
PICKED = [((3, 70), 1, 1), ((2, 300), 1, 100), ((150, 2), 0, 5), ((200,), 0, 64), ((90,), 0, 65), ((9,), 0, 0)]


def samples(dtype, *shape):
    """Few distinct values, so that there are equal ones; the ends of integers; NaN, infinities and both zeros among floats."""
    x = RNG.integers(0, 9, shape).astype(dtype.numpy)
    if dtype.kind in ("int", "uint"):
        info = np.iinfo(dtype.numpy)
        x = np.where(RNG.random(shape) < 0.3, RNG.choice(np.array([info.min, info.min + 1, info.max], dtype.numpy), shape), x)
    if dtype.kind == "float":
        special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, -2.0]).astype(dtype.numpy)
        x = np.where(RNG.random(shape) < 0.3, RNG.choice(special, shape), x)
    return x


def plain_order(row, descending):
    """Python's stable sort, NaN behind everything."""
    keys = [float(v) if row.dtype.kind not in "iu" else int(v) for v in row]
    sign = -1 if descending else 1
    return sorted(range(len(keys)), key=lambda i: (1, 0) if keys[i] != keys[i] else (0, sign * keys[i]))


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("dtype", ALL, ids=repr)
def test_reference_is_stable_with_nan_last(dtype, descending):
    row = samples(dtype, 40)
    values, order = OPS["sort_with_indices"].reference(row, axis=0, descending=descending, first=40)
    assert order.tolist() == plain_order(row, descending)
    assert values.tobytes() == row[order].tobytes()


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("dtype", ALL, ids=repr)
def test_template_is_the_reference(dtype, descending):
    for shape, axis, first in [*[(shape, axis, shape[axis]) for shape, axis in SHAPES], *PICKED]:
        x = samples(dtype, *shape)
        static = {"axis": axis, "descending": descending, "first": first}
        expected = OPS["sort_with_indices"].reference(x, **static)
        for compiler in compilers(dtype):
            got = run_template("sort_with_indices", x, **static, compiler=compiler)
            assert [g.tobytes() for g in got] == [np.ascontiguousarray(e).tobytes() for e in expected], (shape, compiler)


def test_sort_argsort_topk():
    x = RNG.permutation(24).reshape(2, 3, 4)
    for axis in (0, 1, -1):
        assert sorting.sort(asarray(x), axis=axis).tolist() == np.sort(x, axis=axis).tolist()
        assert sorting.sort(asarray(x), axis=axis, descending=True, stable=False).tolist() == (-np.sort(-x, axis=axis)).tolist()
        assert sorting.argsort(asarray(x), axis=axis).tolist() == np.argsort(x, axis=axis).tolist()
        values, indices = sorting.topk(asarray(x), 2, axis=axis)
        assert values.tolist() == np.take(-np.sort(-x, axis=axis), [0, 1], axis=axis).tolist()
        assert np.take_along_axis(x, indices.numpy(), axis=axis).tolist() == values.tolist()
    assert sorting.topk(asarray([3, 1, 2]), 2, largest=False)[0].tolist() == [1, 2]
    assert sorting.topk(asarray([5, 7, 7, 1]), 3)[1].tolist() == [1, 2, 0]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", [d for d in ALL if d.name != "bool"], ids=repr)
def test_searchsorted(dtype, side):
    for n in (0, 1, 2, 7, 8, 9, 30):
        row, wanted = sorting.sort(asarray(samples(dtype, n))).numpy(), samples(dtype, 4, 3)
        keys = [a.astype(np.float64) if dtype.kind == "float" else a for a in (row, wanted)]
        expected = np.searchsorted(*keys, side=side).tolist()
        assert sorting.searchsorted(asarray(row), asarray(wanted), side=side).tolist() == expected
        assert run_space("searchsorted", row, wanted, side=side).tolist() == expected


def test_searchsorted_with_sorter_and_promotion():
    x = np.array([3, 1, 2])
    assert sorting.searchsorted(asarray(x), asarray([1.5, 9.0]), sorter=asarray(np.argsort(x))).tolist() == [1, 3]
    assert sorting.searchsorted(asarray([False, True]), asarray([True]), side="right").tolist() == [2]


def test_gradients():
    x = RNG.permutation(12).reshape(3, 4) / 3.0
    for descending in (False, True):
        check_gradients(lambda x, d=descending: multiply(*[sorting.sort(x, axis=0, descending=d)] * 2), x)
    check_gradients(lambda x: multiply(*[sorting.topk(x, 2)[0]] * 2), x)


@pytest.mark.parametrize("dtype", FLOATS, ids=repr)
def test_no_elements(dtype):
    x = asarray(np.zeros((0, 3), dtype.numpy))
    assert sorting.sort(x, axis=0).shape == (0, 3) and sorting.topk(x, 0, axis=0)[0].shape == (0, 3)


@pytest.mark.parametrize("error, use", [
    (AxisError, lambda x: sorting.sort(x, axis=2)), (ArgumentError, lambda x: sorting.topk(x, 5)),
    (ArgumentError, lambda x: sorting.topk(x, -1)),
    (ShapeError, lambda x: sorting.searchsorted(x, x)), (ArgumentError, lambda x: sorting.searchsorted(x[0], x, side="middle")),
    (DTypeError, lambda x: sorting.searchsorted(x[0], x, sorter=x[0])), (AxisError, lambda x: sorting.argsort(x[0, 0])),
])
def test_misuse(error, use):
    with pytest.raises(error):
        use(asarray(np.zeros((3, 4), np.float32)))
