"""Filters of Envoy's access loggers: which requests a logger counts. Pure; called by :mod:`abmesh.mesh.statistics`.

Each looks at one header or one value of dynamic metadata, which costs next to nothing. An expression could ask a
route's metadata whether a request took a variant's route, at ten times the price; so that route marks its requests with
a header instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    HeaderFilter,
    MetadataFilter,
    OrFilter,
    ResponseFlagFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import RuntimeUInt32
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.type.matcher.v3 import (
    MetadataMatcher,
    MetadataMatcherPathSegment,
    ValueMatcher,
    ValueMatcherNullMatch,
)

from abmesh.experiment import names


def header_present(header: str) -> AccessLogFilter:
    """Requests that had a header when they left Envoy's HTTP filters."""
    return _header(HeaderMatcher(name=header, present_match=True))


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
    """Requests that pass any filter; Envoy stops at the first that passes."""
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
