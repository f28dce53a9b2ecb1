"""Few file descriptors, a crowd of idle peers at the gRPC port, and a Unix socket that somebody deletes."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.drills.report import Drill
from tests.drills.served_envoy import PATH, USERS, report, served_envoy
from tests.e2e.load import under_load
from tests.ext_proc.clients import scrape
from tests.ext_proc.conformance.frames import PREFACE, frame
from tests.ext_proc.programs import eventually

pytestmark = pytest.mark.envoy

CROWD = 400
GREETING = PREFACE + frame(4, 0, 0, b"")


def crowded(stack: ExitStack, address: str, size: int) -> None:
    """Open connections that greet as Envoy does, and then wait."""
    host, _, port = address.rpartition(":")
    for _ in range(size):
        peer = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
        peer.send(GREETING)


@pytest.mark.parametrize("transport", ["nghttp2", pytest.param("grpcio", marks=pytest.mark.soak)])
async def test_idle_peers_starve_neither_envoy_nor_the_metrics(tmp_path: Path, drill: Drill, transport: str) -> None:
    if transport == "nghttp2":
        pytest.importorskip("ngh2")
    async with served_envoy(tmp_path, "--transport", transport) as mesh:
        await mesh.assigns()
        mesh.limit_files(256 if transport == "nghttp2" else CROWD + 256)  # grpcio cannot limit connections
        with ExitStack() as stack:
            async with under_load(mesh.envoy.url, USERS, path=PATH) as load:
                await load.more(20)
                await asyncio.to_thread(crowded, stack, mesh.server.addresses[0], CROWD)
                await load.more(100)
                samples = await asyncio.to_thread(scrape, mesh.server.metrics)
            assert (report(drill, load), drill.failed, drill.wrong) == (0, 0, 0)
            files, most = samples["process_open_fds"], samples["process_max_fds"]
            refused = samples["abmesh_ext_proc_refused_total{cause=connections}"]
            drill.operator_reads(f"{transport}: process_open_fds {files:g} of {most:g}, {refused:g} refused")
            if transport == "nghttp2":
                assert files < 200
                assert refused > CROWD - 256
                # While Envoy restarts, others take its places. Within a second or two, the silent make room for it.
                await asyncio.to_thread(mesh.envoy.stop)
                await asyncio.to_thread(crowded, stack, mesh.server.addresses[0], 50)
                await asyncio.to_thread(mesh.envoy.start)
                await mesh.assigns(seconds=15)
        lines = [line for line in mesh.server.text.splitlines() if "refused" in line]
        drill.operator_reads(*lines[:1])
        assert len(lines) <= 5
        await mesh.assigns()


@pytest.mark.parametrize("transport", ["nghttp2", pytest.param("grpcio", marks=pytest.mark.soak)])
async def test_a_deleted_unix_socket_is_created_again(short_path: Path, drill: Drill, transport: str) -> None:
    if transport == "nghttp2":
        pytest.importorskip("ngh2")
    path = short_path / "s"
    async with served_envoy(short_path, "--transport", transport, listen=f"unix:{path}") as mesh:
        await mesh.assigns()
        async with under_load(mesh.envoy.url, USERS, path=PATH) as load:
            await load.more(20)
            path.unlink()
            await eventually(path.is_socket, "a new socket")
            await load.more(20)
        unassigned = report(drill, load)
        if transport == "nghttp2":
            assert unassigned == 0
        await asyncio.to_thread(mesh.envoy.restart)  # it connects anew
        await mesh.assigns()
        samples = await asyncio.to_thread(scrape, mesh.server.metrics)
        assert samples["abmesh_ext_proc_errors_total{kind=socket}"] >= 1
        drill.operator_reads(f"{unassigned} unassigned")
        drill.operator_reads(*[line for line in mesh.server.text.splitlines() if "was deleted" in line])
        assert (drill.failed, drill.wrong) == (0, 0)
        assert "was deleted" in " ".join(drill.read)
        assert await mesh.server.stop() == 0
        assert not path.exists()
