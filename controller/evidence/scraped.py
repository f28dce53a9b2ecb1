"""Parses Envoys' series as a Prometheus server has them into samples. Pure; for :mod:`controller.sources.prometheus`.

    envoy_abmesh_requests{experiment="E",variant="V",slice="7",code="200",instance="10.0.0.7:9901",job="envoy"} 12
    envoy_abmesh_requests_by_segment{experiment="E",variant="V",segment="casual",group="3",code="200",..} 5
    envoy_abmesh_events{experiment="E",variant="V",slice="7",event="click",..} 3
    envoy_abmesh_duration_bucket{experiment="E",variant="V",group="3",le="110",..} 98
    envoy_server_uptime{..} 3600
    envoy_server_hot_restart_epoch{..} 0
    up{..} 1

These are the statistics that :mod:`controller.evidence.parse` reads, as ``/stats/prometheus`` prints them: tags become
labels, and histograms have the buckets that Envoy was configured with. We rebuild Envoy's own name for a statistic from
its labels, so that only that module says what counts as evidence.

A bucket is cumulative. It holds every one of Envoy's own bins that *begins* at or below its bound: measured, a bound of
100 counts a value of 105, whose bin is 100 to 110. So a bucket ends where the last of these bins ends.
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
from abmesh.text import shorten
from controller.evidence.counts import BinKey, Counts, Index, Keys, Series, values_of
from controller.evidence.parse import HISTOGRAMS, Sample, counter_key, histogram_key
from controller.evidence.vector import INSTANCE, OtherLabels, QueryResult, labels_of

UP: Final = "up"
UPTIME: Final = "envoy_server_uptime"
EPOCH: Final = "envoy_server_hot_restart_epoch"
_SCOPE: Final = f"envoy_{names.STATS_SCOPE}_"
_BUCKET: Final = "_bucket"

_COUNTERS: Final = (names.STAT_REQUESTS, *metrics.PLAIN_COUNTERS, *metrics.EVENT_COUNTERS)

_SERIES: Final = "|".join(
    (
        UP,
        UPTIME,
        EPOCH,
        f"{_SCOPE}({'|'.join(_COUNTERS)})({names.BY_SEGMENT})?",
        f"{_SCOPE}({'|'.join(HISTOGRAMS)})({names.BY_SEGMENT})?{_BUCKET}",
    )
)
_TAGS: Final = (
    names.TAG_EXPERIMENT,
    names.TAG_VARIANT,
    names.TAG_SLICE,
    names.TAG_SEGMENT,
    names.TAG_GROUP,
    names.TAG_CODE,
    names.TAG_EVENT,
)
"""In the order in which any statistic has them."""

_LABELS: Final = ",".join(("__name__", INSTANCE, *_TAGS, "le"))

MOST_NAMES: Final = 250_000
"""Most series whose meaning is cached; the same limit as for names in :mod:`controller.evidence.columns`."""

_Row = tuple[str, str, int | str]
"""Variant, histogram, and group or place."""


def ages_query(selector: str) -> str:
    """The query that gives the time of each target's last scrape, in Unix time."""
    return f"min by ({INSTANCE}) (timestamp({UP}{{{selector}}}))"


def instance_matcher(instances: Iterable[str]) -> str:
    """The label matcher that selects these targets.

    Prometheus understands the escapes that ``re.escape`` and JSON produce.
    """
    return f"{INSTANCE}=~{json.dumps('|'.join(map(re.escape, instances)), ensure_ascii=False)}"


def series_query(selector: str) -> str:
    """The query that gives all the series we read, for every target.

    Each sum has one term: ``sum by`` only drops the labels that we do not need, such as a pod's name or zone. A target
    that is scraped twice shows as an ``up`` of 2.
    """
    return f'sum by ({_LABELS}) ({{__name__=~"{_SERIES}",{selector}}})'


@dataclass(frozen=True, slots=True)
class ScrapedEnvoy:
    """What the server has for one Envoy: its sample, or why there is none."""

    sample: Sample | None
    error: str = ""


@dataclass(slots=True)
class _Target:
    """One Envoy's series while they are read.

    Attributes:
        counters: by the experiment's number, the numbers of its counters and their values.
        buckets: by the numbers of the experiment and the histogram, each bucket's end and its cumulative count.
    """

    up: str | None = None
    uptime: str | None = None
    epoch: str | None = None
    ignored: int = 0
    counters: dict[int, tuple[list[int], list[str]]] = field(default_factory=dict)
    buckets: dict[tuple[int, int], list[tuple[float, str]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What a series means: the numbers of its experiment and counter, or of its experiment, histogram and bucket."""

    owner: int
    number: int
    end: float | None = None


_UP = _Meaning(-1, 0)
_UPTIME = _Meaning(-1, 1)
_EPOCH = _Meaning(-1, 2)
_OF_THE_TARGET: Final = {UP: _UP, UPTIME: _UPTIME, EPOCH: _EPOCH}


class SeriesReader:
    """Reads answers, and caches what each series means. Not thread-safe."""

    def __init__(self) -> None:
        self._forget()

    def read(self, result: QueryResult) -> dict[str, ScrapedEnvoy]:
        """Read the answer to :func:`series_query`; the result is by the label ``instance``.

        Raises:
            SourceError: it is not an answer to that query, or reports an error.
        """
        if len(self._known) > MOST_NAMES:
            self._forget()
        targets: dict[str, _Target] = {}
        for instance, others, _, value in result:
            target = targets.get(instance)
            if target is None:
                target = targets[instance] = _Target()
            try:
                meaning = self._known[others]
            except KeyError:
                meaning = self._known[others] = self._learn(labels_of(others))
            if meaning is None:
                target.ignored += 1
            elif meaning.end is not None:
                target.buckets.setdefault((meaning.owner, meaning.number), []).append((meaning.end, value))
            elif meaning.owner >= 0:
                numbers, values = target.counters.setdefault(meaning.owner, ([], []))
                numbers.append(meaning.number)
                values.append(value)
            elif meaning is _UPTIME:
                target.uptime = value
            elif meaning is _EPOCH:
                target.epoch = value
            else:
                target.up = value
        return {instance: self._scraped(target) for instance, target in targets.items()}

    def _forget(self) -> None:
        self._known: dict[OtherLabels, _Meaning | None] = {}
        self._experiments: list[str] = []
        self._indexes: list[Index] = []
        self._rows: Keys[_Row] = Keys()

    def _learn(self, labels: Mapping[str, str]) -> _Meaning | None:
        """What a series means; None if it is not evidence."""
        name = labels.get("__name__", "")
        if name in _OF_THE_TARGET:
            return _OF_THE_TARGET[name]
        statistic = name.removeprefix(_SCOPE)
        if statistic == name:
            return None
        if statistic.endswith(_BUCKET):
            row = histogram_key(_envoy_name(statistic.removesuffix(_BUCKET), labels))
            bound = _number(labels.get("le", ""))
            if row is None or bound is None:
                return None
            upper = bound if bound == math.inf else round(bound + bin_width(bound), 6)
            return _Meaning(self._owner(row[0]), self._rows.number(row[1]), upper)
        counter = counter_key(_envoy_name(statistic, labels))
        if counter is None:
            return None
        owner = self._owner(counter[0])
        return _Meaning(owner, self._indexes[owner].counters.number(counter[1]))

    def _owner(self, experiment: str) -> int:
        if experiment not in self._experiments:
            self._experiments.append(experiment)
            self._indexes.append(Index())
        return self._experiments.index(experiment)

    def _scraped(self, target: _Target) -> ScrapedEnvoy:
        if target.up is None:
            return ScrapedEnvoy(None, "the server does not scrape it")
        if target.up == "0":
            return ScrapedEnvoy(None, "the server could not scrape it")
        if target.up != "1":
            return ScrapedEnvoy(
                None, "the server scrapes it more than once, so its requests would count twice; narrow --selector"
            )
        try:
            return ScrapedEnvoy(self._sample(target))
        except SourceError as error:
            return ScrapedEnvoy(None, str(error))

    def _sample(self, target: _Target) -> Sample:
        if target.uptime is None:
            raise SourceError(f"it has no {UPTIME}; is it a ready Envoy, scraped at /stats/prometheus?")
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
        epoch = None if target.epoch is None else _count(target.epoch)
        return Sample(experiments, float(_count(target.uptime)), target.ignored, epoch)


def _envoy_name(statistic: str, labels: Mapping[str, str]) -> str:
    """Envoy's own name for a statistic: each tag's name and value, in Envoy's order of the tags."""
    parts = [names.STATS_SCOPE, statistic]
    for tag in _TAGS:
        if tag in labels:
            parts += [tag, labels[tag]]
    return ".".join(parts)


def _bins(buckets: list[tuple[float, str]]) -> Iterator[tuple[float, float, int]]:
    """Yield the lower bound, width and count of every bin that is not empty, from cumulative buckets."""
    lower, before = 0.0, 0
    for upper, value in sorted(buckets):
        count = _count(value)
        if count < before:
            raise SourceError("one of its histograms has cumulative buckets that decrease")
        if upper == math.inf:
            if lower == 0:
                raise SourceError("one of its histograms has no buckets; does Envoy emit summaries instead?")
            upper = 2 * lower  # the true upper end is unknown
        if count > before:
            yield lower, upper - lower, count - before
        lower, before = upper, count


def _count(text: str) -> int:
    """Parse a count, which Prometheus stores as a float."""
    if len(text) <= 20 and text.isascii() and text.isdigit():
        return int(text)
    value = _number(text)
    if value is None or not value.is_integer() or value < 0:
        raise SourceError(f"one of its counts is not a whole number: {shorten(text)}")
    return int(value)


def _number(text: str) -> float | None:
    """Parse a number, which may be infinite; None if the text is not one."""
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value
