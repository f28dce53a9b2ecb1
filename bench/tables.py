"""What the tables of the results show, for a terminal and for Markdown alike. Pure.

:mod:`bench.report` prints them; :mod:`bench.documentation` puts them into the README and docs/benchmarks.md.
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
        key: of the rows in the results file.
        title: above the table.
        columns: header by field.
        names: the fields that say what a row is about; they stand left, in code font.
        notes: further fields of text, at the end.
    """

    key: str
    title: str
    columns: Mapping[str, str]
    names: Mapping[str, str]
    notes: Mapping[str, str]

    def headers(self) -> list[str]:
        """Of all columns, in order."""
        return [*self.names.values(), *self.columns.values(), *self.notes.values()]

    def cells(self, row: Row) -> list[str]:
        """A row's texts, in the order of the headers."""
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
    """A figure as people read it."""
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
    "Data paths, medians of rounds at full load; CPU per request",
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
    "Ratios, medians of each round's own, and aims",
    {"ratio": "ratio", "aim": "aim", "met": "met"},
    {"figure": "of what", "of": "of", "to": "to"},
    {},
)

HALF_LOAD: Final = TableOf(
    "half_load",
    "Latency at half of each one's own highest rate, from when a request was meant to be sent",
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
    "How the cost grows, one thing at a time",
    {
        "requests_per_second": "requests/s",
        "requests_per_second_ratio": "x usual",
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "server_cpu_us": "server CPU µs",
        "envoy_cpu_us": "Envoy CPU µs",
        "failed_streams": "failed",
    },
    {"what": "what grows", "size": "to", "name": "data path"},
    {},
)

STREAMS: Final = TableOf(
    "streams",
    "Delay of each chunk of a streamed answer",
    {
        "chunks_per_second": "chunks/s",
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "added_p50_ms": "p50 more than Envoy alone, ms",
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
