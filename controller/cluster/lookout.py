"""Whether a controller leads, as somebody sees it who does not want to lead. Used by commands."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from abmesh.kube.client import Client
from abmesh.kube.errors import KubeError, Missing
from abmesh.kube.resources import LEASES
from controller.cluster.lease import USUAL
from controller.cluster.names import LEASE
from controller.rollout.place import Unseen
from controller.state.lease import Leader

RENEWED_WITHIN: Final = USUAL.every + 0.5
"""Seconds within which a leader renews the Lease."""


class Lookout:
    """Looks at the Lease.

    Args:
        client: to the API server.
        namespace: abmesh's own.
        now: the wall clock.
        sleep: waits.

    Attributes:
        last: why nobody leads, as it was found last.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._now = now
        self._sleep = sleep
        self.last = ""

    def leader(self) -> Leader | None:
        """Who leads; None if nobody does: :attr:`last` says since when.

        A Lease that looks too old by this machine's clock is watched until it would have been renewed: the clock may
        be wrong.

        Raises:
            Unseen: the Lease cannot be read.
        """
        found = self._read()
        if found is None or not _holder(found):
            self.last = f"nobody holds the Lease {self._namespace}/{LEASE}"
            return None
        spec = found["spec"]
        renewed = _renewed(spec)
        if renewed is not None:
            age = (self._now() - renewed).total_seconds()
            if age <= float(spec.get("leaseDurationSeconds") or USUAL.duration):
                return Leader(_holder(found), renewed)
        self._sleep(RENEWED_WITHIN)
        again = self._read()
        version = found["metadata"]["resourceVersion"]
        if again is not None and _holder(again) and again["metadata"]["resourceVersion"] != version:
            return Leader(_holder(again), self._now())
        since = "never" if renewed is None else f"last at {renewed:%Y-%m-%d %H:%M:%S} UTC"
        self.last = f"the Lease {self._namespace}/{LEASE} of {_holder(found)} was renewed {since}"
        return None

    def _read(self) -> Mapping[str, Any] | None:
        try:
            return self._client.get(LEASES, self._namespace, LEASE)
        except Missing:
            return None
        except KubeError as error:
            raise Unseen(f"whether a controller leads: {error}") from error


def _holder(lease: Mapping[str, Any]) -> str:
    return str((lease.get("spec") or {}).get("holderIdentity") or "")


def _renewed(spec: Mapping[str, Any]) -> datetime | None:
    found = spec.get("renewTime") or spec.get("acquireTime")
    return datetime.fromisoformat(found) if found else None
