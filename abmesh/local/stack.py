"""The whole of abmesh on one machine: two models, the server, a real Envoy and the controller, as child processes.

The demo runs it; so do the end-to-end tests and the benchmarks, each with a document and settings of its own.
Everything listens on free ports of the loopback interface and keeps its files in one folder.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from abmesh.experiment.quantities import format_duration
from abmesh.local.model_server import Behaviour
from abmesh.local.processes import Child, find_envoy, free_ports
from abmesh.mesh.bootstrap import render_bootstrap
from abmesh.mesh.options import RenderOptions
from abmesh.mesh.yaml_text import to_yaml
from controller.routes.envoy_file import EnvoyRoutes, document_store


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What to run.

    Attributes:
        models: behaviour of each model server, by the name of its cluster.
        workers: processes of the external-processing server.
        transport: of the external-processing server; empty for the one it takes by itself.
        tcp: whether Envoy reaches the server over TCP instead of a Unix socket; several workers need it.
        interval: the controller's time between looks; None leaves the controller out.
        controller_later: whether the controller waits for :meth:`Stack.start_controller`.
        settle: the controller's settle time.
        message_timeout: Envoy's longest wait for the server.
        envoy_concurrency: Envoy's worker threads.
        stats_flush_interval: time between two of Envoy's flushes of statistics.
        routes_file: whether Envoy takes its routes from a file, which the controller keeps; without a controller,
            `abmesh routes --follow` does. Weights of the native lane move by this file alone.
    """

    models: Mapping[str, Behaviour]
    workers: int = 1
    transport: str = ""
    tcp: bool = True
    interval: timedelta | None = timedelta(milliseconds=500)
    controller_later: bool = False
    settle: timedelta = timedelta(seconds=1)
    message_timeout: timedelta = timedelta(seconds=1)
    envoy_concurrency: int = 1
    stats_flush_interval: timedelta = timedelta(milliseconds=500)
    routes_file: bool = False


@dataclass
class Stack:
    """Start it with ``async with``; leaving the block ends every process.

    Attributes:
        document: text of the experiments document; without ``clusters`` unless there are no models to run.
        options: what to run.
        folder: where documents, sockets, state and logs are kept.
        ports: the ports in use, by name.
    """

    document: str
    options: StackOptions
    folder: Path
    ports: dict[str, int] = field(default_factory=dict)
    children: dict[str, Child] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        """The experiments document in force."""
        return self.folder / "experiments.yaml"

    @property
    def routes_file(self) -> Path:
        """The file that Envoy takes its routes from, if it does."""
        return self.folder / "routes" / "routes.json"

    @property
    def state(self) -> Path:
        """The controller's state folder."""
        return self.folder / "state"

    @property
    def url(self) -> str:
        """Where Envoy serves clients."""
        return f"http://127.0.0.1:{self.ports['envoy']}"

    @property
    def admin(self) -> str:
        """Envoy's admin endpoint."""
        return f"http://127.0.0.1:{self.ports['admin']}"

    @property
    def warmup(self) -> str:
        """Envoy's warm-up listener."""
        return f"http://127.0.0.1:{self.ports['warmup']}"

    @property
    def server_metrics(self) -> str:
        """The server's metrics."""
        return f"http://127.0.0.1:{self.ports['ext_proc_metrics']}/metrics"

    @property
    def controller_url(self) -> str:
        """The controller's ``/metrics`` and ``/healthz``."""
        return f"http://127.0.0.1:{self.ports['controller']}"

    @property
    def ext_proc_address(self) -> str:
        """Where Envoy finds the server."""
        return f"127.0.0.1:{self.ports['ext_proc']}" if self.options.tcp else f"unix:{self.folder / 'ext_proc.sock'}"

    def model_url(self, name: str) -> str:
        """Where a model server listens."""
        return f"http://127.0.0.1:{self.ports[name]}"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.stop)
            await self.start()
            undo.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Write the documents, then start everything, each once what it needs is there."""
        self._choose_ports()
        self._write_documents()
        self._plan()
        models = [self.children[name] for name in self.options.models]
        followers = [self.children["routes"]] if "routes" in self.children else []
        for child in (*models, self.children["ext-proc"], self.children["envoy"], *followers):
            await child.start()
        for name in self.options.models:
            await self.children[name].wait_until(lambda name=name: answers(f"{self.model_url(name)}/healthz"))  # type: ignore[misc] # mypy: default argument of a lambda
        await self.children["ext-proc"].wait_until(lambda: answers(self.server_metrics))
        await self.children["envoy"].wait_until(lambda: answers(f"{self.admin}/ready"))
        await self.children["envoy"].wait_until(self._assigns)
        if "controller" in self.children and not self.options.controller_later:
            await self.start_controller()

    async def start_controller(self) -> None:
        """Start the controller, and with it the rollout."""
        await self.children["controller"].start()
        await self.children["controller"].wait_until(lambda: answers(f"{self.controller_url}/healthz"))

    async def stop(self) -> None:
        """End everything, those first that depend on others."""
        for name in ("controller", "routes", "envoy", "ext-proc"):
            if name in self.children:
                await self.children[name].stop()
        models = [self.children[name] for name in self.options.models if name in self.children]
        await asyncio.gather(*(model.stop() for model in models))

    async def behave(self, model: str, **changes: Any) -> None:
        """Change how a model answers while it runs."""
        async with (
            aiohttp.ClientSession() as session,
            session.put(f"{self.model_url(model)}/behaviour", json=changes) as response,
        ):
            response.raise_for_status()

    def _choose_ports(self) -> None:
        names = ["envoy", "admin", "warmup", "ext_proc", "ext_proc_metrics", "controller", *self.options.models]
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))

    def _write_documents(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        clusters = "".join(f"  {name}: {{host: 127.0.0.1, port: {self.ports[name]}}}\n" for name in self.options.models)
        # Without models of its own, the document says where its clusters are.
        text = f"{self.document.rstrip()}\nclusters:\n{clusters}" if clusters else self.document
        self.config.write_text(text)
        snapshot = document_store(self.config).read()
        options = RenderOptions(
            listen=f"127.0.0.1:{self.ports['envoy']}",
            admin=f"127.0.0.1:{self.ports['admin']}",
            warmup=f"127.0.0.1:{self.ports['warmup']}",
            ext_proc=(self.ext_proc_address,),
            streams_per_connection=100 if self.options.workers == 1 else 2,
            message_timeout=self.options.message_timeout,
            stats_flush_interval=self.options.stats_flush_interval,
            routes_file=str(self.routes_file.absolute()) if self.options.routes_file else "",
        )
        if self.options.routes_file:
            self.routes_file.parent.mkdir(exist_ok=True)
            EnvoyRoutes(self.routes_file.absolute()).begin(snapshot)
        (self.folder / "envoy.yaml").write_text(to_yaml(render_bootstrap(snapshot.document, options)))

    def _plan(self) -> None:
        python = [sys.executable, "-m"]
        for name, behaviour in self.options.models.items():
            pace = ["--latency-ms", f"{behaviour.latency_ms}", "--spread", f"{behaviour.spread}"]
            pace += ["--error-rate", f"{behaviour.error_rate}", "--output-tokens", f"{behaviour.output_tokens}"]
            pace += ["--cold-requests", f"{behaviour.cold_requests}", "--cold-factor", f"{behaviour.cold_factor}"]
            command = [*python, "abmesh.local.model_server", "--name", name, "--port", str(self.ports[name]), *pace]
            self._child(name, command)
        metrics = f"127.0.0.1:{self.ports['ext_proc_metrics']}"
        serve = ["abmesh.cli", "ext-proc", "--config", str(self.config), "--listen", self.ext_proc_address]
        serve += ["--transport", self.options.transport] if self.options.transport else []
        self._child("ext-proc", [*python, *serve, "--metrics", metrics, "--workers", str(self.options.workers)])
        concurrency = str(self.options.envoy_concurrency)
        envoy = [find_envoy(), "-c", str(self.folder / "envoy.yaml"), "--use-dynamic-base-id", "-l", "warning"]
        # While the server is down Envoy would warn once a request; its statistics count them anyway.
        quiet = ["--component-log-level", "ext_proc:error"]
        self._child("envoy", [*envoy, "--concurrency", concurrency, *quiet])
        if self.options.interval is not None:
            control = ["abmesh.cli", "controller", "--config", str(self.config), "--state", str(self.state)]
            control += ["--envoy", self.admin, "--warmup", self.warmup]
            control += ["--http", f"127.0.0.1:{self.ports['controller']}"]
            control += ["--interval", format_duration(self.options.interval)]
            control += ["--routes-file", str(self.routes_file)] if self.options.routes_file else []
            self._child("controller", [*python, *control, "--settle", format_duration(self.options.settle)])
        elif self.options.routes_file:
            follow = ["abmesh.cli", "routes", str(self.routes_file), "--follow", "--config", str(self.config)]
            self._child("routes", [*python, *follow])

    def _child(self, name: str, command: list[str]) -> None:
        self.children[name] = Child(name, command, self.folder / f"{name}.log")

    async def _assigns(self) -> bool:
        """Whether Envoy reaches the server; until then it fails open and every request goes to the control."""
        healthy = "cluster.abmesh-ext-proc.membership_healthy"
        text = await fetch(f"{self.admin}/stats?filter=^{healthy}$")
        return text is not None and text.strip().endswith(": 1")


async def fetch(url: str) -> str | None:
    """The body of a GET that succeeds within two seconds, else None."""
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session, session.get(url) as answer:
            return await answer.text() if answer.status < 400 else None
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None


async def answers(url: str) -> bool:
    """Whether a GET succeeds."""
    return await fetch(url) is not None
