"""The data paths that are compared: starts each, and measures one round of it. Called by :mod:`bench.throughput`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from bench import envoys, usage
from bench.load import LoadResult, run_load
from bench.summary import Sample
from cli.demo.processes import Child, free_ports
from cli.demo.stack import answers, fetch, find_envoy
from experiment.codec import parse
from experiment.names import EXT_PROC_CLUSTER
from mesh.bootstrap import render_bootstrap
from mesh.options import RenderOptions
from mesh.yaml_text import to_yaml

PATH: Final = "/v1/models"
CONNECTIONS: Final = 16
_WARM_UP: Final = 200
_ROUND_SECONDS: Final = 60.0

_FILTER: Final = "http.abmesh.ext_proc."
_FAILURES: Final = ("streams_failed", "failure_mode_allowed", "message_timeouts")

_DOCUMENT: Final = """\
version: 1
clusters:
  model-a: {{host: 127.0.0.1, port: {port}}}
  model-b: {{host: 127.0.0.1, port: {port}}}
experiments:
  - name: chat-model
    match: {{path_prefix: /v1/}}
    unit: [{{header: x-user-id}}, {{cookie: llm-session}}, {{query: user_id}}]
    issue_cookie: {{name: llm-session, max_age: 1h}}
    variants:
      - {{name: model-a, cluster: model-a, weight: 90, control: true, timeout: 30s}}
      - {{name: model-b, cluster: model-b, weight: 10, timeout: 60s}}
    overrides:
      - {{header: {{x-user-group: beta-testers}}, variant: model-b}}
    segments: {{header: x-user-segment, values: [power, casual]}}
"""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to split traffic.

    Attributes:
        name: as the results name it.
        meaning: what it is, in a few words.
        kind: Envoy alone, Envoy with our statistics, or Envoy with our server.
        workers: of our server.
        unix: whether Envoy reaches our server over a Unix socket instead of TCP.
    """

    name: str
    meaning: str
    kind: Literal["alone", "statistics", "ext_proc"]
    workers: int = 0
    unix: bool = False


REFERENCE: Final = "envoy_alone"
CONTENDERS: Final = (
    Contender(REFERENCE, "weighted_clusters and nothing of abmesh", "alone"),
    Contender("envoy_with_statistics", "weighted_clusters and all that abmesh measures", "statistics"),
    Contender("ext_proc_1_worker", "abmesh over TCP", "ext_proc", workers=1),
    Contender("ext_proc_2_workers", "abmesh over TCP", "ext_proc", workers=2),
    Contender("ext_proc_1_worker_unix", "abmesh over a Unix socket", "ext_proc", workers=1, unix=True),
)


async def start_upstream(folder: Path, stack: AsyncExitStack) -> int:
    """Start what all contenders send their requests to; its port."""
    port, admin = free_ports(2)
    await _start_envoy("upstream", envoys.answering(port, admin), admin, folder, stack)
    return port


async def start(contender: Contender, upstream: int, folder: Path, stack: AsyncExitStack) -> Running:
    """Start a contender's processes, which the stack ends.

    Raises:
        ProcessError: one does not start.
    """
    text = _DOCUMENT.format(port=upstream)
    config = folder / "experiments.yaml"
    config.write_text(text)
    document = parse(text, "the benchmark's document")
    listen, admin, tcp, metrics = free_ports(4)
    address = f"unix:{folder / contender.name}.sock" if contender.unix else f"127.0.0.1:{tcp}"
    options = RenderOptions(listen=f"127.0.0.1:{listen}", admin=f"127.0.0.1:{admin}", warmup="", ext_proc=(address,))
    bootstrap = render_bootstrap(document, options)
    if contender.kind == "alone":
        bootstrap = envoys.alone(bootstrap, document.experiments[0])
    elif contender.kind == "statistics":
        bootstrap = envoys.with_statistics(bootstrap, document.experiments[0])
    server = None
    if contender.kind == "ext_proc":
        serve = ["--config", str(config), "--listen", address, "--metrics", f"127.0.0.1:{metrics}"]
        serve += ["--workers", str(contender.workers)]
        command = [sys.executable, "-m", "cli", "ext-proc", *serve]
        server = Child(f"{contender.name}'s server", command, folder / f"{contender.name}-server.log")
        stack.push_async_callback(server.stop)
        await server.start()
        await server.wait_until(lambda: answers(f"http://127.0.0.1:{metrics}/metrics"))
    envoy = await _start_envoy(contender.name, bootstrap, admin, folder, stack)
    running = Running(contender, listen, f"http://127.0.0.1:{admin}", envoy, server)
    if server is not None:
        await envoy.wait_until(running.serves)
    return running


async def _start_envoy(
    name: str, bootstrap: Mapping[str, Any], admin: int, folder: Path, stack: AsyncExitStack
) -> Child:
    config = folder / f"{name}.yaml"
    config.write_text(to_yaml(bootstrap))
    command = [find_envoy(), "-c", str(config), "--use-dynamic-base-id", "--concurrency", "1", "-l", "error"]
    envoy = Child(f"{name}'s Envoy", command, folder / f"{name}-envoy.log")
    stack.push_async_callback(envoy.stop)
    await envoy.start()
    await envoy.wait_until(lambda: answers(f"http://127.0.0.1:{admin}/ready"))
    return envoy


@dataclass(frozen=True, slots=True)
class Running:
    """A contender that has been started."""

    contender: Contender
    port: int
    admin: str
    envoy: Child
    server: Child | None

    async def serves(self) -> bool:
        """Whether Envoy finds our server, all of its workers, healthy."""
        healthy = f"cluster.{EXT_PROC_CLUSTER}.membership_healthy"
        return (await self._statistics(f"^{healthy}$")).get(healthy) == 1

    async def measure(self, requests: Sequence[bytes], count: int) -> Sample:
        """One round, after a short warm-up that is not measured.

        Raises:
            TimeoutError: it took longer than a minute.
        """
        await run_load(self.port, requests, count=_WARM_UP, connections=CONNECTIONS, seconds=_ROUND_SECONDS)
        failed_before = await self._failed()
        envoy_before, server_before = usage.cpu_seconds(self.envoy.pid), self._server_cpu()
        result = await run_load(self.port, requests, count=count, connections=CONNECTIONS, seconds=_ROUND_SECONDS)
        envoy = usage.spent(envoy_before, usage.cpu_seconds(self.envoy.pid))
        server = usage.spent(server_before, self._server_cpu())
        failed = await self._failed()
        workers = usage.worker_pids(self.server.pid) if self.server is not None else []
        return Sample(
            requests_per_second=result.requests_per_second,
            p50_ms=result.quantile_ms(0.50),
            p99_ms=result.quantile_ms(0.99),
            envoy_cpu_us=sum(envoy.values()) / count * 1e6,
            server_cpu_us=sum(server.values()) / count * 1e6 if self.server is not None else None,
            failures={**self._seen(result), **{name: failed[name] - failed_before[name] for name in failed}},
            rss_mb=max(map(usage.resident_mb, workers), default=None),
            shares=shares([server[pid] for pid in workers]),
        )

    def _seen(self, result: LoadResult) -> dict[str, int]:
        """What clients saw that must not be: requests that failed, or that nobody assigned."""
        assigns = self.contender.kind == "ext_proc"
        return {"failed_requests": result.failed, "unassigned_answers": result.versions[b""] if assigns else 0}

    def _server_cpu(self) -> dict[int, float]:
        return {} if self.server is None else usage.cpu_seconds(self.server.pid)

    async def _failed(self) -> dict[str, int]:
        """Envoy's counters of streams that failed, each since Envoy's start."""
        if self.server is None:
            return {}
        found = await self._statistics(f"^{_FILTER}")
        return {name: found[_FILTER + name] for name in _FAILURES}

    async def _statistics(self, pattern: str) -> dict[str, int]:
        text = await fetch(f"{self.admin}/stats?format=json&filter={pattern}")
        stats = json.loads(text)["stats"] if text is not None else []
        return {stat["name"]: stat["value"] for stat in stats if "value" in stat}


def shares(seconds: Sequence[float]) -> tuple[float, ...]:
    """Each one's share of a sum, largest first; nothing of nothing."""
    total = sum(seconds)
    return tuple(sorted((value / total for value in seconds), reverse=True)) if total else ()
