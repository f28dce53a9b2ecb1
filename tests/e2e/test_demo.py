"""``abmesh demo`` as a newcomer runs it: every scenario ends as it should, and nothing is left behind.

``make test`` runs the scenario that exercises the most, ``finetune``; ``make soak`` runs all of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.support import eventually

PROGRAMS = 5
"""Envoy, two models, the server and the controller."""

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(240)]


async def _demo(*arguments: str, folder: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "abmesh.cli", "demo", *arguments]
    environment = {**os.environ, "TMPDIR": str(folder)}
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environment
    )
    children: set[psutil.Process] = set()
    communication = asyncio.create_task(process.communicate())
    while not (await asyncio.wait({communication}, timeout=0.2))[0]:
        children |= _children(process.pid)
    output, _ = await communication
    assert len(children) >= PROGRAMS
    await _are_gone(children)
    return process.returncode or 0, output.decode()


def _children(pid: int) -> set[psutil.Process]:
    """What a process has started, directly or not; a model server's command line says nothing of its demo."""
    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return set()


async def _are_gone(processes: set[psutil.Process]) -> None:
    async def gone() -> bool:
        return not any(map(_runs, processes))

    await eventually(gone, seconds=60)


def _runs(process: psutil.Process) -> bool:
    """Whether it has not ended; where nobody reaps orphans, one that has stays a zombie. Its id may be another's."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


RAMP = [10, 25, 50, 100]


@pytest.mark.soak
@pytest.mark.parametrize(
    ("scenario", "weights", "steps", "because"),
    [
        ("good", {"model-a": 0, "model-b": 100}, RAMP, ""),
        ("errors", {"model-a": 100, "model-b": 0}, [10, 25, 0], "error_rate"),
        ("slow", {"model-a": 100, "model-b": 0}, [10, 0], "latency_p95"),
    ],
)
async def test_every_scenario_ends_as_it_should(
    tmp_path: Path, scenario: str, weights: dict[str, float], steps: list[float], because: str
) -> None:
    result = tmp_path / "outcome.json"
    code, output = await _demo(scenario, "--json", str(result), folder=tmp_path)
    assert code == 0, output
    outcome: dict[str, Any] = json.loads(result.read_text())
    assert outcome["passed"] is True
    assert outcome["scenario"] == scenario
    assert outcome["final_weights"] == weights
    moves = [record for record in outcome["decisions"] if record["weights_before"] != record["weights_after"]]
    reached = [record["weights_after"]["model-b"] for record in moves]
    if scenario == "slow":
        # On a machine that pauses, the control's own p95 may hide the difference for a stage, never for good.
        assert reached == [*RAMP[: len(reached) - 1], 0]
    else:
        assert reached == steps
    assert because in moves[-1]["reason"]
    assert all(record["reason"] for record in outcome["decisions"])
    assert outcome["requests"] > 500
    # Only the scenario that is about errors has any.
    assert (outcome["errors"] > 0) == (scenario == "errors")
    assert outcome["seconds"] < 120


async def test_a_fine_tuned_model_is_rolled_back_and_the_report_says_why_segment_by_segment(tmp_path: Path) -> None:
    result = tmp_path / "outcome.json"
    code, output = await _demo("finetune", "--json", str(result), folder=tmp_path)
    assert code == 0, output
    outcome: dict[str, Any] = json.loads(result.read_text())
    assert (outcome["passed"], outcome["outcome"]) == (True, "rolled_back")
    moves = [record for record in outcome["decisions"] if record["weights_before"] != record["weights_after"]]
    assert [record["weights_after"]["model-b"] for record in moves] == [50, 0]
    assert "latency_p95" in moves[-1]["reason"]
    parts = {part["metric"]: part for part in outcome["report"]["metrics"]}
    # The demo's own events, tokens and prices: whatever the document can measure was measured through Envoy.
    for name in ("ttft_p95", "output_tokens_mean", "cost_per_success", "click_rate", "thumbs"):
        assert {item["segment"] for item in parts[name]["segments"]} == {"power", "casual"}, name
    assert parts["latency_p50"]["comparisons"][0]["result"] == "higher"
    for segment in parts["latency_p50"]["segments"]:
        assert segment["in_variant"]["value"] - segment["in_control"]["value"] == pytest.approx(70, abs=45)
    if "significantly above" in moves[-1]["reason"]:  # of a margin, which is more than higher
        assert parts["latency_p95"]["comparisons"][0]["result"] == "higher"
    clicks = parts["click_rate"]
    planted = {"power": (1, "higher"), "casual": (-1, "lower")}
    for part in clicks["segments"]:
        sign, wanted = planted[part["segment"]]
        assert part["result"] in (wanted, "undecided")
        control, variant = part["in_control"], part["in_variant"]
        # 0.5% against 2.5% of power users, and 4.6% against 0.9% of casual ones: with so many it is no matter of luck.
        if min(control["requests"], variant["requests"]) >= (800 if sign > 0 else 500):
            assert sign * (variant["value"] - control["value"]) > 0
    for row in clicks["variants"]:
        within = "in_control" if row["variant"] == "model-a" else "in_variant"
        # Nearly all: a stage counts for a segment only if both versions answered it there, as after the rollback only
        # for the segment of the last answers under way; and an answer that its client left is no request of the whole.
        parted = sum(segment[within]["requests"] for segment in clicks["segments"])
        assert parted == pytest.approx(row["requests"], rel=0.25)
    # Every click is one that a user sent; those of testers, and those before and after the stage, count in no report.
    assert 0 < sum(row["sum"] for row in clicks["variants"]) <= outcome["feedback"]["click"]
    assert outcome["feedback"]["refused"] <= 0.05 * outcome["feedback"]["click"]
    for text in ("click_rate by segment", "latency_p95 by segment", "casual"):
        assert text in output
    assert outcome["seconds"] < 120


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.soak),
        pytest.param(signal.SIGHUP, marks=pytest.mark.soak),
    ],
)
async def test_a_demo_that_is_interrupted_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "abmesh.cli", "demo", "good", "--keep"]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )

    async def everything_runs() -> bool:
        return len(_children(process.pid)) >= PROGRAMS

    try:
        await eventually(everything_runs, seconds=60)
        children = _children(process.pid)
        process.send_signal(number)
        async with asyncio.timeout(60):
            code = await process.wait()
        assert code != 0
        await _are_gone(children)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
