"""Envoy's statistics access loggers, which turn trusted headers into tagged counters and histograms. Pure.

Called by :mod:`mesh.listener`. No tag takes a value that a client can choose, or anyone could grow Envoy's memory: the
headers read here are stripped from what clients send, route names are ours, and codes are numbers. Nor does the server
choose names of experiments and variants: only requests on a variant's route are counted under them, and such a route
takes only requests that say exactly its names.
"""

from __future__ import annotations

from typing import Final

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLog,
    AccessLogFilter,
    AndFilter,
    ExtensionFilter,
    HeaderFilter,
    OrFilter,
)
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 import ExpressionFilter
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

VARIANT_ROUTE: Final = f"'{names.METADATA_NAMESPACE}' in xds.route_metadata.filter_metadata"
"""Whether a request took a variant's route: only those carry our metadata. An error, and so false, without a route."""

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
    """Counts requests that are evidence: those that took a variant's route and carry a slice.

    Overrides carry none. What the server assigned is not enough: it may know an experiment that this Envoy was not
    rendered for, whose requests nobody served as a variant's.
    """
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
    sliced = _header(HeaderMatcher(name=names.SLICE, present_match=True))
    return _logger(config, AccessLogFilter(and_filter=AndFilter(filters=[sliced, _expression(VARIANT_ROUTE)])))


def unassigned_logger() -> AccessLog:
    """Counts requests that took no variant's route, by the route that they took.

    One without any route, which no expression can ask about, has not been assigned.
    """
    config = Config(
        stats_scope=Scope(prefix=names.STATS_SCOPE),
        counters=[ConfigCounter(stat=_stat(names.STAT_UNASSIGNED, names.TAG_ROUTE, names.TAG_CODE), value_fixed=1)],
    )
    unasked = _header(HeaderMatcher(name=names.MODEL_VERSION, present_match=True, invert_match=True))
    elsewhere = _expression(f"!({VARIANT_ROUTE})")
    return _logger(config, AccessLogFilter(or_filter=OrFilter(filters=[unasked, elsewhere])))


def _stat(name: str, *tags: str) -> ConfigStat:
    return ConfigStat(name=name, tags=[ConfigTag(name=tag, value_format=_TAGS[tag]) for tag in tags])


def _header(matcher: HeaderMatcher) -> AccessLogFilter:
    return AccessLogFilter(header_filter=HeaderFilter(header=matcher))


def _expression(text: str) -> AccessLogFilter:
    config = Any.pack(ExpressionFilter(expression=text))
    return AccessLogFilter(
        extension_filter=ExtensionFilter(name="envoy.access_loggers.extension_filters.cel", typed_config=config)
    )


def _logger(config: Config, only: AccessLogFilter) -> AccessLog:
    return AccessLog(name="envoy.access_loggers.stats", filter=only, typed_config=Any.pack(config))
