"""Reads statistics from Envoys' admin endpoints. Created by :mod:`controller.wiring`, called by the loop."""

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
from controller.sources.fetching import describe_failure, open_session, read_body

QUERY = {
    # Plain text: its histogram bins take a quarter of the space that JSON takes.
    "usedonly": "",
    # One request for both, so that the counts and the process's age belong to the same moment. `/server_info` gives the
    # age to the second, but answers with more than 100 KB.
    "filter": f"^({STATS_SCOPE}\\.|{UPTIME.replace('.', chr(92) + '.')}$)",
    "histogram_buckets": "detailed",
}

MAX_BYTES = 64 * 1024 * 1024
"""Longest answer accepted: enough for more than a hundred experiments with twenty variants each."""

CONNECTIONS = 100
"""Most Envoys queried at the same time. An Envoy's time limit starts when its request is sent."""

READERS = 32
"""Most answers read at the same time. The others wait in the kernel's buffers, which bounds our memory."""


class EnvoyAdminSource:
    """Queries all Envoys concurrently, each with its own time limit.

    Args:
        envoys: base addresses of admin endpoints, such as ``http://127.0.0.1:9901``.
        timeout: seconds for one Envoy's whole answer.
        max_bytes: longest answer accepted.
        parser: parses answers; a new one if None.
    """

    def __init__(
        self, envoys: Sequence[str], *, timeout: float, max_bytes: int = MAX_BYTES, parser: Parser | None = None
    ) -> None:
        self._envoys = tuple(envoys)
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._session: aiohttp.ClientSession | None = None
        self._parser = parser or Parser()
        # Off the event loop, so that /healthz keeps answering. A single thread, because the parser is not thread-safe.
        self._thread = ThreadPoolExecutor(1, "abmesh-parser")

    async def observe(self) -> list[Observation]:
        """Return one observation for each Envoy, in the order given."""
        if self._session is None:
            self._session = open_session()
        session = self._session
        asking, reading = asyncio.Semaphore(CONNECTIONS), asyncio.Semaphore(READERS)
        return list(
            await asyncio.gather(*(self._observe_one(session, envoy, asking, reading) for envoy in self._envoys))
        )

    async def close(self) -> None:
        """Close connections and stop the parser's thread."""
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
                    raise SourceError(f"it answered with status {response.status} instead of 200")
                # The time spent waiting for a reader does not count against this Envoy's limit.
                left = (limit.when() or 0) - clock()
                limit.reschedule(None)
                async with reading:
                    limit.reschedule(clock() + left)
                    text = await read_body(response, self._max_bytes)
                    limit.reschedule(None)
                    return await asyncio.get_running_loop().run_in_executor(self._thread, self._parser.parse, text)
        except TimeoutError:
            raise SourceError(f"no answer within {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # A host name that cannot be encoded raises ValueError.
            raise SourceError(describe_failure(error)) from error
