"""Parses Envoy's answer to ``/stats?histogram_buckets=detailed``. Pure.

    abmesh.requests.experiment.E.variant.V.slice.7.code.200: 12
    abmesh.duration_ms.experiment.E.variant.V.slice.7: 1843
    abmesh.events.experiment.E.variant.V.slice.7.event.click: 3
    abmesh.requests_by_segment.experiment.E.variant.V.segment.casual.group.3.code.200: 5
    abmesh.duration.experiment.E.variant.V.group.3:
      totals=98,1:2, 100,10:7, 110,10:3
      intervals=100,10:1
      summary=P0(100,98) ...
    server.uptime: 3600
    server.hot_restart_epoch: 0

A counter's tags follow its name in the order in which they were configured. Names of experiments and variants are DNS
labels and have no dot, so a name has only one meaning. ``totals`` are a histogram's bins since the process started, as
``lower bound,width:count``; we ignore the two lines below them.

This module defines what an answer means, line by line. :mod:`controller.evidence.columns` gives the same result faster
and falls back to this; :mod:`controller.evidence.scraped` takes the meaning of names from here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from abmesh.experiment import metrics, names
from abmesh.experiment.errors import SourceError
from abmesh.text import shorten
from controller.evidence.counts import NOTHING, BinKey, CounterKey, Counts, Index, Series, place_in

HISTOGRAMS = (names.STAT_DURATION, names.STAT_FAILED, names.STAT_TTFT)
"""Names of the histograms that are evidence."""

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_SMALL = r"(\d{1,4})"
_EVENT = r"([a-z][a-z0-9_]{0,62})"
_SEGMENT = r"([A-Za-z0-9][A-Za-z0-9_-]{0,62})"
_WHO = rf"\.{names.TAG_EXPERIMENT}\.((?:{_LABEL}/)?{_LABEL})\.{names.TAG_VARIANT}\.({_LABEL})"
"""Groups: experiment, which in a cluster has its namespace before it, and variant."""

_OF_SEGMENT = rf"\.{names.TAG_SEGMENT}\.{_SEGMENT}(?:\.{names.TAG_GROUP}\.{_SMALL})?"
"""Groups: segment, and group of slices, which an Envoy rendered by an older version does not tell."""

_SLICE_OR_SEGMENT = rf"(?:\.{names.TAG_SLICE}\.{_SMALL}|{_OF_SEGMENT})"


def _counter(statistics: Iterable[str], rest: str = "") -> re.Pattern[str]:
    """Groups: name, the by-segment suffix if any, experiment, variant, slice, segment, group, those in ``rest``."""
    known = "|".join(map(re.escape, statistics))
    scope = re.escape(f"{names.STATS_SCOPE}.")
    return re.compile(rf"{scope}({known})({names.BY_SEGMENT})?{_WHO}{_SLICE_OR_SEGMENT}{rest}", re.ASCII)


_REQUESTS = _counter((names.STAT_REQUESTS,), rf"\.{names.TAG_CODE}\.{_SMALL}")
_AMOUNT = _counter(metrics.PLAIN_COUNTERS)
_EVENT_AMOUNT = _counter(metrics.EVENT_COUNTERS, rf"\.{names.TAG_EVENT}\.{_EVENT}")
_HISTOGRAMS = "|".join(HISTOGRAMS)
_HISTOGRAM = re.compile(
    rf"{re.escape(names.STATS_SCOPE)}\.({_HISTOGRAMS})({names.BY_SEGMENT})?{_WHO}"
    rf"(?:\.{names.TAG_GROUP}\.{_SMALL}|{_OF_SEGMENT})",
    re.ASCII,
)
_BOUND = re.compile(r"\d{1,20}(\.\d{1,20})?(e[+-]?\d{1,3})?", re.ASCII)

UPTIME = "server.uptime"
"""Envoy's own gauge: seconds since the process started, as of its last flush of statistics."""

EPOCH = "server.hot_restart_epoch"
"""Envoy's own gauge: which restart without a pause this process is, 0 for one that took over from no other."""

TOTALS = "  totals="
_UNUSED = ("  intervals=", "  summary=")

_LONGEST = 60
"""Most characters of an answer's text that an error quotes."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Cumulative values of one Envoy.

    Attributes:
        experiments: counts since the process started, by experiment.
        uptime: seconds since the process started, too low by up to Envoy's flush interval; None before the first
            flush, or if the source does not report it. After a hot restart it goes on from the old process's.
        ignored: how many statistics in our scope are not evidence: unassigned traffic, overrides, unknown names.
        epoch: how many hot restarts led to this process; None if the source does not report it.
    """

    experiments: Mapping[str, Counts] = field(default_factory=dict)
    uptime: float | None = None
    ignored: int = 0
    epoch: int | None = None

    def counts(self, experiment: str) -> Counts:
        """An experiment's counts; empty if it has none."""
        return self.experiments.get(experiment, NOTHING)


@dataclass(slots=True)
class _Building:
    counters: dict[CounterKey, int] = field(default_factory=dict)
    bins: dict[BinKey, int] = field(default_factory=dict)


def parse(text: str | bytes) -> Sample:
    """Parse an answer of Envoy's admin endpoint.

    Args:
        text: the body of ``/stats?usedonly&filter=...&histogram_buckets=detailed``.

    Raises:
        SourceError: the text is not such an answer. No text raises anything else.
    """
    building: dict[str, _Building] = {}
    uptime: float | None = None
    epoch: int | None = None
    ignored = 0
    histogram = ""
    for line in decoded(text).rstrip("\n").split("\n"):
        if line.startswith(TOTALS) and histogram:
            ignored += not _add_bins(building, histogram, line[len(TOTALS) :])
            histogram = ""
        elif line.startswith(_UNUSED):
            continue
        elif histogram:
            _raise_no_bins(histogram)
        elif line.endswith(":") and not line.startswith(" "):
            histogram = line[:-1]
        else:
            name, separator, value = line.rpartition(": ")
            if not separator or name.startswith(" "):
                raise SourceError(f"a line is not an Envoy statistic: {shorten(line, _LONGEST)}")
            counted = count(value, name)
            if name == UPTIME:
                uptime = float(counted)
            elif name == EPOCH:
                epoch = counted
            else:
                ignored += not _add_counter(building, name, counted)
    if histogram:
        _raise_no_bins(histogram)
    experiments = {name: _counts(it) for name, it in building.items()}
    return Sample(experiments, uptime, ignored, epoch)


def decoded(text: str | bytes) -> str:
    """Decode an answer.

    Raises:
        SourceError: it is empty, or not UTF-8.
    """
    try:
        found = text if isinstance(text, str) else text.decode()
    except UnicodeDecodeError:
        raise SourceError("the answer is not text; is this the address of an Envoy admin endpoint?") from None
    if not found.strip():
        raise SourceError(f"the answer is empty, but every Envoy has {UPTIME}; is this an Envoy admin endpoint?")
    return found


def counter_key(name: str) -> tuple[str, CounterKey] | None:
    """The experiment and key that a counter's name stands for; None if it is not evidence."""
    if found := _REQUESTS.fullmatch(name):
        _, by_segment, experiment, variant, slice_, segment, group, code = found.groups()
        what: int | str = int(code)
    elif found := _AMOUNT.fullmatch(name):
        what, by_segment, experiment, variant, slice_, segment, group = found.groups()
    elif found := _EVENT_AMOUNT.fullmatch(name):
        amount, by_segment, experiment, variant, slice_, segment, group, event = found.groups()
        what = metrics.of_event(amount, event)
    else:
        return None
    if (by_segment is None) != (segment is None):
        return None
    return experiment, (variant, int(slice_) if segment is None else _place(segment, group), what)


def histogram_key(name: str) -> tuple[str, tuple[str, str, int | str]] | None:
    """The experiment, and the variant, histogram, and group or segment of a histogram's name; None if not evidence."""
    found = _HISTOGRAM.fullmatch(name)
    if found is None:
        return None
    histogram, by_segment, experiment, variant, group, segment, group_in_segment = found.groups()
    if (by_segment is None) != (segment is None):
        return None
    return experiment, (variant, histogram, int(group) if segment is None else _place(segment, group_in_segment))


def _place(segment: str, group: str | None) -> str:
    return segment if group is None else place_in(segment, int(group))


def bounds(text: str, name: str) -> tuple[float, float]:
    """Parse a bin's lower bound and width in milliseconds.

    Args:
        text: both, with a comma between them.
        name: of the histogram, for error messages.

    Raises:
        SourceError: one of them is not a finite number of at least 0.
    """
    lower, _, width = text.partition(",")
    return _bound(lower, name), _bound(width, name)


def count(text: str, name: str) -> int:
    """Parse a cumulative count, which Envoy keeps in 64 bits.

    Raises:
        SourceError: it is not a whole number below 2^64.
    """
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 2**64
    if value >= 2**64:
        raise SourceError(f"{shorten(name, _LONGEST)} has a value that is not a count: {shorten(text, _LONGEST)}")
    return value


def _add_counter(building: dict[str, _Building], name: str, counted: int) -> bool:
    """Add a counter; False if it is not evidence."""
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
    """Add a histogram's bins; False if it is not evidence."""
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
        raise SourceError(f"a bin of {shorten(name, _LONGEST)} has an invalid bound: {shorten(text, _LONGEST)}")
    return bound


def _raise_no_bins(name: str) -> NoReturn:
    raise SourceError(f"{shorten(name, _LONGEST)} has no list of bins; ask with histogram_buckets=detailed")
