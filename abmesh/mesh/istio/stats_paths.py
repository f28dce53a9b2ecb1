"""The only request that the fenced listener for statistics answers. Pure; imports none of Envoy's messages.

Envoy's admin endpoint can stop the proxy, and a regular expression of somebody's choice in a query is work for it. So
the listener compares the whole path, letter by letter: whoever asks must send it as it stands here, not encoded again.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from abmesh.experiment.names import STATS_SCOPE

ISTIO_SCOPE: Final = f"istio.{STATS_SCOPE}"
"""Scope of our statistics in Istio's proxies, which only keep statistics with some prefixes; this is one of them."""

PROCESS: Final = ("server.uptime", "server.hot_restart_epoch")
"""Statistics that tell one process from the next."""

_WANTED: Final = f"^({re.escape(ISTIO_SCOPE)}\\.|{'|'.join(f'{re.escape(name)}$' for name in PROCESS)})"

STATS_PATH: Final = f"/stats?usedonly&filter={quote(_WANTED, safe='')}&histogram_buckets=detailed"
"""Our statistics with their bins, as plain text."""
