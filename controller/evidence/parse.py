"""Envoy's answer to ``/stats?histogram_buckets=detailed``, as numbers. Pure.

    abmesh.requests.experiment.E.variant.V.slice.7.code.200: 12
    abmesh.duration_ms.experiment.E.variant.V.slice.7: 1843
    abmesh.events.experiment.E.variant.V.slice.7.event.click: 3
    abmesh.requests_by_segment.experiment.E.variant.V.segment.casual.code.200: 5
    abmesh.duration.experiment.E.variant.V.group.3:
      totals=98,1:2, 100,10:7, 110,10:3
      intervals=100,10:1
      summary=P0(100,98) ...
    server.uptime: 3600

A counter's tags are appended to its name, in the order in which they were configured. Names of experiments and variants
are DNS labels, which have no dot, so that a name says exactly one thing. ``totals`` are a histogram's bins since the
process started, ``lower bound,width:count``; the two lines below them are of no use here.

This module says what an answer means, one line after the other. :mod:`controller.evidence.columns` comes to the same
result faster, and falls back to this.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from abmesh.experiment import metrics, names
from abmesh.experiment.errors import SourceError
from controller.evidence.counts import NOTHING, BinKey, CounterKey, Counts, Index, Series

_LABEL = r"([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)"
_SMALL = r"(\d{1,4})"
_EVENT = r"([a-z][a-z0-9_]{0,62})"
_SEGMENT = r"([A-Za-z0-9][A-Za-z0-9_-]{0,62})"
_WHO = rf"\.{names.TAG_EXPERIMENT}\.{_LABEL}\.{names.TAG_VARIANT}\.{_LABEL}"
_SLICE_OR_SEGMENT = rf"(?:\.{names.TAG_SLICE}\.{_SMALL}|\.{names.TAG_SEGMENT}\.{_SEGMENT})"


def _counter(statistics: Iterable[str], rest: str = "") -> re.Pattern[str]:
    """Name, whether it is by segment, experiment, variant, slice, segment, and what the rest holds."""
    known = "|".join(map(re.escape, statistics))
    scope = re.escape(f"{names.STATS_SCOPE}.")
    return re.compile(rf"{scope}({known})({names.BY_SEGMENT})?{_WHO}{_SLICE_OR_SEGMENT}{rest}", re.ASCII)


_REQUESTS = _counter((names.STAT_REQUESTS,), rf"\.{names.TAG_CODE}\.{_SMALL}")
_AMOUNT = _counter(metrics.PLAIN_COUNTERS)
_EVENT_AMOUNT = _counter(metrics.EVENT_COUNTERS, rf"\.{names.TAG_EVENT}\.{_EVENT}")
_HISTOGRAM = re.compile(
    rf"{re.escape(names.STATS_SCOPE)}\.({names.STAT_DURATION}|{names.STAT_TTFT})({names.BY_SEGMENT})?{_WHO}"
    rf"(?:\.{names.TAG_GROUP}\.{_SMALL}|\.{names.TAG_SEGMENT}\.{_SEGMENT})",
    re.ASCII,
)
_BOUND = re.compile(r"\d{1,20}(\.\d{1,20})?(e[+-]?\d{1,3})?", re.ASCII)

UPTIME = "server.uptime"
"""Envoy's own gauge: seconds since the process started, as of its last flush of statistics."""

TOTALS = "  totals="
_UNUSED = ("  intervals=", "  summary=")


@dataclass(frozen=True, slots=True)
class Sample:
    """Cumulative values of one Envoy.

    Attributes:
        experiments: counts since the process started, by experiment.
        uptime: seconds since the process started, too low by up to Envoy's flush interval; None before the first
            flush, or where the source has no such thing.
        ignored: statistics under our scope that are not evidence (unassigned traffic, overrides, unknown names).
    """

    experiments: Mapping[str, Counts] = field(default_factory=dict)
    uptime: float | None = None
    ignored: int = 0

    def counts(self, experiment: str) -> Counts:
        """The counts of an experiment, which may be none."""
        return self.experiments.get(experiment, NOTHING)


@dataclass(slots=True)
class _Building:
    counters: dict[CounterKey, int] = field(default_factory=dict)
    bins: dict[BinKey, int] = field(default_factory=dict)


def parse(text: str | bytes) -> Sample:
    """Read an answer of Envoy's admin endpoint.

    Args:
        text: the body of ``/stats?usedonly&filter=...&histogram_buckets=detailed``.

    Raises:
        SourceError: the text is not such an answer. Whatever the text, nothing else is raised.
    """
    building: dict[str, _Building] = {}
    uptime: float | None = None
    ignored = 0
    histogram = ""
    for line in decoded(text).rstrip("\n").split("\n"):
        if line.startswith(TOTALS) and histogram:
            ignored += not _add_bins(building, histogram, line[len(TOTALS) :])
            histogram = ""
        elif line.startswith(_UNUSED):
            continue
        elif histogram:
            _no_bins(histogram)
        elif line.endswith(":") and not line.startswith(" "):
            histogram = line[:-1]
        else:
            name, separator, value = line.rpartition(": ")
            if not separator or name.startswith(" "):
                raise SourceError(f"a line is no statistic of Envoy's: {_short(line)}")
            counted = count(value, name)
            if name == UPTIME:
                uptime = float(counted)
            else:
                ignored += not _add_counter(building, name, counted)
    if histogram:
        _no_bins(histogram)
    experiments = {name: _counts(it) for name, it in building.items()}
    return Sample(experiments, uptime, ignored)


def decoded(text: str | bytes) -> str:
    """An answer as characters.

    Raises:
        SourceError: it is empty, or not text.
    """
    try:
        found = text if isinstance(text, str) else text.decode()
    except UnicodeDecodeError:
        raise SourceError("the answer is not text; is this the address of an Envoy admin endpoint?") from None
    if not found.strip():
        raise SourceError(f"the answer is empty, although every Envoy has {UPTIME}")
    return found


def counter_key(name: str) -> tuple[str, CounterKey] | None:
    """The experiment and the key that a counter's name says; None if it is not evidence."""
    if found := _REQUESTS.fullmatch(name):
        _, by_segment, experiment, variant, slice_, segment, code = found.groups()
        what: int | str = int(code)
    elif found := _AMOUNT.fullmatch(name):
        what, by_segment, experiment, variant, slice_, segment = found.groups()
    elif found := _EVENT_AMOUNT.fullmatch(name):
        amount, by_segment, experiment, variant, slice_, segment, event = found.groups()
        what = metrics.of_event(amount, event)
    else:
        return None
    if (by_segment is None) != (segment is None):
        return None
    return experiment, (variant, int(slice_) if segment is None else segment, what)


def histogram_key(name: str) -> tuple[str, tuple[str, str, int | str]] | None:
    """The experiment, and the variant, histogram, and group or segment, that a name says; None if not evidence."""
    found = _HISTOGRAM.fullmatch(name)
    if found is None:
        return None
    histogram, by_segment, experiment, variant, group, segment = found.groups()
    if (by_segment is None) != (segment is None):
        return None
    return experiment, (variant, histogram, int(group) if segment is None else segment)


def bounds(text: str, name: str) -> tuple[float, float]:
    """A bin's lower bound and width in milliseconds.

    Args:
        text: both, with a comma between them.
        name: of the histogram, for messages.

    Raises:
        SourceError: they are no finite numbers that are not negative.
    """
    lower, _, width = text.partition(",")
    return _bound(lower, name), _bound(width, name)


def count(text: str, name: str) -> int:
    """A cumulative count, which Envoy keeps in 64 bits.

    Raises:
        SourceError: it is none.
    """
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 2**64
    if value >= 2**64:
        raise SourceError(f"{_short(name)} is not a count: {_short(text)}")
    return value


def _add_counter(building: dict[str, _Building], name: str, counted: int) -> bool:
    """Take a counter in; False if it is not evidence."""
    known = counter_key(name)
    if known is None:
        return False
    experiment, key = known
    building.setdefault(experiment, _Building()).counters[key] = counted
    return True


def _counts(building: _Building) -> Counts:
    index = Index()
    return Counts.of(Series.of(index.counters, building.counters), Series.of(index.bins, building.bins))


def _add_bins(building: dict[str, _Building], name: str, totals: str) -> bool:
    """Take a histogram in; False if it is not evidence."""
    known = histogram_key(name)
    if known is None:
        return False
    experiment, row = known
    bins = building.setdefault(experiment, _Building()).bins
    for lower, width, counted in _bins(totals, name):
        key = (*row, lower, width)
        bins[key] = bins.get(key, 0) + counted
    return True


def _bins(totals: str, name: str) -> Iterator[tuple[float, float, int]]:
    for item in totals.split(", ") if totals else ():
        text, _, counted = item.partition(":")
        yield *bounds(text, name), count(counted, name)


def _bound(text: str, name: str) -> float:
    bound = float(text) if _BOUND.fullmatch(text) else math.inf
    if bound == math.inf:
        raise SourceError(f"a bin of {_short(name)} has an impossible bound: {_short(text)}")
    return bound


def _no_bins(name: str) -> NoReturn:
    raise SourceError(f"{_short(name)} has no list of bins; histogram_buckets=detailed is needed")


def _short(text: str) -> str:
    """A text as it may stand in a message."""
    return text if len(text) <= 60 else text[:57] + "..."
