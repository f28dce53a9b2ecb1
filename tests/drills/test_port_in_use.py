"""A server that is told to listen where others listen: at Envoy's own port, at another server's, and at another
program's Unix socket.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.drills.report import Drill
from tests.drills.served_envoy import PATH, USERS, report, served_envoy
from tests.e2e.load import under_load
from tests.ext_proc.clients import scrape
from tests.ext_proc.programs import LIMIT, eventually, program

pytestmark = pytest.mark.envoy


async def refusal(folder: Path, address: str, *flags: str) -> str:
    """What a server logs that cannot start; it must end by itself."""
    async with program(folder, "--listen", address, *flags) as late:
        assert await asyncio.wait_for(late.process.wait(), LIMIT) == 1, late.text
        assert "Traceback" not in late.text
        return late.text


@pytest.mark.parametrize("transport", ["nghttp2", pytest.param("grpcio", marks=pytest.mark.soak)])
async def test_a_port_in_use_is_never_shared(tmp_path: Path, drill: Drill, transport: str) -> None:
    second = tmp_path / "second"
    second.mkdir()
    async with served_envoy(tmp_path, "--transport", transport, "--workers", "2") as mesh:
        (second / "experiments.yaml").write_text((tmp_path / "experiments.yaml").read_text())
        await mesh.assigns()
        async with under_load(mesh.envoy.url, USERS, path=PATH, concurrency=2) as load:
            await load.more(50)
            envoys, ours = f"127.0.0.1:{mesh.envoy.port}", mesh.server.addresses[0]
            for address, workers in ((envoys, "1"), (envoys, "2"), (ours, "1")):
                text = await refusal(second, address, "--transport", transport, "--workers", workers)
                assert f"cannot listen on {address}: another program, or another abmesh server" in text
            drill.operator_reads(text.splitlines()[-1])
            await load.more(100)
        assert (report(drill, load), drill.failed, drill.wrong) == (0, 0, 0)
        workers_before = mesh.server.children()
        workers_before[0].kill()  # its port is still ours, and the next worker gets it
        await eventually(lambda: len(mesh.server.children()) == 2, "another worker")
        await eventually(lambda: scrape(mesh.server.metrics)["abmesh_ext_proc_workers"] == 2, "its readiness")
        await mesh.assigns()
        assert await mesh.server.stop() == 0


@pytest.mark.parametrize("transport", ["nghttp2", "grpcio"])
async def test_another_programs_socket_is_never_taken(tmp_path: Path, short_path: Path, transport: str) -> None:
    path = short_path / "other.sock"
    served = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.set()
        writer.close()

    async with await asyncio.start_unix_server(serve, path):
        before = path.stat()
        text = await refusal(tmp_path, f"unix:{path}", "--transport", transport)
        assert f"cannot listen on unix:{path}: another program listens there" in text
        assert path.stat().st_ino == before.st_ino
        served.clear()
        _, writer = await asyncio.open_unix_connection(path)
        await asyncio.wait_for(served.wait(), LIMIT)
        writer.close()
