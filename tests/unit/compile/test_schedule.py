"""The order of launches and the places of buffers: what waits for what is kept, memory and barriers are saved."""

from __future__ import annotations

import random

import pytest

from mainspring.compile.loops import Buffer, For, Kernel, Store, Write, load
from mainspring.compile.plan.donate import reuse_donated
from mainspring.compile.plan.memory import RepeatSteps, Run, Slot, View, plan
from mainspring.compile.plan.schedule import Dependences, schedule
from mainspring.compile.program import Barrier
from mainspring.ir import scalar as s
from mainspring.types.dtype import float32, int64
from mainspring.types.shape import TensorType

MIB = 1 << 20


def step(reads: list[Slot], writes: list[Slot], shift: int = 0) -> Run:
    """A launch that reads element i + `shift` of `reads` and writes element i of `writes`."""
    i = s.var("i", 16)
    ins = [Buffer("in", float32, 32) for _ in reads]
    outs = [Buffer("out", float32, 32) for _ in writes]
    value = sum([load(b, i + shift) for b in ins], start=s.const(1.0, float32))
    loop = For(i, s.const(0, int64), s.const(16, int64), (Store(tuple([Write(b, i, value) for b in outs])),), "vector")
    kernel = Kernel("map", (*ins, *outs), frozenset(outs), 1, s.var("task", 1), (loop,))
    return Run(kernel, tuple([View(slot) for slot in (*reads, *writes)]))


def contents(steps: list[Run], slots: list[Slot]) -> list[object]:
    """What `slots` hold in the end, each step making a term of what it reads."""
    held: dict[Slot, object] = {slot: n for n, slot in enumerate(slots)}
    for x in steps:
        views = list(zip(x.kernel.params, x.views, strict=True))
        term = tuple([held.get(v.slot) for p, v in views if p not in x.kernel.written])
        held.update({v.slot: (id(x.kernel), k, term) for k, (p, v) in enumerate(views) if p in x.kernel.written})
    return [held[slot] for slot in slots]


def barriers(steps: list[Run]) -> int:
    return sum(isinstance(x, Barrier) for x in plan(steps, 64, 0.0).instrs)


@pytest.mark.parametrize("seed", range(40))
def test_any_program_computes_what_it_did(seed: int) -> None:
    draw = random.Random(seed)
    slots = [Slot(draw.choice([4, 4096, MIB]), n if n < 4 else None) for n in range(24)]
    steps = []
    for _ in range(draw.randrange(3, 60)):
        some = draw.sample(slots, draw.randrange(2, 5))
        steps.append(step(some[1:], some[:1]))
    ordered = schedule(steps)
    assert sorted(map(id, ordered)) == sorted(map(id, steps))
    assert contents(ordered, slots) == contents(steps, slots)


def chain(layers: int) -> tuple[list[Run], list[Slot]]:
    """Forward, then backward, then the gradients of all weights, as a graph of a loss gives them; and the last results."""
    values = [Slot(MIB) for _ in range(layers + 1)]
    grads = [Slot(MIB) for _ in range(layers + 1)]
    results = [Slot(64, 1 + n) for n in range(layers)]
    steps = [step([], values[:1])]
    steps += [step([values[n]], [values[n + 1]]) for n in range(layers)]
    steps += [step([values[-1]], [grads[-1]])]
    steps += [step([grads[n + 1]], [grads[n]]) for n in reversed(range(layers))]
    steps += [step([grads[n + 1], values[n]], [results[n]]) for n in range(layers)]
    return steps, results


def test_gradients_of_weights_do_not_wait_for_the_end() -> None:
    steps, results = chain(8)
    ordered = schedule(steps)
    assert contents(ordered, results) == contents(steps, results)
    assert plan(steps, 10, 0.0).arena >= 17 * MIB
    assert plan(ordered, 10, 0.0).arena <= 12 * MIB


def test_independent_chains_share_their_barriers() -> None:
    steps = []
    for n in range(6):
        a, b = Slot(64), Slot(64)
        steps += [step([Slot(64, n)], [a]), step([a], [b]), step([b], [Slot(64, 10 + n)])]
    assert barriers(steps) == 12
    assert barriers(schedule(steps)) == 2


def test_bodies_of_loops_are_ordered_too() -> None:
    steps: list[Run] = []
    for n in range(4):
        a = Slot(64)
        steps += [step([Slot(64, n)], [a]), step([a], [Slot(64, 10 + n)])]
    loop, = schedule([RepeatSteps(3, "t", tuple(steps), False)])
    assert isinstance(loop, RepeatSteps)
    assert [id(x) for x in loop.body] == [id(x) for x in steps[0::2] + steps[1::2]]


@pytest.mark.parametrize("seed", range(20))
def test_places_of_slots_that_live_together_never_meet(seed: int) -> None:
    draw = random.Random(seed)
    steps, live = [], [Slot(64, 0)]
    for _ in range(60):
        made = Slot(draw.choice([1, 100, 5000, MIB]))
        steps.append(step(draw.sample(live, min(2, len(live))), [made]))
        live = [*live, made][-draw.randrange(1, 12):]
    program = plan(steps, 1, 0.0)
    held: dict[int, int] = {}
    position = 0
    for instr in program.instrs:
        if isinstance(instr, Barrier):
            continue
        x = steps[position]
        for p, v, ref in zip(x.kernel.params, x.views, instr.refs, strict=True):  # type: ignore[union-attr]
            places = range(ref.offset // 64, -(-(ref.offset + v.slot.nbytes) // 64)) if v.slot.base is None else ()
            if p in x.kernel.written:
                held.update(dict.fromkeys(places, id(v.slot)))
            assert all(held[place] == id(v.slot) for place in places)
        position += 1


def test_an_update_in_place_waits_for_a_reader_that_would_come_later() -> None:
    weight, gradient, new, other = Slot(128, 0), Slot(128, 1), Slot(128, 2), Slot(128, 3)
    update, reader = step([weight, gradient], [new]), step([weight], [other])
    types = {slot: TensorType((32,), float32) for slot in (weight, gradient, new, other)}
    steps, homes = reuse_donated([update, reader], [weight], [new, other], types)
    assert homes == [weight, None]
    assert next(x.kernel.params for x in steps) == reader.kernel.params  # type: ignore[union-attr]
    deps = Dependences(steps)
    assert deps.waits(1, 0)


def test_an_update_that_its_reader_waits_for_is_not_in_place() -> None:
    weight, new, other = Slot(128, 0), Slot(128, 2), Slot(128, 3)
    types = {slot: TensorType((32,), float32) for slot in (weight, new, other)}
    _, homes = reuse_donated([step([weight], [new]), step([weight, new], [other])], [weight], [new, other], types)
    assert homes == [None, weight]
