"""Writes the figures of ``bench/results.json`` into the README and docs/benchmarks.md: nobody types a figure.

``python -m bench`` calls it after a whole run; ``python -m bench.documentation`` runs it at any time. Reads and writes
files; tests compare both pages with the results file.
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
    """The three sentences in the README: the figures that say most about one run, and where the others are.

    A figure that the run does not have, because its contender was skipped, is left out.
    """
    machine = results["machine"]
    ratios = _ratios(results)
    added = {row["name"]: row["added_p99_ms"] for row in results["half_load"]}
    cpu, new_users = ratios.get(_CPU_TO_GO), _new_users(results["growth"])
    go = ""
    if cpu:
        notes = [_aim(cpu), f"**{new_users}** times when every user is new" if new_users else ""]
        note = _bracketed("; ".join(filter(None, notes)))
        go = f" and **{tables.cell(cpu['ratio'])}** times that of a server in Go{note}"
    sentences = []
    if _CPU_TO_GRPCIO in ratios:
        grpcio = tables.cell(ratios[_CPU_TO_GRPCIO]["ratio"])
        sentences.append(f"The default server used **{grpcio}** times the CPU per request of grpcio{go}.")
    if _TO_FASTAPI in ratios and {"nghttp2_1_worker", "envoy_alone"} <= added.keys():
        sentences.append(
            f"Envoy with it served **{tables.cell(ratios[_TO_FASTAPI]['ratio'])}** times the requests of a FastAPI "
            f"router; at half load its 99th percentile was **{added['nghttp2_1_worker']:.2f} ms** above plain Envoy's, "
            f"where plain Envoy differs from itself by **{added['envoy_alone']:.2f} ms**."
        )
    if _NATIVE in ratios:
        native = ratios[_NATIVE]
        sentences.append(
            f"The native lane's routes reached **{tables.cell(native['ratio'])}** of the throughput of plain "
            f"`weighted_clusters`{_bracketed(_aim(native))}."
        )
    return [
        *sentences,
        f"That was one run ({machine['date']}, {machine['cpus']} CPUs, Envoy {machine['envoy']}); "
        f"[docs/benchmarks.md](docs/benchmarks.md) has every figure, how it was measured, and what it does not show.",
    ]


def summary_lines(results: Results) -> list[str]:
    """The ratios and latencies of a run as a list, with what each compares; they open docs/benchmarks.md's tables."""
    ratios = _ratios(results)
    added = {row["name"]: row["added_p99_ms"] for row in results["half_load"]}
    new_users = _new_users(results["growth"])
    return [
        *(
            f"- {text}: **{tables.cell(ratios[key]['ratio'])}**{_bracketed(_aim(ratios[key]))}"
            for key, text in _RATIOS.items()
            if key in ratios
        ),
        *([f"- {_NEW_USERS}: **{new_users}**"] if new_users else ()),
        *(
            f"- 99th percentile at half load, {text}: **{added[name]:+.2f} ms**"
            for name, text in _LATENCIES.items()
            if name in added
        ),
    ]


def _ratios(results: Results) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    return {(row["figure"], row["of"], row["to"]): row for row in results["ratios"]}


def _aim(row: Mapping[str, Any]) -> str:
    return f"aim {row['aim']}: {'met' if row['met'] else 'missed'}" if row["aim"] else ""


def _bracketed(note: str) -> str:
    return f" ({note})" if note else ""


def _new_users(growth: Sequence[Mapping[str, Any]]) -> str:
    """Our server's CPU per request to Go's when no user has come before, as text; empty where it was not measured."""
    point = ("new_users_percent", NEW_USERS_PERCENT)
    took = {row["name"]: row["server_cpu_us"] for row in growth if (row["what"], row["size"]) == point}
    ours, theirs = took.get("nghttp2_1_worker"), took.get("go_1_processor")
    return tables.cell(round(ours / theirs, 3)) if ours and theirs else ""


_NATIVE: Final = ("requests_per_second", "native_split", "envoy_alone")
_CPU_TO_GRPCIO: Final = ("server_cpu_us", "nghttp2_1_worker", "grpcio_1_worker")
_CPU_TO_GO: Final = ("server_cpu_us", "nghttp2_1_worker", "go_1_processor")
_TO_FASTAPI: Final = ("requests_per_second", "nghttp2_1_worker", "fastapi_shared_client")

_RATIOS: Final = {
    _NATIVE: "throughput, the native lane's routes to plain `weighted_clusters`",
    ("requests_per_second", "native_alone", "envoy_alone"): "the same with the headers that name the variant upstream",
    ("requests_per_second", "native", "envoy_with_statistics"): "the same with all statistics on both sides",
    _CPU_TO_GRPCIO: "server CPU per request, nghttp2 to grpcio",
    _CPU_TO_GO: "server CPU per request, nghttp2 to a server in Go",
    ("requests_per_second", "nghttp2_1_worker", "go_1_processor"): "throughput, nghttp2 to a server in Go",
    _TO_FASTAPI: "throughput, nghttp2 to a FastAPI router that shares one client",
    (
        "requests_per_second",
        "nghttp2_1_worker",
        "fastapi_client_per_request",
    ): "throughput, nghttp2 to a FastAPI router with a client per request",
}
"""What the list has, by figure, contender and what it is compared with."""

_NEW_USERS: Final = "server CPU per request, nghttp2 to a server in Go, every user new"

_LATENCIES: Final = {
    "envoy_alone": "plain Envoy above plain Envoy, which is noise",
    "native": "the native lane above plain Envoy",
    "nghttp2_1_worker": "ext_proc on nghttp2 above plain Envoy",
    "grpcio_1_worker": "ext_proc on grpcio above plain Envoy",
    "go_1_processor": "ext_proc in Go above plain Envoy",
}


def page_lines(results: Results) -> list[str]:
    """What docs/benchmarks.md has of a run: the run itself, the ratios as a list, the picture and every table."""
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
        *summary_lines(results),
        "",
        "![Throughput, CPU per request and added latency of every data path](benchmarks.svg)",
    ]
    for shown in tables.ALL:
        rows = results[shown.key]
        if rows:
            lines += ["", f"**{shown.title}**", "", *shown.markdown(rows)]
    return lines


def replaced(text: str, lines: Sequence[str]) -> str:
    """The page with new lines between its markers.

    Raises:
        ValueError: the page has no markers.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    return "\n".join([before + BEGIN, "", *lines, "", END + after])


def quoted(text: str) -> list[str]:
    """The lines between a page's markers."""
    return text.partition(BEGIN)[2].partition(END)[0].strip("\n").split("\n")


def update(results: Path = RESULTS, readme: Path = README, page: Path = PAGE, picture: Path = PICTURE) -> None:
    """Write the figures into both pages and draw the picture again."""
    found = json.loads(results.read_text(encoding="utf-8"))
    readme.write_text(replaced(readme.read_text(encoding="utf-8"), readme_lines(found)), encoding="utf-8")
    page.write_text(replaced(page.read_text(encoding="utf-8"), page_lines(found)), encoding="utf-8")
    plot.draw(found, picture)


if __name__ == "__main__":
    update()
