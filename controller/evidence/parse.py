"""Envoy's answer to ``/stats?format=json``, as numbers. Pure; called by the admin source.

A counter's tags are appended to its name, in the order in which they were configured:

    abmesh.requests.experiment.E.variant.V.slice.7.code.200
    abmesh.duration_ms.experiment.E.variant.V.slice.7
    abmesh.duration.experiment.E.variant.V.group.3        (a histogram, under ``histograms.details``)

Names of experiments and variants are DNS labels, which have no dot, so that a name says exactly one thing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.evidence.counts import NOTHING, BinKey, Counts, DurationKey, RequestKey
from experiment import names
from experiment.errors import SourceError

_LABEL = r"([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)"
_SMALL = r"(\d{1,4})"
_WHO = rf"\.{names.TAG_EXPERIMENT}\.{_LABEL}\.{names.TAG_VARIANT}\.{_LABEL}"


def _pattern(statistic: str, *tags: str) -> re.Pattern[str]:
    rest = "".join(rf"\.{tag}\.{_SMALL}" for tag in tags)
    return re.compile(re.escape(f"{names.STATS_SCOPE}.{statistic}") + _WHO + rest, re.ASCII)


_REQUESTS = _pattern(names.STAT_REQUESTS, names.TAG_SLICE, names.TAG_CODE)
_DURATION_MS = _pattern(names.STAT_DURATION_MS, names.TAG_SLICE)
_DURATION = _pattern(names.STAT_DURATION, names.TAG_GROUP)

UPTIME = "server.uptime"
"""Envoy's own gauge: seconds since the process started, as of its last flush of statistics."""


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
    requests: dict[RequestKey, int] = field(default_factory=dict)
    duration_ms: dict[DurationKey, int] = field(default_factory=dict)
    bins: dict[BinKey, int] = field(default_factory=dict)


def parse(text: str | bytes) -> Sample:
    """Read an answer of Envoy's admin endpoint.

    Args:
        text: the body of ``/stats?format=json&usedonly&filter=...&histogram_buckets=detailed``.

    Raises:
        SourceError: the text is not such an answer. Whatever the text, nothing else is raised.
    """
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"the answer is not JSON: {_short(error)}") from None
    if not isinstance(answer, dict) or not isinstance(answer.get("stats"), list):
        raise SourceError('the answer has no list "stats"; is this the address of an Envoy admin endpoint?')
    building: dict[str, _Building] = {}
    uptime: float | None = None
    ignored = 0
    for entry in answer["stats"]:
        if not isinstance(entry, dict):
            raise SourceError(f"a statistic is not an object: {_short(entry)}")
        if "histograms" in entry:
            ignored += sum(not _add_histogram(building, detail) for detail in _details(entry["histograms"]))
        elif entry.get("name") == UPTIME:
            uptime = float(_count(entry.get("value"), UPTIME))
        else:
            ignored += not _add_counter(building, entry)
    experiments = {name: Counts(it.requests, it.duration_ms, it.bins) for name, it in building.items()}
    return Sample(experiments, uptime, ignored)


def _add_counter(building: dict[str, _Building], entry: dict[str, Any]) -> bool:
    """Take a counter in; False if it is not evidence."""
    name = entry.get("name")
    if not isinstance(name, str):
        raise SourceError(f"a statistic has no name: {_short(entry)}")
    if found := _REQUESTS.fullmatch(name):
        experiment, variant, slice_, code = found.groups()
        target = building.setdefault(experiment, _Building())
        target.requests[variant, int(slice_), int(code)] = _count(entry.get("value"), name)
    elif found := _DURATION_MS.fullmatch(name):
        experiment, variant, slice_ = found.groups()
        target = building.setdefault(experiment, _Building())
        target.duration_ms[variant, int(slice_)] = _count(entry.get("value"), name)
    return found is not None


def _details(histograms: object) -> Iterator[dict[str, Any]]:
    if not isinstance(histograms, dict):
        raise SourceError(f"the histograms are not an object: {_short(histograms)}")
    details = histograms.get("details", [])
    if not isinstance(details, list):
        raise SourceError("the histograms have no list of details; histogram_buckets=detailed is needed")
    for detail in details:
        if not isinstance(detail, dict):
            raise SourceError(f"a histogram is not an object: {_short(detail)}")
        yield detail


def _add_histogram(building: dict[str, _Building], detail: dict[str, Any]) -> bool:
    """Take a histogram in; False if it is not evidence."""
    name, totals = detail.get("name"), detail.get("totals")
    found = _DURATION.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        return False
    if not isinstance(totals, list):
        raise SourceError(f"{name} has no list of bins")
    experiment, variant, group = found.groups()
    bins = building.setdefault(experiment, _Building()).bins
    for item in totals:
        if not isinstance(item, dict):
            raise SourceError(f"a bin of {name} is not an object: {_short(item)}")
        lower, width = _bound(item.get("lower_bound"), name), _bound(item.get("width"), name)
        key = (variant, int(group), lower, width)
        bins[key] = bins.get(key, 0) + _count(item.get("count"), name)
    return True


def _count(value: object, name: object) -> int:
    """A cumulative count, which Envoy keeps in 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**64:
        raise SourceError(f"{name} is not a count: {_short(value)}")
    return value


def _bound(value: object, name: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SourceError(f"a bin of {name} has no bound: {_short(value)}")
    try:
        bound = float(value)
    except OverflowError:
        bound = math.inf
    if not 0 <= bound < math.inf:
        raise SourceError(f"a bin of {name} has an impossible bound: {_short(value)}")
    return bound


def _short(value: object) -> str:
    """A value as it may stand in a message. Huge integers are not even converted."""
    if isinstance(value, int) and not -(2**64) < value < 2**64:
        return "a number of more than 64 bits"
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
