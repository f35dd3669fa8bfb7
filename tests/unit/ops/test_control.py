"""Control flow against Python loops and branches: values, gradients, second order, nesting, eager and traced."""

from __future__ import annotations

import numpy as np
import pytest

from mainspring.autodiff.reverse import grad, jvp, value_and_grad, vjp, vjp_graph
from mainspring.base import tree
from mainspring.base.errors import GradientError, ShapeError, TraceError, TreeError
from mainspring.interpret.abstract import result_types
from mainspring.interpret.reference import run_reference
from mainspring.interpret.staged import evaluate, trace
from mainspring.ir.bind import concrete
from mainspring.ops import elementwise as e
from mainspring.ops import reduce as r
from mainspring.ops.control import call_graph, checkpoint, cond, while_loop
from mainspring.ops.scan import SCAN, fori_loop, map_, scan
from mainspring.tensor import asarray

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 3)).astype(np.float64)
W = RNG.normal(size=(3, 3)).astype(np.float64) * 0.5
H = RNG.normal(size=(3,)).astype(np.float64)


def staged(function):
    """`function` traced to a graph that is then run with references: what compiling starts from."""

    def call(*args):
        leaves, structure = tree.flatten(args)
        values = [asarray(leaf) for leaf in leaves]
        out = []

        def flat(*given):
            found, out_structure = tree.flatten(function(*tree.unflatten(structure, given)))
            out.append(out_structure)
            return [asarray(f) for f in found]

        traced = trace(flat, [v._type for v in values])
        arrays = run_reference(traced.graph, [concrete(v) for v in (*values, *traced.captured)])
        return tree.unflatten(out[0], [asarray(a) for a in arrays])

    return call


def jitted(function):
    """`function` as one call op of its graph: what ms.jit binds when a gradient is taken through it."""

    def call(*args):
        values = [asarray(a) for a in args]
        traced = trace(lambda *given: [function(*given)], [v._type for v in values])
        return call_graph(traced.graph, [*values, *traced.captured])[0]

    return call


INNER = {"plain": lambda f: f, "call": jitted, "checkpoint": checkpoint}
OUTER = {"eager": lambda f: f, "traced": staged}


def cell(h, x, w):
    return e.tanh(x * h + r.sum(w * h, axis=1)) * e.cos(w[0])


def rnn_loop(x, w, h):
    total = 0.0
    for i in range(x.shape[0]):
        h = cell(h, x[i], w)
        total = total + r.sum(h * h * 0.5)
    return total + r.sum(h)


def rnn_scan(x, w, h):
    def body(h, x_t):
        h = cell(h, x_t, w)
        return h, r.sum(h * h * 0.5)

    h, losses = scan(body, h, x)
    return r.sum(losses) + r.sum(h)


def nested_loop(x, w, h):
    for i in range(x.shape[0]):
        for _ in range(2):
            h = e.sin(h * w[1]) + x[i]
        h = h * w[0] if float(r.sum(x[i])) > 0 else h - x[i] * w[2]
    return r.sum(h * h)


def nested_scan(x, w, h):
    def inner(h, _, x_t):
        return e.sin(h * w[1]) + x_t, None

    def outer(h, x_t):
        h, _ = scan(lambda c, k: inner(c, k, x_t), h, None, length=2)
        return cond(r.sum(x_t) > 0, lambda h: h * w[0], lambda h: h - x_t * w[2], h), None

    h, _ = scan(outer, h, x)
    return r.sum(h * h)


PAIRS = {"rnn": (rnn_loop, rnn_scan), "nested": (nested_loop, nested_scan)}


def close(a, b, tolerance=1e-9):
    for p, q in zip(tree.leaves(a), tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(p), np.asarray(q), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("pair", PAIRS)
def test_gradients_equal_those_of_the_python_loop(pair, inner, outer):
    loop, scanned = PAIRS[pair]
    args = [asarray(a) for a in (X, W, H)]
    close(staged(scanned)(*args), loop(*args))
    gradient = OUTER[outer](grad(INNER[inner](scanned), argnums=(0, 1, 2)))
    close(gradient(*args), grad(loop, argnums=(0, 1, 2))(*args))


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("pair", PAIRS)
def test_second_order(pair, inner, outer):
    loop, scanned = PAIRS[pair]
    args = [asarray(a) for a in (X, W, H)]

    def of_gradient(f):
        return lambda *at: sum(r.sum(e.sin(g)) for g in grad(f, argnums=(0, 1, 2))(*at))

    second = OUTER[outer](grad(of_gradient(INNER[inner](scanned)), argnums=(0, 1, 2)))
    close(second(*args), grad(of_gradient(loop), argnums=(0, 1, 2))(*args), 1e-8)


def test_forward_mode_through_scan():
    args = [asarray(a) for a in (X, W, H)]
    tangents = [asarray(RNG.normal(size=a.shape)) for a in args]
    close(jvp(rnn_scan, args, tangents), jvp(rnn_loop, args, tangents))


def test_scan_reverse_trees_and_int_carries():
    def body(carry, x):
        count, h = carry["n"], carry["h"]
        h = h * x["a"] + e.astype(count, "float64")
        return {"n": count + 1, "h": h}, (h, count)

    xs = {"a": asarray(X[:, 0]), "skip": asarray(np.arange(5))}
    carry, (hs, counts) = scan(body, {"n": 0, "h": asarray(np.float64(1))}, xs, reverse=True)
    h, want = 1.0, []
    for n, a in enumerate(X[::-1, 0]):
        h = h * a + n
        want.insert(0, h)
    close(hs, np.array(want))
    assert counts.tolist() == [4, 3, 2, 1, 0] and int(carry["n"]) == 5 and carry["n"].dtype.name == "int64"
    slope = grad(
        lambda a: scan(body, {"n": 0, "h": asarray(np.float64(1))}, {"a": a, "skip": xs["skip"]}, reverse=True)[0]["h"]
    )(xs["a"])
    step = 1e-6
    for i in range(5):
        moved = X[:, 0] + step * (np.arange(5) == i)
        other = scan(body, {"n": 0, "h": asarray(np.float64(1))}, {"a": asarray(moved), "skip": xs["skip"]}, reverse=True)[0][
            "h"
        ]
        assert abs((float(other) - h) / step - float(slope[i])) < 1e-4


def test_scan_lengths_and_weak_carries():
    assert float(scan(lambda c, _: (c * 0.5, None), 1, length=3)[0]) == 0.125  # the int 1 takes the dtype of c * 0.5
    carry, ys = scan(lambda c, x: (c + x, c), 0.0, asarray(np.zeros((0,), np.float32)))
    assert ys.shape == (0,) and float(carry) == 0.0
    assert (
        float(
            grad(lambda c: scan(lambda c, x: (c * x, None), c, asarray(np.ones((0,), np.float32)))[0])(asarray(np.float32(3)))
        )
        == 1.0
    )
    close(map_(lambda x: x * 2.0, asarray(X)), X * 2)


def test_what_does_not_vary_leaves_the_loop():
    values = [asarray(a) for a in (X, W)]
    traced = trace(
        lambda x, w: [scan(lambda c, row: (c + row * e.exp(w), None), asarray(np.zeros((3, 3))), x)[0]],
        [v._type for v in values],
    )
    loop = next(n for n in traced.graph.nodes() if n.op is SCAN)
    assert {n.op.name for n in loop.static["body"].nodes()} == {"input", "multiply", "add", "broadcast_to"}
    assert any(n.op.name == "exp" for n in traced.graph.nodes())


def test_saved_values_are_few():
    """The way back of an RNN keeps what varies once a trip, and the weights once."""
    values = [asarray(a) for a in (X, W, H)]
    backward = trace(lambda *v: grad(rnn_scan, argnums=(0, 1, 2))(*v), [v._type for v in values]).graph
    loops = [n for n in backward.nodes() if n.op is SCAN]
    assert len(loops) == 2  # one forward, one back: nothing runs twice
    forward = next(n for n in loops if not n.static["reverse"])
    assert len(forward.type) - forward.static["outputs"] <= 2  # the carry, and tanh


def test_a_whole_graph_runs_each_loop_once_when_split():
    values = [asarray(a) for a in (X, W, H)]
    backward = trace(lambda *v: grad(jitted(rnn_scan))(*v), [v._type for v in values]).graph
    bodies = [n for c in backward.nodes() if c.op.name == "call" for n in c.static["graph"].nodes()]
    assert sum(n.op is SCAN for n in bodies) == 2


def test_while_loop_counts():
    def collatz(n):
        return while_loop(lambda s: s[0] != 1, lambda s: (e.where(s[0] % 2 == 0, s[0] // 2, s[0] * 3 + 1), s[1] + 1), (n, 0))[1]

    assert int(collatz(27)) == int(staged(collatz)(asarray(27))) == 111


def test_eager_while_has_a_gradient_and_traced_says_why_not():
    def root(x):
        return while_loop(lambda y: e.abs(y * y - x) > 1e-12, lambda y: (y + x / y) * 0.5, x)

    assert abs(float(grad(root)(asarray(np.float64(2)))) - 0.5 / 2**0.5) < 1e-9
    with pytest.raises(GradientError, match=r"ms\.scan"):
        staged(grad(root))(asarray(np.float64(2)))


def test_fori_loop_static_and_dynamic():
    def powers(n):
        return lambda x: fori_loop(0, n, lambda i, c: c * x + e.astype(i, "float64"), asarray(np.float64(1)))

    def want(x):
        c = 1.0
        for i in range(4):
            c = c * x + i
        return c

    x = asarray(np.float64(1.5))
    assert float(powers(4)(x)) == float(powers(asarray(4))(x)) == want(1.5)
    assert float(staged(lambda x, n: powers(n)(x))(x, asarray(4))) == want(1.5)
    close(grad(powers(4))(x), (want(1.5 + 1e-7) - want(1.5 - 1e-7)) / 2e-7, 1e-6)


def test_cond_runs_one_branch_and_its_gradient():
    def f(x, y):
        return cond(x > 0, lambda a: {"out": e.log(a) * y}, lambda a: {"out": a * a}, x)["out"]

    for x in (2.0, -3.0):
        args = asarray(np.float64(x)), asarray(np.float64(5))
        want = (5 / x, np.log(x)) if x > 0 else (2 * x, 0.0)
        close(grad(f, (0, 1))(*args), want)
        close(staged(grad(f, (0, 1)))(*args), want)
        close(staged(grad(grad(f)))(*args), -5 / x**2 if x > 0 else 2.0)


def test_gradients_reach_small_closed_over_values_in_nested_traces():
    def f(w):
        return scan(
            lambda c, x: (c + cond(c > 0, lambda: x * w, lambda: x), None), asarray(np.float64(1)), asarray(X[:, 0] ** 2)
        )[0]

    w = asarray(np.float64(0.5))
    close(grad(f)(w), np.sum(X[:, 0] ** 2))
    close(value_and_grad(checkpoint(f))(w), (1 + 0.5 * np.sum(X[:, 0] ** 2), np.sum(X[:, 0] ** 2)))


def test_checkpoint_computes_again():
    values = [asarray(X)]
    f = checkpoint(lambda x: e.sin(e.exp(x)))
    graph = trace(lambda x: [grad(lambda x: r.sum(f(x)))(x)], [v._type for v in values]).graph
    again = [n for n in graph.nodes() if n.op.name == "checkpoint"]
    assert again and all(i.op.name in ("after", "broadcast_to") for n in again for i in n.inputs)
    out, pullback = vjp(f, asarray(X))
    close(out, np.sin(np.exp(X)))
    close(pullback(asarray(np.ones_like(X)))[0], np.cos(np.exp(X)) * np.exp(X))


def test_vjp_graph_keeps_large_constants():
    table = np.arange(300.0)
    traced = trace(lambda x: [r.sum(x * asarray(table))], [asarray(table)._type], literal_size=1000)
    pulled = evaluate(vjp_graph(traced.graph), [asarray(table), asarray(np.float64(2))])
    close(pulled, [2 * table])


def test_gradients_inside_bodies():
    def step(c, x):
        return c - 0.1 * grad(lambda c: r.sum(e.sin(c * x)))(c)

    def loop(c):
        for i in range(5):
            c = step(c, asarray(X)[i])
        return r.sum(c)

    def scanned(c):
        return r.sum(scan(lambda c, x: (step(c, x), None), c, asarray(X))[0])

    close(grad(scanned)(asarray(H)), grad(loop)(asarray(H)))
    close(staged(grad(jitted(scanned)))(asarray(H)), grad(loop)(asarray(H)))


def test_bodies_that_only_pass_on():
    def f(c):
        _, (_, _, products) = scan(lambda c, x: (c, (c, x, c * x)), c, asarray(X))
        return r.sum(products) + r.sum(scan(lambda c, x: (x, c), c, asarray(X))[1])

    close(grad(f)(asarray(H)), X.sum(axis=0) + 1)


def test_third_order():
    def power(x):
        return scan(lambda c, _: (c * x, None), asarray(np.float64(1)), length=4)[0]

    assert float(grad(grad(grad(power)))(asarray(np.float64(2)))) == 48.0


def test_types_only():
    x = asarray(H)
    found = result_types(
        lambda x: cond(r.sum(x) > 0, lambda: scan(lambda c, _: (c * x, c), x, length=2)[1], lambda: asarray(X[:2])), x._type
    )
    assert found._type == asarray(X[:2])._type


MISUSE = {
    "cond trees": (TreeError, lambda x: cond(x > 0, lambda: (x, x), lambda: x)),
    "cond types": (ShapeError, lambda x: cond(x > 0, lambda: x, lambda: x > 0)),
    "cond pred": (ShapeError, lambda x: cond(asarray(X) > x, lambda: x, lambda: x)),
    "while carry": (ShapeError, lambda x: while_loop(lambda c: c > 0, lambda c: c > 1, x)),
    "while tree": (TreeError, lambda x: while_loop(lambda c: c > 0, lambda c: (c, c), x)),
    "while test": (ShapeError, lambda x: while_loop(lambda c: asarray(X) > 0, lambda c: c, x)),
    "scan carry": (ShapeError, lambda x: scan(lambda c, _: (c > 1, None), x, length=2)),
    "scan tree": (TreeError, lambda x: scan(lambda c, _: ((c, c), None), x, length=2)),
    "scan pair": (TreeError, lambda x: scan(lambda c, _: c, x, length=2)),
    "scan lengths": (ShapeError, lambda x: scan(lambda c, _: (c, None), x, (asarray(X), asarray(W)))),
    "scan no length": (ShapeError, lambda x: scan(lambda c, _: (c, None), x)),
    "scan scalar xs": (ShapeError, lambda x: scan(lambda c, _: (c, None), x, x)),
    "if in a body": (TraceError, lambda x: scan(lambda c, _: (c if c > 0 else -c, None), x, length=2)),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_is_our_error(case):
    error, call = MISUSE[case]
    with pytest.raises(error, match=r"write|leaf|got"):
        staged(call)(asarray(np.float64(1)))


def test_the_error_names_the_leaf():
    with pytest.raises(ShapeError, match=r"leaf h changed from float64\[\] to bool\[\]"):
        scan(lambda c, _: ({"h": c["h"] > 1}, None), {"h": asarray(np.float64(1))}, length=2)
