"""Conditions on requests, as Envoy's messages. Pure; used by every module here that makes routes."""

from __future__ import annotations

import re
import string
from typing import Final

from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher, RouteMatch
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher

from abmesh.experiment.parts import Match
from abmesh.experiment.request_headers import AUTHORITY

PLAIN_AUTHORITY: Final = "[0-9A-Za-z._-]+(:[0-9]+)?"
"""Hosts whose port Envoy and the server leave out in the same way."""

_LONGEST_IN_PATTERN: Final = 90
"""Most characters of a host in a pattern: Envoy's limit is 100 of RE2's instructions, and each character is one."""

_IN_HOSTS: Final = string.ascii_lowercase + string.digits + "._-"


def request_match(match: Match) -> RouteMatch:
    """Requests that an experiment is about."""
    headers = [equals(name, value) for name, value in match.headers.items()]
    if match.host is not None:
        headers = [*host_is(match.host), *headers]
    return RouteMatch(prefix=match.path_prefix, headers=headers)


def host_is(host: str) -> list[HeaderMatcher]:
    """Requests for a host, in any case and with or without a port.

    A pattern, unless it is larger than Envoy allows. Then conditions without one say the same: the authority begins
    with the host and is a host with or without a port, and no character of a host follows.
    """
    if len(host) <= _LONGEST_IN_PATTERN:
        return [matches(AUTHORITY, rf"(?i){re.escape(host)}(:[0-9]*)?")]
    longer = [_begins(host + character, invert=True) for character in _IN_HOSTS]
    return [_begins(host), matches(AUTHORITY, "[0-9A-Za-z._-]+(:[0-9]*)?"), *longer]


def _begins(text: str, *, invert: bool = False) -> HeaderMatcher:
    return HeaderMatcher(name=AUTHORITY, string_match=StringMatcher(prefix=text, ignore_case=True), invert_match=invert)


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
