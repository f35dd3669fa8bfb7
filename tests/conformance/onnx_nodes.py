"""Run the node tests of ONNX by the operators' semantics, each operator written with functions of `mainspring`

ONNX is a peer, not a need of this repository: in an environment that has it (`pip install onnx`), run

    python tests/conformance/onnx_nodes.py                    # every case whose operators the tables have, eager
    python tests/conformance/onnx_nodes.py --jit reduce pool  # cases whose name holds one of the words, compiled

A case is a graph with inputs and the outputs that are right; "expanded" cases write one operator as a graph of others.
Cases with strings, sequences, complex numbers and floats below 16 bits are skipped and counted.
"""

from __future__ import annotations

import argparse
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np

import mainspring as ms
from mainspring.base.errors import TraceError

try:
    from onnx import helper, numpy_helper
    from onnx.backend.test.loader import load_model_tests
    from onnx_arrays import ARRAYS
    from onnx_common import Skip, need, tensor
    from onnx_layers import LAYERS
except ImportError:
    load_model_tests = None


OPERATORS = ARRAYS | LAYERS if load_model_tests else {}
COUNTS_OUTPUTS = {"Split", "MaxPool", "LayerNormalization", "Attention", "SoftmaxCrossEntropyLoss"}


def attributes_of(node: Any) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def run_graph(
    graph: Any, given: dict[str, Any], traced: Collection[str] = (), known: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Every value of the graph. Of what does not depend on the inputs `traced`, or on their shapes only, the `known` values."""
    values = {i.name: tensor(numpy_helper.to_array(i)) for i in graph.initializer} | given
    followed = set(traced)
    for node in graph.node:
        if known is not None and (node.op_type in ("Shape", "Size") or not followed.intersection(node.input)):
            values |= {name: known[name] for name in node.output if name}
            continue
        followed.update(node.output)
        need(node.op_type in OPERATORS, f"operator {node.op_type}")
        attributes = attributes_of(node)
        if node.op_type in COUNTS_OUTPUTS:
            attributes["outputs"] = len([o for o in node.output if o]) if node.op_type != "Split" else len(node.output)
        inputs = [values[i] if i else None for i in node.input]
        found = OPERATORS[node.op_type](*inputs, **attributes)
        found = found if isinstance(found, tuple | list) else (found,)
        values |= {name: v for name, v in zip(node.output, found, strict=False) if name}
    return values


def differs(got: Any, want: np.ndarray, rtol: float, atol: float) -> str | None:
    a, b = np.asarray(got), np.asarray(want)
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{a.dtype}{a.shape}, wanted {b.dtype}{b.shape}"
    if a.dtype.kind not in "biu":
        a, b = a.astype(np.float64), b.astype(np.float64)
    ok = np.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True) if a.dtype.kind == "f" else a == b
    if ok.all():
        return None
    at = tuple(int(i[0]) for i in np.nonzero(~ok)) if a.ndim else ()
    return f"{a[at]!r}, wanted {b[at]!r} at {at} of {a.shape} ({int((~ok).sum())} differ)"


def compiled_outputs(graph: Any, given: dict[str, Any], known: dict[str, Any]) -> list[Any]:
    """The outputs when all inputs are traced; or, where whole numbers give shapes, those of floats."""
    for kinds in (("float", "int", "uint", "bool"), ("float",)):
        traced = [n for n in given if given[n].dtype.kind in kinds]
        try:
            return ms.jit(
                lambda *xs: [
                    run_graph(graph, given | dict(zip(traced, xs, strict=True)), traced, known)[o.name]  # noqa: B023
                    for o in graph.output
                ]
            )(*[given[n] for n in traced])
        except TraceError:
            continue
    raise Skip("its shapes depend on numbers")


def check(case: Any, compiled: bool) -> list[str]:
    graph = case.model.graph
    inputs, wanted = case.data_sets[0]
    wanted = [tensor(w).numpy() for w in wanted]
    names = [i.name for i in graph.input][: len(inputs)]
    given = {n: tensor(x) for n, x in zip(names, inputs, strict=True)}
    values, outputs = run_graph(graph, given), [o.name for o in graph.output]
    if compiled:
        values = dict(zip(outputs, compiled_outputs(graph, given, values), strict=True))
    outs = [values[o] for o in outputs]
    low = any(np.asarray(w).dtype.itemsize == 2 for w in wanted)
    rtol, atol = (case.rtol, 1e-6) if not low else (1e-2, 1e-3)
    return [d for d in (differs(o, w, rtol, atol) for o, w in zip(outs, wanted, strict=False)) if d]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only cases whose name holds one of these")
    parser.add_argument("--jit", action="store_true", help="compiled")
    parser.add_argument("--trace", action="store_true", help="show where an error came from")
    options = parser.parse_args()
    if load_model_tests is None:
        print("ONNX is not installed: skipped")
        return 0
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    operators: set[str] = set()
    with np.errstate(all="ignore"):
        for case in load_model_tests(kind="node"):
            if case.model is None or (options.words and not any(w in case.name for w in options.words)):
                continue
            try:
                found = check(case, options.jit)
                operators |= {n.op_type for n in case.model.graph.node}
            except Skip as why:
                reasons[str(why)] += 1
                continue
            except Exception as error:
                found = [f"{type(error).__name__}: {str(error)[:300]}"]
                if options.trace:
                    traceback.print_exc()
            counts["failed" if found else "passed"] += 1
            if found:
                print(f"FAIL {case.name}", *found, sep="\n     ", flush=True)
    print(
        f"{len(operators)} operators, {sum(counts.values())} cases: {dict(counts)}; "
        f"skipped {sum(reasons.values())}: {dict(reasons)}"
    )
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
