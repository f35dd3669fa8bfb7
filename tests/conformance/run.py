"""Run the data-apis array API test suite against `mainspring` and report passed, failed and known gaps.

The suite is not part of this repository. Get data-apis/array-api-tests from GitHub with its submodule (it was last run at
commit 55fcc60), install its needs (`pip install ndindex pytest-json-report`), and:

    python tests/conformance/run.py ../array-api-tests                      # the whole suite, 20 examples a test
    python tests/conformance/run.py ../array-api-tests -n 2 -k has_names    # further arguments go to pytest

The suite takes for granted that some complex dtype exists. It is run from a copy in which the two lines that do so are
mended, and with complex64 and complex128 in ARRAY_API_TESTS_SKIP_DTYPES. Tests that `gaps.toml` names are expected to fail.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MENDED = {
    "array_api_tests/dtype_helpers.py": (
        "in complex_dtypes], key=lambda x: x[1]\n", "in complex_dtypes], key=lambda x: x[1], default=(None, 0)\n"),
    "array_api_tests/test_signatures.py": ("cmplx_name = dh.dtype_to_name[dh.widest_complex_dtype]\n",
                                           'cmplx_name = "complex128"\n'),
}


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Mark every test that a known gap names, with its reason (this module is the plugin of its own pytest run)."""
    gaps = tomllib.loads((HERE / "gaps.toml").read_text())["gap"]
    for item in items:
        for gap in gaps:
            if re.search(gap["match"], item.nodeid):
                item.add_marker(pytest.mark.xfail(reason=gap["reason"]))
                break


def copied(suite: Path, to: Path) -> None:
    """A copy of the suite that runs without complex dtypes; the standard's text beside it is only linked."""
    for name in ("array_api_tests", "conftest.py", "reporting.py", "pytest.ini"):
        (shutil.copytree if (suite / name).is_dir() else shutil.copy)(suite / name, to / name)
    (to / "array-api").symlink_to((suite / "array-api").resolve())
    for name, (old, new) in MENDED.items():
        text = (to / name).read_text()
        (to / name).write_text(text.replace(old, new))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path, help="a checkout of data-apis/array-api-tests with its submodule array-api")
    parser.add_argument("--max-examples", type=int, default=20, help="examples a test")
    options, further = parser.parse_known_args()
    if not (options.suite / "array-api" / "src").exists():
        parser.error(f"{options.suite} must be a checkout of array-api-tests with its submodule array-api")
    with tempfile.TemporaryDirectory() as folder:
        copied(options.suite, Path(folder))
        paths = [str(ROOT), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "ARRAY_API_TESTS_MODULE": "mainspring",
                       "ARRAY_API_TESTS_SKIP_DTYPES": "complex64,complex128"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "run", "-p", "no:cacheprovider", "--disable-deadline",
                   "--derandomize",
                   "--max-examples", str(options.max_examples), "array_api_tests", *further]
        return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
