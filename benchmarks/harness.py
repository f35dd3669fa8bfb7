"""How a family of workloads is described, and how its peers are run: in processes of their own, in turn, compared pair by pair.

A family's module holds `FAMILY`: cases (sizes), and a builder for each peer, of which the first is ours. ``builder(case)`` sets
a workload up and gives a `Workload`. The peers' processes (`benchmarks.worker`) are told in turn to run, so that a drift of
the machine's speed meets all alike, and only after they were seen to compute the same numbers. A peer that is not installed,
or that fails, is left out with the reason; ours must work.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from mainspring.base.errors import ArgumentError, MainspringError

ROOT = Path(__file__).resolve().parent.parent
OURS = "mainspring"
PATIENCE = 200  # seconds that a peer may take to build a workload
# variables that set the number of threads, and what each peer's process imports before its memory is counted
THREADS = ("MS_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CPU_COUNT")
IMPORTS = {OURS: "mainspring", "torch eager": "torch", "torch.compile": "torch", "jax": "jax", "onnx runtime": "onnxruntime",
           "tinygrad": "tinygrad", "torch bf16": "torch", "mainspring f32": "mainspring"}


class Disagreement(MainspringError):
    """Two peers that should compute the same numbers do not."""


@dataclass(frozen=True)
class Case:
    """One size of a workload.

    Attributes:
        name: how tables and ``--size`` call it.
        sizes: what the builders read.
        operations, moved: floating-point operations of one run, and bytes that it must move at least; 0 if they mean little.
        dtype: of the operations.
        extra: runs only when ``--size`` asks for it.
    """

    name: str
    sizes: dict[str, Any] = field(default_factory=dict)
    operations: float = 0
    moved: float = 0
    dtype: str = "float32"
    extra: bool = False


@dataclass(frozen=True)
class Workload:
    """A workload that is set up: `run` runs it once, to the end, and gives its numbers (an array, or a sequence of them).

    The first `checks` results are compared among the peers: several, if each run goes on from the one before.
    """

    run: Callable[[], Any]
    checks: int = 1


Builder = Callable[[Case], Workload]


@dataclass(frozen=True)
class Family:
    """Workloads of one kind.

    Attributes:
        name: that of the module, too. title: one line.
        cases: the sizes. peers: name (`IMPORTS` says what it imports) → builder; ours is the first.
        tolerance: by how much two peers' numbers may differ, as a share of the largest of them.
        fresh: each case in a process of its own, so that first calls and memory are those of a new process.
        cold: no round is timed; instead the first call is, with empty caches and with those that a first process left.
    """

    name: str
    title: str
    cases: tuple[Case, ...]
    peers: dict[str, Builder]
    tolerance: float = 1e-5
    fresh: bool = True
    cold: bool = False


@dataclass(frozen=True)
class Options:
    """How to run: `rounds` of at least `seconds` for each peer; `sizes` and `peers` choose by parts of names, empty for all."""

    threads: int = 2
    rounds: int = 7
    seconds: float = 0.06
    sizes: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()

    def cases(self, family: Family) -> list[Case]:
        """The cases to run."""
        if not self.sizes:
            return [case for case in family.cases if not case.extra]
        found = [case for case in family.cases if any(part in case.name or part == "all" for part in self.sizes)]
        if not found:
            known = ", ".join(case.name for case in family.cases)
            raise ArgumentError("bench", "size", f"must be a part of one of {known}, or all", ", ".join(self.sizes),
                                f"--size '{family.cases[0].name}'")
        return found

    def chosen(self, family: Family) -> list[str]:
        """The peers to run, ours first."""
        first, *others = family.peers
        return [first, *(name for name in others if not self.peers or any(part in name for part in self.peers))]


@dataclass(frozen=True)
class Timing:
    """What one peer did with one case: seconds of a run in each round, of the first call, bytes of memory it took."""

    times: tuple[float, ...]
    first: float
    memory: int


@dataclass(frozen=True)
class Outcome:
    """What the peers did with one case, and why the others are missing."""

    case: Case
    timings: dict[str, Timing]
    left_out: dict[str, str]


def load(name: str) -> Family:
    """The family of the module `name` of this package, or of any module by its full name."""
    family = import_module(name if "." in name else f"benchmarks.{name}").FAMILY
    assert isinstance(family, Family)
    return family


# -------------------------------------------------------------------------------------------------------- processes


def installed() -> dict[str, str]:
    """The environment of a process whose byte code is cached, as it is in an installed package."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class Absent(Exception):
    """A peer cannot take part; the message says why."""


class Peer:
    """A peer's process. It is stopped but while it answers: many libraries' threads go on spinning when their work is done."""

    def __init__(self, module: str, name: str, threads: int, environment: dict[str, str] | None = None):
        self.name = name
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed with the process
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        variables = {**installed(), **dict.fromkeys(THREADS, str(threads)), "PYTHONPATH": path, **(environment or {})}
        command = [sys.executable, "-m", "benchmarks.worker", module, name, str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                        env=variables)

    def ask(self, order: str, patience: float = PATIENCE, **details: Any) -> dict[str, Any]:
        """The answer to an order; raises Absent when there is none, or a bad one."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps({"do": order, **details}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Absent(self._last_words()) from None
        if not select.select([self.process.stdout], [], [], patience)[0]:
            raise Absent(f"no answer in {patience:.0f} s")
        line = self.process.stdout.readline()
        self.process.send_signal(signal.SIGSTOP)
        answer = json.loads(line) if line else {"failed": self._last_words()}
        if "failed" in answer:
            raise Absent(answer["failed"])
        return answer

    def _last_words(self) -> str:
        self.log.seek(0)
        lines = [line.strip() for line in self.log if line.strip()]
        return f"its process ended: {lines[-1] if lines else 'without a word'}"[:300]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.log):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---------------------------------------------------------------------------------------------------------- running


def run(family: Family, options: Options) -> Iterator[Outcome]:
    """The outcome of each case, as they come."""
    if family.cold:
        yield from (_cold(family, case, options) for case in options.cases(family))
        return
    team = _Team(family, options)
    try:
        for case in options.cases(family):
            yield team.outcome(case)
            if family.fresh:
                team.close()
    finally:
        team.close()


class _Team:
    """The peers of a family: their processes, and why those that cannot take part do not."""

    def __init__(self, family: Family, options: Options):
        self.family, self.options = family, options
        self.peers: dict[str, Peer] = {}

    def close(self) -> None:
        for peer in self.peers.values():
            peer.close()
        self.peers = {}

    def outcome(self, case: Case) -> Outcome:
        built, left_out = self._built(case)
        times: dict[str, list[float]] = {name: [] for name in built}
        for _ in range(self.options.rounds):
            for name in list(built):
                try:
                    times[name].append(self.peers[name].ask("time", seconds=self.options.seconds)["seconds"])
                except Absent as reason:
                    del built[name]
                    self._drop(name, reason, left_out)
        memory = {name: self.peers[name].ask("memory")["bytes"] for name in built}
        timings = {name: Timing(tuple(times[name]), built[name], memory[name]) for name in built}
        return Outcome(case, timings, left_out)

    def _built(self, case: Case) -> tuple[dict[str, float], dict[str, str]]:
        """Seconds of the first call of each peer that is ready for `case`, and why the others are not."""
        first: dict[str, float] = {}
        left_out: dict[str, str] = {}
        numbers: dict[str, list[np.ndarray]] = {}
        with tempfile.TemporaryDirectory() as folder:
            for number, name in enumerate(self.options.chosen(self.family)):
                place = str(Path(folder) / f"{number}.npz")
                try:
                    first[name] = self._peer(name).ask("build", case=case.name, numbers=place)["first"]
                except Absent as reason:
                    self._drop(name, reason, left_out)
                    continue
                with np.load(place) as saved:
                    numbers[name] = [saved[key] for key in saved.files]
        agree(self.family.name, case, numbers, self.family.tolerance)
        return first, left_out

    def _peer(self, name: str) -> Peer:
        if name not in self.peers:
            self.peers[name] = Peer(self.family.name, name, self.options.threads)
        return self.peers[name]

    def _drop(self, name: str, reason: Absent, left_out: dict[str, str]) -> None:
        left_out[name] = str(reason)
        if name in self.peers:
            self.peers.pop(name).close()
        _require_ours(self.family, name, reason)


def _require_ours(family: Family, name: str, reason: Absent) -> None:
    if name == next(iter(family.peers)):
        raise MainspringError("bench", family.name, f"{name} must run it", str(reason))


def agree(family: str, case: Case, numbers: dict[str, Sequence[np.ndarray]], tolerance: float) -> None:
    """Raises Disagreement unless all peers' `numbers` are those of the first, within a share `tolerance` of the largest."""
    (first, ours), *others = numbers.items()
    for name, theirs in others:
        for place, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if a.shape != b.shape:
                raise Disagreement("bench", f"{family}, {case.name}", f"{first} and {name} must give results of one shape",
                                   f"result {place}: {a.shape} and {b.shape}")
            scale = max(float(np.abs(a).max(initial=0)), 1e-30)
            error = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0)) / scale
            if not error <= tolerance:
                raise Disagreement("bench", f"{family}, {case.name}", f"{first} and {name} must agree within {tolerance:g}",
                                   f"result {place} differs by {error:.3g} of its largest number")


def _cold(family: Family, case: Case, options: Options) -> Outcome:
    """First calls: in `Timing`, `times` are those from disk and `first` that of empty caches."""
    timings: dict[str, Timing] = {}
    left_out: dict[str, str] = {}
    for name in options.chosen(family):
        with tempfile.TemporaryDirectory() as folder:
            caches = {"MS_CACHE": f"{folder}/ms", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
                      "JAX_COMPILATION_CACHE_DIR": f"{folder}/jax", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                      "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1", "CACHEDB": f"{folder}/tinygrad.db"}
            calls = []
            try:
                for _ in range(1 + (options.rounds + 1) // 2):
                    with Peer(family.name, name, options.threads, caches) as peer:
                        calls.append(peer.ask("build", case=case.name, numbers=f"{folder}/numbers.npz"))
            except Absent as reason:
                left_out[name] = str(reason)
                _require_ours(family, name, reason)
                continue
        timings[name] = Timing(tuple(call["first"] for call in calls[1:]), calls[0]["first"], calls[0]["bytes"])
    return Outcome(case, timings, left_out)
