"""The first call of a training step: with empty caches, and in a new process that finds what the first one kept on disk."""

from __future__ import annotations

from benchmarks import cnn_step, gpt_step
from benchmarks.harness import Builder, Case, Family
from benchmarks.models import cnn, gpt


def _by_kind(name: str) -> Builder:
    """The peer `name` of the family that a case belongs to."""
    return lambda case: (gpt_step if "gpt" in case.sizes else cnn_step).FAMILY.peers[name](case)


FAMILY = Family(
    "compile_time",
    "first call of a training step",
    (
        Case(f"GPT, {gpt.Size().name}", {"gpt": gpt.Size()}),
        Case(f"GPT, {gpt_step.RECIPE.name}", {"gpt": gpt_step.RECIPE}, extra=True),
        Case(f"CNN, {cnn.Size().name}", {"cnn": cnn.Size()}, extra=True),
    ),
    {name: _by_kind(name) for name in ("mainspring", "torch.compile", "jax")},
    tolerance=1e-3,
    cold=True,
)
