"""Programs: native code against its Python oracle, byte for byte, on any number of threads."""

import os
import random
import subprocess
import sys
import threading

import numpy as np
import pytest

from mainspring.base import flags
from mainspring.base.errors import ArgumentError, CompileError
from mainspring.compile.canonical import canonical, program_text
from mainspring.compile.program import ARENA, Barrier, Branch, Instr, Launch, Loop, Program, Ref, Repeat, barriers
from mainspring.runtime.native import NativeProgram, compile_program
from mainspring.runtime.python_program import PythonProgram
from mainspring.types.dtype import float16, float32, float64
from tests.unit.runtime.programs import HEAVY, addresses, affine, below, chain, column_sums, mixed, ping_pong, shift, softmax

THREADS = (1, 2, 3, 8)


def agree(program: Program, inputs: list[np.ndarray], ulps: int = 0) -> list[np.ndarray]:
    """Run `program` natively on each number of threads: the same bytes, and those of the Python oracle (within `ulps`)."""
    expected = [a.copy() for a in inputs]
    PythonProgram(program).run(expected)
    built = NativeProgram(program)
    first: list[np.ndarray] = []
    for threads in THREADS:
        arrays = [a.copy() for a in inputs]
        with flags.override(threads=threads):
            built.run(addresses(arrays))
        first = first or arrays
        assert [a.tobytes() for a in arrays] == [a.tobytes() for a in first], f"{threads} threads"
    for a, b in zip(first, expected, strict=True):
        if ulps:
            np.testing.assert_array_max_ulp(a, b, ulps)
        else:
            assert a.tobytes() == b.tobytes()
    return first


def normal(n: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(n).standard_normal(n).astype(dtype)


@pytest.mark.parametrize("rows, columns", [(1, 1), (7, 37), (64, 16), (3, 200)])
def test_softmax_and_column_sums(rows, columns):
    agree(chain(rows, columns), [normal(rows * columns), np.zeros(columns, np.float32)], ulps=16)


@pytest.mark.parametrize("dtype", (float16, float32, float64), ids=repr)
@pytest.mark.parametrize("rows, columns", [(1, 5), (16, 8), (37, 21), (100, 64)])
def test_sums_have_the_same_bits(rows, columns, dtype):
    program = Program((Launch(column_sums(rows, columns, dtype), (Ref(0), Ref(1))),), 2, 0, HEAVY)
    agree(program, [normal(rows * columns, dtype.numpy), np.zeros(columns, dtype.numpy)])


def test_mixed_dtypes():
    program = Program((Launch(mixed(100), (Ref(0), Ref(1), Ref(2))),), 3, 0, HEAVY)
    agree(program, [normal(100), np.random.default_rng(0).integers(-50, 50, 100), np.zeros(100, np.float32)])


@pytest.mark.parametrize("threads, steps", [(1, 20_000), (2, 20_000), (3, 2000), (8, 1000)])
def test_dependent_launches(threads, steps):
    n = 50
    a, b = np.arange(n), np.zeros(n, np.int64)
    with flags.override(threads=threads):
        NativeProgram(ping_pong(n, steps)).run(addresses([a, b]))
    assert a.tolist() == ((np.arange(n) + steps) % n + steps).tolist()


@pytest.mark.parametrize("reverse", (False, True))
def test_repeat_moves_its_refs(reverse):
    """Row i of the output is row i of the input plus what the counter ran over before: a scan."""
    n, rows = 6, 5
    step = (
        Launch(affine(n, 1, 1), (Ref(0, 0, (("r", 8 * n),)), Ref(ARENA))), Barrier(),
        Launch(affine(n, 3, 0), (Ref(ARENA), Ref(1, 0, (("r", 8 * n),)))), Barrier(),
        Launch(affine(n, 1, 0), (Ref(ARENA), Ref(2))), Barrier(),
    )
    program = Program((Repeat(rows, "r", step, reverse),), 3, 8 * n, HEAVY)
    x = np.arange(rows * n)
    _, y, last = agree(program, [x, np.zeros_like(x), np.zeros(n, np.int64)])
    assert y.tolist() == ((x + 1) * 3).tolist()
    assert last.tolist() == (x.reshape(rows, n)[0 if reverse else -1] + 1).tolist()


def test_nested_repeats_and_an_empty_one():
    refs = (Ref(0, 0, (("i", 48), ("j", 16))), Ref(1, 0, (("j", 32), ("i", 16))))
    inner = Repeat(3, "j", (Launch(affine(2, 2, 0), refs), Barrier()))
    nothing = Repeat(0, "k", (Launch(affine(2, 0, 0), (Ref(0), Ref(0))),))
    program = Program((Repeat(2, "i", (inner,)), nothing), 2, 0, HEAVY)
    x = np.arange(12)
    _, y = agree(program, [x, np.zeros_like(x)])
    assert y.reshape(3, 2, 2).tolist() == (x * 2).reshape(2, 3, 2).transpose(1, 0, 2).tolist()


def doubling(limit: int) -> Loop:
    """while x[0] < limit: x = 2 x + 1; the flag lies at the start of the arena."""
    test = (Launch(below(limit), (Ref(0), Ref(ARENA))), Barrier())
    there, back = Launch(affine(4, 2, 1), (Ref(0), Ref(ARENA, 64))), Launch(affine(4, 1, 0), (Ref(ARENA, 64), Ref(0)))
    return Loop(Ref(ARENA), test, (there, Barrier(), back, Barrier()))


@pytest.mark.parametrize("limit", (0, 1, 1000))
def test_loop(limit):
    (x,) = agree(Program((doubling(limit),), 1, 128, HEAVY), [np.arange(4)])
    expected = np.arange(4)
    while expected[0] < limit:
        expected = 2 * expected + 1
    assert x.tolist() == expected.tolist()


@pytest.mark.parametrize("limit", (-1, 10))
def test_branch_inside_repeat(limit):
    branch = Branch(Ref(ARENA), (Launch(affine(4, 5, 1), (Ref(0), Ref(1))),), (Launch(affine(4, -1, 0), (Ref(0), Ref(1))),))
    back = Launch(affine(4, 1, 0), (Ref(1), Ref(0)))
    test = (Launch(below(limit), (Ref(0), Ref(ARENA))), Barrier())
    program = Program((Repeat(4, "r", (*test, branch, Barrier(), back, Barrier())),), 2, 64, HEAVY)
    agree(program, [np.arange(4), np.zeros(4, np.int64)])


def random_instrs(rng: random.Random, depth: int, counters: tuple[str, ...]) -> tuple[Instr, ...]:
    """Some launches between places of 4 numbers (two bases and the arena, some of which move with a counter), nested."""
    def place() -> Ref:
        strides = ((rng.choice(counters), 32),) if counters and rng.random() < 0.5 else ()
        return Ref(rng.choice((0, 1, ARENA)), 64 + 32 * rng.randrange(4), strides)

    instrs: list[Instr] = []
    for _ in range(rng.randint(1, 3)):
        kind = rng.choice(("launch", "launch", "repeat", "branch", "loop") if depth else ("launch",))
        if kind == "launch":
            change = rng.choice((affine(4, rng.randint(-2, 2), rng.randint(-9, 9)), shift(4)))
            instrs += [Launch(change, (place(), Ref(ARENA, 1024))), Barrier()]
            instrs += [Launch(affine(4, 1, 0), (Ref(ARENA, 1024), place())), Barrier()]
        elif kind == "repeat":
            name = f"c{depth}"
            body = random_instrs(rng, depth - 1, (*counters, name))
            instrs.append(Repeat(rng.randint(1, 4), name, body, rng.random() < 0.5))
        else:
            flag = Ref(ARENA, 2048 + 64 * depth)
            test = (Launch(below(rng.randint(-20, 20)), (place(), flag)), Barrier())
            inner = random_instrs(rng, depth - 1, counters)
            if kind == "branch":
                instrs += [*test, Branch(flag, inner, random_instrs(rng, depth - 1, counters))]
            else:
                instrs += [bounded_loop(flag, inner, depth), Barrier()]  # nobody writes the flag while another still reads it
    return tuple(instrs)


def bounded_loop(flag: Ref, inner: tuple[Instr, ...], depth: int) -> Loop:
    """Three rounds of `inner`, counted in the arena; the count is left where a second visit begins with it past the limit."""
    count, spare = Ref(ARENA, 3072 + 128 * depth), Ref(ARENA, 3136 + 128 * depth)
    up = (Launch(affine(1, 1, 1), (count, spare)), Barrier(), Launch(affine(1, 1, 0), (spare, count)), Barrier())
    return Loop(flag, (Launch(below(3), (count, flag)), Barrier()), inner + up)


@pytest.mark.parametrize("seed", range(12))
def test_random_programs(seed):
    rng = random.Random(seed)
    clear = [Launch(affine(512, 0, 0), (Ref(0), Ref(ARENA))), Barrier()]  # the arena begins as zeros
    program = Program((*clear, *random_instrs(rng, 3, ())), 2, 4096, HEAVY)
    agree(program, [np.random.default_rng(seed).integers(-9, 9, 512), np.zeros(512, np.int64)])


def test_a_program_called_from_two_threads_at_once():
    rows, columns = 40, 30
    for work in (HEAVY, 0.0):
        program = chain(rows, columns)
        built = NativeProgram(Program(program.instrs, program.bases, program.arena, work))
        inputs = [normal(rows * columns) * (i + 1) for i in range(3)]
        expected = [np.zeros(columns, np.float32) for _ in inputs]
        for x, y in zip(inputs, expected, strict=True):
            built.run(addresses([x, y]))
        wrong = []

        def caller(i: int, built=built, inputs=inputs, expected=expected, wrong=wrong) -> None:
            for _ in range(100):
                y = np.zeros(columns, np.float32)
                built.run(addresses([inputs[i], y]))
                if y.tobytes() != expected[i].tobytes():
                    wrong.append(i)

        callers = [threading.Thread(target=caller, args=(i,)) for i in range(len(inputs))]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join(60)
        assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_program_survives_fork():
    built = NativeProgram(ping_pong(50, 100))
    a, b = np.arange(50), np.zeros(50, np.int64)
    with flags.override(threads=2):
        built.run(addresses([a, b]))
        child = os.fork()
        if child == 0:
            built.run(addresses([a, b]))
            os._exit(int(a.tolist() != ((np.arange(50) + 200) % 50 + 200).tolist()))
        assert os.waitpid(child, 0)[1] == 0


def test_bytes_round_trip_in_another_process(tmp_path):
    data = NativeProgram(ping_pong(50, 10)).to_bytes()
    (tmp_path / "program").write_bytes(data)
    code = """
import sys, numpy as np
from mainspring.runtime.native import NativeProgram
a, b = np.arange(50), np.zeros(50, np.int64)
NativeProgram.from_bytes(open(sys.argv[1], "rb").read()).run([a.ctypes.data, b.ctypes.data])
assert a.tolist() == ((np.arange(50) + 10) % 50 + 10).tolist()
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "program")], check=True, timeout=20)


@pytest.mark.parametrize("damage", [lambda d: b"", lambda d: d[:50], lambda d: d[:-1], lambda d: d + b"x"])
def test_damaged_bytes_are_refused(damage):
    data = NativeProgram(ping_pong(50, 10)).to_bytes()
    with pytest.raises(CompileError, match="data"):
        NativeProgram.from_bytes(damage(data))


def test_a_wrong_number_of_pointers_is_refused():
    a = np.zeros(50, np.int64)
    with pytest.raises(ArgumentError, match="2 addresses"):
        NativeProgram(ping_pong(50, 2)).run(addresses([a]))
    with pytest.raises(ArgumentError, match="2 arrays"):
        PythonProgram(ping_pong(50, 2)).run([a])


def test_kernels_equal_but_for_names_are_compiled_once():
    same = [softmax(4, 8, name) for name in ("", "other")]
    assert canonical(same[0]) == canonical(same[1])
    others = [softmax(4, 9), softmax(5, 8), affine(4, 2, 1), affine(4, 2, 2), column_sums(4, 8), column_sums(4, 8, float64)]
    assert len({canonical(k) for k in same + others}) == 1 + len(others)
    refs = (Ref(0), Ref(1))
    program = Program(tuple([Launch(k, refs) for k in same]), 2, 0, 0.0)
    assert len(compile_program(program).kernels) == 1
    assert program_text(program) == program_text(Program((Launch(same[0], refs),) * 2, 2, 0, 0.0))


def test_a_program_of_nothing():
    NativeProgram(Program((), 0, 0, 0.0)).run([])


def test_a_program_of_many_barriers_runs_alone_for_longer():
    step = (Launch(affine(8, 1, 0), (Ref(0), Ref(1))), Barrier())
    few, many = (Program((Repeat(count, "r", step), Branch(Ref(0), step, ())), 2, 0, 1e5) for count in (2, 20))
    assert barriers(few.instrs) == 3 and barriers(many.instrs) == 21 and barriers((Loop(Ref(0), step, step),)) == 2
    assert not few.alone and many.alone
