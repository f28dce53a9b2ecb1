"""Whether the Envoys serve the routes that are published, by what they say themselves. Runs beside the loop.

An Envoy that refuses a file goes on with its old routes, and so with the old weights: nobody else would notice.
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
from controller.routes.publisher import Published

log = logging.getLogger("abmesh.routes")

VERSION: Final = "http.abmesh.rds.abmesh.version_text"
"""Envoy's own word for the generation of the routes that it serves; empty while it has none."""

_QUERY: Final = {"filter": f"^{re.escape(VERSION)}$"}
_ANSWER: Final = re.compile(rf'{re.escape(VERSION)}: "([^"]*)"')

Ask = Callable[[str], Awaitable[str | None]]
"""The version of the routes that an Envoy serves; None where it does not say, or has them from nowhere else."""


class Watcher:
    """Keeps ``published.behind`` true for as long as :meth:`run` runs.

    Args:
        envoys: base addresses of admin endpoints.
        published: how the file stands; its ``behind`` is written here.
        settle: how long new routes may take to reach an Envoy.
        interval: time between two looks.
        timeout: longest wait for an Envoy's answer.
        ask: asks an Envoy; none means its admin endpoint.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        envoys: Sequence[str],
        published: Published,
        *,
        settle: timedelta,
        interval: timedelta,
        timeout: timedelta,
        ask: Ask | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._envoys = tuple(envoys)
        self._published = published
        self._settle = settle.total_seconds()
        self._interval = interval.total_seconds()
        self._timeout = aiohttp.ClientTimeout(total=timeout.total_seconds())
        self._ask = ask or self._asked_by_http
        self._clock = clock
        self._since: dict[str, float] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("this is a bug in abmesh; the routes are published all the same")
            await asyncio.sleep(self._interval)

    async def look(self) -> None:
        """Ask all Envoys once."""
        # Before they are asked: what is published meanwhile, they need not have yet.
        generation = self._published.generation
        if generation is None:
            return
        versions = await asyncio.gather(*map(self._ask, self._envoys))
        for envoy, version in zip(self._envoys, versions, strict=True):
            self._note(envoy, version, format_generation(generation))

    def _note(self, envoy: str, version: str | None, wanted: str) -> None:
        behind = self._published.behind
        if version is None or version == wanted:
            self._since.pop(envoy, None)
            if behind.pop(envoy, None) is not None and version is not None:
                log.info("%s serves the published routes again, generation %s", envoy, wanted)
            return
        if self._clock() - self._since.setdefault(envoy, self._clock()) <= self._settle:
            return
        if envoy not in behind:
            log.error(
                "%s does not serve the published routes: found generation %s, not %s; its log says why it refuses the "
                "file, or it looks at another one",
                envoy,
                version or "none",
                wanted,
            )
        behind[envoy] = version

    async def _asked_by_http(self, envoy: str) -> str | None:
        # As for statistics: a fresh connection each time, and no proxies of the environment's.
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout, trust_env=False) as session,
                session.get(f"{envoy}/stats", params=_QUERY, allow_redirects=False) as response,
            ):
                found = _ANSWER.search((await response.content.read(10_000)).decode(errors="replace"))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None  # the loop, which asks the same Envoys, says so
        return found[1] if found else None
