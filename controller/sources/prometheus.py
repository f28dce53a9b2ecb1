"""Reads statistics from a Prometheus server that scrapes Envoys, for fleets too large to query one by one.

Created by :mod:`controller.wiring`, called by the loop.

Each tick runs two instant queries: first when every target was last scraped, then, at the same moment of the server's
clock, their series. In this order a scrape that falls between the two makes a sample look older than it is, which is
harmless, and never younger. Every target is one Envoy with its own counters, any of which may restart. The server must
not add them up: a sum hides which of its counters restarted.

The second query covers only the targets scraped since the last tick: the server needs some 10 µs for each series, and a
fleet has hundreds of thousands.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import aiohttp

from abmesh.experiment.errors import SourceError
from abmesh.experiment.quantities import format_duration
from abmesh.text import shorten
from controller.evidence.scraped import ScrapedEnvoy, SeriesReader, ages_query, instance_matcher, series_query
from controller.evidence.vector import QueryResult, RefusedQueryError
from controller.sources.base import Observation
from controller.sources.fetching import Connections, describe_failure, read_body

_Read = TypeVar("_Read")

MAX_BYTES = 512 * 1024 * 1024
"""Longest answer accepted, decompressed: more than two million series."""

MAX_ERROR_BYTES = 64 * 1024
"""Longest error answer that is read for its message."""

QUERY_PATH = "/api/v1/query"


@dataclass(frozen=True, slots=True)
class _Scrapes:
    """The server's time, and when it last scraped each target; both in Unix time."""

    moment: float = 0.0
    times: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _LastScrape:
    """The result of a target's last scrape, and when that was, in Unix time."""

    at: float
    found: ScrapedEnvoy


_GONE = ScrapedEnvoy(None, "the server no longer scrapes it")


class PrometheusSource:
    """Queries one server for the series of all Envoys.

    Args:
        url: the server's base address, such as ``http://127.0.0.1:9090``.
        selector: label matchers that select the targets that are Envoys, such as ``job="envoy"``.
        timeout: seconds for both queries together.
        max_age: oldest sample accepted.
        max_bytes: longest answer accepted.
    """

    def __init__(
        self, url: str, *, selector: str, timeout: float, max_age: timedelta, max_bytes: int = MAX_BYTES
    ) -> None:
        self._url = url
        self._selector = selector
        self._timeout = timeout
        self._max_age = max_age
        self._max_bytes = max_bytes
        self._reader = SeriesReader()
        self._known: Mapping[str, _LastScrape] = {}
        self._connections = Connections("abmesh-reader")

    async def observe(self) -> list[Observation]:
        """Return one observation for each target, or one for the server if it did not give a list of targets."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._observe()
        except TimeoutError:
            why = f"no answer within {self._timeout:g} s"
        except SourceError as error:
            why = str(error)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            why = describe_failure(error)
        return [self._server(why)]

    async def close(self) -> None:
        """Close connections and stop the reader's thread."""
        await self._connections.close()

    async def _observe(self) -> list[Observation]:
        scrapes, first = await self._ask(ages_query(self._selector), _scrapes)
        if not scrapes.times:
            return [self._server(f"no target of it matches {self._selector}; select the Envoys with --selector")]
        known = {name: last for name, last in self._known.items() if scrapes.times.get(name) == last.at}
        new = [name for name in scrapes.times if name not in known]
        warnings = first.warnings
        if new:
            matchers = f"{self._selector},{instance_matcher(new)}" if known else self._selector
            found, second = await self._ask(series_query(matchers), self._reader.read, scrapes.moment)
            known |= {name: _LastScrape(scrapes.times[name], found.pop(name, _GONE)) for name in new}
            # Targets missing from the first answer were first scraped after it.
            known |= {name: _LastScrape(scrapes.moment, it) for name, it in found.items() if name not in known}
            warnings += second.warnings
        observations = [self._observation(name, known[name], scrapes.moment) for name in sorted(known)]
        self._known = {} if warnings else known
        if warnings:
            # A warning does not name the targets whose series are missing, so the whole answer is suspect.
            why = "; ".join(dict.fromkeys(warnings))
            observations.append(self._server(f"its answer may be incomplete: {why}"))
        return observations

    async def _ask(
        self, query: str, read: Callable[[QueryResult], _Read], moment: float | None = None
    ) -> tuple[_Read, QueryResult]:
        """Run one query, at a moment of the server's clock or now, and read its answer in the thread."""
        asked = {"query": query, "timeout": f"{self._timeout:g}s"}
        if moment is not None:
            asked["time"] = f"{moment:.3f}"
        # As a form, because a query that names many targets is too long for a URL.
        url, session = self._url + QUERY_PATH, self._connections.session
        async with session.post(url, data=asked, allow_redirects=False) as response:
            if response.status != 200:
                raise SourceError(await _refusal(response))
            text = await read_body(response, self._max_bytes)

        def work() -> tuple[_Read, QueryResult]:
            result = QueryResult(_decoded(text))
            return read(result), result

        return await self._connections.in_thread(work)

    def _observation(self, name: str, last: _LastScrape, moment: float) -> Observation:
        age, found = timedelta(seconds=max(0.0, moment - last.at)), last.found
        if found.sample is not None and age > self._max_age:
            limit = format_duration(self._max_age)
            found = ScrapedEnvoy(
                None, f"it was last scraped {age.total_seconds():.0f} s ago; at most {limit} is allowed"
            )
        return Observation(name, found.sample, found.error, age)

    def _server(self, why: str) -> Observation:
        return Observation(self._url, None, why)


def _scrapes(result: QueryResult) -> _Scrapes:
    times: dict[str, float] = {}
    moment = 0.0
    for name, _, at, value in result:
        moment = at
        times[name] = _seconds(value)
    return _Scrapes(moment, times)


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise SourceError(f"its answer holds a time that is not a number: {shorten(text)}")
    return found


async def _refusal(response: aiohttp.ClientResponse) -> str:
    """Why the server refused the query, with its own message if it gave one."""
    found = f"it answered with status {response.status} instead of 200"
    try:
        for _ in QueryResult(_decoded(await read_body(response, MAX_ERROR_BYTES))):
            break
    except RefusedQueryError as error:
        return f"{found}: {error}"
    except SourceError:
        pass
    return found


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise SourceError("its answer is not text; is this the address of a Prometheus server?") from None
