"""What each variant did, as Prometheus metrics named ``llm_*``.

Each Envoy's own series are by slice and end with that Envoy. These are by variant, summed over all Envoys, and only
grow while this controller leads. A standby controller reads no statistics, so it exports none of them.

Registered by :mod:`controller.metrics.telemetry`. Names follow Prometheus' conventions: base units, ``_total``, and
classic histograms with the same buckets in every controller, so that they can be added up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from abmesh.experiment import metrics, names
from abmesh.experiment.latencies import BOUNDS_MS
from abmesh.experiment.model import Experiment
from controller.evidence.summary import ABORTED
from controller.metrics.totals import (
    RunningTotals,
    SegmentTotals,
    VariantSegment,
    add_readings,
    by_segment,
    cost,
    start_totals,
)
from controller.sources.base import Observation, readings_of

LABELS = ("experiment", "model_version")
STATUS_ABORTED = "aborted"
"""The value of ``status`` for a request whose client went away before there was a response."""


@dataclass(frozen=True, slots=True)
class _AmountMetric:
    """A metric that shows one amount, divided by a scale."""

    name: str
    help: str
    amount: str
    scale: int = 1


_AMOUNT_METRICS = (
    _AmountMetric(
        "llm_requests_broken", "Answers with a status below 500 that the upstream broke off.", metrics.BROKEN
    ),
    _AmountMetric("llm_requests_cached", "Answers from a cache; latencies leave them out.", metrics.CACHED),
    _AmountMetric("llm_requests_metered", "Answers that reported how many tokens they used.", metrics.USAGE),
    _AmountMetric("llm_refusals", "Answers in which the model refused.", metrics.REFUSALS),
    _AmountMetric("llm_sessions", "Sessions started: identities issued to users who had none.", metrics.SESSIONS),
    _AmountMetric("llm_streamed_tokens", "Output tokens of streamed answers.", metrics.STREAMED_TOKENS),
    _AmountMetric(
        "llm_generation_seconds",
        "Time from the first to the last byte of streamed answers that reported their tokens.",
        metrics.GENERATION_MS,
        1000,
    ),
)


_EVENT_METRICS = (
    _AmountMetric("llm_event_value", "Sum of the values of feedback events.", metrics.EVENT_VALUE, metrics.VALUE_SCALE),
    _AmountMetric("llm_events_valued", "Feedback events that carried a value.", metrics.VALUED_EVENTS),
)


@dataclass(frozen=True, slots=True)
class _LatencyMetric:
    histogram: str
    name: str
    help: str
    sum_ms: str


_LATENCY_METRICS = (
    _LatencyMetric(
        names.STAT_DURATION,
        "llm_request_duration",
        "Duration of requests as Envoy measures it, without those answered from a cache.",
        metrics.DURATION_MS,
    ),
    _LatencyMetric(
        names.STAT_FAILED,
        "llm_failed_request_duration",
        "Those of the durations that belong to failed answers, which comparisons of latencies leave out.",
        metrics.FAILED_MS,
    ),
    _LatencyMetric(
        names.STAT_TTFT,
        "llm_time_to_first_token",
        "Time to the first byte of the response body, without requests answered from a cache.",
        metrics.TTFT_MS,
    ),
)


class VariantMetrics(Collector):
    """The metric families of all experiments in the document."""

    def __init__(self) -> None:
        self._totals: dict[str, tuple[Experiment, RunningTotals]] = {}

    def record(
        self, experiments: Sequence[Experiment] | None, observations: Sequence[Observation], at: datetime
    ) -> None:
        """Add what the Envoys counted.

        Args:
            experiments: those in the document; None while it is refused, which keeps those that are known.
            observations: one for each Envoy.
            at: when the Envoys were queried.
        """
        if experiments is None:
            experiments = [experiment for experiment, _ in self._totals.values()]
        # Replaced as a whole, because a scrape may read the old totals in another thread.
        self._totals = {item.name: (item, self._extended(item, observations, at)) for item in experiments}

    def collect(self) -> Iterator[Metric]:
        """The families, for one scrape."""
        found = [_ExperimentTotals.of(*item) for item in self._totals.values()]
        yield from _families(found, segmented=False)
        yield from _families(found, segmented=True)

    def _extended(self, experiment: Experiment, observations: Sequence[Observation], at: datetime) -> RunningTotals:
        prices = experiment.prices
        known = self._totals.get(experiment.name)
        totals = known[1] if known else start_totals(prices, at)
        return add_readings(totals, readings_of(observations, experiment.name, at), prices, at)


@dataclass(frozen=True, slots=True)
class _ExperimentTotals:
    """One experiment's totals by variant and segment.

    Declared variants and segments start at 0: a counter that first appears at 1 shows no increase in Prometheus.
    """

    experiment: Experiment
    totals: RunningTotals
    parts: Mapping[VariantSegment, SegmentTotals]

    @classmethod
    def of(cls, experiment: Experiment, totals: RunningTotals) -> _ExperimentTotals:
        segments = () if experiment.segments is None else (*experiment.segments.values, names.OTHER_SEGMENT)
        declared: dict[VariantSegment, SegmentTotals] = {
            (variant.name, segment): SegmentTotals(codes={200: 0})
            for variant in experiment.variants
            for segment in (None, *segments)
        }
        return cls(experiment, totals, declared | by_segment(totals.window))

    def labelled(self, *, segmented: bool) -> Iterator[tuple[VariantSegment, tuple[str, ...], SegmentTotals]]:
        """Every variant, or every segment, with its labels and totals."""
        for key, part in self.parts.items():
            variant, segment = key
            if (segment is not None) is segmented:
                labels = (self.experiment.name, variant)
                yield key, labels if segment is None else (*labels, segment), part

    def events(self, found: SegmentTotals, amount: str, *, valued: bool = False) -> Iterator[tuple[str, int]]:
        """The count of every event that is declared or was counted."""
        prefix = metrics.of_event(amount, "")
        declared = [event.name for event in self.experiment.events if event.value is not None or not valued]
        counted = [name.removeprefix(prefix) for name in found.amounts if name.startswith(prefix)]
        for event in dict.fromkeys([*declared, *counted]):
            yield event, found.amounts.get(prefix + event, 0)


def _families(found: Sequence[_ExperimentTotals], *, segmented: bool) -> Iterator[Metric]:
    yield _requests(found, segmented=segmented)
    for latency in _LATENCY_METRICS:
        yield _latency(latency, found, segmented=segmented)
    yield _tokens(found, segmented=segmented)
    yield _cost(found, segmented=segmented)
    yield _events("llm_events", "Feedback events", metrics.EVENTS, found, segmented=segmented)
    if not segmented:
        yield from _unsegmented(found)


def _requests(found: Sequence[_ExperimentTotals], *, segmented: bool) -> Metric:
    family = _counter(
        "llm_requests",
        f"Requests by response status; {STATUS_ABORTED} if the client went away before there was a response",
        "status",
        segmented=segmented,
    )
    for item in found:
        for _, labels, here in item.labelled(segmented=segmented):
            for code, count in here.codes.items():
                family.add_metric((*labels, STATUS_ABORTED if code == ABORTED else str(code)), count)
    return family


def _latency(latency: _LatencyMetric, found: Sequence[_ExperimentTotals], *, segmented: bool) -> Metric:
    family = HistogramMetricFamily(
        f"{latency.name}{_ending(segmented)}_seconds", _help(latency.help, segmented), labels=_labels(segmented)
    )
    for item in found:
        for _, labels, here in item.labelled(segmented=segmented):
            cumulative, total = [], 0
            for bound, count in zip((*BOUNDS_MS, None), here.buckets.get(latency.histogram, _EMPTY), strict=True):
                total += count
                cumulative.append(("+Inf" if bound is None else repr(bound / 1000), total))
            # By segment, Envoy counts no sums of durations.
            exact = None if segmented else here.amounts.get(latency.sum_ms)
            middles = here.middles.get(latency.histogram, 0.0)
            family.add_metric(labels, cumulative, (middles if exact is None else exact) / 1000)
    return family


_EMPTY = [0] * (len(BOUNDS_MS) + 1)


def _tokens(found: Sequence[_ExperimentTotals], *, segmented: bool) -> Metric:
    family = _counter("llm_tokens", "Tokens that answers reported", "direction", segmented=segmented)
    directions = (("input", metrics.INPUT_TOKENS), ("output", metrics.OUTPUT_TOKENS))
    for item in found:
        for _, labels, here in item.labelled(segmented=segmented):
            for direction, amount in directions:
                family.add_metric((*labels, direction), here.amounts.get(amount, 0))
    return family


def _cost(found: Sequence[_ExperimentTotals], *, segmented: bool) -> Metric:
    name = "llm_cost_by_segment_dollars" if segmented else "llm_cost_dollars"
    text = "Cost of tokens in US dollars, at the prices in the document when they were counted"
    family = CounterMetricFamily(name, _help(f"{text}.", segmented), labels=_labels(segmented))
    for item in found:
        for key, labels, here in item.labelled(segmented=segmented):
            dollars = cost(item.totals, key, here)
            if dollars is not None:
                family.add_metric(labels, dollars)
    return family


def _events(
    name: str, text: str, amount: str, found: Sequence[_ExperimentTotals], *, segmented: bool, scale: int = 1
) -> Metric:
    family = _counter(name, text, "event", segmented=segmented)
    valued = amount != metrics.EVENTS
    for item in found:
        for _, labels, here in item.labelled(segmented=segmented):
            for event, count in item.events(here, amount, valued=valued):
                family.add_metric((*labels, event), count / scale)
    return family


def _unsegmented(found: Sequence[_ExperimentTotals]) -> Iterator[Metric]:
    """The metrics that Envoy does not count by segment."""
    for metric in _AMOUNT_METRICS:
        family = CounterMetricFamily(metric.name, metric.help, labels=LABELS)
        for item in found:
            for _, labels, here in item.labelled(segmented=False):
                family.add_metric(labels, here.amounts.get(metric.amount, 0) / metric.scale)
        yield family
    for metric in _EVENT_METRICS:
        yield _events(metric.name, metric.help.rstrip("."), metric.amount, found, segmented=False, scale=metric.scale)


def _counter(name: str, text: str, label: str, *, segmented: bool) -> CounterMetricFamily:
    labels = (*_labels(segmented), label)
    return CounterMetricFamily(name + _ending(segmented), _help(f"{text}.", segmented), labels=labels)


def _ending(segmented: bool) -> str:
    return names.BY_SEGMENT if segmented else ""


def _labels(segmented: bool) -> tuple[str, ...]:
    return (*LABELS, "segment") if segmented else LABELS


def _help(text: str, segmented: bool) -> str:
    return f"{text[:-1]}, by segment." if segmented else text
