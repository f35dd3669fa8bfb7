"""A family of workloads for the tests of the harness: peers that agree, are missing, die, or compute something else."""

from __future__ import annotations

import os

import numpy as np

from benchmarks.harness import Case, Family, Workload


def agreeing(case: Case) -> Workload:
    state = [0.0]

    def run() -> list[np.ndarray]:
        state[0] += 1
        return [np.full(3, state[0]), np.zeros(())]

    return Workload(run, checks=2)


def missing(case: Case) -> Workload:
    raise ImportError("No module named 'nothing'")


def broken(case: Case) -> Workload:
    raise ValueError("cannot do this\nat all")


def dying(case: Case) -> Workload:
    os._exit(3)


def different(case: Case) -> Workload:
    return Workload(lambda: [np.full(3, 1.5), np.zeros(())], checks=2)


FAMILY = Family(
    "tests.unit.tools.family_of_tests",
    "a family for tests",
    (Case("small", operations=1e3), Case("large", operations=1e4), Case("odd", extra=True)),
    {"ours": agreeing, "same": agreeing, "missing": missing, "broken": broken, "dying": dying, "different": different},
    fresh=False,
)
