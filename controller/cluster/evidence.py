"""The evidence of each rollout in a ConfigMap: when a stage or its evidence begins, then every 30 seconds at most.

It is never part of the status, which every server watches. Implements :class:`controller.state.ports.Evidence`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from abmesh.experiment.errors import StateError
from controller.cluster.maps import MOST_BYTES, Maps, binary_of, packed, unpacked
from controller.cluster.names import evidence_map
from controller.state.evidence import StageEvidence, dump_evidence, load_evidence

log = logging.getLogger("abmesh.controller")

KEY: Final = "evidence"
EVERY: Final = 30.0
"""Seconds between two writes of one stage's evidence."""


class ClusterEvidence:
    """Keeps evidence.

    Args:
        maps: the ConfigMaps.
        uid_of: an Experiment's uid; empty if it is not known.
        monotonic: a clock, in seconds.
    """

    def __init__(
        self, maps: Maps, uid_of: Callable[[str], str], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._maps = maps
        self._uid_of = uid_of
        self._monotonic = monotonic
        self._written: dict[str, tuple[object, float]] = {}
        self._waiting: dict[str, StageEvidence] = {}
        self._too_large: set[str] = set()

    def forget(self) -> None:
        """Trust nothing that was read before."""
        self._written.clear()
        self._waiting.clear()

    def read(self, experiment: str) -> StageEvidence | None:
        """What was kept of an experiment; None if there is nothing, or nothing that makes sense."""
        try:
            present = self._maps.read(evidence_map(experiment))
        except StateError as error:
            log.warning("%s: the evidence cannot be read: %s", experiment, error)
            return None
        return None if present is None else load_evidence(unpacked(binary_of(present, KEY)))

    def write(self, experiment: str, live: StageEvidence) -> None:
        """Keep what is known of an experiment, now or within half a minute.

        Raises:
            StateError: it cannot be written.
        """
        era, at = self._written.get(experiment, (None, 0.0))
        now = self._monotonic()
        if era == _era(live) and now - at < EVERY:
            self._waiting[experiment] = live
            return
        self._write(experiment, live)

    def flush(self) -> None:
        """Write what waits; before this process ends.

        Raises:
            StateError: it cannot be written.
        """
        for experiment, live in list(self._waiting.items()):
            self._write(experiment, live)

    def _write(self, experiment: str, live: StageEvidence) -> None:
        content = packed(dump_evidence(live))
        self._waiting.pop(experiment, None)
        if len(content) > MOST_BYTES:
            if experiment not in self._too_large:
                self._too_large.add(experiment)
                log.warning(
                    "%s: its evidence takes %d bytes, more than a ConfigMap holds, so it is lost when the leader ends",
                    experiment,
                    len(content),
                )
            return
        try:
            self._maps.write(evidence_map(experiment), experiment, self._uid_of(experiment), binary={KEY: content})
        except StateError:
            self._waiting[experiment] = live
            raise
        self._written[experiment] = _era(live), self._monotonic()


def _era(live: StageEvidence) -> tuple[str, object]:
    """What must be written at once if it changes: the stage, and when its evidence began.

    Envoys count on, so whoever knows where they were then, loses nothing of what they counted since.
    """
    return live.stage, None if live.window is None else live.window.since
