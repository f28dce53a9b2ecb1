"""Which holds the journal gets. Pure; called by :mod:`controller.rollout.reconcile`."""

from __future__ import annotations

from datetime import datetime, timedelta

from controller.records import Cause, Kind, Phase

HOLD_EVERY = timedelta(minutes=10)
"""Time between two entries of a hold whose cause stays the same: an entry takes 10 to 30 kB with its evidence."""


class Pace:
    """Which holds to write: the first, any with another cause, and one every ten minutes."""

    def __init__(self, every: timedelta = HOLD_EVERY) -> None:
        self._every = every
        self._last: dict[str, tuple[Kind, Cause, Phase, datetime]] = {}

    def due(self, experiment: str, kind: Kind, cause: Cause, phase: Phase, now: datetime) -> bool:
        """Whether a hold is due."""
        last = self._last.get(experiment)
        # A negative age means that the clock was set back.
        return last is None or last[:3] != (kind, cause, phase) or not timedelta() <= now - last[3] < self._every

    def written(self, experiment: str, kind: Kind, cause: Cause, phase: Phase, now: datetime) -> None:
        """Remember that an entry was written."""
        self._last[experiment] = (kind, cause, phase, now)
