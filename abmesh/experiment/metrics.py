"""The metrics that guardrails and goals can name, and what each is measured in. Pure.

A metric is a sum over requests divided by another one (an event's rate, a mean), or a quantile of a latency. The sums
are *amounts*: what Envoy counts by slice of users under the names below; :mod:`controller.evidence.summary` says how
each comes about. Names of events are the document's own, so that some metrics exist only where it declares them:
:func:`find` knows every name that could be a metric, :func:`available` those of one experiment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from abmesh.experiment.fields import EVENT_NAME

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


_EVENT = re.compile(EVENT_NAME)


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
        more_is_better: True or False where the metric says by itself which way harm lies; None where that depends on
            what an operator wants of it, so that both ways may be limited and a goal has to say.
        signed: whether its values lie between -1 and 1, so that a share of one means nothing.
        things: what it is a value of, in words: ``requests``, ``answers``, ``sessions``.
        counted: amount that says how many of these there are, where the denominator is no number of them.
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


ANSWERED: Final = "answered"
"""Amount: requests that were answered, so all but those whose client went away before there was an answer."""

ENDED: Final = "ended"
"""Amount: all requests."""

TIMED: Final = "timed"
"""Amount: requests whose duration counts: all but those that a cache answered."""

ERRORS: Final = "errors"
"""Amount: answers of 500 or above, and answers that the upstream broke off."""

SUCCEEDED: Final = "succeeded"
"""Amount: whole answers of 200 to 399, which neither the upstream broke off nor the client left."""

DURATION_MS: Final = "duration_ms"
TTFT_MS: Final = "ttft_ms"
FIRST_TOKENS: Final = "first_tokens"
CACHED: Final = "cached"
BROKEN: Final = "broken"
LEFT: Final = "left"
"""Amount: answers of 200 to 399 that the client left before their end. What they cost is not known."""

INPUT_TOKENS: Final = "input_tokens"
OUTPUT_TOKENS: Final = "output_tokens"
USAGE: Final = "usage"
"""Amount: answers that said how many tokens they took."""

STREAMED_TOKENS: Final = "streamed_tokens"
GENERATION_MS: Final = "generation_ms"
STREAMS: Final = "streams"
"""Amount: streamed answers that said how many tokens they took."""

REFUSALS: Final = "refusals"
SESSIONS: Final = "sessions"
COST: Final = "cost"
"""Amount: what tokens cost, in billionths of a dollar."""

EVENTS: Final = "events"
"""Amount, with the event's name after it: feedback events, or second requests of sessions."""

SESSION_EVENTS: Final = "session_events"
"""Amount, with the event's name: those of sessions, so of users that are known by an issued cookie."""

EVENT_VALUE: Final = "event_value"
"""Amount, with the event's name: the sum of the values that events carried, in thousandths."""

VALUED_EVENTS: Final = "valued_events"
"""Amount, with the event's name: events that carried a value."""

PLAIN_COUNTERS: Final = (
    DURATION_MS,
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
"""Amounts that are statistics of Envoy's, whichever way these are read; all others follow from them and from codes."""

EVENT_COUNTERS: Final = (EVENTS, SESSION_EVENTS, EVENT_VALUE, VALUED_EVENTS)
"""The same of those that are counted for each event."""

MORE_IS_BETTER: Final[Mapping[str, bool]] = {"click": True, "conversion": True, THUMBS_UP: True, THUMBS_DOWN: False}
"""Events whose name says whether more of them is better. No other name does: nobody wants more of ``complaint``."""


def of_event(amount: str, event: str) -> str:
    """The amount of one event: ``events:click``."""
    return f"{amount}:{event}"


ERROR_RATE = Metric("error_rate", "share", ((ERRORS, 1),), (ANSWERED,), share=True, more_is_better=False)
LATENCY_MEAN = Metric("latency_mean", "duration", ((DURATION_MS, 1),), (TIMED,), more_is_better=False)
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
"""What every experiment can measure."""

_IN_DOLLARS = ((COST, 1 / NANODOLLARS),)

COSTS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("cost_per_request", "dollars", _IN_DOLLARS, (ANSWERED,), more_is_better=False),
        Metric("cost_per_success", "dollars", _IN_DOLLARS, (SUCCEEDED,), more_is_better=False),
    )
}
"""What can be measured where every variant has a price."""


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
"""What can be measured of an event, by what its name is followed by. None of them ends with another one."""

_OF_VALUES = ("_value_mean", "_value_per_request")


def event_rate(event: str) -> str:
    """The name of the metric that counts an event per request: ``click`` becomes ``click_rate``."""
    return _rate(event).name


def find(name: str) -> Metric | None:
    """The metric of a name in an experiment that measures it; None if no experiment could."""
    fixed = MEASURED.get(name) or COSTS.get(name) or (THUMBS if name == THUMBS.name else None)
    if fixed is not None:
        return fixed
    event, ending = _of_an_event(name)
    return OF_EVENTS[ending](event) if ending else None


def event_of(name: str) -> str:
    """The event that a metric of this name is of; empty if it is of none."""
    return "" if name in MEASURED or name in COSTS else _of_an_event(name)[0]


def _of_an_event(name: str) -> tuple[str, str]:
    """The event that a metric is of, and what its name is followed by; nothing twice if it can be of none."""
    for ending in OF_EVENTS:
        event = name.removesuffix(ending)
        if event != name and _EVENT.fullmatch(event):
            return event, ending
    return "", ""


def taken(event: str) -> str | None:
    """The metric of another meaning that an event of this name would have to share its rate's name with, if any."""
    rate = event_rate(event)
    return rate if rate in MEASURED else None


def available(events: Iterable[str], valued: Iterable[str], *, priced: bool, sessions: bool) -> dict[str, Metric]:
    """The metrics of an experiment, by name.

    Args:
        events: that it declares.
        valued: those of them that carry a value.
        priced: whether every variant has a price.
        sessions: whether it issues a cookie, whose every issue is a session.
    """
    events = tuple(events)
    found = MEASURED | (COSTS if priced else {})
    if {THUMBS_UP, THUMBS_DOWN} <= set(events):
        found[THUMBS.name] = THUMBS
    kinds = [_rate, _per_session] if sessions else [_rate]
    made = [of(event) for event in events for of in kinds]
    made += [of(event) for event in valued for of in (_value_mean, _value_per_request)]
    return found | {metric.name: metric for metric in made}


def lacking(name: str, events: Collection[str], valued: Collection[str]) -> str:
    """What an experiment must declare to measure a metric that :func:`find` knows and :func:`available` does not.

    Args:
        name: of the metric.
        events: that the experiment declares.
        valued: those of them that carry a value.
    """
    if name in COSTS:
        return "costs need a price on every variant"
    if name == THUMBS.name:
        return f"it needs the events {THUMBS_UP} and {THUMBS_DOWN}"
    event, ending = _of_an_event(name)
    if event not in events:
        return f"it needs an event {event}"
    if ending in _OF_VALUES and event not in valued:
        return f"it needs a value on the event {event}"
    return "a session begins with an issued cookie, so it needs issue_cookie"
