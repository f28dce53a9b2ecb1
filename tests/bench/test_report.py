"""Tables, the results file and the command line."""

from __future__ import annotations

import io
import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bench import __main__ as program
from bench import aims, evidence, growth, half_load, report
from bench.probe import ProbeError
from bench.summary import Reaction, Sample, reaction, row

ALONE = Sample(8000, 1.234, 3.0, 3.5, 80)
SERVER = Sample(2000, 5.0, 9.0, 9.5, 300, server_cpu_us=500, rss_mb=61.5, envoy_rss_mb=75.5, shares=(0.6, 0.4))
BROKEN = Sample(2000, 5.0, 9.0, 9.5, 300, failures={"streams_failed": 2})
ROWS = [
    {**row("envoy_alone", [ALONE], [ALONE]), "requests": 6000},
    {**row("grpcio_2_workers", [SERVER], [ALONE]), "requests": 4000},
]
SAMPLES = {"nghttp2_1_worker": [SERVER], "go_1_processor": [replace(SERVER, server_cpu_us=400)]}
RATIOS = aims.ratios(SAMPLES)
HALF_LOAD = [half_load.row("grpcio_2_workers", 1000, [(SERVER, ALONE)])]
GROWTH = growth.rows({("envoy_alone", growth.USUAL): [ALONE]})
SKIPPED = [{"name": "go_2_processors", "reason": "Go is not installed"}]
REACTIONS = [reaction(Reaction("edit", "an edit -> it shows", (0.1, 0.25)))]
SPENT = {"total": 0.5, "ask": 0.1, "parse": 0.2, "collect": 0.15, "keep": 0.05}
TICKS = [evidence.row(50, {"ticks": [{**SPENT, "total": 0.75}, SPENT, SPENT], "peak_mb": 150.04, "answer_kb": 387})]

STREAMS = [
    {"name": "direct", "chunks_per_second": 77, "chunks": 9, "p50_ms": 0.25, "p99_ms": 1.5, "added_p50_ms": -0.1}
]


MEASURED = report.Measured(ROWS, RATIOS, HALF_LOAD, GROWTH, REACTIONS, TICKS, STREAMS, SKIPPED)


def test_the_tables_show_every_row_and_figure() -> None:
    text = io.StringIO()
    report.show(Console(file=text, width=176), MEASURED)
    lines = text.getvalue().splitlines()
    (server,) = (line for line in lines if "│ grpcio_2_workers" in line and "4000" in line)
    cells = [cell.strip() for cell in server.split("│")[1:-1]]
    figures = ["2000", "0.25", "5", "4.052", "9", "9.5", "500", "300", "0", "61.5", "75.5", "60% 40%", "4000"]
    assert cells == ["grpcio_2_workers", *figures]
    (alone,) = (line for line in lines if "│ envoy_alone" in line and "6000" in line)
    assert [cell.strip() for cell in alone.split("│")[8:-1]] == ["-", "80", "0", "-", "-", "-", "6000"]
    (ratio,) = (line for line in lines if "server_cpu_us" in line)
    assert [cell.strip() for cell in ratio.split("│")[1:-1]] == [
        "server_cpu_us",
        "nghttp2_1_worker",
        "go_1_processor",
        "1.25",
        "≤ 1",
        "NO",
    ]
    (added,) = (line for line in lines if "│ grpcio_2_workers" in line and "4000" not in line)
    assert [cell.strip() for cell in added.split("│")[-5:-1]] == ["3.766", "6", "500", "300"]
    (skipped,) = (line for line in lines if "go_2_processors" in line)
    assert "Go is not installed" in skipped
    assert sum("envoy_alone" in line for line in lines) == 5, "once as a path, once in each series of growth"
    (edit,) = (line for line in lines if "an edit -> it shows" in line)
    assert [cell.strip() for cell in edit.split("│")[1:4]] == ["edit", "0.175", "0.25"]
    (stream,) = (line for line in lines if "direct" in line)
    assert [cell.strip() for cell in stream.split("│")[1:-1]] == ["direct", "77", "0.25", "1.5", "-0.1"]
    (tick,) = (line for line in lines if "150" in line)
    assert [cell.strip() for cell in tick.split("│")[1:-1]] == [
        "50",
        "0.5",
        "0.1",
        "0.2",
        "0.15",
        "0.05",
        "10",
        "0.75",
        "150",
    ]


@pytest.mark.process  # asks Envoy for its version
def test_the_results_file_holds_rows_reactions_machine_and_command(tmp_path: Path) -> None:
    machine = report.machine()
    report.write(tmp_path / "results.json", MEASURED, machine, "python -m bench", "not pinned")
    content = json.loads((tmp_path / "results.json").read_text())
    rows = {"rows": ROWS, "reactions": REACTIONS, "evidence": TICKS, "streams": STREAMS, "skipped": SKIPPED}
    rows |= {"ratios": RATIOS, "half_load": HALF_LOAD, "growth": GROWTH}
    assert content == {**rows, "machine": machine, "command": "python -m bench", "placement": "not pinned"}
    needed = {"name", "requests_per_second", "p50_ms", "p99_ms", "server_cpu_us", "envoy_cpu_us", "failed_streams"}
    assert all({*needed, "rss_mb", "requests_per_second_ratio"} <= set(found) for found in content["rows"])


@pytest.mark.process  # asks Envoy for its version
def test_the_machine_has_neither_name_nor_path() -> None:
    machine = report.machine()
    assert machine["cpus"] >= 1
    assert machine["envoy"].count(".") == 2
    text = json.dumps(machine)
    assert "/" not in text
    assert socket.gethostname() not in text.split('"')


@pytest.mark.parametrize(("load", "busy"), [(0.0, False), (0.49, False), (0.5, True), (9.0, True)])
def test_a_busy_machine_is_told(load: float, busy: bool) -> None:
    said = report.busy({"load_average_before": [load, 0.0, 0.0], "cpus": 2})
    assert bool(said) == busy
    assert not busy or f"load average {load:g}, 2 CPUs" in said


def _run(monkeypatch: pytest.MonkeyPatch, path: Path, sample: Sample | Exception, *arguments: str) -> int:
    """The program, with measurements that were made up."""

    async def measured(*_: object) -> report.Measured:
        if isinstance(sample, Exception):
            raise sample
        return report.Measured([{**row("grpcio_1_worker", [sample], [ALONE]), "requests": 1}])

    monkeypatch.setattr(program, "measure", measured)
    return program.main(["--output", str(path), *arguments])


@pytest.mark.process  # asks Envoy for its version
def test_failed_streams_end_with_exit_code_1_and_a_line_that_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, tmp_path / "results.json", BROKEN) == 1
    assert (
        "bench: full load: grpcio_1_worker: 2 failed streams (2 streams_failed); allowed: none"
        in capsys.readouterr().err
    )
    assert _run(monkeypatch, tmp_path / "results.json", SERVER) == 0


@pytest.mark.process  # asks Envoy for its version
def test_what_did_not_happen_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, tmp_path / "results.json", ProbeError("waited 30 s in vain")) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "busy" not in line)
    assert line == "bench: waited 30 s in vain"
    assert not (tmp_path / "results.json").exists()


@pytest.mark.process  # asks Envoy for its version
def test_the_command_that_is_written_repeats_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    _run(monkeypatch, results, SERVER, "--quick", "--requests", "77", "--only", "throughput", "--no-pin")
    command = json.loads(results.read_text())["command"]
    assert command == "python -m bench --quick --rounds 2 --requests 77 --only throughput --no-pin"
    _run(monkeypatch, results, SERVER, *command.split()[3:])
    assert json.loads(results.read_text())["command"] == command


@pytest.mark.parametrize(
    "arguments",
    [["--rounds", "0"], ["--requests", "1000000"], ["--rounds", "many"], ["--fast"], ["--contenders", "rust"]],
)
def test_arguments_that_make_no_sense_are_usage_errors(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(arguments)
    assert ended.value.code == 2
