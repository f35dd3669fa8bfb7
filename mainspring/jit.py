"""`jit`: a function of trees, traced into a graph, compiled whole, and called at native speed.

The trace is guarded by the structure of the arguments, the shapes and dtypes of their tensors, and the values of
everything static; a call that differs traces again.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mainspring.autodiff.tape import wanted
from mainspring.base import tree, treecode
from mainspring.base.errors import ArgumentError, TraceError
from mainspring.base.treecode import MISSED, Writer, builder, taker
from mainspring.interpret.eager import as_value
from mainspring.interpret.staged import is_tracing, trace
from mainspring.ir.bind import Value, borrowed, context
from mainspring.ir.graph import Graph
from mainspring.ops.control import call_graph
from mainspring.ops.lookups import look_up_last
from mainspring.runtime import build, eager_kernels, profile
from mainspring.types.shape import TensorType

if TYPE_CHECKING:
    from mainspring.runtime.executable import Executable
    from mainspring.runtime.profiler import Profile


TUNE_S = 60.0  # what tune=True stands for
_ARRAYS = (np.ndarray, np.generic, bool, int, float)  # leaves that become tensors


@dataclass
class _Trace:
    """One traced signature. `holes`: leaves of the result that are not tensors, by position."""

    graph: Graph
    captured: tuple[Value, ...]
    out_def: tree.TreeDef
    holes: dict[int, Any]
    donated: tuple[int, ...]
    executable: Executable | None = None
    call: Call | None = None  # written with the first call: it is code, and takes milliseconds to write

    def result(self, values: Sequence[Any], writer: Writer | None = None) -> Any:
        """What the function gives, of the values of its tensors; with `writer` of their names, as an expression."""
        rest = iter(values)
        every = [(writer.constant(self.holes[i]) if writer else self.holes[i]) if i in self.holes else next(rest)
                 for i in range(self.out_def.num_leaves)]
        return treecode.build(self.out_def, every, writer) if writer else tree.unflatten(self.out_def, every)


Call = Callable[[tuple[Any, ...], dict[str, Any]], Any]


def _written(trace: _Trace, executable: Executable, treedef: tree.TreeDef, leaves: list[Any]) -> Call | None:
    """The whole call as straight-line code, for arguments as those of `leaves`; it gives MISSED for others.

    None when a leaf is not a tensor. What was a tensor is recognised by the identity of its type; the rest, and tensors
    whose types are equal to those, go through `_fitting`.
    """
    if not all([isinstance(leaf, (Value, *_ARRAYS)) for leaf in leaves]):
        return None
    writer = Writer()
    writer.lines.append(f"if {writer.constant(context)}.policy != {writer.constant(context.policy)}: return MISSED")
    names = [name for part, child in zip(("args", "kwargs"), treedef.children, strict=True)
             for name in treecode.take(child, part, writer)]
    types = [writer.constant(node.type) for node in trace.graph.inputs[: len(names)]]
    tensors = [(name, type_) for name, type_, leaf in zip(names, types, leaves, strict=True) if isinstance(leaf, Value)]
    every, fit = ", ".join(names), writer.constant(_fitting)
    writer.lines += [
        f"try: known = {len(tensors) == len(names) and ' and '.join([f'{x}._type is {t}' for x, t in tensors])}",
        "except AttributeError: known = False",
        "if not known:",
        f"    found = {fit}(({every},), ({', '.join(types)},))",
        "    if found is None: return MISSED",
        f"    {every}, = found",
    ] if names else []
    captured = [writer.constant(value) for value in trace.captured]
    writer.lines.append(f"return {trace.result(executable.write([*names, *captured], writer), writer)}")
    return writer.function("def function(args, kwargs):")


def _fitting(leaves: Sequence[Any], types: Sequence[TensorType]) -> list[Value] | None:
    """The leaves as values of these types, for the length of a call; None when one is something else."""
    found = []
    for leaf, wanted_type in zip(leaves, types, strict=True):
        if isinstance(leaf, Value):
            if leaf._type is not wanted_type:
                if leaf._type != wanted_type:
                    return None
                leaf._type = wanted_type  # the next time it is recognised at once
        elif type(leaf) is np.ndarray and leaf.dtype is wanted_type.dtype.numpy and leaf.flags.c_contiguous \
                and leaf.flags.aligned and leaf.shape == wanted_type.shape:
            leaf = borrowed(leaf, wanted_type)
        elif isinstance(leaf, _ARRAYS):
            leaf = as_value(leaf, "jit")
            if leaf._type != wanted_type:
                return None
        else:
            return None
        found.append(leaf)
    return found


@dataclass
class _Loop:
    """What `Jitted.repeat` needs of a trace: how a state and an item are taken apart, and a state and a result put together."""

    trace: _Trace
    types: list[TensorType]
    count: int  # leaves of the state
    state: Callable[[Any], Any]
    item: Callable[[Any], Any]
    built: Callable[[Sequence[Value]], Any]
    result: Callable[[Sequence[Value]], Any]

    @classmethod
    def of(cls, trace: _Trace, treedef: tree.TreeDef) -> _Loop | None:
        """None for a function that does not take (state, item) and give (state, result)."""
        args, kwargs = treedef.children
        out = trace.out_def
        if trace.call is None or trace.holes or kwargs.children or len(args.children) != 2 \
                or out.kind is not tuple or len(out.children) != 2 or out.children[0] != args.children[0]:
            return None
        count, types = args.children[0].num_leaves, [node.type for node in trace.graph.inputs[: args.num_leaves]]
        if list(trace.graph.output_types[:count]) != types[:count]:
            return None
        return cls(trace, types, count, *map(taker, args.children), *map(builder, out.children))  # type: ignore[arg-type]

    def fitting(self, state: Any, items: list[Any]) -> tuple[list[Value], list[list[Value]]] | None:
        """The leaves of `state`, and of each of `items`, as values; None when one is of another structure or type."""
        every = [self.state(state), *map(self.item, items)]
        if any([leaves is MISSED for leaves in every]):
            return None
        first, *others = [_fitting(leaves, self.types[self.count :] if i else self.types[: self.count])
                          for i, leaves in enumerate(every)]
        return None if first is None or None in others else (first, others)  # type: ignore[return-value]

    def run(self, state: list[Value], others: list[list[Value]]) -> tuple[Any, list[Any]]:
        """The state after all of `others`, and the results."""
        captured = list(self.trace.captured)
        after, rest = self.trace.executable.repeat(state, [values + captured for values in others])  # type: ignore[union-attr]
        return self.built(after), [self.result(values) for values in rest]


class Jitted:
    """A compiled function; see `jit`."""

    def __init__(self, function: Callable[..., Any], static_argnums: tuple[int, ...], static_argnames: tuple[str, ...],
                 donate: tuple[int, ...], tune: float = 0.0):
        functools.update_wrapper(self, function)
        self.function = function
        self.static_argnums, self.static_argnames, self.donate, self.tune = static_argnums, static_argnames, donate, tune
        self._traces: dict[Any, _Trace] = {}
        self._last: Call | None = None
        self._called: tuple[_Trace, tree.TreeDef] | None = None  # what `_last` is written for
        self._loop: _Loop | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        last = self._last
        if last is not None and not context.recorders and len(context.interpreters) == 1:
            result = last(args, kwargs)
            if result is not MISSED:
                return result
        if is_tracing():
            return self.function(*args, **kwargs)
        statics, dynamic, named = self._separate(args, kwargs)
        leaves, treedef = tree.flatten((dynamic, named))
        values, key = _signature(leaves)
        full_key = (treedef, key, _told_apart(statics), context.policy)
        try:
            found = self._traces.get(full_key)
        except TypeError as error:
            raise _unhashable(self.function, leaves, statics) from error
        if found is None:
            found = self._traces[full_key] = self._trace(leaves, values, treedef, statics, dynamic)
        operands = [*[v for v in values if v is not None], *found.captured]
        if wanted(operands):
            return found.result(call_graph(found.graph, operands))
        if found.executable is None:
            found.executable = build(found.graph, found.donated, self.tune, found.captured)
            found.call = None if statics else _written(found, found.executable, treedef, leaves)
        self._last, self._called = found.call, (found, treedef)
        result = MISSED if found.call is None else found.call(args, kwargs)
        return found.result(found.executable(operands)) if result is MISSED else result

    def repeat(self, state: Any, items: Sequence[Any]) -> tuple[Any, list[Any]]:
        """The loop ``for item in items: state, result = f(state, item)`` without Python in between, bit for bit.

        `f` must give a pair, of which the first is a tree like `state`, and donate its first argument; else this is a loop of
        calls. Gives the last state and the list of results.
        """
        items, results = list(items), list[Any]()
        while items:
            loop = self._loop
            found = loop.fitting(state, items) if loop is not None and len(items) > 1 else None
            if loop is not None and found is not None and not is_tracing() and not context.recorders:
                state, rest = loop.run(*found)
                return state, results + rest
            pair = self(state, items.pop(0))
            if not (isinstance(pair, tuple) and len(pair) == 2):
                raise ArgumentError("repeat", "function", "must give a pair (state, result)", type(pair).__name__,
                                    "step = ms.jit(lambda state, x: (state + x, ms.sum(x)), donate=0)")
            state = pair[0]
            results.append(pair[1])
            if self._called is not None and (loop is None or loop.trace is not self._called[0]):
                self._loop = _Loop.of(*self._called)
        return state, results

    def graph(self, *args: Any, **kwargs: Any) -> Graph:
        """The graph that a call with these arguments runs."""
        statics, dynamic, named = self._separate(args, kwargs)
        leaves, treedef = tree.flatten((dynamic, named))
        values, _ = _signature(leaves)
        return self._trace(leaves, values, treedef, statics, dynamic).graph

    def profile(self, *args: Any, runs: int = 10, **kwargs: Any) -> Profile:
        """Where the time of a call with these arguments goes, kernel by kernel. They stay valid."""
        statics, dynamic, named = self._separate(args, kwargs)
        leaves, treedef = tree.flatten((dynamic, named))
        values, _ = _signature(leaves)
        found = self._trace(leaves, values, treedef, statics, dynamic)
        operands = [*[v for v in values if v is not None], *found.captured]
        return profile(found.graph, operands, found.donated, runs, len(found.captured))

    # ---------------------------------------------------------------------------------------------------- parts

    def _separate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """(static arguments, positional ones with None in place of those, keyword ones without those)."""
        if not self.static_argnums and not self.static_argnames:
            return (), args, kwargs
        by_position = tuple((i % len(args), args[i]) for i in self.static_argnums if -len(args) <= i < len(args))
        places = {i for i, _ in by_position}
        by_name = tuple((k, kwargs[k]) for k in sorted(kwargs) if k in self.static_argnames)
        dynamic = tuple(None if i in places else a for i, a in enumerate(args))
        return (by_position, by_name), dynamic, {k: v for k, v in kwargs.items() if k not in self.static_argnames}

    def _trace(self, leaves: list[Any], values: list[Value | None], treedef: tree.TreeDef, statics: Any,
               dynamic: tuple[Any, ...]) -> _Trace:
        holes: dict[int, Any] = {}
        structure: list[tree.TreeDef] = []

        def flat(*tensors: Value) -> list[Value]:
            rest = iter(tensors)
            inner = [leaf if v is None else next(rest) for leaf, v in zip(leaves, values, strict=True)]
            args, kwargs = tree.unflatten(treedef, inner)
            args = list(args)
            if statics:
                for i, value in statics[0]:
                    args[i] = value
                kwargs = {**kwargs, **dict(statics[1])}
            out_leaves, out_def = tree.flatten(self.function(*args, **kwargs))
            structure.append(out_def)
            results = []
            for i, leaf in enumerate(out_leaves):
                if isinstance(leaf, (Value, *_ARRAYS)):
                    results.append(as_value(leaf, "jit"))
                else:
                    holes[i] = leaf
            return results

        traced = trace(flat, [v._type for v in values if v is not None])
        if any(v._frame is not None for v in traced.captured):
            raise TraceError("jit", "function", "captured a traced tensor of another trace", "", "pass it as an argument")
        return _Trace(look_up_last(traced.graph), traced.captured, structure[-1], holes, self._donated(values, dynamic))

    def _donated(self, values: list[Value | None], dynamic: tuple[Any, ...]) -> tuple[int, ...]:
        """Positions, among the tensor inputs, of the leaves of donated arguments."""
        found: list[int] = []
        leaf = position = 0
        for number, argument in enumerate(dynamic):
            for _ in range(tree.flatten(argument)[1].num_leaves):
                if values[leaf] is not None:
                    if number in self.donate:
                        found.append(position)
                    position += 1
                leaf += 1
        return tuple(found)


def _signature(leaves: list[Any]) -> tuple[list[Value | None], tuple[Any, ...]]:
    """For each leaf its value, or None when it is static; and the guard."""
    values: list[Value | None] = []
    key: list[Any] = []
    for leaf in leaves:
        if isinstance(leaf, Value):
            values.append(leaf)
            key.append(leaf._type)
        elif isinstance(leaf, _ARRAYS):
            value = as_value(leaf, "jit")
            values.append(value)
            key.append(value._type)
        else:
            values.append(None)
            key.append(("static", _told_apart(leaf)))
    return values, tuple(key)


def _told_apart(static: Any) -> Any:
    """`static` as a key: 1, 1.0 and True are equal in Python, and so are 0.0 and -0.0, but they trace to different programs."""
    if isinstance(static, tuple):
        return (type(static), *[_told_apart(x) for x in static])
    return (type(static), static.hex() if isinstance(static, float) else static)


def _unhashable(function: Callable[..., Any], leaves: list[Any], statics: Any) -> ArgumentError:
    for leaf in (*leaves, *[v for part in statics for _, v in part]):
        try:
            hash(leaf)
        except TypeError:
            return ArgumentError("jit", getattr(function, "__name__", "function"),
                                 "static arguments and leaves that are not tensors must be hashable",
                                 f"{type(leaf).__name__}: {leaf!r}",
                                 "a tuple instead of a list, a frozen dataclass instead of an object")
    return ArgumentError("jit", "arguments", "must be trees of tensors and hashable values", repr(leaves))


def jit(function: Callable[..., Any] | None = None, *, static_argnums: int | Sequence[int] = (),
        static_argnames: str | Sequence[str] = (), donate: int | Sequence[int] = (), tune: bool | float = False) -> Any:
    """Compile `function`, a function of trees of tensors.

    Args:
        static_argnums, static_argnames: arguments whose values are part of the program (sizes, flags); they must be hashable.
        donate: positional arguments whose buffers the call may take over for its results; they cannot be used afterwards.
        tune: seconds to spend, at the first call of each signature, on measuring kernels that were not measured before; True is
            60. What wins is kept for every later compilation on this machine. Results do not depend on it.

    Leaves that are not tensors, arrays or numbers are static by themselves. A tensor that the function closes over is read
    when it is traced. What depends on such tensors alone is made once and kept, weights in the order in which products read
    them, too: so close over the weights of a model that is only used, ``ms.jit(lambda x: model(x))``. Python control flow on
    traced values raises `TraceError`; see `ms.where`, `ms.cond`, `ms.scan`.
    Use as ``ms.jit(f)``, ``@ms.jit`` or ``@ms.jit(donate=0)``.
    """
    if function is None:
        return functools.partial(jit, static_argnums=static_argnums, static_argnames=static_argnames, donate=donate, tune=tune)
    if not callable(function):
        raise ArgumentError("jit", "function", "must be callable", repr(function), "ms.jit(lambda x: x * 2)")
    names = (static_argnames,) if isinstance(static_argnames, str) else tuple(static_argnames)
    numbers = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)
    donated = (donate,) if isinstance(donate, int) else tuple(donate)
    return Jitted(function, *_both_ways(function, numbers, names), donated, _seconds(tune))


def _seconds(tune: bool | float) -> float:
    """The time for tuning."""
    if isinstance(tune, bool) or (isinstance(tune, (int, float)) and 0 <= tune < float("inf")):
        return TUNE_S if tune is True else float(tune)
    raise ArgumentError("jit", "tune", "must be True, False, or seconds ≥ 0", repr(tune), "ms.jit(f, tune=30)")


def _both_ways(function: Callable[..., Any], numbers: tuple[int, ...],
               names: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """A static argument is static whether it is passed by position or by name."""
    try:
        parameters = [p.name for p in inspect.signature(function).parameters.values()
                      if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    except (TypeError, ValueError):
        return numbers, names
    for name in names:
        if name not in inspect.signature(function).parameters:
            raise ArgumentError("jit", "static_argnames", f"must name parameters of the function: {', '.join(parameters)}",
                                repr(name))
    numbers = tuple(dict.fromkeys([*numbers, *[parameters.index(n) for n in names if n in parameters]]))
    names = tuple(dict.fromkeys([*names, *[parameters[i] for i in numbers if -len(parameters) <= i < len(parameters)]]))
    return numbers, names


eager_kernels.install()
