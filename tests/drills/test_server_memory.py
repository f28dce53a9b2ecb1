"""Peers that make the server hold as much as they can: incomplete messages on many connections, answers left unread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.drills.report import Drill
from tests.drills.served_envoy import PATH, USERS, ServedEnvoy, report, served_envoy
from tests.e2e.load import under_load
from tests.ext_proc.clients import scrape
from tests.ext_proc.conformance.frames import REQUEST, message
from tests.ext_proc.conformance.peer import Closed, Peer

pytestmark = pytest.mark.envoy

CONNECTIONS = 30
MIB = 1024 * 1024


def read_what_came(peer: Peer) -> None:
    """Also the window updates, so that the peer may send on."""
    with contextlib.suppress(Closed, TimeoutError):
        peer.until(lambda: False, 0)


def hold_incomplete(address: str, connections: int, streams: int) -> None:
    """On each connection, so many messages of 1 MiB of which a little is missing."""
    piece = bytes(16_384)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(address).open()) for _ in range(connections)]
        for stream in range(1, 2 * streams, 2):
            for peer in peers:
                peer.send(peer.headers(stream), peer.data(stream, message(b"", 0, MIB)))
                for _ in range(7):  # 7 x 8 x 16 KiB, each part within the window
                    if not peer.closed:
                        peer.send(*[peer.data(stream, piece)] * 8)
                        read_what_came(peer)


def hold_calls(address: str, connections: int, calls: int) -> None:
    """On each connection, so many calls without a message."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(address).open()) for _ in range(connections)]
        for peer in peers:
            for first in range(1, 2 * calls, 400):
                peer.send(*(peer.headers(stream) for stream in range(first, first + 400, 2)))
                if peer.closed:
                    break
                read_what_came(peer)


def hold_both(address: str, connections: int, streams: int, calls: int) -> None:
    """One after the other."""
    hold_incomplete(address, connections, streams)
    hold_calls(address, connections, calls)


def hold_watches(address: str, connections: int, watches: int) -> None:
    """On each connection, so many calls that watch the health; returns when each has been heard to the end."""
    names = {":path": "/grpc.health.v1.Health/Watch"}
    headers = tuple((name, names.get(name, value)) for name, value in REQUEST)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(address).open()) for _ in range(connections)]
        calls = range(1, 2 * watches, 2)
        same = b"".join(
            part.serialize()
            for stream in calls
            for part in (peers[0].headers(stream, headers), peers[0].data(stream, message(b"")))
        )
        for peer in peers:
            peer.send(same)
        for peer in peers:
            if not peer.closed:
                peer.ping()


async def attacked(mesh: ServedEnvoy, drill: Drill, attack: Callable[..., None], *sizes: int) -> float:
    """The megabytes that the server's memory grew by at most, while Envoy keeps asking."""
    await mesh.assigns()
    before = mesh.process.memory_info().rss
    most = before

    async def watch(process: psutil.Process) -> None:
        nonlocal most
        while True:
            most = max(most, process.memory_info().rss)
            await asyncio.sleep(0.01)

    async with under_load(mesh.envoy.url, USERS, path=PATH, concurrency=2) as load:
        await load.more(20)
        watching = asyncio.create_task(watch(mesh.process))
        await asyncio.to_thread(attack, mesh.server.addresses[0], *sizes)
        await load.more(20)
        watching.cancel()
    # On a machine that is too busy to answer health checks in time, some may go to the control.
    drill.operator_reads(f"{report(drill, load)} requests unassigned")
    assert (drill.failed, drill.wrong) == (0, 0)
    samples = await asyncio.to_thread(scrape, mesh.server.metrics)
    seen = {key.partition("cause=")[2][:-1]: value for key, value in samples.items() if "proc_refused_total" in key}
    drill.operator_reads(f"refused_total {seen}", f"process_resident_memory_bytes +{(most - before) / 1e6:.0f} MB")
    drill.operator_reads(*[line for line in mesh.server.text.splitlines() if " refused: " in line])
    assert "Traceback" not in mesh.server.text
    assert abs(samples["process_resident_memory_bytes"] - mesh.process.memory_info().rss) < 30e6
    return (most - before) / 1e6


async def test_peers_that_complete_nothing_hold_bounded_memory(tmp_path: Path, drill: Drill) -> None:
    pytest.importorskip("ngh2")
    async with served_envoy(tmp_path) as mesh:
        assert await attacked(mesh, drill, hold_both, CONNECTIONS, 8, 200) < 130
        assert "connection_budget" in " ".join(drill.read)
        assert scrape(mesh.server.metrics)["abmesh_ext_proc_refused_total{cause=server_budget}"] > 0


async def test_health_watches_hold_bounded_memory(tmp_path: Path, drill: Drill) -> None:
    """Calls that never end, whose answers are read: nothing is incomplete, and nothing waits to be sent."""
    pytest.importorskip("ngh2")
    async with served_envoy(tmp_path) as mesh:
        assert await attacked(mesh, drill, hold_watches, 20, 2500) < 60
        assert scrape(mesh.server.metrics)["abmesh_ext_proc_refused_total{cause=connection_budget}"] > 0


@pytest.mark.soak
@pytest.mark.parametrize("connections", [CONNECTIONS, 300])
async def test_many_peers_for_long_hold_bounded_memory(tmp_path: Path, drill: Drill, connections: int) -> None:
    pytest.importorskip("ngh2")
    async with served_envoy(tmp_path) as mesh:
        for _ in range(2):
            assert await attacked(mesh, drill, hold_both, connections, 1200 // connections, 1000) < 200


async def test_workers_show_their_memory_each(tmp_path: Path, drill: Drill) -> None:
    async with served_envoy(tmp_path, "--workers", "2") as mesh:
        samples = await asyncio.to_thread(scrape, mesh.server.metrics)
        shown = {key: value for key, value in samples.items() if key.startswith("process_resident_memory_bytes")}
        assert set(shown) == {f"process_resident_memory_bytes{{worker={each}}}" for each in ("supervisor", "0", "1")}
        assert all(10e6 < value < 200e6 for value in shown.values())
        drill.operator_reads(*(f"{key} {value:.0f}" for key, value in shown.items()))


async def test_a_message_with_a_body_is_refused_and_counted(tmp_path: Path, drill: Drill) -> None:
    pytest.importorskip("ngh2")
    async with served_envoy(tmp_path) as mesh:
        with Peer(mesh.server.addresses[0]).open() as peer:
            found = peer.call(1, bytes(MIB + 1))
            assert found.status == "8"
        assert scrape(mesh.server.metrics)["abmesh_ext_proc_refused_total{cause=message}"] == 1
        drill.operator_reads(*[line for line in mesh.server.text.splitlines() if " refused: " in line])
        assert drill.read
