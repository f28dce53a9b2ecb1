"""What was counted since a moment, from cumulative counters that may restart or disappear for a while. Pure.

Every Envoy counts from its own start on. A window keeps each Envoy's last reading and adds the difference to the next
one. The rules:

- An Envoy that answers when the window opens starts from that reading.
- An Envoy that first answers later may have counted before the window opened, so its first reading adds nothing. If its
  process started after the window opened, by its uptime or by what started it, all of the reading is added.
- A restarted process counts from 0, so all of its reading is added. A restart shows as an uptime or a counter that went
  down.
- After a hot restart the new process keeps the old one's uptime. It begins with what the old one counted since its last
  flush, which we may have read already, and which may be from before the window opened. So its first reading adds
  nothing and becomes the new start. Later it adds what the old one still counts while it drains.
- For an Envoy that was away and comes back, the whole difference is added: its last reading was inside the window.
- If we cannot tell whether a process restarted, its reading adds nothing and becomes the new start.
- A single counter that vanished was evicted by Envoy; what it had counted stays.

So no difference is negative, nothing is counted twice, and when in doubt something is left out, for all variants alike.

Called by :mod:`controller.rollout.collect` for evidence and by :mod:`controller.metrics.totals` for metrics.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum

from controller.evidence.counts import NOTHING, Counts, add

_ROUNDING = 1.0
"""Seconds by which a whole number of them may be too high."""

SLACK = timedelta(seconds=10)
"""How far an Envoy's uptime and our clock may disagree without a restart: Envoy reports its uptime as of its last flush
of statistics (5 s by default), in whole seconds."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One Envoy's cumulative values of one experiment.

    Attributes:
        at: when it was read, by our clock.
        uptime: seconds since its process started; None if unknown.
        counts: what it counted since its process started.
        epoch: how many hot restarts led to its process; None if unknown.
        started: when its process started, as whoever started it says; None if nobody does.
    """

    at: datetime
    uptime: float | None
    counts: Counts
    epoch: int | None = None
    started: datetime | None = None

    @property
    def complete(self) -> bool:
        """Whether a process that takes over from another has what that one counted; it has from its first flush on."""
        return self.uptime is not None or not self.epoch


@dataclass(frozen=True, slots=True)
class Window:
    """What was counted since ``since``.

    Attributes:
        since: when the window opened.
        totals: the sum over all Envoys, including those that are gone.
        seen: each Envoy's last reading, by what identifies it.
    """

    since: datetime
    totals: Counts = NOTHING
    seen: Mapping[str, Reading] = field(default_factory=dict)


class _Process(Enum):
    SAME = "same"
    NEW = "new"
    SUCCESSOR = "successor"
    SAME_SUCCESSOR = "same successor"
    UNSURE = "unsure"


def open_window(readings: Mapping[str, Reading], at: datetime) -> Window:
    """Open a window; each reading is the start for its Envoy."""
    return Window(since=at, seen=_complete(readings))


def extend(window: Window, readings: Mapping[str, Reading]) -> Window:
    """Extend a window by the next reading of some or all Envoys."""
    readings = _complete(readings)
    gained = [_gain(window, envoy, reading) for envoy, reading in readings.items()]
    return replace(window, totals=add([window.totals, *gained]), seen={**window.seen, **readings})


def forget(window: Window, present: Collection[str] | None) -> Window:
    """The window without Envoys that are gone for good; what they counted stays.

    Args:
        window: already extended by what those that are there say.
        present: what identifies those that are there; None if nobody can say who is gone.
    """
    if present is None or all(envoy in present for envoy in window.seen):
        return window
    return replace(window, seen={envoy: reading for envoy, reading in window.seen.items() if envoy in present})


def _complete(readings: Mapping[str, Reading]) -> dict[str, Reading]:
    return {envoy: reading for envoy, reading in readings.items() if reading.complete}


def _gain(window: Window, envoy: str, reading: Reading) -> Counts:
    previous = window.seen.get(envoy)
    if previous is not None:
        return difference(previous, reading)
    return reading.counts if _started_after(reading, window.since) else NOTHING


def _started_after(reading: Reading, moment: datetime) -> bool:
    """Whether a reading's process certainly started after a moment; its uptime may be too low by ``SLACK``."""
    if reading.started is not None and reading.started > moment and not reading.epoch:
        return True
    # In seconds, because a timedelta would overflow: an Envoy whose clock was set back behind its start says 2^64 - x.
    return reading.uptime is not None and _seconds(reading.at - moment) > reading.uptime + _seconds(SLACK)


def difference(previous: Reading, current: Reading) -> Counts:
    """What one Envoy counted between two readings; never negative.

    Counters and histograms are checked for resets separately: ``POST /reset_counters`` resets only the counters.
    """
    process = _compare(previous, current)
    new = current.counts
    counters, counters_reset = new.counters.since(previous.counts.counters)
    histograms, histograms_reset = new.histograms.since(previous.counts.histograms)
    if process is _Process.NEW or (process is _Process.UNSURE and counters_reset):
        return new
    if process in (_Process.SUCCESSOR, _Process.UNSURE):
        return NOTHING
    # When the process that a successor took over from ends, counts and uptime that it lent are taken back.
    fallen = NOTHING if process is _Process.SAME_SUCCESSOR else new
    return Counts.of(
        fallen.counters if counters_reset else counters, fallen.histograms if histograms_reset else histograms
    )


def _compare(previous: Reading, current: Reading) -> _Process:
    """Whether two readings come from the same process, as far as its uptime and hot restarts tell."""
    apart, slack = _seconds(current.at - previous.at), _seconds(SLACK)
    if current.epoch and previous.epoch is not None:
        if current.epoch != previous.epoch:
            return _Process.SUCCESSOR
        # Its uptime falls when its predecessor ends; a restart in the same epoch has next to none.
        restarted = current.uptime is not None and current.uptime <= apart + _ROUNDING < (previous.uptime or 0.0)
        return _Process.NEW if restarted else _Process.SAME_SUCCESSOR
    if previous.uptime is None:
        return _Process.SAME
    if current.uptime is None:
        # Only a process that has not flushed its statistics yet has no uptime, and the earlier one had.
        return _Process.NEW
    if current.uptime < previous.uptime:
        # A new process cannot be older than the time between the readings. If the uptime went down but is longer than
        # that, the Envoy's clock was set back.
        return _Process.NEW if current.uptime <= apart + slack else _Process.SAME
    # By its uptime, it started after the last reading: it restarted long ago, or our clock was set forward.
    return _Process.UNSURE if current.uptime + slack < apart else _Process.SAME


def _seconds(span: timedelta) -> float:
    return span.total_seconds()
