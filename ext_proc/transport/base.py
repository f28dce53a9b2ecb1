"""What every transport does alike: its interface, its limits, and how long a drain goes on taking requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from ext_proc import wire
from ext_proc.settings import Address

SERVICES: Final = ("", wire.SERVICE)
"""What the health service knows: the server as a whole, and its one service."""

LONGEST_MESSAGE: Final = 16 * 1024 * 1024
"""Request headers are small; what is larger is a body of which we need nothing, or not from Envoy."""

MOST_STREAMS: Final = 10_000
"""Requests that one connection may ask about at the same time."""

_QUIET_SECONDS: Final = 0.25
_LOOK_SECONDS: Final = 0.05
_CLOSING_SHARE: Final = 0.2
"""Share of the drain time that is kept for finishing what is under way once no more is taken on."""


class Server(Protocol):
    """One listening server."""

    async def start(self, addresses: Sequence[Address]) -> tuple[str, ...]:
        """Listen; returns the addresses with their real ports.

        Raises:
            StartError: an address cannot be listened on.
        """

    async def set_serving(self) -> None:
        """Say by the health service that Envoy should send requests here; it says that it should not before."""

    async def drain(self, seconds: float) -> None:
        """Stop without failing what is under way.

        Health turns NOT_SERVING at once, while requests are answered on until none has come for a moment or most
        of the time is over. Then the server closes: streams that wait for nothing end cleanly, and those being
        answered are finished.
        """

    async def abort(self) -> None:
        """Stop at once, whatever is under way."""


async def until_quiet(seconds: float, streams: Callable[[], int]) -> None:
    """Wait until no new stream has come for a moment, or most of the time is over.

    Args:
        seconds: the whole time of the drain.
        streams: how many there have been so far.
    """
    loop = asyncio.get_running_loop()
    begun = loop.time()
    quiet_since, seen = begun, streams()
    while (now := loop.time()) - begun < seconds * (1 - _CLOSING_SHARE) and now - quiet_since < _QUIET_SECONDS:
        await asyncio.sleep(_LOOK_SECONDS)
        if (count := streams()) != seen:
            quiet_since, seen = loop.time(), count
