"""One Envoy with the same experiment twice, once in each lane, a fast upstream that tells what it was sent, clients.

Requests below ``/native/`` are of the experiment ``native``, those below ``/server/`` of ``server``; salt, units,
variants and everything else are the same, so that whatever a client sends must come to the same in both. Requests are
bytes, sent over raw connections, many at once: ten thousand users through every step of a ramp are 120,000 requests.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

from ruamel.yaml import YAML

from abmesh.experiment.store import FileStore, format_generation
from abmesh.local.stack import Stack, StackOptions, fetch
from tests.e2e.support import PATIENT, eventually, metric

LANES = ("native", "server")
VARIANTS = ("model-a", "model-b", "model-c")
_SAID = ("experiment", "slice", "group", "segment", "issued", "continued")
_TOLD = (*(f"x-ab-{name}".encode() for name in _SAID), b"x-model-version", b"x-envoy-expected-rq-timeout-ms")


class Reply(NamedTuple):
    """One answer, and what the upstream was told; only ``experiment`` may differ between the lanes.

    Attributes:
        stamp: ``x-model-version`` of the answer, comma-joined if there are several.
        cookie: the Set-Cookie that our server had put on it; empty if none.
        upstream: that answered; empty if Envoy answered itself.
    """

    status: int
    stamp: str
    cookie: str
    upstream: str = ""
    experiment: str = ""
    slice: str = ""
    group: str = ""
    segment: str = ""
    issued: str = ""
    continued: str = ""
    variant: str = ""
    timeout: str = ""

    def without_experiment(self) -> Self:
        return self._replace(experiment="")


class _Upstream(asyncio.Protocol):
    """Answers each request with what the headers of an assignment say; ``?sleep=S`` waits first."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rest = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._rest = (self._rest + data).split(b"\r\n\r\n")
        for head in heads:
            first, *lines = head.split(b"\r\n")
            found = dict(line.split(b": ", 1) for line in lines if b": " in line)
            body = b"|".join([self._name.encode(), *(found.get(name, b"") for name in _TOLD)])
            sleep = re.search(rb"sleep=([0-9.]+)", first)
            answer = b"HTTP/1.1 200 OK\r\nx-model-version: forged\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            if sleep:
                asyncio.get_running_loop().call_later(float(sleep[1]), self._transport.write, answer)
            else:
                self._transport.write(answer)


@asynccontextmanager
async def upstream(name: str) -> AsyncIterator[int]:
    """Run it; its port."""
    server = await asyncio.get_running_loop().create_server(lambda: _Upstream(name), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def request(lane: str, lines: Sequence[bytes] = (), query: bytes = b"") -> bytes:
    """A request to a lane's experiment, with these header lines."""
    return b"\r\n".join([b"GET /%b/x%b HTTP/1.1" % (lane.encode(), query), b"host: a", *lines, b"", b""])


class _Client(asyncio.Protocol):
    """One connection: sends some requests at once, and reads as many answers."""

    def __init__(self) -> None:
        self._buffer = b""
        self._replies: list[Reply] = []
        self._wanted = 0
        self._done: asyncio.Future[list[Reply]] | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    async def ask(self, requests: Sequence[bytes]) -> list[Reply]:
        self._replies, self._wanted = [], len(requests)
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(b"".join(requests))
        return await self._done

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        position = 0
        while found := _HEAD.match(self._buffer, position):
            length = _LENGTH.search(found[0])
            end = found.end() + (int(length[1]) if length else 0)
            if end > len(self._buffer):
                break
            self._replies.append(_reply(found[0], self._buffer[found.end() : end]))
            position = end
        self._buffer = self._buffer[position:]
        if self._done is not None and len(self._replies) >= self._wanted and not self._done.done():
            self._done.set_result(self._replies)

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error or ConnectionError("Envoy closed the connection"))


_HEAD = re.compile(rb"HTTP/1.1 .*?\r\n\r\n", re.DOTALL)
_LENGTH = re.compile(rb"\ncontent-length: ([0-9]+)")
_STAMP = re.compile(rb"\nx-model-version: ([^\r]*)")
_COOKIE = re.compile(rb"\nset-cookie: ([^\r]*)")


def _reply(head: bytes, body: bytes) -> Reply:
    stamps, cookies = (b",".join(pattern.findall(head)).decode() for pattern in (_STAMP, _COOKIE))
    told = body.decode(errors="replace").split("|")
    return Reply(int(head[9:12]), stamps, cookies, *(told if len(told) > len(_TOLD) else ()))


async def send(port: int, requests: Sequence[bytes], *, connections: int = 8, together: int = 50) -> list[Reply]:
    """Send requests over connections that are kept, so many at once on each; the answers in the requests' order."""
    replies: dict[int, list[Reply]] = {}
    batches = iter(range(0, len(requests), together))

    async def client() -> None:
        _, connection = await asyncio.get_running_loop().create_connection(_Client, "127.0.0.1", port)
        try:
            for start in batches:
                replies[start] = await connection.ask(requests[start : start + together])
        finally:
            connection.transport.close()

    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(client())
    return [reply for start in sorted(replies) for reply in replies[start]]


async def send_alone(port: int, sent: bytes) -> Reply:
    """Send one request on a connection of its own, which Envoy may close."""
    (reply,) = await send(port, [sent], connections=1)
    return reply


def experiment(lane: str, **changes: Any) -> dict[str, Any]:
    """The experiment, in a lane."""
    weights: dict[str, float] = {"model-a": 60.0, "model-b": 40.0, "model-c": 0.0}
    return {
        "name": lane,
        "salt": "lanes",
        "lane": "native" if lane == "native" else "ext_proc",
        "match": {"path_prefix": f"/{lane}/"},
        "unit": [{"header": "x-user-id"}, {"cookie": "sid"}, {"query": "user_id"}],
        "variants": [
            {"name": name, "cluster": name, "weight": weight, "control": name == "model-a"}
            for name, weight in weights.items()
        ],
        **changes,
    }


@dataclass
class Lanes:
    """What a test talks to."""

    stack: Stack

    @property
    def port(self) -> int:
        return self.stack.ports["envoy"]

    async def both(self, lines: Sequence[bytes] = (), query: bytes = b"") -> tuple[Reply, Reply]:
        """The same request to each lane, one after the other."""
        return (
            await send_alone(self.port, request("native", lines, query)),
            await send_alone(self.port, request("server", lines, query)),
        )

    async def statistics(self, pattern: str) -> dict[str, int]:
        """Envoy's counters and gauges of a name, those that were never touched left out."""
        text = await fetch(f"{self.stack.admin}/stats?format=json&usedonly&filter={pattern}")
        assert text is not None
        return {stat["name"]: stat["value"] for stat in json.loads(text)["stats"] if "value" in stat}

    async def asked(self) -> int:
        """How many requests the server has been asked about, by Envoy's own count."""
        return sum((await self.statistics("ext_proc.streams_started$")).values())

    async def version(self) -> str:
        """The generation of the routes that Envoy has in force."""
        text = await fetch(f"{self.stack.admin}/stats?filter=rds.abmesh.version_text")
        found = re.search('"([0-9a-f]+)"', text or "")
        return found[1] if found else ""

    async def in_force(self) -> None:
        """Wait until Envoy and the server have the document that is on disk."""
        generation = FileStore(self.stack.config).read().generation

        async def there() -> bool:
            served = metric(await fetch(self.stack.server_metrics) or "", "abmesh_config_generation")
            return await self.version() == format_generation(generation) and served == generation

        await eventually(there, pause=0.02)

    async def weigh(self, weights: Mapping[str, int]) -> None:
        """Give both experiments these weights, in basis points, and wait until they are in force."""
        store = FileStore(self.stack.config)
        for lane in LANES:
            await asyncio.to_thread(store.update_weights, lane, lambda _: weights)
        await self.in_force()


@asynccontextmanager
async def lanes(
    folder: Path,
    *experiments: dict[str, Any],
    interval: timedelta | None = None,
    edit: Callable[[dict[str, Any]], None] = lambda _: None,
    **changes: Any,
) -> AsyncIterator[Lanes]:
    """Run it all.

    Args:
        folder: where files go.
        experiments: of the document, instead of the two.
        interval: between the controller's ticks; without one there is no controller, and the file has a follower.
        edit: changes the document.
        changes: of both experiments.
    """
    async with AsyncExitStack() as undo:
        ports = {name: await undo.enter_async_context(upstream(name)) for name in VARIANTS}
        clusters = {name: {"host": "127.0.0.1", "port": port} for name, port in ports.items()}
        chosen = list(experiments) or [experiment(lane, **changes) for lane in LANES]
        said: dict[str, Any] = {"version": 1, "clusters": clusters, "experiments": chosen}
        edit(said)
        text = io.StringIO()
        YAML(typ="safe").dump(json.loads(json.dumps(said)), text)  # copied, since documents have no aliases
        options = StackOptions(
            {}, interval=interval, settle=timedelta(seconds=2), message_timeout=PATIENT, routes_file=True
        )
        running = Stack(text.getvalue(), options, folder)
        await undo.enter_async_context(running)
        found = Lanes(running)
        await found.in_force()
        yield found
