"""The interface to what else a leader has to do around each tick, implemented by :mod:`controller.cluster.attendant`.

Used by :mod:`controller.loop`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from controller.rollout.tick import TickReport


class Attendance(Protocol):
    """Does what a leader has to do around each tick; in the tick's thread."""

    def before(self, now: datetime) -> None:
        """Do what must be done before anything is decided.

        Raises:
            AbmeshError: it cannot be done, so nothing is decided in this tick.
        """

    def after(self, report: TickReport, now: datetime) -> None:
        """Tell people what the tick did.

        Raises:
            AbmeshError: it cannot be told.
        """
