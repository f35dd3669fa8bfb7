"""What was measured, in numbers (JSON), tables (Markdown) and a picture.

A ratio is the median over the rounds of a peer's time divided by ours in the same round: above 1, ours is faster.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Family, Options, Outcome, Timing
from mainspring.tools.peak import Peak


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Median, lowest and highest of their time by ours, pair by pair."""
    pairs = [b / a for a, b in zip(ours, theirs, strict=True)]
    return statistics.median(pairs), min(pairs), max(pairs)


def record(family: Family, outcome: Outcome, peak: Peak | None) -> dict[str, Any]:
    """One case in plain values: for each peer seconds, ratio to ours, share of the peak, first call, memory."""
    case, ours = outcome.case, next(iter(outcome.timings.values()))
    peers = {name: _peer(family, timing, ours, peak, outcome) for name, timing in outcome.timings.items()}
    others = [found["ratio"] for name, found in list(peers.items())[1:] if not name.startswith("mainspring")]
    return {"case": case.name, "operations": case.operations, "moved": case.moved, "dtype": case.dtype, "peers": peers,
            "best": min(others, default=None), "left_out": outcome.left_out}


def _peer(family: Family, timing: Timing, ours: Timing, peak: Peak | None, outcome: Outcome) -> dict[str, Any]:
    case, median = outcome.case, statistics.median(timing.times)
    middle, low, high = ratio(ours.times, timing.times)
    known = peak is not None and (case.operations or case.moved) and not family.cold
    return {"seconds": median, "times": list(timing.times), "ratio": middle, "low": low, "high": high,
            "share": peak.share(median, case.operations, case.moved, case.dtype) or None if peak and known else None,
            "first": timing.first, "first_ratio": timing.first / ours.first, "memory": timing.memory}


def geometric_mean(values: Sequence[float]) -> float | None:
    """That of positive numbers, None of none."""
    return statistics.geometric_mean(values) if values else None


# ----------------------------------------------------------------------------------------------------------- tables


def table(family: Family, records: list[dict[str, Any]]) -> str:
    """The family's outcomes as Markdown."""
    names = list(dict.fromkeys(name for found in records for name in found["peers"]))
    parts = [f"## {family.name}: {family.title}", _cold_table(names, records) if family.cold else _times_table(names, records)]
    if family.fresh and not family.cold:
        parts.append(_costs_table(names, records))
    reasons = {(name, why) for found in records for name, why in found["left_out"].items()}
    parts += [f"left out: {name} ({why})" for name, why in sorted(reasons)]
    return "\n\n".join(parts) + "\n"


def _times_table(names: list[str], records: list[dict[str, Any]]) -> str:
    """Times, ratios with the lowest and highest round, share of the peak, and means."""
    head = ["case", names[0], "of peak", *(f"{name} (time / ours)" for name in names[1:]), "best peer / ours"]
    rows = []
    for found in records:
        cells = [_timed(found["peers"].get(name)) for name in names]
        share = found["peers"][names[0]]["share"]
        ours = cells[0].split(" (")[0]
        rows.append([found["case"], ours, f"{share:.0%}" if share else "", *cells[1:], _number(found["best"])])
    means = [_mean(records, name) for name in names[1:]]
    best = geometric_mean([found["best"] for found in records if found["best"]])
    return _markdown(head, [*rows, ["geometric mean", "", "", *means, _number(best)]])


def _mean(records: list[dict[str, Any]], name: str) -> str:
    values = [found["peers"][name]["ratio"] for found in records if name in found["peers"]]
    return f"({_number(geometric_mean(values))})" if values else ""


def _timed(peer: dict[str, Any] | None) -> str:
    if peer is None:
        return "–"
    return f"{duration(peer['seconds'])} ({peer['ratio']:.2f}; {peer['low']:.2f} to {peer['high']:.2f})"


def _costs_table(names: list[str], records: list[dict[str, Any]]) -> str:
    """First calls and memory."""
    head = ["case", *(f"{name}: first call, memory" for name in names)]
    return _markdown(head, [[found["case"], *(_cost(found["peers"].get(name)) for name in names)] for found in records])


def _cost(peer: dict[str, Any] | None) -> str:
    return "–" if peer is None else f"{peer['first']:.2f} s, {peer['memory'] / 2**20:.0f} MB"


_COLD = (("first", "first_ratio"), ("seconds", "ratio"))  # with empty caches, and from disk


def _cold_table(names: list[str], records: list[dict[str, Any]]) -> str:
    """First calls with empty caches, and from disk."""
    rows = [[found["case"], name, *(f"{peer[time]:.2f} s ({peer[by]:.2f})" for time, by in _COLD)]
            for found in records for name, peer in found["peers"].items()]
    return _markdown(["case", "peer", "cold (time / ours)", "from disk (time / ours)"], rows)


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def duration(seconds: float) -> str:
    """A time in three digits, with its unit."""
    for scale, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def document(machine: dict[str, Any], versions: dict[str, str], options: Options, peak: Peak | None, date: str,
             tables: list[str]) -> str:
    """The whole report in Markdown."""
    facts = [f"{date}, {machine['processor']}, {options.threads} threads, {options.rounds} interleaved rounds of at least "
             f"{duration(options.seconds)}; a ratio is the median of (time of the peer / ours), with the lowest and highest."]
    if peak is not None:
        arithmetic = ", ".join(f"{name} {rate.all:.0f}" for name, rate in peak.arithmetic.items())
        memory = ", ".join(f"{name} {rate.all:.1f}" for name, rate in peak.memory.items())
        facts.append(f"Measured peak: {arithmetic} GFLOP/s; {memory} GB/s.")
    facts.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    return "\n\n".join(["# Benchmarks", *facts, *tables])


# ---------------------------------------------------------------------------------------------------------- picture


def picture(path: Path, families: dict[str, list[dict[str, Any]]]) -> Path | None:
    """Bars of the ratios: a PNG by matplotlib, or a page by plotly; None when neither is installed."""
    bars: dict[str, tuple[list[str], list[float]]] = {}
    for family, records in families.items():
        for found in records:
            for name, peer in list(found["peers"].items())[1:]:
                labels, values = bars.setdefault(name, ([], []))
                labels.append(f"{family} {found['case']}")
                values.append(peer["ratio"])
    for draw in (_by_matplotlib, _by_plotly):
        try:
            return draw(path, bars)
        except ImportError:
            continue
    return None


def _by_matplotlib(path: Path, bars: dict[str, tuple[list[str], list[float]]]) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    labels = list(dict.fromkeys(label for names, _ in bars.values() for label in names))
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.16 * len(labels) * max(1, len(bars))), layout="constrained")
    thick = 0.8 / max(1, len(bars))
    for number, (name, (names, values)) in enumerate(bars.items()):
        places = [labels.index(label) + number * thick for label in names]
        axes.barh(places, [value - 1 for value in values], left=1, height=thick, label=name)
    axes.set_yticks([i + 0.4 - thick / 2 for i in range(len(labels))], labels)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=1)
    axes.margins(y=0.01)
    axes.set(xscale="log", xlabel="time of the peer / ours (to the right, ours is faster)")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.legend(loc="upper right")
    found = path.with_suffix(".png")
    figure.savefig(found, dpi=110)
    pyplot.close(figure)
    return found


def _by_plotly(path: Path, bars: dict[str, tuple[list[str], list[float]]]) -> Path:
    from plotly import graph_objects

    figure = graph_objects.Figure([graph_objects.Bar(name=name, y=labels, x=values, orientation="h")
                                   for name, (labels, values) in bars.items()])
    figure.add_vline(x=1)
    figure.update_xaxes(type="log", title="time of the peer / ours (above 1, ours is faster)")
    figure.update_yaxes(autorange="reversed")
    found = path.with_suffix(".html")
    figure.write_html(found)
    return found


def save(folder: Path, stem: str, text: str, data: dict[str, Any]) -> list[Path]:
    """Write STEM.md, STEM.json and the picture; the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{stem}.md", folder / f"{stem}.json"]
    paths[0].write_text(text, encoding="utf-8")
    paths[1].write_text(json.dumps(data, indent=1), encoding="utf-8")
    drawn = picture(folder / stem, {name: found["cases"] for name, found in data["families"].items()})
    return [*paths, drawn] if drawn else paths
