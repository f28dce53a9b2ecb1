"""What istiod says of configuration that proxies refused: its counter, and the proxies' own words where it gives them.

A counter is of one process: one connection is kept, so that with several istiods it is always the same one's, and what
the others' proxies refuse is not seen.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any, Final

import aiohttp

from abmesh.text import one_line, shorten

log = logging.getLogger("abmesh.filters")

_COUNTER: Final = re.compile(r"^pilot_total_xds_rejects(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)
_VERSION: Final = re.compile(r"\b(1\.\d+(?:\.\d+)?)")
_MOST_BYTES: Final = 32 * 1024 * 1024
_SECONDS: Final = 2.0
_LONGEST: Final = 500


class Rejects:
    """Asks one istiod.

    Args:
        address: of its monitoring endpoint, such as ``http://istiod.istio-system.svc:15014``.
    """

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        self._session: aiohttp.ClientSession | None = None
        self.trouble = ""

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def count(self) -> float | None:
        """How often proxies have refused anything; None if it cannot be read, and then ``trouble`` says why."""
        text = await self._get("/metrics")
        if text is None:
            return None
        if "pilot_" not in text:
            self._tell(f"{self._address} does not give istiod's metrics")
            return None
        self._tell("")
        # A counter that was never raised is not there.
        return sum(float(value) for value in _COUNTER.findall(text))

    async def words(self) -> str:
        """What proxies said when they refused something; empty if nothing, or if istiod does not tell."""
        text = await self._get("/debug/syncz", optional=True)
        try:
            found = list(dict.fromkeys(_errors(json.loads(text)))) if text else []
        except ValueError:
            return ""
        return shorten("; ".join(map(one_line, found)), _LONGEST)

    async def version(self) -> str:
        """Istio's version; empty if it does not say."""
        text = await self._get("/version", optional=True)
        found = _VERSION.search(text or "")
        return found[1] if found else ""

    async def _get(self, path: str, *, optional: bool = False) -> str | None:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=1, keepalive_timeout=300), trust_env=False
            )
        try:
            async with self._session.get(
                f"{self._address}{path}", timeout=aiohttp.ClientTimeout(total=_SECONDS), allow_redirects=False
            ) as response:
                if response.status != 200:
                    if not optional:
                        self._tell(f"{self._address}{path} answers with status {response.status}")
                    return None
                content = await response.content.read(_MOST_BYTES) if optional else await response.read()
                return content.decode(errors="replace")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            if not optional:
                self._tell(f"{self._address} does not answer: {one_line(error) or type(error).__name__}")
            return None

    def _tell(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.warning("what proxies refuse is not seen: %s", trouble)
        self.trouble = trouble


def _errors(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "lastError" and isinstance(inner, str) and inner:
                yield inner
            else:
                yield from _errors(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _errors(inner)
