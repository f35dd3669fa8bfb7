"""Models for ONNX Runtime, node by node: with this you can write a graph and get a function that runs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

OPSET = 20


class Builder:
    """A graph that grows: names of values in, names of values out."""

    def __init__(self) -> None:
        import onnx  # noqa: F401  so that its absence is seen first

        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def input(self, name: str, dtype: Any, shape: Sequence[Any]) -> str:
        """An input; a word in its shape is an extent that may vary."""
        from onnx import helper

        self.inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape))
        return name

    def constant(self, value: Any) -> str:
        """A weight."""
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, op: str, *inputs: str, outputs: int = 1, names: list[str] | None = None, **attributes: Any) -> Any:
        """What `op` gives: a name, or several."""
        from onnx import helper

        names = names or [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if len(names) == 1 else names

    def output(self, name: str, shape: Sequence[Any], dtype: Any = np.float32) -> None:
        from onnx import helper

        self.outputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape))

    def session(self, feed: dict[str, np.ndarray]) -> Callable[[], Any]:
        """A function that runs the graph on `feed` and gives its outputs."""
        run, names = self.runner(), [value.name for value in self.outputs]
        return lambda: run.run(names, feed)

    def runner(self) -> Any:
        """An inference session with as many threads as the other peers have."""
        import onnxruntime
        from onnx import helper

        graph = helper.make_graph(self.nodes, "model", self.inputs, self.outputs, self.constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
        options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
