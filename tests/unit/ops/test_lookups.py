"""Products of looked-up rows are made of the table; the product itself has the same bits, its gradients agree."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import mainspring as ms
from mainspring.interpret.staged import trace
from mainspring.ir.graph import Graph
from mainspring.ops.lookups import look_up_last
from mainspring.runtime import build

TABLE, WEIGHT, INDICES = (5, 16), (16, 7), (3, 4)


def draw(*shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [ms.asarray(rng.normal(size=shape).astype(np.float32)) for shape in shapes]


def places(shape: tuple[int, ...], rows: int = TABLE[0]) -> Any:
    return ms.asarray(np.random.default_rng(1).integers(-rows, rows, shape).astype(np.int32))


def ops(graph: Graph, name: str) -> list[tuple[int, ...]]:
    """The shapes of the results of the op `name`."""
    return [n.shape for n in graph.nodes() if n.op.name == name]


def plain(function: Callable[..., Sequence[Any]], *args: Any) -> tuple[Graph, list[np.ndarray]]:
    """What is traced of `function`, and what comes of it as it was written."""
    graph = trace(function, [x._type for x in args]).graph
    return graph, [np.asarray(y) for y in build(graph)(list(args))]


def product(table: Any, weight: Any, indices: Any) -> Any:
    return ms.matmul(ms.permute_dims(ms.take(table, indices, axis=0), (1, 0, 2)), weight)


@pytest.mark.parametrize("function", [
    product,
    lambda table, weight, indices: ms.matmul(ms.reshape(ms.take(table, indices, axis=0), (12, 16)), weight),
    lambda table, weight, indices: ms.einsum("abk,kc->abc", ms.take(table, indices, axis=0), weight),
    lambda table, weight, indices: ms.einsum("kc,abk->abc", weight, ms.take(table, indices, axis=0)),
])
def test_a_product_of_rows_has_the_same_bits(function: Callable[..., Any]) -> None:
    args = [*draw(TABLE, WEIGHT), places(INDICES)]
    graph, (wanted,) = plain(lambda *xs: [function(*xs)], *args)
    made = look_up_last(graph)
    assert ops(made, "contract") == [(5, 7)]
    assert np.array_equal(np.asarray(build(made)(args)[0]), wanted)
    assert np.array_equal(np.asarray(ms.jit(function)(*args)), wanted)


def test_gradients_are_summed_by_row_before_they_are_multiplied() -> None:
    args = [*draw(TABLE, WEIGHT), places(INDICES)]

    def gradients(table: Any, weight: Any, indices: Any) -> Any:
        return ms.grad(lambda a, b: ms.sum(ms.sin(product(a, b, indices))), (0, 1))(table, weight)

    graph, wanted = plain(gradients, *args)
    made = ms.jit(gradients).graph(*args)
    assert sorted(ops(graph, "contract")) == [(4, 3, 7), (4, 3, 16), (16, 7)]
    assert sorted(ops(made, "contract")) == [(5, 7), (5, 16), (16, 7)]
    assert ops(made, "scatter") == [(5, 7)]  # once, for both
    for found, expected in zip(ms.jit(gradients)(*args), wanted, strict=True):
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("function", "table", "indices"), [
    (product, (7, 16), (3, 4)),  # hardly more indices than rows
    (product, (5, 15), (3, 4)),  # short rows
    (lambda table, weight, indices: ms.matmul(ms.sin(ms.take(table, indices, axis=0)), weight), (5, 16), (3, 4)),
    (lambda table, weight, indices: ms.einsum("abk,ac->abkc", ms.take(table, indices, axis=0), weight[:3]), (5, 16), (3, 4)),
    (lambda table, weight, indices: ms.matmul(ms.permute_dims(ms.take(table, indices, axis=0), (0, 2, 1)), weight[:4]),
     (5, 16), (3, 4)),
])
def test_other_products_stay(function: Callable[..., Any], table: tuple[int, ...], indices: tuple[int, ...]) -> None:
    args = [*draw(table, (table[1], 7)), places(indices, table[0])]
    graph = trace(lambda *xs: [function(*xs)], [x._type for x in args]).graph
    assert look_up_last(graph) is graph


def test_a_scatter_onto_something_stays() -> None:
    def function(x: Any, g: Any, weight: Any, indices: Any) -> list[Any]:
        return list(ms.grad(lambda t: ms.sum(ms.sin(t) + ms.take(t, indices, axis=0)[0] @ weight))(x) * g[0, 0])

    args = [*draw(TABLE, (12, 7), (16, 16)), places((12,))]
    graph = trace(function, [x._type for x in args]).graph
    assert ops(look_up_last(graph), "scatter") == ops(graph, "scatter")
