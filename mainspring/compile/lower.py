"""From a graph to a program: the readable column of named passes.

    prepare:  inline → simplify → fold constants → split long reductions → split products of few rows → split and pad windows,
              share the padding → simplify
    region:   fuse → choose kernels → loops        (bodies of control flow are regions of their own)
    plan:     donation → order → memory and barriers
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from mainspring.base import flags
from mainspring.base.errors import CompileError
from mainspring.compile import simplify
from mainspring.compile.canonical import canonical
from mainspring.compile.choose import HEURISTIC, Chooser, Decide, Decision
from mainspring.compile.fusion.fuse import Fuser
from mainspring.compile.fusion.grouping import Group
from mainspring.compile.fusion.joints import Joint
from mainspring.compile.fusion.likeness import likeness
from mainspring.compile.loopnest import Nest, map_kernel, row_kernel
from mainspring.compile.loops import Buffer, For, Kernel, Store, Write, load
from mainspring.compile.parts import Parts, in_parts
from mainspring.compile.plan.donate import reuse_donated
from mainspring.compile.plan.hoist import hoist
from mainspring.compile.plan.lasting import lasting_values, set_apart
from mainspring.compile.plan.memory import BranchSteps, LoopSteps, RepeatSteps, Run, Slot, Step, View, plan
from mainspring.compile.plan.schedule import schedule
from mainspring.compile.products import windows
from mainspring.compile.products.border import border_kernel
from mainspring.compile.products.chains import split_few_rows
from mainspring.compile.products.contraction import contraction_kernels
from mainspring.compile.program import Program
from mainspring.compile.reductions import reduce_kernel
from mainspring.compile.sites import team_site
from mainspring.compile.target import Target
from mainspring.compile.target.costs import COSTS, Costs
from mainspring.compile.template import Call, Rounds
from mainspring.compile.templates import TEMPLATES
from mainspring.compile.update import update_kernel, updated
from mainspring.ir import scalar as s
from mainspring.ir.graph import CONSTANT, INPUT, ITEM, Graph, Node
from mainspring.ir.verify import verify
from mainspring.types.dtype import int64
from mainspring.types.shape import TensorType

MEANING = 3  # passes that bring out what a graph means, before any that says how it is computed
UNSURE = 16  # within such a factor of `Costs.wake_ns`, nobody knows whether the team is worth waking


def passes(costs: Costs, lasting: int = 0) -> tuple[tuple[str, Callable[[Graph], Graph]], ...]:
    """The passes from graph to graph, by name, in order."""
    return (
        ("inline", partial(simplify.inline, kept=frozenset(TEMPLATES))),
        ("simplify", simplify.simplify),
        ("fold constants", simplify.fold_constants),
        ("split reductions", simplify.split_reductions),
        ("split products of few rows", partial(split_few_rows, costs=costs, lasting=lasting)),
        ("split spread windows", windows.split_spread),
        ("pad windows", windows.pad_windows),
        ("share padding", windows.share_padding),
        ("simplify again", simplify.simplify),
    )


def prepare(graph: Graph, costs: Costs = COSTS["avx2"], lasting: int = 0) -> Graph:
    """All passes from graph to graph, each verified when MS_VERIFY asks for it; the last `lasting` inputs never change."""
    level = flags.verify()
    if level >= 1:
        verify(graph)
    for name, pass_ in passes(costs, lasting):
        graph = pass_(graph)
        if level >= 2:
            verify(graph, after=name)
    return graph


@dataclass
class Lowered:
    """A program, the constant arrays behind its last bases, and for each output the donated input it lives in (or None).

    `once` is what is done once for operands that last, a program with the same bases: it fills the memory behind the very last
    of them, `kept` bytes each.
    `joints` is what was decided about fusing, `works` are the pieces in which something was decided, `whole` is what was
    decided about all of it; nothing under the heuristic, which is not asked.
    """

    program: Program
    constants: list[np.ndarray]
    aliases: list[int | None]
    joints: list[Joint]
    works: list[Work]
    whole: list[Decision]
    once: Program | None = None
    kept: tuple[int, ...] = ()

    @property
    def decisions(self) -> list[Decision]:
        """All that was decided, in order."""
        return [*[j.decision for j in self.joints], *[d for work in self.works for d in work.decisions], *self.whole]


Made = tuple[list[Kernel], list[Buffer]]  # kernels, to be run in order, and the buffers that live between them


@dataclass(frozen=True)
class Work:
    """A piece of a program: what was decided in it, and how to make it with other decisions."""

    decisions: tuple[Decision, ...]
    make: Callable[[Decide], Made]


def lower(graph: Graph, target: Target, donated: Sequence[int] = (), chooser: Chooser = HEURISTIC, lasting: int = 0) -> Lowered:
    """Compile `graph` down to a program, as `chooser` decides. Bases: inputs, then outputs, constants, and what is kept.

    The last `lasting` inputs are the same in every call: what is made of them alone is made once (see `lasting`).
    """
    lowering = _Lowering(target, len(graph.inputs) + len(graph.outputs), chooser)
    inputs = [Slot(t.nbytes, i) for i, t in enumerate(graph.input_types)]
    outputs = [Slot(t.nbytes, len(inputs) + i) for i, t in enumerate(graph.output_types)]
    parts = None if donated else lowering.parts(graph, lasting)
    views = [View(x) for x in inputs], [View(x) for x in outputs]
    steps = lowering.apart(parts, *views, lasting) if parts else \
        lowering.region(graph, *views, donated=donated, lasting=lasting)
    once, kept = None, list[Slot]()
    if lasting:
        apart, steps, kept = set_apart(steps, inputs[: len(inputs) - lasting])
        once = lowering.keep(apart, kept)
    types = dict(zip([*inputs, *outputs], [*graph.input_types, *graph.output_types], strict=True))
    steps, aliases = reuse_donated(steps, [inputs[i] for i in donated], outputs, types)
    program, whole = plan(schedule(steps), lowering.bases, lowering.work, target.costs), Decide(chooser)
    if target.costs.wake_ns / UNSURE < program.work < target.costs.wake_ns * UNSURE:
        told = whole(program.alone, lambda: team_site(f"program of {len(graph.nodes())} nodes", graph.digest, program.work,
                                                      program.alone))
        program = program if told == program.alone else replace(program, told=told)
    reused = [None if a is None else inputs.index(a) for a in aliases]
    found = lowering.joints, lowering.works, whole.made
    return Lowered(program, lowering.constants, reused, *found, once, tuple([x.nbytes for x in kept]))


@dataclass
class _Lowering:
    """What all regions of one program share."""

    target: Target
    bases: int
    chooser: Chooser
    work: float = 0.0
    joints: list[Joint] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)
    constants: list[np.ndarray] = field(default_factory=list)
    slots: dict[Node, Slot] = field(default_factory=dict)
    made: dict[Hashable, tuple[Made, list[Buffer]]] = field(default_factory=dict)  # by what a group is: kernels, operands
    counter: int = 0

    def constant(self, node: Node) -> Slot:
        """The slot of a literal array."""
        if node not in self.slots:
            array = np.ascontiguousarray(node.static["value"].value)
            self.slots[node] = Slot(array.nbytes, self.bases)
            self.constants.append(array)
            self.bases += 1
        return self.slots[node]

    def prepared(self, graph: Graph, lasting: int = 0) -> Graph:
        """See `prepare`."""
        return prepare(graph, self.target.costs, lasting)

    def keep(self, steps: Sequence[Step], kept: Sequence[Slot]) -> Program | None:
        """The program of `steps`, which are done once; `kept` slots become bases. None where there is nothing to keep."""
        for slot in kept:
            slot.base = self.bases
            self.bases += 1
        self.work -= sum([work_of(step.kernel, self.target.costs) for step in steps])  # type: ignore[union-attr]
        return plan(steps, self.bases, 0.0, self.target.costs) if kept else None

    def fresh(self) -> str:
        """A name for a counter of a repeat."""
        self.counter += 1
        return f"t{self.counter}"

    def region(self, graph: Graph, inputs: Sequence[View], outputs: Sequence[View], repeated: bool = False,
               donated: Sequence[int] = (), lasting: int = 0, alone: bool = False) -> list[Step]:
        """The steps that compute `graph` from `inputs`, the last of which are `lasting`, into `outputs`.

        Results may take over the inputs at `donated`.
        """
        return _Region(self, self.prepared(graph, lasting), inputs, outputs, repeated, donated, lasting, alone).steps()

    def parts(self, graph: Graph, lasting: int) -> Parts | None:
        """How `graph` is to be run in parts of its batch, if it is."""
        if not any(n.op.name == "conv" for n in graph.nodes()):
            return None
        for _, pass_ in passes(self.target.costs, lasting)[:MEANING]:
            graph = pass_(graph)
        return in_parts(graph, lasting, self.target)

    def apart(self, parts: Parts, inputs: Sequence[View], outputs: Sequence[View], lasting: int) -> list[Step]:
        """The steps that compute the parts of `outputs` from those of `inputs`, each by one thread."""
        before, var = self.work, self.fresh()
        own = [View(x.slot, x.offset, ((var, t.nbytes),)) if i in parts.moving else x
               for i, (x, t) in enumerate(zip(inputs, parts.body.input_types, strict=True))]
        outs = [View(y.slot, y.offset, ((var, t.nbytes),)) for y, t in zip(outputs, parts.body.output_types, strict=True)]
        once, rounds = hoist(self.region(parts.body, own, outs, True, lasting=lasting, alone=True), var)
        self.work = before + sum([work_of(step.kernel, self.target.costs) for step in once])  # type: ignore[union-attr]
        self.work += parts.count * sum([work_of(step.kernel, self.target.costs) for step in rounds if isinstance(step, Run)])
        return [*once, RepeatSteps(parts.count, var, tuple(rounds), False, True)]


class _Region:
    """One graph on its way to steps. `repeated`: they are the body of a loop, `alone`: each round is run by one thread."""

    def __init__(self, lowering: _Lowering, graph: Graph, inputs: Sequence[View], outputs: Sequence[View], repeated: bool,
                 donated: Sequence[int] = (), lasting: int = 0, alone: bool = False):
        self.lowering, self.graph, self.repeated, self.alone = lowering, graph, repeated, alone
        self.updated = updated(graph, {graph.inputs[i] for i in donated})
        self.lasting = lasting_values(graph, graph.inputs[len(graph.inputs) - lasting :])
        self.views: dict[Node, View] = dict(zip(graph.inputs, inputs, strict=True))
        self.outputs = list(outputs)
        self.buffers: dict[Node, Buffer] = {}
        self.view_of: dict[Buffer, View] = {}
        self.lasting_buffers: set[Buffer] = set()
        self.result: list[Step] = []
        self.packed: dict[tuple[str, tuple[View, ...]], View] = {}  # panels by what was packed, and how

    def steps(self) -> list[Step]:
        """Fuse, then lower each group."""
        lowering = self.lowering
        fuser = Fuser(self.graph, lowering.target.costs, Decide(lowering.chooser), self.updated, self.lasting)
        groups = fuser.run()
        lowering.joints += fuser.joints()
        for node, view in zip(self.graph.outputs, self.outputs, strict=True):
            if node.op not in (INPUT, CONSTANT) and node not in self.views:
                self.views[node] = view
        nest = Nest(fuser, self.buffer, self.repeated, self.lasting_buffers, self.alone)
        for group in groups:
            self._group(nest, group)
        for node, view in zip(self.graph.outputs, self.outputs, strict=True):
            if self.view(node) is not view:
                self.copy(self.view(node), view, node.type)  # type: ignore[arg-type]
        return self.result

    # --------------------------------------------------------------------------------------------- where things lie

    def view(self, node: Node) -> View:
        """Where `node` lies; a new temporary at the first question."""
        if node not in self.views:
            if node.op is CONSTANT:
                self.views[node] = View(self.lowering.constant(node))
            else:
                self.views[node] = View(Slot(node.type.nbytes))  # type: ignore[union-attr]
        return self.views[node]

    def buffer(self, node: Node) -> Buffer:
        """The buffer by which kernels know `node`."""
        if node not in self.buffers:
            made = self.buffers[node] = Buffer(f"b{len(self.buffers)}", node.dtype, node.type.size)  # type: ignore[union-attr]
            self.view_of[made] = self.view(node)
            if node in self.lasting:
                self.lasting_buffers.add(made)
        return self.buffers[node]

    def run(self, kernel: Kernel, views: dict[Buffer, View] | None = None) -> None:
        """Add a launch of `kernel` on its params, which lie where `views` says."""
        if kernel.tasks == 0:
            return
        views = self.view_of if views is None else views
        self.result.append(Run(kernel, tuple([views[p] for p in kernel.params])))
        self.lowering.work += work_of(kernel, self.lowering.target.costs)

    def copy(self, source: View, target: View, type_: TensorType) -> None:
        """Add a copy between two views."""
        if type_.size:
            a, b = Buffer("source", type_.dtype, type_.size), Buffer("target", type_.dtype, type_.size)
            self.view_of[a], self.view_of[b] = source, target
            self.run(copy_kernel(a, b))

    # ---------------------------------------------------------------------------------------------------- groups

    def _group(self, nest: Nest, group: Group) -> None:
        if group.kind == "template":
            self._template(group.members[0])
        elif group.kind == "update":
            of = group.members[0]
            self.copy(self.view(of.inputs[0]), self.view(of), of.type)  # type: ignore[arg-type]
            self.run(update_kernel(nest, group))
        elif group.size and group.stored:  # what nobody reads from memory is computed again by those who need it
            for v in group.bordered:
                self.run(border_kernel(self.buffer(v), v))
            self._kernels(nest, group)

    def _kernels(self, nest: Nest, group: Group) -> None:
        """The launches of a group: of its own kernels, or of those of a group that was alike, on its own operands."""
        made, region = self.lowering.made, (self.repeated, self.alone)
        like = likeness(group, nest.fuser.reads.kinds, nest.fuser.inlined_in(group), self.lasting)
        own = [self.buffer(v) for v in like.operands]
        if (region, like.key) not in made:
            decide, make = Decide(self.lowering.chooser), partial(self._make, nest, group)
            made[region, like.key] = make(decide), own
            if decide.made:
                self.lowering.works.append(Work(tuple(decide.made), make))
        (kernels, between), operands = made[region, like.key]
        views = {known: self.view_of[b] for known, b in zip(operands, own, strict=True)}
        views.update((b, View(Slot(b.size * b.dtype.itemsize))) for b in between)
        for kernel in kernels:
            if not self._done(kernel, views):
                self.run(kernel, views)

    def _done(self, kernel: Kernel, views: dict[Buffer, View]) -> bool:
        """Whether another product had the same operand packed: its panels serve this one, too."""
        if kernel.name != "pack":
            return False
        panels, = kernel.written
        key = canonical(kernel), tuple([views[p] for p in kernel.params if p is not panels])
        known = key in self.packed
        views[panels] = self.packed.setdefault(key, views[panels])
        return known

    def _make(self, nest: Nest, group: Group, decide: Decide) -> Made:
        if group.kind == "map":
            return [map_kernel(nest, group, decide)], []
        if group.kind == "row":
            return [row_kernel(nest, group)], []
        if group.kind == "reduce" or math.prod(x for n in group.members[0].inputs for x in n.shape) == 0:
            return [reduce_kernel(nest, group, decide)], []
        return contraction_kernels(nest, group, self.lowering.target, decide)

    def _results(self, node: Node) -> list[View]:
        """Where the results of a node of several results lie."""
        if isinstance(node.type, TensorType):
            return [self.view(node)]
        by_index = {n.static["index"]: n for n in self.graph.nodes() if n.op is ITEM and n.inputs[0] is node}
        return [self.view(by_index[i]) if i in by_index else View(Slot(t.nbytes)) for i, t in enumerate(node.type)]

    def _template(self, node: Node) -> None:
        special = {"scan": self._scan, "while_loop": self._while, "cond": self._cond}.get(node.op.name)
        if special is not None:
            special(node, [self.view(n) for n in node.inputs], self._results(node))
            return
        if node.op.name not in TEMPLATES:
            raise CompileError("compile", node.op.name, "this op has neither an iteration space nor a template",
                               f"{node.op.space}")
        types = (node.type,) if isinstance(node.type, TensorType) else node.type
        results = self._results(node)
        outs = tuple(Buffer(f"out{i}", t.dtype, t.size) for i, t in enumerate(types))
        self.view_of.update(zip(outs, results, strict=True))
        ins = tuple(self.buffer(n) for n in node.inputs)
        call = Call(ins, outs, tuple(n.type for n in node.inputs), types, node.static,  # type: ignore[misc]
                    self.lowering.target)
        kernels = TEMPLATES[node.op.name](call)
        for buffer in call.temporaries:
            self.view_of[buffer] = View(Slot(buffer.size * buffer.dtype.itemsize))
        for item in kernels:
            if isinstance(item, Rounds):
                self._rounds(item)
            else:
                self.run(item)

    def _rounds(self, rounds: Rounds) -> None:
        """A launch of the same kernel for each number."""
        var, before = self.lowering.fresh(), self.lowering.work
        self.view_of[rounds.clock] = View(self.view_of[rounds.numbers].slot, 0, ((var, rounds.clock.dtype.itemsize),))
        self.run(rounds.kernel)
        self.lowering.work += (self.lowering.work - before) * (rounds.numbers.size - 1)
        self.result.append(RepeatSteps(rounds.numbers.size, var, (self.result.pop(),), False))

    # ---------------------------------------------------------------------------------------------- control flow

    def _inner(self, graph: Graph, inputs: Sequence[View], outputs: Sequence[View]) -> list[Step]:
        return self.lowering.region(graph, inputs, outputs, self.repeated)

    def _scan(self, node: Node, inputs: list[View], results: list[View]) -> None:
        st = node.static
        body: Graph = st["body"]
        first, last = st["consts"], st["consts"] + st["carry"]
        consts, carry, xs = inputs[:first], inputs[first:last], inputs[last:]
        before = self.lowering.work
        carried, stacked = results[: st["carry"]], results[st["carry"]:]
        types = body.output_types
        for source, target, t in zip(carry, carried, types, strict=False):
            self.copy(source, target, t)
        if st["length"] == 0:
            return
        var = self.lowering.fresh()
        slices = [View(x.slot, x.offset, (*x.strides, (var, t.nbytes)))
                  for x, t in zip(xs, body.input_types[st["consts"] + st["carry"]:], strict=True)]
        outs = [View(y.slot, y.offset, (*y.strides, (var, t.nbytes)))
                for y, t in zip(stacked, types[st["carry"]:], strict=True)]
        following = [View(Slot(t.nbytes)) for t in types[: st["carry"]]]
        inner = _Region(self.lowering, self.lowering.prepared(body), [*consts, *carried, *slices], [*following, *outs], True)
        inner.steps()
        for source, target, t in zip(following, carried, types, strict=False):
            inner.copy(source, target, t)
        self.lowering.work += (self.lowering.work - before) * (st["length"] - 1)
        once, rounds = hoist(inner.result, var)
        self.result += [*once, RepeatSteps(st["length"], var, tuple(rounds), st["reverse"])]

    def _while(self, node: Node, inputs: list[View], results: list[View]) -> None:
        consts, carry = inputs[: node.static["consts"]], inputs[node.static["consts"]:]
        body, test = node.static["body"], node.static["test"]
        for source, target, t in zip(carry, results, body.output_types, strict=True):
            self.copy(source, target, t)
        flag = View(Slot(1))
        tested = self._inner(test, [*consts, *results], [flag])
        following = [View(Slot(t.nbytes)) for t in body.output_types]
        inner = _Region(self.lowering, self.lowering.prepared(body), [*consts, *results], following, True)
        inner.steps()
        for source, target, t in zip(following, results, body.output_types, strict=True):
            inner.copy(source, target, t)
        self.lowering.work += 1e6  # nobody knows how often
        once, rounds = hoist(inner.result)
        self.result += [*once, LoopSteps(flag, tuple(tested), tuple(rounds))]

    def _cond(self, node: Node, inputs: list[View], results: list[View]) -> None:
        flag, operands = inputs[0], inputs[1:]
        then, other = (tuple(self._inner(node.static[key], operands, results)) for key in ("then", "other"))
        self.result.append(BranchSteps(flag, then, other))


def work_of(kernel: Kernel, costs: Costs) -> float:
    """About how many nanoseconds a launch takes one core."""
    moved = sum(p.size * p.dtype.itemsize for p in kernel.params)
    product = any([b.kind == "register" for b in kernel.scratch])
    return moved / costs.bytes_per_ns + kernel.flops / (costs.product_flops_per_ns if product else costs.flops_per_ns)


COPY_CHUNK = 16384


def copy_kernel(source: Buffer, target: Buffer) -> Kernel:
    """target = source, element by element."""
    size = source.size
    chunks = -(-size // COPY_CHUNK)
    task, i = s.var("task", chunks), s.var("i", size)
    start = task * COPY_CHUNK
    stop = s.const(size, int64) if chunks == 1 else s.apply("min", start + COPY_CHUNK, size)
    body = (For(i, start, stop, (Store((Write(target, i, load(source, i)),)),), "vector"),)
    return Kernel("copy", (source, target), frozenset([target]), chunks, task, body)


