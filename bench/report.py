"""The figures as tables for people and as JSON for programs. Called by ``python -m bench``."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from cli.demo.stack import find_envoy

_COLUMNS = {
    "requests_per_second": "requests/s",
    "requests_per_second_ratio": "x alone",
    "p50_ms": "p50 ms",
    "p50_ratio": "x alone",
    "p99_ms": "p99 ms",
    "server_cpu_us": "server CPU µs",
    "envoy_cpu_us": "Envoy CPU µs",
    "failed_streams": "failed",
    "rss_mb": "worker MB",
    "worker_shares": "split",
}

_TICK_COLUMNS = {
    "cpu_s": "CPU s",
    "ask_s": "ask",
    "parse_s": "parse",
    "collect_s": "decide",
    "keep_s": "keep",
    "cpu_ms_per_envoy": "ms/Envoy",
    "first_cpu_s": "first tick",
    "peak_mb": "peak MB",
}


_STREAM_COLUMNS = {
    "chunks_per_second": "chunks/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "added_p50_ms": "p50 more than Envoy alone, ms",
}


def machine() -> dict[str, Any]:
    """What the figures were measured on, without names or paths."""
    version = subprocess.run([find_envoy(), "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"/(\d+\.\d+\.\d+[^/]*)/", version)
    return {
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_average_before": [round(value, 2) for value in os.getloadavg()],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "envoy": found[1] if found else version.strip(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that was measured; empty where it was left out."""

    rows: Rows = ()
    reactions: Rows = ()
    ticks: Rows = ()
    streams: Rows = ()


def show(console: Console, measured: Measured) -> None:
    """Print the tables that have rows."""
    if measured.rows:
        console.print(throughput_table(measured.rows))
    if measured.streams:
        console.print(stream_table(measured.streams))
    if measured.reactions:
        console.print(reaction_table(measured.reactions))
    if measured.ticks:
        console.print(tick_table(measured.ticks))


def throughput_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line for each data path."""
    table = Table(title="Data paths, medians of rounds; CPU per request", title_justify="left")
    table.add_column("data path", no_wrap=True)
    for title in _COLUMNS.values():
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(row["name"], *(_cell(row[column]) for column in _COLUMNS))
    return table


def reaction_table(reactions: Sequence[Mapping[str, Any]]) -> Table:
    """One line for each reaction."""
    table = Table(title="Reaction times, seconds", title_justify="left")
    table.add_column("reaction", no_wrap=True)
    for title in ("median", "max"):
        table.add_column(title, justify="right")
    table.add_column("from -> until")
    for reaction in reactions:
        figures = (f"{reaction['median_s']:.3f}", f"{reaction['max_s']:.3f}")
        table.add_row(reaction["name"], *figures, reaction["meaning"])
    return table


def tick_table(ticks: Sequence[Mapping[str, Any]]) -> Table:
    """One line for each number of Envoys."""
    table = Table(title="A controller's tick over 10 experiments, CPU seconds", title_justify="left")
    table.add_column("Envoys", justify="right")
    for title in _TICK_COLUMNS.values():
        table.add_column(title, justify="right")
    for tick in ticks:
        table.add_row(str(tick["envoys"]), *(_cell(tick[column]) for column in _TICK_COLUMNS))
    return table


def stream_table(streams: Sequence[Mapping[str, Any]]) -> Table:
    """One line for each path and rate."""
    table = Table(title="Delay of each chunk of a streamed answer", title_justify="left")
    table.add_column("path", no_wrap=True)
    for title in _STREAM_COLUMNS.values():
        table.add_column(title, justify="right")
    for row in streams:
        table.add_row(row["name"], *(_cell(row[column]) for column in _STREAM_COLUMNS))
    return table


def _cell(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, list):
        return " ".join(f"{share:.0%}" for share in value)
    return f"{value:g}"


def write(path: Path, measured: Measured, machine: Mapping[str, Any], command: str) -> None:
    """Write the results file."""
    content = {
        "rows": measured.rows,
        "streams": measured.streams,
        "reactions": measured.reactions,
        "evidence": measured.ticks,
        "machine": machine,
        "command": command,
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
