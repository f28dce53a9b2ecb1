"""Probes of a container, as the kubelet runs them: by HTTP, TCP, gRPC or a command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.cluster.kubelet.api import Object

EAGER_SECONDS = 1.0
"""Longest time between two eager probes: a test must not wait 10 s for a default."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to probe.

    Attributes:
        session: for HTTP.
        address: of the pod.
        container: as the pod's spec has it.
        execute: runs a command in the container; its exit code.
    """

    session: aiohttp.ClientSession
    address: str
    container: Object
    execute: Callable[[Sequence[str]], Awaitable[int]]


@dataclass(slots=True)
class Tally:
    """Counts successes and failures in a row, and says when the verdict changes. Pure."""

    success_threshold: int
    failure_threshold: int
    good: int = 0
    bad: int = 0

    def add(self, success: bool) -> bool | None:
        """Count a probe; the verdict, or None while there is none."""
        self.good, self.bad = (self.good + 1, 0) if success else (0, self.bad + 1)
        if self.good >= self.success_threshold:
            return True
        return False if self.bad >= self.failure_threshold else None


async def watch(probe: Object, target: Target, tell: Callable[[bool], bool], *, eager: bool = False) -> None:
    """Probe until ``tell``, which gets each verdict, says that this was enough.

    Args:
        probe: as the container has it.
        target: whom to probe.
        tell: gets each verdict; whether to end.
        eager: whether to probe at least every second while it fails, which shortens what the failures may take.
    """
    tally = Tally(probe.get("successThreshold", 1), probe.get("failureThreshold", 3))
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    while True:
        success = await check(probe, target)
        verdict = tally.add(success)
        if verdict is not None and tell(verdict):
            return
        period = probe.get("periodSeconds", 10)
        await asyncio.sleep(min(period, EAGER_SECONDS) if eager and not success else period)


async def check(probe: Object, target: Target) -> bool:
    """One probe."""
    try:
        async with asyncio.timeout(probe.get("timeoutSeconds", 1)):
            return await _ask(probe, target)
    except (OSError, TimeoutError, aiohttp.ClientError, grpc.RpcError):
        return False


async def _ask(probe: Object, target: Target) -> bool:
    if action := probe.get("exec"):
        return await target.execute(action["command"]) == 0
    if action := probe.get("tcpSocket"):
        _, writer = await asyncio.open_connection(target.address, port_number(target.container, action["port"]))
        writer.close()
        return True
    if action := probe.get("grpc"):
        async with grpc.aio.insecure_channel(f"{target.address}:{action['port']}") as channel:
            request = health_pb2.HealthCheckRequest(service=action.get("service", ""))
            answer = await health_pb2_grpc.HealthStub(channel).Check(request)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return await get(probe["httpGet"], target)


async def get(action: Object, target: Target) -> bool:
    """Whether ``httpGet`` answers with a success or a redirection."""
    port, scheme = port_number(target.container, action["port"]), action.get("scheme", "HTTP").lower()
    url = f"{scheme}://{action.get('host', target.address)}:{port}/{action.get('path', '/').lstrip('/')}"
    headers = [(header["name"], header["value"]) for header in action.get("httpHeaders", [])]
    async with target.session.get(url, headers=headers, allow_redirects=False) as answer:
        return 200 <= answer.status < 400


def port_number(container: Object, port: int | str) -> int:
    """The number of a port that may be given by its name.

    Raises:
        ValueError: the container has no port of that name.
    """
    if isinstance(port, int):
        return port
    for entry in container.get("ports", []):
        if entry.get("name") == port:
            return int(entry["containerPort"])
    raise ValueError(f"container {container['name']} has no port {port!r}")
