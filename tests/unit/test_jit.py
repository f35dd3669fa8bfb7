"""`jit` as the user meets it: guards, static arguments, donation, closures, transformations in any order, errors, threads."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import mainspring as ms
from mainspring.base import flags
from mainspring.base.errors import ArgumentError, DonationError, MainspringError, TraceError
from mainspring.runtime import executable


@contextmanager
def compiles_at_most(n: int) -> Iterator[None]:
    """Fails when more than `n` executables are made within the block."""
    made: list[Any] = []
    original = executable._make

    def counted(*args: Any) -> Any:
        made.append(args)
        return original(*args)

    executable._make = counted  # type: ignore[assignment]
    try:
        yield
    finally:
        executable._make = original
    assert len(made) <= n, f"{len(made)} compiled, at most {n} allowed"


def close(a: Any, b: Any, rtol: float = 1e-6) -> None:
    for x, y in zip(ms.tree.leaves(a), ms.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=1e-6)


X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


# ---------------------------------------------------------------------------------------------------------- guards


def test_traces_once_for_each_shape_dtype_and_structure() -> None:
    traces: list[Any] = []

    @ms.jit
    def f(tree: Any, scale: Any = 2.0) -> Any:
        traces.append(tree)
        return ms.tree.map(lambda x: x * scale, tree)

    for argument, expected in [
        ({"a": X}, 1),
        ({"a": X + 1}, 1),
        ({"a": X[:2]}, 2),
        ({"a": X}, 2),
        ([X], 3),
        ({"a": X.astype(np.float64)}, 4),
        ({"a": X, "b": X}, 5),
        ({"a": ms.asarray(X)}, 5),
    ]:
        close(f(argument), ms.tree.map(lambda x: ms.asarray(x) * 2.0, argument))
        assert len(traces) == expected
    f({"a": X}, scale=3.0)
    assert len(traces) == 6, "another structure of arguments"
    close(f({"a": X}, scale=5.0), {"a": X * 5.0})
    assert len(traces) == 6, "numbers are operands, not part of the guard"


def test_equal_functions_share_an_executable() -> None:
    with flags.override(cache=""):
        first, second = ms.jit(lambda x: ms.sin(x) * 1.25), ms.jit(lambda y: ms.sin(y) * 1.25)
        with compiles_at_most(1):
            close(first(X), second(X))


def test_calling_again_compiles_nothing() -> None:
    f = ms.jit(lambda x, n: x * n)
    f(X, 2.0)
    with compiles_at_most(0):
        for n in (3.0, 4.5, np.float32(1)):
            close(f(X, n), X * np.float32(n))


def test_alternating_signatures_keep_their_traces() -> None:
    f = ms.jit(lambda x: ms.sum(x, axis=0))
    a, b = ms.asarray(X), ms.asarray(X[:2])
    f(a), f(b)
    with compiles_at_most(0):
        for _ in range(3):
            close(f(a), X.sum(0))
            close(f(b), X[:2].sum(0))


# ---------------------------------------------------------------------------------------------------------- static


def test_static_arguments_by_position_and_name() -> None:
    def f(x: Any, n: int, *, mode: str = "up") -> Any:
        return x + n if mode == "up" else x - n

    for g in (ms.jit(f, static_argnums=1, static_argnames="mode"), ms.jit(f, static_argnames=("n", "mode"))):
        close(g(X, 2), X + 2)
        close(g(X, n=3), X + 3)
        close(g(X, 2, mode="down"), X - 2)
        close(g(X, n=2, mode="down"), X - 2)


def test_static_values_that_are_equal_but_of_other_types_are_different() -> None:
    f = ms.jit(lambda x, n: ms.asarray(n) if isinstance(n, bool) else x * n, static_argnums=1)
    x = ms.asarray([1, 2])
    assert f(x, 1).dtype is ms.int64
    assert f(x, True).dtype is ms.bool
    assert f(x, 1.0).dtype is ms.float32
    g = ms.jit(lambda x, n: x * n[0], static_argnums=1)
    assert [g(x, (1,)).dtype, g(x, (1.0,)).dtype] == [ms.int64, ms.float32]


def test_static_arguments_must_be_hashable_and_exist() -> None:
    with pytest.raises(ArgumentError, match="hashable"):
        ms.jit(lambda x, n: x, static_argnums=1)(X, [1])
    with pytest.raises(ArgumentError, match="static_argnames"):
        ms.jit(lambda x: x, static_argnames="missing")
    with pytest.raises(ArgumentError, match="callable"):
        ms.jit(3)


def test_leaves_that_are_not_tensors_are_static() -> None:
    traces: list[str] = []

    @ms.jit
    def f(config: dict[str, Any], x: Any) -> Any:
        traces.append(config["name"])
        return x * 2 if config["name"] == "double" else x

    close(f({"name": "double", "none": None}, X), X * 2)
    close(f({"name": "same", "none": None}, X), X)
    close(f({"name": "double", "none": None}, X), X * 2)
    assert traces == ["double", "same"]


def test_holes_in_results() -> None:
    f = ms.jit(lambda x, name: {"x": x + 1, "name": name, "none": None, "pair": (x, "text", 3, 2.5)})
    for shift in (0.0, 1.0):
        out = f(X + np.float32(shift), "run")
        close(out["x"], X + 1 + shift)
        assert out["name"] == "run" and out["none"] is None and out["pair"][1] == "text"
        assert int(out["pair"][2]) == 3 and float(out["pair"][3]) == 2.5
    assert ms.jit(lambda x: ())(X) == () and ms.jit(lambda x: None)(X) is None


# -------------------------------------------------------------------------------------------------------- donation


def test_a_donated_tensor_cannot_be_used_again() -> None:
    f = ms.jit(lambda state, x: (state[0] + x, state[1] * x), donate=0)
    state = (ms.asarray(X), ms.asarray(X))
    x = ms.asarray(X)
    f(state, x)
    for use in (
        lambda: state[0].numpy(),
        lambda: state[1] + 1,
        lambda: f(state, x),
        lambda: float(state[0][0, 0]),
        lambda: ms.jit(lambda t: t)(state[0]),
    ):
        with pytest.raises(DonationError, match="handed over"):
            use()
    assert "donated" in repr(state[0])
    close(x, X)


def test_donated_positions_count_static_arguments_too() -> None:
    f = ms.jit(lambda n, x, y: x * n + y, static_argnums=0, donate=1)
    x, y = ms.asarray(X), ms.asarray(X)
    close(f(3, x, y), X * 3 + X)
    close(y, X)
    with pytest.raises(DonationError):
        x.numpy()


def test_a_failing_trace_takes_nothing() -> None:
    f = ms.jit(lambda x: ms.reshape(x, (7,)), donate=0)
    x = ms.asarray(X)
    with pytest.raises(MainspringError):
        f(x)
    close(x, X)


# -------------------------------------------------------------------------------------------------------- closures


def test_captured_tensors_small_and_large() -> None:
    small, large = ms.asarray([1.0, 2.0, 3.0, 4.0]), ms.asarray(np.arange(400, dtype=np.float32))
    f = ms.jit(lambda x: x * small + ms.sum(large))
    close(f(X), X * small.numpy() + large.numpy().sum())
    close(f(X + 1), (X + 1) * small.numpy() + large.numpy().sum())


def test_gradients_reach_captured_tensors() -> None:
    def loss(w: Any) -> Any:
        inner = ms.jit(lambda x: ms.sum(ms.tanh(x * w)))
        return inner(X)

    w = ms.asarray(np.full(4, 0.7, np.float32))
    close(ms.grad(loss)(w), (X * (1 - np.tanh(X * 0.7) ** 2)).sum(0), 1e-5)


def test_methods_and_modules() -> None:
    linear = ms.nn.Linear.create(ms.random.key(0), 4, 3)
    close(ms.jit(lambda module, x: module(x))(linear, X), linear(X), 1e-5)

    class Counter:
        def step(self, x: Any) -> Any:
            return x + 1

    close(ms.jit(Counter().step)(X), X + 1)


def test_varargs_and_defaults() -> None:
    f = ms.jit(lambda *xs, k=1.0, **more: sum(xs) * k + sum(more.values()))
    close(f(X, X), X * 2)
    close(f(X, X, k=2.0, a=X, b=X), X * 6)


# ------------------------------------------------------------------------------------------ transformations nested


def scalar(x: Any) -> Any:
    return ms.sum(ms.sin(x) * x * x)


@pytest.mark.parametrize("outer", [lambda f: f, ms.jit])
@pytest.mark.parametrize("middle", [lambda f: f, ms.jit])
@pytest.mark.parametrize("inner", [lambda f: f, ms.jit])
def test_jit_and_grad_in_all_orders(outer: Any, middle: Any, inner: Any) -> None:
    x = X.astype(np.float64)
    first = np.cos(x) * x * x + 2 * np.sin(x) * x
    second = -np.sin(x) * x * x + 4 * np.cos(x) * x + 2 * np.sin(x)
    close(outer(ms.grad(middle(inner(scalar))))(x), first)
    close(outer(ms.grad(middle(lambda t: ms.sum(ms.grad(inner(scalar))(t)))))(x), second)
    pushed = outer(lambda a, b: ms.jvp(middle(scalar), (a,), (b,))[1])(ms.asarray(x), ms.ones_like(ms.asarray(x)))
    close(pushed, first.sum())


@pytest.mark.parametrize("wrap", [lambda f: f, ms.jit])
def test_control_flow_inside_and_outside(wrap: Any) -> None:
    def body(h: Any, row: Any) -> Any:
        h = wrap(lambda a, b: ms.tanh(a + b))(h, row)
        return ms.cond(ms.sum(h) > 0, wrap(lambda a: a * 0.5), lambda a: a - 0.1, h), ms.sum(h)

    def run(x: Any) -> Any:
        return ms.scan(body, ms.zeros(4), x)

    want = run(ms.asarray(X))
    close(ms.jit(run)(X), want)

    def total(x: Any) -> Any:
        h, ys = run(x)
        return ms.sum(h) + ms.sum(ys * ys)

    want = ms.grad(total)(ms.asarray(X))
    for compiled in (ms.jit(ms.grad(total)), ms.grad(ms.jit(total)), ms.jit(ms.grad(ms.jit(total)))):
        close(compiled(ms.asarray(X)), want, 1e-5)


def test_while_loops_and_fori_nest() -> None:
    def f(n: Any, x: Any) -> Any:
        return ms.while_loop(
            lambda s: s[0] < n, lambda s: (s[0] + 1, ms.fori_loop(0, 2, lambda i, y: y * 1.5 + i, s[1])), (0, x)
        )[1]

    for n in (0, 1, 3):
        close(ms.jit(f)(n, X), f(n, ms.asarray(X)))


# ---------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "use",
    [lambda x: x if x > 0 else -x, lambda x: float(x), lambda x: [0] * int(x), lambda x: np.asarray(x), lambda x: x.item()],
)
def test_python_cannot_look_at_traced_values(use: Any) -> None:
    with pytest.raises(TraceError) as caught:
        ms.jit(use)(ms.asarray(1.0))
    text = str(caught.value)
    assert "ms.where" in text and "ms.cond" in text and "ms.scan" in text and "test_jit.py" in text


def test_a_traced_tensor_that_escapes_is_caught() -> None:
    kept: list[Any] = []
    ms.jit(lambda x: kept.append(x) or x * 2)(X)
    with pytest.raises(TraceError, match="outside"):
        kept[0] + 1
    with pytest.raises(TraceError):
        ms.jit(lambda x: x + kept[0])(X)


def test_an_error_in_the_function_leaves_nothing_behind() -> None:
    def broken(x: Any) -> Any:
        raise RuntimeError("mine")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="mine"):
            ms.jit(broken)(X)
    close(ms.jit(lambda x: x + 1)(X), X + 1)
    close(ms.asarray(X) + 1, X + 1)


# --------------------------------------------------------------------------------------------------------- threads


def test_threads_may_call_trace_and_compile_at_once() -> None:
    shared = ms.jit(lambda x: ms.sum(ms.sin(x) @ ms.matrix_transpose(x)))
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            rng = np.random.default_rng(seed)
            for n in (3, 5, 8):
                x = rng.standard_normal((n, 4)).astype(np.float32)
                close(shared(x), (np.sin(x) @ x.T).sum(), 1e-4)
                close(ms.grad(lambda t: ms.sum(t * t))(ms.asarray(x)), 2 * x)
        except BaseException as error:  # a thread's failure is the test's
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures, failures[0]


def test_calls_with_arrays_write_no_code_again(monkeypatch):
    f = ms.jit(lambda tree: {"y": tree["a"] * 2 + tree["b"]})
    arrays = {"a": np.arange(4, dtype=np.float32), "b": ms.ones((4,))}
    f(arrays)
    monkeypatch.setattr(sys.modules["mainspring.jit"], "_written", None)
    np.testing.assert_array_equal(f(arrays)["y"], arrays["a"] * 2 + 1)
    np.testing.assert_array_equal(f({"a": ms.ones((4,)), "b": arrays["a"]})["y"], arrays["a"] + 2)
    monkeypatch.undo()
    assert f({"a": np.arange(4.0), "b": ms.ones((4,))})["y"].dtype is ms.float64  # another type: another trace


# ---------------------------------------------------------------------------------------------------------- repeat


def _swapping(state, x):
    """Leaves that change places, one that is not taken over, results of several kinds."""
    a, b = state["a"], state["b"]
    return {"a": b + x, "b": ms.sin(a), "n": state["n"] + 1}, (ms.sum(a * x), {"kept": b})


def _state():
    return {"a": ms.arange(6, dtype=ms.float32), "b": ms.ones((6,)), "n": ms.asarray(0)}


@pytest.mark.parametrize("donate", [0, ()])
@pytest.mark.parametrize("arrays", [True, False])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 12])
def test_repeat_is_the_loop(count, arrays, donate):
    step = ms.jit(_swapping, donate=donate)
    items = [np.random.default_rng(i).standard_normal(6).astype(np.float32) for i in range(count)]
    items = items if arrays else [ms.asarray(x) for x in items]
    state, expected = _state(), []
    for x in items:
        state, result = step(state, x)
        expected.append(result)
    for _ in range(2):  # the second time from the first item on
        after, results = step.repeat(_state(), items)
        assert _bytes(after) == _bytes(state) and _bytes(results) == _bytes(expected)


def _bytes(t):
    return [np.asarray(leaf).tobytes() for leaf in ms.tree.leaves(t)]


def test_repeat_leaves_what_others_see_as_it_was():
    step = ms.jit(lambda state, x: ((state[0] + x, state[1] * x), state[0]), donate=0)
    fresh = ms.jit(lambda n: (ms.full((4,), 2.0) + n, ms.ones((4,)) + n))
    step.repeat(fresh(ms.asarray(0.0)), [ms.ones((4,))] * 2)
    state = fresh(ms.asarray(0.0))
    seen = state[0].numpy()
    (a, b), results = step.repeat(state, [ms.ones((4,)) * 2] * 3)
    assert seen.tolist() == [2.0] * 4 and a.numpy().tolist() == [8.0] * 4 and b.numpy().tolist() == [8.0] * 4
    assert [r.numpy().tolist() for r in results] == [[2.0] * 4, [4.0] * 4, [6.0] * 4]
    with pytest.raises(DonationError):
        state[1].numpy()
    both = fresh(ms.asarray(0.0))[0]
    (a, b), _ = step.repeat((both, both), [ms.ones((4,))] * 3)  # one memory twice
    assert a.numpy().tolist() == [5.0] * 4 and b.numpy().tolist() == [2.0] * 4
    held = fresh(ms.asarray(0.0))
    (a, b), _ = step.repeat(held, [held[0]] * 2)  # a state that is an item, too
    assert a.numpy().tolist() == [6.0] * 4 and b.numpy().tolist() == [4.0] * 4


def test_repeat_of_a_program_for_the_team_and_of_items_that_differ():
    step = ms.jit(lambda w, x: (w - 0.01 * (x.mT @ (x @ w)), ms.sum(x @ w)), donate=0)
    rng = np.random.default_rng(0)
    items = [rng.standard_normal((n, 128)).astype(np.float32) for n in (96, 96, 96, 40, 96, 96)]
    start = rng.standard_normal((128, 128)).astype(np.float32)
    found = []
    for threads in (1, 2, 3):
        with flags.override(threads=threads):
            w, expected = ms.asarray(start), []
            for x in items:
                w, r = step(w, x)
                expected.append(r)
            for _ in range(2):
                after, results = step.repeat(ms.asarray(start), items)
                assert _bytes((after, results)) == _bytes((w, expected))
            found.append(_bytes(after))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("backend", ["python", "reference"])
def test_repeat_on_other_backends(backend):
    with flags.override(backend=backend):
        step = ms.jit(_swapping, donate=0)
        state, results = step.repeat(_state(), [np.ones(6, np.float32)] * 3)
    assert int(state["n"]) == 3 and len(results) == 3


def test_repeat_refuses_what_gives_no_pair():
    with pytest.raises(ArgumentError, match="pair"):
        ms.jit(lambda s, x: s + x).repeat(ms.ones((2,)), [ms.ones((2,))])
