"""What every test needs: a fixed hypothesis profile, and a cache folder of its own."""

from __future__ import annotations

import os
import shutil
import tempfile

import hypothesis
import pytest

hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, database=None, print_blob=True)
hypothesis.settings.load_profile("fixed")

# Made where the session starts; xdist's workers inherit the variable and share the folder.
_own_cache = None if "MS_CACHE" in os.environ else tempfile.mkdtemp(prefix="mainspring-test-cache-")
if _own_cache is not None:
    os.environ["MS_CACHE"] = _own_cache


def pytest_unconfigure(config: pytest.Config) -> None:
    if _own_cache is not None:
        shutil.rmtree(_own_cache, ignore_errors=True)
