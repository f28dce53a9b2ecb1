"""A process keeps every lock while a candidate fails: it is rolled back all the same, and the process is named."""

from __future__ import annotations

import asyncio
import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from abmesh.local.stack import answers
from tests.drills.controllers import USERS, account, controller, has, health, holding, moves, rollout, shown, statuses
from tests.drills.report import Drill
from tests.e2e.load import under_load
from tests.e2e.support import CHAT, eventually, stack

pytestmark = pytest.mark.envoy

TICK = timedelta(milliseconds=200)


@pytest.fixture
def open_path(short_path: Path) -> Path:
    """A folder that everybody may look into."""
    short_path.chmod(0o755)
    return short_path


async def test_harm_is_rolled_back_and_recorded_when_the_locks_are_free(tmp_path: Path, drill: Drill) -> None:
    async with stack(tmp_path, rollout(), interval=TICK) as running:
        await eventually(has(running, weight=50))
        locks = [
            running.state / "state.lock",
            running.state / "journal.lock",
            running.folder / ".experiments.yaml.lock",
        ]
        with holding(*locks) as holder:
            async with under_load(running.url, USERS, pause=0.001) as load:
                load.path = CHAT
                await load.more(50)
                await running.behave("model-b", error_rate=0.5)
                await eventually(has(running, weight=0))

                async def named() -> bool:
                    return f"process {holder} (" in statuses(running)["chat"]["failure"]

                await eventually(named)
            account(drill, load, harmed=True)
            assert f"process {holder} (" in await shown(running)
            drill.operator_reads(f"status: {statuses(running)['chat']['failure']}")
        await eventually(has(running, state="rolled_back"))
        assert await moves(running) == [("advance", 0, 50), ("rollback", 50, 0)]
    assert (drill.failed, drill.wrong) == (0, 0)


async def test_harm_is_rolled_back_although_the_documents_lock_was_taken_before_an_advance(
    tmp_path: Path, drill: Drill
) -> None:
    async with stack(tmp_path, rollout(min_duration="1s", steps="[20, 50, 100]"), interval=TICK) as running:
        async with under_load(running.url, USERS, pause=0.001) as load:
            load.path = CHAT
            await eventually(has(running, weight=20))
            with holding(running.folder / ".experiments.yaml.lock") as holder:

                async def pending() -> bool:
                    found = statuses(running)["chat"]
                    return f"process {holder} (" in found["failure"] and found["weights"]["model-b"] == 20

                await eventually(pending)  # the advance has begun, and cannot be finished
                drill.operator_reads(f"status: {statuses(running)['chat']['failure']}")
                await running.behave("model-b", error_rate=0.5)
                await eventually(has(running, weight=0))
            await eventually(has(running, state="rolled_back"))
        account(drill, load, harmed=True)
        assert await moves(running) == [("advance", 0, 20), ("rollback", 20, 0)]
    assert (drill.failed, drill.wrong) == (0, 0)


async def test_harm_is_rolled_back_although_no_controller_can_lead(tmp_path: Path, drill: Drill) -> None:
    """Somebody has the leader's lock, too."""
    async with stack(tmp_path, rollout()) as running:
        text = running.config.read_text().replace("weight: 100.0", "weight: 50").replace("weight: 0.0", "weight: 50")
        running.config.write_text(text)
        running.state.mkdir(0o700)
        names = ("leader.lock", "state.lock", "journal.lock")
        locks = [*(running.state / name for name in names), running.folder / ".experiments.yaml.lock"]
        with holding(*locks) as holder:
            standby, url = controller(running, "standby")
            await standby.start()
            try:
                await standby.wait_until(lambda: answers(f"{url}/healthz"))
                async with under_load(running.url, USERS, pause=0.001) as load:
                    load.path = CHAT
                    await running.behave("model-b", error_rate=0.5)
                    await eventually(has(running, weight=0))
                account(drill, load, harmed=True)
                found = await health(url)
                assert (found["status"], found["leader_stalled"]) == ("standby", True)
                assert f"process {holder} (" in statuses(running)["chat"]["controller_error"]
                drill.operator_reads(f"status: {statuses(running)['chat']['controller_error']}")
            finally:
                await standby.kill()
    assert (drill.failed, drill.wrong) == (0, 0)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("flock") is None, reason="needs root and the flock program")
async def test_another_user_cannot_take_any_lock(open_path: Path, drill: Drill) -> None:
    async with stack(open_path, rollout(), interval=TICK) as running:
        locks = [running.state / name for name in ("leader.lock", "state.lock", "journal.lock")]
        locks.append(running.folder / ".experiments.yaml.lock")

        async def all_there() -> bool:
            return all(lock.exists() for lock in locks)

        await eventually(all_there)
        for lock in locks:
            process = await asyncio.create_subprocess_exec(
                *("flock", "--nonblock", str(lock), "true"), user=65534, stderr=asyncio.subprocess.PIPE
            )
            _, errors = await process.communicate()
            assert b"Permission denied" in errors, lock
        drill.operator_reads(f"another user: {errors.decode().splitlines()[-1]}")
