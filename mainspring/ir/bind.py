"""`bind`: the one door through which every op of every user function goes.

Data are positional, static parameters keyword. What happens is decided by the current interpreter, which is context:
eager (compute now), staged (append a node to the graph being traced), abstract (types only). A tape that is recording
sees each application afterwards. An interpreter that is itself written with `bind` can be traced.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from mainspring.base.errors import DonationError
from mainspring.base.treecode import Writer
from mainspring.ir.op import Op
from mainspring.types.dtype import DType
from mainspring.types.shape import Shape, TensorType


class Value:
    """What ops take and give: a type, and a concrete array or the node of a trace. `ms.Tensor` is its one subclass.

    A result of compiled code begins as memory and an address; its NumPy array is made when somebody asks for it. As long as
    nobody has asked, nobody else can see the memory, so it may be donated.

    `_held`: np.ndarray (concrete), Node (traced) or None; `_frame`: the trace the node belongs to, None when concrete;
    `_memory`: what keeps the memory of a compiled result alive; `_address`: of the first element, 0 when not known yet.
    """

    __slots__ = ("__weakref__", "_address", "_frame", "_held", "_memory", "_type")
    _address: int
    _frame: Any
    _held: Any
    _memory: Any
    _type: TensorType

    @property
    def _data(self) -> Any:
        """The array or node; DonationError when the buffer was handed over."""
        if self._held is None:
            self._held = self._as_array()
        return self._held

    def _as_array(self) -> Any:
        if self._memory is None:
            if self._frame is not None:
                return None  # abstract: a type without data
            raise DonationError("tensor", "x", "its buffer was handed over by `donate`", str(self._type),
                                "use the tensor that the call returned")
        base = self._memory.__array_interface__["data"][0]
        array: np.ndarray = np.ndarray(self._type.shape, self._type.dtype.numpy, self._memory, self._address - base)
        array.setflags(write=False)
        return array

    @property
    def shape(self) -> Shape:
        """Extent of each dim."""
        return self._type.shape

    @property
    def dtype(self) -> DType:
        """Element type."""
        return self._type.dtype

    @property
    def ndim(self) -> int:
        """Number of dims."""
        return len(self._type.shape)


class Interpreter(Protocol):
    """Gives a meaning to an application."""

    def apply(self, op: Op, args: tuple[Value, ...], static: dict[str, Any]) -> Any: ...


class Recorder(Protocol):
    """Sees applications as they happen: a tape, a range observer, a profiler."""

    def record(self, op: Op, args: tuple[Value, ...], static: dict[str, Any], result: Any) -> None: ...

    def wants(self, values: Iterable[Value]) -> bool:
        """Whether it follows any of `values`, so that they must not be taken for constants."""
        ...


class Policy(Protocol):
    """Changes what the interpreter gets; recorders see the operands that were given."""

    def prepare(self, op: Op, args: tuple[Value, ...], interpreter: Interpreter) -> tuple[Value, ...]: ...


class _Context(threading.local):
    def __init__(self) -> None:
        self.interpreters: list[Interpreter] = list(_defaults)
        self.recorders: list[Recorder] = []
        self.policy: Policy | None = None


_defaults: list[Interpreter] = []
_value_class: type[Value] = Value
context = _Context()


def set_default(interpreter: Interpreter) -> None:
    """Make `interpreter` the one at the bottom of every thread's stack."""
    _defaults[:] = [interpreter]
    context.interpreters[:1] = [interpreter]


def set_value_class(kind: type[Value]) -> None:
    """Make `kind` the class of every new value."""
    global _value_class
    _value_class = kind


def new_value(data: Any, type_: TensorType, frame: Any = None) -> Value:
    """A value holding `data`."""
    value = object.__new__(_value_class)
    value._held, value._type, value._frame, value._memory, value._address = data, type_, frame, None, 0
    return value


def memory_value(memory: np.ndarray, address: int, type_: TensorType) -> Value:
    """A concrete value whose elements lie at `address` within `memory`, which nobody else refers to there."""
    value = object.__new__(_value_class)
    value._held, value._type, value._frame, value._memory, value._address = None, type_, None, memory, address
    return value


def write_memory_value(name: str, type_: TensorType, memory: str, address: str, writer: Writer) -> None:
    """The line that sets `name` to what `memory_value` would give: calls of many small results spend their time there."""
    writer.lines.append(f"{name} = new({writer.constant(_value_class)}); {name}._held = {name}._frame = None; "
                        f"{name}._type = {writer.constant(type_)}; {name}._memory = {memory}; {name}._address = {address}")


def borrowed(array: np.ndarray, type_: TensorType) -> Value:
    """A value of a row-major `array` that somebody else owns, for the length of a call that only reads it."""
    value = new_value(array, type_)
    value._address = array.__array_interface__["data"][0]
    return value


def current() -> Interpreter:
    """The interpreter that gives meaning now."""
    return context.interpreters[-1]


@contextlib.contextmanager
def interpreting(interpreter: Interpreter) -> Iterator[None]:
    """Within the block, `interpreter` gives meaning; recorders from outside do not see inside."""
    context.interpreters.append(interpreter)
    try:
        yield
    finally:
        context.interpreters.pop()


@contextlib.contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Within the block, `recorder` sees every application."""
    context.recorders.append(recorder)
    try:
        yield
    finally:
        context.recorders.remove(recorder)


@contextlib.contextmanager
def not_recording() -> Iterator[None]:
    """Within the block, nothing is recorded: the application as a whole is, by whoever opened the block."""
    before, context.recorders = context.recorders, []
    try:
        yield
    finally:
        context.recorders = before


@contextlib.contextmanager
def following(policy: Policy | None) -> Iterator[None]:
    """Within the block, `policy` prepares operands; none does for None."""
    before, context.policy = context.policy, policy
    try:
        yield
    finally:
        context.policy = before


def bind(op: Op, *args: Value, **static: Any) -> Any:
    """Apply `op`: a value, or a tuple of values for an op of several results."""
    interpreter, policy = context.interpreters[-1], context.policy
    result = interpreter.apply(op, args if policy is None else policy.prepare(op, args, interpreter), static)
    if context.recorders:
        for recorder in tuple(context.recorders):
            recorder.record(op, args, static, result)
    return result


def concrete(value: Value) -> np.ndarray:
    """The array of a concrete value."""
    return value._data
