"""Envoy's statistics access loggers, which turn trusted headers into tagged counters and histograms. Pure.

Called by :mod:`mesh.listener`. No tag takes a value that a client can choose, or anyone could grow Envoy's memory: the
headers read here are stripped from what clients send, route names are ours, and codes are numbers.
"""

from __future__ import annotations

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog, AccessLogFilter, HeaderFilter
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
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

from experiment import names

_DURATION = "%DURATION%"
_TAGS = {
    names.TAG_EXPERIMENT: f"%REQ({names.EXPERIMENT})%",
    names.TAG_VARIANT: f"%REQ({names.MODEL_VERSION})%",
    names.TAG_SLICE: f"%REQ({names.SLICE})%",
    names.TAG_GROUP: f"%REQ({names.GROUP})%",
    names.TAG_CODE: "%RESPONSE_CODE%",
    names.TAG_ROUTE: "%ROUTE_NAME%",
}


def evidence_logger() -> AccessLog:
    """Counts requests that are evidence: those that carry a slice, which overrides do not."""
    variant = (names.TAG_EXPERIMENT, names.TAG_VARIANT)
    config = Config(
        stats_scope=Scope(prefix=names.STATS_SCOPE),
        counters=[
            ConfigCounter(stat=_stat(names.STAT_REQUESTS, *variant, names.TAG_SLICE, names.TAG_CODE), value_fixed=1),
            ConfigCounter(stat=_stat(names.STAT_DURATION_MS, *variant, names.TAG_SLICE), value_format=_DURATION),
        ],
        histograms=[
            ConfigHistogram(
                stat=_stat(names.STAT_DURATION, *variant, names.TAG_GROUP),
                unit=ConfigHistogramUnit.Milliseconds,
                value_format=_DURATION,
            )
        ],
    )
    return _logger(config, HeaderMatcher(name=names.SLICE, present_match=True))


def unassigned_logger() -> AccessLog:
    """Counts requests that nobody assigned, by the route that they took."""
    config = Config(
        stats_scope=Scope(prefix=names.STATS_SCOPE),
        counters=[ConfigCounter(stat=_stat(names.STAT_UNASSIGNED, names.TAG_ROUTE, names.TAG_CODE), value_fixed=1)],
    )
    return _logger(config, HeaderMatcher(name=names.MODEL_VERSION, present_match=True, invert_match=True))


def _stat(name: str, *tags: str) -> ConfigStat:
    return ConfigStat(name=name, tags=[ConfigTag(name=tag, value_format=_TAGS[tag]) for tag in tags])


def _logger(config: Config, only: HeaderMatcher) -> AccessLog:
    return AccessLog(
        name="envoy.access_loggers.stats",
        filter=AccessLogFilter(header_filter=HeaderFilter(header=only)),
        typed_config=Any.pack(config),
    )
