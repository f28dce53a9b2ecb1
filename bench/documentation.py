"""Puts the results file's figures into the README and docs/benchmarks.md, so that no figure is ever typed.

``python -m bench`` does it after a whole run, ``python -m bench.documentation`` at any time. Tests compare both pages
with ``bench/results.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench import plot, tables
from bench.growth import NEW_USERS_PERCENT

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "bench" / "results.json"
README: Final = ROOT / "README.md"
PAGE: Final = ROOT / "docs" / "benchmarks.md"
PICTURE: Final = ROOT / "docs" / "benchmarks.svg"
BEGIN: Final = "<!-- bench: written by python -m bench -->"
END: Final = "<!-- /bench -->"

Results = Mapping[str, Any]


def readme_lines(results: Results) -> list[str]:
    """What the README quotes: ratios of one run, what they are of, and the command that repeats them."""
    found = {(row["figure"], row["of"], row["to"]): row for row in results["ratios"]}
    said = {(row["name"]): row for row in results["half_load"]}
    lines = []
    for figure, of, to, text in _QUOTED:
        row = found.get((figure, of, to))
        if row is not None:
            aim = f" (aim {row['aim']}: {'met' if row['met'] else 'missed'})" if row["aim"] else ""
            lines.append(f"- {text}: **{tables.cell(row['ratio'])}**{aim}")
    lines += _new_users(results["growth"])
    for name, text in _QUOTED_LATENCY:
        if name in said:
            row = said[name]
            lines.append(f"- {text}: **{row['added_p99_ms']:+.2f} ms** at the 99th percentile")
    return [
        f"Ratios of one run ({results['machine']['date']}, {results['machine']['cpus']} CPUs, Envoy "
        f"{results['machine']['envoy']}); `{results['command']}` repeats it, and "
        "[docs/benchmarks.md](docs/benchmarks.md) says how it was measured and what it does not say:",
        "",
        *lines,
    ]


def _new_users(growth: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the server's memory of users is worth: nothing for those who have never come before."""
    point = ("new_users_percent", NEW_USERS_PERCENT)
    took = {row["name"]: row["server_cpu_us"] for row in growth if (row["what"], row["size"]) == point}
    ours, theirs = took.get("nghttp2_1_worker"), took.get("go_1_processor")
    if not ours or not theirs:
        return []
    ratio = tables.cell(round(ours / theirs, 3))
    return [f"- server CPU per request, nghttp2 to a server in Go, all users new: **{ratio}**"]


_QUOTED: Final = (
    (
        "requests_per_second",
        "native_split",
        "envoy_alone",
        "throughput, the native lane's routes to plain `weighted_clusters`",
    ),
    ("requests_per_second", "native_alone", "envoy_alone", "the same with the headers that tell who was chosen"),
    ("requests_per_second", "native", "envoy_with_statistics", "the same with all statistics on both sides"),
    ("server_cpu_us", "nghttp2_1_worker", "grpcio_1_worker", "server CPU per request, nghttp2 to grpcio"),
    ("server_cpu_us", "nghttp2_1_worker", "go_1_processor", "server CPU per request, nghttp2 to a server in Go"),
    ("requests_per_second", "nghttp2_1_worker", "go_1_processor", "throughput, nghttp2 to a server in Go"),
    (
        "requests_per_second",
        "nghttp2_1_worker",
        "fastapi_shared_client",
        "throughput, nghttp2 to a FastAPI router that shares one client",
    ),
    (
        "requests_per_second",
        "nghttp2_1_worker",
        "fastapi_client_per_request",
        "throughput, nghttp2 to a FastAPI router with a client per request",
    ),
)

_QUOTED_LATENCY: Final = (
    ("envoy_alone", "latency that plain Envoy adds to plain Envoy at half load, which is what chance does"),
    ("native", "latency that the native lane adds at half load"),
    ("nghttp2_1_worker", "latency that ext_proc on nghttp2 adds at half load"),
    ("grpcio_1_worker", "latency that ext_proc on grpcio adds at half load"),
    ("go_1_processor", "latency that ext_proc in Go adds at half load"),
)


def page_lines(results: Results) -> list[str]:
    """What docs/benchmarks.md has of a run: every table, the picture, and the run itself."""
    machine = results["machine"]
    go = machine.get("go") or {}
    versions = {"Python": machine["python"], "Envoy": machine["envoy"], "Go": go.get("go"), "grpc-go": go.get("grpc")}
    named = [f"{name} {version}" for name, version in {**versions, **machine.get("packages", {})}.items() if version]
    lines = [
        f"{machine['date']}: {machine['cpus']} CPUs, {machine['system']}, load average before "
        f"{machine['load_average_before'][0]:g}; {results['placement']}. {', '.join(named)}.",
        "",
        f"`{results['command']}` repeats it. [`bench/results.json`](../bench/results.json) has every round.",
        "",
        "![Throughput, CPU per request and added latency of every data path](benchmarks.svg)",
    ]
    for shown in tables.ALL:
        rows = results[shown.key]
        if rows:
            lines += ["", f"**{shown.title}**", "", *shown.markdown(rows)]
    return lines


def replaced(text: str, lines: Sequence[str]) -> str:
    """A page with other lines between its marks.

    Raises:
        ValueError: it has no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    return "\n".join([before + BEGIN, "", *lines, "", END + after])


def quoted(text: str) -> list[str]:
    """The lines between a page's marks."""
    return text.partition(BEGIN)[2].partition(END)[0].strip("\n").split("\n")


def update(results: Path = RESULTS, readme: Path = README, page: Path = PAGE, picture: Path = PICTURE) -> None:
    """Write the figures into both pages, and draw the picture anew."""
    found = json.loads(results.read_text(encoding="utf-8"))
    readme.write_text(replaced(readme.read_text(encoding="utf-8"), readme_lines(found)), encoding="utf-8")
    page.write_text(replaced(page.read_text(encoding="utf-8"), page_lines(found)), encoding="utf-8")
    plot.draw(found, picture)


if __name__ == "__main__":
    update()
