"""`Precision`: in which dtypes a model keeps its weights and multiplies, said once beside the model and not in it.

    step = training_step(loss, optimizer, ms.Precision(compute=ms.bfloat16))
    scores = ms.jit(ms.Precision(compute=ms.bfloat16)(model))(tokens)

Only products change: the operands of every matrix product and convolution, gradients' included, are rounded to `compute` and
summed in float32, and the result stays float32. Everything between products (norms, softmax, losses, sums, the optimizer and
its state) is float32 as before. A tape follows the operands as they were, so gradients are float32 numbers that were never
rounded themselves (Micikevicius et al., Mixed Precision Training, 2018, without its loss scaling, which the exponents of
bfloat16 make unnecessary).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from mainspring.base import tree
from mainspring.base.errors import ArgumentError
from mainspring.ir.bind import Interpreter, Value, following
from mainspring.ir.op import Op
from mainspring.ops.common import CAST, cast_to
from mainspring.types.dtype import DType, as_dtype, bfloat16, float32

PRODUCTS = ("contract", "conv")  # the ops whose operands are rounded


@dataclass(frozen=True)
class Precision:
    """In which dtypes weights are kept and products computed; sums, and everything else, are float32.

    Args:
        compute: of the operands of products: float32, or bfloat16, which halves what they read and which some processors
            multiply faster.
        params: in which `cast` gives a model its weights: float32 for training (updates are smaller than bfloat16 can add),
            bfloat16 for a smaller model that is only used.

    Raises:
        ArgumentError: a dtype is neither float32 nor bfloat16.
    """

    compute: DType = float32
    params: DType = float32

    def __post_init__(self) -> None:
        for name in ("compute", "params"):
            dtype = as_dtype(getattr(self, name), "Precision")
            if dtype not in (float32, bfloat16):
                raise ArgumentError("Precision", name, "must be float32 or bfloat16", dtype.name,
                                    "ms.Precision(compute=ms.bfloat16)")
            object.__setattr__(self, name, dtype)

    def applied(self) -> AbstractContextManager[None]:
        """Within the block, products are computed so; what is traced there stays so."""
        return following(None if self.compute is float32 else self)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` of trees, computed so. Weights that were kept in `params` enter it as float32."""

        @functools.wraps(function, updated=())
        def computed(*args: Any, **kwargs: Any) -> Any:
            with self.applied():
                return function(*self._widened(args), **self._widened(kwargs))

        return computed

    def cast(self, model: Any) -> Any:
        """`model` with its float32 leaves in `params`."""
        return _converted(model, float32, self.params)

    def prepare(self, op: Op, args: tuple[Value, ...], interpreter: Interpreter) -> tuple[Value, ...]:
        """The operands that `interpreter` is to apply `op` to."""
        if op.name not in PRODUCTS or any(a.dtype is not float32 for a in args):
            return args
        return tuple([interpreter.apply(CAST, (a,), {"dtype": self.compute}) for a in args])

    def _widened(self, arguments: Any) -> Any:
        return _converted(arguments, self.params, float32)


def _converted(of: Any, source: DType, target: DType) -> Any:
    if source is target:
        return of
    return tree.map(lambda leaf: cast_to(leaf, target) if isinstance(leaf, Value) and leaf.dtype is source else leaf, of)
