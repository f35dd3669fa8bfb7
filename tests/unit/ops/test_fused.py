"""Fused attention is, to the bit, the composition that it stands for: forward and backward, any lengths, heads and threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mainspring as ms
from mainspring.base import flags
from mainspring.base.errors import DTypeError, ShapeError
from mainspring.compile.lower import prepare
from mainspring.compile.target import TARGETS
from mainspring.ir.bind import bind
from mainspring.ops.attention import attention
from mainspring.ops.fused import ATTENTION, ATTENTION_GRADIENT
from tests.unit.numeric import assert_gradients
from tests.unit.ops.kernels import native, run_template

RNG = np.random.default_rng(11)

#: (batch, queries, keys, heads, key heads, width, value width), shift, offset, dtype
CASES: list[tuple[tuple[int, ...], int | None, int | None, str]] = [
    ((2, 64, 64, 2, 2, 32, 32), 0, None, "float32"),
    ((1, 1, 1, 1, 1, 1, 1), 0, None, "float32"),
    ((1, 5, 7, 4, 2, 6, 3), None, None, "float32"),
    ((2, 4, 5, 4, 1, 6, 17), 1, None, "float32"),
    ((1, 70, 300, 4, 2, 20, 48), 230, None, "float32"),
    ((1, 300, 300, 2, 1, 260, 40), 0, None, "float32"),
    ((1, 3, 200, 2, 2, 16, 16), 0, 150, "float32"),
    ((1, 40, 40, 2, 2, 16, 16), 0, -7, "float32"),
    ((1, 2, 4500, 1, 1, 8, 8), None, None, "float32"),
    ((2, 33, 65, 6, 2, 24, 24), 0, 20, "float64"),
]


def operands(sizes: tuple[int, ...], offset: int | None = None, dtype: str = "float32") -> list[Any]:
    b, l, s, h, k, d, e = sizes
    shapes = ((b, l, h, d), (b, s, k, d), (b, s, k, e))
    arrays = [RNG.standard_normal(shape).astype(dtype) for shape in shapes]
    return [*map(ms.asarray, arrays), *([ms.asarray(np.int32(offset))] if offset is not None else [])]


def composed(op: Any, static: dict[str, Any]) -> Any:
    return ms.jit(lambda *args: tuple(op.space.function(*args, **static)))


def same(a: Any, b: Any) -> bool:
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("sizes, shift, offset, dtype", CASES, ids=str)
def test_fused_is_composed_to_the_bit_on_any_number_of_threads(sizes, shift, offset, dtype):
    static = {"scale": 0.3, "shift": shift}
    given = operands(sizes, offset, dtype)
    out, high, total = want = composed(ATTENTION, static)(*given)
    ct = ms.asarray(RNG.standard_normal(out.shape).astype(dtype))
    back = (*given[:3], high, total, out, ct, *given[3:])
    want_back = composed(ATTENTION_GRADIENT, static)(*back)
    forward = ms.jit(lambda *args: bind(ATTENTION, *args, **static))
    backward = ms.jit(lambda *args: bind(ATTENTION_GRADIENT, *args, **static))
    for threads in (1, 2, 3, 8):
        with flags.override(threads=threads):
            assert same(forward(*given), want) and same(backward(*back), want_back), threads


def test_the_tiles_of_no_machine_change_a_bit():
    arrays = [np.asarray(x) for x in operands((1, 260, 70, 2, 2, 40, 20))]
    static = {"scale": 0.3, "shift": -190}

    def both(target):
        out, high, total = run_template("attention", *arrays, compiler=native, target=target, **static)
        return out, *run_template("attention_gradient", *arrays, high, total, out, np.cos(out), compiler=native, target=target,
                                  **static)

    first, *others = [both(target) for target in TARGETS.values()]
    assert all(same(first, other) for other in others) and np.isfinite(first[1]).all()


def loss(q, k, v):
    return ms.sum(ms.sin(attention(q, k, v, causal=True)))


def test_the_compiler_keeps_both_ops_and_nothing_of_the_size_of_the_scores():
    q, k, v = operands((1, 96, 96, 2, 2, 16, 16))
    graph = prepare(ms.jit(ms.value_and_grad(loss, (0, 1, 2))).graph(q, k, v))
    nodes = graph.nodes()
    assert {"attention", "attention_gradient"} <= {n.op.name for n in nodes}
    assert not [n for n in nodes if hasattr(n.type, "size") and n.type.size >= 96 * 96]


def test_a_batch_split_gives_the_same_bytes():
    given = operands((5, 20, 20, 2, 1, 8, 8))
    compiled = ms.jit(lambda q, k, v: (attention(q, k, v, causal=True), ms.grad(loss, (0, 1, 2))(q, k, v)))
    whole = ms.tree.leaves(compiled(*given))
    parts = [ms.tree.leaves(compiled(*[x[a:b] for x in given])) for a, b in ((0, 2), (2, 5))]
    assert same(whole, [np.concatenate([np.asarray(p), np.asarray(q)]) for p, q in zip(*parts, strict=True)])


def test_one_position_after_the_other_gives_the_bytes_of_all_at_once():
    q, k, v = operands((1, 21, 21, 4, 2, 16, 16))
    whole = np.asarray(ms.jit(lambda q, k, v: attention(q, k, v, causal=True))(q, k, v))
    step = ms.jit(lambda q, k, v, n: attention(q, k, v, causal=True, offset=n))
    rows = [np.asarray(step(q[:, i:i + 1], k, v, np.int32(i))) for i in range(21)]
    assert np.concatenate(rows, axis=1).tobytes() == whole.tobytes()


def test_what_is_not_finite_stays_with_the_queries_that_see_it():
    q, k, v = (np.array(x) for x in operands((1, 40, 40, 1, 1, 8, 8)))
    q[0, 3, 0, 0], k[0, 20, 0, 1] = np.nan, np.nan
    out = np.asarray(ms.jit(lambda q, k, v: attention(q, k, v, causal=True))(q, k, v))
    broken = np.isnan(out).all((0, 2, 3))
    assert broken.tolist() == [i == 3 or i >= 20 for i in range(40)] and np.isfinite(out[:, ~broken]).all()


def test_a_query_that_sees_nothing_gives_zeros_and_pulls_nothing():
    q, k, v = operands((1, 20, 20, 2, 2, 8, 8))

    def function(q, k, v):
        return attention(q, k, v, causal=True, offset=-6)

    out, pullback = ms.vjp(ms.jit(function), q, k, v)
    dq, dk, dv = pullback(ms.ones(out.shape))
    assert not np.asarray(out)[:, :6].any() and not np.asarray(dq)[:, :6].any()
    assert not np.asarray(dk)[:, 14:].any() and not np.asarray(dv)[:, 14:].any() and np.asarray(dv)[:, :14].all()


def test_gradients_of_gradients():
    given = [np.asarray(x) for x in operands((1, 3, 4, 2, 1, 3, 2), dtype="float64")]
    assert_gradients(lambda q, k, v: ms.grad(lambda *x: ms.sum(ms.sin(attention(*x, causal=True, offset=1))), 1)(q, k, v),
                     *given)


def test_only_a_plain_application_is_fused():
    q, k, v = operands((1, 4, 4, 2, 2, 8, 8))
    everything = np.ones((4, 4), bool)
    for options, fused in [({}, True), ({"causal": True}, True), ({"dropout_rate": 0.1}, True), ({"mask": everything}, False),
                           ({"bias": np.zeros((4, 4), np.float32)}, False),
                           ({"dropout_rate": 0.1, "key": ms.random.key(0)}, False)]:
        graph = ms.jit(lambda q, k, v, options=options: attention(q, k, v, **options)).graph(q, k, v)
        assert ("attention" in {n.op.name for n in graph.nodes()}) == fused, options
    plain, masked = (ms.jit(lambda q, k, v, m=m: attention(q, k, v, mask=m))(q, k, v) for m in (None, everything))
    assert np.asarray(plain).tobytes() == np.asarray(masked).tobytes()


@pytest.mark.parametrize("change, error", [
    (lambda q, k, v: (q[..., :4], k, v), ShapeError), (lambda q, k, v: (q[:, :0], k, v), ShapeError),
    (lambda q, k, v: (q, k, v, ms.ones(())), DTypeError),
])
def test_misuse(change, error):
    with pytest.raises(error, match="attention"):
        bind(ATTENTION, *change(*operands((1, 4, 4, 2, 2, 8, 8))), scale=1.0, shift=0)
