"""A new server takes over from a running one while Envoy keeps asking: no request loses its assignment."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

import pytest

from tests.drills.report import Drill
from tests.drills.served_envoy import PATH, USERS, report, served_envoy
from tests.e2e.load import Load, under_load
from tests.ext_proc.programs import Program, eventually, program

pytestmark = pytest.mark.envoy

TAKEOVERS = 2
CLIENTS = 8


async def rolled(load: Load, old: Program, new: Program) -> float:
    """Once the new server serves, end the old one as an operator does; the seconds that it took to end."""
    await new.ready()
    await load.more(50)
    started = time.monotonic()
    assert await old.stop() == 0
    seconds = time.monotonic() - started
    await load.more(200)
    return seconds


@pytest.mark.parametrize("transport", ["nghttp2", pytest.param("grpcio", marks=pytest.mark.soak)])
async def test_a_takeover_of_a_unix_socket_loses_no_assignment(short_path: Path, drill: Drill, transport: str) -> None:
    if transport == "nghttp2":
        pytest.importorskip("ngh2")
    flags = ("--listen", f"unix:{short_path}/s", "--transport", transport)
    async with served_envoy(short_path, "--transport", transport, listen=flags[1]) as mesh, AsyncExitStack() as ending:
        await mesh.assigns()
        old = mesh.server
        async with under_load(mesh.envoy.url, USERS, path=PATH, concurrency=CLIENTS, pause=0.002) as load:
            await load.more(100)
            for number in range(TAKEOVERS):
                folder = short_path / str(number)
                folder.mkdir()
                (folder / "experiments.yaml").write_text((short_path / "experiments.yaml").read_text())
                new = await ending.enter_async_context(program(folder, *flags))
                assert await rolled(load, old, new) < 5  # it does not wait for requests to stop coming
                old = new
        unassigned = report(drill, load)
        drill.operator_reads(f"{transport}: {unassigned} of {drill.sent} requests unassigned in {TAKEOVERS} takeovers")
        # grpcio drops calls that reach it while it closes: a few of thousands go to the control.
        assert (drill.failed, drill.wrong) == (0, 0)
        assert unassigned <= (0 if transport == "nghttp2" else drill.sent // 100)
        assert await old.stop() == 0


@pytest.mark.parametrize("transport", ["nghttp2", pytest.param("grpcio", marks=pytest.mark.soak)])
async def test_a_takeover_between_two_addresses_loses_no_assignment(
    tmp_path: Path, drill: Drill, transport: str
) -> None:
    if transport == "nghttp2":
        pytest.importorskip("ngh2")
    second = tmp_path / "second"
    second.mkdir()
    flags = ("--transport", transport)
    async with AsyncExitStack() as ending:
        (second / "experiments.yaml").write_text("version: 1\nexperiments: []\n")
        other = await ending.enter_async_context(program(second, "--listen", "127.0.0.1:0", *flags))
        await other.ready()
        mesh = await ending.enter_async_context(served_envoy(tmp_path, *flags, other=other.addresses[0]))
        (second / "experiments.yaml").write_text((tmp_path / "experiments.yaml").read_text())
        await eventually(lambda: other.text.count("document in force") == 2, "the other server's document")
        await mesh.assigns()
        async with under_load(mesh.envoy.url, USERS, path=PATH, concurrency=CLIENTS, pause=0.002) as load:
            await load.more(200)
            assert await mesh.server.stop() == 0
            await load.more(300)
        unassigned = report(drill, load)
        drill.operator_reads(f"{transport}: {unassigned} of {drill.sent} requests unassigned")
        assert (drill.failed, drill.wrong, unassigned) == (0, 0, 0)


class Service:
    """One address before several servers, as a Kubernetes Service: whoever connects reaches the one of the moment."""

    def __init__(self) -> None:
        self.target = ""
        self.address = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        async with await asyncio.start_server(self._connected, "127.0.0.1", 0) as listening:
            self.address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            yield self

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        try:
            to, back = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copied(reader, back), _copied(to, writer))


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_a_takeover_behind_one_address_loses_no_assignment(tmp_path: Path, drill: Drill) -> None:
    """Envoy knows one endpoint; connections that it opens from now on reach the new server."""
    pytest.importorskip("ngh2")
    second = tmp_path / "second"
    second.mkdir()
    async with Service().running() as service, AsyncExitStack() as ending:
        mesh = await ending.enter_async_context(served_envoy(tmp_path, "--drain", "2", service=service))
        (second / "experiments.yaml").write_text((tmp_path / "experiments.yaml").read_text())
        new = await ending.enter_async_context(program(second, "--listen", "127.0.0.1:0"))
        await mesh.assigns()
        async with under_load(mesh.envoy.url, USERS, path=PATH, concurrency=CLIENTS, pause=0.002) as load:
            await new.ready()
            service.target = new.addresses[0]
            assert await mesh.server.stop() == 0
            await load.more(200)
        unassigned = report(drill, load)
        drill.operator_reads(f"{unassigned} of {drill.sent} requests unassigned")
        assert (drill.failed, drill.wrong, unassigned) == (0, 0, 0)
