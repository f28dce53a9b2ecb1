"""Filters of Envoy's access loggers: which requests a logger counts. Pure; called by :mod:`abmesh.mesh.statistics`.

Only an expression can read a route's metadata, which says whether a request took a variant's route. All other filters
look at one header or one value of dynamic metadata, which costs next to nothing.
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

EVIDENCE_ROUTE: Final = f"'{names.METADATA_NAMESPACE}' in xds.route_metadata.filter_metadata"
"""Whether a request took the route of a variant or of a counted event: only those carry our metadata.

Without a route the expression is an error, which counts as false.
"""


def header_present(header: str) -> AccessLogFilter:
    """Requests that had a header when they left Envoy's HTTP filters."""
    return _header(HeaderMatcher(name=header, present_match=True))


def header_absent(header: str) -> AccessLogFilter:
    """Requests without a header."""
    return _header(HeaderMatcher(name=header, present_match=True, invert_match=True))


def on_evidence_route() -> AccessLogFilter:
    """Requests that took the route of a variant or of a counted event."""
    return _expression(EVIDENCE_ROUTE)


def on_other_route() -> AccessLogFilter:
    """Requests that took any other route; not those without a route."""
    return _expression(f"!({EVIDENCE_ROUTE})")


def metadata_set(key: str) -> AccessLogFilter:
    """Requests with a key of our dynamic metadata."""
    return _metadata(key, ValueMatcher(present_match=True), absent=False)


def metadata_unset(key: str) -> AccessLogFilter:
    """Requests without a key of our dynamic metadata; we never set a null value."""
    return _metadata(key, ValueMatcher(null_match=ValueMatcherNullMatch()), absent=True)


def any_flag(flags: Sequence[str]) -> AccessLogFilter:
    """Requests with any of Envoy's response flags."""
    return AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=list(flags)))


def code_below(code: int) -> AccessLogFilter:
    """Requests answered with a lower status code; a request without an answer has code 0."""
    return _code(ComparisonFilterOp.LE, code - 1, f"code_below_{code}")


def code_from(code: int) -> AccessLogFilter:
    """Requests answered with this status code or a higher one."""
    return _code(ComparisonFilterOp.GE, code, f"code_from_{code}")


def all_of(*filters: AccessLogFilter) -> AccessLogFilter:
    """Requests that pass all filters; Envoy stops at the first that fails."""
    return filters[0] if len(filters) == 1 else AccessLogFilter(and_filter=AndFilter(filters=list(filters)))


def any_of(*filters: AccessLogFilter) -> AccessLogFilter:
    """Requests that pass any filter; Envoy stops at the first that holds."""
    return AccessLogFilter(or_filter=OrFilter(filters=list(filters)))


def _code(comparison: ComparisonFilterOp, code: int, key: str) -> AccessLogFilter:
    # Envoy requires a runtime key that could override the number; nothing sets it.
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
