"""Which Envoys were rendered from an older document. Run by :mod:`controller.wiring`, beside the loop.

An Envoy says in its node's metadata what it was rendered from (:mod:`abmesh.mesh.parts`). It is asked after each of
its starts, once more when it is a few seconds old (a restart before that may go unnoticed), and again at long
intervals: the answer has more than 100 KB. No tick waits for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import aiohttp

from abmesh.experiment.errors import AbmeshError, SourceError
from abmesh.experiment.store import Rejected, Snapshot
from abmesh.mesh import parts
from controller.sources.base import Observation, Source
from controller.sources.fetching import describe_failure, read_body

log = logging.getLogger("abmesh.renderings")

MAX_BYTES: Final = 8 * 1024 * 1024
"""Longest answer accepted; a thousand experiments take half a megabyte."""

PERIOD: Final = 600.0
"""Seconds after which an Envoy that has not restarted is asked again."""

RETRY: Final = 30.0
"""Seconds after which an Envoy that gave no answer is asked again."""

WATCH: Final = 0.5
"""Seconds between looks at the document."""

_TOLERANCE: Final = 7.0
"""Seconds by which an Envoy's start may seem to move: its age may be older than its answer by a flush interval."""

_AT_ONCE: Final = 16
_PAUSE: Final = 0.2
"""Seconds between rounds, so that a fault does not become a busy loop."""

Digests = Mapping[str, str]
Ask = Callable[[str], Awaitable[Digests | None]]
"""Returns what an Envoy was rendered from; None if it does not say. Raises SourceError if it gives no answer."""


@dataclass
class Renderings:
    """What each Envoy was rendered from, compared with today's document.

    Attributes:
        reason: why nothing can be known; empty if it can.
        envoys: the digests that each Envoy gave, by its address; None if it gave none.
        today: the digests of the newest valid document; None before it was read.
    """

    reason: str = ""
    envoys: dict[str, Digests | None] = field(default_factory=dict)
    today: Digests | None = None

    @property
    def stale(self) -> dict[str, tuple[str, ...]]:
        """The Envoys that must be rendered again, with the parts that changed."""
        if self.today is None:
            return {}
        compared = {envoy: parts.stale(found, self.today) for envoy, found in self.envoys.items() if found is not None}
        return {envoy: names for envoy, names in compared.items() if names}

    @property
    def unknown(self) -> tuple[str, ...]:
        """The Envoys that do not say what they were rendered from."""
        return tuple(envoy for envoy, found in self.envoys.items() if found is None)


@dataclass
class _Known:
    started: float
    uptime: float
    asked: float = float("-inf")
    answered: bool = False
    young: bool = False  # when it was asked: another start soon after could not be told from that one
    away: bool = False
    restarted: bool = True  # or new: it has given no answer since


class NotingSource:
    """A source that shows every observation to a function, too."""

    def __init__(self, source: Source, note: Callable[[Sequence[Observation]], None]) -> None:
        self._source = source
        self._note = note

    async def observe(self) -> list[Observation]:
        """See :meth:`controller.sources.base.Source.observe`."""
        found = await self._source.observe()
        self._note(found)
        return found

    async def close(self) -> None:
        """Close the source."""
        await self._source.close()


class RenderingsReader:
    """Keeps a :class:`Renderings` up to date for as long as :meth:`run` runs.

    Args:
        watch: watches the document: yields it at once and whenever it changes.
        found: what is kept up to date.
        timeout: longest wait for an Envoy's answer.
        save: called after an Envoy was read; may raise an AbmeshError.
        ask: asks an Envoy; its admin endpoint if None.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        watch: Callable[[], AsyncIterator[Snapshot | Rejected]],
        found: Renderings,
        *,
        timeout: timedelta,
        save: Callable[[Mapping[str, Digests | None]], None] | None = None,
        ask: Ask | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watch = watch
        self._found = found
        self._timeout = aiohttp.ClientTimeout(total=timeout.total_seconds())
        self._save = save
        self._ask = ask or self.ask_admin
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._due: set[str] = set()
        self._wake = asyncio.Event()
        self._reading = False
        self._told: dict[str, tuple[str, ...] | None] = {}

    def note(self, observations: Sequence[Observation]) -> None:
        """Find out which Envoys must be asked: new ones, restarted or absent ones, and those asked long ago."""
        now = self._clock()
        for item in observations:
            uptime = None if item.sample is None else item.sample.uptime
            if uptime is None:
                if item.envoy in self._known:
                    self._known[item.envoy].away = True
                continue
            started = now - item.age.total_seconds() - uptime
            known = self._known.setdefault(item.envoy, _Known(started, uptime))
            if known.away or uptime < known.uptime or started > known.started + _TOLERANCE:
                known.started, known.asked, known.restarted = started, float("-inf"), True
            known.uptime, known.away = uptime, False
            grown_up = known.young and uptime >= _TOLERANCE
            if grown_up or now - known.asked >= (PERIOD if known.answered else RETRY):
                known.asked, known.answered, known.young = now, False, uptime < _TOLERANCE
                self._due.add(item.envoy)
                self._wake.set()

    @property
    def busy(self) -> bool:
        """Whether an Envoy is still to be asked."""
        return self._wake.is_set() or self._reading

    async def run(self) -> None:
        """Follow the document and ask Envoys until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._forever(self._follow_document))
            tasks.create_task(self._forever(self._ask_due))

    async def _forever(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception:
                log.exception("cannot compare Envoys with the document; this is a bug in abmesh; retrying")
            await asyncio.sleep(_PAUSE)

    async def _follow_document(self) -> None:
        async for seen in self._watch():
            if isinstance(seen, Snapshot):
                self._found.today = await asyncio.to_thread(parts.digests, seen.document)
                self._tell()

    async def _ask_due(self) -> None:
        await self._wake.wait()
        self._reading = True
        self._wake.clear()
        due, self._due = sorted(self._due), set()
        slots = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(self._read(envoy, slots) for envoy in due))
        self._tell()
        if self._save is not None:
            try:
                await asyncio.to_thread(self._save, dict(self._found.envoys))
            except AbmeshError as error:
                log.warning("abmesh status cannot show which Envoys must be rendered again: %s", error)
        self._reading = False

    async def _read(self, envoy: str, slots: asyncio.Semaphore) -> None:
        try:
            async with slots:
                self._found.envoys[envoy] = await self._ask(envoy)
        except SourceError as error:
            log.warning("cannot tell whether %s must be rendered again: %s", envoy, error)
            if self._known[envoy].restarted:  # what it said before says nothing of what runs now
                self._found.envoys[envoy] = None
            return
        self._known[envoy].answered, self._known[envoy].restarted = True, False

    def _tell(self) -> None:
        """Log what has changed, once."""
        if self._found.today is None:
            return
        stale = self._found.stale
        now = {
            envoy: stale.get(envoy, ()) if found is not None else None for envoy, found in self._found.envoys.items()
        }
        for envoy, names in now.items():
            if self._told.get(envoy, ()) == names:
                continue
            if names is None:
                log.warning(
                    "cannot tell whether %s must be rendered again: it does not say what it was rendered from",
                    envoy,
                )
            elif names:
                log.error("%s must be rendered again, because the document has changed: %s", envoy, ", ".join(names))
            else:
                log.info("%s fits the document again", envoy)
        self._told = now

    async def ask_admin(self, envoy: str) -> Digests | None:
        """What an Envoy's admin endpoint says that it was rendered from.

        Raises:
            SourceError: it gives no usable answer.
        """
        try:
            async with (
                # As for statistics: a fresh connection, no proxies, and no answer that unpacks to more than it seems.
                aiohttp.ClientSession(trust_env=False, auto_decompress=False, timeout=self._timeout) as session,
                session.get(
                    f"{envoy}/server_info", headers={"accept-encoding": "identity"}, allow_redirects=False
                ) as response,
            ):
                if response.status != 200:
                    raise SourceError(f"it answered with status {response.status} instead of 200")
                content = await read_body(response, MAX_BYTES)
            told = _json(content)
        except TimeoutError:
            raise SourceError(f"no answer within {self._timeout.total:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise SourceError(describe_failure(error)) from error
        node = told.get("node") if isinstance(told, dict) else None
        return parts.read_metadata(node.get("metadata") if isinstance(node, dict) else None)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        raise SourceError("its answer is not JSON; is this the address of an Envoy's admin endpoint?") from None
