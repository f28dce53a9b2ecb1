"""Statistics from the admin endpoints of Envoys."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import aiohttp

from abmesh.experiment.errors import SourceError
from abmesh.experiment.names import STATS_SCOPE
from controller.evidence.columns import Parser
from controller.evidence.parse import UPTIME, Sample
from controller.sources.base import Observation
from controller.sources.failures import body, reason

QUERY = {
    # Envoy's plain text: it has bins of histograms in a quarter of JSON's length.
    "usedonly": "",
    # One request for both, so that the counts and the process's age are of the same moment. `/server_info` would give
    # the age to the second, in more than 100 KB.
    "filter": f"^({STATS_SCOPE}\\.|{UPTIME.replace('.', chr(92) + '.')}$)",
    "histogram_buckets": "detailed",
}

MAX_BYTES = 64 * 1024 * 1024
"""Longest answer that is read: over a hundred experiments of twenty variants."""

CONNECTIONS = 100
"""Envoys that are asked at the same time. Each has its time limit from when it is asked."""

READERS = 32
"""Answers that are read at the same time; the others wait in the system's buffers, so that not all are in memory."""


class EnvoyAdminSource:
    """Asks all Envoys at once, each with its own time limit.

    Args:
        envoys: base addresses of admin endpoints, such as ``http://127.0.0.1:9901``.
        timeout: seconds for one Envoy's whole answer.
        max_bytes: longest answer that is read.
        parser: reads answers; none means a new one.
    """

    def __init__(
        self, envoys: Sequence[str], *, timeout: float, max_bytes: int = MAX_BYTES, parser: Parser | None = None
    ) -> None:
        self._envoys = tuple(envoys)
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._session: aiohttp.ClientSession | None = None
        self._parser = parser or Parser()
        # A thread of its own, so that the health endpoint answers meanwhile; one, because there is one parser.
        self._thread = ThreadPoolExecutor(1, "abmesh-parser")

    async def observe(self) -> list[Observation]:
        """One observation of each Envoy, in their order."""
        if self._session is None:
            # A fresh connection each time: Envoy's admin endpoint is asked seldom, and a restarted Envoy must not be
            # met by a dead connection. The environment's proxies are not for loopback addresses.
            connector = aiohttp.TCPConnector(force_close=True, limit=0)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        session = self._session
        asking, reading = asyncio.Semaphore(CONNECTIONS), asyncio.Semaphore(READERS)
        return list(
            await asyncio.gather(*(self._observe_one(session, envoy, asking, reading) for envoy in self._envoys))
        )

    async def close(self) -> None:
        """Give back connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        self._thread.shutdown()

    async def _observe_one(
        self, session: aiohttp.ClientSession, envoy: str, asking: asyncio.Semaphore, reading: asyncio.Semaphore
    ) -> Observation:
        try:
            async with asking:
                return Observation(envoy, await self._fetch(session, envoy, reading))
        except SourceError as error:
            return Observation(envoy, None, str(error))

    async def _fetch(self, session: aiohttp.ClientSession, envoy: str, reading: asyncio.Semaphore) -> Sample:
        clock = asyncio.get_running_loop().time
        try:
            async with (
                asyncio.timeout(self._timeout) as limit,
                session.get(f"{envoy}/stats", params=QUERY, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise SourceError(f"it answered {response.status} instead of 200")
                # Waiting for its turn is not at an Envoy's cost.
                left = (limit.when() or 0) - clock()
                limit.reschedule(None)
                async with reading:
                    limit.reschedule(clock() + left)
                    text = await body(response, self._max_bytes)
                    limit.reschedule(None)
                    return await asyncio.get_running_loop().run_in_executor(self._thread, self._parser.parse, text)
        except TimeoutError:
            raise SourceError(f"no answer within {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # A host name that cannot be encoded is a ValueError.
            raise SourceError(reason(error)) from error
