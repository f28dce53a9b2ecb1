"""The controller against a real Envoy: kills, restarts, absences, a second controller and a person's edit."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from abmesh.local.model_server import Behaviour
from abmesh.local.processes import Child, free_ports
from abmesh.local.stack import Stack, answers, fetch
from tests.e2e.load import under_load
from tests.e2e.support import CHAT, abmesh, document, eventually, in_state, stack, status

pytestmark = pytest.mark.envoy

USERS = [f"user-{number}" for number in range(400)]
TICK = timedelta(milliseconds=200)


def _rollout(min_duration: str = "500ms", min_requests: int = 5, guardrails: str = "") -> str:
    return document(
        {"model-a": 100.0, "model-b": 0.0},
        rollout=f"""\
    rollout:
      candidate: model-b
      steps: [20, 50, 100]
      stage: {{min_duration: {min_duration}, min_requests: {min_requests}}}
      guardrails:
        - {{metric: error_rate, max: 5%}}
{guardrails}""",
    )


async def _journal(running: Stack) -> list[dict[str, Any]]:
    code, output, errors = await abmesh("journal", "--json", "--state", str(running.state), config=running.config)
    assert code == 0, errors
    return [json.loads(line) for line in output.splitlines()]


async def _moves(running: Stack) -> list[tuple[str, float, float]]:
    """Every decision that moved the candidate: kind, its weight before, its weight after."""
    return [
        (record["decision"], record["weights_before"]["model-b"], record["weights_after"]["model-b"])
        for record in await _journal(running)
        if record["weights_before"] != record["weights_after"]
    ]


EVERY_STEP_ONCE = [("advance", 0, 20), ("advance", 20, 50), ("advance", 50, 100)]


async def test_a_controller_killed_at_any_moment_skips_no_step_and_repeats_none(tmp_path: Path) -> None:
    moments = random.Random(7)
    async with stack(tmp_path, _rollout(), interval=TICK) as running:
        controller = running.children["controller"]
        async with under_load(running.url, USERS) as load:
            kills = 0
            while (await status(running))["state"] != "promoted":
                assert kills < 40, "the rollout makes no progress"
                await asyncio.sleep(moments.uniform(0.0, 2.0))
                await controller.kill()
                kills += 1
                await controller.start()
                await controller.wait_until(lambda: answers(f"{running.controller_url}/healthz"))
        assert not load.failures
        assert kills >= 2
        assert await _moves(running) == EVERY_STEP_ONCE


async def test_a_restarted_envoy_causes_no_false_decision(tmp_path: Path) -> None:
    async with stack(tmp_path, _rollout("1s", 20), interval=TICK) as running:
        envoy = running.children["envoy"]
        for _ in range(2):
            async with under_load(running.url, USERS) as load:
                await load.more(100)
            assert not load.failures
            await envoy.kill()
            await envoy.start()
            await envoy.wait_until(lambda: answers(f"{running.admin}/ready"))
        async with under_load(running.url, USERS):
            await in_state(running, "promoted")
        assert await _moves(running) == EVERY_STEP_ONCE
        for record in await _journal(running):
            for judgement in record.get("judgements", ()):
                assert judgement["value"] is None or judgement["value"] >= 0


async def test_low_traffic_holds_and_so_does_an_admin_endpoint_that_does_not_answer(tmp_path: Path) -> None:
    async with stack(tmp_path, _rollout("500ms", 1000), interval=TICK) as running:
        async with under_load(running.url, USERS) as load:
            await load.more(200)

        async def holds_because_of(what: str) -> bool:
            found = await status(running)
            return found["last_decision"] == "hold" and what in found["reason"]

        await eventually(lambda: holds_because_of("1000"))
        before = await status(running)
        assert before["weights"]["model-b"] == 20
        running.children["envoy"].signal(signal.SIGSTOP)
        await eventually(lambda: holds_because_of(running.admin))
        running.children["envoy"].signal(signal.SIGCONT)
        after = await status(running)
        assert (after["weights"], after["state"]) == (before["weights"], "progressing")


async def test_failing_requests_roll_back_at_once_without_waiting_for_the_stage(tmp_path: Path) -> None:
    async with stack(tmp_path, _rollout("1h"), interval=TICK) as running:
        await running.behave("model-b", error_rate=0.5)
        async with under_load(running.url, USERS, pause=0.001) as load:
            load.path = CHAT
            found = await in_state(running, "rolled_back")
        assert found["weights"] == {"model-a": 100.0, "model-b": 0.0}
        assert "error_rate" in found["reason"]
        assert await _moves(running) == [("advance", 0, 20), ("rollback", 20, 0)]


async def test_a_slow_candidate_is_rolled_back_on_its_latency_quantile(tmp_path: Path) -> None:
    slow = "        - {metric: latency_p95, max: 100ms}\n"
    async with stack(tmp_path, _rollout("1h", guardrails=slow), interval=TICK, behaviour=Behaviour(20)) as running:
        await running.behave("model-b", latency_ms=200)
        async with under_load(running.url, USERS, concurrency=8) as load:
            load.path = CHAT
            found = await in_state(running, "rolled_back")
        assert "latency_p95" in found["reason"]


async def test_a_persons_edit_turns_the_experiment_manual_until_resume(tmp_path: Path) -> None:
    async with stack(tmp_path, _rollout("1h"), interval=TICK) as running:

        async def started() -> bool:
            return bool((await status(running))["weights"]["model-b"] == 20)

        await eventually(started)
        code, _, errors = await abmesh("weights", "chat", "model-b=35", config=running.config)
        assert code == 0, errors
        found = await in_state(running, "manual")
        assert found["weights"] == {"model-a": 65.0, "model-b": 35.0}
        state = ("--state", str(running.state))
        code, _, errors = await abmesh("resume", "chat", "--yes", *state, config=running.config)
        assert code == 0, errors
        await in_state(running, "progressing")
        code, _, errors = await abmesh("pause", "chat", *state, config=running.config)
        assert code == 0, errors
        await in_state(running, "paused")
        code, _, errors = await abmesh("rollback", "chat", *state, config=running.config)
        assert code == 0, errors
        found = await in_state(running, "rolled_back")
        assert found["weights"] == {"model-a": 100.0, "model-b": 0.0}
        code, _, errors = await abmesh("rollback", "chat", *state, config=running.config)
        assert code == 1
        assert "Traceback" not in errors
        code, _, errors = await abmesh("promote", "chat", "--yes", *state, config=running.config)
        assert code == 0, errors
        found = await in_state(running, "promoted")
        assert found["weights"] == {"model-a": 0.0, "model-b": 100.0}


async def test_a_second_controller_stands_by_and_takes_over(tmp_path: Path) -> None:
    async with stack(tmp_path, _rollout(), interval=TICK) as running:
        first = running.children["controller"]
        port = free_ports(1)[0]
        url = f"http://127.0.0.1:{port}"
        command = [
            sys.executable,
            "-m",
            "abmesh.cli",
            "controller",
            "--config",
            str(running.config),
            "--envoy",
            running.admin,
        ]
        command += ["--state", str(running.state), "--interval", "200ms", "--settle", "500ms"]
        second = Child("second", [*command, "--http", f"127.0.0.1:{port}"], tmp_path / "second.log")
        try:
            await second.start()
            await second.wait_until(lambda: answers(f"{url}/healthz"))
            assert "standby" in (await fetch(f"{url}/healthz") or "")
            await first.kill()

            async def leads() -> bool:
                return "standby" not in (await fetch(f"{url}/healthz") or "standby")

            await eventually(leads)
            async with under_load(running.url, USERS):
                await in_state(running, "promoted")
            assert await _moves(running) == EVERY_STEP_ONCE
        finally:
            await second.stop()
