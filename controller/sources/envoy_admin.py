"""Reads statistics from Envoys' admin endpoints. Created by :mod:`controller.wiring`, called by the loop."""

from __future__ import annotations

import asyncio
import re
import resource
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import aiohttp
from yarl import URL

from abmesh.experiment.errors import SourceError
from abmesh.experiment.names import STATS_SCOPE
from controller.evidence.columns import Parser
from controller.evidence.parse import EPOCH, UPTIME, Sample
from controller.sources.base import Observation
from controller.sources.fetching import Connections, describe_failure, read_parts
from controller.sources.members import Fleet, Member, StaticFleet

Query = Callable[[str], URL]
"""The address of an Envoy's statistics, from its base address."""

QUERY = {
    # Plain text: its histogram bins take a quarter of the space that JSON takes.
    "usedonly": "",
    # One request for all, so that the counts and the process's age belong to the same moment. `/server_info` gives the
    # age to the second, but answers with more than 100 KB.
    "filter": f"^({STATS_SCOPE}\\.|{re.escape(UPTIME)}$|{re.escape(EPOCH)}$)",
    "histogram_buckets": "detailed",
}

_PREFIX = re.compile(rf"^(?:[a-z_]+\.)(?={STATS_SCOPE}\.)".encode(), re.MULTILINE)
"""What stands before our scope in a proxy that only keeps statistics with some prefixes."""

MAX_BYTES = 64 * 1024 * 1024
"""Longest answer accepted, decompressed: enough for more than a hundred experiments with twenty variants each."""

CONNECTIONS = 100
"""Most Envoys queried at the same time, and at most half as many as the process may have descriptors. An Envoy's time
limit starts when its request is sent."""

READERS = 32
"""Most answers read at the same time. The others wait in the kernel's buffers, which bounds our memory."""

LARGE = 4 * 1024 * 1024
"""An answer of more bytes than this, decompressed, is read on only when few others are as large."""

LARGE_READERS = 2
"""Most such answers read at the same time."""


def admin_query(address: str) -> URL:
    """Where an admin endpoint has our statistics."""
    return URL(f"{address}/stats").with_query(QUERY)


class EnvoyAdminSource:
    """Queries all Envoys concurrently, each with its own time limit.

    Args:
        envoys: base addresses of admin endpoints, such as ``http://127.0.0.1:9901``, or who says which there are.
        timeout: seconds for one Envoy's whole answer.
        max_bytes: longest answer accepted.
        parser: parses answers; a new one if None.
        query: where the statistics are.
    """

    def __init__(
        self,
        envoys: Sequence[str] | Fleet,
        *,
        timeout: float,
        max_bytes: int = MAX_BYTES,
        parser: Parser | None = None,
        query: Query = admin_query,
    ) -> None:
        self._fleet = StaticFleet(envoys) if isinstance(envoys, Sequence) else envoys
        self._query = query
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._parser = parser or Parser()
        self._connections = Connections("abmesh-parser")

    async def observe(self) -> list[Observation]:
        """Return one observation for each Envoy, in the order given."""
        turns = _Turns()
        return list(await asyncio.gather(*(self._observe_one(each, turns) for each in self._fleet.members())))

    async def close(self) -> None:
        """Close connections and stop the parser's thread."""
        await self._connections.close()

    async def _observe_one(self, member: Member, turns: _Turns) -> Observation:
        sample, why = None, ""
        try:
            async with turns.asking:
                sample = await self._fetch(member.address, turns)
        except SourceError as error:
            why = str(error)
        return Observation(
            member.key,
            sample,
            why,
            name=member.name,
            missed=member.ready and not member.leaving,
            listed=self._fleet.complete,
            started=member.started_at,
        )

    async def _fetch(self, envoy: str, turns: _Turns) -> Sample:
        try:
            async with (
                asyncio.timeout(self._timeout) as limit,
                self._connections.session.get(self._query(envoy), allow_redirects=False) as response,
                AsyncExitStack() as taken,
            ):
                if response.status != 200:
                    raise SourceError(f"it answered with status {response.status} instead of 200")
                await _wait(taken, turns.reading, limit)
                parts, size, large = [], 0, False
                async for part in read_parts(response, self._max_bytes):
                    parts.append(part)
                    size += len(part)
                    if size > LARGE and not large:
                        large = True
                        await _wait(taken, turns.large, limit)
                limit.reschedule(None)
                return await self._connections.in_thread(self._parse, b"".join(parts))
        except TimeoutError:
            raise SourceError(f"no answer within {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # A host name that cannot be encoded raises ValueError.
            raise SourceError(describe_failure(error)) from error

    def _parse(self, text: bytes) -> Sample:
        return self._parser.parse(_PREFIX.sub(b"", text))


class _Turns:
    """Who may ask, read, and read on in a large answer, during one observation."""

    def __init__(self) -> None:
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.asking = asyncio.Semaphore(max(1, min(CONNECTIONS, descriptors // 2)))
        self.reading = asyncio.Semaphore(READERS)
        self.large = asyncio.Semaphore(LARGE_READERS)


async def _wait(taken: AsyncExitStack, turn: asyncio.Semaphore, limit: asyncio.Timeout) -> None:
    """Wait for a turn. The time until it comes does not count against this Envoy's time limit."""
    clock = asyncio.get_running_loop().time
    left = (limit.when() or 0) - clock()
    limit.reschedule(None)
    await taken.enter_async_context(turn)
    limit.reschedule(clock() + left)
