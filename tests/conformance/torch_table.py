"""What each op of PyTorch is called here: `TABLE`, and what is not compared.

`HABITS` names what PyTorch does and NumPy and the array API standard do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch_arrays import BINARY, CONTRACT, FREE_UNARY, INDEXING, MOVEMENT, OTHER, REDUCTIONS, UNARY
from torch_layers import NN

import mainspring as ms


def of_bools(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` of numbers, bools as float32."""
    return lambda x, *args, **kw: f(ms.astype(x, ms.float32) if x.dtype.kind == "bool" else x, *args, **kw)


TABLE: dict[str, Callable[..., Any]] = {name: of_bools(getattr(ms, name)) for name in UNARY}
for part in (FREE_UNARY, BINARY, REDUCTIONS, MOVEMENT, INDEXING, CONTRACT, NN, OTHER):
    TABLE.update(part)

# the shape of the result depends on data
EAGER_ONLY = ("masked_select", "argwhere", "nn.functional.one_hot")

HABITS = {  # (op, word of the sample): what PyTorch does and NumPy and the array API standard do not
    ("addmv", "int64"): "whole numbers times a float stay whole",
    ("addbmm", "int64"): "whole numbers times a float stay whole",
    ("baddbmm", "int64"): "whole numbers times a float stay whole",
    ("addr", "int64"): "whole numbers times a float stay whole",
    ("addmm", "int64"): "whole numbers times a float stay whole",
    ("nn.functional.avg_pool", "int64("): "means of integers are truncated",
    ("nn.functional.hardtanh", "int64"): "activations of integers",
    ("nn.functional.relu6", "int64"): "activations of integers",
    ("cat", "(0,)'"): "an empty 1-d tensor joins tensors of any dims",
    ("tensordot", "(1, 1, 1)"): "contracted dims of extent 1 broadcast",
    ("real", "bool"): "arithmetic and order of bools",
    ("sign", "bool"): "arithmetic and order of bools",
    ("square", "bool"): "arithmetic and order of bools",
    ("prod", "bool"): "arithmetic and order of bools",
    ("sort", "bool(8000"): "an unstable sort",
    ("argsort", "bool(8000"): "an unstable sort",
    ("topk", "int64"): "the order of equal elements",
    ("nn.functional.prelu", "float64(), float64(1,)"): "one slope makes a 0-d tensor 1-d",
    ("nn.functional.prelu", "float32(), float32(1,)"): "one slope makes a 0-d tensor 1-d",
    ("sgn", "float"): "a gradient without storage",
    ("nn.functional.pad:circular", "(-1, 1, -2, 1)"): "what is cut off does not wrap around",
}
