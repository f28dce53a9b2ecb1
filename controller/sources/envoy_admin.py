"""Statistics from the admin endpoints of Envoys."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiohttp

from controller.evidence.parse import UPTIME, Sample, parse
from controller.sources.base import Observation
from experiment.errors import SourceError
from experiment.names import STATS_SCOPE

QUERY = {
    "format": "json",
    "usedonly": "",
    # One request for both, so that the counts and the process's age are of the same moment. `/server_info` would give
    # the age to the second, in more than 100 KB.
    "filter": f"^({STATS_SCOPE}\\.|{UPTIME.replace('.', chr(92) + '.')}$)",
    "histogram_buckets": "detailed",
}

MAX_BYTES = 64 * 1024 * 1024
"""Longest answer that is read: over a hundred experiments of twenty variants."""


class EnvoyAdminSource:
    """Asks all Envoys at once, each with its own time limit.

    Args:
        envoys: base addresses of admin endpoints, such as ``http://127.0.0.1:9901``.
        timeout: seconds for one Envoy's whole answer.
        max_bytes: longest answer that is read.
    """

    def __init__(self, envoys: Sequence[str], *, timeout: float, max_bytes: int = MAX_BYTES) -> None:
        self._envoys = tuple(envoys)
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._session: aiohttp.ClientSession | None = None

    async def observe(self) -> list[Observation]:
        """One observation of each Envoy, in their order."""
        if self._session is None:
            # A fresh connection each time: Envoy's admin endpoint is asked seldom, and a restarted Envoy must not be
            # met by a dead connection. The environment's proxies are not for loopback addresses.
            connector = aiohttp.TCPConnector(force_close=True, limit=100)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        session = self._session
        return list(await asyncio.gather(*(self._observe_one(session, envoy) for envoy in self._envoys)))

    async def close(self) -> None:
        """Give back connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _observe_one(self, session: aiohttp.ClientSession, envoy: str) -> Observation:
        try:
            return Observation(envoy, await self._fetch(session, envoy))
        except SourceError as error:
            return Observation(envoy, None, str(error))

    async def _fetch(self, session: aiohttp.ClientSession, envoy: str) -> Sample:
        try:
            async with (
                asyncio.timeout(self._timeout),
                session.get(f"{envoy}/stats", params=QUERY, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise SourceError(f"it answered {response.status} instead of 200")
                body = await self._body(response)
        except TimeoutError:
            raise SourceError(f"no answer within {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # A host name that cannot be encoded is a ValueError.
            raise SourceError(_reason(error)) from error
        return parse(body)

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > self._max_bytes:
                raise SourceError(f"its answer is longer than {self._max_bytes:,} bytes")
        return bytes(body)


def _reason(error: Exception) -> str:
    """Why a request failed, in a few words."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection: {error.os_error.strerror or error.os_error}"
    if isinstance(error, ValueError):
        return f"its address cannot be asked: {error}"
    return f"the connection broke: {type(error).__name__}"
