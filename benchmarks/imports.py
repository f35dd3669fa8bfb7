"""How long a new interpreter takes to start and import each peer. Byte code is cached, as it is in an installed package."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

from benchmarks.harness import Builder, Case, Family, Workload


def _importing(module: str) -> Builder:
    def build(case: Case) -> Workload:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return Workload(_runner([sys.executable, "-c", f"import {module}"], environment))

    return build


def _runner(command: list[str], environment: dict[str, str]) -> Callable[[], int]:
    return lambda: subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL).returncode


FAMILY = Family(
    "imports",
    "a new interpreter that imports the package",
    (Case("import"),),
    {"mainspring": _importing("mainspring"), "torch eager": _importing("torch"), "jax": _importing("jax"),
     "onnx runtime": _importing("onnxruntime"), "tinygrad": _importing("tinygrad")},
    fresh=False,
)
