"""The results as one picture: throughput, CPU and added latency. Called by :mod:`bench.documentation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abmesh.cli.plots.canvas import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEIGHT_EACH = 0.22
_MARGIN = 0.9
_ROOM = 1.35
"""Right of the longest bar, for its number."""

Row = Mapping[str, Any]
Panel = Mapping[str, float | None]
"""A figure of every data path, None where it has none."""

LOGARITHMIC = frozenset({"server CPU, µs per request", "added p99 at half load, ms"})
"""Panels whose figures are too far apart for bars."""


def panels(results: Mapping[str, Any]) -> dict[str, Panel]:
    """What is drawn: for every panel a figure of every data path, in the order of the results."""
    rows: Sequence[Row] = results["rows"]
    added: dict[str, float] = {row["name"]: row["added_p99_ms"] for row in results["half_load"]}
    return {
        "requests/s": {row["name"]: row["requests_per_second"] for row in rows},
        "Envoy CPU, µs per request": {row["name"]: row["envoy_cpu_us"] for row in rows},
        "server CPU, µs per request": {row["name"]: row["server_cpu_us"] for row in rows},
        "added p99 at half load, ms": {row["name"]: added.get(row["name"]) for row in rows},
    }


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Draw the results.

    Args:
        results: as in the results file.
        path: where to; its ending says the format.

    Raises:
        StartError: the file cannot be written, or matplotlib is not installed.
    """
    drawn = panels(results)
    names = [row["name"] for row in results["rows"]]
    with canvas(path, _MARGIN + _HEIGHT_EACH * len(names)) as figure:
        axes = figure.subplots(1, len(drawn), sharey=True)
        for each, (title, panel) in zip(axes, drawn.items(), strict=True):
            known = [(place, value) for place, name in enumerate(names) if (value := panel[name]) is not None]
            if title in LOGARITHMIC:
                _dots(each, known)
            else:
                _bars(each, known)
            each.set_title(title, fontsize=7)
            each.tick_params(axis="x", labelsize=6)
        axes[0].set_yticks(range(len(names)), names, fontsize=6)
        axes[0].invert_yaxis()


def _bars(axes: Axes, known: Sequence[tuple[int, float]]) -> None:
    axes.barh([place for place, _ in known], [value for _, value in known], color="0.6", height=0.7)
    axes.set_xlim(0, max((value for _, value in known), default=1.0) * _ROOM)
    for place, value in known:
        _number(axes, place, value, value)


def _dots(axes: Axes, known: Sequence[tuple[int, float]]) -> None:
    """Dots on a logarithmic axis; what is nothing, or less by noise, stands at its left end."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    least = min((value for _, value in known if value > 0), default=1.0) / 2
    most = max((value for _, value in known), default=1.0)
    axes.set_xscale("log")
    axes.set_xlim(least, max(most, least * 2) * 12)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    for place, value in known:
        at = max(value, least)
        axes.plot([least, at], [place, place], color="0.8", linewidth=0.8, zorder=1)
        axes.plot([at], [place], "o", color="0.2", markersize=3.5)
        _number(axes, place, at, value)


def _number(axes: Axes, place: int, at: float, value: float) -> None:
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    axes.annotate(text, (at, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=5.5)
