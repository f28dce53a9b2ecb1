"""The server may be killed or hang: no request fails, and what it could not assign is no evidence.

That none fails while it drains, with either transport, is in ``test_transports.py``.
"""

from __future__ import annotations

import signal
from datetime import timedelta
from pathlib import Path

import pytest

from abmesh.local.stack import Stack, answers
from tests.e2e.load import Load, under_load
from tests.e2e.support import document, envoy_stats, eventually, stack

pytestmark = pytest.mark.envoy

USERS = [f"user-{number}" for number in range(200)]
# Everybody belongs to the candidate, so that control can only be seen where nobody was assigned.
ALL_TO_B = document({"model-a": 0.0, "model-b": 100.0})
TIMEOUT = timedelta(milliseconds=500)


async def _assigned_again(load: Load) -> float:
    async def all_assigned() -> bool:
        recent = [answer.variant for _, answer in load.answers[-20:]]
        return recent == ["model-b"] * 20

    return await eventually(all_assigned)


async def _counted(running: Stack) -> tuple[int, int]:
    evidence = sum((await envoy_stats(running, "^abmesh.requests")).values())
    unassigned = sum((await envoy_stats(running, "^abmesh.unassigned")).values())
    return evidence, unassigned


async def test_no_request_fails_while_the_server_is_killed_and_restarted(tmp_path: Path) -> None:
    async with stack(tmp_path, ALL_TO_B) as running:
        server = running.children["ext-proc"]
        async with under_load(running.url, USERS) as load:
            await load.more(100)
            await server.kill()

            async def fails_open() -> bool:
                return load.answers[-1][1].variant is None

            await eventually(fails_open)
            down = await load.more(200)
            assert set(load.versions(down)) == {None}
            assert {answer.model for _, answer in load.answers[down:]} == {"model-a"}
            await server.start()
            await _assigned_again(load)
            await load.more(100)
        assert not load.failures
        versions = load.versions()
        assert set(versions) == {"model-b", None}

        # Requests that the test cancelled at the end were counted by Envoy but never seen by the client.
        evidence, unassigned = await _counted(running)
        assert versions["model-b"] <= evidence <= versions["model-b"] + 4
        assert versions[None] <= unassigned <= versions[None] + 4


async def test_no_request_fails_while_the_server_hangs_and_the_wait_is_bounded(tmp_path: Path) -> None:
    async with stack(tmp_path, ALL_TO_B, message_timeout=TIMEOUT) as running:
        server = running.children["ext-proc"]
        async with under_load(running.url, USERS) as load:
            await load.more(100)
            server.signal(signal.SIGSTOP)
            hanging = await load.more(200)
            server.signal(signal.SIGCONT)
            await _assigned_again(load)
        assert not load.failures
        assert load.versions(hanging)[None] > 100
        # Twice the message timeout leaves room for a slow machine; without the limit it would be for ever.
        slowest = sorted(answer.seconds for _, answer in load.answers[hanging : hanging + 200])
        assert slowest[-1] < 10 * TIMEOUT.total_seconds()
        assert slowest[len(slowest) // 2] < 2 * TIMEOUT.total_seconds()


async def test_traffic_flows_while_the_server_was_never_there(tmp_path: Path) -> None:
    async with stack(tmp_path, ALL_TO_B) as running:
        await running.children["ext-proc"].kill()
        await running.children["envoy"].stop()
        await running.children["envoy"].start()

        async def ready() -> bool:
            return await answers(f"{running.admin}/ready")

        await eventually(ready)
        async with under_load(running.url, USERS) as load:
            await load.more(100)
        assert not load.failures
        assert set(load.versions()) == {None}
