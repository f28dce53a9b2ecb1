"""A candidate that fails once it has all users: the emergency stop gives them back to a control that answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from abmesh.local.stack import answers
from tests.drills.report import Drill
from tests.drills.rollouts import USERS, drilled, rollout
from tests.e2e.load import under_load
from tests.e2e.support import CHAT, abmesh, eventually, in_state, status

pytestmark = pytest.mark.envoy

# A comparison with the control is all that guards this rollout: nothing but the emergency stop is in force at 100%.
COMPARED = "[{metric: error_rate, max_increase: 5%}]"


async def test_a_promoted_candidate_that_fails_goes_back_to_a_control_that_answers(
    tmp_path: Path, drill: Drill
) -> None:
    text = rollout(steps="[100]", min_duration="500ms", guardrails=COMPARED)
    async with drilled(tmp_path, text) as running:
        await running.start_controller()
        control = running.children["model-a"]
        async with under_load(running.url, USERS, pause=0.002) as load:
            load.path = CHAT

            # By the last step, while the control is dead: users stay where some of them are served.
            await in_state(running, "promoted")
            await control.stop()
            await running.behave("model-b", error_rate=0.5)

            async def no_way_back() -> bool:
                found = await status(running)
                return "model-a did not answer a probe" in found["reason"] and found["state"] == "promoted"

            await eventually(no_way_back)
            drill.operator_reads((await status(running))["reason"])
            assert (await status(running))["weights"] == {"model-a": 0.0, "model-b": 100.0}
            await control.start()
            await control.wait_until(lambda: answers(f"{running.model_url('model-a')}/healthz"))
            found = await in_state(running, "rolled_back")
            assert found["weights"] == {"model-a": 100.0, "model-b": 0.0}
            assert "emergency stop: error_rate" in found["reason"]
            assert "which answered a probe in" in found["reason"]
            drill.operator_reads(found["reason"])

            # By hand.
            await running.behave("model-b", error_rate=0.0)
            state = ("--state", str(running.state))
            code, _, errors = await abmesh("promote", "chat", "--yes", *state, config=running.config)
            assert code == 0, errors
            first = await load.more(100)
            assert set(load.versions(first + 50)) == {"model-b"}
            await running.behave("model-b", error_rate=0.5)
            found = await in_state(running, "rolled_back")
            assert found["weights"] == {"model-a": 100.0, "model-b": 0.0}
        drill.sent, drill.failed = len(load.answers), len(load.broken)
