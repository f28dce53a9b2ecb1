"""Checks with each Envoy that it serves the published routes. Run by :mod:`controller.wiring`, beside the loop.

An Envoy that refuses a routes file keeps its old routes, and with them the old weights, without any other sign.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final

import aiohttp

from abmesh.experiment.store import format_generation
from controller.routes.publisher import RoutesStatus

log = logging.getLogger("abmesh.routes")

VERSION: Final = "http.abmesh.rds.abmesh.version_text"
"""Envoy's statistic for the version of its routes, which is the document's generation; empty while it has none."""

_QUERY: Final = {"filter": f"^{re.escape(VERSION)}$"}
_PLAIN: Final = {"accept-encoding": "identity"}
_ANSWER: Final = re.compile(rf'{re.escape(VERSION)}: "([^"]*)"')

Ask = Callable[[str], Awaitable[str | None]]
"""Returns the version of an Envoy's routes; None if it does not say, or if its bootstrap holds the routes."""


class Watcher:
    """Keeps ``status.behind`` up to date for as long as :meth:`run` runs.

    Args:
        envoys: base addresses of admin endpoints.
        status: the state of the routes file; its ``behind`` is updated here.
        settle: how long new routes may take to reach an Envoy.
        interval: time between two checks.
        timeout: longest wait for an Envoy's answer.
        ask: asks an Envoy for its version; its admin endpoint if None.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        envoys: Sequence[str],
        status: RoutesStatus,
        *,
        settle: timedelta,
        interval: timedelta,
        timeout: timedelta,
        ask: Ask | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._envoys = tuple(envoys)
        self._status = status
        self._settle = settle.total_seconds()
        self._interval = interval.total_seconds()
        self._timeout = aiohttp.ClientTimeout(total=timeout.total_seconds())
        self._ask = ask or self._ask_admin
        self._clock = clock
        self._since: dict[str, float] = {}

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            try:
                await self.check()
            except Exception:
                log.exception("cannot check which routes Envoys serve; this is a bug in abmesh; publishing goes on")
            await asyncio.sleep(self._interval)

    async def check(self) -> None:
        """Ask all Envoys once."""
        # Read before asking: Envoys need not have what is published in the meantime.
        generation = self._status.generation
        if generation is None:
            return
        versions = await asyncio.gather(*map(self._ask, self._envoys))
        for envoy, version in zip(self._envoys, versions, strict=True):
            self._update(envoy, version, format_generation(generation))

    def _update(self, envoy: str, version: str | None, wanted: str) -> None:
        behind = self._status.behind
        if version is None or version == wanted:
            self._since.pop(envoy, None)
            if behind.pop(envoy, None) is not None and version is not None:
                log.info("%s serves the published routes again, generation %s", envoy, wanted)
            return
        if self._clock() - self._since.setdefault(envoy, self._clock()) <= self._settle:
            return
        if envoy not in behind:
            log.error(
                "%s does not serve the published routes: found generation %s instead of %s; either it refused the "
                "file, and its log says why, or it watches a different file",
                envoy,
                version or "none",
                wanted,
            )
        behind[envoy] = version

    async def _ask_admin(self, envoy: str) -> str | None:
        # As for statistics: a fresh connection each time, no proxies from the environment, and nothing decompressed
        # that could be larger than what is read.
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout, trust_env=False, auto_decompress=False) as session,
                session.get(f"{envoy}/stats", params=_QUERY, headers=_PLAIN, allow_redirects=False) as response,
            ):
                found = _ANSWER.search((await response.content.read(10_000)).decode(errors="replace"))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None  # the loop queries the same Envoys and reports it
        return found[1] if found else None
