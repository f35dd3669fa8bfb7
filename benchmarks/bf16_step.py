"""The step of `gpt_step` in bfloat16 with float32 master weights, beside PyTorch's autocast and our own float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import gpt_step
from benchmarks.harness import Case, Family, Workload
from benchmarks.models import gpt


def _case(size: gpt.Size, extra: bool = False) -> Case:
    return Case(size.name, {"gpt": size}, size.step_operations(), dtype="bfloat16", extra=extra)


def mainspring(case: Case) -> Workload:
    import mainspring as ms
    from mainspring import nn, optim
    from mainspring.train import initial_state, training_step

    size = case.sizes["gpt"]

    def loss(model: Any, batch: Any, key: Any) -> Any:
        half = ms.tree.map(lambda leaf: ms.astype(leaf, ms.bfloat16), model)
        return nn.cross_entropy(ms.astype(half(batch["inputs"]), ms.float32), batch["targets"]), {}

    optimizer = optim.chain(optim.clip_by_global_norm(gpt_step.CLIP), optim.adamw(
        gpt_step.RATE, gpt_step.B1, gpt_step.B2, gpt_step.EPS, weight_decay=gpt_step.DECAY, mask=optim.matrices_only))
    step = ms.jit(training_step(loss, optimizer), donate=0)
    inputs, targets = (ms.asarray(x.astype(np.int32)) for x in gpt.tokens(size))
    state = [initial_state(gpt.mainspring(size), optimizer, 0)]

    def run() -> float:
        state[0], metrics = step(state[0], {"inputs": inputs, "targets": targets})
        return float(metrics["loss"])

    return Workload(run, gpt_step.CHECKS)


def torch_bf16(case: Case) -> Workload:
    import torch

    plain = gpt_step.torch(case, compiled=False)
    return Workload(torch.autocast("cpu", torch.bfloat16)(plain.run), plain.checks)


FAMILY = Family(
    "bf16_step",
    "training step of a GPT, AdamW, bfloat16 products",
    (
        _case(gpt.Size()),
        _case(gpt_step.RECIPE),
        _case(gpt.Size(layers=2, width=512, heads=8, context=128, batch=4), extra=True),
    ),
    {"mainspring": mainspring, "mainspring f32": gpt_step.mainspring, "torch bf16": torch_bf16},
    tolerance=2e-2,
)
