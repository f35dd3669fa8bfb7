"""The report of a run: one HTML file with curves, evaluations, a sample, config and environment, and nothing to load.

With this you can look at a run folder anywhere: `write_report("runs/a")` makes ``runs/a/report.html`` from

    metrics.jsonl      needed
    config.json        of the run, if it is there
    sample.txt         what the model writes, if it is there
    environment.json   of the machine that trained; without it, this machine's
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import os
import platform
from pathlib import Path
from typing import Any

from mainspring._version import __version__
from mainspring.base import flags
from mainspring.base.errors import DataError, DependencyError
from mainspring.tools import chart
from mainspring.train.files import replace_text
from mainspring.train.metrics import read_metrics

METRICS, CONFIG, SAMPLE, ENVIRONMENT, REPORT = "metrics.jsonl", "config.json", "sample.txt", "environment.json", "report.html"
_VALIDATION = ("validation_", "validation/", "val_", "test_")
_TRAIN = ("train_", "train/")
_EXAMPLE = "write_report('runs/a')"


def write_report(run: str | os.PathLike[str]) -> Path:
    """Make the report of the run folder `run` and return its path.

    Raises:
        DataError: the metrics are missing, empty or damaged, a JSON file is damaged, or the report cannot be written.
        DependencyError: jinja2 is not installed.
    """
    run = Path(run)
    lines = read_metrics(run / METRICS)
    if not lines:
        raise DataError("write_report", "run", f"{METRICS} must hold at least one line", str(run), _EXAMPLE)
    text = render(run.resolve().name, lines, _json(run / CONFIG), _text(run / SAMPLE), _json(run / ENVIRONMENT))
    try:
        replace_text(run / REPORT, text)
    except OSError as error:
        got = f"{run / REPORT}: {error.strerror or error}"
        raise DataError("write_report", "run", "the folder must be writable", got, _EXAMPLE) from error
    return run / REPORT


def render(
    name: str, lines: list[dict[str, Any]], config: dict[str, Any] | None, sample: str, machine: dict[str, Any] | None
) -> str:
    """The HTML text of a report; `lines` are metrics as `read_metrics` gives them."""
    try:
        import jinja2
    except ImportError as error:
        raise DependencyError("write_report", "", "jinja2 must be installed", "", "pip install jinja2") from error
    source = importlib.resources.files("mainspring.tools").joinpath("report.html.j2").read_text(encoding="utf-8")
    names, rows = evaluations(lines)
    config = config or {}
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source).render(
        title=f"{config.get('recipe', 'Run')}: {name}",
        subtitle=f"mainspring {__version__}, {lines[-1]['step']:,} steps",
        facts=_facts(lines),
        charts=charts(lines),
        evaluation_names=names,
        evaluations=rows,
        sample=sample,
        tables=[("Config", _rows(config)), ("Environment", _rows(machine or environment()))],
        width=chart.WIDTH,
        height=chart.HEIGHT,
        left=chart.LEFT,
        right=chart.RIGHT,
        bottom=chart.BOTTOM,
    )


def environment() -> dict[str, Any]:
    """Versions, processor and threads of this process."""
    return {
        "mainspring": __version__,
        "python": platform.python_version(),
        **{package: _version(package) for package in ("numpy", "llvmlite", "ml_dtypes", "safetensors")},
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": flags.threads(),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def charts(lines: list[dict[str, Any]]) -> list[chart.Chart]:
    """One chart for each quantity, training and validation together; `loss` comes first."""
    series: dict[str, dict[str, list[chart.Point]]] = {}
    for line in lines:
        for name, value in _numbers(line).items():
            series.setdefault(_quantity(name), {}).setdefault(name, []).append((line["step"], value))
    ordered = sorted(series, key=lambda quantity: (quantity != "loss", quantity))
    return [chart.chart(_words(q), {_words(name): points for name, points in series[q].items()}) for q in ordered]


def evaluations(lines: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows of the lines that hold a validation value; at most the last 40."""
    found = [line for line in lines if any(name.startswith(_VALIDATION) for name in line)]
    names = list(dict.fromkeys(name for line in found for name in line))
    return [_words(name) for name in names], [[_cell(line.get(name)) for name in names] for line in found[-40:]]


def _facts(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The last value of each quantity, and the best validation loss."""
    last = {name: value for line in lines for name, value in _numbers(line).items()}
    losses = [value for line in lines for name, value in _numbers(line).items() if _is_validation_loss(name)]
    facts = [("steps", f"{lines[-1]['step']:,}"), *[(_words(name), chart.short(value)) for name, value in last.items()]]
    return facts + ([("best validation loss", chart.short(min(losses)))] if losses else [])


def _is_validation_loss(name: str) -> bool:
    return name.startswith(_VALIDATION) and _quantity(name) == "loss"


def _numbers(line: dict[str, Any]) -> dict[str, float]:
    """The values of a line that can be drawn."""
    return {
        name: value
        for name, value in line.items()
        if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    }


def _quantity(name: str) -> str:
    for prefix in (*_VALIDATION, *_TRAIN):
        name = name.removeprefix(prefix)
    return name


def _words(name: str) -> str:
    return name.replace("_", " ").replace("/", " ")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, (str, bool)) else f"{value:,}" if isinstance(value, int) else chart.short(value)


def _rows(mapping: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in mapping.items():
        if isinstance(value, dict):
            rows += _rows(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", str(value)))
    return rows


def _json(path: Path) -> dict[str, Any] | None:
    text = _text(path)
    if not text:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise DataError("write_report", "run", f"{path.name} must be JSON", f"{path}: {error}", _EXAMPLE) from error
    if not isinstance(found, dict):
        got = f"{path}: {type(found).__name__}"
        raise DataError("write_report", "run", f"{path.name} must hold one JSON object", got, _EXAMPLE)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        got = f"{path}: {error.strerror or error}"
        raise DataError("write_report", "run", "its files must be readable", got, _EXAMPLE) from error
