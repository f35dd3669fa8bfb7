"""MS_TARGET: the machine that is compiled for changes the code and no bit of the result."""

import numpy as np
import pytest

import mainspring as ms
from mainspring.base import flags
from mainspring.base.errors import ArgumentError
from mainspring.compile.target import TARGETS, chosen, native


def here(name):
    """Whether this process can run code for the target."""
    own = native()
    return TARGETS[name].triple.split("-")[0] == own.triple.split("-")[0] and TARGETS[name].has <= own.has


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_every_target_that_runs_here_gives_the_same_bits(name):
    if not here(name):
        pytest.skip(f"{name} does not run on this machine")
    x, w = ms.random.normal(ms.random.key(0), (33, 300)), ms.random.normal(ms.random.key(1), (300, 50))

    def bits(target):
        with flags.override(target=target):
            return np.asarray(ms.jit(lambda x, w: ms.softmax(ms.gelu(x @ w)))(x, w)).tobytes()

    assert bits(name) == bits("native")


def test_a_target_of_another_architecture_is_refused():
    other = next(name for name, t in TARGETS.items() if t.triple.split("-")[0] != native().triple.split("-")[0])
    with flags.override(target=other), pytest.raises(ArgumentError, match="architecture"):
        chosen()


def test_an_unknown_target_is_refused():
    with flags.override(target="abacus"), pytest.raises(ArgumentError, match="x86-64-v3"):
        chosen()
