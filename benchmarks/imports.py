"""How long a new interpreter takes to start and import each peer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from benchmarks.harness import Builder, Case, Family, Workload, installed


def _importing(module: str) -> Builder:
    def build(case: Case) -> Workload:
        return Workload(_runner([sys.executable, "-c", f"import {module}"]))

    return build


def _runner(command: list[str]) -> Callable[[], int]:
    return lambda: subprocess.run(command, check=True, env=installed(), stdout=subprocess.DEVNULL).returncode


FAMILY = Family(
    "imports",
    "a new interpreter that imports the package",
    (Case("import"),),
    {"mainspring": _importing("mainspring"), "torch eager": _importing("torch"), "jax": _importing("jax"),
     "onnx runtime": _importing("onnxruntime"), "tinygrad": _importing("tinygrad")},
    fresh=False,
)
