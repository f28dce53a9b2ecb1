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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console
from rich.table import Table

from abmesh.local.processes import find_envoy
from bench import go_server, tables
from bench.tables import TableOf

_IDLE: Final = 0.25
"""Of each CPU, the load average below which a machine counts as having nothing else to do."""

_PACKAGES: Final = ("grpcio", "ngh2", "uvloop", "fastapi", "httpx", "uvicorn")


def machine() -> dict[str, Any]:
    """What the figures were measured on, without names or paths."""
    said = subprocess.run([find_envoy(), "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"/(\d+\.\d+\.\d+[^/]*)/", said)
    return {
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_average_before": [round(value, 2) for value in os.getloadavg()],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "envoy": found[1] if found else said.strip(),
        "packages": {name: known for name in _PACKAGES if (known := _version(name))},
        "go": go_server.versions(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def busy(machine: Mapping[str, Any]) -> str:
    """That others keep the machine busy, if they do: figures mean little then, and latencies nothing."""
    load = machine["load_average_before"][0]
    if load < _IDLE * machine["cpus"]:
        return ""
    return f"the machine is busy (load average {load:g}, {machine['cpus']} CPUs): latencies will mean nothing"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that was measured; empty where it was left out.

    Attributes:
        rows: of the data paths at full load.
        skipped: contenders that could not start, with the reason.
    """

    rows: Rows = ()
    ratios: Rows = ()
    half_load: Rows = ()
    growth: Rows = ()
    reactions: Rows = ()
    ticks: Rows = ()
    streams: Rows = ()
    skipped: Rows = ()

    def content(self) -> dict[str, Rows]:
        """The rows by their name in the results file, in its order."""
        return {
            "rows": self.rows,
            "ratios": self.ratios,
            "half_load": self.half_load,
            "growth": self.growth,
            "streams": self.streams,
            "reactions": self.reactions,
            "evidence": self.ticks,
            "skipped": self.skipped,
        }


def show(console: Console, measured: Measured) -> None:
    """Print the tables that have rows."""
    content = measured.content()
    for shown in tables.ALL:
        if content[shown.key]:
            console.print(table(shown, content[shown.key]))


def table(shown: TableOf, rows: Rows) -> Table:
    """One line for each row."""
    made = Table(title=shown.title, title_justify="left")
    for title in shown.names.values():
        made.add_column(title, no_wrap=True)
    for title in shown.columns.values():
        made.add_column(title, justify="right")
    for title in shown.notes.values():
        made.add_column(title)
    for row in rows:
        made.add_row(*shown.cells(row), style="red" if row.get("met") is False else None)
    return made


def write(path: Path, measured: Measured, machine: Mapping[str, Any], command: str, placement: str) -> None:
    """Write the results file."""
    content = {**measured.content(), "machine": machine, "placement": placement, "command": command}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
