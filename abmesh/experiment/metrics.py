"""The metrics that guardrails and goals can name, and what each is measured in. Pure.

A metric is one sum over requests divided by another (an event's rate, a mean), or a quantile of a latency. The sums are
*amounts*: what Envoy counts per slice under the names below; :mod:`controller.evidence.summary` derives each. The
document declares its own events, and some metrics exist only for those: :func:`find` knows every possible name,
:func:`available` the metrics of one experiment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from abmesh.experiment.fields import EVENT_NAME

Unit = Literal["share", "duration", "number", "dollars"]
"""Unit of a value: a share in 0..1, milliseconds, a plain number, US dollars."""

Histogram = Literal["duration", "ttft"]

THUMBS_UP: Final = "thumbs_up"
THUMBS_DOWN: Final = "thumbs_down"
CONTINUATION: Final = "continuation"
"""Built-in event: the second request of a session. Nobody sends it; the server counts it."""

VALUE_SCALE: Final = 1000
"""Values of events are counted in thousandths."""

NANODOLLARS: Final = 10**9
"""Costs are counted in billionths of a dollar."""


_EVENT = re.compile(EVENT_NAME)


@dataclass(frozen=True, slots=True)
class Metric:
    """Something that can be measured.

    Attributes:
        name: as the document names it.
        unit: unit of its values and limits.
        parts: amounts whose weighted sum is the numerator, each with its weight.
        per: amounts whose sum is the denominator.
        share: whether the numerator counts some of the denominator's requests, each once: a share, whose variance is
            known. Otherwise it is a mean.
        quantile: which quantile of a latency it is, in 0..1, or None if it is a ratio.
        histogram: which latency.
        more_is_better: True or False if the direction of harm is the same for everyone; None if it depends on the
            operator, who may then limit both directions and must give a goal's direction.
        signed: whether its values lie between -1 and 1, so that a share of one is meaningless.
        things: what it is measured on, in words: ``requests``, ``answers``, ``sessions``.
        counted: amount that counts these things if the denominator does not.
    """

    name: str
    unit: Unit
    parts: tuple[tuple[str, float], ...] = ()
    per: tuple[str, ...] = ()
    share: bool = False
    quantile: float | None = None
    histogram: Histogram = "duration"
    more_is_better: bool | None = None
    signed: bool = False
    things: str = "requests"
    counted: str = ""

    @property
    def by_user(self) -> bool:
        """Whether it can be measured by user: a ratio that Envoy counts by slice, and whose things are not users."""
        return self.quantile is None and SESSIONS not in self.per


ANSWERED: Final = "answered"
"""Amount: requests that were answered; all but those whose client left before an answer began."""

ENDED: Final = "ended"
"""Amount: all requests."""

TIMED: Final = "timed"
"""Amount: requests whose duration was counted; all but those answered from a cache."""

SERVED: Final = "served"
"""Amount: requests whose latency is compared; those of :data:`TIMED` that did not fail."""

SERVED_MS: Final = "served_ms"
"""Amount: their total duration."""

ERRORS: Final = "errors"
"""Amount: answers with status 500 or above, and answers that the upstream broke off."""

SUCCEEDED: Final = "succeeded"
"""Amount: complete answers with status 200 to 399; neither the upstream nor the client broke them off."""

DURATION_MS: Final = "duration_ms"
FAILED: Final = "failed"
"""Amount: answers with status 400 or above, and answers that the upstream broke off; not those from a cache.

A failure is often fast, so that latencies of all answers would make the variant that fails more look better. Answers
that the client gave up have not failed: they would have taken longer yet, and leaving them out would hide slowness.
"""

FAILED_MS: Final = "failed_ms"
TTFT_MS: Final = "ttft_ms"
FIRST_TOKENS: Final = "first_tokens"
CACHED: Final = "cached"
BROKEN: Final = "broken"
LEFT: Final = "left"
"""Amount: answers with status 200 to 399 that the client abandoned. Their cost is unknown."""

INPUT_TOKENS: Final = "input_tokens"
OUTPUT_TOKENS: Final = "output_tokens"
USAGE: Final = "usage"
"""Amount: answers that reported their tokens."""

STREAMED_TOKENS: Final = "streamed_tokens"
GENERATION_MS: Final = "generation_ms"
STREAMS: Final = "streams"
"""Amount: streamed answers that reported their tokens."""

REFUSALS: Final = "refusals"
SESSIONS: Final = "sessions"
COST: Final = "cost"
"""Amount: cost of the tokens, in billionths of a dollar."""

EVENTS: Final = "events"
"""Amount, followed by the event's name: feedback events, or second requests of sessions."""

SESSION_EVENTS: Final = "session_events"
"""Amount, followed by the event's name: events of sessions, that is, of users with an issued cookie."""

EVENT_VALUE: Final = "event_value"
"""Amount, followed by the event's name: the sum of the events' values, in thousandths."""

VALUED_EVENTS: Final = "valued_events"
"""Amount, followed by the event's name: events that carried a value."""

PLAIN_COUNTERS: Final = (
    DURATION_MS,
    FAILED,
    FAILED_MS,
    TTFT_MS,
    FIRST_TOKENS,
    CACHED,
    BROKEN,
    LEFT,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    USAGE,
    STREAMED_TOKENS,
    GENERATION_MS,
    STREAMS,
    REFUSALS,
    SESSIONS,
)
"""Amounts that are Envoy statistics themselves; the others are derived from these and from status codes."""

EVENT_COUNTERS: Final = (EVENTS, SESSION_EVENTS, EVENT_VALUE, VALUED_EVENTS)
"""Amounts that Envoy counts for each event."""

_IN_SEGMENTS: Final = frozenset(
    {ANSWERED, ENDED, ERRORS, SUCCEEDED, BROKEN, LEFT, INPUT_TOKENS, OUTPUT_TOKENS, USAGE, COST}
)
"""Amounts that are counted by segment, beside events."""

MORE_IS_BETTER: Final[Mapping[str, bool]] = {"click": True, "conversion": True, THUMBS_UP: True, THUMBS_DOWN: False}
"""Events whose name tells whether more is better. Other names do not: nobody wants more of ``complaint``."""


def of_event(amount: str, event: str) -> str:
    """The amount of one event: ``events:click``."""
    return f"{amount}:{event}"


ERROR_RATE = Metric("error_rate", "share", ((ERRORS, 1),), (ANSWERED,), share=True, more_is_better=False)
LATENCY_MEAN = Metric("latency_mean", "duration", ((SERVED_MS, 1),), (SERVED,), more_is_better=False)
_TTFT_MEAN = Metric("ttft_mean", "duration", ((TTFT_MS, 1),), (FIRST_TOKENS,), more_is_better=False)
THUMBS = Metric(
    "thumbs",
    "number",
    ((of_event(EVENTS, THUMBS_UP), 1), (of_event(EVENTS, THUMBS_DOWN), -1)),
    (of_event(EVENTS, THUMBS_UP), of_event(EVENTS, THUMBS_DOWN)),
    more_is_better=True,
    signed=True,
    things="votes",
)


def _latencies(prefix: str, histogram: Histogram, mean: Metric) -> Iterable[Metric]:
    yield mean
    for percent in (50, 90, 95, 99):
        name = f"{prefix}_p{percent}"
        yield Metric(name, "duration", quantile=percent / 100, histogram=histogram, more_is_better=False)


MEASURED: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        ERROR_RATE,
        *_latencies("latency", "duration", LATENCY_MEAN),
        *_latencies("ttft", "ttft", _TTFT_MEAN),
        Metric("input_tokens_mean", "number", ((INPUT_TOKENS, 1),), (USAGE,), things="answers"),
        Metric("output_tokens_mean", "number", ((OUTPUT_TOKENS, 1),), (USAGE,), things="answers"),
        Metric(
            "tokens_per_second",
            "number",
            ((STREAMED_TOKENS, 1000),),
            (GENERATION_MS,),
            more_is_better=True,
            things="answers",
            counted=STREAMS,
        ),
        Metric("refusal_rate", "share", ((REFUSALS, 1),), (ANSWERED,), share=True),
        Metric("cache_rate", "share", ((CACHED, 1),), (ANSWERED,), share=True),
    )
}
"""Metrics of every experiment."""

_IN_DOLLARS = ((COST, 1 / NANODOLLARS),)

COSTS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("cost_per_request", "dollars", _IN_DOLLARS, (ANSWERED,), more_is_better=False),
        Metric("cost_per_success", "dollars", _IN_DOLLARS, (SUCCEEDED,), more_is_better=False),
    )
}
"""Metrics of experiments whose variants all have a price."""


def _rate(event: str) -> Metric:
    return _counted(f"{event}_rate", event, EVENTS, ANSWERED)


def _per_session(event: str) -> Metric:
    return replace(_counted(f"{event}_per_session", event, SESSION_EVENTS, SESSIONS), things="sessions")


def _counted(name: str, event: str, amount: str, per: str) -> Metric:
    return Metric(name, "share", ((of_event(amount, event), 1),), (per,), more_is_better=MORE_IS_BETTER.get(event))


def _value_mean(event: str) -> Metric:
    return replace(_of_values(f"{event}_value_mean", event, of_event(VALUED_EVENTS, event)), things="events")


def _value_per_request(event: str) -> Metric:
    return _of_values(f"{event}_value_per_request", event, ANSWERED)


def _of_values(name: str, event: str, per: str) -> Metric:
    value = ((of_event(EVENT_VALUE, event), 1 / VALUE_SCALE),)
    return Metric(name, "number", value, (per,), more_is_better=MORE_IS_BETTER.get(event))


OF_EVENTS: Mapping[str, Callable[[str], Metric]] = {
    "_rate": _rate,
    "_per_session": _per_session,
    "_value_mean": _value_mean,
    "_value_per_request": _value_per_request,
}
"""Metrics of an event, by the ending that follows its name. No ending ends with another one."""

OF_VALUES: Final = ("_value_mean", "_value_per_request")
"""Those of :data:`OF_EVENTS` that need events with a value."""


def event_rate(event: str) -> str:
    """Name of the metric that counts an event per request: ``click`` becomes ``click_rate``."""
    return _rate(event).name


def in_segments(metric: Metric) -> bool:
    """Whether all that a metric is made of is counted by segment."""
    amounts = [*(name for name, _ in metric.parts), *metric.per]
    return all(name in _IN_SEGMENTS or name.startswith(of_event(EVENTS, "")) for name in amounts)


def find(name: str) -> Metric | None:
    """The metric with a name, if any experiment could measure it; None otherwise."""
    fixed = MEASURED.get(name) or COSTS.get(name) or (THUMBS if name == THUMBS.name else None)
    if fixed is not None:
        return fixed
    event, ending = split_event(name)
    return OF_EVENTS[ending](event) if ending else None


def event_of(name: str) -> str:
    """The event that a metric is about; empty if it is about none."""
    return "" if name in MEASURED or name in COSTS else split_event(name)[0]


def split_event(name: str) -> tuple[str, str]:
    """The event that a metric is about, and the ending of its name; two empty strings if it is about none."""
    for ending in OF_EVENTS:
        event = name.removesuffix(ending)
        if event != name and _EVENT.fullmatch(event):
            return event, ending
    return "", ""


def taken(event: str) -> str | None:
    """The built-in metric whose name the rate of an event of this name would take, if any."""
    rate = event_rate(event)
    return rate if rate in MEASURED else None


def available(events: Iterable[str], valued: Iterable[str], *, priced: bool, sessions: bool) -> dict[str, Metric]:
    """The metrics of an experiment, by name.

    Args:
        events: that it declares.
        valued: those of them that carry a value.
        priced: whether every variant has a price.
        sessions: whether it issues a cookie; every cookie issued is a session.
    """
    events = tuple(events)
    found = MEASURED | (COSTS if priced else {})
    if {THUMBS_UP, THUMBS_DOWN} <= set(events):
        found[THUMBS.name] = THUMBS
    kinds = [_rate, _per_session] if sessions else [_rate]
    made = [of(event) for event in events for of in kinds]
    made += [of(event) for event in valued for of in (_value_mean, _value_per_request)]
    return found | {metric.name: metric for metric in made}
