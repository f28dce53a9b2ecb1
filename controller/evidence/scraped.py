"""Envoys' series in a Prometheus server, as numbers. Pure.

    envoy_abmesh_requests{experiment="E",variant="V",slice="7",code="200",instance="10.0.0.7:9901",job="envoy"} 12
    envoy_abmesh_requests_by_segment{experiment="E",variant="V",segment="casual",code="200",..} 5
    envoy_abmesh_events{experiment="E",variant="V",slice="7",event="click",..} 3
    envoy_abmesh_duration_bucket{experiment="E",variant="V",group="3",le="110",..} 98
    envoy_server_uptime{..} 3600
    up{..} 1

These are the statistics of :mod:`controller.evidence.parse` as ``/stats/prometheus`` prints them: tags are labels, and
histograms have the buckets that Envoy was set up with. Labels are put together to the name that Envoy has for the
statistic, so that what counts as evidence is said there and only there.

A bucket is cumulative, and holds every one of Envoy's own bins that *begins* at or below its bound (tried: a bound of
100 counts a value of 105, whose bin is 100 to 110). So it ends where the last of these bins does.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from abmesh.experiment import metrics, names
from abmesh.experiment.errors import SourceError
from abmesh.experiment.latencies import bin_width
from controller.evidence.counts import BinKey, Counts, Index, Keys, Series, values_of
from controller.evidence.parse import Sample, counter_key, histogram_key
from controller.evidence.vector import INSTANCE, Answer, Others, labels_of, short

UP: Final = "up"
UPTIME: Final = "envoy_server_uptime"
_SCOPE: Final = f"envoy_{names.STATS_SCOPE}_"
_BUCKET: Final = "_bucket"

_COUNTERS: Final = (names.STAT_REQUESTS, *metrics.PLAIN_COUNTERS, *metrics.EVENT_COUNTERS)
_HISTOGRAMS: Final = (names.STAT_DURATION, names.STAT_TTFT)

_SERIES: Final = "|".join(
    (
        UP,
        UPTIME,
        f"{_SCOPE}({'|'.join(_COUNTERS)})({names.BY_SEGMENT})?",
        f"{_SCOPE}({'|'.join(_HISTOGRAMS)})({names.BY_SEGMENT})?{_BUCKET}",
    )
)
_LABELS: Final = ",".join(
    (
        "__name__",
        INSTANCE,
        names.TAG_EXPERIMENT,
        names.TAG_VARIANT,
        names.TAG_SLICE,
        names.TAG_GROUP,
        names.TAG_SEGMENT,
        names.TAG_CODE,
        names.TAG_EVENT,
        "le",
    )
)

MOST_NAMES: Final = 250_000
"""Series of one Envoy that are remembered, as many as names in :mod:`controller.evidence.columns`."""

_Row = tuple[str, str, int | str]
"""Variant, histogram, and group or segment."""


def ages_query(selector: str) -> str:
    """The query for when every target was last scraped, in Unix time."""
    return f"min by ({INSTANCE}) (timestamp({UP}{{{selector}}}))"


def among(instances: Iterable[str]) -> str:
    """The matcher of some targets. Expressions of Python's ``re.escape`` and JSON's texts are Prometheus' as well."""
    return f"{INSTANCE}=~{json.dumps('|'.join(map(re.escape, instances)), ensure_ascii=False)}"


def series_query(selector: str) -> str:
    """The query for everything that is read of every target.

    Each sum is of one series; it only drops labels that say no more of it (a pod's name, a zone), of which there may be
    many. If a target is scraped twice, its ``up`` is 2.
    """
    return f'sum by ({_LABELS}) ({{__name__=~"{_SERIES}",{selector}}})'


@dataclass(frozen=True, slots=True)
class Scraped:
    """What a server knows of one Envoy: its sample, or why there is none."""

    sample: Sample | None
    error: str = ""


@dataclass(slots=True)
class _Target:
    """One Envoy while it is read; the keys of both mappings begin with the experiment's number."""

    up: str | None = None
    uptime: str | None = None
    ignored: int = 0
    counters: dict[int, tuple[list[int], list[str]]] = field(default_factory=dict)
    buckets: dict[tuple[int, int], list[tuple[float, str]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Known:
    """What a series means: the numbers of its experiment and its counter; or its histogram, and a bucket's end."""

    owner: int
    number: int
    end: float | None = None


_UP = _Known(-1, 0)
_UPTIME = _Known(-1, 1)


class Reader:
    """Reads answers, and remembers what series mean. Not for several threads at once."""

    def __init__(self) -> None:
        self._forget()

    def read(self, answer: Answer) -> dict[str, Scraped]:
        """Every target of an answer to :func:`series_query`, by its label ``instance``.

        Raises:
            SourceError: it is no such answer, or reports an error.
        """
        if len(self._known) > MOST_NAMES:
            self._forget()
        targets: dict[str, _Target] = {}
        for instance, others, _, value in answer:
            target = targets.get(instance)
            if target is None:
                target = targets[instance] = _Target()
            try:
                known = self._known[others]
            except KeyError:
                known = self._known[others] = self._learn(labels_of(others))
            if known is None:
                target.ignored += 1
            elif known.end is not None:
                target.buckets.setdefault((known.owner, known.number), []).append((known.end, value))
            elif known.owner >= 0:
                numbers, values = target.counters.setdefault(known.owner, ([], []))
                numbers.append(known.number)
                values.append(value)
            elif known is _UPTIME:
                target.uptime = value
            else:
                target.up = value
        return {instance: self._scraped(target) for instance, target in targets.items()}

    def _forget(self) -> None:
        self._known: dict[Others, _Known | None] = {}
        self._experiments: list[str] = []
        self._indexes: list[Index] = []
        self._rows: Keys[_Row] = Keys()

    def _learn(self, labels: Mapping[str, str]) -> _Known | None:
        """What a series means; None if it is no evidence."""
        name = labels.get("__name__", "")
        if name in (UP, UPTIME):
            return _UP if name == UP else _UPTIME
        statistic = name.removeprefix(_SCOPE)
        if statistic == name:
            return None
        if statistic.endswith(_BUCKET):
            tags = (names.TAG_EXPERIMENT, names.TAG_VARIANT, names.TAG_GROUP, names.TAG_SEGMENT)
            row = histogram_key(_plain(statistic.removesuffix(_BUCKET), labels, tags))
            bound = _number(labels.get("le", ""))
            if row is None or bound is None:
                return None
            upper = bound if bound == math.inf else round(bound + bin_width(bound), 6)
            return _Known(self._owner(row[0]), self._rows.number(row[1]), upper)
        tags = (names.TAG_EXPERIMENT, names.TAG_VARIANT, names.TAG_SLICE, names.TAG_SEGMENT)
        counter = counter_key(_plain(statistic, labels, (*tags, names.TAG_CODE, names.TAG_EVENT)))
        if counter is None:
            return None
        owner = self._owner(counter[0])
        return _Known(owner, self._indexes[owner].counters.number(counter[1]))

    def _owner(self, experiment: str) -> int:
        if experiment not in self._experiments:
            self._experiments.append(experiment)
            self._indexes.append(Index())
        return self._experiments.index(experiment)

    def _scraped(self, target: _Target) -> Scraped:
        if target.up is None:
            return Scraped(None, "the server does not scrape it")
        if target.up == "0":
            return Scraped(None, "the server could not scrape it")
        if target.up != "1":
            return Scraped(
                None, "it is scraped more than once, and its requests would count as often; narrow --selector"
            )
        try:
            return Scraped(self._sample(target))
        except SourceError as error:
            return Scraped(None, str(error))

    def _sample(self, target: _Target) -> Sample:
        if target.uptime is None:
            raise SourceError(f"it has no {UPTIME}; is it an Envoy that is ready, scraped at /stats/prometheus?")
        bins: dict[int, dict[BinKey, int]] = {}
        for (owner, row), buckets in target.buckets.items():
            found = bins.setdefault(owner, {})
            for lower, width, count in _bins(buckets):
                found[(*self._rows.known[row], lower, width)] = count
        experiments = {}
        for owner in target.counters.keys() | bins.keys():
            index = self._indexes[owner]
            numbers, values = target.counters.get(owner, ([], []))
            counters = Series(index.counters, np.array(numbers, np.int32), values_of(list(map(_count, values))))
            experiments[self._experiments[owner]] = Counts.of(counters, Series.of(index.bins, bins.get(owner, {})))
        return Sample(experiments, float(_count(target.uptime)), target.ignored)


def _plain(statistic: str, labels: Mapping[str, str], tags: Iterable[str]) -> str:
    """A statistic's name as Envoy's own: the tags in their order, each after its name."""
    parts = [names.STATS_SCOPE, statistic]
    for tag in tags:
        if tag in labels:
            parts += [tag, labels[tag]]
    return ".".join(parts)


def _bins(buckets: list[tuple[float, str]]) -> Iterator[tuple[float, float, int]]:
    """Lower bound, width and count of every bin that holds something, from cumulative buckets by their ends."""
    lower, before = 0.0, 0
    for upper, value in sorted(buckets):
        count = _count(value)
        if count < before:
            raise SourceError("buckets of one of its histograms go down")
        if upper == math.inf:
            if lower == 0:
                raise SourceError("one of its histograms has no buckets; does Envoy emit summaries instead?")
            upper = 2 * lower  # nobody knows how far above
        if count > before:
            yield lower, upper - lower, count - before
        lower, before = upper, count


def _count(text: str) -> int:
    """A count, which Prometheus keeps as a float."""
    if len(text) <= 20 and text.isascii() and text.isdigit():
        return int(text)
    value = _number(text)
    if value is None or not value.is_integer() or value < 0:
        raise SourceError(f"one of its counts is none: {short(text)}")
    return int(value)


def _number(text: str) -> float | None:
    """A number, which may be infinite; None if a text is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value
