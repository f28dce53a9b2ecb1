"""The metrics that guardrails and goals can name, and what each is measured in. Pure.

A metric is a sum over requests divided by another one (an event's rate, a mean), or a quantile of a latency. The sums
are *amounts*: what Envoy counts by slice of users under the names below; :mod:`controller.evidence.summary` says how
each comes about. Names of events are the document's own, so that some metrics exist only where it declares them:
:func:`find` knows every name that could be a metric, :func:`available` those of one experiment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

Unit = Literal["share", "duration", "number", "dollars"]
"""What a value is written in: a share in 0..1, milliseconds, a plain number, US dollars."""

Histogram = Literal["duration", "ttft"]

THUMBS_UP: Final = "thumbs_up"
THUMBS_DOWN: Final = "thumbs_down"
CONTINUATION: Final = "continuation"
"""Built-in event: the second request of a session, counted without anybody sending it."""

VALUE_SCALE: Final = 1000
"""Values of events are counted in thousandths."""

NANODOLLARS: Final = 10**9
"""Costs are counted in billionths of a dollar."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One measurable thing.

    Attributes:
        name: as the document names it.
        unit: what its values and limits are written in.
        parts: amounts whose weighted sum is the numerator, each with its weight.
        per: amounts whose sum is the denominator.
        share: whether the numerator counts requests of the denominator, each once: a share of them, whose variance is
            known. Otherwise a mean.
        quantile: which quantile of a latency it is, in 0..1, or None if it is a ratio.
        histogram: which latency.
        more_is_better: which way harm lies, where the metric says so by itself.
    """

    name: str
    unit: Unit
    parts: tuple[tuple[str, float], ...] = ()
    per: tuple[str, ...] = ()
    share: bool = False
    quantile: float | None = None
    histogram: Histogram = "duration"
    more_is_better: bool = False


ANSWERED: Final = "answered"
"""Amount: requests that were answered, so all but those whose client went away before there was an answer."""

ENDED: Final = "ended"
"""Amount: all requests."""

TIMED: Final = "timed"
"""Amount: requests whose duration counts: all but those that a cache answered."""

ERRORS: Final = "errors"
"""Amount: answers of 500 or above, and answers that the upstream broke off."""

SUCCEEDED: Final = "succeeded"
"""Amount: whole answers of 200 to 399."""

DURATION_MS: Final = "duration_ms"
TTFT_MS: Final = "ttft_ms"
TTFT_COUNT: Final = "ttft_count"
CACHED: Final = "cached"
BROKEN: Final = "broken"
INPUT_TOKENS: Final = "input_tokens"
OUTPUT_TOKENS: Final = "output_tokens"
USAGE: Final = "usage"
"""Amount: answers that said how many tokens they took."""

STREAMED_TOKENS: Final = "streamed_tokens"
GENERATION_MS: Final = "generation_ms"
REFUSALS: Final = "refusals"
SESSIONS: Final = "sessions"
COST: Final = "cost"
"""Amount: what tokens cost, in billionths of a dollar."""

EVENTS: Final = "events"
EVENT_VALUE: Final = "event_value"
VALUED_EVENTS: Final = "valued_events"


def of_event(amount: str, event: str) -> str:
    """The amount of one event: ``events:click``."""
    return f"{amount}:{event}"


ERROR_RATE = Metric("error_rate", "share", ((ERRORS, 1),), (ANSWERED,), share=True)
LATENCY_MEAN = Metric("latency_mean", "duration", ((DURATION_MS, 1),), (TIMED,))
THUMBS = Metric(
    "thumbs",
    "number",
    ((of_event(EVENTS, THUMBS_UP), 1), (of_event(EVENTS, THUMBS_DOWN), -1)),
    (of_event(EVENTS, THUMBS_UP), of_event(EVENTS, THUMBS_DOWN)),
    more_is_better=True,
)


def _latencies(prefix: str, histogram: Histogram, mean: Metric) -> Iterable[Metric]:
    yield mean
    for percent in (50, 90, 95, 99):
        yield Metric(f"{prefix}_p{percent}", "duration", quantile=percent / 100, histogram=histogram)


MEASURED: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        ERROR_RATE,
        *_latencies("latency", "duration", LATENCY_MEAN),
        *_latencies("ttft", "ttft", Metric("ttft_mean", "duration", ((TTFT_MS, 1),), (TTFT_COUNT,))),
        Metric("input_tokens_mean", "number", ((INPUT_TOKENS, 1),), (USAGE,)),
        Metric("output_tokens_mean", "number", ((OUTPUT_TOKENS, 1),), (USAGE,)),
        Metric("tokens_per_second", "number", ((STREAMED_TOKENS, 1000),), (GENERATION_MS,), more_is_better=True),
        Metric("refusal_rate", "share", ((REFUSALS, 1),), (ANSWERED,), share=True),
        Metric("cache_rate", "share", ((CACHED, 1),), (ANSWERED,), share=True, more_is_better=True),
    )
}
"""What every experiment can measure."""

COSTS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("cost_per_request", "dollars", ((COST, 1 / NANODOLLARS),), (ANSWERED,)),
        Metric("cost_per_success", "dollars", ((COST, 1 / NANODOLLARS),), (SUCCEEDED,)),
    )
}
"""What can be measured where every variant has a price."""


def _rate(event: str) -> Metric:
    counted = ((of_event(EVENTS, event), 1.0),)
    return Metric(f"{event}_rate", "share", counted, (ANSWERED,), more_is_better=event != THUMBS_DOWN)


def _per_session(event: str) -> Metric:
    counted = ((of_event(EVENTS, event), 1.0),)
    return Metric(f"{event}_per_session", "share", counted, (SESSIONS,), more_is_better=event != THUMBS_DOWN)


def _value_mean(event: str) -> Metric:
    value = ((of_event(EVENT_VALUE, event), 1 / VALUE_SCALE),)
    return Metric(f"{event}_value_mean", "number", value, (of_event(VALUED_EVENTS, event),), more_is_better=True)


def _value_per_request(event: str) -> Metric:
    value = ((of_event(EVENT_VALUE, event), 1 / VALUE_SCALE),)
    return Metric(f"{event}_value_per_request", "number", value, (ANSWERED,), more_is_better=True)


_OF_EVENTS: Mapping[str, Callable[[str], Metric]] = {
    "_value_per_request": _value_per_request,
    "_value_mean": _value_mean,
    "_per_session": _per_session,
    "_rate": _rate,
}
"""What can be measured of an event, by what its name is followed by."""


def event_rate(event: str) -> str:
    """The name of the metric that counts an event per request: ``click`` becomes ``click_rate``."""
    return _rate(event).name


def find(name: str) -> Metric | None:
    """The metric of a name in an experiment that measures it; None if no experiment could."""
    fixed = MEASURED.get(name) or COSTS.get(name) or (THUMBS if name == THUMBS.name else None)
    if fixed is not None:
        return fixed
    for ending, of in _OF_EVENTS.items():
        event = name.removesuffix(ending)
        if event and event != name:
            return of(event)
    return None


def available(events: Iterable[str], valued: Iterable[str], *, priced: bool, sessions: bool) -> dict[str, Metric]:
    """The metrics of an experiment, by name.

    Args:
        events: that it declares.
        valued: those of them that carry a value.
        priced: whether every variant has a price.
        sessions: whether it issues a cookie, whose every issue is a session.
    """
    events = tuple(events)
    found = dict(MEASURED) | (COSTS if priced else {})
    if {THUMBS_UP, THUMBS_DOWN} <= set(events):
        found[THUMBS.name] = THUMBS
    kinds = [_rate, _per_session] if sessions else [_rate]
    made = [of(event) for event in events for of in kinds]
    made += [of(event) for event in valued for of in (_value_mean, _value_per_request)]
    return found | {metric.name: metric for metric in made if metric.name not in found}
