"""What every variant did, as Prometheus metrics named ``llm_*``.

Envoys' own series are by slice, of one Envoy, and end with it. These are of a variant, over all Envoys, and only ever
grow while this controller leads. One that stands by reads no statistics, so it shows none.

:mod:`controller.metrics.telemetry` registers it. Names follow Prometheus' conventions: base units, ``_total``, and
classic histograms whose buckets are the same in every controller, so that they add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from abmesh.experiment import metrics, names
from abmesh.experiment.latencies import BOUNDS_MS
from abmesh.experiment.model import Experiment
from controller.evidence.summary import ABORTED
from controller.evidence.window import Reading
from controller.metrics.totals import Ledger, Place, Sums, cost, entered, open_ledger, sums
from controller.sources.base import Observation

WHO = ("experiment", "model_version")
STATUS_ABORTED = "aborted"
"""The status of a request whose client went away before there was an answer."""


@dataclass(frozen=True, slots=True)
class _Plain:
    """A family that shows one amount, divided by a scale."""

    name: str
    help: str
    amount: str
    scale: int = 1


_PLAIN = (
    _Plain("llm_requests_broken", "Answers below 500 that the upstream broke off.", metrics.BROKEN),
    _Plain("llm_requests_cached", "Answers from a cache, which are in no latency.", metrics.CACHED),
    _Plain("llm_requests_metered", "Answers that said how many tokens they took.", metrics.USAGE),
    _Plain("llm_refusals", "Answers in which the model refused.", metrics.REFUSALS),
    _Plain("llm_sessions", "Sessions begun: identities issued to users who had none.", metrics.SESSIONS),
    _Plain("llm_streamed_tokens", "Output tokens of streamed answers.", metrics.STREAMED_TOKENS),
    _Plain(
        "llm_generation_seconds",
        "Time from the first to the last byte of streamed answers that said how many tokens they took.",
        metrics.GENERATION_MS,
        1000,
    ),
)


_OF_EVENTS = (
    _Plain("llm_event_value", "Sum of the values of feedback events.", metrics.EVENT_VALUE, metrics.VALUE_SCALE),
    _Plain("llm_events_valued", "Feedback events that carried a value.", metrics.VALUED_EVENTS),
)


@dataclass(frozen=True, slots=True)
class _Latency:
    histogram: str
    name: str
    help: str
    sum_ms: str


_LATENCIES = (
    _Latency(
        names.STAT_DURATION,
        "llm_request_duration",
        "Time of whole requests that no cache answered, as Envoy measures it.",
        metrics.DURATION_MS,
    ),
    _Latency(
        names.STAT_TTFT,
        "llm_time_to_first_token",
        "Time to the answer's first byte of body, of requests that no cache answered.",
        metrics.TTFT_MS,
    ),
)

_Account = tuple[Experiment, Ledger]


class Exposition(Collector):
    """Ledgers of all experiments of the document as metric families."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    def counted(
        self, experiments: Sequence[Experiment] | None, observations: Sequence[Observation], at: datetime
    ) -> None:
        """Take in what the Envoys said.

        Args:
            experiments: of the document; None while it is refused, when those known go on.
            observations: one of each Envoy.
            at: when they were asked.
        """
        if experiments is None:
            experiments = [experiment for experiment, _ in self._accounts.values()]
        heard = [item for item in observations if item.sample is not None]
        # A scrape may read the old accounts meanwhile.
        self._accounts = {item.name: (item, self._entered(item, heard, at)) for item in experiments}

    def collect(self) -> Iterator[Metric]:
        """The families, for one scrape."""
        found = [_Found.of(*account) for account in self._accounts.values()]
        yield from _families(found, by_segment=False)
        yield from _families(found, by_segment=True)

    def _entered(self, experiment: Experiment, heard: Iterable[Observation], at: datetime) -> Ledger:
        prices = experiment.prices
        known = self._accounts.get(experiment.name)
        ledger = known[1] if known else open_ledger(prices, at)
        readings = {
            item.envoy: Reading(at - item.age, item.sample.uptime, item.sample.counts(experiment.name))
            for item in heard
            if item.sample is not None
        }
        return entered(ledger, readings, prices, at)


@dataclass(frozen=True, slots=True)
class _Found:
    """The sums of one experiment.

    What it declares is there from the start, at 0: a counter that appears at 1 has no increase.
    """

    experiment: Experiment
    ledger: Ledger
    sums: Mapping[Place, Sums]

    @classmethod
    def of(cls, experiment: Experiment, ledger: Ledger) -> _Found:
        segments = () if experiment.segments is None else (*experiment.segments.values, names.OTHER_SEGMENT)
        declared: dict[Place, Sums] = {
            (variant.name, segment): Sums(codes={200: 0})
            for variant in experiment.variants
            for segment in (None, *segments)
        }
        return cls(experiment, ledger, declared | sums(ledger.window))

    def places(self, *, by_segment: bool) -> Iterator[tuple[Place, tuple[str, ...], Sums]]:
        """Every place, its labels and its sums."""
        for place, found in self.sums.items():
            variant, segment = place
            if (segment is not None) is by_segment:
                who = (self.experiment.name, variant)
                yield place, who if segment is None else (*who, segment), found

    def events(self, found: Sums, amount: str, *, valued: bool = False) -> Iterator[tuple[str, int]]:
        """Counts of every event that is declared or was counted."""
        prefix = metrics.of_event(amount, "")
        declared = [event.name for event in self.experiment.events if event.value is not None or not valued]
        counted = [name.removeprefix(prefix) for name in found.amounts if name.startswith(prefix)]
        for event in dict.fromkeys([*declared, *counted]):
            yield event, found.amounts.get(prefix + event, 0)


def _families(found: Sequence[_Found], *, by_segment: bool) -> Iterator[Metric]:
    yield _requests(found, by_segment=by_segment)
    for latency in _LATENCIES:
        yield _latency(latency, found, by_segment=by_segment)
    yield _tokens(found, by_segment=by_segment)
    yield _cost(found, by_segment=by_segment)
    yield _events("llm_events", "Feedback events", metrics.EVENTS, found, by_segment=by_segment)
    if not by_segment:
        yield from _only_of_variants(found)


def _requests(found: Sequence[_Found], *, by_segment: bool) -> Metric:
    family = _counter(
        "llm_requests",
        f"Requests by the status of their answers; {STATUS_ABORTED}: the client went away before there was one",
        "status",
        by_segment=by_segment,
    )
    for item in found:
        for _, labels, here in item.places(by_segment=by_segment):
            for code, count in here.codes.items():
                family.add_metric((*labels, STATUS_ABORTED if code == ABORTED else str(code)), count)
    return family


def _latency(latency: _Latency, found: Sequence[_Found], *, by_segment: bool) -> Metric:
    family = HistogramMetricFamily(
        f"{latency.name}{_ending(by_segment)}_seconds", _told(latency.help, by_segment), labels=_labels(by_segment)
    )
    for item in found:
        for _, labels, here in item.places(by_segment=by_segment):
            cumulative, total = [], 0
            for bound, count in zip((*BOUNDS_MS, None), here.buckets.get(latency.histogram, _EMPTY), strict=True):
                total += count
                cumulative.append(("+Inf" if bound is None else repr(bound / 1000), total))
            # Envoy counts no sums of durations by segment.
            exact = None if by_segment else here.amounts.get(latency.sum_ms)
            middles = here.middles.get(latency.histogram, 0.0)
            family.add_metric(labels, cumulative, (middles if exact is None else exact) / 1000)
    return family


_EMPTY = [0] * (len(BOUNDS_MS) + 1)


def _tokens(found: Sequence[_Found], *, by_segment: bool) -> Metric:
    family = _counter("llm_tokens", "Tokens that answers said they took", "direction", by_segment=by_segment)
    directions = (("input", metrics.INPUT_TOKENS), ("output", metrics.OUTPUT_TOKENS))
    for item in found:
        for _, labels, here in item.places(by_segment=by_segment):
            for direction, amount in directions:
                family.add_metric((*labels, direction), here.amounts.get(amount, 0))
    return family


def _cost(found: Sequence[_Found], *, by_segment: bool) -> Metric:
    name = "llm_cost_by_segment_dollars" if by_segment else "llm_cost_dollars"
    text = "What tokens cost in US dollars, at the prices of the document when they were counted"
    family = CounterMetricFamily(name, _told(f"{text}.", by_segment), labels=_labels(by_segment))
    for item in found:
        for place, labels, here in item.places(by_segment=by_segment):
            dollars = cost(item.ledger, place, here)
            if dollars is not None:
                family.add_metric(labels, dollars)
    return family


def _events(name: str, text: str, amount: str, found: Sequence[_Found], *, by_segment: bool, scale: int = 1) -> Metric:
    family = _counter(name, text, "event", by_segment=by_segment)
    valued = amount != metrics.EVENTS
    for item in found:
        for _, labels, here in item.places(by_segment=by_segment):
            for event, count in item.events(here, amount, valued=valued):
                family.add_metric((*labels, event), count / scale)
    return family


def _only_of_variants(found: Sequence[_Found]) -> Iterator[Metric]:
    """What Envoy does not count by segment."""
    for plain in _PLAIN:
        family = CounterMetricFamily(plain.name, plain.help, labels=WHO)
        for item in found:
            for _, labels, here in item.places(by_segment=False):
                family.add_metric(labels, here.amounts.get(plain.amount, 0) / plain.scale)
        yield family
    for of in _OF_EVENTS:
        yield _events(of.name, of.help.rstrip("."), of.amount, found, by_segment=False, scale=of.scale)


def _counter(name: str, text: str, label: str, *, by_segment: bool) -> CounterMetricFamily:
    labels = (*_labels(by_segment), label)
    return CounterMetricFamily(name + _ending(by_segment), _told(f"{text}.", by_segment), labels=labels)


def _ending(by_segment: bool) -> str:
    return names.BY_SEGMENT if by_segment else ""


def _labels(by_segment: bool) -> tuple[str, ...]:
    return (*WHO, "segment") if by_segment else WHO


def _told(text: str, by_segment: bool) -> str:
    return f"{text[:-1]}, by segment of users." if by_segment else text
