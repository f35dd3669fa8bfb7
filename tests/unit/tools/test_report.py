"""The report of a run: complete, self-contained, escaped; charts whose points stay in the picture."""

from __future__ import annotations

import html.parser
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.base.errors import DataError
from mainspring.tools.chart import HEIGHT, WIDTH, chart, short, thinned, ticks
from mainspring.tools.report import environment, evaluations, write_report
from mainspring.train.metrics import MetricsWriter

NUMBERS = st.floats(-1e299, 1e299, allow_nan=False)


class Balanced(html.parser.HTMLParser):
    """Fails when a tag is not closed where it should be, or something is loaded from elsewhere."""

    VOID = frozenset({"meta", "line", "circle"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words = ""

    def handle_starttag(self, tag, attributes) -> None:
        assert not {"src", "href"} & {name for name, _ in attributes}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes) -> None:
        assert tag in self.VOID

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.words += data


def parse(text: str) -> str:
    parser = Balanced()
    parser.feed(text)
    assert parser.open == [] and "://" not in text
    return parser.words


def write_run(folder, steps: int = 30) -> None:
    with MetricsWriter(folder / "metrics.jsonl") as metrics:
        for step in range(1, steps + 1):
            metrics.write(step, loss=4 / step, learning_rate=1e-3)
            if step % 10 == 0:
                metrics.write(step, validation_loss=5 / step, note="kept")


def test_a_full_run(tmp_path) -> None:
    write_run(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "shakespeare", "model": {"width": 128}}))
    (tmp_path / "sample.txt").write_text("KING <b>&amp;</b> \"lord\"")
    (tmp_path / "environment.json").write_text(json.dumps({"processor": "a fast one"}))
    words = parse(write_report(tmp_path).read_text())
    for expected in ("shakespeare", "model.width", "128", 'KING <b>&amp;</b> "lord"', "a fast one", "best validation loss"):
        assert expected in words


def test_the_metrics_alone_are_enough_and_a_second_report_replaces_the_first(tmp_path) -> None:
    write_run(tmp_path, 1)
    first = write_report(tmp_path).read_text()
    words = parse(first)
    assert environment()["processor"] in words and "Sample" not in words
    assert write_report(tmp_path).read_text() == first
    assert len(re.findall("<svg", first)) == 2


def test_numbers_that_cannot_be_drawn_are_left_out(tmp_path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": null, "big": 1e308, "flag": true}\n')
    assert "No numbers were recorded" in parse(write_report(tmp_path).read_text())


def test_evaluations_are_the_lines_with_a_validation_value() -> None:
    lines = [{"step": 1, "loss": 2.0}, {"step": 1, "validation_loss": 3.0}, {"step": 2, "validation_accuracy": 0.5}]
    assert evaluations(lines) == (["step", "validation loss", "validation accuracy"], [["1", "3", ""], ["2", "", "0.5"]])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("metrics.jsonl", None, "No such file"),
        ("metrics.jsonl", "", "at least one line"),
        ("config.json", "{", "config.json must be JSON"),
        ("environment.json", "[]", "one JSON object"),
    ],
)
def test_bad_runs_are_our_error(tmp_path, name: str, content: str | None, says: str) -> None:
    write_run(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=says):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@given(st.lists(NUMBERS, min_size=1, max_size=60))
def test_charts_stay_in_the_picture(values: list[float]) -> None:
    drawn = chart("loss", {"loss": list(enumerate(values, start=1))})
    points = [tuple(map(float, point.split(","))) for point in drawn.lines[0].points.split()]
    assert len(points) == len(values)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert all(0 <= tick.at <= WIDTH for tick in drawn.x_ticks) and all(0 <= tick.at <= HEIGHT for tick in drawn.y_ticks)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_cover_the_range_in_few_round_steps(low: float, size: float) -> None:
    found = ticks(low, low + size, 5)
    step = (found[-1] - found[0]) / (len(found) - 1)
    assert found[0] <= low + step * 1e-6 and found[-1] >= low + size - step * 1e-6 and 3 <= len(found) <= 8


@given(st.lists(NUMBERS, min_size=1, max_size=3000))
def test_thinning_keeps_ends_and_extremes(values: list[float]) -> None:
    points = list(enumerate(values))
    kept = thinned(points)
    assert kept == sorted(kept) and len(kept) <= 402 and {points[0], points[-1]} <= set(kept)
    assert min(values) == min(y for _, y in kept) and max(values) == max(y for _, y in kept)


def test_short_numbers() -> None:
    for value, text in ((0, "0"), (1.87341, "1.873"), (-0.5, "-0.5"), (12000, "12,000"), (3e-4, "0.0003"), (1e12, "1e+12")):
        assert short(value) == text
