"""The tables of a run: which columns they have, as plain cells and as Markdown. Pure.

:mod:`bench.report` prints them on a terminal; :mod:`bench.documentation` writes them into docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TableOf:
    """A table of rows of one kind.

    Attributes:
        key: under which the results file keeps the rows.
        title: shown above the table.
        columns: header by field.
        names: header by field, for the leftmost columns that identify a row; set in code font.
        notes: header by field, for columns of text at the right.
    """

    key: str
    title: str
    columns: Mapping[str, str]
    names: Mapping[str, str]
    notes: Mapping[str, str]

    def headers(self) -> list[str]:
        """The headers of all columns, in order."""
        return [*self.names.values(), *self.columns.values(), *self.notes.values()]

    def cells(self, row: Row) -> list[str]:
        """A row's cells, in the order of the headers."""
        return [cell(row[field]) for field in (*self.names, *self.columns, *self.notes)]

    def markdown(self, rows: Sequence[Row]) -> list[str]:
        """The table as lines of Markdown."""
        ruler = [*["---"] * len(self.names), *["--:"] * len(self.columns), *["---"] * len(self.notes)]
        lines = [_line(self.headers()), _line(ruler)]
        for row in rows:
            texts = self.cells(row)
            named = [f"`{text}`" if not text.isdigit() else text for text in texts[: len(self.names)]]
            lines.append(_line([*named, *texts[len(self.names) :]]))
        return lines


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def cell(value: Any) -> str:
    """A figure as the tables show it: four significant digits, shares in percent, `-` for nothing."""
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, list):
        return " ".join(f"{share:.0%}" for share in value)
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


PATHS: Final = TableOf(
    "rows",
    "Data paths at full load: medians of the rounds, CPU per request",
    {
        "requests_per_second": "requests/s",
        "requests_per_second_ratio": "x alone",
        "p50_ms": "p50 ms",
        "p50_ratio": "x alone",
        "p99_ms": "p99 ms",
        "p999_ms": "p99.9 ms",
        "server_cpu_us": "server CPU µs",
        "envoy_cpu_us": "Envoy CPU µs",
        "failed_streams": "failed",
        "rss_mb": "worker MB",
        "envoy_rss_mb": "Envoy MB",
        "worker_shares": "split",
        "requests": "requests",
    },
    {"name": "data path"},
    {},
)

RATIOS: Final = TableOf(
    "ratios",
    "Ratios (medians of the rounds' ratios) and aims",
    {"ratio": "ratio", "aim": "aim", "met": "met"},
    {"figure": "figure", "of": "of", "to": "to"},
    {},
)

HALF_LOAD: Final = TableOf(
    "half_load",
    "Latency at half of each data path's highest rate, from the moment a request was due",
    {
        "requests_per_second": "requests/s",
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "reference_p50_ms": "alone p50",
        "reference_p99_ms": "alone p99",
        "added_p50_ms": "added p50",
        "added_p99_ms": "added p99",
        "server_cpu_us": "server CPU µs",
        "envoy_cpu_us": "Envoy CPU µs",
    },
    {"name": "data path"},
    {},
)

GROWTH: Final = TableOf(
    "growth",
    "How the cost grows, one factor at a time",
    {
        "requests_per_second": "requests/s",
        "requests_per_second_ratio": "x usual",
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "server_cpu_us": "server CPU µs",
        "envoy_cpu_us": "Envoy CPU µs",
        "failed_streams": "failed",
    },
    {"what": "factor", "size": "size", "name": "data path"},
    {},
)

STREAMS: Final = TableOf(
    "streams",
    "Delay of each chunk of a streamed answer",
    {
        "chunks_per_second": "chunks/s",
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "added_p50_ms": "p50 above Envoy alone, ms",
    },
    {"name": "path"},
    {},
)

REACTIONS: Final = TableOf(
    "reactions",
    "Reaction times, seconds",
    {"median_s": "median", "max_s": "max"},
    {"name": "reaction"},
    {"meaning": "from -> until"},
)

TICKS: Final = TableOf(
    "evidence",
    "A controller's tick over 10 experiments, CPU seconds",
    {
        "cpu_s": "CPU s",
        "ask_s": "ask",
        "parse_s": "parse",
        "collect_s": "decide",
        "keep_s": "keep",
        "cpu_ms_per_envoy": "ms/Envoy",
        "first_cpu_s": "first tick",
        "peak_mb": "peak MB",
    },
    {"envoys": "Envoys"},
    {},
)

SKIPPED: Final = TableOf("skipped", "NOT MEASURED", {}, {"name": "data path"}, {"reason": "why"})

ALL: Final = (PATHS, RATIOS, HALF_LOAD, GROWTH, STREAMS, REACTIONS, TICKS, SKIPPED)
