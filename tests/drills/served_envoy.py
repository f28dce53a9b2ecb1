"""A real Envoy before two echoing upstreams and the real server, for drills of the server."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from abmesh.experiment.codec import parse
from abmesh.mesh.bootstrap import render_bootstrap
from abmesh.mesh.options import RenderOptions
from tests.drills.report import Drill
from tests.e2e.echo_upstream import echo_upstream
from tests.e2e.envoy_process import EnvoyProcess, on_free_ports
from tests.e2e.load import Load
from tests.e2e.support import PATIENT, ask, document, eventually, session
from tests.ext_proc.programs import Program, program

ALL_TO_B = document({"model-a": 0.0, "model-b": 100.0})
"""Whoever gets ``model-b`` was assigned; whoever gets ``model-a`` was not."""

PATH = "/v1/x"
USERS = [f"user-{number}" for number in range(300)]


class Reached(Protocol):
    """Something that passes connections on to a server."""

    address: str
    target: str


@dataclass
class ServedEnvoy:
    """What a drill talks to."""

    server: Program
    envoy: EnvoyProcess

    @property
    def process(self) -> psutil.Process:
        """The server's process."""
        return psutil.Process(self.server.process.pid)

    def limit_files(self, most: int) -> None:
        """Lower the server's limit of open files, as ``ulimit -n`` before its start would."""
        resource.prlimit(self.server.process.pid, resource.RLIMIT_NOFILE, (most, most))

    async def version(self) -> str | None:
        """The variant of one more request; None if nobody assigned it."""
        async with session() as client:
            answer = await ask(client, self.envoy.url, {"x-user-id": "user-1"}, path=PATH)
            assert answer.status == 200
            return answer.variant

    async def assigns(self, seconds: float = 30.0) -> float:
        """Wait until requests are assigned; the seconds that it took."""

        async def assigned() -> bool:
            return await self.version() == "model-b"

        return await eventually(assigned, seconds)


@asynccontextmanager
async def served_envoy(
    folder: Path,
    *flags: str,
    listen: str = "127.0.0.1:0",
    other: str = "",
    service: Reached | None = None,
    edit: Callable[[str], str] = str,
    options: dict[str, Any] | None = None,
) -> AsyncIterator[ServedEnvoy]:
    """Run the whole.

    Args:
        folder: where files go.
        flags: of the server.
        listen: where the server listens.
        other: where Envoy finds another server besides.
        service: what stands between Envoy and the server.
        edit: what becomes of Envoy's bootstrap, as JSON.
        options: further options for rendering.
    """
    async with AsyncExitStack() as ending:
        ports = {name: await ending.enter_async_context(echo_upstream(name)) for name in ("model-a", "model-b")}
        clusters = "".join(f"  {name}: {{host: 127.0.0.1, port: {port}}}\n" for name, port in ports.items())
        text = f"{ALL_TO_B}clusters:\n{clusters}"
        (folder / "experiments.yaml").write_text(text)
        server = await ending.enter_async_context(program(folder, "--listen", listen, *flags))
        await server.ready()
        addresses = (*server.addresses, *([other] if other else []))
        if service is not None:
            service.target = server.addresses[0]
            addresses = (service.address,)
        chosen = RenderOptions(**{"ext_proc": addresses, "message_timeout": PATIENT, **(options or {})})
        bootstrap = render_bootstrap(parse(text, "the drill's document"), on_free_ports(chosen))
        envoy = EnvoyProcess(json.loads(edit(json.dumps(bootstrap))), folder / "envoy")
        ending.callback(envoy.stop)
        await asyncio.to_thread(envoy.start)
        yield ServedEnvoy(server, envoy)


def report(drill: Drill, load: Load, since: int = 0) -> int:
    """Put what a load saw into a drill's report; returns how many requests nobody assigned."""
    versions = load.versions(since)
    drill.sent += len(load.answers) - since + len(load.broken)
    drill.failed += len(load.failures)
    drill.wrong += sum(count for version, count in versions.items() if version not in ("model-b", None))
    return versions[None]
