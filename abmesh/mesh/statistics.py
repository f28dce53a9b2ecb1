"""Envoy's statistics access loggers, which turn trusted headers into tagged counters and histograms. Pure.

Called by :mod:`abmesh.mesh.listener`. Clients choose no tag's value, or anyone could grow Envoy's memory: the headers
read here are stripped from what clients send, names of routes and events are ours, and status codes are numbers. What
the server says of a variant that this Envoy does not know is removed before it is counted.

A request is evidence if it carries the mark of a variant's place (``x-ab-route``) and a slice, which overrides lack.
Envoy adds the mark when it sends the request on, so whatever was refused before that is not evidence.

Envoy runs every logger's filter for every request, so a filter tests first what is rare. If a counter adds up a value
that is missing, Envoy logs an error; the logger's filter prevents that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog, AccessLogFilter
from envoy_data_plane.envoy.extensions.access_loggers.stats.v3 import (
    Config,
    ConfigCounter,
    ConfigHistogram,
    ConfigHistogramUnit,
    ConfigStat,
    ConfigTag,
)
from envoy_data_plane.envoy.type.v3 import Scope
from envoy_data_plane.google.protobuf import Any

from abmesh.experiment import metrics, names
from abmesh.mesh import log_filters
from abmesh.mesh.measured import Kinds

_DURATION: Final = "%DURATION%"
_TTFT: Final = "%COMMON_DURATION(DS_RX_BEG:US_RX_BODY_BEG:ms)%"
_GENERATION: Final = "%COMMON_DURATION(US_RX_BODY_BEG:DS_TX_END:ms)%"
_VALUE: Final = f"%REQ({names.EVENT_VALUE})%"

_Tags = dict[str, str]
_EVENT: Final = f"%REQ({names.COUNTED})%"
_CODE: Final[_Tags] = {names.TAG_CODE: "%RESPONSE_CODE%"}
_VARIANT: Final[_Tags] = {
    names.TAG_EXPERIMENT: f"%REQ({names.EXPERIMENT})%",
    names.TAG_VARIANT: f"%REQ({names.MODEL_VERSION})%",
}
_SLICE: Final = _VARIANT | {names.TAG_SLICE: f"%REQ({names.SLICE})%"}
_GROUP: Final = _VARIANT | {names.TAG_GROUP: f"%REQ({names.GROUP})%"}
_SEGMENT: Final = _VARIANT | {names.TAG_SEGMENT: f"%REQ({names.SEGMENT})%", names.TAG_GROUP: f"%REQ({names.GROUP})%"}

BROKEN_OFF: Final = ("UC", "UF", "UR", "LR", "UT", "UPE", "UMSDR", "SI")
"""Envoy's response flags for answers that the upstream did not finish."""

FIRST_FAILURE: Final = 400
"""Lowest status code of an answer that failed, whosever fault it was: its duration is not compared."""

GIVEN_UP: Final = ("DC", "DR")
"""Response flags for answers that the client abandoned: it closed the connection, or reset its HTTP/2 stream."""


def loggers(kinds: Kinds) -> list[AccessLog]:
    """The loggers of these kinds of statistics, beside those that every experiment has."""
    return [_unassigned(), *_of_answers(), *_of_users(kinds), *(_by_segment(kinds) if kinds.segments else ())]


def _unassigned() -> AccessLog:
    """Requests of an experiment that reached no variant, and events that did not count.

    The server gives a reason with every answer. Without one it did not answer; with ``assigned`` it named a
    variant that this Envoy does not know.
    """
    tags = {names.TAG_ROUTE: f"%REQ({names.UNASSIGNED})%", names.TAG_REASON: f"%REQ({names.REASON})%"} | _CODE
    return _logger("unassigned", log_filters.header_present(names.UNASSIGNED), _counter(names.STAT_UNASSIGNED, tags))


def _of_answers() -> Iterator[AccessLog]:
    """What is measured for every experiment. Only requests with a slice are evidence; overrides have none.

    An assignment by the server is not enough: it may know an experiment that this Envoy was not rendered for, so that
    no variant served the request.
    """
    requests = _counter(names.STAT_REQUESTS, _SLICE | _CODE)
    yield _logger(
        "requests",
        log_filters.all_of(log_filters.metadata_unset(names.METADATA_CACHED), _evidence()),
        requests,
        _counter(metrics.DURATION_MS, _SLICE, _DURATION),
        _histogram(names.STAT_DURATION, _GROUP, _DURATION),
    )
    yield _logger(
        "failed",
        _failed(_evidence()),
        _counter(metrics.FAILED, _SLICE),
        _counter(metrics.FAILED_MS, _SLICE, _DURATION),
        _histogram(names.STAT_FAILED, _GROUP, _DURATION),
    )
    cached = log_filters.all_of(log_filters.metadata_set(names.METADATA_CACHED), _evidence())
    yield _logger("cached", cached, requests, _counter(metrics.CACHED, _SLICE))
    yield _logger(
        "first_tokens",
        _began(_evidence()),
        _counter(metrics.TTFT_MS, _SLICE, _TTFT),
        _counter(metrics.FIRST_TOKENS, _SLICE),
        _histogram(names.STAT_TTFT, _GROUP, _TTFT),
    )
    yield _logger(
        "usage", log_filters.all_of(log_filters.metadata_set(names.METADATA_OUTPUT), _evidence()), *_usage("", _SLICE)
    )
    yield _logger(
        "streams",
        log_filters.all_of(log_filters.metadata_set(names.METADATA_STREAMED), _evidence()),
        _counter(metrics.STREAMED_TOKENS, _SLICE, _metadata(names.METADATA_STREAMED)),
        _counter(metrics.GENERATION_MS, _SLICE, _GENERATION),
        _counter(metrics.STREAMS, _SLICE),
    )
    yield _logger(
        "refusals",
        log_filters.all_of(log_filters.metadata_set(names.METADATA_REFUSED), _evidence()),
        _counter(metrics.REFUSALS, _SLICE),
    )
    yield _logger("broken", _broken(), _counter(metrics.BROKEN, _SLICE))
    yield _logger("left", _left(), _counter(metrics.LEFT, _SLICE))


def _of_users(kinds: Kinds) -> Iterator[AccessLog]:
    """Sessions and feedback events."""
    if kinds.sessions:
        yield _logger(
            "sessions",
            log_filters.all_of(log_filters.header_present(names.ISSUED), _evidence()),
            _counter(metrics.SESSIONS, _SLICE),
        )
    if kinds.continuation:
        continued = log_filters.all_of(log_filters.header_present(names.CONTINUED), _evidence())
        tags = _SLICE | _event(metrics.CONTINUATION)
        yield _logger(
            "continuations", continued, _counter(metrics.EVENTS, tags), _counter(metrics.SESSION_EVENTS, tags)
        )
    if kinds.events:
        yield _logger("events", _feedback(), _counter(metrics.EVENTS, _SLICE | _event()))
        if kinds.sessions:
            in_session = log_filters.all_of(log_filters.header_present(names.ISSUED), _feedback())
            yield _logger("session_events", in_session, _counter(metrics.SESSION_EVENTS, _SLICE | _event()))
    if kinds.values:
        yield _logger(
            "event_values",
            log_filters.all_of(log_filters.header_present(names.EVENT_VALUE), _feedback()),
            _counter(metrics.EVENT_VALUE, _SLICE | _event(), _VALUE),
            _counter(metrics.VALUED_EVENTS, _SLICE | _event()),
        )


def _by_segment(kinds: Kinds) -> Iterator[AccessLog]:
    """The same by segment of users and group of slices instead of by slice.

    All of it by slice would be five times as many statistics. Ten groups are enough to measure how users differ.
    """
    in_one, requests = (
        log_filters.header_present(names.SEGMENT),
        _counter(_by_segment_name(names.STAT_REQUESTS), _SEGMENT | _CODE),
    )
    yield _logger(
        "requests_by_segment",
        log_filters.all_of(in_one, log_filters.metadata_unset(names.METADATA_CACHED), _evidence()),
        requests,
        _histogram(_by_segment_name(names.STAT_DURATION), _SEGMENT, _DURATION),
    )
    yield _logger(
        "failed_by_segment",
        _failed(in_one, _evidence()),
        _histogram(_by_segment_name(names.STAT_FAILED), _SEGMENT, _DURATION),
    )
    sliced = log_filters.all_of(in_one, log_filters.header_present(names.SLICE))
    yield _logger(
        "cached_by_segment", log_filters.all_of(log_filters.metadata_set(names.METADATA_CACHED), sliced), requests
    )
    yield _logger(
        "ttft_by_segment",
        _began(sliced),
        _histogram(_by_segment_name(names.STAT_TTFT), _SEGMENT, _TTFT),
    )
    yield _logger(
        "usage_by_segment",
        log_filters.all_of(log_filters.metadata_set(names.METADATA_OUTPUT), sliced),
        *_usage(names.BY_SEGMENT, _SEGMENT),
    )
    yield _logger("broken_by_segment", _broken(in_one), _counter(_by_segment_name(metrics.BROKEN), _SEGMENT))
    yield _logger("left_by_segment", _left(in_one), _counter(_by_segment_name(metrics.LEFT), _SEGMENT))
    if kinds.continuation:
        continued = log_filters.all_of(log_filters.header_present(names.CONTINUED), in_one, _evidence())
        yield _logger(
            "continuations_by_segment",
            continued,
            _counter(_by_segment_name(metrics.EVENTS), _SEGMENT | _event(metrics.CONTINUATION)),
        )
    if kinds.events:
        yield _logger(
            "events_by_segment",
            log_filters.all_of(_feedback(), in_one),
            _counter(_by_segment_name(metrics.EVENTS), _SEGMENT | _event()),
        )


def _evidence() -> AccessLogFilter:
    """Requests that were sent to a variant and have a slice."""
    return log_filters.all_of(log_filters.header_present(names.ROUTE), log_filters.header_present(names.SLICE))


def _failed(*where: AccessLogFilter) -> AccessLogFilter:
    """Requests that failed and whose duration counts; most requests fail only the first two of its tests."""
    failed = log_filters.any_of(log_filters.code_from(FIRST_FAILURE), log_filters.any_flag(BROKEN_OFF))
    return log_filters.all_of(failed, log_filters.metadata_unset(names.METADATA_CACHED), *where)


def _broken(*where: AccessLogFilter) -> AccessLogFilter:
    """Answers below 500 that the upstream broke off."""
    return log_filters.all_of(log_filters.any_flag(BROKEN_OFF), log_filters.code_below(500), *where, _evidence())


def _left(*where: AccessLogFilter) -> AccessLogFilter:
    """Answers of 200 to 399 that the client abandoned."""
    begun = (log_filters.code_below(FIRST_FAILURE), log_filters.code_from(200))
    return log_filters.all_of(log_filters.any_flag(GIVEN_UP), *begun, *where, _evidence())


def _began(where: AccessLogFilter) -> AccessLogFilter:
    """Answers that began: the body of an error is no first token."""
    answered = log_filters.metadata_set(names.METADATA_ANSWERED)
    return log_filters.all_of(answered, log_filters.code_below(FIRST_FAILURE), where)


def _feedback() -> AccessLogFilter:
    """Events that count: on an event's route, and not from an override, which has no slice."""
    return log_filters.all_of(log_filters.header_present(names.COUNTED), log_filters.header_present(names.SLICE))


def _usage(ending: str, tags: _Tags) -> tuple[ConfigCounter, ...]:
    """Counters of tokens; ``answers.lua`` always sets both numbers or neither."""
    return (
        _counter(metrics.INPUT_TOKENS + ending, tags, _metadata(names.METADATA_INPUT)),
        _counter(metrics.OUTPUT_TOKENS + ending, tags, _metadata(names.METADATA_OUTPUT)),
        _counter(metrics.USAGE + ending, tags),
    )


def _by_segment_name(statistic: str) -> str:
    return statistic + names.BY_SEGMENT


def _event(value: str = _EVENT) -> _Tags:
    return {names.TAG_EVENT: value}


def _metadata(key: str) -> str:
    return f"%DYNAMIC_METADATA({names.METADATA_NAMESPACE}:{key})%"


def _counter(name: str, tags: _Tags, value: str | None = None) -> ConfigCounter:
    """A counter of requests, or of a value that they carry."""
    if value is None:
        return ConfigCounter(stat=_stat(name, tags), value_fixed=1)
    return ConfigCounter(stat=_stat(name, tags), value_format=value)


def _histogram(name: str, tags: _Tags, value: str) -> ConfigHistogram:
    return ConfigHistogram(stat=_stat(name, tags), unit=ConfigHistogramUnit.Milliseconds, value_format=value)


def _stat(name: str, tags: _Tags) -> ConfigStat:
    return ConfigStat(name=name, tags=[ConfigTag(name=tag, value_format=value) for tag, value in tags.items()])


def _logger(name: str, where: AccessLogFilter, *counted: ConfigCounter | ConfigHistogram) -> AccessLog:
    config = Config(
        stats_scope=Scope(prefix=names.STATS_SCOPE),
        counters=[stat for stat in counted if isinstance(stat, ConfigCounter)],
        histograms=[stat for stat in counted if isinstance(stat, ConfigHistogram)],
    )
    return AccessLog(name=f"{names.STATS_SCOPE}.{name}", filter=where, typed_config=Any.pack(config))
