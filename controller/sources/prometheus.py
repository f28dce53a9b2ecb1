"""Statistics from a Prometheus server that scrapes Envoys, for fleets that one controller cannot ask one by one.

Two instant queries a tick: when every target was scraped, and then, at the same moment of the server's clock, all of
its series. In this order, so that a scrape between the two makes a sample seem older than it is, which holds nothing
up, and never younger. Every target is one Envoy, with counters of its own that may restart. The server adds nothing up:
in a sum, counters that restart apart cannot be told from ones that do not.

Only targets that were scraped since the last tick are asked for: a server needs some 10 µs for each series of its
answer, and a fleet has hundreds of thousands.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import aiohttp

from abmesh.experiment.errors import SourceError
from abmesh.experiment.quantities import format_duration
from controller.evidence.scraped import Reader, Scraped, ages_query, among, series_query
from controller.evidence.vector import Answer, RefusedQueryError, short
from controller.sources.base import Observation
from controller.sources.failures import body, reason

_Read = TypeVar("_Read")

MAX_BYTES = 512 * 1024 * 1024
"""Longest answer that is read: over two million series."""

MAX_ERROR_BYTES = 64 * 1024
"""How much is read of an answer that is not 200, for its message."""

QUERY_PATH = "/api/v1/query"


@dataclass(frozen=True, slots=True)
class _Scrapes:
    """The server's time, and when it last scraped every target; both in Unix time."""

    moment: float = 0.0
    times: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Known:
    """What a target's scrape of a time said."""

    scraped: float
    found: Scraped


_GONE = Scraped(None, "the server knows it no more")


class PrometheusSource:
    """Asks one server for the series of all Envoys.

    Args:
        url: the server's base address, such as ``http://127.0.0.1:9090``.
        selector: matchers of the targets that are Envoys, such as ``job="envoy"``.
        timeout: seconds for both queries together.
        max_age: how old a sample may be.
        max_bytes: longest answer that is read.
    """

    def __init__(
        self, url: str, *, selector: str, timeout: float, max_age: timedelta, max_bytes: int = MAX_BYTES
    ) -> None:
        self._url = url
        self._selector = selector
        self._timeout = timeout
        self._max_age = max_age
        self._max_bytes = max_bytes
        self._session: aiohttp.ClientSession | None = None
        self._reader = Reader()
        self._known: Mapping[str, _Known] = {}
        # A thread of its own, so that the health endpoint answers meanwhile; one, because there is one reader.
        self._thread = ThreadPoolExecutor(1, "abmesh-reader")

    async def observe(self) -> list[Observation]:
        """One observation of each target; or one of the server, if it does not say what there is."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._observe()
        except TimeoutError:
            why = f"no answer within {self._timeout:g} s"
        except SourceError as error:
            why = str(error)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            why = reason(error)
        return [self._server(why)]

    async def close(self) -> None:
        """Give back connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        self._thread.shutdown()

    async def _observe(self) -> list[Observation]:
        scrapes, first = await self._ask(ages_query(self._selector), _scrapes)
        if not scrapes.times:
            return [self._server(f"it scrapes nothing that has {self._selector}; name the Envoys with --selector")]
        known = {name: it for name, it in self._known.items() if scrapes.times.get(name) == it.scraped}
        new = [name for name in scrapes.times if name not in known]
        doubts = first.warnings
        if new:
            matchers = f"{self._selector},{among(new)}" if known else self._selector
            found, second = await self._ask(series_query(matchers), self._reader.read, scrapes.moment)
            known |= {name: _Known(scrapes.times[name], found.pop(name, _GONE)) for name in new}
            # Others were not there a moment ago, so they have been scraped since.
            known |= {name: _Known(scrapes.moment, it) for name, it in found.items() if name not in known}
            doubts += second.warnings
        observations = [self._observation(name, known[name], scrapes.moment) for name in sorted(known)]
        self._known = {} if doubts else known
        if doubts:
            # It is not said whose series are missing, so it is the server that has not answered in full.
            why = "; ".join(dict.fromkeys(doubts))
            observations.append(self._server(f"its answer may be incomplete: {why}"))
        return observations

    async def _ask(
        self, query: str, read: Callable[[Answer], _Read], moment: float | None = None
    ) -> tuple[_Read, Answer]:
        """Ask one query, at a moment of the server's clock or now, and read its answer in the thread."""
        if self._session is None:
            # A fresh connection each time: a restarted server must not be met by a dead one. The environment's proxies
            # are not for loopback addresses.
            connector = aiohttp.TCPConnector(force_close=True)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        asked = {"query": query, "timeout": f"{self._timeout:g}s"}
        if moment is not None:
            asked["time"] = f"{moment:.3f}"
        # As a form, because a query that names many targets is longer than addresses may be.
        async with self._session.post(self._url + QUERY_PATH, data=asked, allow_redirects=False) as response:
            if response.status != 200:
                raise SourceError(await _refusal(response))
            text = await body(response, self._max_bytes)

        def work() -> tuple[_Read, Answer]:
            answer = Answer(_decoded(text))
            return read(answer), answer

        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _observation(self, name: str, known: _Known, moment: float) -> Observation:
        age, found = timedelta(seconds=max(0.0, moment - known.scraped)), known.found
        if found.sample is not None and age > self._max_age:
            limit = format_duration(self._max_age)
            found = Scraped(None, f"it was last scraped {age.total_seconds():.0f} s ago, and {limit} is allowed")
        return Observation(name, found.sample, found.error, age)

    def _server(self, why: str) -> Observation:
        return Observation(self._url, None, why)


def _scrapes(answer: Answer) -> _Scrapes:
    times: dict[str, float] = {}
    moment = 0.0
    for name, _, at, value in answer:
        moment = at
        times[name] = _seconds(value)
    return _Scrapes(moment, times)


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise SourceError(f"a time in its answer is none: {short(text)}")
    return found


async def _refusal(response: aiohttp.ClientResponse) -> str:
    """Why a server does not answer, in its own words if it has any."""
    found = f"it answered {response.status} instead of 200"
    try:
        for _ in Answer(_decoded(await body(response, MAX_ERROR_BYTES))):
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
