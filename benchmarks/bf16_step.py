"""The step of `gpt_step` with products in bfloat16, beside PyTorch's autocast and our own float32."""

from __future__ import annotations

from benchmarks import gpt_step
from benchmarks.harness import Case, Family, Workload
from benchmarks.models import gpt


def _case(size: gpt.Size, extra: bool = False) -> Case:
    return Case(size.name, {"gpt": size}, size.step_operations(), dtype="bfloat16", extra=extra)


def mainspring(case: Case) -> Workload:
    import mainspring as ms

    return gpt_step.mainspring(case, ms.Precision(compute=ms.bfloat16))


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
