"""Causal attention: ours as one kernel, ours composed of products and a softmax, and PyTorch's scaled_dot_product_attention.

    python benchmarks/attention.py [--threads 2] [--rounds 9]

ATTENTION_SHAPE=batch,heads,length,width (8,4,128,64 by default); ATTENTION_GRADIENT=1 takes the gradients of q, k and v, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from harness import main

BATCH, HEADS, LENGTH, WIDTH = map(int, os.environ.get("ATTENTION_SHAPE", "8,4,128,64").split(","))
GRADIENT = os.environ.get("ATTENTION_GRADIENT", "0") == "1"


def arrays() -> list[np.ndarray]:
    """q, k, v and the cotangent, BLHD."""
    generator = np.random.default_rng(0)
    return [generator.standard_normal((BATCH, LENGTH, HEADS, WIDTH)).astype(np.float32) for _ in range(4)]


def _ours(attention: Callable[..., Any]) -> Callable[[], object]:
    import mainspring as ms

    def both(q: Any, k: Any, v: Any, ct: Any) -> Any:
        out, pullback = ms.vjp(attention, q, k, v)
        return out, pullback(ct)

    compiled = ms.jit(both if GRADIENT else lambda q, k, v, ct: attention(q, k, v))
    values = [ms.asarray(x) for x in arrays()]
    return lambda: compiled(*values)


def fused(threads: int) -> Callable[[], object]:
    import mainspring as ms

    return _ours(lambda q, k, v: ms.attention(q, k, v, causal=True))


def composed(threads: int) -> Callable[[], object]:
    import mainspring as ms

    everywhere = ms.ones((1, 1), dtype=ms.bool)  # a mask, and be it of ones, is for the composition
    return _ours(lambda q, k, v: ms.attention(q, k, v, causal=True, mask=everywhere))


def pytorch(threads: int) -> Callable[[], object]:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    torch.set_num_threads(threads)
    *operands, ct = [torch.from_numpy(x).transpose(1, 2) for x in arrays()]
    for x in operands:
        x.requires_grad_(GRADIENT)

    def run() -> object:
        out = scaled_dot_product_attention(*operands, is_causal=True)
        return torch.autograd.grad(out, operands, ct) if GRADIENT else out

    return run


if __name__ == "__main__":
    main(__doc__, {"fused": fused, "composed": composed, "torch": pytorch}, runs=10)
