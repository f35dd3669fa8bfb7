"""`mainspring bench`: runs the workloads of `benchmarks/`, which lie beside the package in the repository, not in it.

The benchmarks hold the peers' code, too; an installed package does without them, and the command then says where they are.
"""

from __future__ import annotations

import importlib
import platform
import re
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mainspring.base.errors import ArgumentError, DependencyError
from mainspring.tools import peak
from mainspring.tools.report import environment

_REPOSITORY = Path(__file__).resolve().parents[2]
_PACKAGES = ("torch", "jax", "onnxruntime", "tinygrad")


def benchmarks() -> Any:
    """The package `benchmarks` of the repository that holds this package, or of the current folder."""
    for place in (_REPOSITORY, Path.cwd()):
        if (place / "benchmarks" / "harness.py").is_file():
            if str(place) not in sys.path:
                sys.path.insert(0, str(place))
            return importlib.import_module("benchmarks")
    raise DependencyError("bench", "benchmarks", "they are in the repository, not in the installed package",
                          f"no benchmarks/harness.py in {_REPOSITORY} or {Path.cwd()}",
                          "cd mainspring; pip install -e '.[bench]'; mainspring bench gemm")


def families(names: Sequence[str]) -> list[Any]:
    """The families called `names`, all of them for none."""
    package = benchmarks()
    for name in names:
        if name not in package.FAMILIES:
            known = ", ".join(package.FAMILIES)
            raise ArgumentError("bench", "family", f"must be one of {known}", name, "mainspring bench gemm")
    harness = importlib.import_module("benchmarks.harness")
    return [harness.load(name) for name in names or package.FAMILIES]


def carry_out(names: Sequence[str], out: Path | None, measure: bool, **options: Any) -> None:
    """Run families and print their tables as they come; keep everything in `out`, if it is given."""
    chosen = families(names)
    harness, results = (importlib.import_module(f"benchmarks.{name}") for name in ("harness", "results"))
    how = harness.Options(**options)
    most = peak.measure(how.threads) if measure else None
    machine, date = environment(), time.strftime("%Y-%m-%d")
    data: dict[str, Any] = {"date": date, "machine": machine, "versions": _versions(), "threads": how.threads,
                            "peak": most.as_json() if most else None, "families": {}}
    tables = []
    for family in chosen:
        records = [results.record(family, outcome, most) for outcome in _watched(family, harness.run(family, how))]
        tables.append(results.table(family, records))
        print("\n" + tables[-1], flush=True)
        data["families"][family.name] = {"title": family.title, "cases": records}
        if out is not None:  # after each family, so that a run that is stopped has lost little
            text = results.document(machine, data["versions"], how, most, date, tables)
            paths = results.save(out, f"{date}-{_word(machine['processor'])}", text, data)
    if out is not None:
        print("wrote " + ", ".join(str(path) for path in paths))
        if len(paths) == 2:
            print("for a picture: pip install matplotlib (or plotly)")


def _watched(family: Any, outcomes: Any) -> Any:
    """The outcomes, each told on standard error as it comes."""
    for outcome in outcomes:
        missing = f"; without {', '.join(outcome.left_out)}" if outcome.left_out else ""
        print(f"{family.name} {outcome.case.name}: {', '.join(outcome.timings)}{missing}", file=sys.stderr, flush=True)
        yield outcome


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("mainspring", "numpy", "llvmlite", *_PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _word(text: str) -> str:
    """A name that may be part of a file's."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
