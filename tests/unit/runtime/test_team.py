"""The team of threads: barriers under stress, growth, callers that meet, fork, and a clean end."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from mainspring.compile.emit import codegen
from mainspring.runtime import team

# void f({i64 rounds, ptr slots}, team, tid, n): in round r thread t adds 1 to slot (t + r) mod n, which another thread
# wrote in round r - 1; without a right barrier an addition is lost.
SOURCE = """
define void @rounds(ptr %args, ptr %state, i64 %tid, i64 %n) {
entry:
  %rounds = load i64, ptr %args
  %slots.at = getelementptr i64, ptr %args, i64 1
  %slots = load ptr, ptr %slots.at
  %barrier = load ptr, ptr %state
  br label %loop
loop:
  %r = phi i64 [0, %entry], [%next, %loop]
  %t = add i64 %tid, %r
  %slot = urem i64 %t, %n
  %mine = getelementptr i64, ptr %slots, i64 %slot
  %old = load i64, ptr %mine
  %new = add i64 %old, 1
  store i64 %new, ptr %mine
  call void %barrier(ptr %state, i64 %n)
  %next = add i64 %r, 1
  %more = icmp ult i64 %next, %rounds
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""


class Rounds:
    def __init__(self) -> None:
        self.object = codegen.load_object(codegen.compile_module(SOURCE))
        self.address = self.object.address("rounds")

    def __call__(self, threads: int, rounds: int) -> None:
        slots = np.zeros(threads, np.int64)
        args = np.array([rounds, slots.ctypes.data], np.int64)
        team.dispatch(self.address, args.ctypes.data, threads)
        assert slots.tolist() == [rounds] * threads


@pytest.fixture(scope="module")
def rounds() -> Rounds:
    return Rounds()


@pytest.mark.parametrize("threads, count", [(1, 1000), (2, 50_000), (3, 4000), (8, 2000), (2, 10), (1, 1)])
def test_barrier_stress(rounds, threads, count):
    rounds(threads, count)


def test_many_short_dispatches_of_changing_width(rounds):
    rng = np.random.default_rng(0)
    for threads in rng.integers(1, 6, 500).tolist():
        rounds(threads, int(rng.integers(1, 4)))


def test_callers_take_turns(rounds):
    failures = []

    def caller(seed: int) -> None:
        try:
            for i in range(100):
                rounds(1 + (seed + i) % 3, 5)
        except AssertionError as error:
            failures.append(error)

    callers = [threading.Thread(target=caller, args=(seed,)) for seed in range(3)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert not failures and not any(t.is_alive() for t in callers)


def test_a_stopped_team_starts_again(rounds):
    rounds(3, 10)
    team.team().stop()
    assert not [t for t in threading.enumerate() if t.name.startswith("mainspring-")]
    rounds(3, 10)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_its_own_team(rounds):
    rounds(2, 10)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            rounds(3, 100)
            team.team().stop()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    rounds(2, 10)


@pytest.mark.parametrize("ending", ["pass", "raise SystemExit(0)"])
def test_the_interpreter_ends_cleanly_and_soon(ending):
    code = "from tests.unit.runtime.test_team import Rounds\nr = Rounds()\nr(4, 100)\n" + ending
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
