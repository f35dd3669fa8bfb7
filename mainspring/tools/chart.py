"""Line charts as inline SVG: ticks, scales and thinned lines, ready for a template to draw.

With this you can turn series of (x, y) points into a `Chart`, whose parts are already in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 34
_MOST_POINTS = 400  # a line of more is thinned: one pixel shows no more
_TINY = 1e-290

Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, in pixels, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A named line: its points in pixels as SVG wants them, the last one of them, and the last value in words."""

    name: str
    points: str
    end: Point
    last: str


@dataclass(frozen=True)
class Chart:
    """Lines over common axes, in pixels of a `WIDTH` × `HEIGHT` picture."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def chart(title: str, series: dict[str, Sequence[Point]]) -> Chart:
    """The chart of `series` (name → points in rising x); each series must have at least one point."""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    x_low, x_high = _padded(min(xs), max(xs))
    y_steps = ticks(*_padded(min(ys), max(ys)), 5)
    y_low, y_high = min(y_steps[0], min(ys)), max(y_steps[-1], max(ys))

    def place(point: Point) -> Point:
        across = (point[0] - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        up = (point[1] - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return round(LEFT + across, 1), round(HEIGHT - BOTTOM - up, 1)

    return Chart(
        title,
        tuple(_line(name, [place(p) for p in thinned(points)], points[-1][1]) for name, points in series.items()),
        tuple(Tick(place((x, y_low))[0], short(x)) for x in ticks(x_low, x_high, 6) if x_low <= x <= x_high),
        tuple(Tick(place((x_low, y))[1], short(y)) for y in y_steps),
    )


def _line(name: str, placed: list[Point], last: float) -> Line:
    return Line(name, " ".join(f"{x},{y}" for x, y in placed), placed[-1], short(last))


def _padded(low: float, high: float) -> tuple[float, float]:
    """The range, widened when it is empty or too small to divide."""
    if high - low > _TINY:
        return low, high
    margin = abs(low) / 2 if abs(low) > _TINY else 1.0
    return low - margin, high + margin


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that cover `low`..`high` in about `about` steps."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1)]


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most about `_MOST_POINTS` of the points: the lowest and the highest of each bucket, in order, and both ends."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    size = math.ceil(2 * len(points) / _MOST_POINTS)
    kept = {0, len(points) - 1}
    for start in range(0, len(points), size):
        bucket = range(start, min(start + size, len(points)))
        kept |= {min(bucket, key=lambda i: points[i][1]), max(bucket, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]


def short(value: float) -> str:
    """A number in few characters: 1.873, 12,000, 0.0003."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1000:
        return f"{value:.4g}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"
