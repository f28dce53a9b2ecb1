"""A control that fails fast is quicker than a candidate that answers: it gets no users back, and recovers by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drills.report import Drill
from tests.drills.rollouts import USERS, drilled, has_weight, rollout
from tests.e2e.load import under_load
from tests.e2e.support import CHAT, eventually, status

pytestmark = pytest.mark.envoy

GUARDRAILS = "[{metric: error_rate, max: 20%}, {metric: latency_p95, max_increase: 20%, relative: true, harm: any}]"


async def test_a_control_that_fails_fast_gets_no_users_back(tmp_path: Path, drill: Drill) -> None:
    text = rollout(steps="[50, 100]", min_duration="1h", guardrails=GUARDRAILS)
    async with drilled(tmp_path, text) as running:
        await running.start_controller()
        for model in ("model-a", "model-b"):
            await running.behave(model, latency_ms=30.0, spread=0.3)
        async with under_load(running.url, USERS, pause=0.002) as load:
            load.path = CHAT
            await has_weight(running, 50.0)
            await running.behave("model-a", error_rate=0.97)

            async def said_first() -> bool:
                found = await status(running)
                return bool(found["control_broken"] and found["reason"].startswith("the control model-a is broken: "))

            await eventually(said_first, 60)
            await load.more(2000)
            found = await status(running)
            assert found["weights"] == {"model-a": 50.0, "model-b": 50.0}
            assert found["state"] == "progressing"
            assert "no users go back to model-a" in found["reason"]
            drill.operator_reads(found["reason"])

            await running.behave("model-a", error_rate=0.0)

            async def recovered() -> bool:
                return not (await status(running))["control_broken"]

            await eventually(recovered, 120)
            found = await status(running)
            assert found["weights"] == {"model-a": 50.0, "model-b": 50.0}
            assert "broken" not in found["reason"]
        drill.sent = len(load.answers)
