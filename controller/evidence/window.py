"""What was counted since a stage's evidence began, from cumulative values that may restart or stay away. Pure.

Every Envoy counts from its own start and for ever. A window keeps, for each, the last reading, and adds the difference
of the next one. The rules, in words:

- Envoys that answer when the window opens start from what they say then.
- One that first answers later may have counted for long before, so its first reading counts for nothing, unless its
  process started after the window opened: then all of it does.
- A process that restarted counts from nothing, so all of its reading is new. A restart shows as an uptime that went
  back, or as a counter that did.
- One that stayed away and comes back has its difference counted in full, because its last reading was in the window.
- Where it cannot be told whether a process is the same, its reading counts for nothing and is the new start.
- A counter that vanished alone was evicted by Envoy; what it had counted stays.

So no difference is ever negative, nothing is ever counted twice, and when in doubt something is left out, of all
variants alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum

from controller.evidence.counts import NOTHING, Counts, add

SLACK = timedelta(seconds=10)
"""How far apart an Envoy's uptime and our clock may be without meaning anything: Envoy's uptime is as old as its last
flush of statistics (5 s by default) and is cut to whole seconds."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One Envoy's cumulative values of one experiment.

    Attributes:
        at: when it was asked, by our clock.
        uptime: seconds since its process started, or None if it does not say.
        counts: since its process started.
    """

    at: datetime
    uptime: float | None
    counts: Counts


@dataclass(frozen=True, slots=True)
class Window:
    """What was counted since ``since``.

    Attributes:
        since: when the window opened.
        totals: sum over all Envoys, those that are gone included.
        seen: last reading of every Envoy, by its address.
    """

    since: datetime
    totals: Counts = NOTHING
    seen: Mapping[str, Reading] = field(default_factory=dict)


class _Process(Enum):
    SAME = "same"
    NEW = "new"
    UNSURE = "unsure"


def open_window(readings: Mapping[str, Reading], at: datetime) -> Window:
    """A window that opens now, with every reading as the start of its Envoy."""
    return Window(since=at, seen=dict(readings))


def extend(window: Window, readings: Mapping[str, Reading]) -> Window:
    """The window with further readings of some or all Envoys, one of each."""
    gained = [_gain(window, envoy, reading) for envoy, reading in readings.items()]
    return replace(window, totals=add([window.totals, *gained]), seen={**window.seen, **readings})


def _gain(window: Window, envoy: str, reading: Reading) -> Counts:
    previous = window.seen.get(envoy)
    if previous is not None:
        return difference(previous, reading)
    return reading.counts if _started_after(reading, window.since) else NOTHING


def _started_after(reading: Reading, moment: datetime) -> bool:
    """Whether a reading's process surely started after a moment: its uptime may be too low, so more is asked."""
    # In seconds, because an uptime may be any number: an Envoy whose clock was set back behind its start says 2^64 - x.
    return reading.uptime is not None and _seconds(reading.at - moment) > reading.uptime + _seconds(SLACK)


def difference(previous: Reading, current: Reading) -> Counts:
    """What one Envoy counted between two readings; never negative.

    Counters and histograms are reset apart, because ``POST /reset_counters`` resets only the former.
    """
    process = _compare(previous, current)
    new = current.counts
    counters, counters_reset = new.counters.since(previous.counts.counters)
    histograms, histograms_reset = new.histograms.since(previous.counts.histograms)
    if process is _Process.NEW or (process is _Process.UNSURE and counters_reset):
        return new
    if process is _Process.UNSURE:
        return NOTHING
    return Counts.of(new.counters if counters_reset else counters, new.histograms if histograms_reset else histograms)


def _compare(previous: Reading, current: Reading) -> _Process:
    """Whether two readings are of the same process, as far as its uptime tells."""
    if previous.uptime is None:
        return _Process.SAME
    if current.uptime is None:
        # It had flushed its statistics before and has not yet: it is another process.
        return _Process.NEW
    apart, slack = _seconds(current.at - previous.at), _seconds(SLACK)
    if current.uptime < previous.uptime:
        # A new process cannot be older than the time between the readings. An uptime that went back but is longer
        # than that means that the Envoy's clock was set back.
        return _Process.NEW if current.uptime <= apart + slack else _Process.SAME
    # It says that it started after the last reading: it restarted long ago, or our clock was set forward.
    return _Process.UNSURE if current.uptime + slack < apart else _Process.SAME


def _seconds(span: timedelta) -> float:
    return span.total_seconds()
