"""Giving memory back does no harm: what is there goes on to work, and so does the compiler."""

from __future__ import annotations

import numpy as np

import mainspring as ms
from mainspring.base import flags
from mainspring.runtime.footprint import give_back


def test_programs_run_and_compile_afterwards() -> None:
    x = np.arange(100, dtype=np.float32)
    before = ms.jit(lambda v: v * 2.0)
    with flags.override(cache=""):
        assert np.array_equal(before(x), x * 2)
        give_back()
        assert np.array_equal(before(x), x * 2)
        assert np.array_equal(ms.jit(lambda v: v * 3.0 - 1.0)(x), x * 3 - 1)
        give_back()
