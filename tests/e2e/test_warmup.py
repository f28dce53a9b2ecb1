"""A cold candidate behind a real Envoy: it is warmed, gets users only afterwards, and nothing counts the warm-up."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from abmesh.local.model_server import Behaviour
from abmesh.local.stack import Stack, answers, fetch
from tests.e2e.load import under_load
from tests.e2e.support import CHAT, abmesh, document, envoy_stats, eventually, metric, stack, status

pytestmark = pytest.mark.envoy

USERS = [f"user-{number}" for number in range(200)]
TICK = timedelta(milliseconds=200)
COLD_SECONDS = 1.0
COLD = Behaviour(latency_ms=10, spread=0, output_tokens=2, cold_requests=4, cold_factor=COLD_SECONDS * 1000 / 10)

# The tolerance is wide because a busy machine is unsteady; cold and warm are a hundred times apart.
ROLLOUT = document(
    {"model-a": 100.0, "model-b": 0.0},
    rollout="""\
    rollout:
      candidate: model-b
      steps: [50]
      stage: {min_duration: 1h, min_requests: 1}
      guardrails:
        - {metric: error_rate, max: 50%}
      warmup:
        path: /v1/chat/completions
        body: '{"messages": [{"role": "user", "content": "Hello"}]}'
        headers: {x-warm-up: "yes"}
        min_requests: 12
        settled: 60%
""",
)


async def _reason(running: Stack) -> str:
    return str((await status(running))["reason"])


async def _says(running: Stack, text: str) -> None:
    async def said() -> bool | str:
        return text in (reason := await _reason(running)) or reason[:0]

    await eventually(said, seconds=60)


async def _journal(running: Stack) -> list[dict[str, Any]]:
    code, output, errors = await abmesh("journal", "--json", "--state", str(running.state), config=running.config)
    assert code == 0, errors
    return [json.loads(line) for line in output.splitlines()]


async def test_a_cold_candidate_is_warmed_before_its_first_users_and_no_statistic_counts_it(tmp_path: Path) -> None:
    async with stack(tmp_path, ROLLOUT, interval=TICK, behaviour=COLD) as running:
        await _says(running, "model-b at 0% is warming up: ")
        assert (await status(running))["weights"]["model-b"] == 0
        assert not [name for name in await envoy_stats(running, "^abmesh") if ".model-b." in name]
        async with under_load(running.url, USERS) as load:
            load.path = CHAT

            async def started() -> bool:  # by the journal: the status says it for one tick only
                text = "the rollout of model-b starts at 50%; it warmed up with "
                return any(text in entry["reason"] for entry in await _journal(running))

            await eventually(started, seconds=60)
            first = await load.more(200)
            assert load.versions(first)["model-b"] > 0
        assert not load.failures
        mine = [answer for _, answer in load.answers if answer.variant == "model-b"]
        # Fewer than a cold model's; a busy machine may be slow all the same.
        assert sum(answer.seconds >= COLD_SECONDS for answer in mine) < COLD.cold_requests

        async def counted() -> int:
            found = await envoy_stats(running, "^abmesh[.](requests|unassigned)[.].*code[.]200$")
            return sum(found.values())

        # Envoy counts just after the client has its answer, and each of four clients may have gone away without it.
        async def all_counted() -> bool:
            return await counted() >= len(load.answers)

        await eventually(all_counted)
        assert await counted() <= len(load.answers) + 4

        warming, *_, advance = [entry for entry in await _journal(running) if entry["warmup"]]
        assert (warming["decision"], warming["cause"]) == ("hold", "warming")
        assert (advance["decision"], advance["cause"]) == ("advance", "starting")
        warmup = advance["warmup"]
        assert warmup["first_ms"] >= COLD_SECONDS * 1000 > 2 * warmup["after_ms"]
        assert warmup["requests"] >= 12
        assert advance["weights_after"]["model-b"] == 50
        code, output, errors = await abmesh("replay", str(running.state / "journal.jsonl"))
        assert code == 0, output + errors
        metrics = await fetch(f"{running.controller_url}/metrics")
        assert metrics is not None
        count = "abmesh_controller_warmup_request_seconds_count"
        assert metric(metrics, count, result="succeeded", model_version="model-b") >= warmup["requests"]
        assert metric(metrics, count, result="failed") == 0
        assert metric(metrics, "abmesh_controller_warming", experiment="chat") == 0


async def test_a_controller_that_is_killed_in_the_middle_warms_afresh(tmp_path: Path) -> None:
    async with stack(tmp_path, ROLLOUT, interval=TICK, behaviour=COLD) as running:
        controller = running.children["controller"]
        await _says(running, "model-b at 0% is warming up: ")
        await controller.kill()
        killed = datetime.now(UTC)
        await controller.start()
        await controller.wait_until(lambda: answers(f"{running.controller_url}/healthz"))
        await _says(running, "the rollout of model-b starts at 50%; it warmed up with ")
        moves = [entry for entry in await _journal(running) if entry["weights_before"] != entry["weights_after"]]
        assert [entry["decision"] for entry in moves] == ["advance"]
        assert datetime.fromisoformat(moves[0]["warmup"]["began"]) > killed


async def test_a_candidate_that_only_fails_gets_no_users_and_is_tried_again(tmp_path: Path) -> None:
    failing = ROLLOUT.replace("settled: 60%", "settled: 60%\n        max_duration: 2s")
    async with stack(tmp_path, failing, interval=TICK, behaviour=Behaviour(1, 0, 1.0, output_tokens=1)) as running:
        await _says(running, "model-b at 0% could not warm up: all ")
        assert "the last one with: status 503" in await _reason(running)
        assert (await status(running))["weights"]["model-b"] == 0
        assert (await status(running))["state"] == "progressing"
