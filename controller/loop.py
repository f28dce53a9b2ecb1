"""The controller's loop: observe, then judge, decide and apply; wait; again.

Everything that a tick decides on is told its time from here. Other clocks are those of operators' commands and of the
status, which are no part of a tick, and the time limits of locks and of Envoys' answers.
Nothing that goes wrong in a tick ends the loop: it is counted, logged, and tried again at the next tick.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum

from abmesh.experiment.errors import AbmeshError
from controller.metrics.telemetry import Telemetry
from controller.rollout.reconcile import Reconciler
from controller.rollout.tick import Report
from controller.rollout.warmer import Warmer
from controller.settings import Settings
from controller.sources.base import Source
from controller.state.lease import Lease

log = logging.getLogger("abmesh.controller")

STANDBY_WAIT = 1.0
"""Longest time, in seconds, after which a controller that stands by looks again."""


class Role(StrEnum):
    """What a controller is doing."""

    STARTING = "starting"
    LEADING = "leading"
    STANDBY = "standby"


def utc_now() -> datetime:
    """The wall clock: the ages of stages survive restarts."""
    return datetime.now(UTC)


class Controller:
    """One controller process.

    Args:
        settings: how often, and for how long.
        source: asks the Envoys.
        reconciler: judges, decides and applies.
        lease: keeps a second controller from acting.
        telemetry: metrics.
        warmer: warms candidates; none means one that knows no warm-up listener.
        clock: the wall clock, in UTC.
        monotonic: seconds that never go back, for how long things take.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        source: Source,
        reconciler: Reconciler,
        lease: Lease,
        telemetry: Telemetry,
        warmer: Warmer | None = None,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._source = source
        self._reconciler = reconciler
        self._lease = lease
        self._telemetry = telemetry
        self._warmer = warmer or Warmer(())
        self._clock = clock
        self._monotonic = monotonic
        self._last_tick = monotonic()
        self.role = Role.STARTING
        self.error = ""
        self.report: Report | None = None
        self._stuck: set[str] = set()

    @property
    def idle_seconds(self) -> float:
        """Seconds since a tick last ended, as leader or standing by."""
        return self._monotonic() - self._last_tick

    @property
    def stalled(self) -> bool:
        """Whether no tick has ended for far longer than one takes."""
        longest = self._settings.interval.total_seconds() + self._settings.timeout.total_seconds()
        return self.idle_seconds > max(15.0, 3 * longest)

    async def run(self, stop: asyncio.Event) -> None:
        """Tick until told to stop; the tick under way is finished."""
        while not stop.is_set():
            started = self._monotonic()
            await self.tick()
            wait = self._settings.interval.total_seconds() - (self._monotonic() - started)
            if self.role is not Role.LEADING:
                wait = min(wait, STANDBY_WAIT)
            try:
                await asyncio.wait_for(stop.wait(), max(0.0, wait))
            except TimeoutError:
                continue

    async def tick(self) -> None:
        """One tick, or a look at whether to lead. Raises nothing."""
        started = self._monotonic()
        try:
            if self._lead():
                await self._act()
            self.error = ""
        except AbmeshError as error:
            self._failed(str(error))
        except Exception as error:
            log.exception("this is a bug in abmesh; the loop goes on")
            self._failed(repr(error))
        self._last_tick = self._monotonic()
        if self.role is Role.LEADING:
            self._telemetry.ticked(self._last_tick - started, self._clock())

    def _lead(self) -> bool:
        if self._lease.held:
            return True
        held = self._lease.acquire()
        role = Role.LEADING if held else Role.STANDBY
        if role is not self.role:
            log.info("leading" if held else "standing by: another controller leads on this state folder")
        self.role = role
        self._telemetry.leading(held)
        return held

    async def _act(self) -> None:
        at = self._clock()
        observations = await self._source.observe()
        self._telemetry.observed(observations)
        # In a thread, because it waits for disks and locks, and the health endpoint must answer meanwhile.
        now, warmups = self._clock(), self._warmer.warmups()
        report = await asyncio.to_thread(self._reconciler.reconcile, observations, at, now, warmups)
        await asyncio.to_thread(self._telemetry.counted, report, observations, at)
        self._warmer.follow(report, now)
        before = self.report.document_error if self.report else ""
        if report.document_error and report.document_error != before:
            log.error("the document is refused; every rollout holds: %s", report.document_error)
        self.report = report
        self._telemetry.reported(report)
        self._warn_of_stuck_weights(report)

    def _warn_of_stuck_weights(self, report: Report) -> None:
        """Once for each experiment: weights that only a routes file takes to Envoy, where this controller keeps none.

        No more than a warning: somebody else may keep the file, where the Envoy is on another machine.
        """
        if self._settings.routes_file is not None or report.experiments is None:
            return
        native = {experiment.name for experiment in report.experiments if experiment.lane == "native"}
        if fresh := sorted(native - self._stuck):
            log.warning(
                "lane native without --routes-file: new weights of %s do not reach Envoy, unless `abmesh routes FILE "
                "--follow` keeps the file of its routes",
                ", ".join(fresh),
            )
        self._stuck = native

    def _failed(self, reason: str) -> None:
        if reason != self.error:
            log.error("the tick failed: %s", reason)
        self.error = reason
        self._telemetry.failed()
