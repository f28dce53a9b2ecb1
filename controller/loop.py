"""The controller's loop: read Envoys' statistics, judge, decide, apply, wait, repeat. Run by :mod:`controller.wiring`.

Decisions get the time from here, as a parameter. The only other clocks are those of operators' commands and of
``abmesh status``, and time limits of locks and requests. A failure in a tick does not end the loop: it is counted,
logged, and retried at the next tick.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum

from abmesh.experiment.errors import AbmeshError, StateError
from controller.metrics.telemetry import Telemetry
from controller.rollout.attendance import Attendance
from controller.rollout.checker import Checker
from controller.rollout.guard import Guard
from controller.rollout.prober import Prober
from controller.rollout.reconcile import Reconciler
from controller.rollout.tick import TickReport
from controller.rollout.warmer import Warmer
from controller.settings import Settings
from controller.sources.base import Source
from controller.state.lease import Heartbeat, Leader
from controller.state.locks import trouble
from controller.state.ports import Leadership, StateReader
from controller.watchdog import ALIVE
from controller.wording.leader import leader_stalled

log = logging.getLogger("abmesh.controller")

STANDBY_WAIT = 1.0
"""How often, in seconds, a standby controller tries to lead, and a leading one decides while it waits for a probe or a
check's first answer; more often if the interval is shorter."""


WOKEN_WAIT = 0.2
"""Seconds at least between two ticks, however often this controller is woken."""


class Role(StrEnum):
    """Whether a controller leads."""

    STARTING = "starting"
    LEADING = "leading"
    STANDBY = "standby"


def utc_now() -> datetime:
    """The wall clock; not the monotonic one, because the ages of stages survive restarts."""
    return datetime.now(UTC)


class Controller:
    """One controller process.

    Args:
        settings: the interval and the time limits.
        source: reads Envoys' statistics.
        reconciler: judges, decides and applies.
        lease: makes sure that only one controller acts.
        telemetry: the metrics.
        warmer: warms up candidates; one without warm-up listeners if None.
        prober: asks controls; one without warm-up listeners if None.
        checker: asks checks; one without a Prometheus server if None.
        guard: rolls back for harm while this controller stands by for a leader that hangs; nobody does if None.
        attendant: does what else a leader has to do around each tick; nothing if None.
        wake: set by whoever wants a tick now; only the interval counts if None.
        notify: called with a message for the service manager.
        clock: the wall clock, in UTC.
        monotonic: a monotonic clock, in seconds, to measure how long things take.

    Attributes:
        role: whether it leads.
        error: why the last tick failed; empty if it did not.
        report: what the last successful tick did; None before the first.
        leader: who leads, while this controller stands by.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        source: Source,
        reconciler: Reconciler,
        lease: Leadership,
        telemetry: Telemetry,
        warmer: Warmer | None = None,
        prober: Prober | None = None,
        checker: Checker | None = None,
        guard: tuple[Guard, StateReader] | None = None,
        attendant: Attendance | None = None,
        wake: asyncio.Event | None = None,
        notify: Callable[[str], None] = lambda _: None,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._source = source
        self._reconciler = reconciler
        self._lease = lease
        self._telemetry = telemetry
        self._warmer = warmer or Warmer(())
        self._prober = prober or Prober(())
        self._checker = checker or Checker(None)
        self._guard = guard
        self._attendant = attendant
        self._wake = wake or asyncio.Event()
        self._notify = notify
        self._clock = clock
        self._monotonic = monotonic
        self._last_tick = monotonic()
        self.role = Role.STARTING
        self.error = ""
        self.report: TickReport | None = None
        self.leader: Leader | None = None
        self._stuck: set[str] = set()
        self._saw_it_stall = False
        self._next_look = 0.0
        self._leader_changed = 0.0

    @property
    def idle_seconds(self) -> float:
        """Seconds since a tick last ended, leading or on standby."""
        return self._monotonic() - self._last_tick

    @property
    def stalled(self) -> bool:
        """Whether no tick has ended for much longer than one should take."""
        return self.idle_seconds > max(15.0, 3 * self._longest)

    @property
    def leader_seconds(self) -> float | None:
        """Seconds since the leader's last tick ended; None if this controller does not stand by."""
        if self.leader is None:
            return None
        # The clock may have been set back since the heartbeat; how long it has been the same one is sure.
        return max(self.leader.age(self._clock()), self._monotonic() - self._leader_changed)

    @property
    def leader_stalled(self) -> bool:
        """Whether this controller stands by for a leader whose ticks have stopped ending."""
        return self.leader is not None and self.leader.stalled_after(self.leader_seconds or 0.0)

    @property
    def _longest(self) -> float:
        """Seconds that a tick and the wait for the next one take at most, if nothing is wrong."""
        return self._settings.interval.total_seconds() + self._settings.timeout.total_seconds()

    async def run(self, stop: asyncio.Event) -> None:
        """Tick until ``stop`` is set; a tick in progress finishes first."""
        while not stop.is_set():
            started = self._monotonic()
            await self.tick()
            wait = self._settings.interval.total_seconds() - (self._monotonic() - started)
            if self.role is not Role.LEADING or self._prober.waiting or self._checker.waiting:
                wait = min(wait, STANDBY_WAIT)
            await self._rest(stop, max(0.0, wait))

    async def _rest(self, stop: asyncio.Event, seconds: float) -> None:
        """Wait for the next tick, or until told to stop, or woken."""
        waits = [asyncio.create_task(event.wait()) for event in (stop, self._wake)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        if self._wake.is_set() and not stop.is_set():
            self._wake.clear()
            await asyncio.sleep(
                min(WOKEN_WAIT, seconds)
            )  # what changes at one time, such as by one apply, comes together

    async def tick(self) -> None:
        """Run one tick if this controller leads; otherwise, try to lead. Never raises."""
        started = self._monotonic()
        try:
            try:
                held = await self._try_to_lead()
            except StateError:  # the lock's file cannot be used, so nobody leads
                await self._stand_in()
                raise
            if held:
                await self._act()
            else:
                await self._stand_by()
            self.error = ""
        except AbmeshError as error:
            self._failed(str(error))
        except OSError as error:
            self._failed(trouble(error))
        except Exception as error:
            log.exception("a tick failed; this is a bug in abmesh; retrying at the next tick")
            self._failed(repr(error))
        self._last_tick = self._monotonic()
        if self.role is Role.LEADING:
            self._telemetry.record_tick(self._last_tick - started, self._clock())
            failures = dict(self.report.failures) if self.report and not self.error else {}
            heartbeat = Heartbeat(at=self._clock(), every=self._longest, error=self.error, failures=failures)
            await asyncio.to_thread(self._lease.beat, heartbeat)
        self._notify(ALIVE)

    async def _try_to_lead(self) -> bool:
        if self._lease.held:
            return True
        try:
            held = await asyncio.to_thread(self._lease.acquire)
        except AbmeshError:
            if self.role is Role.LEADING:  # it was lost, and nobody says who has it
                self._lead(False)
            raise
        self._lead(held)
        return held

    def _lead(self, held: bool) -> None:
        role = Role.LEADING if held else Role.STANDBY
        if role is not self.role:
            log.info("leading" if held else "standing by: another controller leads")
        self.role = role
        if held:
            self.leader = None
        self._telemetry.set_leading(held)

    async def _stand_by(self) -> None:
        """Look at the leader; while it hangs, roll back for harm in its place."""
        was_stalled = self._saw_it_stall
        leader = await asyncio.to_thread(self._lease.leader)
        if leader != self.leader:
            self._leader_changed = self._monotonic()
        self.leader = leader
        self._telemetry.record_leader(self.leader)
        self._saw_it_stall = self.leader_stalled
        if not self._saw_it_stall:
            if was_stalled:
                log.warning("the leader, %s, goes on", self.leader.process)
            return
        if not was_stalled:
            log.error("%s", leader_stalled(self.leader.process, self.leader_seconds, self.leader.intruder))
        await self._stand_in()

    async def _stand_in(self) -> None:
        """Roll back for harm without leading."""
        if self._guard is None or self._monotonic() < self._next_look:
            return
        self._next_look = self._monotonic() + self._settings.interval.total_seconds()
        guard, states = self._guard
        at = self._clock()
        observations = await self._source.observe()
        failures = await asyncio.to_thread(guard.stand_in, states, observations, at, self._clock())
        for name, failure in failures.items():
            log.error("%s: %s", name, failure)

    async def _act(self) -> None:
        at = self._clock()
        observations = await self._source.observe()
        self._telemetry.record_observations(observations)
        # In a thread, because it waits for disks and locks, and /healthz must keep answering.
        if self._attendant is not None:
            await asyncio.to_thread(self._attendant.before, self._clock())
        now, warmups = self._clock(), self._warmer.warmups()
        probes, checks = self._prober.probes(), self._checker.results()
        report = await asyncio.to_thread(self._reconciler.reconcile, observations, at, now, warmups, probes, checks)
        if self._attendant is not None:
            await asyncio.to_thread(self._attendant.after, report, now)
        await asyncio.to_thread(self._telemetry.record_counts, report, observations, at)
        self._warmer.follow(report, now)
        self._prober.follow(report, now)
        self._checker.follow(report)
        before = self.report.document_error if self.report else ""
        if report.document_error and report.document_error != before:
            log.error("the document was refused, so every rollout holds: %s", report.document_error)
        self.report = report
        self._telemetry.record_report(report)
        self._warn_of_stuck_weights(report)

    def _warn_of_stuck_weights(self, report: TickReport) -> None:
        """Warn, once per experiment, of weights that reach Envoy only by a routes file if this controller keeps none.

        It is only a warning, because somebody else may keep the file, next to an Envoy on another machine.
        """
        settings = self._settings
        if settings.routes_file is not None or settings.kubernetes is not None or report.experiments is None:
            return
        native = {experiment.name for experiment in report.experiments if experiment.lane == "native"}
        if fresh := sorted(native - self._stuck):
            log.warning(
                "lane native without --routes-file: new weights of %s do not reach Envoy unless `abmesh routes FILE "
                "--follow` keeps its routes file up to date",
                ", ".join(fresh),
            )
        self._stuck = native

    def _failed(self, reason: str) -> None:
        if reason != self.error:
            log.error("the tick failed: %s", reason)
        self.error = reason
        self._telemetry.record_failure()
