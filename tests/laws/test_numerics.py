"""The numerics contract: an element's bits depend on its operands and the reduced extents alone.

Not on the number of threads, on the batch it was computed in, on which columns stand beside it, on fusion, or on whether a
buffer was handed over. Everything here compares bytes of compiled functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest

import mainspring as ms
from mainspring import recipes
from mainspring.base import flags
from mainspring.compile.lower import prepare
from mainspring.ir.graph import CONSTANT, INPUT, ITEM, Graph, Node, graph, input_node, items, node
from mainspring.recipes import shakespeare
from mainspring.runtime.executable import build
from mainspring.train.state import initial_state
from mainspring.train.step import training_step
from mainspring.types.shape import TensorType
from tests.laws.programs import program

THREADS = (1, 2, 3, 8)
RNG = np.random.default_rng(8)


def draw(*shape: int, dtype: str = "float32") -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def same_bytes(a: Any, b: Any) -> bool:
    """Equal trees, to the bit."""
    return all(
        np.asarray(x).dtype == np.asarray(y).dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(ms.tree.leaves(a), ms.tree.leaves(b), strict=True)
    )


# ------------------------------------------------------------------------------------------- functions of a batch

W1, W2, W3, B1 = draw(37, 130), draw(130, 19), draw(300, 33), draw(130)
WQ, WK, WV, WO = (draw(24, 24) for _ in range(4))
WC, WD = draw(3, 3, 5, 20), draw(3, 3, 1, 20)


def mlp(x: Any) -> Any:
    return ms.matmul(ms.gelu(ms.matmul(x, W1) + B1), W2)


def block(x: Any, *weights: Any) -> Any:
    """A transformer block: (batch, 10, 24) -> the same."""
    h, (wq, wk, wv, wo) = ms.layer_norm(x), weights or (WQ, WK, WV, WO)
    q, k, v = (ms.reshape(ms.matmul(h, w), (*h.shape[:2], 3, 8)) for w in (wq, wk, wv))
    x = x + ms.matmul(ms.reshape(ms.attention(q, k, v, causal=True), x.shape), wo)
    return x + ms.matmul(ms.silu(ms.matmul(ms.rms_norm(x), wq)), wk)


#: function, shape of one sample
BATCHED: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "matmul": (lambda x: ms.matmul(x, W1), (37,)),
    "matmul, one column": (lambda x: ms.matmul(x, W1[:, :1]), (37,)),
    "matmul, long sum": (lambda x: ms.matmul(x, W3), (300,)),
    "batched matmul": (lambda x: ms.matmul(x, ms.matrix_transpose(x)), (19, 7)),
    "mlp": (mlp, (37,)),
    "softmax": (lambda x: ms.softmax(x), (77,)),
    "layer norm": (lambda x: ms.layer_norm(x), (100,)),
    "logsumexp": (lambda x: ms.logsumexp(x, axis=-1), (33,)),
    "long sum": (lambda x: ms.sum(x, axis=-1), (5000,)),
    "sum of columns": (lambda x: ms.sum(x, axis=1), (45, 7)),
    "elementwise": (lambda x: ms.tanh(x) * ms.exp(-x * x) + ms.erf(x), (13,)),
    "conv": (lambda x: ms.conv(x, WC, padding="same"), (7, 6, 5)),
    "strided conv": (lambda x: ms.relu(ms.conv(x, WC, stride=2)), (7, 7, 5)),
    "depthwise conv": (lambda x: ms.conv(x, WD, padding=1, groups=20), (5, 5, 20)),
    "conv gradient": (lambda x: ms.grad(lambda t: ms.sum(ms.sin(ms.conv(t, WC, padding="same"))))(x), (5, 6, 5)),
    "pooling": (lambda x: ms.avg_pool(ms.max_pool(x, 2), 2), (8, 8, 3)),
    "cumulative sum": (lambda x: ms.cumulative_sum(x, axis=-1), (50,)),
    "transformer block": (block, (10, 24)),
    "bfloat16 mlp": (lambda x: mlp(x).astype(ms.bfloat16), (37,)),
}
SPLITS = [(9, (1,) * 9), (9, (4, 5)), (9, (8, 1)), (9, (2, 3, 4))]


@pytest.mark.parametrize("name", BATCHED)
def test_a_batch_split_in_any_way_gives_the_same_bytes(name: str) -> None:
    function, shape = BATCHED[name]
    compiled = ms.jit(function)
    x = draw(9, *shape)
    whole = np.asarray(compiled(x))
    for _, parts in SPLITS:
        bounds = np.cumsum((0, *parts))
        pieces = [np.asarray(compiled(np.ascontiguousarray(x[a:b]))) for a, b in pairwise(bounds)]
        assert np.concatenate(pieces).tobytes() == whole.tobytes(), parts


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("k", [1, 7, 300, 1500])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_columns_do_not_depend_on_their_neighbours(rows: int, k: int, dtype: str) -> None:
    x, w = draw(rows, k, dtype=dtype), draw(k, 70, dtype=dtype)
    product = ms.jit(ms.matmul)
    whole = np.asarray(product(x, w))
    for first, last in [(0, 1), (0, 5), (5, 38), (16, 70)]:
        part = np.asarray(product(x, np.ascontiguousarray(w[:, first:last])))
        assert part.tobytes() == np.ascontiguousarray(whole[:, first:last]).tobytes(), (first, last)
    turned = np.asarray(ms.jit(lambda a, b: ms.matmul(ms.matrix_transpose(b), ms.matrix_transpose(a)))(x, w))
    assert np.ascontiguousarray(turned.T).tobytes() == whole.tobytes(), "the product of the transposed operands"


# --------------------------------------------------------------------------------------------------------- threads


def step(params: Sequence[Any], x: Any, y: Any) -> Any:
    """One training step of a small network: gradients and updated parameters."""

    def loss(p: Sequence[Any]) -> Any:
        h = ms.relu(ms.conv(x, p[0], padding="same"))
        flat = ms.reshape(ms.max_pool(h, 2), (x.shape[0], -1))
        return ms.cross_entropy(ms.matmul(flat, p[1]) + p[2], y)

    value, grads = ms.value_and_grad(loss)(list(params))
    return value, [p - 0.1 * g for p, g in zip(params, grads, strict=True)]


def test_the_same_bits_for_any_number_of_threads() -> None:
    params = [draw(3, 3, 2, 24), draw(24 * 36, 10), draw(10)]
    x, y = draw(33, 12, 12, 2), RNG.integers(0, 10, 33)
    big = draw(70, 9000)
    cases: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (step, (params, x, y)),
        (lambda t: (ms.sum(t), ms.sum(t, axis=0), ms.softmax(t), ms.max(t), ms.mean(t, axis=1)), (big,)),
        (block, (draw(16, 10, 24),)),
        (lambda a, b: ms.matmul(a, b), (draw(130, 700), draw(700, 300))),
        (lambda t, i: ms.zeros((50, 40)).at[i].add(t), (draw(5000, 40), RNG.integers(0, 50, 5000))),
        (lambda t: ms.sort(t, axis=0), (draw(300, 40),)),
    ]
    for function, arguments in cases:
        compiled = ms.jit(function)
        results = []
        for threads in THREADS:
            with flags.override(threads=threads):
                results.append(compiled(*arguments))
        assert all(same_bytes(results[0], other) for other in results[1:])


@pytest.mark.parametrize("seed", range(1000, 1008))
def test_random_programs_give_the_same_bits_for_any_number_of_threads(seed: int) -> None:
    of = program(seed, "float32")
    compiled = ms.jit(lambda *xs: (of(*xs), of.loss(*xs)))
    results = []
    for threads in THREADS:
        with flags.override(threads=threads):
            results.append(compiled(*of.inputs))
    assert all(same_bytes(results[0], other) for other in results[1:])


#: settings that make 20 steps of each recipe short
RECIPES: dict[str, dict[str, Any]] = {
    "shakespeare": {"layers": 2, "width": 32, "context": 24, "batch": 5, "dropout": 0.1},
    "digits": {"width": 4, "depth": 1, "batch": 9},
    "tagger": {"width": 12, "context": 16, "batch": 5},
}


@pytest.mark.parametrize("name", recipes.NAMES)
def test_twenty_steps_of_a_recipe_end_in_the_same_bytes_for_any_number_of_threads(name: str) -> None:
    recipe = recipes.find(name)
    task = recipe.task(recipe.config(**RECIPES[name]))
    step = ms.jit(training_step(task.loss, task.optimizer), donate=0)
    batches = list(islice(task.loader, 20))
    ends = []
    for threads in THREADS:
        state = initial_state(task.model, task.optimizer, 7)
        with flags.override(threads=threads):
            for batch in batches:
                state, metrics = step(state, batch)
        ends.append((state, metrics))
    assert len(batches) == 20 and np.isfinite(float(ends[0][1]["loss"]))
    assert all(same_bytes(ends[0], other) for other in ends[1:])


def test_a_whole_language_model_reads_each_text_as_if_it_were_alone() -> None:
    config = shakespeare.Config(**RECIPES["shakespeare"])
    model = shakespeare.GPT.create(ms.random.key(1), 65, config)
    tokens = RNG.integers(0, 65, (6, config.context)).astype(np.int32)
    read = ms.jit(lambda m, t: m(t))
    whole = np.asarray(read(model, tokens))
    for parts in [(1,) * 6, (4, 2)]:
        pieces = [np.asarray(read(model, tokens[a:b])) for a, b in pairwise(np.cumsum((0, *parts)))]
        assert np.concatenate(pieces).tobytes() == whole.tobytes(), parts


# ---------------------------------------------------------------------------------------------------------- fusion


def node_by_node(of: Graph, arrays: Sequence[Any]) -> list[Any]:
    """The outputs of `of`, each node compiled and run by itself."""
    values: dict[Node, Any] = dict(zip(of.inputs, map(ms.asarray, arrays), strict=True))
    for n in of.nodes():
        if n.op is CONSTANT:
            values[n] = ms.asarray(n.static["value"].value)
        elif n.op is ITEM:
            values[n] = values[n.inputs[0]][n.static["index"]]
        elif n.op is not INPUT:
            fresh = [input_node(i, v.type) for i, v in enumerate(n.inputs)]
            results = build(graph(fresh, items(node(n.op, fresh, n.static))))([values[i] for i in n.inputs])
            values[n] = results[0] if isinstance(n.type, TensorType) else results
    return [values[n] for n in of.outputs]


FUSED: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "elementwise": (lambda x, y: (ms.tanh(x * y + 0.5) - ms.exp(-x) * y, ms.sqrt(x * x + y * y)), [(5, 33), (33,)]),
    "row": (lambda x: ms.softmax(x * 2.0 + 1.0) * ms.layer_norm(x), [(20, 50)]),
    "column": (lambda x: ms.sum(ms.square(x - ms.mean(x, axis=0)), axis=0), [(45, 30)]),
    "everything": (lambda x: ms.sum(ms.log1p(ms.abs(x)) * 0.3), [(37, 41)]),
    "epilogue": (lambda x, w, b: ms.gelu(ms.matmul(x, w) + b) * 0.5 + x, [(40, 32), (32, 32), (32,)]),
    "prologue": (lambda x, w: ms.matmul(ms.relu(x) * 2.0, ms.matrix_transpose(w)), [(40, 20), (50, 20)]),
    "conv": (lambda x, w: ms.relu(ms.conv(x, w, padding="same") + 0.1), [(2, 6, 6, 4), (3, 3, 4, 18)]),
    "block": (block, [(3, 10, 24), *[(24, 24)] * 4]),
    "gradient": (lambda x, w: ms.grad(lambda a, b: ms.sum(ms.tanh(ms.matmul(a, b)) ** 2), (0, 1))(x, w), [(20, 33), (33, 24)]),
}


@pytest.mark.parametrize("name", FUSED)
def test_fusion_changes_no_bit(name: str) -> None:
    function, shapes = FUSED[name]
    arrays = [draw(*shape) for shape in shapes]
    compiled = ms.jit(function)
    apart = node_by_node(prepare(compiled.graph(*arrays)), arrays)
    assert same_bytes(ms.tree.leaves(compiled(*arrays)), apart)


# -------------------------------------------------------------------------------------------------------- donation


def update(x: Any, g: Any) -> Any:
    return x * 0.9 + g, ms.sum(x)


def test_donation_keeps_the_results() -> None:
    for n in (1, 17, 5000, 70000):
        x, g = draw(n), draw(n)
        want = ms.jit(update)(x, g)
        given = ms.asarray(x) + 0.0
        assert same_bytes(ms.jit(update, donate=0)(given, g), want)
        assert same_bytes(ms.jit(update, donate=(0, 1))(ms.asarray(x), ms.asarray(g)), want)


@pytest.mark.parametrize("n", [17, 70000])
def test_donation_never_changes_what_somebody_else_can_see(n: int) -> None:
    compiled = ms.jit(update, donate=0)
    for make in (lambda a: ms.asarray(a), lambda a: ms.from_numpy(a), lambda a: ms.jit(lambda t: t + 1.0)(a)):
        source = draw(n)
        x, g = make(source), ms.asarray(draw(n))
        before, seen, view = source.copy(), np.asarray(x), x[::2]
        kept, want = seen.copy(), np.asarray(view).copy()
        compiled(x, g)
        assert (source == before).all() and (seen == kept).all() and (np.asarray(view) == want).all()


def test_one_tensor_passed_twice_and_handed_over_once() -> None:
    for n in (17, 70000):
        x = ms.jit(lambda t: t * 2.0)(draw(n))
        want = np.asarray(x) * np.float32(0.9) + np.asarray(x)
        first, _ = ms.jit(update, donate=0)(x, x)
        np.testing.assert_allclose(np.asarray(first), want, rtol=1e-6)


def test_results_of_one_call_can_be_handed_over_one_by_one() -> None:
    a, b, c = ms.jit(lambda t: (t + 1.0, t * 2.0, t - 1.0))(draw(20))
    kept = np.asarray(b).copy(), np.asarray(c).copy()
    (moved,) = ms.jit(lambda t: (t * 0.0,), donate=0)(ms.jit(lambda t: t + 0.0)(a))
    ms.jit(lambda t: t * 0.0, donate=0)(a)
    assert (np.asarray(b) == kept[0]).all() and (np.asarray(c) == kept[1]).all() and not np.asarray(moved).any()


def test_inputs_that_are_outputs_survive_donation() -> None:
    x, y = draw(100), draw(100)
    swapped = ms.jit(lambda a, b: (b, a, a + b), donate=(0, 1))(ms.asarray(x), ms.asarray(y))
    assert same_bytes(swapped, (y, x, x + y))


def test_repeated_updates_in_place() -> None:
    compiled, plain = ms.jit(update, donate=0), ms.jit(update)
    g = ms.asarray(draw(3000))
    state = other = ms.asarray(draw(3000))
    for _ in range(5):
        state, total = compiled(ms.jit(lambda t: t + 0.0)(state), g)
        other, expected = plain(other, g)
        assert same_bytes((state, total), (other, expected))
