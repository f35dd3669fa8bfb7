"""Heavy ops in eager mode: taken by their own kernels, by work alone, and equal to the reference within rounding."""

import numpy as np
import pytest

import mainspring as ms
from mainspring.base import flags
from mainspring.interpret import eager
from mainspring.ir.op import OPS
from mainspring.runtime import eager_kernels


def normal(*shape):
    return ms.asarray(np.random.default_rng(0).normal(size=shape).astype(np.float32))


def recurrence(x):
    return ms.scan(lambda h, row: (ms.tanh(h * 0.5 + row),) * 2, ms.zeros((4,)), x)[1]


CASES = {
    "contract": lambda: ms.einsum("bij,bjk->bki", normal(4, 20, 30), normal(4, 30, 10)),
    "conv": lambda: ms.conv(normal(2, 9, 9, 3), normal(3, 3, 3, 8), padding=1),
    "window_max": lambda: ms.max_pool(normal(2, 8, 8, 3), 2),
    "window_sum": lambda: ms.avg_pool(normal(2, 8, 8, 3), 2),
    "scatter": lambda: normal(50, 3).at[ms.asarray([1, 4, 1])].add(normal(3, 3)),
    "gather": lambda: ms.take(normal(50, 3), ms.asarray([1, 4, 1]), axis=0),
    "cumulative_sum": lambda: ms.cumulative_sum(normal(5, 40), axis=1),
    "scan": lambda: recurrence(normal(12, 4)),
}


@pytest.fixture
def everything_heavy(monkeypatch):
    """All of the table, whatever the work; and no signature remembered from before."""
    monkeypatch.setattr(eager_kernels, "HEAVY", {name: (work, 0) for name, (work, _) in eager_kernels.HEAVY.items()})
    monkeypatch.setattr(eager.EAGER, "known", {})


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_agrees_with_the_reference(name, everything_heavy):
    with flags.override(backend="reference"):
        expected = CASES[name]()
    np.testing.assert_allclose(CASES[name](), expected, rtol=1e-5, atol=1e-6)
    taken = [key[0].name for key, application in eager.EAGER.known.items() if getattr(application.run, "executable", None)]
    assert name in taken


def test_gradients_flow_through_kernels(everything_heavy):
    w = normal(3, 3, 3, 8)
    gradient = ms.grad(lambda w: ms.sum(ms.conv(normal(2, 9, 9, 3), w, padding=1) ** 2))
    with flags.override(backend="reference"):
        expected = gradient(w)
    np.testing.assert_allclose(gradient(w), expected, rtol=1e-4, atol=1e-3)


def test_small_work_takes_the_reference(monkeypatch):
    monkeypatch.setattr(eager.EAGER, "known", {})
    normal(8, 8) @ normal(8, 8)
    assert all(application.run is None for application in eager.EAGER.known.values())


def test_work_is_a_matter_of_types_alone():
    big = normal(512, 512)
    assert np.asarray(big @ big).tobytes() == np.asarray(big @ big).tobytes()


def test_the_table_names_ops():
    assert set(eager_kernels.HEAVY) <= set(OPS)


def test_a_signature_with_an_error_is_asked_again():
    for _ in range(2):
        with pytest.raises(ms.MainspringError):
            ms.add(normal(2), normal(3))


def test_zeros_of_either_sign_stay_apart():
    x = ms.asarray(np.array([-0.0], np.float32))
    assert np.signbit(np.asarray(x + -0.0))[0]
    assert not np.signbit(np.asarray(x + 0.0))[0]
