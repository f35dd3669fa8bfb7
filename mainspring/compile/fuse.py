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

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from mainspring.compile.choose import Decide, Decision
from mainspring.compile.inline import Element, at_flat, flat_index, is_border, is_virtual, moves_only, space_of
from mainspring.compile.joints import Joint, carved, joint_site
from mainspring.compile.target.costs import Costs
from mainspring.ir import scalar as s
from mainspring.ir.graph import CONSTANT, INPUT, ITEM, Graph, Node, users
from mainspring.ir.op import Space
from mainspring.ir.scalar import Expr
from mainspring.ops.movement import unravel
from mainspring.types.shape import TensorType

MAX_MEMBERS = 96
MAX_FOLDS = 4  # reductions that one kernel does side by side
INLINE_DEPTH = 8  # elementwise nodes of single use that are computed inside the reduction that reads them
UNSURE = 4  # times that work, beyond which nobody asks
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


@dataclass(frozen=True)
class Hit:
    """One read of a value: which, and at which flat position."""

    of: Node
    flat: Expr
    guarded: bool


def contraction_operands(of: Node, space: Space) -> bool:
    """Whether the space is a sum of products of one element of each of two operands."""
    if not (space.combine == "sum" and len(of.inputs) == 2):
        return False
    element = space.symbolic(tuple(n.type for n in of.inputs))  # type: ignore[misc]
    if element.op != "mul":
        return False
    sides = [a.args[0] if a.op == "cast" else a for a in element.args]
    return [x.attr[0] if x.op == "read" else None for x in sides] == [0, 1]


@dataclass
class _Recipe:
    """How a value would be computed again: what is `made`, at how many flops an element, of which `large` and `small` ones."""

    fuser: Fuser
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
        if self.fuser.kinds.get(v) != "map" or space is None:
            return False
        self.made[v] = None
        self.flops += s.flops(space.symbolic(tuple(n.type for n in v.inputs)))  # type: ignore[misc]
        for u in dict.fromkeys(h.of for h in self.fuser.hits[v]):
            if u in self.made:
                continue
            own = self.fuser._group(u) is self.group
            little = u.type.size * 16 <= self.size  # type: ignore[union-attr]
            if own and (u in self.fuser.again or (u not in self.wanted and not little)):
                if len(self.made) >= INLINE_DEPTH or not self.add(u):
                    return False
            elif not little:
                self.large[u] = None
            elif own:
                self.small[u] = None
        return True


def _joins(v: Node) -> bool:
    """Whether `v` (or what it only moves) puts several pieces together, as concat does."""
    while v.op not in (INPUT, CONSTANT, ITEM) and is_virtual(v) and len(v.inputs) == 1:
        v = v.inputs[0]
    return v.op not in (INPUT, CONSTANT, ITEM) and is_virtual(v) and len(v.inputs) > 1


def _padded(v: Node) -> list[Node]:
    """The padded arrays that `v` reads, perhaps moved: they are read many times, so the border is tested for once."""
    found = []
    for n in v.inputs:
        while n.op not in (INPUT, CONSTANT, ITEM) and n.op.name != "pad" and is_virtual(n) and len(n.inputs) == 1:
            n = n.inputs[0]
        if n.op.name == "pad":
            found.append(n)
    return found


class Fuser:
    """Groups the values of one graph; `lasting` ones (see `lasting`) are not computed together with others."""

    def __init__(self, graph: Graph, costs: Costs, decide: Decide, updated: Collection[Node] = (),
                 lasting: Collection[Node] = ()):
        self.graph, self.costs, self.decide, self.updated, self.lasting = graph, costs, decide, updated, lasting
        self.asked: list[tuple[Decision, list[Node]]] = []  # with the values that a decision is about
        self.apart: list[tuple[Node, Node]] = []  # values that stay in different groups
        self.nodes = graph.nodes()
        self.readers = users(graph)
        self.forced = self._forced()
        self.kinds = {v: self._kind(v) for v in self.nodes if self._could_be_value(v)}
        self.absorbed: set[Node] = set()
        self.again: set[Node] = set()
        self._absorb()
        self.hits: dict[Node, list[Hit]] = {}
        self.group_of: dict[Node, Group] = {}
        self.groups: list[Group] = []

    # ------------------------------------------------------------------------------------------ what is a value

    def _forced(self) -> set[Node]:
        """Virtual nodes that need a buffer all the same: results of the graph and operands of templates."""
        found = {v for v in self.graph.outputs}
        for v in self.nodes:
            if v.op in (INPUT, CONSTANT, ITEM):
                continue
            space = space_of(v)
            if space is None:
                found.update(v.inputs)
            elif space.reduced and contraction_operands(v, space):
                found.update(n for n in v.inputs if _joins(n))  # rows of a product are read many times: join their pieces once
                found.update(_padded(v))
        return found

    def _could_be_value(self, v: Node) -> bool:
        return v.op not in (INPUT, CONSTANT, ITEM) and (v in self.forced or not is_virtual(v))

    def inlined(self, v: Node) -> bool:
        """Whether reads of `v` are replaced by its body."""
        return v in self.absorbed or (v not in self.forced and is_virtual(v))

    def inlined_in(self, group: Group) -> Callable[[Node], bool]:
        """`inlined` for the kernel of `group`, which also computes again what others computed but did not store."""
        return lambda v: self.inlined(v) or (v in self.again and self.group_of[v] is not group)

    def _kind(self, v: Node) -> str:
        space = space_of(v)
        if space is None:
            return "template"
        if v in self.updated:
            return "update"
        if not space.reduced:
            return "map"
        if contraction_operands(v, space):
            return "contract"
        return "row" if space.combine and self._along_rows(v, space) else "reduce"

    def _along_rows(self, v: Node, space: Space) -> bool:
        """Whether neighbours along the reduced extent are neighbours in memory, for the largest thing that is read."""
        rows, width = s.var("row", v.type.size), s.var("col", _product(space.reduced))  # type: ignore[union-attr]
        largest, along = -1, False
        for hit in self._reads_at(v, at_flat(v, rows), _unflatten(width, space.reduced),
                                  lambda n: n is not v and is_virtual(n)):
            if hit.of.type.size > largest:  # type: ignore[union-attr]
                largest, along = hit.of.type.size, s.affine(hit.flat)[0].get(width) == 1  # type: ignore[union-attr]
        return along

    def _absorb(self) -> None:
        """Elementwise values of single use by a reduction over columns, or over everything, are computed inside it."""
        depth: dict[Node, int] = {}
        for v in reversed(self.nodes):
            if self.kinds.get(v) != "map" or v in self.forced or v in self.lasting or len(self.readers[v]) != 1:
                continue
            reader = self.readers[v][0]
            while self.kinds.get(reader) is None and len(self.readers[reader]) == 1:
                if reader in self.forced or not is_virtual(reader):
                    break
                reader = self.readers[reader][0]
            if reader in self.absorbed and depth[reader] < INLINE_DEPTH:
                depth[v] = depth[reader] + 1
            elif self.kinds.get(reader) == "reduce" or (self.kinds.get(reader) == "row" and reader.type.size == 1):  # type: ignore[union-attr]
                depth[v] = 1
            else:
                continue
            if space_of(v) is not None and _cheap(v):
                self.absorbed.add(v)

    # --------------------------------------------------------------------------------------------------- reads

    def _reads_at(self, v: Node, index: Iterable[Expr], reduced: Iterable[Expr] = (), inlined: object = None) -> list[Hit]:
        found: list[Hit] = []

        def leaf(of: Node, at: tuple[Expr, ...], guard: Expr | None) -> Expr:
            flat = flat_index(of, at)
            found.append(Hit(of, flat, guard is not None))
            return s.make("ref", (flat,), of.dtype, f"leaf {of.digest.hex()}")

        Element(leaf, inlined or self.inlined).body(v, tuple(index), None, tuple(reduced))  # type: ignore[arg-type]
        return found

    def _hits(self, v: Node) -> list[Hit]:
        """Reads of `v`, its flat position as the variable ``flat`` (and ``col`` for the reduced extent of a row reduction)."""
        space = space_of(v)
        if space is None:
            return [Hit(n, s.const(0, s.int64), True) for n in v.inputs]
        flat = s.var("flat", v.type.size)  # type: ignore[union-attr]
        width = s.var("col", _product(space.reduced))
        return self._reads_at(v, at_flat(v, flat), _unflatten(width, space.reduced))

    def _group(self, v: Node) -> Group | None:
        return self.group_of.get(v.inputs[0] if v.op is ITEM else v)

    # -------------------------------------------------------------------------------------------------- grouping

    def run(self) -> list[Group]:
        """All groups, in an order in which they can run, with `stored` filled in."""
        for v in self.nodes:
            if v in self.kinds and v not in self.absorbed:
                self.hits[v] = self._hits(v)
                if not self._stays(v):
                    self._place(v, self.kinds[v])
        self._mark_stored()
        return self._ordered()

    def _stays(self, v: Node) -> bool:
        """Whether `v` is the result of a contraction, read by nobody else, with zeros around it: the result is stored there."""
        if v.op.name != "pad" or not is_border(v) or v.type.size == 0:  # type: ignore[union-attr]
            return False
        x = v.inputs[0]
        group = self.group_of.get(x)
        empty = group is not None and any([0 in n.shape for n in group.members[0].inputs])
        if group is None or group.kind != "contract" or x not in group.members or empty:
            return False
        if self.readers[x] != [v] or x in self.forced:
            return False
        group.bordered[v] = x
        self.group_of[v] = group
        return True

    def _place(self, v: Node, kind: str) -> None:
        before = {g.number: g for h in self.hits[v] if (g := self._group(h.of)) is not None}
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
        fused = self._ask("fuse", v, [group.members[0], *read], default, facts, [v, group.members[0]])
        if not fused:
            self.apart.append((v, group.members[0]))
        return fused

    def _ask(self, kind: str, v: Node, others: Sequence[Node], default: bool, facts: dict[str, float],
             about: list[Node]) -> bool:
        """The answer to a question of `kind`; see `joints`."""
        met = len(self.decide.made)
        answer = self.decide(default, lambda: joint_site(kind, v, list(others), default, facts))
        self.asked += [(decision, about) for decision in self.decide.made[met:]]
        return answer

    def joints(self) -> list[Joint]:
        """What was decided, each with the piece of the graph that it is about."""
        return [Joint(decision, partial(self._piece, about)) for decision, about in self.asked]

    def _piece(self, about: Sequence[Node]) -> Graph:
        groups = {self.group_of[v] for v in about}
        inside = {v for v in self.nodes if v in self.absorbed or v in self.again or self.group_of.get(v) in groups}
        outputs = [v for g in groups for v in g.stored]
        return carved(sorted(outputs, key=self.nodes.index), inside, lambda n: n.op in (INPUT, ITEM) or not self.inlined(n))

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
            group.rows, group.width = size, _product(space_of(v).reduced)  # type: ignore[union-attr]
        for d in before:
            group.ancestors |= d.ancestors | d.bit
        self.groups.append(group)
        self.group_of[v] = group

    def _joined(self, group: Group, v: Node, kind: str) -> tuple[str, int, int] | None:
        """(kind, rows, width) of the group with `v` in it, or None when `v` may not join."""
        if group.kind in ("template", "update") or len(group.members) >= MAX_MEMBERS:
            return None
        if group.bordered and any(h.of in group.bordered for h in self.hits[v]):
            return None
        if kind == "row":
            rows, width = v.type.size, _product(space_of(v).reduced)  # type: ignore[union-attr]
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
        again = [h for h in self._reads_at(v, at_flat(v, place)) if h.of in members]
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
        for third in self.groups:
            if third is other or third is group or not third.members:
                continue
            if (third.ancestors & other.bit and group.ancestors & third.bit) or (
                    third.ancestors & group.bit and other.ancestors & third.bit):
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

    def _mark_stored(self) -> None:
        wanted: dict[Node, None] = {}
        for v, hits in self.hits.items():
            for h in hits:
                producer = self._group(h.of)
                if producer is not None and producer is not self.group_of[v]:
                    wanted[h.of] = None
        for v in self.graph.outputs:
            if self._group(v) is not None:
                wanted[v] = None
        self._choose_again(wanted)
        for v in wanted:
            if v not in self.again:
                self._group(v).stored.append(v)  # type: ignore[union-attr]

    def _choose_again(self, wanted: dict[Node, None]) -> None:
        """What can be made cheaply of one stored value is not stored: its reader computes it again, as 1 + erf(x) from x."""
        outside: dict[Node, dict[Group, str]] = {v: {} for v in wanted}
        order = {v: i for i, v in enumerate(self.nodes)}
        for v, hits in self.hits.items():
            for h in hits:
                if h.of in outside and self.group_of[v] is not self._group(h.of):
                    outside[h.of][self.group_of[v]] = self.kinds[v]
        for v in sorted(wanted, key=order.__getitem__):
            fixed = v in self.forced or v in self.lasting
            if self.kinds.get(v) != "map" or fixed or {"contract", "template"} & set(outside[v].values()):
                continue
            most = self.costs.again_flops if len(outside[v]) == 1 else 2
            recipe = _Recipe(self, self.group_of[v], wanted, v.type.size)  # type: ignore[union-attr]
            legal = recipe.add(v) and (len(recipe.large) == 1 or self._moves(v, wanted))
            if legal and self._made_again(v, recipe, most, list(outside[v])):
                self.again.update(recipe.made)
                wanted.update(recipe.small)

    def _made_again(self, v: Node, recipe: _Recipe, most: float, readers: list[Group]) -> bool:
        """Whether `readers` compute `v` again: a decision where the work is neither nothing nor hopeless."""
        default = recipe.flops <= most
        if not readers or recipe.flops <= 2 or recipe.flops > UNSURE * most:
            return default
        facts = {"readers": float(len(readers)), "work": math.log2(recipe.flops), "reads": float(len(recipe.large))}
        return self._ask("again", v, list(recipe.made)[1:], default, facts, [v, *[g.members[0] for g in readers]])

    def _moves(self, v: Node, wanted: dict[Node, None]) -> bool:
        """Whether one elementwise value alone reads `v`, once, and nothing else is wanted of its group: it is made there."""
        reading = [u for u, hits in self.hits.items() if any(h.of is v for h in hits)]
        alone = len(reading) == 1 and self.kinds[reading[0]] == "map" and sum(h.of is v for h in self.hits[reading[0]]) == 1
        small = alone and reading[0].type.size <= 2 * v.type.size  # type: ignore[union-attr]
        return small and not any(u is not v and u in wanted for u in self.group_of[v].members)

    def _ordered(self) -> list[Group]:
        live = [g for g in self.groups if g.members]
        depends: dict[Group, set[Group]] = {g: set() for g in live}
        for v, hits in self.hits.items():
            for h in hits:
                producer = self._group(h.of)
                if producer is not None and producer is not self.group_of[v]:
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


def _product(extents: Iterable[int]) -> int:
    total = 1
    for n in extents:
        total *= n
    return total


def _unflatten(flat: Expr, extents: tuple[int, ...]) -> list[Expr]:
    return unravel(flat, extents) if extents else []


def _cheap(v: Node) -> bool:
    space = space_of(v)
    assert space is not None
    element = space.symbolic(tuple(n.type for n in v.inputs))  # type: ignore[misc]
    return s.flops(element) <= 8 or moves_only(element) is not None
