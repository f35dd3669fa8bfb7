"""Grouping: values in order, each into the latest group of a producer that it reads at exactly the place it computes.

With this you can put the values of a graph into groups, one a kernel (`Grouping.run`); `again` says what is stored.
A group is not joined where two groups would then wait for each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mainspring.compile.fusion.joints import Questions
from mainspring.compile.fusion.reads import Hit, Reads
from mainspring.compile.inline import at_flat, is_border, space_of
from mainspring.ir import scalar as s
from mainspring.ir.graph import ITEM, Node
from mainspring.ir.scalar import Expr
from mainspring.types.shape import TensorType

MAX_MEMBERS = 96
MAX_FOLDS = 4  # reductions that one kernel does side by side
FEW_ROWS, SMALL = 16, 16384  # a row kernel has one task a row: with fewer rows than this, only small domains are fused


@dataclass(eq=False)
class Group:
    """Values computed by one kernel; `size` is the flat domain of map, contract and reduce groups, rows × width of a row."""

    kind: str
    number: int
    members: list[Node]
    size: int
    rows: int = 0
    width: int = 0
    ancestors: int = 0  # bit i: depends on group i, directly or not
    stored: list[Node] = field(default_factory=list)  # members that somebody outside reads
    bordered: dict[Node, Node] = field(default_factory=dict)  # a stored node that is a member (the value) with zeros around it

    @property
    def bit(self) -> int:
        return 1 << self.number


class Grouping:
    """Groups the values of one graph; those that last are not computed together with others."""

    def __init__(self, reads: Reads, questions: Questions):
        self.reads, self.questions = reads, questions
        self.hits, self.kinds, self.lasting = reads.hits, reads.kinds, reads.lasting
        self.group_of: dict[Node, Group] = {}
        self.groups: list[Group] = []
        self.apart: list[tuple[Node, Node]] = []  # values that stay in different groups

    def run(self) -> None:
        """Every value into a group."""
        for v in self.hits:
            if not self._stays(v):
                self._place(v, self.kinds[v])

    def group(self, v: Node) -> Group | None:
        """The group that computes `v`, if one does."""
        return self.group_of.get(v.inputs[0] if v.op is ITEM else v)

    def crossings(self) -> Iterator[tuple[Node, Hit, Group]]:
        """Every read of a value by another group: who reads, what, and the group that computes it."""
        for v, hits in self.hits.items():
            for h in hits:
                producer = self.group(h.of)
                if producer is not None and producer is not self.group_of[v]:
                    yield v, h, producer

    def _stays(self, v: Node) -> bool:
        """Whether `v` is the result of a contraction, read by nobody else, with zeros around it: the result is stored there."""
        if v.op.name != "pad" or not is_border(v) or v.type.size == 0:  # type: ignore[union-attr]
            return False
        x = v.inputs[0]
        group = self.group_of.get(x)
        empty = group is not None and any([0 in n.shape for n in group.members[0].inputs])
        if group is None or group.kind != "contract" or x not in group.members or empty:
            return False
        if self.reads.readers[x] != [v] or x in self.reads.forced:
            return False
        group.bordered[v] = x
        self.group_of[v] = group
        return True

    def _place(self, v: Node, kind: str) -> None:
        before = {g.number: g for h in self.hits[v] if (g := self.group(h.of)) is not None}
        ordered = [before[n] for n in sorted(before, reverse=True) if self._alike(before[n], v)]
        candidates = ordered if kind in ("map", "row") else []
        for group in candidates:
            joined = self._joined(group, v, kind)
            if joined is None or any(d.ancestors & group.bit for d in before.values() if d is not group):
                continue
            if self._fused(group, v, kind, joined):
                self._join(group, v, joined, before.values())
                for other in candidates:
                    if other is not group and self.group_of[other.members[0]] is other:
                        self._merge(other, group)
                return
        if kind == "reduce" and (beside := self._beside(v, before.values())) is not None:
            self._join(beside, v, (kind, 0, 0), before.values())
            return
        self._open(v, kind, before.values())

    def _alike(self, group: Group, v: Node) -> bool:
        """Whether `v` lasts as the values of `group` do."""
        return (v in self.lasting) == (group.members[0] in self.lasting)

    def _fused(self, group: Group, v: Node, kind: str, shape: tuple[str, int, int]) -> bool:
        """Whether `v`, which may join `group`, does. Where it begins a row kernel or is an epilogue, that is a decision."""
        rows, width = shape[1:]
        default = not (kind == "row" and rows < FEW_ROWS and rows * width > SMALL)
        if group.kind != "contract" and kind != "row":
            return default
        read = [u for u in group.members[1:] if any(h.of is u for h in self.hits[v])]
        facts = {"epilogue": float(group.kind == "contract"), "rows": math.log2(rows + 1),
                 "width": math.log2(width + 1), "group": math.log2(group.size + 1), "reads": float(len(self.hits[v]))}
        fused = self.questions.ask("fuse", v, [group.members[0], *read], default, facts, [v, group.members[0]])
        if not fused:
            self.apart.append((v, group.members[0]))
        return fused

    def _beside(self, v: Node, before: Iterable[Group]) -> Group | None:
        """The latest reduce group over the domain of `v` that reads memory as `v` does, and for which `v` need not wait."""
        space, waits = space_of(v), 0
        for d in before:
            waits |= d.ancestors | d.bit
        large = {(h.of, h.flat, h.guarded) for h in self.hits[v] if h.of.type.size > v.type.size}  # type: ignore[union-attr]
        for group in reversed(self.groups):
            fits = group.kind == "reduce" and self._alike(group, v)
            roots = [u for u in group.members if self.kinds[u] == "reduce"] if fits else []
            if roots and len(roots) < MAX_FOLDS and not waits & group.bit and len(group.members) < MAX_MEMBERS:
                alike = roots[0].shape == v.shape and space_of(roots[0]).reduced == space.reduced  # type: ignore[union-attr]
                if alike and any((h.of, h.flat, h.guarded) in large for u in roots for h in self.hits[u]):
                    return group
        return None

    def _open(self, v: Node, kind: str, before: Iterable[Group]) -> None:
        size = v.type.size if isinstance(v.type, TensorType) else 0
        group = Group(kind, len(self.groups), [v], size)
        if kind == "row":
            group.rows, group.width = size, math.prod(space_of(v).reduced)  # type: ignore[union-attr]
        for d in before:
            group.ancestors |= d.ancestors | d.bit
        self.groups.append(group)
        self.group_of[v] = group

    # ---------------------------------------------------------------------------------------------------------- joining

    def _joined(self, group: Group, v: Node, kind: str) -> tuple[str, int, int] | None:
        """(kind, rows, width) of the group with `v` in it, or None when `v` may not join."""
        if group.kind in ("template", "update") or len(group.members) >= MAX_MEMBERS:
            return None
        if group.bordered and any(h.of in group.bordered for h in self.hits[v]):
            return None
        if kind == "row":
            rows, width = v.type.size, math.prod(space_of(v).reduced)  # type: ignore[union-attr]
            domain = (group.rows, group.width) if group.kind == "row" else (rows, width)
            if group.kind not in ("map", "row") or domain != (rows, width):
                return None
            if group.kind == "map" and group.size != rows * width:
                return None
            shape = ("row", rows, width)
        else:
            shape = (group.kind, group.rows, group.width)
        return shape if self._legal(v, set(group.members), shape, group.size) else None

    def _legal(self, v: Node, members: set[Node], shape: tuple[str, int, int], size: int) -> bool:
        """Whether `v` reads every one of `members` at exactly the place where it is computed."""
        kind, rows, width = shape
        own: int = v.type.size  # type: ignore[union-attr]
        inside = [h for h in self.hits[v] if h.of in members]
        if any(h.guarded for h in inside):
            return False
        flat = s.var("flat", own)
        if kind != "row":
            return own == size and all(h.flat is flat for h in inside)

        def here(h: Hit, place: Expr) -> bool:
            return h.flat is place or (h.of.type.size == 1 and s.is_const(h.flat, 0))  # type: ignore[union-attr]

        if self.kinds[v] == "row":
            full = flat * width + s.var("col", width)
            return own == rows and all(here(h, full if h.of.type.size != rows else flat) for h in inside)  # type: ignore[union-attr]
        if own == rows:
            return all(h.of.type.size == rows and here(h, flat) for h in inside)  # type: ignore[union-attr]
        if own != rows * width:
            return False
        if all(h.flat is flat for h in inside):
            return True
        row, col = s.var("row", rows), s.var("col", width)
        place = row * width + col
        again = [h for h in self.reads.at(v, at_flat(v, place)) if h.of in members]
        return all(here(h, row if h.of.type.size == rows else place) for h in again)  # type: ignore[union-attr]

    def _join(self, group: Group, v: Node, shape: tuple[str, int, int], before: Iterable[Group]) -> None:
        group.kind, group.rows, group.width = shape
        if group.kind == "row":
            group.size = group.rows * group.width
        group.members.append(v)
        self.group_of[v] = group
        gained = 0
        for d in before:
            if d is not group:
                gained |= d.ancestors | d.bit
        self._gain(group, gained)

    def _gain(self, group: Group, gained: int) -> None:
        if gained & ~group.ancestors:
            for g in self.groups:
                if g is group or g.ancestors & group.bit:
                    g.ancestors |= gained

    def _merge(self, other: Group, group: Group) -> None:
        """Take `other` into `group` when both are elementwise or row groups of one domain and no third waits between them."""
        if not {other.kind, group.kind} <= {"map", "row"} or len(other.members) + len(group.members) > MAX_MEMBERS:
            return
        row = group if group.kind == "row" else other
        if other.size != group.size:
            return
        if other.kind == group.kind == "row" and (other.rows, other.width) != (group.rows, group.width):
            return
        if any(self._between(third, other, group) for third in self.groups):
            return
        if any({self.group_of[u], self.group_of[v]} == {other, group} for u, v in self.apart):
            return
        shape = (row.kind, row.rows, row.width)
        members = set(other.members) | set(group.members)
        if not all(self._legal(v, members - {v}, shape, group.size) for v in members):
            return
        order = {v: i for i, v in enumerate(self.hits)}
        group.members = sorted(members, key=lambda v: order[v])
        group.kind, group.rows, group.width = shape
        for v in other.members:
            self.group_of[v] = group
        other.members = []
        for g in self.groups:
            if g.ancestors & other.bit:
                g.ancestors |= group.bit
        group.ancestors = (group.ancestors | other.ancestors) & ~group.bit & ~other.bit
        self._gain(group, other.ancestors & ~group.bit)

    @staticmethod
    def _between(third: Group, a: Group, b: Group) -> bool:
        """Whether `third` waits for one of `a` and `b`, and the other for it."""
        if third is a or third is b or not third.members:
            return False
        return any(third.ancestors & x.bit and y.ancestors & third.bit for x, y in ((a, b), (b, a)))

    def ordered(self) -> list[Group]:
        """All groups, in an order in which they can run."""
        live = [g for g in self.groups if g.members]
        depends: dict[Group, set[Group]] = {g: set() for g in live}
        for v, _, producer in self.crossings():
            depends[self.group_of[v]].add(producer)
        order: dict[Group, None] = {}
        for root in live:
            stack = [root]
            while stack:
                missing = [d for d in depends[stack[-1]] if d not in order]
                if missing:
                    stack.extend(sorted(missing, key=lambda g: -g.number))
                else:
                    order[stack.pop()] = None
        return list(order)
