"""Rollouts that wait for a warm candidate: reconciler, journal, replay, status, and command output."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from abmesh.analysis.replay import replay
from controller.decision.warmup import Target, Warmups, progress_of
from controller.loop import Controller
from controller.metrics.telemetry import Telemetry
from controller.records import Cause, Kind, Phase
from controller.rollout import commands
from controller.rollout.status import read_status
from controller.rollout.tick import TickReport
from controller.rollout.warmer import Warmer
from controller.settings import Settings
from controller.sources.base import Observation
from controller.state.lease import Lease
from tests.abmesh.cli.calls import call
from tests.controller.support import DOCUMENT, NAME, World, world

SECRET = "s3cret"
WARM = f"""\
      warmup:
        path: /v1/x
        body: "{SECRET}"
        headers: {{authorization: "{SECRET}"}}
        min_requests: 10
"""
WARMED = DOCUMENT + WARM
COLD_FIRST: Sequence[float | None] = [900.0] * 4 + [180.0] * 20


def _settings(subject: World) -> Settings:
    return Settings(subject.folder.parent / "experiments.yaml", state_dir=subject.folder)


def _target(report: TickReport) -> Target:
    (outcome,) = report.outcomes
    assert outcome.warms is not None
    return outcome.warms


def _warmups(subject: World, target: Target, durations: Sequence[float | None], problem: str = "") -> Warmups:
    """A warmer's progress after requests that took so long."""
    progress = progress_of(durations, target.warmup)
    known = {"listeners": 1, "began": subject.now, "problem": problem}
    return Warmups(1, {target.experiment: (target, progress.model_copy(update=known))})


def _begun(folder: Path, text: str = WARMED) -> tuple[World, Target]:
    subject = world(folder, text)
    return subject, _target(subject.tick(warmups=Warmups(1)))


def _reason(subject: World) -> str:
    (found,) = read_status(_settings(subject))
    assert found.decision is not None
    return found.decision.reason


def _replays(subject: World) -> None:
    for item in replay(subject.journal()):
        assert item.differences == (), (item.entry.kind, item.differences)


def test_a_candidate_gets_its_first_users_when_it_is_warm(tmp_path: Path) -> None:
    subject, target = _begun(tmp_path)
    assert subject.weight() == 0
    assert _reason(subject) == "model-b at 0% is about to warm up"
    subject.tick(warmups=_warmups(subject, target, COLD_FIRST[:8]))
    assert subject.weight() == 0
    assert _reason(subject) == "model-b at 0% is warming up: 8 of at most 100 requests, last 180 ms"
    report = subject.tick(warmups=_warmups(subject, target, COLD_FIRST))
    assert subject.weight() == 1000
    assert report.outcomes[0].warms is None
    assert _reason(subject) == "the rollout of model-b starts at 10%; it warmed up with 24 requests: 900 ms -> 180 ms"
    entries = subject.journal()
    assert [entry.cause for entry in entries] == [Cause.WARMING, Cause.STARTING]
    assert entries[-1].inputs is not None
    assert entries[-1].inputs["warmup"]["requests"] == 24
    _replays(subject)


def test_replay_finds_a_warm_up_that_differs_from_the_journal(tmp_path: Path) -> None:
    subject, target = _begun(tmp_path)
    subject.tick(warmups=_warmups(subject, target, COLD_FIRST))
    entry = subject.journal()[-1]
    assert entry.inputs is not None
    colder = {**entry.inputs, "warmup": {**entry.inputs["warmup"], "after_ms": 90.0}}
    (found,) = replay([entry.model_copy(update={"inputs": colder})])
    assert any("recorded advance, recomputed hold" in text for text in found.differences)


def test_bodies_and_headers_of_warm_up_requests_are_in_no_state_file(tmp_path: Path) -> None:
    subject, target = _begun(tmp_path)
    subject.tick(warmups=_warmups(subject, target, COLD_FIRST))
    for path in subject.folder.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    assert SECRET in target.warmup.body


def test_without_a_listener_it_holds_and_says_what_to_do(tmp_path: Path) -> None:
    subject = world(tmp_path, WARMED)
    for _ in range(3):
        subject.tick()
    assert subject.weight() == 0
    assert "the controller knows no warm-up listener; start it with --warmup" in _reason(subject)
    assert [entry.cause for entry in subject.journal()] == [Cause.WARMUP_FAILED]
    _replays(subject)


def test_a_candidate_that_does_not_answer_gets_no_users(tmp_path: Path) -> None:
    subject, target = _begun(tmp_path)
    subject.tick(warmups=_warmups(subject, target, [None] * 100, "status 503"))
    assert subject.weight() == 0
    assert subject.phase() is Phase.PROGRESSING
    assert "all 100 requests failed, the last one with: status 503" in _reason(subject)
    assert [entry.cause for entry in subject.journal()] == [Cause.WARMING, Cause.WARMUP_FAILED]
    _replays(subject)


def test_a_candidate_that_does_not_settle_gets_users_and_the_reason_says_so(tmp_path: Path) -> None:
    subject, target = _begun(tmp_path)
    subject.tick(warmups=_warmups(subject, target, [1000 * 0.99**n for n in range(100)]))
    assert subject.weight() == 1000
    assert "although its latency has not settled: 1000 ms -> " in _reason(subject)
    _replays(subject)


def test_a_restarted_controller_warms_up_again(tmp_path: Path) -> None:
    subject, target = _begun(tmp_path)
    subject.tick(warmups=_warmups(subject, target, COLD_FIRST[:8]))
    subject.restart()
    report = subject.tick(warmups=Warmups(1))
    assert (_target(report), report.outcomes[0].decision.cause) == (target, Cause.WARMING)
    assert _reason(subject) == "model-b at 0% is about to warm up"


def test_an_envoy_that_does_not_answer_holds_before_the_warm_up_and_does_not_end_it(tmp_path: Path) -> None:
    subject, target = _begun(tmp_path)
    subject.absent = set(subject.envoys)
    report = subject.tick(warmups=_warmups(subject, target, COLD_FIRST))
    assert report.outcomes[0].decision.cause is Cause.MISSING_DATA
    assert (report.outcomes[0].warms, subject.weight()) == (target, 0)


def test_a_paused_rollout_does_not_warm_up_and_resume_starts_again(tmp_path: Path) -> None:
    subject, target = _begun(tmp_path)
    commands.pause(_settings(subject), NAME, now=subject.now)
    warm = _warmups(subject, target, COLD_FIRST)
    report = subject.tick(warmups=warm)
    assert (report.outcomes[0].decision.cause, report.outcomes[0].warms) == (Cause.PAUSED, None)
    commands.resume(_settings(subject), NAME, now=subject.now)
    again = _target(subject.tick(warmups=warm))
    assert again == replace(target, stage=again.stage)
    assert again.stage != target.stage
    assert subject.weight() == 0


def test_a_manual_rollout_does_not_warm_up(tmp_path: Path) -> None:
    subject, _ = _begun(tmp_path)
    path = tmp_path / "experiments.yaml"
    text = path.read_text().replace("weight: 100,", "weight: 90,").replace("weight: 0}", "weight: 10}")
    path.write_text(text)
    report = subject.tick(warmups=Warmups(1))
    assert (subject.phase(), report.outcomes[0].warms) == (Phase.MANUAL, None)


def test_a_finished_rollout_and_a_candidate_with_users_do_not_warm(tmp_path: Path) -> None:
    subject, target = _begun(tmp_path)
    subject.tick(warmups=_warmups(subject, target, COLD_FIRST))
    assert subject.tick(warmups=Warmups(1)).outcomes[0].warms is None
    commands.rollback(_settings(subject), NAME, now=subject.now)
    report = subject.tick(warmups=Warmups(1))
    assert (report.outcomes[0].decision.cause, report.outcomes[0].warms) == (Cause.FINISHED, None)


def test_promote_gives_a_cold_candidate_users(tmp_path: Path) -> None:
    subject, _ = _begun(tmp_path)
    commands.promote(_settings(subject), NAME, full=False, now=subject.now)
    report = subject.tick(warmups=Warmups(1))
    assert (subject.weight(), report.outcomes[0].warms) == (1000, None)


def test_edited_limits_start_the_warm_up_again(tmp_path: Path) -> None:
    subject, target = _begun(tmp_path)
    path = tmp_path / "experiments.yaml"
    path.write_text(path.read_text().replace("min_requests: 10\n", "min_requests: 50\n"))
    report = subject.tick(warmups=_warmups(subject, target, COLD_FIRST))
    assert (_target(report).warmup.min_requests, subject.weight()) == (50, 0)
    assert _reason(subject) == "model-b at 0% is about to warm up"


@pytest.mark.parametrize(("durations", "stand"), [(COLD_FIRST[:8], "going"), (COLD_FIRST, "warm")])
def test_explain_and_journal_show_it(tmp_path: Path, durations: Sequence[float | None], stand: str) -> None:
    subject, target = _begun(tmp_path)
    # The hold that was about to warm is in the journal, and another is only due ten minutes later.
    subject.now = subject.now.replace(hour=13)
    subject.tick(warmups=_warmups(subject, target, durations))
    places = ("--config", str(tmp_path / "experiments.yaml"), "--state", str(subject.folder))
    shown = call("explain", NAME, *places).out
    progress = "is warming up: 8" if stand == "going" else "warmed up with 24 requests: 900 ms -> "
    assert f"\nwarm-up: {progress}" in shown
    assert "warm-up: 10 to 100 requests in at most 5m, until the median of the last ones is at most 10% below" in shown
    found = json.loads(call("explain", NAME, "--json", *places).out)["warmup"]
    assert (found["stand"], found["requests"], found["last_ms"]) == (stand, len(durations), 180.0)
    lines = call("journal", "--json", "--state", str(subject.folder), "--config", places[1]).out.splitlines()
    assert json.loads(lines[-1])["warmup"]["requests"] == len(durations)


class _Source:
    def __init__(self, subject: World) -> None:
        self.subject = subject

    async def observe(self) -> list[Observation]:
        return self.subject.observe()

    async def close(self) -> None:
        """Nothing to close."""


async def test_the_loop_keeps_ticking_while_warm_up_requests_hang_and_starts_the_rollout_once_they_settle(
    tmp_path: Path,
) -> None:
    subject = world(tmp_path, WARMED.replace("min_requests: 10\n", "min_requests: 4\n        settled: 90%\n"))
    gate, asked = asyncio.Event(), asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        asked.set()
        await gate.wait()
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_post("/v1/x", answer)
    telemetry, lease = Telemetry(), Lease(subject.folder)
    async with TestServer(app, handler_cancellation=True) as server:
        warmer = Warmer([str(server.make_url("")).rstrip("/")], on_request=telemetry.record_warmup_request)
        controller = Controller(
            Settings(Path("e.yaml")),
            source=_Source(subject),
            reconciler=subject.reconciler,
            lease=lease,
            telemetry=telemetry,
            warmer=warmer,
            clock=lambda: subject.now,
        )

        def metric(name: str) -> list[str]:
            return [line for line in telemetry.render().decode().splitlines() if line.startswith(name)]

        try:
            await controller.tick()
            async with asyncio.timeout(30):
                await asked.wait()
                for _ in range(3):
                    await controller.tick()
                assert controller.error == ""
                assert _reason(subject) == "model-b at 0% is warming up: 0 of at most 100 requests"
                assert metric("abmesh_controller_warming{") == ['abmesh_controller_warming{experiment="chat"} 1.0']
                gate.set()
                while subject.weight() == 0:
                    await controller.tick()
            assert "warmed up with" in _reason(subject)
            await controller.tick()
            assert metric("abmesh_controller_warming{") == ['abmesh_controller_warming{experiment="chat"} 0.0']
            labels = '{experiment="chat",model_version="model-b",result="succeeded"}'
            (line,) = metric(f"abmesh_controller_warmup_request_seconds_count{labels}")
            assert float(line.rpartition(" ")[2]) >= 4
            assert warmer.warmups().known == {}
        finally:
            await warmer.close()
            lease.release()
    assert [entry.kind for entry in subject.journal()][:2] == [Kind.HOLD, Kind.ADVANCE]
    _replays(subject)
