"""A hot restart of Envoy right after new weights, with a settle time shorter than Envoy's flush interval.

The new process takes over, and counts again, what the old one counted since its last flush: most of it under the old
weights.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from abmesh.local.processes import Child
from abmesh.local.stack import Stack, answers, fetch
from tests.drills.report import Drill
from tests.drills.rollouts import USERS, drilled, rollout
from tests.e2e.load import under_load
from tests.e2e.support import abmesh, eventually, in_state, status

pytestmark = pytest.mark.envoy

FLUSH = timedelta(seconds=5)  # Envoy's own default


def _envoy(running: Stack, epoch: int) -> Child:
    command = [part for part in running.children["envoy"].command if part != "--use-dynamic-base-id"]
    restart = ["--base-id", str(running.ports["admin"]), "--restart-epoch", str(epoch)]
    times = ["--drain-time-s", "1", "--parent-shutdown-time-s", "2"]
    return Child(f"envoy-{epoch}", [*command, *restart, *times], running.folder / f"envoy-{epoch}.log")


async def test_a_hot_restart_of_envoy_raises_no_sample_ratio_alarm_and_the_rollout_goes_on(
    tmp_path: Path, drill: Drill
) -> None:
    text = rollout(steps="[50]", min_duration="3s", min_requests=300)
    async with drilled(tmp_path, text, flush=FLUSH) as running:
        await running.children["envoy"].stop()
        old, new = _envoy(running, 0), _envoy(running, 1)
        try:
            await old.start()
            await old.wait_until(lambda: answers(f"{running.admin}/ready"))
            await old.wait_until(running._assigns)
            async with under_load(running.url, USERS, pause=0) as load:

                async def flushed() -> bool:
                    return "uptime: 0" not in (
                        await fetch(f"{running.admin}/stats?filter=server.uptime") or "uptime: 0"
                    )

                # What is counted from here on is what the new process takes over: first, requests of the old weights.
                await eventually(flushed)
                await load.more(800)
                await running.start_controller()

                async def collects() -> bool:
                    return bool((await status(running))["requests"] > 20)

                await eventually(collects)
                await new.start()

                async def took_over() -> bool:
                    return "epoch: 1" in (await fetch(f"{running.admin}/stats?filter=hot_restart_epoch") or "")

                await eventually(took_over)
                found = await in_state(running, "promoted")
            code, output, errors = await abmesh(
                "journal", "--json", "--state", str(running.state), config=running.config
            )
            assert code == 0, errors
            journal = [json.loads(line) for line in output.splitlines()]
        finally:
            await new.stop()
            await old.stop()
    drill.sent, drill.failed = len(load.answers), len(load.failures)
    drill.operator_reads(found["reason"])
    assert not load.failures
    assert "sample_ratio" not in [entry["cause"] for entry in journal]
    assert not any(entry.get("balance", {}).get("alarm") for entry in journal)
