"""Small programs as functions of Python."""

import gc

import numpy as np
import pytest

from mainspring.compile.program import Program
from mainspring.runtime.native import NativeProgram
from tests.unit.runtime.programs import addresses, ping_pong


def small() -> tuple[NativeProgram, np.ndarray, np.ndarray]:
    p = ping_pong(50, 10)
    return NativeProgram(Program(p.instrs, p.bases, p.arena, 0.0)), np.arange(50), np.zeros(50, np.int64)


def test_a_function_runs_what_run_runs():
    program, a, b = small()
    program.run(addresses([a, b]))
    for fixed in (0, 1, 2):
        c, d = np.arange(50), np.zeros(50, np.int64)
        given = addresses([c, d])
        function = program.function(given[2 - fixed :])
        gc.collect()
        function(*given[: 2 - fixed])
        assert c.tobytes() == a.tobytes() and d.tobytes() == b.tobytes()


def test_wrong_arguments_raise():
    program, a, b = small()
    function = program.function([])
    for wrong in ((), addresses([a]), [*addresses([a, b]), 0], ("a", "b"), (1.5, 2), (None, None)):
        with pytest.raises(TypeError):
            function(*wrong)
    with pytest.raises(OverflowError):
        function(1 << 80, 0)
    assert (a == np.arange(50)).all()


def test_a_large_program_is_called_the_same_way():
    p = ping_pong(50, 10)
    program, a, b = NativeProgram(p), np.arange(50), np.zeros(50, np.int64)
    assert not program.alone
    program.function(addresses([b]))(*addresses([a]))
    other, c, d = small()
    other.run(addresses([c, d]))
    assert a.tobytes() == c.tobytes()
