"""Loops → Python over NumPy: slow, short, and the oracle of the LLVM emitter.

With this you can read what a kernel does (`emit_kernel`) and run it without a compiler (`compile_kernel`). The meaning
of every operation is its NumPy entry in `SCALARS`; a vector `For` and a `Reduce` become array code over the whole
index, everything else stays the loop it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from mainspring.base.errors import CompileError
from mainspring.compile.emit.array_code import EXACT, HALF, NAMESPACE
from mainspring.compile.loops import Body, Buffer, For, If, Kernel, Let, Prefetch, Reduce, Stmt, Store, While, Write
from mainspring.ir.scalar import Expr
from mainspring.types.dtype import DType, int64

_INT64 = (-(2**63), 2**63 - 1)
Bounds = tuple[int, int] | None


def emit_kernel(kernel: Kernel) -> str:
    """Python source of ``kernel(p0, …, pn, begin, end)`` over flat NumPy arrays, for the tasks in [begin, end)."""
    return _Writer(kernel).source()


def compile_kernel(kernel: Kernel) -> Callable[..., None]:
    """The function that `emit_kernel` writes down. Arrays: one flat array a param, of its dtype and at least its size."""
    namespace: dict[str, Any] = dict(NAMESPACE)
    exec(compile(emit_kernel(kernel), f"<kernel {kernel.name}>", "exec"), namespace)
    return namespace["kernel"]


# ----------------------------------------------------------------------------------------------------- the writer


def _dtype(dtype: DType) -> str:
    return "bool_" if dtype.name == "bool" else dtype.name


def _constant(x: Expr) -> str:
    """The constant as source; integers wrapped into the range of their dtype."""
    if x.dtype.kind in ("int", "uint"):
        value = int(x.attr) % (1 << x.dtype.bits)
        if x.dtype.kind == "int" and value >= 1 << (x.dtype.bits - 1):
            value -= 1 << x.dtype.bits
        return repr(value) if x.dtype is int64 else f"{_dtype(x.dtype)}({value})"
    if x.dtype.kind == "float" and not math.isfinite(x.attr):
        return f"{_dtype(x.dtype)}(float('{x.attr}'))"
    return f"{_dtype(x.dtype)}({x.attr!r})"


class _Writer:
    """The lines of one kernel, and what its names mean at the line being written."""

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.lines: list[str] = []
        self.constants: dict[Expr, str] = {}
        self.names: dict[Expr, str] = {}
        self.buffers: dict[Buffer, str] = {p: f"p{i}" for i, p in enumerate(kernel.params)}
        self.buffers |= {b: f"s{i}" for i, b in enumerate(kernel.scratch)}
        self.private: set[Buffer] = set()
        self.lanes = ""  # the name of the index of the vector For we are in
        self.indent = 2
        self.count = 0
        self.ranges: dict[Expr, Bounds] = {}

    def source(self) -> str:
        task = self.bind(self.kernel.task)
        self.line(f"for {task} in range(begin, end):")
        self.block(self.kernel.body)
        params = ", ".join([self.buffers[p] for p in self.kernel.params] + ["begin", "end"])
        head = [f"# {self.kernel.name}", *[f"{name} = {_constant(x)}" for x, name in self.constants.items()], ""]
        arrays = [f"    {self.buffers[b]} = np.empty({b.size}, {_dtype(b.dtype)})  # {b.kind}" for b in self.kernel.scratch]
        return "\n".join([*head, f"def kernel({params}):", *arrays, "    with np.errstate(all='ignore'):", *self.lines]) + "\n"

    def line(self, text: str) -> None:
        self.lines.append("    " * self.indent + text)

    def fresh(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def bind(self, x: Expr) -> str:
        """A name for a var or a ref."""
        if x not in self.names:
            text = x.attr[0] if x.op == "var" else x.attr
            self.names[x] = self.fresh("".join(c if c.isalnum() and c.isascii() else "_" for c in text) + "_")
        return self.names[x]

    def block(self, body: Body) -> None:
        self.indent += 1
        self.statements(body)
        if not body:
            self.line("pass")
        self.indent -= 1

    def statements(self, body: Body) -> None:
        for stmt in body:
            _EMIT[type(stmt)](self, stmt)

    # statements

    def for_(self, stmt: For) -> None:
        memo: dict[Expr, str] = {}
        bounds = f"{self.value(stmt.start, memo)}, {self.value(stmt.stop, memo)}"
        name = self.bind(stmt.var)
        if stmt.role != "vector":
            self.line(f"for {name} in range({bounds}):")
            self.block(stmt.body)
            return
        if self.lanes:
            raise CompileError("emit_python", "For", "a vector For may not stand inside a vector For", self.kernel.name)
        self.line(f"{name} = np.arange({bounds})")
        self.lanes, self.private = name, {b for b in _uniform_writes(stmt.body, stmt.var) if b.kind != "param"}
        outer = dict(self.buffers)
        for buffer in self.private:
            self.buffers[buffer] = self.fresh(f"{outer[buffer]}_")
            self.line(f"{self.buffers[buffer]} = Private({outer[buffer]}, len({name}))")
        self.statements(stmt.body)
        for buffer in self.private:
            self.line(f"{self.buffers[buffer]}.close()")
        self.lanes, self.private, self.buffers = "", set(), outer

    def let(self, stmt: Let) -> None:
        value = self.value(stmt.value, {})
        self.line(f"{self.bind(stmt.ref)} = {value}")

    def store(self, stmt: Store) -> None:
        memo: dict[Expr, str] = {}
        ready = [self.write(w, memo) for w in stmt.writes]
        for text in ready:
            self.line(text)

    def prefetch(self, stmt: Prefetch) -> None:
        """Nothing to do, in a body that may hold nothing else."""
        self.line("pass")

    def write(self, w: Write, memo: dict[Expr, str]) -> str:
        index, value = self.value(w.index, memo), self.value(w.value, memo)
        guard = "" if w.guard is None else f", {self.value(w.guard, memo)}"
        name = self.buffers[w.buffer]
        if w.buffer in self.private:
            return f"{name}.put({index}, {value}{guard})"
        known = self.range(w.index)
        if not guard and known is not None and known[0] >= 0:
            return f"{name}[{index}] = {value}"
        return f"put({name}, {index}, {value}{guard})"

    def reduce(self, stmt: Reduce) -> None:
        if stmt.role == "serial" and any(isinstance(s, Store) for s in stmt.body):
            self.reduce_in_order(stmt)
            return
        name = self.bind(stmt.var)
        self.line(f"{name} = np.arange({stmt.extent}){'[:, None]' if self.lanes else ''}")
        self.statements(stmt.body)
        shape = f"({stmt.extent}, len({self.lanes}))" if self.lanes else f"({stmt.extent},)"
        memo: dict[Expr, str] = {}
        values = [self.value(f.value, memo) for f in stmt.folds]
        for f, value in zip(stmt.folds, values, strict=True):
            self.line(f"{self.bind(f.ref)} = fold({f.combine!r}, {_dtype(f.ref.dtype)}, {value}, {shape})")

    def reduce_in_order(self, stmt: Reduce) -> None:
        """The body stores: one r after the other."""
        partials = [self.fresh("partials_") for _ in stmt.folds]
        for f, name in zip(stmt.folds, partials, strict=True):
            self.line(f"{name} = partials({f.combine!r}, {_dtype(f.ref.dtype)})")
        index = self.bind(stmt.var)
        self.line(f"for {index} in range({stmt.extent}):")
        self.block(stmt.body)
        self.indent += 1
        memo: dict[Expr, str] = {}
        for f, name in zip(stmt.folds, partials, strict=True):
            self.line(f"add_to({name}, {index}, {f.combine!r}, {_dtype(f.ref.dtype)}, {self.value(f.value, memo)})")
        self.indent -= 1
        for f, name in zip(stmt.folds, partials, strict=True):
            self.line(f"{self.bind(f.ref)} = tree({f.combine!r}, {_dtype(f.ref.dtype)}, {name})")

    def if_(self, stmt: If) -> None:
        self.line(f"if {self.value(stmt.condition, {})}:")
        self.block(stmt.body)
        if stmt.other:
            self.line("else:")
            self.block(stmt.other)

    def while_(self, stmt: While) -> None:
        self.line("while True:")
        self.indent += 1
        self.line(f"if not {self.value(stmt.condition, {})}: break")
        self.statements(stmt.body)
        self.indent -= 1

    # expressions

    def value(self, x: Expr, memo: dict[Expr, str]) -> str:
        """`x` as a name or a short piece of source; `memo` holds what this statement has evaluated already."""
        for node in _unseen(x, memo):
            text = self.node(node, [memo[a] for a in node.args])
            if node.args and (self.range(node) is None or len(text) > 100):
                name = self.fresh("t")
                self.line(f"{name} = {text}")
                text = name
            memo[node] = text
        return memo[x]

    def node(self, x: Expr, args: list[str]) -> str:
        if x.op == "const":
            return _constant(x) if x.dtype is int64 else self.constants.setdefault(x, f"c{len(self.constants)}")
        if x.op in ("var", "ref"):
            if x not in self.names:
                raise CompileError("emit_python", x.op, "must be bound before use", f"{x!r} in kernel {self.kernel.name}")
            return self.names[x]
        if x.op == "load":
            return self.load(x, args)
        if self.range(x) is not None:
            return f"({args[0]} {_PLAIN[x.op]} {args[1]})"
        if x.op in ("cast", "bitcast"):
            return f"{x.op}_({args[0]}, {_dtype(x.dtype)})"
        half = next((a.dtype.name for a in x.args if a.dtype.name in HALF), "") if x.op not in EXACT else ""
        return f"{x.op}_{half}({', '.join(args)})"

    def load(self, x: Expr, args: list[str]) -> str:
        name = self.buffers[x.attr]
        if x.dtype is not x.attr.dtype:
            guarded = len(args) > 1
            return f"guarded_wide({name}, {', '.join(args)})" if guarded else f"wide({name}, {args[0]}, {_dtype(x.dtype)})"
        if len(args) > 1 and x.attr in self.private:
            return f"np.where({args[1]}, {name}[np.where({args[1]}, {args[0]}, 0)], {args[2]})"
        if len(args) > 1:
            return f"guarded({name}, {', '.join(args)})"
        known = self.range(x.args[0])
        safe = x.attr in self.private or (known is not None and known[0] >= 0)
        return f"{name}[{args[0]}]" if safe else f"at({name}, {args[0]})"

    def range(self, x: Expr) -> Bounds:
        """Bounds of an index expression that ordinary Python operators compute rightly, else None."""
        if x not in self.ranges:
            self.ranges[x] = self._range(x)
        return self.ranges[x]

    def _range(self, x: Expr) -> Bounds:
        if x.dtype is not int64:
            return None
        if x.op == "const":
            return int(_constant(x)), int(_constant(x))
        if x.op == "var":
            return 0, max(x.attr[1] - 1, 0)
        if x.op not in _PLAIN:
            return None
        left, right = self.range(x.args[0]), self.range(x.args[1])
        if left is None or right is None or (x.op in ("floordiv", "mod") and not 0 < right[0] == right[1]):
            return None
        (a, b), (c, d) = left, right
        bounds = {
            "add": lambda: (a + c, b + d), "sub": lambda: (a - d, b - c), "floordiv": lambda: (a // c, b // c),
            "mod": lambda: (0, c - 1), "mul": lambda: (min(a * c, a * d, b * c, b * d), max(a * c, a * d, b * c, b * d)),
        }[x.op]()
        return bounds if _INT64[0] <= bounds[0] and bounds[1] <= _INT64[1] else None


_PLAIN = {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%"}
_EMIT: dict[type[Stmt], Callable[[_Writer, Any], None]] = {
    For: _Writer.for_, Let: _Writer.let, Store: _Writer.store, Reduce: _Writer.reduce, If: _Writer.if_, While: _Writer.while_,
    Prefetch: _Writer.prefetch,
}


def _unseen(x: Expr, memo: dict[Expr, str]) -> list[Expr]:
    """The sub-expressions of `x` that `memo` lacks, arguments before users."""
    found: dict[Expr, None] = {}
    stack = [(x, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            found[node] = None
        elif node not in memo and node not in found:
            stack.append((node, True))
            stack += [(a, False) for a in reversed(node.args)]
    return list(found)


def _uniform_writes(body: Body, index: Expr) -> Iterator[Buffer]:
    """Buffers written in `body` at places that do not depend on `index`: each iteration means its own copy of them."""
    depends: dict[Expr, bool] = {index: True}

    def varies(x: Expr) -> bool:
        for node in _unseen(x, depends):  # type: ignore[arg-type]
            depends[node] = any(depends[a] for a in node.args)
        return depends[x]

    def visit(statements: Body) -> Iterator[Buffer]:
        for stmt in statements:
            if isinstance(stmt, Let):
                depends[stmt.ref] = varies(stmt.value)
            elif isinstance(stmt, Store):
                yield from (w.buffer for w in stmt.writes if not varies(w.index))
            elif isinstance(stmt, (For, Reduce)):
                yield from visit(stmt.body)

    return visit(body)
