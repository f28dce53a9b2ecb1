"""Filters of Envoy's access loggers: which requests a logger counts. Pure; called by :mod:`abmesh.mesh.statistics`.

What took a variant's route is known by metadata of the route, which only an expression can ask for. Everything else
here is a look at one header or one value of dynamic metadata, which costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    ExtensionFilter,
    HeaderFilter,
    MetadataFilter,
    OrFilter,
    ResponseFlagFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import RuntimeUInt32
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 import ExpressionFilter
from envoy_data_plane.envoy.type.matcher.v3 import (
    MetadataMatcher,
    MetadataMatcherPathSegment,
    ValueMatcher,
    ValueMatcherNullMatch,
)
from envoy_data_plane.google.protobuf import Any

from abmesh.experiment import names

OUR_ROUTE: Final = f"'{names.METADATA_NAMESPACE}' in xds.route_metadata.filter_metadata"
"""Whether a request took a variant's route, or that of an event that counts: only those carry our metadata.

An error, and so false, without a route.
"""


def having(header: str) -> AccessLogFilter:
    """Requests with a header, as they were when they left the filters."""
    return _header(HeaderMatcher(name=header, present_match=True))


def lacking(header: str) -> AccessLogFilter:
    """Requests without a header."""
    return _header(HeaderMatcher(name=header, present_match=True, invert_match=True))


def on_our_route() -> AccessLogFilter:
    """Requests that took a variant's route, or that of an event that counts."""
    return _expression(OUR_ROUTE)


def on_another_route() -> AccessLogFilter:
    """All others but those without a route."""
    return _expression(f"!({OUR_ROUTE})")


def saying(key: str) -> AccessLogFilter:
    """Answers of which a key of our dynamic metadata is known."""
    return _metadata(key, ValueMatcher(present_match=True), absent=False)


def not_saying(key: str) -> AccessLogFilter:
    """Answers of which a key of our dynamic metadata is not known; no value that we set is null."""
    return _metadata(key, ValueMatcher(null_match=ValueMatcherNullMatch()), absent=True)


def flagged(flags: Sequence[str]) -> AccessLogFilter:
    """Requests with any of Envoy's response flags."""
    return AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=list(flags)))


def code_below(code: int) -> AccessLogFilter:
    """Requests whose answer's code is lower; no answer is code 0."""
    return _code(ComparisonFilterOp.LE, code - 1, f"code_below_{code}")


def code_from(code: int) -> AccessLogFilter:
    """Requests whose answer's code is this one or higher."""
    return _code(ComparisonFilterOp.GE, code, f"code_from_{code}")


def all_of(*filters: AccessLogFilter) -> AccessLogFilter:
    """Envoy stops at the first that does not hold."""
    return filters[0] if len(filters) == 1 else AccessLogFilter(and_filter=AndFilter(filters=list(filters)))


def any_of(*filters: AccessLogFilter) -> AccessLogFilter:
    """Envoy stops at the first that holds."""
    return AccessLogFilter(or_filter=OrFilter(filters=list(filters)))


def _code(comparison: ComparisonFilterOp, code: int, key: str) -> AccessLogFilter:
    # Envoy wants a name under which its runtime could change the number; nothing sets it.
    value = RuntimeUInt32(default_value=code, runtime_key=f"{names.STATS_SCOPE}.{key}")
    return AccessLogFilter(status_code_filter=StatusCodeFilter(comparison=ComparisonFilter(op=comparison, value=value)))


def _header(matcher: HeaderMatcher) -> AccessLogFilter:
    return AccessLogFilter(header_filter=HeaderFilter(header=matcher))


def _metadata(key: str, value: ValueMatcher, *, absent: bool) -> AccessLogFilter:
    matcher = MetadataMatcher(filter=names.METADATA_NAMESPACE, path=[MetadataMatcherPathSegment(key=key)], value=value)
    return AccessLogFilter(metadata_filter=MetadataFilter(matcher=matcher, match_if_key_not_found=absent))


def _expression(text: str) -> AccessLogFilter:
    config = Any.pack(ExpressionFilter(expression=text))
    return AccessLogFilter(
        extension_filter=ExtensionFilter(name="envoy.access_loggers.extension_filters.cel", typed_config=config)
    )
