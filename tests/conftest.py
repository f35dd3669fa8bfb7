"""What every test needs: a fixed hypothesis profile, a small team of threads, and a cache folder of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, database=None, print_blob=True)
hypothesis.settings.load_profile("fixed")

# Many workers run side by side: two threads each are enough to meet at barriers. Tests of threads set their own number.
os.environ.setdefault("MS_THREADS", "2")

# Made where the session starts; xdist's workers inherit the variable and share the folder.
_own_cache = None if "MS_CACHE" in os.environ else tempfile.mkdtemp(prefix="mainspring-test-cache-")
if _own_cache is not None:
    os.environ["MS_CACHE"] = _own_cache


def pytest_unconfigure(config: pytest.Config) -> None:
    if _own_cache is not None:
        shutil.rmtree(_own_cache, ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/ instead of comparing with it")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """``golden(name, text)`` compares `text` with the file tests/golden/`name`."""

    def compare(name: str, text: str) -> None:
        path = Path(__file__).parent / "golden" / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path.name} does not exist; write it with --update-golden"
        assert text == path.read_text(encoding="utf-8"), f"{name} differs; see what changed, then --update-golden"

    return compare
