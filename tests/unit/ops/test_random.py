"""Random numbers: published known answers, equal bits in every form, and moments and counts within fixed bounds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mainspring.base.errors import ArgumentError, DTypeError, ShapeError
from mainspring.interpret.reference import run_reference
from mainspring.interpret.staged import trace
from mainspring.ir import scalar as s
from mainspring.ir.bind import concrete
from mainspring.ir.primitives import SCALARS
from mainspring.ops import random as rnd
from mainspring.tensor import asarray
from mainspring.types.dtype import uint32
from mainspring.types.shape import TensorType

# Random123 1.14, tests/kat_vectors: threefry2x32, 20 rounds: counter, key, answer
KNOWN = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]
N = 20_000


def evaluated(x: s.Expr, key: np.ndarray, index: dict[str, np.ndarray]) -> np.ndarray:
    """A scalar expression over arrays of loop indices: what compiled code computes, in NumPy."""
    values: dict[s.Expr, np.ndarray] = {}
    for e in s.walk(x):
        args = [values[a] for a in e.args]
        if e.op == "const":
            values[e] = np.asarray(e.attr, e.dtype.numpy)
        elif e.op == "var":
            values[e] = index[e.attr[0]]
        elif e.op == "read":
            values[e] = key[int(args[0])]
        elif e.op == "cast":
            values[e] = args[0].astype(e.dtype.numpy)
        else:
            values[e] = SCALARS[e.op].numpy(*args)
    return np.asarray(values[x])


@pytest.mark.parametrize("counter, key, answer", KNOWN)
def test_known_answers(counter, key, answer):
    with np.errstate(over="ignore"):
        words = [tuple(np.array([w], np.uint32) for w in pair) for pair in (key, counter)]
        assert tuple(int(w[0]) for w in rnd.threefry(*words, np.uint32, rnd._rotate_array)) == answer
        exprs = [tuple(s.const(w, uint32) for w in pair) for pair in (key, counter)]
        found = rnd.threefry(*exprs, lambda c: s.const(c, uint32), rnd._rotate_expr)
        assert tuple(int(evaluated(x, np.zeros(2), {})) for x in found) == answer


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4)])
def test_scalar_body_equals_reference(bits, shape):
    key = np.array([123, 456], np.uint32)
    space = rnd.RANDOM_BITS.space_of(TensorType((2,), uint32), shape=shape, bits=bits, stream=1)
    index = {f"d{i}": v for i, v in enumerate(np.indices(shape))}
    with np.errstate(over="ignore"):
        found = evaluated(space.symbolic((TensorType((2,), uint32),)), key, index)
        want = rnd.RANDOM_BITS.reference(key, shape=shape, bits=bits, stream=1)
    assert found.dtype == want.dtype and np.array_equal(found, want)


def test_bits_depend_on_key_and_position_only():
    key = rnd.key(7)
    whole = rnd.bits(key, (4, 6)).numpy()
    assert np.array_equal(whole.ravel(), rnd.bits(key, 24).numpy())
    assert np.array_equal(whole.ravel()[:10], rnd.bits(key, (10,)).numpy())
    traced = trace(lambda k: [rnd.bits(k, (4, 6))], [key._type])
    assert np.array_equal(run_reference(traced.graph, [concrete(key)])[0], whole)


def test_keys_differ_from_each_other_and_from_numbers():
    key = rnd.key(0)
    children = rnd.split(key, 100).numpy()
    folded = np.stack([rnd.fold_in(rnd.key(seed), n).numpy() for seed in range(4) for n in range(4)])
    keys = {tuple(k) for k in (*children, *folded, key.numpy(), *rnd.bits(key, (100, 2)).numpy())}
    assert len(keys) == 100 + 16 + 1 + 100
    assert np.array_equal(rnd.fold_in(key, 2**40 + 5).numpy(), rnd.fold_in(key, asarray(2**40 + 5)).numpy())
    assert np.array_equal(rnd.key(-3).numpy(), rnd.key(asarray(-3)).numpy())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_floats_have_their_moments_and_ranges(dtype):
    key = rnd.key(1)
    tolerance = 5 / N**0.5 + (0.004 if dtype == "bfloat16" else 0.0)
    unit = rnd.uniform(key, N, dtype).numpy().astype(np.float64)
    assert 0 <= unit.min() and unit.max() < 1 and abs(unit.mean() - 0.5) < tolerance and abs(unit.var() - 1 / 12) < tolerance
    drawn = rnd.normal(key, N, dtype)
    assert drawn.dtype.name == dtype
    x = drawn.numpy().astype(np.float64)
    assert abs(x.mean()) < tolerance and abs(x.var() - 1) < 2 * tolerance and abs((x**3).mean()) < 4 * tolerance
    wide = rnd.uniform(key, N, dtype, low=-3.0, high=5.0).numpy().astype(np.float64)
    assert wide.min() >= -3 and wide.max() < 5 and abs(wide.mean() - 1) < 8 * tolerance
    assert np.isfinite(rnd.exponential(key, N, dtype).numpy().astype(np.float64)).all()
    assert np.isfinite(rnd.gumbel(key, N, dtype).numpy().astype(np.float64)).all()


DISTRIBUTIONS = {
    "uniform": (lambda k: rnd.uniform(k, N), stats.uniform()),
    "normal": (lambda k: rnd.normal(k, N), stats.norm()),
    "normal in float64": (lambda k: rnd.normal(k, N, "float64"), stats.norm()),
    "exponential": (lambda k: rnd.exponential(k, N), stats.expon()),
    "gumbel": (lambda k: rnd.gumbel(k, N), stats.gumbel_r()),
    "truncated normal": (lambda k: rnd.truncated_normal(k, -1.0, 2.0, N), stats.truncnorm(-1, 2)),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distribution_functions(name):
    draw, law = DISTRIBUTIONS[name]
    assert stats.kstest(draw(rnd.key(3)).numpy().astype(np.float64), law.cdf).pvalue > 1e-3


def test_counts():
    key = rnd.key(5)
    dice = rnd.randint(key, N, -2, 4, "int8")
    assert dice.dtype.name == "int8"
    values, counts = np.unique(dice.numpy(), return_counts=True)
    assert values.tolist() == [-2, -1, 0, 1, 2, 3] and stats.chisquare(counts).pvalue > 1e-3
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    drawn = rnd.categorical(key, asarray(np.log(weights).astype(np.float32)), shape=(N,)).numpy()
    assert stats.chisquare(np.bincount(drawn, minlength=4), weights * N).pvalue > 1e-3
    assert abs(rnd.bernoulli(key, 0.3, N).numpy().mean() - 0.3) < 0.02
    both = rnd.bernoulli(key, asarray(np.array([0.0, 1.0], np.float32)), (100, 2)).numpy()
    assert not both[:, 0].any() and both[:, 1].all()
    assert stats.chisquare(np.bincount(rnd.bits(key, N, 8).numpy() >> 4)).pvalue > 1e-3


def test_categorical_shapes_and_axes():
    logits = np.full((3, 2, 4), -1e9, np.float32)
    logits[:, 1, :] = 0
    drawn = rnd.categorical(rnd.key(0), asarray(logits), axis=1, shape=(5, 3, 4))
    assert drawn.shape == (5, 3, 4) and (drawn.numpy() == 1).all()
    assert rnd.categorical(rnd.key(0), asarray(logits)).shape == (3, 2)


def test_randint_extremes():
    assert rnd.randint(rnd.key(0), 100, 0, 2**64, "uint64").numpy().max() > 2**60
    whole = rnd.randint(rnd.key(0), 100, -(2**63), 2**63).numpy()
    assert whole.min() < 0 < whole.max()
    bounds = rnd.randint(rnd.key(0), (4,), asarray([0, 10, 20, 30]), asarray([1, 11, 21, 31]))
    assert bounds.tolist() == [0, 10, 20, 30]


def test_permutations_are_permutations():
    order = rnd.permutation(rnd.key(2), 50)
    assert sorted(order.tolist()) == list(range(50)) and order.tolist() != list(range(50))
    x = np.arange(12).reshape(3, 4)
    mixed = rnd.permutation(rnd.key(2), asarray(x), axis=1).numpy()
    assert sorted(map(tuple, mixed.T)) == sorted(map(tuple, x.T))
    firsts = [int(rnd.permutation(k, 6)[0]) for k in rnd.split(rnd.key(9), 600)]
    assert stats.chisquare(np.bincount(firsts, minlength=6)).pvalue > 1e-3


MISUSE = {
    "key dtype": (DTypeError, lambda: rnd.normal(asarray([1, 2]), 3)),
    "key shape": (DTypeError, lambda: rnd.normal(rnd.split(rnd.key(0)), 3)),
    "width": (ArgumentError, lambda: rnd.bits(rnd.key(0), 3, 7)),
    "bounds": (ArgumentError, lambda: rnd.uniform(rnd.key(0), 3, low=1.0, high=0.0)),
    "empty range": (ArgumentError, lambda: rnd.randint(rnd.key(0), 3, 5, 5)),
    "range of dtype": (ArgumentError, lambda: rnd.randint(rnd.key(0), 3, 0, 300, "uint8")),
    "int normal": (DTypeError, lambda: rnd.normal(rnd.key(0), 3, "int32")),
    "p shape": (ShapeError, lambda: rnd.bernoulli(rnd.key(0), asarray([0.5, 0.5]), (3,))),
    "categorical shape": (ShapeError, lambda: rnd.categorical(rnd.key(0), asarray([[0.5, 0.5]]), shape=(3,))),
    "float data": (DTypeError, lambda: rnd.fold_in(rnd.key(0), asarray(1.5))),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_is_our_error(case):
    error, call = MISUSE[case]
    with pytest.raises(error):
        call()
