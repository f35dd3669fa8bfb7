"""What holds of the repository as a whole: documents that are current, an import that stays light, no traces of a machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs import generate
from mainspring.base import flags

ROOT = Path(__file__).resolve().parents[2]
IGNORED = {".git", ".venv", "__pycache__", "build", "dist", "runs"}
TEXT = {".py", ".md", ".toml", ".yml", ".yaml", ".cfg", ".txt", ".j2", ".html", ""}

OPTIONAL = {"typer", "rich", "safetensors", "scipy", "sklearn", "jinja2", "mpi4py", "numba", "onnx", "torch", "jax", "pytest",
            "hypothesis"}
LATER = {"llvmlite", "mainspring.compile", "mainspring.tools", "mainspring.recipes", "mainspring.train", "mainspring.data"}


def files() -> list[Path]:
    """Every text file of the repository."""

    def ours(path: Path) -> bool:
        parts = path.relative_to(ROOT).parts
        return not any(part in IGNORED or part.endswith(("_cache", ".egg-info", ".hypothesis")) for part in parts)

    return [p for p in ROOT.rglob("*") if p.suffix in TEXT and p.is_file() and ours(p)]


def loaded_by(statement: str) -> set[str]:
    """The modules that an interpreter has loaded after `statement`."""
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_import_loads_no_optional_part_and_no_compiler() -> None:
    modules = loaded_by("import mainspring")
    roots = {name.partition(".")[0] for name in modules}
    assert "mainspring" in roots
    assert not roots & OPTIONAL
    assert not modules & LATER


def test_compiling_loads_no_optional_part() -> None:
    modules = loaded_by("import mainspring as ms; ms.jit(lambda x: x + 1)(ms.ones(3)); ms.nn; ms.optim; ms.data; ms.train")
    assert "llvmlite" in modules
    assert not {name.partition(".")[0] for name in modules} & OPTIONAL


@pytest.mark.parametrize("name", generate.TABLES)
def test_generated_tables_are_current(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert text == generate.page(name), f"docs/{name} is out of date: python -m docs.generate"


def test_documents_name_only_variables_that_exist() -> None:
    known = {flag.variable for flag in flags.FLAGS.values()}
    for path in files():
        if path.suffix in (".md", ".py") and path.parts[len(ROOT.parts)] != "tests":
            named = set(re.findall(r"\bMS_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8")))
            assert named <= known, (path.name, named - known)


def test_links_between_documents_lead_somewhere() -> None:
    for path in files():
        if path.suffix == ".md":
            for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
                assert "://" in target or (path.parent / target).exists(), (path.name, target)


def test_paths_that_the_guide_names_exist() -> None:
    for page in [ROOT / "docs" / "guide.md", *(ROOT / "docs" / "decisions").glob("*.md")]:
        for name in re.findall(r"`((?:\w+/)+\w+\.\w+|(?:\w+/){2,})`", page.read_text(encoding="utf-8")):
            assert (ROOT / name).exists() or (ROOT / "mainspring" / name).exists(), (page.name, name)


def test_every_package_says_what_it_is_for() -> None:
    for path in (ROOT / "mainspring").rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path.parent.name


def test_no_traces_of_a_machine() -> None:
    """No absolute path of somebody's machine and no package registry: it must work for whoever clones it."""
    places = re.compile(r"(?<![\w.:/])/(?:home|root|Users|work|tmp|opt|mnt)/\w|\b(?:pypi|pythonhosted|anaconda)\.\w")
    for path in files():
        if path.resolve() != Path(__file__).resolve():
            found = places.search(path.read_text(encoding="utf-8"))
            assert not found, (path.name, found)
