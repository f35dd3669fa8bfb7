"""Fusion: which values are computed together in one kernel.

Every value (see `inline`) goes into one `Group`:

  map       elementwise over one flat domain
  row       elementwise over rows × width, with reductions along each row and what is computed of them per row
  contract  a contraction, and elementwise work on its result (epilogue)
  reduce    any other reduction, with its epilogue; several of one domain that read the same memory alike
  update    a window of a donated operand, replaced in place: alone
  template  an op with a template, or control flow: alone

Nodes are taken in order; each joins the latest group of a producer that it reads at exactly the place it computes, unless
that would make two groups wait for each other. A value leaves its group (is stored) only when somebody outside reads it.
Fusion never changes arithmetic, only where values live.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

from mainspring.compile.choose import Decide
from mainspring.compile.fusion.again import Again
from mainspring.compile.fusion.grouping import Group, Grouping
from mainspring.compile.fusion.joints import Joint, Questions, carved
from mainspring.compile.fusion.reads import Reads
from mainspring.compile.target.costs import Costs
from mainspring.ir.graph import INPUT, ITEM, Graph, Node


class Fuser:
    """Fuses one graph; `lasting` values (see `lasting`) are not computed together with others."""

    def __init__(self, graph: Graph, costs: Costs, decide: Decide, updated: Collection[Node] = (),
                 lasting: Collection[Node] = ()):
        self.questions = Questions(decide)
        self.reads = Reads(graph, updated, lasting)
        self.grouping = Grouping(self.reads, self.questions)
        self.again = Again(self.grouping, self.questions, costs)

    def run(self) -> list[Group]:
        """All groups, in an order in which they can run, with `stored` filled in."""
        self.grouping.run()
        self.again.run()
        return self.grouping.ordered()

    def inlined_in(self, group: Group) -> Callable[[Node], bool]:
        """Whether the kernel of `group` computes what it reads: no value, or one that others computed but did not store."""
        made, group_of, inlined = self.again.made, self.grouping.group_of, self.reads.inlined
        return lambda v: inlined(v) or (v in made and group_of[v] is not group)

    def joints(self) -> list[Joint]:
        """What was decided, each with the piece of the graph that it is about."""
        return [Joint(decision, partial(self._piece, about)) for decision, about in self.questions.asked]

    def _piece(self, about: Sequence[Node]) -> Graph:
        reads, group_of = self.reads, self.grouping.group_of
        groups = {group_of[v] for v in about}
        inside = {v for v in reads.nodes if v in reads.absorbed or v in self.again.made or group_of.get(v) in groups}
        outputs = [v for g in groups for v in g.stored]
        return carved(sorted(outputs, key=reads.nodes.index), inside, lambda n: n.op in (INPUT, ITEM) or not reads.inlined(n))
