"""A crowd of half-sent requests at the server's metrics port, with few file descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drills.report import Drill
from tests.drills.served_envoy import PATH, USERS, report, served_envoy
from tests.e2e.load import under_load
from tests.ext_proc.clients import scrape
from tests.ext_proc.programs import eventually

pytestmark = pytest.mark.envoy

FILES = 256
CROWD = 600


@contextlib.contextmanager
def crowd(address: str, size: int, first: bytes) -> Iterator[list[socket.socket]]:
    """Connections that send so much and then nothing; the server may have closed some."""
    host, _, port = address.rpartition(":")
    with contextlib.ExitStack() as stack:
        peers = []
        for _ in range(size):
            peer = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            with contextlib.suppress(OSError):
                peer.sendall(first)
            peers.append(peer)
        yield peers


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_half_sent_requests_to_metrics_stop_nothing(tmp_path: Path, drill: Drill, workers: str) -> None:
    config = tmp_path / "experiments.yaml"
    async with served_envoy(tmp_path, "--workers", workers) as mesh:
        mesh.limit_files(FILES)
        await mesh.assigns()
        address = mesh.server.metrics.removeprefix("http://").removesuffix("/metrics")
        before = (mesh.process.memory_info().rss, mesh.process.num_threads(), len(mesh.server.text))
        async with under_load(mesh.envoy.url, USERS, path=PATH) as load:
            await load.more(50)
            with await asyncio.to_thread(lambda: contextlib.ExitStack()) as stack:
                for _ in range(2):
                    half = crowd(address, CROWD // 2, b"GET /metrics HTTP/1.1\r\nhost: ")
                    await asyncio.to_thread(stack.enter_context, half)
                started = time.monotonic()
                samples = await asyncio.to_thread(scrape, mesh.server.metrics)
                seconds = time.monotonic() - started
                # The document is still read, and takes effect.
                edited = config.read_text().replace("salt: e2e", "salt: e2e2")
                config.write_text(edited)
                wanted = int(workers)
                await eventually(lambda: mesh.server.text.count("document in force") == 2 * wanted, "the edit")
                await load.more(100)
        samples = await asyncio.to_thread(scrape, mesh.server.metrics)
        unassigned = report(drill, load)
        refused = samples["abmesh_ext_proc_metrics_refused_total{cause=connections}"]
        lines = mesh.server.text[before[2] :].splitlines()
        drill.operator_reads(f"metrics_refused_total{{cause=connections}} {refused:g}, a scrape took {seconds:.2f} s")
        drill.operator_reads(*[line for line in lines if "refused" in line][:1])
        assert (unassigned, drill.failed, drill.wrong) == (0, 0, 0)
        assert refused >= CROWD - 100
        assert seconds < 3
        assert len(lines) < 20
        assert mesh.process.num_threads() <= before[1] + 4
        assert mesh.process.memory_info().rss - before[0] < 30e6
        assert await mesh.server.stop() == 0
