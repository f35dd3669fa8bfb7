"""The op record: one paragraph of code that says what an op means; everything else is derived from it.

    Op(name, infer, reference, space, vjp)

  infer      types in, type out (a tuple of types for several results); raises our errors on bad input
  reference  NumPy arrays in, arrays out: eager execution and the oracle of every test
  space      the iteration space: `Space` rule, or `Expand` (written in other ops), or `Opaque(reason)` (a named template)
  vjp        the gradient, written in other ops, or `NoGradient(reason)`

No field is ever None: it holds a rule or a named reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mainspring.base.errors import GraphError
from mainspring.ir import scalar
from mainspring.ir.scalar import Expr
from mainspring.types.shape import Shape, TensorType

Types = TensorType | tuple[TensorType, ...]


@dataclass(frozen=True)
class Space:
    """The iteration space of one application of an op.

    For each index of `extents` (the dims of the result) and of `reduced`, ``element(read, *dims, *reduced)`` is one scalar
    expression, where ``read(i, *index, guard=None, fill=0)`` is the element of operand i at `index` (`fill` where `guard` is
    false). The result is the element itself, or all elements over `reduced` combined: sum, prod, max, min, any, all.
    A sum of products is accumulated by FMA in `accumulate`, the dtype of the element by default.
    """

    extents: Shape
    element: Callable[..., Expr]
    reduced: Shape = ()
    combine: str = ""

    def indices(self, prefix: str = "") -> tuple[list[Expr], list[Expr]]:
        """Fresh index variables for the dims and the reduced dims."""
        dims = [scalar.var(f"{prefix}d{i}", n) for i, n in enumerate(self.extents)]
        return dims, [scalar.var(f"{prefix}r{i}", n) for i, n in enumerate(self.reduced)]

    def symbolic(self, operands: tuple[TensorType, ...]) -> Expr:
        """The element over fresh index variables, operands as `read` leaves: what legality, cost and layout are read from."""
        dims, reduced = self.indices()
        return self.element(reader(operands), *dims, *reduced)


def reader(operands: tuple[TensorType, ...]) -> Callable[..., Expr]:
    """A `read` that builds ``read`` leaves."""

    def read(i: int, *index: Expr | int, guard: Expr | None = None, fill: Any = 0) -> Expr:
        dtype = operands[i].dtype
        args = tuple(e if isinstance(e, Expr) else scalar.const(e, scalar.int64) for e in index)
        if guard is not None:
            args += (guard, fill if isinstance(fill, Expr) else scalar.const(fill, dtype))
        return scalar.make("read", args, dtype, (i, guard is not None))

    return read


@dataclass(frozen=True)
class Opaque:
    """No iteration space: the compiler has a template of the op's name; `reason` says why."""

    reason: str


@dataclass(frozen=True)
class Expand:
    """The op is defined by other ops: ``function(*values, **static)`` binds them. The compiler may still have a template."""

    function: Callable[..., Any]


@dataclass(frozen=True)
class NoGradient:
    """The op has no derivative. With `zero`, gradients through it are zero (comparisons, integers); else asking is an error."""

    reason: str
    zero: bool = True


@dataclass(frozen=True, eq=False)
class Op:
    """A registered primitive; see the module text.

    vjp: ``rule(ct, out, *inputs, **static)`` gives for each input a cotangent, None for zero, or a thunk that makes it
    (run only when wanted). For several results `ct` and `out` are tuples, with None in `ct` where no gradient flows.
    """

    name: str
    infer: Callable[..., Types]
    reference: Callable[..., Any]
    space: Callable[..., Space] | Expand | Opaque
    vjp: Callable[..., tuple[Any, ...]] | NoGradient
    doc: str = ""

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def space_of(self, *types: TensorType, **static: Any) -> Space | None:
        """The iteration space at these types, or None for an opaque or expanded op."""
        return None if isinstance(self.space, (Opaque, Expand)) else self.space(*types, **static)


OPS: dict[str, Op] = {}


def register(op: Op) -> Op:
    """Enter `op` into the registry; a name can be taken once."""
    if op.name in OPS:
        raise GraphError("register", "op", "the name of an op can be taken once", op.name)
    OPS[op.name] = op
    return op


def map_space(body: Callable[..., Expr]) -> Callable[..., Space]:
    """The space of an elementwise op: ``body(*elements)`` at equal indices."""

    def rule(*types: TensorType, **static: Any) -> Space:
        def element(read: Callable[..., Expr], *dims: Expr) -> Expr:
            return body(*[read(i, *dims) for i in range(len(types))], **static)

        return Space(types[0].shape, element)

    return rule
