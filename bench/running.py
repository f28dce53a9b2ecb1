"""Starts the contenders and drives each: every process has its CPUs, and ends with the stack."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from abmesh.experiment.model import Document
from abmesh.experiment.names import EXT_PROC_CLUSTER
from abmesh.local.processes import Child, find_envoy, free_ports
from abmesh.local.stack import answers, fetch
from abmesh.mesh.bootstrap import render_bootstrap
from abmesh.mesh.options import RenderOptions
from bench import documents, envoys, go_server, usage
from bench.contenders import Contender
from bench.generator import generate
from bench.load import LoadResult
from bench.placement import Placement, here, placed
from bench.probe import ProbeError
from bench.summary import Sample

CONNECTIONS: Final = 16
ROUND_SECONDS: Final = 60.0
UPSTREAM: Final = "ABMESH_BENCH_UPSTREAM"
SHARED: Final = "ABMESH_BENCH_SHARED_CLIENT"
"""What :mod:`bench.application` reads from its environment."""

_MESSAGE_TIMEOUT: Final = RenderOptions().message_timeout
_WARM_UP: Final = 200
_ENDING_SECONDS: Final = 5.0
_ADMIN_TRIES: Final = 10
"""Of two seconds each: a machine may be that busy."""

_FILTER: Final = "http.abmesh.ext_proc."
_FAILURES: Final = ("streams_failed", "failure_mode_allowed", "message_timeouts")


@dataclass
class Bench:
    """Where contenders run, for as long as the stack is open.

    Attributes:
        folder: for files; a short path, since it holds Unix sockets.
        stack: ends every process.
        placement: which CPUs run what.
    """

    folder: Path
    stack: AsyncExitStack
    placement: Placement = field(default_factory=Placement)
    upstream: int = 0
    go_program: Path | None = None

    async def start_upstream(self) -> None:
        """Start what all contenders send their requests to."""
        port, admin = free_ports(2)
        await self._envoy("upstream", envoys.answering(port, admin), admin, self.placement.load)
        self.upstream = port

    async def start(
        self, contender: Contender, experiments: int = 1, message_timeout: timedelta = _MESSAGE_TIMEOUT
    ) -> Running:
        """Start a contender's processes.

        Args:
            contender: which one.
            experiments: how many the document has.
            message_timeout: Envoy's longest wait for a server.

        Raises:
            ProcessError: one does not start.
            GoError: the Go server does not build.
        """
        name = contender.name if experiments == 1 else f"{contender.name}-{experiments}"
        if contender.kind == "application":
            return await self._application(contender, name)
        lane = contender.lane
        text = documents.text(self.upstream, experiments=experiments, lane=lane)
        config = self.folder / f"{name}-document.yaml"
        config.write_text(text)
        document = documents.document(self.upstream, experiments=experiments, lane=lane)
        listen, admin, tcp, metrics = free_ports(4)
        address = f"unix:{self.folder / name}.sock" if contender.unix else f"127.0.0.1:{tcp}"
        options = RenderOptions(
            listen=f"127.0.0.1:{listen}",
            admin=f"127.0.0.1:{admin}",
            warmup="",
            ext_proc=(address,),
            message_timeout=message_timeout,
            streams_per_connection=streams_per_connection(contender),
        )
        bootstrap = bootstrap_of(contender, document, options)
        server = None
        if contender.kind in ("ext_proc", "native"):
            server = await self._server(contender, name, config, address, metrics)
        elif contender.kind == "go":
            server = await self._go(contender, name, document, address)
        envoy = await self._envoy(name, bootstrap, admin, self.placement.tested)
        running = Running(contender, self.placement, listen, f"http://127.0.0.1:{admin}", envoy, server)
        if server is not None:
            await envoy.wait_until(running.serves)
        return running

    async def _server(self, contender: Contender, name: str, config: Path, address: str, metrics: int) -> Child:
        serve = ["--config", str(config), "--listen", address, "--metrics", f"127.0.0.1:{metrics}"]
        serve += ["--workers", str(max(1, contender.workers)), "--transport", contender.transport]
        server = await self._child(
            f"{name}-server", [sys.executable, "-m", "abmesh.cli", "ext-proc", *serve], self.placement.tested
        )
        await server.wait_until(lambda: answers(f"http://127.0.0.1:{metrics}/metrics"))
        return server

    async def _go(self, contender: Contender, name: str, document: Document, address: str) -> Child:
        if self.go_program is None:
            self.go_program = await asyncio.to_thread(go_server.build, self.folder)
        config = self.folder / f"{name}.json"
        config.write_text(json.dumps(go_server.config_of(document)))
        # Set in any case: by default Go takes the number of CPUs that it may run on.
        command = ["env", f"GOMAXPROCS={contender.workers}", str(self.go_program)]
        command += ["-listen", address, "-config", str(config)]
        return await self._child(f"{name}-server", command, self.placement.tested)

    async def _application(self, contender: Contender, name: str) -> Running:
        (port,) = free_ports(1)
        command = ["env", f"{UPSTREAM}=http://127.0.0.1:{self.upstream}"]
        command += [f"{SHARED}={'1' if contender.client == 'shared' else ''}"]
        command += [sys.executable, "-m", "uvicorn", "bench.application:app"]
        command += ["--port", str(port), "--no-access-log", "--log-level", "warning"]
        command += ["--workers", str(contender.workers)] if contender.workers > 1 else []
        server = await self._child(f"{name}-server", command, self.placement.tested)
        await server.wait_until(lambda: answers(f"http://127.0.0.1:{port}/healthz"))
        return Running(contender, self.placement, port, "", None, server)

    async def _envoy(self, name: str, bootstrap: Mapping[str, Any], admin: int, cpus: Sequence[int]) -> Child:
        # JSON: the routes of a hundred experiments in the native lane take minutes to write as YAML.
        config = self.folder / f"{name}-envoy.json"
        config.write_text(json.dumps(bootstrap))
        command = [find_envoy(), "-c", str(config), "--use-dynamic-base-id", "--concurrency", "1", "-l", "error"]
        envoy = await self._child(f"{name}-envoy", command, cpus)
        await envoy.wait_until(lambda: answers(f"http://127.0.0.1:{admin}/ready"))
        return envoy

    async def _child(self, name: str, command: Sequence[str], cpus: Sequence[int]) -> Child:
        child = Child(name, placed(cpus, command), self.folder / f"{name}.log")
        self.stack.push_async_callback(child.stop)
        await child.start()
        return child


def streams_per_connection(contender: Contender) -> int:
    """What is recommended for a server with so many workers; the system gives each of them connections."""
    return 2 if contender.workers > 1 else 100


def bootstrap_of(contender: Contender, document: Document, options: RenderOptions) -> dict[str, Any]:
    """The contender's Envoy: the one that abmesh renders, less what it does not have."""
    rendered = render_bootstrap(document, options)
    if contender.kind == "alone":
        return envoys.alone(rendered, document)
    if contender.kind == "native_alone":
        return envoys.native_alone(rendered)
    if contender.kind == "native_split":
        return envoys.native_alone(rendered, headers=False)
    if contender.kind == "statistics":
        return envoys.with_statistics(rendered, document.experiments[0])
    if contender.kind == "lua":
        return envoys.lua_split(rendered, document.experiments[0])
    return rendered


@dataclass(frozen=True, slots=True)
class Running:
    """A contender that has been started."""

    contender: Contender
    placement: Placement
    port: int
    admin: str
    envoy: Child | None
    server: Child | None

    async def serves(self) -> bool:
        """Whether Envoy finds the server healthy."""
        healthy = f"cluster.{EXT_PROC_CLUSTER}.membership_healthy"
        return (await self._statistics(f"^{healthy}$")).get(healthy) == 1

    async def load(
        self, requests: Sequence[bytes], count: int, connections: int = CONNECTIONS, rate: float | None = None
    ) -> LoadResult:
        """Send requests from a thread of its own, on the load's CPUs.

        Raises:
            TimeoutError: it took longer than a minute.
        """
        stop = threading.Event()

        def drive() -> LoadResult:
            with here(self.placement.load):
                return generate(
                    self.port,
                    requests,
                    count=count,
                    connections=connections,
                    rate=rate,
                    seconds=ROUND_SECONDS,
                    stop=stop,
                )

        driving = asyncio.create_task(asyncio.to_thread(drive))
        try:
            return await asyncio.shield(driving)
        finally:
            stop.set()
            await asyncio.wait({driving}, timeout=_ENDING_SECONDS)

    async def measure(
        self, requests: Sequence[bytes], count: int, connections: int = CONNECTIONS, rate: float | None = None
    ) -> Sample:
        """One round, after a short warm-up that is not measured.

        Args:
            requests: what to send.
            count: how many.
            connections: how many at the same time.
            rate: requests per second, sent whatever the answers do; None: as fast as answers come.

        Raises:
            TimeoutError: it took longer than a minute.
        """
        await self.load(requests, min(_WARM_UP, max(count // 10, 1)), min(connections, CONNECTIONS))
        failed_before = await self._failed()
        envoy_before, server_before = _cpu(self.envoy), _cpu(self.server)
        result = await self.load(requests, count, connections, rate)
        envoy, server = usage.spent(envoy_before, _cpu(self.envoy)), usage.spent(server_before, _cpu(self.server))
        failed = await self._failed()
        workers = usage.worker_pids(self.server.pid) if self.server is not None else []
        return Sample(
            requests_per_second=result.requests_per_second,
            p50_ms=result.quantile_ms(0.50),
            p99_ms=result.quantile_ms(0.99),
            p999_ms=result.quantile_ms(0.999),
            envoy_cpu_us=sum(envoy.values()) / count * 1e6 if self.envoy is not None else None,
            server_cpu_us=sum(server.values()) / count * 1e6 if self.server is not None else None,
            failures={**self._seen(result), **{name: failed[name] - failed_before[name] for name in failed}},
            rss_mb=max(map(usage.resident_mb, workers), default=None),
            envoy_rss_mb=usage.resident_mb(self.envoy.pid) if self.envoy is not None else None,
            shares=shares([server[pid] for pid in workers]),
        )

    def _seen(self, result: LoadResult) -> dict[str, int]:
        """What clients saw that must not be: requests that failed, or that nobody assigned."""
        unassigned = result.versions[b""] if self.contender.assigns else 0
        return {"failed_requests": result.failed, "unassigned_answers": unassigned}

    async def _failed(self) -> dict[str, int]:
        """Envoy's counters of streams that failed, each since Envoy's start."""
        if self.envoy is None or self.server is None:
            return {}
        found = await self._statistics(f"^{_FILTER}")
        return {name: found[_FILTER + name] for name in _FAILURES}

    async def _statistics(self, pattern: str) -> dict[str, int]:
        for _ in range(_ADMIN_TRIES):
            if (text := await fetch(f"{self.admin}/stats?format=json&filter={pattern}")) is not None:
                break
        else:
            raise ProbeError(f"the Envoy of {self.contender.name} does not tell its statistics")
        stats = json.loads(text)["stats"]
        return {stat["name"]: stat["value"] for stat in stats if "value" in stat}


def _cpu(child: Child | None) -> dict[int, float]:
    return {} if child is None else usage.cpu_seconds(child.pid)


def shares(seconds: Sequence[float]) -> tuple[float, ...]:
    """Each one's share of a sum, largest first; nothing of nothing."""
    total = sum(seconds)
    return tuple(sorted((value / total for value in seconds), reverse=True)) if total else ()
