"""Harm that only one segment of the users meets, behind a real Envoy, is found by that segment's guardrail."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from abmesh.local.model_server import Behaviour
from tests.e2e.support import CHAT, PATH, abmesh, ask, document, in_state, session, stack

pytestmark = pytest.mark.envoy

USERS = 600
POWER = 6
"""Every so-manieth user is of the segment that the candidate fails."""

ROLLOUT = document(
    {"model-a": 100.0, "model-b": 0.0},
    extra="    segments: {header: x-user-segment, values: [power]}\n",
    rollout="""\
    rollout:
      candidate: model-b
      steps: [50]
      stage: {min_duration: 1h}
      guardrails:
        - {metric: error_rate, max: 40%}
        - {metric: error_rate, segment: power, max: 40%}
        - {metric: error_rate, segment: other, max: 40%}
      analysis: {emergency_stop: 100%}
""",
)


async def _users(client: aiohttp.ClientSession, url: str, first: int) -> None:
    """Users in turn; only those of the segment ask the model, which is what fails."""
    number = first
    while True:
        power = number % POWER == 0
        headers = {"x-user-id": f"user-{number % USERS}", "x-user-segment": "power" if power else "anything"}
        await ask(client, url, headers, CHAT if power else PATH)
        number += 5


async def test_harm_in_one_segment_alone_rolls_back_by_its_guardrail(tmp_path: Path) -> None:
    instant = Behaviour(latency_ms=1, spread=0, output_tokens=2)
    async with stack(tmp_path, ROLLOUT, behaviour=instant, interval=timedelta(milliseconds=500)) as running:
        await running.behave("model-b", error_rate=0.9)
        async with session() as client:
            users = [asyncio.create_task(_users(client, running.url, first)) for first in range(5)]
            try:
                found = await in_state(running, "rolled_back", 120)
            finally:
                for user in users:
                    user.cancel()
                await asyncio.gather(*users, return_exceptions=True)
        assert "error_rate of segment power" in found["reason"]
        code, output, errors = await abmesh("journal", "--json", "--state", str(running.state), config=running.config)
        assert code == 0, errors
        rolled_back = [entry for entry in map(json.loads, output.splitlines()) if entry["decision"] == "rollback"][-1]
        whole, power, other = rolled_back["judgements"]
        assert whole["value"] < 0.3 < 0.7 < power["value"]
        assert (power["verdict"], other["value"]) == ("harmful", 0)
        assert whole["n"] > 3 * power["n"]
        code, output, errors = await abmesh("replay", str(running.state / "journal.jsonl"))
        assert code == 0, errors
        assert ", 0 differ" in output
        code, output, errors = await abmesh("explain", "chat", "--state", str(running.state), config=running.config)
        assert code == 0, errors
        assert "error_rate of segment power max 40%: harmful" in output
        code, output, errors = await abmesh("analyze", "chat", "--state", str(running.state), config=running.config)
        assert code == 0, errors
        assert "error_rate by segment" in output
