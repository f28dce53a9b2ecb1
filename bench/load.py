"""A closed-loop HTTP/1.1 load generator that costs little, so that what it drives is what is measured.

Each connection sends its next request as soon as the answer to the last has arrived. Requests are bytes that were
built before; of an answer only the status, one header and the length are looked at. Loopback only, bounded in count
and time. The benchmarks and ``tests/bench/test_memory.py`` use it; it knows neither pipelining nor chunked answers.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

NO_ANSWER = 0
"""The status under which requests are counted that got no answer, or none that could be read."""


@dataclass
class LoadResult:
    """What one run came to.

    Attributes:
        seconds: from the first connection to the last answer.
        latencies: seconds of each answer, in the order in which they arrived.
        statuses: answers by HTTP status; every request of the run is counted once.
        versions: answers by ``x-model-version``; empty where there was none.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    versions: Counter[bytes] = field(default_factory=Counter)

    @property
    def requests_per_second(self) -> float:
        """Answers per second."""
        return len(self.latencies) / self.seconds

    @property
    def failed(self) -> int:
        """Requests that did not end with 200."""
        return sum(count for status, count in self.statuses.items() if status != 200)

    def quantile_ms(self, share: float) -> float:
        """A nearest-rank quantile of the latencies, in milliseconds; NaN if nothing was answered."""
        ordered = sorted(self.latencies)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)] * 1000 if ordered else math.nan


def requests_of(users: Sequence[str], path: str, extra: Sequence[str] = ()) -> list[bytes]:
    """One GET per user, as bytes; ``extra`` are further header lines."""
    return [request_of(path, (f"x-user-id: {user}", *extra)) for user in users]


def request_of(path: str, headers: Sequence[str] = (), body: bytes | None = None) -> bytes:
    """One request as bytes: a GET, or a POST where there is a body; ``headers`` are header lines."""
    method, length = ("GET", ()) if body is None else ("POST", (f"content-length: {len(body)}",))
    lines = (f"{method} {path} HTTP/1.1", "host: bench.local", *headers, *length, "", "")
    return "\r\n".join(lines).encode("latin-1") + (body or b"")


class _Connection(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._buffer = b""
        self._sent_at = 0.0
        self._waiting = False
        self._timer: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._next()

    def _next(self) -> None:
        request = self._run.next_request()
        if request is None:
            self.transport.close()
            return
        self._sent_at = time.perf_counter()
        self._waiting = True
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        try:
            status, length = int(head[9:12]), int(header_of(head, b"content-length") or b"0")
        except ValueError:  # not HTTP: connection_lost counts the request
            self.transport.abort()
            return
        if len(self._buffer) < end + 4 + length:
            return
        self._buffer = self._buffer[end + 4 + length :]
        self._waiting = False
        result = self._run.result
        result.latencies.append(time.perf_counter() - self._sent_at)
        result.statuses[status] += 1
        result.versions[header_of(head, b"x-model-version")] += 1
        self._timer = self._run.soon(self._next)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio.Protocol has it
        if self._waiting:
            self._run.result.statuses[NO_ANSWER] += 1
        if self._timer is not None:
            self._timer.cancel()
        self._run.closed()


def header_of(head: bytes, name: bytes) -> bytes:
    start = head.find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    stop = head.find(b"\r\n", start)
    return head[start : stop if stop >= 0 else None].strip()


class _Run:
    def __init__(self, requests: Sequence[bytes], count: int, connections: int, pause: float) -> None:
        self.result = LoadResult()
        self.done = asyncio.Event()
        self._requests = requests
        self._left = count
        self._open = connections
        self._pause = pause
        self._loop = asyncio.get_running_loop()

    def next_request(self) -> bytes | None:
        if self._left == 0:
            return None
        self._left -= 1
        return self._requests[self._left % len(self._requests)]

    def soon(self, send: Callable[[], None]) -> asyncio.Handle | None:
        if self._pause > 0:
            return self._loop.call_later(self._pause, send)
        send()
        return None

    def closed(self) -> None:
        self._open -= 1
        if self._open == 0:
            if self._left:
                self.result.statuses[NO_ANSWER] += self._left
            self.done.set()


async def run_load(
    port: int,
    requests: Sequence[bytes],
    *,
    count: int,
    connections: int = 16,
    pause: float = 0.0,
    seconds: float = 300,
) -> LoadResult:
    """Send ``count`` requests to a port of the loopback interface.

    Args:
        port: where to.
        requests: what to send, over and over.
        count: how many in all.
        connections: how many at the same time.
        pause: seconds that each connection waits between an answer and its next request.
        seconds: longest time of the run.

    Raises:
        TimeoutError: it took longer than ``seconds``.
        OSError: nobody listens on the port.
    """
    run = _Run(requests, count, connections, pause)
    loop = asyncio.get_running_loop()
    opened: list[asyncio.Transport] = []
    started = time.perf_counter()
    try:
        async with asyncio.timeout(seconds):
            for _ in range(connections):
                transport, _connection = await loop.create_connection(lambda: _Connection(run), "127.0.0.1", port)
                opened.append(transport)
            await run.done.wait()
    finally:
        for transport in opened:
            transport.abort()
    run.result.seconds = time.perf_counter() - started
    return run.result
