"""Nothing that happens to the external-processing server fails a request, against a real Envoy."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from abmesh.mesh.options import RenderOptions
from tests.e2e.rendered_mesh import Reply, StandInServer, rendered_mesh, user

pytestmark = pytest.mark.envoy

MESSAGE_TIMEOUT = timedelta(milliseconds=500)


def assert_served(replies: list[Reply]) -> None:
    """Every request was answered, by its variant or, unstamped, by the control."""
    assert replies
    assert {reply.status for reply in replies} == {200}
    assert {(reply.upstream, reply.versions) for reply in replies} <= {("model-b", ("model-b",)), ("model-a", ())}


async def test_a_server_that_appears_later_is_found(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path, server=False, message_timeout=timedelta(seconds=30)) as mesh:
        reply = await mesh.get(headers=user())
        assert (reply.status, reply.upstream, reply.versions) == (200, "model-a", ())
        assert reply.seconds < 15, "an absent server must not cost the message timeout"
        await asyncio.to_thread(mesh.server.start)
        await mesh.until_assigned()


async def test_a_killed_server_fails_nothing_and_is_used_again_after_its_restart(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path) as mesh:
        over = asyncio.Event()
        load = asyncio.create_task(mesh.load(over))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(mesh.server.end, signal.SIGKILL)
        killed = time.monotonic()
        await mesh.until_open()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(mesh.server.start)
        started = time.monotonic()
        await mesh.until_assigned()
        await asyncio.sleep(0.5)
        over.set()
        replies = await load
        assert_served(replies)
        assert any(reply.versions for reply in replies if reply.started < killed)
        assert not any(reply.versions for reply in replies if killed < reply.started < started - 0.5)
        assert any(reply.versions for reply in replies if reply.started > started)
        counted = await mesh.counters("ext_proc.(failure_mode_allowed|streams_failed)")
        assert counted["http.abmesh.ext_proc.failure_mode_allowed"] > 0
        assert mesh.envoy.log_lines("error") == []


async def test_a_hanging_server_costs_the_message_timeout_for_a_moment_and_then_nothing(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path, message_timeout=MESSAGE_TIMEOUT) as mesh:
        await mesh.until_assigned()
        mesh.server.send(signal.SIGSTOP)
        try:
            over = asyncio.Event()
            load = asyncio.create_task(mesh.load(over))
            await mesh.until_open()
            await asyncio.sleep(0.5)
            over.set()
            replies = await load
        finally:
            mesh.server.send(signal.SIGCONT)
        assert_served(replies)
        assert not any(reply.versions for reply in replies)
        assert max(reply.seconds for reply in replies) < MESSAGE_TIMEOUT.total_seconds() + 1.5
        assert any(reply.seconds >= MESSAGE_TIMEOUT.total_seconds() for reply in replies)
        await mesh.until_assigned()


async def test_a_server_that_ends_in_good_order_fails_nothing(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path) as mesh:
        over = asyncio.Event()
        load = asyncio.create_task(mesh.load(over))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(mesh.server.end, signal.SIGTERM)
        await asyncio.sleep(0.5)
        over.set()
        assert_served(await load)


async def test_a_server_that_says_it_is_not_serving_is_left_alone_until_it_serves(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path) as mesh:
        over = asyncio.Event()
        load = asyncio.create_task(mesh.load(over))
        await mesh.until_assigned()
        mesh.server.send(signal.SIGUSR1)
        await mesh.until_open()
        mesh.server.send(signal.SIGUSR2)
        await mesh.until_assigned()
        over.set()
        assert_served(await load)


async def test_a_slow_answer_is_not_waited_for_longer_than_the_message_timeout(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path, message_timeout=MESSAGE_TIMEOUT) as mesh:
        await mesh.until_assigned()
        reply = await mesh.get(headers=user(sleep=8))
        assert (reply.status, reply.upstream, reply.versions) == (200, "model-a", ())
        # Envoy's clock and ours are not one: its timer may end a moment before.
        assert 0.9 * MESSAGE_TIMEOUT.total_seconds() <= reply.seconds < 5


async def test_with_two_servers_the_loss_of_one_costs_no_assignment(tmp_path: Path) -> None:
    servers = [StandInServer("127.0.0.1:0"), StandInServer("127.0.0.1:0")]
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.end)
            await asyncio.to_thread(server.start)
        addresses = tuple(server.address for server in servers)
        options = RenderOptions(ext_proc=addresses, message_timeout=timedelta(seconds=5))
        async with rendered_mesh(tmp_path, server=False, options=options) as mesh:
            seen = Counter([(await mesh.get(headers=user())).seen["x-ab-segment"] for _ in range(40)])
            assert set(seen) == {str(server.pid) for server in servers}
            await asyncio.to_thread(servers[0].end)
            healthy = "cluster.abmesh-ext-proc.membership_healthy"
            deadline = time.monotonic() + 20
            while (await mesh.counters(f"^{healthy}$"))[healthy] != 1:
                assert time.monotonic() < deadline, "the dead server still counts as healthy"
                await asyncio.sleep(0.05)
            assert all([(await mesh.get(headers=user())).versions for _ in range(40)])


async def test_processes_that_share_a_port_share_the_load(tmp_path: Path) -> None:
    """One HTTP/2 connection would keep one process busy; where there are several, Envoy is told to open more."""
    first = StandInServer("127.0.0.1:0")
    with ExitStack() as stack:
        stack.callback(first.end)
        await asyncio.to_thread(first.start)
        others = [StandInServer(first.address) for _ in range(3)]
        for server in others:
            stack.callback(server.end)
            await asyncio.to_thread(server.start)
        options = RenderOptions(
            ext_proc=(first.address,), streams_per_connection=2, message_timeout=timedelta(seconds=10)
        )
        async with rendered_mesh(tmp_path, server=False, options=options) as mesh:
            replies = await asyncio.gather(*(mesh.get(headers=user(sleep=0.3)) for _ in range(64)))
            assert_served(list(replies))
            shares = Counter(reply.seen["x-ab-segment"] for reply in replies)
            # 32 connections over 4 processes: the chance that two of them get none is about one in a billion.
            assert len(shares) >= 3, shares
