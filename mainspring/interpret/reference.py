"""Reference: a whole graph over NumPy arrays, node by node with each op's reference. The oracle of every compiled graph, and
how ops that hold graphs (call, cond, while_loop, scan) say what they mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from mainspring.interpret.eager import escaped, wrap
from mainspring.ir.graph import CONSTANT, INPUT, ITEM, Graph
from mainspring.types.shape import TensorType

Run = Callable[[Sequence[np.ndarray]], tuple[np.ndarray, ...]]

_prepared: WeakKeyDictionary[Graph, Run] = WeakKeyDictionary()


def run_reference(of: Graph, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The outputs of `of` on `arrays`, which have its input types."""
    return prepare(of)(arrays)


def prepare(of: Graph) -> Run:
    """``run_reference`` of one graph, walked once: for loops that run it often."""
    found = _prepared.get(of)
    if found is None:
        found = _prepared[of] = _make_run(of)
    return found


def _make_run(of: Graph) -> Run:
    slots = {n: i for i, n in enumerate(dict.fromkeys(of.inputs))}
    constants: list[tuple[int, np.ndarray]] = []
    steps: list[tuple[Any, tuple[int, ...], dict[str, Any], int, Any]] = []
    for n in of.nodes():
        if n in slots:
            continue
        if n.op is INPUT:
            raise escaped("run_reference")
        slot = slots[n] = len(slots)
        if n.op is CONSTANT:
            constants.append((slot, n.static["value"].value))
        else:
            reference = _item if n.op is ITEM else n.op.reference
            steps.append((reference, tuple(slots[i] for i in n.inputs), n.static, slot, n.type))
    inputs, outputs, size = tuple(slots[n] for n in of.inputs), tuple(slots[n] for n in of.outputs), len(slots)

    def run(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        values: list[Any] = [None] * size
        for slot, array in zip(inputs, arrays, strict=True):
            values[slot] = array
        for slot, array in constants:
            values[slot] = array
        for reference, read, static, slot, type_ in steps:
            values[slot] = _settle(reference(*[values[i] for i in read], **static), type_)
        return tuple([values[i] for i in outputs])

    return run


def _item(results: tuple[np.ndarray, ...], index: int) -> np.ndarray:
    return results[index]


def _settle(result: Any, type_: Any) -> Any:
    if isinstance(type_, TensorType):
        return wrap(result, type_)._data
    return tuple([wrap(r, t)._data for r, t in zip(result, type_, strict=True)])
