"""A closed-loop HTTP/1.1 load generator that costs little, so that what it drives is what is measured.

Each connection sends its next request as soon as the answer to the last has arrived. Requests are bytes that were
built before; of an answer only the status, one header and the length are looked at. Loopback only, bounded in count.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class LoadResult:
    """What one run came to.

    Attributes:
        seconds: from the first request to the last answer.
        latencies: seconds of each answer, in the order in which they arrived.
        statuses: answers by HTTP status; 0 counts connections that broke, each with the request it carried.
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
        """A nearest-rank quantile of the latencies, in milliseconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


def requests_of(users: Sequence[str], path: str, extra: Sequence[str] = ()) -> list[bytes]:
    """One request per user, as bytes; ``extra`` are further header lines."""
    lines = "".join(f"{line}\r\n" for line in extra)
    return [f"GET {path} HTTP/1.1\r\nhost: bench.local\r\nx-user-id: {user}\r\n{lines}\r\n".encode() for user in users]


class _Connection(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._buffer = b""
        self._sent_at = 0.0
        self._waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next()

    def _next(self) -> None:
        request = self._run.next_request()
        if request is None:
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._waiting = True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        length = int(_header(head, b"content-length") or b"0")
        if len(self._buffer) < end + 4 + length:
            return
        self._buffer = self._buffer[end + 4 + length :]
        self._waiting = False
        result = self._run.result
        result.latencies.append(time.perf_counter() - self._sent_at)
        result.statuses[int(head[9:12])] += 1
        result.versions[_header(head, b"x-model-version")] += 1
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio.Protocol has it
        if self._waiting:
            self._run.result.statuses[0] += 1
        self._run.closed()


def _header(head: bytes, name: bytes) -> bytes:
    start = head.find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    stop = head.find(b"\r\n", start)
    return head[start : stop if stop >= 0 else None].strip()


class _Run:
    def __init__(self, requests: Sequence[bytes], count: int, connections: int) -> None:
        self.result = LoadResult()
        self.done = asyncio.Event()
        self._requests = requests
        self._left = count
        self._open = connections

    def next_request(self) -> bytes | None:
        if self._left == 0:
            return None
        self._left -= 1
        return self._requests[self._left % len(self._requests)]

    def closed(self) -> None:
        self._open -= 1
        if self._open == 0:
            self.done.set()


async def run_load(
    port: int, requests: Sequence[bytes], *, count: int, connections: int = 16, seconds: float = 300
) -> LoadResult:
    """Send ``count`` requests to a port of the loopback interface.

    Raises:
        TimeoutError: it took longer than ``seconds``.
        OSError: nobody listens on the port.
    """
    run = _Run(requests, count, connections)
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(run), "127.0.0.1", port)
    async with asyncio.timeout(seconds):
        await run.done.wait()
    run.result.seconds = time.perf_counter() - started
    return run.result
