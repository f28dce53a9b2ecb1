"""A control that fails fast, behind a real Envoy: its failures make it no faster, and are shown all the same."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from abmesh.local.model_server import Behaviour
from abmesh.local.stack import fetch
from tests.e2e.load import under_load
from tests.e2e.support import CHAT, abmesh, document, eventually, metric, stack, status

pytestmark = pytest.mark.envoy

USERS = [f"user-{number}" for number in range(400)]
SERVED_MS = 100
ROLLOUT = document(
    {"model-a": 100.0, "model-b": 0.0},
    rollout="""\
    rollout:
      candidate: model-b
      steps: [50, 60]
      on_broken_control: advance
      stage: {min_duration: 1s, max_duration: 1h, min_requests: 100}
      guardrails:
        - {metric: latency_p50, max_increase: 60%, relative: true}
        - {metric: latency_p95, max_increase: 60%, relative: true}
        - {metric: latency_mean, max_increase: 60%, relative: true}
""",
)


async def test_a_control_that_fails_fast_keeps_its_latency_and_the_candidate_goes_on(tmp_path: Path) -> None:
    """Of all its answers, four of five are errors within a few milliseconds: their p50 would be below 20 ms."""
    steady = Behaviour(latency_ms=SERVED_MS, spread=0.02, output_tokens=2)
    interval = timedelta(milliseconds=500)
    async with stack(tmp_path, ROLLOUT, behaviour=steady, interval=interval) as running:
        await running.behave("model-a", error_rate=0.8)
        async with under_load(running.url, USERS, concurrency=24, path=CHAT) as load:

            async def moved_on() -> bool:
                found = await status(running)
                assert found["state"] != "rolled_back", found["reason"]
                return bool(found["weights"]["model-b"] == 60)

            await eventually(moved_on, 120)
        asked = load.versions()
        code, output, errors = await abmesh("journal", "--json", "--state", str(running.state), config=running.config)
        assert code == 0, errors
        advanced = [entry for entry in map(json.loads, output.splitlines()) if entry["decision"] == "advance"][-1]
        for found in advanced["judgements"]:
            assert SERVED_MS * 0.8 < found["control"] < SERVED_MS * 2, found["metric"]
            assert SERVED_MS * 0.8 < found["value"] < SERVED_MS * 2, found["metric"]
        control, candidate = advanced["evidence"]["model-a"], advanced["evidence"]["model-b"]
        assert control["p50_ms"] < SERVED_MS / 2 < candidate["p50_ms"], "what is shown is of all answers"
        assert control["failed"] == control["errors"] > 0
        assert control["durations"] == pytest.approx(control["requests"], abs=control["requests"] * 0.2), (
            "flushed later"
        )
        assert "failed" not in candidate

        page = ""

        async def all_counted() -> bool:
            nonlocal page
            page = await fetch(f"{running.controller_url}/metrics") or ""
            timed = metric(page, "llm_request_duration_seconds_count")
            return timed == metric(page, "llm_requests_total") >= sum(asked.values())

        await eventually(all_counted, 30)
        errors_shown = metric(page, "llm_requests_total", model_version="model-a", status="503")
        assert errors_shown == metric(page, "llm_failed_request_duration_seconds_count", model_version="model-a")
        assert errors_shown >= sum(1 for _, answer in load.answers if answer.status == 503) > 0
        code, output, errors = await abmesh("replay", str(running.state / "journal.jsonl"))
        assert code == 0, errors
        assert ", 0 differ" in output
