"""What leaves its group is stored, unless its readers can make it again cheaply: `1 + erf(x)` from `x`.

With this you can fill in `stored` of groups that are complete (`Again.run`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from mainspring.compile.fusion.grouping import Group, Grouping
from mainspring.compile.fusion.joints import Questions
from mainspring.compile.fusion.reads import INLINE_DEPTH
from mainspring.compile.inline import space_of
from mainspring.compile.target.costs import Costs
from mainspring.ir import scalar as s
from mainspring.ir.graph import Node

UNSURE = 4  # times that work, beyond which nobody asks


@dataclass
class _Recipe:
    """How a value would be computed again: what is `made`, at how many flops an element, of which `large` and `small` ones."""

    of: Again
    group: Group
    wanted: dict[Node, None]
    size: int
    flops: int = 0
    made: dict[Node, None] = field(default_factory=dict)
    large: dict[Node, None] = field(default_factory=dict)
    small: dict[Node, None] = field(default_factory=dict)

    def add(self, v: Node) -> bool:
        """Take in `v`; False when it cannot be computed again."""
        space = space_of(v)
        if self.of.reads.kinds.get(v) != "map" or space is None:
            return False
        self.made[v] = None
        self.flops += s.flops(space.symbolic(tuple(n.type for n in v.inputs)))  # type: ignore[misc]
        for u in dict.fromkeys(h.of for h in self.of.reads.hits[v]):
            if u in self.made:
                continue
            own = self.of.grouping.group(u) is self.group
            little = u.type.size * 16 <= self.size  # type: ignore[union-attr]
            if own and (u in self.of.made or (u not in self.wanted and not little)):
                if len(self.made) >= INLINE_DEPTH or not self.add(u):
                    return False
            elif not little:
                self.large[u] = None
            elif own:
                self.small[u] = None
        return True


class Again:
    """What of the values that others read is stored, and what is `made` again by them."""

    def __init__(self, grouping: Grouping, questions: Questions, costs: Costs):
        self.grouping, self.reads, self.questions, self.costs = grouping, grouping.reads, questions, costs
        self.made: set[Node] = set()

    def run(self) -> None:
        """Fill in `stored` of every group."""
        wanted = dict.fromkeys(h.of for _, h, _ in self.grouping.crossings())
        wanted.update((v, None) for v in self.reads.graph.outputs if self.grouping.group(v) is not None)
        self._choose(wanted)
        for v in wanted:
            if v not in self.made:
                self.grouping.group(v).stored.append(v)  # type: ignore[union-attr]

    def _choose(self, wanted: dict[Node, None]) -> None:
        """What can be made cheaply of one stored value is not stored: its reader computes it again, as 1 + erf(x) from x."""
        kinds, group_of = self.reads.kinds, self.grouping.group_of
        outside: dict[Node, dict[Group, str]] = {v: {} for v in wanted}
        order = {v: i for i, v in enumerate(self.reads.nodes)}
        for v, h, _ in self.grouping.crossings():
            outside[h.of][group_of[v]] = kinds[v]
        for v in sorted(wanted, key=order.__getitem__):
            fixed = v in self.reads.forced or v in self.reads.lasting
            if kinds.get(v) != "map" or fixed or {"contract", "template"} & set(outside[v].values()):
                continue
            most = self.costs.again_flops if len(outside[v]) == 1 else 2
            recipe = _Recipe(self, group_of[v], wanted, v.type.size)  # type: ignore[union-attr]
            legal = recipe.add(v) and (len(recipe.large) == 1 or self._moves(v, wanted))
            if legal and self._readers_make(v, recipe, most, list(outside[v])):
                self.made.update(recipe.made)
                wanted.update(recipe.small)

    def _readers_make(self, v: Node, recipe: _Recipe, most: float, readers: list[Group]) -> bool:
        """Whether `readers` compute `v` again: a decision where the work is neither nothing nor hopeless."""
        default = recipe.flops <= most
        if not readers or recipe.flops <= 2 or recipe.flops > UNSURE * most:
            return default
        facts = {"readers": float(len(readers)), "work": math.log2(recipe.flops), "reads": float(len(recipe.large))}
        return self.questions.ask("again", v, list(recipe.made)[1:], default, facts, [v, *[g.members[0] for g in readers]])

    def _moves(self, v: Node, wanted: dict[Node, None]) -> bool:
        """Whether one elementwise value alone reads `v`, once, and nothing else is wanted of its group: it is made there."""
        reading = [u for u, hits in self.reads.hits.items() if any(h.of is v for h in hits)]
        alone = len(reading) == 1 and self.reads.kinds[reading[0]] == "map"
        alone = alone and sum(h.of is v for h in self.reads.hits[reading[0]]) == 1
        small = alone and reading[0].type.size <= 2 * v.type.size  # type: ignore[union-attr]
        return small and not any(u is not v and u in wanted for u in self.grouping.group_of[v].members)
