"""One client that asks again and again, and sees when Envoy's answers change. Called by :mod:`bench.reactions`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from bench.load import request_of


class ProbeError(Exception):
    """What was waited for did not happen, or a request failed."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer.

    Attributes:
        variant: of ``x-model-version``; empty where there was none.
        at: when it arrived, on the monotonic clock.
        seconds: how long it took.
    """

    status: int
    variant: str
    at: float
    seconds: float


class Probe:
    """A client with one connection, to be entered with ``async with``.

    Args:
        port: of Envoy, on the loopback interface.
        user: who it is.
        pause: seconds between an answer and the next request, and so the resolution of what it sees.
    """

    def __init__(self, port: int, user: str, path: str = "/v1/models", pause: float = 0.002) -> None:
        self._port = port
        self._request = request_of(path, (f"x-user-id: {user}",))
        self._pause = pause

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def ask(self) -> Seen:
        """Send one request.

        Raises:
            ProbeError: it did not end with 200.
        """
        started = time.monotonic()
        self._writer.write(self._request)
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            await self._reader.readexactly(int(headers.get("content-length", "0")))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise ProbeError(f"Envoy closed the connection of a request ({type(error).__name__})") from error
        now = time.monotonic()
        seen = Seen(int(head[0].split()[1]), headers.get("x-model-version", ""), now, now - started)
        if seen.status != 200:
            raise ProbeError(f"a request ended with {seen.status}; allowed: 200")
        return seen

    async def until(self, holds: Callable[[Seen], bool], what: str, seconds: float = 30.0) -> Seen:
        """The first answer for which a condition holds.

        Raises:
            ProbeError: there was none in time, or a request failed.
        """
        deadline = time.monotonic() + seconds
        while not holds(seen := await self.ask()):
            if seen.at > deadline:
                raise ProbeError(f"waited {seconds:g} s in vain for {what}; the last answer was {seen}")
            await asyncio.sleep(self._pause)
        return seen

    async def until_on(self, variant: str, seconds: float = 30.0) -> Seen:
        """The first answer of a variant; the empty one is that of nobody assigned."""
        what = f"a request on {variant}" if variant else "an unassigned request"
        return await self.until(lambda seen: seen.variant == variant, what, seconds)
