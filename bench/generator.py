"""A load generator on raw sockets, for what is measured: closed loops, and requests at moments that were set before.

:mod:`bench.load` is the one for everything else: it lives in an event loop, which this one does without: it blocks its
thread, so it gets one of its own. Both know only answers with a length, and send one request at a time on a connection.
Requests are bytes that were built before; of an answer only the status, the version and the length are looked at.

With a rate, requests are sent at random moments that do not depend on the answers (a Poisson process of a fixed seed,
so that all contenders get the same), and a latency begins when its request was *meant* to be sent: one that waits
because every connection waits for an answer has waited. Called by :mod:`bench.contenders`.
"""

from __future__ import annotations

import ctypes
import random
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from bench.load import NO_ANSWER, LoadResult, header_of

_PR_SET_TIMERSLACK: Final = 29
_SEED: Final = 5
_LONGEST_WAIT: Final = 0.25
_MOST_BYTES: Final = 65536
_SEND_BUFFER: Final = 1 << 18


class StoppedError(TimeoutError):
    """A run was stopped before its end."""


def moments(rate: float, count: int, seed: int = _SEED) -> list[float]:
    """When to send, in seconds from the start, in order.

    Args:
        rate: requests per second, on average.
        count: how many.
        seed: of the gaps; the same seed gives the same gaps, in units of their mean.
    """
    rng = random.Random(seed)
    return list(accumulate(rng.expovariate(1.0) / rate for _ in range(count)))


def generate(
    port: int,
    requests: Sequence[bytes],
    *,
    count: int,
    connections: int = 16,
    rate: float | None = None,
    seconds: float = 60.0,
    stop: threading.Event | None = None,
) -> LoadResult:
    """Send ``count`` requests to a port of the loopback interface; blocks the calling thread.

    Args:
        port: where to.
        requests: what to send, over and over.
        count: how many in all.
        connections: how many at the same time; all are open before the first request is sent.
        rate: requests per second, whatever the answers do; None sends the next one as soon as one is answered.
        seconds: longest time of the run.
        stop: ends the run early when it is set.

    Raises:
        TimeoutError: it took longer than ``seconds``.
        StoppedError: it was stopped.
        OSError: nobody listens on the port.
    """
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1)  # of this thread: else every wait is some 50 µs too long
    run = _Run(requests, count, None if rate is None else moments(rate, count))
    try:
        for _ in range(connections):
            run.open(port, seconds)
        run.serve(seconds, stop or threading.Event())
    finally:
        run.close()
    return run.result


class _Connection:
    __slots__ = ("buffer", "receive", "send", "since", "socket", "waiting")

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.send, self.receive = opened.send, opened.recv
        self.buffer = b""
        self.since = 0.0
        self.waiting = False


class _Run:
    def __init__(self, requests: Sequence[bytes], count: int, due: list[float] | None) -> None:
        self.result = LoadResult()
        self._requests = requests
        self._count = count
        self._due = due
        self._sent = 0
        self._answered = 0
        self._started = 0.0
        self._open: dict[int, _Connection] = {}
        self._idle: deque[_Connection] = deque()
        self._poller = select.epoll()

    def open(self, port: int, seconds: float) -> None:
        made = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        made.setblocking(False)
        connection = self._open[made.fileno()] = _Connection(made)
        self._poller.register(made, select.EPOLLIN)
        self._idle.append(connection)

    def close(self) -> None:
        self._poller.close()
        for connection in self._open.values():
            connection.socket.close()

    def serve(self, seconds: float, stop: threading.Event) -> None:
        """Send and receive until every request has been answered or cannot be."""
        self._started = now = time.perf_counter()
        deadline = now + seconds
        while self._answered < self._count:
            if now > deadline:
                raise TimeoutError(f"{self._count - self._answered} of {self._count} answers late after {seconds:g} s")
            if stop.is_set():
                raise StoppedError("stopped")
            if not self._open:
                self._fail(self._count - self._answered)
                break
            self._send_due()
            for number, _ in self._wait():
                self._receive(self._open[number])
            now = time.perf_counter()
        self.result.seconds = time.perf_counter() - self._started

    def _send_due(self) -> None:
        idle = self._idle
        while idle and self._sent < self._count and self._until_next() <= 0:
            self._send(idle.popleft())

    def _until_next(self) -> float:
        """Seconds until the next request is meant to be sent."""
        return 0.0 if self._due is None else self._started + self._due[self._sent] - time.perf_counter()

    def _wait(self) -> list[tuple[int, int]]:
        if self._due is None or not self._idle or self._sent == self._count:
            return self._poller.poll(_LONGEST_WAIT)
        # epoll counts whole milliseconds; select, which can wait for an epoll, does not.
        select.select([self._poller], [], [], min(_LONGEST_WAIT, max(0.0, self._until_next())))
        return self._poller.poll(0)

    def _send(self, connection: _Connection) -> None:
        number = self._sent
        self._sent = number + 1
        request = self._requests[number % len(self._requests)]
        connection.waiting = True
        connection.since = time.perf_counter() if self._due is None else self._started + self._due[number]
        try:
            sent = connection.send(request)
            if sent < len(request):
                # Rare, and short: whoever reads answers nothing before it has read all.
                connection.socket.setblocking(True)
                connection.socket.sendall(request[sent:])
                connection.socket.setblocking(False)
        except OSError:
            self._lose(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.receive(_MOST_BYTES)
        except OSError:
            data = b""
        if not data:
            self._lose(connection)
            return
        if connection.buffer:
            data = connection.buffer + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            connection.buffer = data
            return
        head = data[:end].lower()
        try:
            status, length = int(head[9:12]), int(header_of(head, b"content-length") or b"0")
        except ValueError:  # not HTTP
            self._lose(connection)
            return
        if len(data) < end + 4 + length:
            connection.buffer = data
            return
        connection.buffer = data[end + 4 + length :]
        connection.waiting = False
        result = self.result
        result.latencies.append(time.perf_counter() - connection.since)
        result.statuses[status] += 1
        result.versions[header_of(head, b"x-model-version")] += 1
        self._answered += 1
        if self._sent < self._count and (self._due is None or self._until_next() <= 0):
            self._send(connection)
        else:
            self._idle.append(connection)

    def _lose(self, connection: _Connection) -> None:
        """A connection that broke, and with it the request that waited for its answer."""
        if connection.waiting:
            self._fail(1)
        else:
            self._idle.remove(connection)
        self._poller.unregister(connection.socket)
        del self._open[connection.socket.fileno()]
        connection.socket.close()

    def _fail(self, count: int) -> None:
        self.result.statuses[NO_ANSWER] += count
        self._answered += count
