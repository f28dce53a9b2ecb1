"""The leader hangs and keeps its lock: everybody sees it, harm is rolled back, and systemd is told nothing any more."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

import pytest

from abmesh.local.stack import answers
from tests.drills.controllers import USERS, account, controller, has, health, moves, rollout, shown, statuses
from tests.drills.report import Drill
from tests.e2e.load import under_load
from tests.e2e.support import CHAT, eventually, stack

pytestmark = pytest.mark.envoy


async def _knows_the_leader(url: str) -> bool:
    return "leader_stalled" in await health(url)


async def test_a_stopped_leader_is_seen_and_harm_is_rolled_back(tmp_path: Path, drill: Drill) -> None:
    async with stack(tmp_path, rollout()) as running:
        leader, leader_url = controller(running, "leader")
        standby, url = controller(running, "standby")
        await leader.start()
        await leader.wait_until(lambda: answers(f"{leader_url}/healthz"))
        await eventually(has(running, weight=50))
        await standby.start()
        try:
            await standby.wait_until(lambda: answers(f"{url}/healthz"))
            # Before its first tick it does not know that somebody leads.
            await eventually(lambda: _knows_the_leader(url))
            found = await health(url)
            assert (found["status"], found["leader_stalled"]) == ("standby", False)
            assert found["leader_last_tick_seconds_ago"] < 5

            leader.signal(signal.SIGSTOP)
            await eventually(lambda: _sees_the_stall(url))
            seen = statuses(running)["chat"]
            assert f"{leader.pid} on " in seen["controller_error"]
            assert seen["controller_last_tick_seconds_ago"] > 5
            assert "has not finished a tick" in await shown(running)
            drill.operator_reads(f"status: {seen['controller_error']}", f"/healthz: {await health(url)}")

            async with under_load(running.url, USERS, pause=0.001) as load:
                load.path = CHAT
                await load.more(50)
                await running.behave("model-b", error_rate=0.5)
                await eventually(has(running, weight=0))
            account(drill, load, harmed=True)

            leader.signal(signal.SIGCONT)  # it goes on in the middle of whatever it was doing
            await eventually(has(running, state="manual", weight=0))
            assert await moves(running) == [("advance", 0, 50), ("rollback", 50, 0)]
            leader.signal(signal.SIGSTOP)
            await leader.kill()
            await eventually(lambda: _leads(url))
        finally:
            await standby.stop()
            await leader.stop()
    assert (drill.failed, drill.wrong) == (0, 0)


async def test_the_service_manager_hears_of_every_tick_and_of_none_that_hangs(
    tmp_path: Path, short_path: Path, drill: Drill
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_path / "notify"))
        manager.setblocking(False)
        loop = asyncio.get_running_loop()

        async def hear(seconds: float) -> bytes:
            return await asyncio.wait_for(loop.sock_recv(manager, 100), seconds)

        (tmp_path / "experiments.yaml").write_text(rollout() + "clusters:\n  model-a: {host: a, port: 1}\n")
        running = _Files(tmp_path)
        child, _ = controller(running, "controller", environment=(f"NOTIFY_SOCKET={short_path / 'notify'}",))
        await child.start()
        try:
            assert [await hear(30), await hear(30), await hear(30)] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
            child.signal(signal.SIGSTOP)
            heard = 0
            while heard < 100:  # what was said before it was stopped
                try:
                    await hear(1.0)
                except TimeoutError:
                    break
                heard += 1
            assert heard < 100
            child.signal(signal.SIGCONT)
            assert await hear(30) == b"WATCHDOG=1"
        finally:
            await child.stop()
        messages: list[bytes] = []
        while not messages or messages[-1] != b"STOPPING=1":
            messages.append(await hear(10))
        drill.operator_reads(
            "systemd hears: READY=1, WATCHDOG=1 at every tick, nothing while it is stopped, STOPPING=1"
        )


class _Files:
    """A stack without processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "experiments.yaml"
        self.state = folder / "state"
        self.admin = "http://127.0.0.1:9"


async def _sees_the_stall(url: str) -> bool:
    return bool((await health(url)).get("leader_stalled"))


async def _leads(url: str) -> bool:
    return (await health(url)).get("status") == "leading"
