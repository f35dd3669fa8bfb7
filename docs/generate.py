"""Write the parts of the documentation that follow from the code: the tables of environment.md, ops.md and numerics.md.

    python -m docs.generate            # from the root of the repository, with the tools for development

A table stands between two comments; the text around it is written by hand. A test fails when a table is out of date.
"""

from __future__ import annotations

from pathlib import Path

import mainspring as ms
from mainspring.base import flags
from mainspring.ir.op import OPS, Expand, NoGradient, Op, Opaque
from tests.unit.compile.test_vectormath import PAIRS, TABLE

FOLDER = Path(__file__).resolve().parent
BEGIN, END = "<!-- generated: python -m docs.generate -->", "<!-- end -->"


def ops_table() -> str:
    """Every op of the registry: what it means, how it is compiled, what its gradient is."""
    rows = [f"| `{name}` | {_meaning(op)} | {_space(op)} | {_gradient(op)} |" for name, op in sorted(OPS.items())]
    return "\n".join(["| op | meaning | compiled as | gradient |", "|---|---|---|---|", *rows]) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _meaning(op: Op) -> str:
    public = getattr(ms, op.name, None)
    text = op.doc or (public.__doc__ if callable(public) else None) or op.name.replace("_", " ")
    return _cell(text.strip().split("\n\n")[0])


def _space(op: Op) -> str:
    if isinstance(op.space, Opaque):
        return f"template: {_cell(op.space.reason)}"
    return "other ops" if isinstance(op.space, Expand) else "iteration space"


def _gradient(op: Op) -> str:
    if not isinstance(op.vjp, NoGradient):
        return "rule"
    return f"{'zero' if op.vjp.zero else 'error'}: {_cell(op.vjp.reason)}"


def ulp_table() -> str:
    """The greatest distances from the truth that the tests allow."""
    rows = [f"| `{name}` | {single} | {double} |" for name, (single, double, *_) in {**TABLE, **PAIRS}.items()]
    return "\n".join(["| function | float32, ulp | float64, ulp |", "|---|---|---|", *rows]) + "\n"


TABLES = {"environment.md": flags.document, "ops.md": ops_table, "numerics.md": ulp_table}


def page(name: str) -> str:
    """The text that docs/`name` should have: as it is, with its table made anew."""
    before, rest = (FOLDER / name).read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{TABLES[name]()}\n{END}{after}"


def main() -> None:
    for name in TABLES:
        (FOLDER / name).write_text(page(name), encoding="utf-8")


if __name__ == "__main__":
    main()
