"""Conditions on requests, as Envoy's messages. Pure; used by every module here that makes routes."""

from __future__ import annotations

import re

from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher, RouteMatch
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher

from abmesh.experiment.parts import Match


def request_match(match: Match) -> RouteMatch:
    """Requests that an experiment is about."""
    headers = [equals(name, value) for name, value in match.headers.items()]
    if match.host is not None:
        headers.insert(0, matches(":authority", rf"(?i){re.escape(match.host)}(:[0-9]*)?"))
    return RouteMatch(prefix=match.path_prefix, headers=headers)


def equals(name: str, value: str) -> HeaderMatcher:
    """Requests with exactly this value of a header; Envoy joins repeated headers with commas."""
    return HeaderMatcher(name=name, string_match=StringMatcher(exact=value))


def matches(name: str, pattern: str) -> HeaderMatcher:
    """Requests whose header, as a whole, matches a pattern."""
    return HeaderMatcher(name=name, string_match=_regex(pattern))


def never_matches(name: str, pattern: str) -> HeaderMatcher:
    """Requests without the header, or whose header as a whole does not match a pattern."""
    # Without the last flag a request without the header would not match either (tried).
    return HeaderMatcher(name=name, string_match=_regex(pattern), invert_match=True, treat_missing_header_as_empty=True)


def present(name: str) -> HeaderMatcher:
    """Requests with a header."""
    return HeaderMatcher(name=name, present_match=True)


def absent(name: str) -> HeaderMatcher:
    """Requests without a header."""
    return HeaderMatcher(name=name, present_match=True, invert_match=True)


def _regex(pattern: str) -> StringMatcher:
    return StringMatcher(safe_regex=RegexMatcher(regex=pattern))
