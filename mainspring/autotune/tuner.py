"""Tuning: which decisions a program holds, what is worth measuring, and what came of it.

The pieces of a program (`lower.Work`) with equal problems are one; the costliest are tuned first, each for its share of the
time. Of one piece, a search (`learned.tune.ModelSearch`) proposes candidates, a `Bench` times them beside the default, and the
guard measures the winner anew in pairs with the default before it is kept. Every trial is kept, too: a model fitted to all of
them leads the search on the next problem, and decides where nothing was measured.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mainspring.autotune import database
from mainspring.autotune.learned import fitted, learned_chooser, store, table
from mainspring.autotune.measure import Bench, Piece, PieceBench, whole_bench
from mainspring.base.errors import ArgumentError
from mainspring.compile.choose import HEURISTIC, Chooser, Decide, Fixed, Site
from mainspring.compile.fusion.joints import Joint
from mainspring.compile.lower import Lowered, Made, Work, lower
from mainspring.compile.program import Branch, Instr, Loop, Repeat
from mainspring.compile.target import Target
from mainspring.ir.graph import Graph
from mainspring.learned.tune import ModelSearch, Store, Surrogate, Trial, Trials, Winner, confirm

BATCH = 6  # candidates compiled and timed together
PATIENCE = 18  # trials without a better one after which a problem is left
MAX_TRIALS = 64
MIN_PROBLEMS = 4  # a model of fewer problems is not asked about others
AT_LEAST_S = 0.5  # less time than this is not worth beginning with a problem
MARGIN = 0.01  # by which a winner must beat the default
CONFIRM_PAIRS = 9
JOINTS_SHARE = 0.25  # of the time, for what is fused
WHOLE_PAIRS, WHOLE_S = 31, 1.0  # of whole programs, when so many take no longer


@dataclass(frozen=True)
class Outcome:
    """What came of one problem. `seconds`: of the default, once; `gain`: of the winner over it, 1 where the default stands."""

    site: Site
    uses: int
    seconds: float
    trials: int
    winner: str
    gain: float

    @property
    def saved(self) -> float:
        """Seconds saved in a run of the program."""
        return self.uses * self.seconds * (1 - 1 / self.gain)


@dataclass(frozen=True)
class Progress:
    """Where a tuning stands: after so many seconds of `budget`, at a problem, with its best gain so far."""

    seconds: float
    budget: float
    number: int
    problems: int
    site: Site
    trials: int
    gain: float


Watcher = Callable[[Progress], None]


def tune_graph(graph: Graph, seconds: float, *, donated: Sequence[int] = (), path: str | None = None, again: bool = False,
               watch: Watcher | None = None) -> list[Outcome]:
    """Tune the decisions in `graph` for at most about `seconds`, and keep what came of it in the database at `path`.

    Args:
        path: the database in use when None.
        again: also what has a winner already.
        watch: called after each batch of trials.

    Raises ArgumentError when there is no database, or it cannot be written.
    """
    path = path or database()
    if not path:
        rule = "without a cache folder, MS_DATABASE must name a file"
        raise ArgumentError("tune", "MS_CACHE", rule, "''", "MS_DATABASE=tuned.sqlite3")
    session = Session(store(path), fitted(path), seconds, watch)
    lowered = lower(graph, session.target, donated, Fixed())
    outcomes = session.tune(lowered, again)
    outcomes = session.believed(graph, outcomes, Fixed(), learned_chooser(path))
    before = learned_chooser(path)
    joints = session.tune_joints(lowered, again)
    outcomes += session.believed(graph, joints, Fixed() if before is HEURISTIC else before, learned_chooser(path))
    return outcomes + session.tune_whole(graph, learned_chooser(path), again)


@dataclass
class Problem:
    """One decision, and where it is met."""

    work: Work
    site: Site
    uses: int


class Session:
    """One run of the tuner."""

    def __init__(self, store: Store, target: Target, seconds: float, watch: Watcher | None = None):
        self.store, self.target, self.watch = store, target, watch
        self.started, self.budget = time.perf_counter(), seconds
        self.models = {kind: Surrogate.from_bytes(data) for kind, data in store.models().items()}

    @property
    def left(self) -> float:
        return self.started + self.budget - time.perf_counter()

    def tune(self, lowered: Lowered, again: bool = False) -> list[Outcome]:
        """Tune the problems of `lowered`, the costliest first, as far as the time goes."""
        known = self._known(again)
        alone = lowered.program.alone
        found = [p for p in problems(lowered.works) if (p.site.kind, p.site.problem) not in known]
        found.sort(key=lambda p: -_weight(p))
        outcomes = []
        kept = JOINTS_SHARE * self.left if lowered.joints else 0.0
        for number, problem in enumerate(found):
            if self.left - kept < AT_LEAST_S:
                break
            rest = sum(math.sqrt(_weight(p)) for p in found[number:])
            share = max(AT_LEAST_S, (self.left - kept) * math.sqrt(_weight(problem)) / rest)
            outcomes.append(self._problem(problem, alone, time.perf_counter() + share, (number, len(found))))
        for site in {o.site.kind: o.site for o in outcomes}.values():
            self.learn(site)
        return outcomes

    def tune_joints(self, lowered: Lowered, again: bool = False) -> list[Outcome]:
        """Tune what is fused in `lowered`, where most elements are concerned first, as far as the time goes."""
        known = self._known(again)
        found: dict[tuple[str, str], list[Joint]] = {}
        for joint in lowered.joints:
            found.setdefault((joint.decision.site.kind, joint.decision.site.problem), []).append(joint)
        left = [same for at, same in found.items() if at not in known]
        left.sort(key=lambda same: -len(same) * 2 ** same[0].decision.site.facts(True)["size"])
        outcomes = []
        for number, same in enumerate(left):
            if self.left < AT_LEAST_S:
                break
            outcome = self._joint(same[0], len(same), lowered.program.alone)
            if outcome is not None:
                outcomes.append(outcome)
                if self.watch is not None:
                    self.watch(Progress(self.budget - self.left, self.budget, number, len(left), outcome.site, 2, outcome.gain))
        return outcomes

    def _joint(self, joint: Joint, uses: int, alone: bool) -> Outcome | None:
        """Time the piece of a joint both ways; None where the decision is not met in the piece alone."""
        site, graph = joint.decision.site, joint.piece()
        names = [site.default, *[name for name in site.candidates if name != site.default]]
        both = [lower(graph, self.target, (), Fixed(of_problems=(((site.kind, site.problem), name),))) for name in names]
        met = any((j.decision.site.kind, j.decision.site.problem) == (site.kind, site.problem) for j in both[0].joints)
        if not met or [c.tobytes() for c in both[0].constants] != [c.tobytes() for c in both[1].constants]:
            return None
        bench = whole_bench(graph, both[0], self.target)
        pieces = bench.pieces({name: replace(lowered.program, told=alone) for name, lowered in zip(names, both, strict=True)})
        default = pieces[site.default]
        assert default is not None  # it is what runs without a tuner
        winner, gain = _judged(bench, default, pieces[names[1]])
        self.store.win(Winner(site.kind, site.problem, winner, gain))
        return Outcome(site, uses, default.seconds if default.samples else default.sample(bench.operands), 2, winner, gain)

    def _known(self, again: bool) -> set[tuple[str, str]]:
        """What has a winner, and is not tuned."""
        return set() if again else {(w.kind, w.problem) for w in self.store.winners()}

    def believed(self, graph: Graph, outcomes: list[Outcome], before: Chooser, chooser: Chooser) -> list[Outcome]:
        """What stands of `outcomes` once the whole program has run, as `chooser` decides and as was decided `before` in turn.

        A piece that was timed alone found its operands in other caches than among its neighbours. Where the program as a whole
        is not faster, nothing of this session is kept but the trials.
        """
        changed = [o for o in outcomes if o.winner != o.site.default]
        plain, tuned = (lower(graph, self.target, (), c) for c in (before, chooser))
        if not changed or not ends(plain.program.instrs):
            return outcomes
        bench = whole_bench(graph, plain, self.target)
        default, other = bench.pieces({"default": plain.program, "tuned": tuned.program}).values()
        assert default is not None  # it is what runs without a tuner
        if other is not None:
            pairs = WHOLE_PAIRS if default.sample(bench.operands) * WHOLE_PAIRS < WHOLE_S else CONFIRM_PAIRS
            ratios = [_pair(bench, default, other, i % 2 == 0) for i in range(pairs)]
            if statistics.median(ratios) < 1:
                return outcomes
        for o in changed:
            self.store.win(Winner(o.site.kind, o.site.problem, o.site.default, 1.0))
        return [replace(o, winner=o.site.default, gain=1.0) for o in outcomes]

    def tune_whole(self, graph: Graph, chooser: Chooser, again: bool = False) -> list[Outcome]:
        """Tune what is decided about the program of `graph` as a whole, its kernels as `chooser` decides."""
        lowered = lower(graph, self.target, (), Fixed() if chooser is HEURISTIC else chooser)
        known = self._known(again)
        outcomes = []
        for site in [d.site for d in lowered.whole if (d.site.kind, d.site.problem) not in known]:
            bench = whole_bench(graph, lowered, self.target)
            names = [site.default, *[name for name in site.candidates if name != site.default]]
            pieces = bench.pieces({name: replace(lowered.program, told=site.candidates[name]) for name in names})
            default = pieces[site.default]
            assert default is not None  # it is what runs without a tuner
            winner, gain = max([_judged(bench, default, pieces[name]) for name in names], key=lambda judged: judged[1])
            self.store.win(Winner(site.kind, site.problem, winner, gain))
            outcomes.append(Outcome(site, 1, default.seconds, len(names), winner, gain))
        return outcomes

    def learn(self, site: Site) -> None:
        """Fit the model of sites like `site` to all trials, when they are of enough problems."""
        kind, trials = site.kind, known_trials(self.store, site.kind)
        if len(set(trials.groups)) >= MIN_PROBLEMS:
            self.models[kind] = Surrogate.fit(trials, guess=table(site).guess)
            self.store.keep_model(kind, self.models[kind].to_bytes())

    def _problem(self, problem: Problem, alone: bool, until: float, place: tuple[int, int]) -> Outcome:
        site = problem.site
        domain = table(site)
        search = ModelSearch(domain, min(MAX_TRIALS, len(site.candidates)), PATIENCE, prior=self.models.get(site.kind))
        first = made(problem, domain.default)
        bench = PieceBench(first, self.target, alone)
        default = bench.made({domain.default: first})[domain.default]
        assert default is not None  # it is what runs without a tuner
        pieces: dict[str, Piece | None] = {domain.default: default}
        relative: dict[str, float] = {}
        while not search.should_stop() and (time.perf_counter() < until or len(search.told) < 2):
            asked = [name for name in search.ask(BATCH) if name != domain.default]
            batch = bench.made({name: made(problem, name) for name in asked})
            pieces |= batch
            for name, cost in _race(bench, default, batch).items():
                relative[name] = cost
                search.tell(name, cost)
            if self.watch is not None:
                self.watch(Progress(self.budget - self.left, self.budget, *place, site, len(relative), 1 / search.best_cost))
            if not asked:
                break
        self.store.add([Trial(site.kind, site.problem, name, tuple(domain.encode(name)), cost)
                        for name, cost in relative.items()])
        winner, gain = _judged(bench, default, pieces[search.best])
        self.store.win(Winner(site.kind, site.problem, winner, gain))
        return Outcome(site, problem.uses, default.seconds, len(relative), winner, gain)


def problems(works: Sequence[Work]) -> list[Problem]:
    """The distinct decisions of `works`."""
    found: dict[tuple[str, str], Problem] = {}
    for work in works:
        for decision in work.decisions:
            site = decision.site
            at = found.setdefault((site.kind, site.problem), Problem(work, site, 0))
            at.uses += 1
    return list(found.values())


def made(problem: Problem, name: str) -> Made:
    """The kernels of a problem with the candidate `name`, other decisions as the heuristic makes them."""
    return problem.work.make(Decide(Fixed(of_problems=(((problem.site.kind, problem.site.problem), name),))))


def known_trials(store: Store, kind: str) -> Trials:
    """All trials of `kind` for a model, by problem; a configuration measured twice counts as last measured."""
    latest = {(t.problem, t.config): t for t in store.trials(kind)}
    numbers = {problem: i for i, problem in enumerate(dict.fromkeys(problem for problem, _ in latest))}
    trials = Trials()
    for t in latest.values():
        trials.add(np.array(t.numbers), t.cost, 1.0, numbers[t.problem])
    return trials


def _weight(problem: Problem) -> float:
    """About what a problem costs in a run of the program, in floating-point operations."""
    kernels, _ = made(problem, problem.site.default)
    moved = sum(p.size for k in kernels for p in k.params)
    return problem.uses * (sum(k.flops for k in kernels) + 8.0 * moved)


def _race(bench: Bench, default: Piece, batch: dict[str, Piece | None]) -> dict[str, float]:
    """Costs relative to the default's, which runs along; infinite for what is no candidate."""
    racing = [p for p in batch.values() if p is not None]
    fresh = replace(default, samples=[])
    bench.race([fresh, *racing])
    default.samples += fresh.samples
    costs = {name: math.inf if piece is None else piece.seconds / fresh.seconds for name, piece in batch.items()}
    return {fresh.name: 1.0, **costs}


def _pair(bench: Bench, default: Piece, other: Piece, first: bool) -> float:
    """How much longer `other` takes, the default measured right before or after it."""
    if first:
        base = default.sample(bench.operands)
        return other.sample(bench.operands) / base
    return other.sample(bench.operands) / default.sample(bench.operands)


def ends(instrs: Sequence[Instr]) -> bool:
    """Whether a program ends whatever its operands are: it holds no loop that a flag ends."""
    return not any(isinstance(i, Loop) or (isinstance(i, Repeat) and not ends(i.body))
                   or (isinstance(i, Branch) and not (ends(i.then) and ends(i.other))) for i in instrs)


def _judged(bench: Bench, default: Piece, best: Piece | None) -> tuple[str, float]:
    """(the name to be used, its gain): the best, if the guard believes that it beats the default."""
    if best is None or best.name == default.name or best.program is default.program:
        return default.name, 1.0
    verdict = confirm(lambda: default.sample(bench.operands), lambda: best.sample(bench.operands),
                      pairs=CONFIRM_PAIRS, margin=MARGIN)
    return (best.name, 1 / verdict.ratio) if verdict.better else (default.name, 1.0)
