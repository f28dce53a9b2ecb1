"""A rendered Envoy between two echoing upstreams and the stand-in server, for the tests of the Envoy half alone."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp

from abmesh.experiment.model import Document
from abmesh.experiment.places import place_of
from abmesh.mesh.bootstrap import render_bootstrap
from abmesh.mesh.options import RenderOptions
from tests.e2e.echo_upstream import echo_upstream
from tests.e2e.envoy_process import EnvoyProcess, launch, on_free_ports

UNASSIGNED = "abmesh.unassigned.route.chat.reason..code.200"
UNKNOWN = UNASSIGNED.replace("reason.", "reason.assigned")


def chat_experiment(**changes: Any) -> dict[str, Any]:
    """An experiment on ``/v1/`` between ``model-a`` (control, 2 s) and ``model-b`` (no time limit)."""
    return {
        "name": "chat",
        "match": {"path_prefix": "/v1/"},
        "unit": [{"header": "x-user-id"}],
        "variants": [
            {"name": "model-a", "cluster": "model-a", "weight": 50, "control": True, "timeout": "2s"},
            {"name": "model-b", "cluster": "model-b", "weight": 50},
        ],
        **changes,
    }


def chat_document(ports: Mapping[str, int], **changes: Any) -> Document:
    """A document with :func:`chat_experiment`, unless the changes say otherwise."""
    clusters = {name: {"host": "127.0.0.1", "port": port} for name, port in ports.items()}
    said = {"version": 1, "clusters": clusters, "experiments": [chat_experiment()], **changes}
    return Document.model_validate(said)


def user(variant: str = "model-b", slice_: int | None = 7, experiment: str = "chat", **script: Any) -> dict[str, str]:
    """Headers of a user to whom the stand-in server gives this assignment; see :mod:`tests.e2e.ext_proc_stand_in`."""
    said = {
        "x-model-version": variant,
        "x-ab-experiment": experiment,
        "x-ab-place": str(place_of(experiment, variant)),
        "x-ab-reason": "assigned",
    }
    if slice_ is not None:
        said |= {"x-ab-slice": str(slice_), "x-ab-group": str(slice_ // 5)}
    return {"x-user-id": json.dumps({**script, "set": said | script.get("set", {})})}


class StandInServer:
    """The stand-in server as a process that can be stopped, killed and started again at the same address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = Path(__file__).with_name("ext_proc_stand_in.py")
        self._process = launch([sys.executable, str(program), self.address], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip().decode()
        if self.address.endswith(":0"):
            self.address = self.address.removesuffix("0") + port

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.wait(20)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer.

    Attributes:
        versions: every ``x-model-version`` of the answer.
        seen: what the upstream was sent, empty if none answered; header names in lower case.
        started: monotonic time of the request.
    """

    status: int
    versions: tuple[str, ...]
    cookies: tuple[str, ...]
    upstream: str
    path: str
    seen: Mapping[str, str]
    started: float
    seconds: float


@dataclass
class RenderedMesh:
    """What a test talks to."""

    envoy: EnvoyProcess
    server: StandInServer
    session: aiohttp.ClientSession
    ports: dict[str, int] = field(default_factory=dict)

    async def get(self, path: str = "/v1/x", headers: Mapping[str, str] | None = None) -> Reply:
        started = time.monotonic()
        async with self.session.get(self.envoy.url + path, headers=headers) as response:
            text = await response.text()
            told = response.headers
        body = json.loads(text) if text.startswith("{") else {}
        return Reply(
            status=response.status,
            versions=tuple(told.getall("x-model-version", ())),
            cookies=tuple(told.getall("set-cookie", ())),
            upstream=body.get("upstream", ""),
            path=body.get("path", ""),
            seen={key.lower(): value for key, value in body.get("headers", {}).items()},
            started=started,
            seconds=time.monotonic() - started,
        )

    async def counters(self, pattern: str = "^abmesh") -> dict[str, int]:
        return await asyncio.to_thread(self.envoy.counters, pattern)

    async def counted(self, name: str, at_least: int, seconds: float = 10.0) -> dict[str, int]:
        """Counters once one of them is at least so high: Envoy counts just after the client has its answer."""
        deadline = time.monotonic() + seconds
        while (found := await self.counters()).get(name, 0) < at_least:
            assert time.monotonic() < deadline, f"{name} did not reach {at_least}: {found}"
            await asyncio.sleep(0.02)
        return found

    async def until_assigned(self, seconds: float = 20.0) -> float:
        """Wait until requests are assigned; the seconds that it took."""
        return await self._until(True, seconds)

    async def until_open(self, seconds: float = 20.0) -> float:
        """Wait until unassigned requests no longer wait for the server; the seconds that it took."""
        return await self._until(False, seconds)

    async def _until(self, assigned: bool, seconds: float) -> float:
        begin = time.monotonic()
        while True:
            reply = await self.get(headers=user())
            assert reply.status == 200
            if bool(reply.versions) == assigned and (assigned or reply.seconds < 0.1):
                return time.monotonic() - begin
            assert time.monotonic() - begin < seconds, f"not within {seconds} s"
            await asyncio.sleep(0.02)

    async def load(self, until: asyncio.Event, clients: int = 8) -> list[Reply]:
        """Requests of clients, one after another, until the event; a failed connection fails the test."""
        replies: list[Reply] = []

        async def client() -> None:
            while not until.is_set():
                replies.append(await self.get(headers=user()))

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
        return replies


@asynccontextmanager
async def rendered_mesh(
    folder: Path,
    *,
    server: bool = True,
    address: str = "",
    options: RenderOptions | None = None,
    message_timeout: timedelta = timedelta(seconds=5),
    edit: Callable[[str], str] = str,
    **changes: Any,
) -> AsyncIterator[RenderedMesh]:
    """Run the whole.

    Args:
        folder: where Envoy's files go.
        server: whether the stand-in server runs from the start.
        address: where it listens; a Unix socket unless given.
        options: further options; ``ext_proc`` is filled in if it is the default.
        message_timeout: generous unless given, since a busy machine must not look like a slow server.
        edit: what becomes of the bootstrap, as JSON, before Envoy gets it.
        changes: of the document.
    """
    async with AsyncExitStack() as stack:
        short = tempfile.mkdtemp(prefix="abmesh-")  # tmp_path may be too long for a socket's path
        stack.callback(shutil.rmtree, short, ignore_errors=True)
        stand_in = StandInServer(address or f"unix:{short}/s")
        stack.callback(stand_in.end)
        if server:
            await asyncio.to_thread(stand_in.start)
        ports = {name: await stack.enter_async_context(echo_upstream(name)) for name in ("model-a", "model-b", "other")}
        chosen = options or RenderOptions(ext_proc=(stand_in.address,), message_timeout=message_timeout)
        bootstrap = render_bootstrap(chat_document(ports, **changes), on_free_ports(chosen))
        envoy = EnvoyProcess(json.loads(edit(json.dumps(bootstrap))), folder)
        stack.callback(envoy.stop)
        await asyncio.to_thread(envoy.start)
        timeout = aiohttp.ClientTimeout(total=60)
        connector = aiohttp.TCPConnector(limit=0)
        session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout, connector=connector)
        yield RenderedMesh(envoy, stand_in, await stack.enter_async_context(session), ports)
