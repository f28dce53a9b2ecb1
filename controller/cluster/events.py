"""Events of Experiments, for ``kubectl describe`` and ``kubectl events``: gone after an hour, so no journal.

One Event for each object, reason and note; what happens again is counted in its series.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any, Final

from xxhash import xxh3_64_hexdigest

from abmesh.kube.client import Client
from abmesh.kube.errors import AlreadyExists, KubeError, Missing
from abmesh.kube.resources import EVENTS, EXPERIMENTS
from controller.cluster.objects import Thing

log = logging.getLogger("abmesh.controller")

CONTROLLER: Final = "abmesh.dev/controller"
LONGEST_NOTE: Final = 1024
"""Bytes."""

_MOST: Final = 10_000


class Events:
    """Tells of what happens to Experiments.

    Args:
        client: to the API server.
        identity: of this process.
    """

    def __init__(self, client: Client, identity: str) -> None:
        self._client = client
        self._identity = identity[:128]
        self._counts: dict[str, int] = {}

    def tell(self, thing: Thing, reason: str, note: str, *, action: str, warning: bool = False) -> None:
        """Tell of something. Never raises: whoever does not see the Event, reads the status or the journal.

        Args:
            thing: the Experiment.
            reason: one CamelCase word.
            note: a sentence; what is too long is cut off.
            action: what the controller did, in one CamelCase word.
            warning: whether somebody should look.
        """
        metadata = thing["metadata"]
        note = shortened(note)
        told = f"{metadata['uid']} {reason} {note}"
        name = f"{metadata['name'][:200]}.{xxh3_64_hexdigest(told.encode())}"
        try:
            if name in self._counts and self._again(metadata["namespace"], name):
                return
            try:
                self._client.create(
                    EVENTS, metadata["namespace"], self._event(thing, name, reason, note, action, warning)
                )
                self._counts[name] = 1
            except AlreadyExists:  # from before this process began
                self._counts[name] = 1
                self._again(metadata["namespace"], name)
        except KubeError as error:
            log.warning("no Event for %s/%s: %s", metadata["namespace"], metadata["name"], error)
        while len(self._counts) > _MOST:
            del self._counts[next(iter(self._counts))]

    def _again(self, namespace: str, name: str) -> bool:
        """Count an Event that was there; whether it still is."""
        self._counts[name] += 1
        series = {"count": self._counts[name], "lastObservedTime": _now()}
        try:
            self._client.merge_patch(EVENTS, namespace, name, {"series": series})
        except Missing:
            return False
        return True

    def _event(self, thing: Thing, name: str, reason: str, note: str, action: str, warning: bool) -> dict[str, Any]:
        metadata = thing["metadata"]
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "eventTime": _now(),
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "action": action,
            "note": note,
            "reportingController": CONTROLLER,
            "reportingInstance": self._identity,
            "regarding": {
                "apiVersion": EXPERIMENTS.api_version,
                "kind": EXPERIMENTS.kind,
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        }


def shortened(note: str) -> str:
    """A note as an Event may have it: at most 1,024 bytes."""
    return note.encode()[:LONGEST_NOTE].decode(errors="ignore")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
