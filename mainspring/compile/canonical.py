"""Kernels as text in which names do not matter: equal texts mean equal machine code.

With this you can compile equal kernels once (`canonical`) and key a whole program (`program_text`). Every distinct
expression is written once and then called by its number, so the text is as long as the DAG, not as the tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mainspring.compile.loops import Body, Buffer, Fold, For, If, Kernel, Let, Prefetch, Reduce, Stmt, Store, While, Write
from mainspring.compile.program import Barrier, Branch, Instr, Launch, Loop, Program, Ref, Repeat
from mainspring.ir.scalar import Expr


def canonical(kernel: Kernel) -> str:
    """`kernel` as text, with its buffers, variables and refs renamed in the order they are met."""
    return _Canonical(kernel).text()


def program_text(program: Program) -> str:
    """The whole program as text, each distinct kernel written out where it is first launched."""
    kernels: dict[str, int] = {}
    lines = [f"program bases {program.bases} arena {program.arena} own {program.own}"]
    lines += _instructions(program.instrs, kernels, {}, "")
    return "\n".join(lines)


def _instructions(instrs: tuple[Instr, ...], kernels: dict[str, int], texts: dict[Kernel, str], indent: str) -> Iterator[str]:
    inner = indent + " "
    for instr in instrs:
        if isinstance(instr, Launch):
            text = texts.get(instr.kernel) or texts.setdefault(instr.kernel, canonical(instr.kernel))
            if text not in kernels:
                kernels[text] = len(kernels)
                yield text
            yield f"{indent}launch {kernels[text]} {' '.join(_ref(r) for r in instr.refs)}"
        elif isinstance(instr, Barrier):
            yield f"{indent}barrier"
        elif isinstance(instr, Repeat):
            yield f"{indent}repeat {instr.count} {instr.var}{' reverse' * instr.reverse}{' apart' * instr.apart}"
            yield from _instructions(instr.body, kernels, texts, inner)
        else:
            assert isinstance(instr, (Loop, Branch))
            first, second = (instr.test, instr.body) if isinstance(instr, Loop) else (instr.then, instr.other)
            yield f"{indent}{type(instr).__name__.lower()} {_ref(instr.flag)}"
            yield from _instructions(first, kernels, texts, inner)
            yield f"{indent}second"
            yield from _instructions(second, kernels, texts, inner)


def _ref(ref: Ref) -> str:
    return f"{ref.base}+{ref.offset}" + "".join(f"+{stride}*{name}" for name, stride in ref.strides)


class _Canonical:
    """The lines of one kernel; numbers for everything met so far."""

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.lines: list[str] = []
        self.numbers: dict[Expr, str] = {}
        self.buffers: dict[Buffer, str] = {}
        self.count = {"v": 0, "r": 0, "e": 0, "b": 0}

    def text(self) -> str:
        kernel = self.kernel
        for buffer in (*kernel.params, *kernel.scratch):
            name = self.buffers[buffer] = self.number("b")
            star = "*" if buffer in kernel.written else ""
            self.lines.append(f"{star}{name} {buffer.kind} {buffer.dtype.name} {buffer.size}")
        self.lines.append(f"kernel {kernel.tasks} {self.expr(kernel.task)} {sorted(kernel.attributes.items(), key=str)}"
                          + (f" turn {self.buffers[kernel.turn]}" if kernel.turn is not None else ""))
        self.body(kernel.body, " ")
        return "\n".join(self.lines)

    def number(self, letter: str) -> str:
        self.count[letter] += 1
        return f"{letter}{self.count[letter] - 1}"

    def expr(self, x: Expr) -> str:
        """The number of `x`; the lines that say what it is are written before it is returned."""
        stack = [x]
        while stack:
            node = stack[-1]
            missing = [a for a in reversed(node.args) if a not in self.numbers]
            if missing:
                stack += missing
                continue
            stack.pop()
            if node not in self.numbers:
                self.define(node)
        return self.numbers[x]

    def define(self, x: Expr) -> None:
        name = self.numbers[x] = self.number({"var": "v", "ref": "r"}.get(x.op, "e"))
        args = " ".join(self.numbers[a] for a in x.args)
        self.lines.append(f"{name} = {x.op} {x.dtype.name} {args} {self.attribute(x)}")

    def attribute(self, x: Expr) -> str:
        if x.op == "load":
            return self.buffers[x.attr]
        if x.op == "var":
            return str(x.attr[1])
        if x.op == "const":
            return x.attr.hex() if isinstance(x.attr, float) else repr(x.attr)
        return "" if x.op == "ref" or x.attr is None else str(x.attr)

    def body(self, body: Body, indent: str) -> None:
        for stmt in body:
            _WRITE[type(stmt)](self, stmt, indent)

    def for_(self, stmt: For, indent: str) -> None:
        head = f"{self.expr(stmt.var)} {self.expr(stmt.start)} {self.expr(stmt.stop)}"
        self.lines.append(f"{indent}for {head} {stmt.role}")
        self.body(stmt.body, indent + " ")

    def let(self, stmt: Let, indent: str) -> None:
        self.lines.append(f"{indent}let {self.expr(stmt.ref)} {self.expr(stmt.value)}")

    def store(self, stmt: Store, indent: str) -> None:
        self.lines.append(f"{indent}store " + ", ".join([self.write(w) for w in stmt.writes]))

    def write(self, w: Write) -> str:
        guard = "" if w.guard is None else f" if {self.expr(w.guard)}"
        return f"{self.buffers[w.buffer]} {self.expr(w.index)} {self.expr(w.value)}{guard}"

    def prefetch(self, stmt: Prefetch, indent: str) -> None:
        self.lines.append(f"{indent}prefetch {self.buffers[stmt.buffer]} {self.expr(stmt.index)} {stmt.write} {stmt.level}")

    def reduce(self, stmt: Reduce, indent: str) -> None:
        self.lines.append(f"{indent}reduce {self.expr(stmt.var)} {stmt.extent} {stmt.role}")
        self.body(stmt.body, indent + " ")
        self.lines.append(f"{indent}fold " + ", ".join([self.fold(f) for f in stmt.folds]))

    def fold(self, f: Fold) -> str:
        return f"{self.expr(f.ref)} {f.combine} {self.expr(f.value)}"

    def if_(self, stmt: If, indent: str) -> None:
        self.lines.append(f"{indent}if {self.expr(stmt.condition)}")
        self.body(stmt.body, indent + " ")
        self.lines.append(f"{indent}else")
        self.body(stmt.other, indent + " ")

    def while_(self, stmt: While, indent: str) -> None:
        self.lines.append(f"{indent}while {self.expr(stmt.condition)}")
        self.body(stmt.body, indent + " ")


_WRITE: dict[type[Stmt], Any] = {
    For: _Canonical.for_, Let: _Canonical.let, Store: _Canonical.store, Reduce: _Canonical.reduce,
    If: _Canonical.if_, While: _Canonical.while_, Prefetch: _Canonical.prefetch,
}
