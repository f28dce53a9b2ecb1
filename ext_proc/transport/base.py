"""The interface of every transport, its limits, and how long a drain accepts requests.

:mod:`ext_proc.serving` uses the interface; :mod:`ext_proc.transport.grpc_aio` and :mod:`.nghttp2` implement it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from ext_proc import wire
from ext_proc.settings import Address

SERVICES: Final = ("", wire.SERVICE)
"""The services that health checks may name: the server as a whole, and its one service."""

LONGEST_MESSAGE: Final = 1024 * 1024
"""Bytes. Envoy takes 60 KB of request headers, if nobody raised it; a larger message is a body, or not from Envoy."""

MOST_STREAMS: Final = 10_000
"""Open streams on one connection."""

CONNECTION_BUDGET: Final = 4 * 1024 * 1024
"""Bytes that one connection may make us hold: incomplete messages, and likewise answers that it does not read."""

SERVER_BUDGET: Final = 64 * 1024 * 1024
"""Bytes that all connections of one process may make us hold together."""

SPARE_DESCRIPTORS: Final = 128
"""File descriptors that connections must leave to the rest of the process: the document, metrics, logs."""

_QUIET_SECONDS: Final = 0.25
_CHECK_SECONDS: Final = 0.05
_CLOSING_SHARE: Final = 0.2
"""Share of the drain time that is reserved for finishing open calls once no new ones are accepted."""


class Server(Protocol):
    """One listening server."""

    async def start(self, addresses: Sequence[Address]) -> tuple[str, ...]:
        """Listen; returns the addresses with their real ports.

        Raises:
            StartError: the server cannot listen on an address.
        """

    async def set_serving(self) -> None:
        """Report SERVING to health checks; before that they get NOT_SERVING."""

    async def drain(self, seconds: float) -> None:
        """Stop without failing open calls.

        Health turns NOT_SERVING at once, but requests are still answered until none has arrived for a moment or most of
        the time is over. Then the server closes: streams that wait for nothing end cleanly, and those being answered
        are finished.
        """

    async def abort(self) -> None:
        """Stop at once, whatever is open."""


async def until_quiet(seconds: float, streams: Callable[[], int]) -> None:
    """Wait until no new stream has arrived for a moment, or most of the time is over.

    Args:
        seconds: the whole time of the drain.
        streams: returns how many streams have been accepted so far.
    """
    loop = asyncio.get_running_loop()
    begun = loop.time()
    quiet_since, seen = begun, streams()
    while (now := loop.time()) - begun < seconds * (1 - _CLOSING_SHARE) and now - quiet_since < _QUIET_SECONDS:
        await asyncio.sleep(_CHECK_SECONDS)
        if (count := streams()) != seen:
            quiet_since, seen = loop.time(), count
