"""Half-sent requests to the controller's HTTP port, more than it has file descriptors, while the candidate fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.drills.report import Drill
from tests.drills.rollouts import USERS, drilled, has_weight, rollout
from tests.e2e.load import under_load
from tests.e2e.support import CHAT, eventually, in_state

pytestmark = pytest.mark.envoy

DESCRIPTORS = 96
ATTACKERS = 150


@asynccontextmanager
async def _half_sent(port: int) -> AsyncIterator[list[int]]:
    """Clients that begin a request, never end it, and come back as soon as they are thrown out.

    Yields how often each began.
    """
    begun = [0] * ATTACKERS

    async def attack(number: int) -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\n")
                    begun[number] += 1
                    await reader.read()
                finally:
                    writer.close()
            await asyncio.sleep(0.2)

    tasks = [asyncio.create_task(attack(number)) for number in range(ATTACKERS)]
    try:
        yield begun
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_half_sent_requests_neither_stop_a_rollback_nor_fill_the_log(tmp_path: Path, drill: Drill) -> None:
    async with drilled(tmp_path, rollout()) as running:
        controller = running.children["controller"]
        controller.command = ["sh", "-c", f'ulimit -n {DESCRIPTORS}; exec "$@"', "sh", *controller.command]
        await running.start_controller()
        async with under_load(running.url, USERS, pause=0.002) as load:
            load.path = CHAT
            await has_weight(running, 50)
            async with _half_sent(running.ports["controller"]) as begun:

                async def crowded() -> bool:
                    return all(begun)

                await eventually(crowded)
                await running.behave("model-b", error_rate=0.5)
                found = await in_state(running, "rolled_back", seconds=10)
        log = controller.log.read_text()
    drill.sent = len(load.answers) + sum(begun)
    drill.failed = len(load.broken)
    drill.operator_reads(found["reason"], *[line for line in log.splitlines() if "refused" in line][:2])
    assert len(log) < 20_000, log[-2000:]
    assert "Traceback" not in log
