"""Conditions under which Envoy reads a request's unit exactly as the server does, or is sure to find none. Pure.

:mod:`abmesh.mesh.native` makes routes of them; they follow :mod:`ext_proc.core.identity`. Requests that do not match go
to the server, which is always right, so whenever in doubt they do not match:

- Envoy compares repeated headers joined with commas, but hashes them one by one. Values with commas go to the server.
- RE2 reads nothing but UTF-8. Headers with other bytes go to the server.
- Percent signs and plus signs in a query stand for other characters. Values with any go to the server.

The pattern that matches is also the one that rewrites, so that Envoy hashes what it has matched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher, RouteActionHashPolicy, RouteActionHashPolicyHeader
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatchAndSubstitute, RegexMatcher

from abmesh.experiment.parts import UnitSource
from abmesh.experiment.request_headers import COOKIE, PATH
from abmesh.mesh.matches import absent, matches, never_matches

LARGEST_PATTERN: Final = 2048
"""The limit on a pattern's size that Envoy needs, in RE2's instructions.

The longest name takes fewer than 200, and twenty declared segments of the longest kind fewer than 1,500.
"""

_VALUE: Final = r"[^ \t,](?:[^,]*[^ \t,])?"
# Printable ASCII without: #? and # and &#%+.
_IN_PATH, _IN_QUERY, _IN_VALUE = r"""[!"$->@-~]""", r"""[!"$-~]""", r"""[!"$'-*,-~]"""


@dataclass(frozen=True, slots=True)
class UnitMatcher:
    """One source of units, as Envoy sees it.

    Attributes:
        label: the source as a person names it.
        has_unit: conditions under which Envoy reads the unit as the server does.
        has_none: conditions under which the server finds no unit there.
        header: the header that is hashed.
        pattern: the part of its value that is replaced before hashing.
        replacement: what replaces it, after the salt and a colon.
    """

    label: str
    has_unit: tuple[HeaderMatcher, ...]
    has_none: tuple[HeaderMatcher, ...]
    header: str
    pattern: str
    replacement: str

    def hash_policy(self, salt: str) -> RouteActionHashPolicy:
        """What Envoy hashes: the salt, a colon and the unit, as :func:`abmesh.experiment.bucketing.bucket_of` does."""
        rewrite = RegexMatchAndSubstitute(
            pattern=RegexMatcher(regex=self.pattern), substitution=f"{salt}:{self.replacement}"
        )
        return RouteActionHashPolicy(
            header=RouteActionHashPolicyHeader(header_name=self.header, regex_rewrite=rewrite), terminal=True
        )


def unit_matcher(source: UnitSource) -> UnitMatcher:
    """How Envoy reads a source."""
    if source.cookie is not None:
        return _cookie(source.label, re.escape(source.cookie))
    if source.query is not None:
        return _query(source.label, re.escape(source.query))
    assert source.header is not None  # a UnitSource has exactly one of the three
    return UnitMatcher(
        label=source.label,
        has_unit=(matches(source.header, _VALUE),),
        has_none=(absent(source.header),),
        header=source.header,
        pattern="^",
        replacement="",
    )


def _cookie(label: str, name: str) -> UnitMatcher:
    """The first cookie of the name that is not empty wins: the pattern skips few cookies and takes no empty one."""
    pattern = rf"^(?:[^,]*?;)??[ \t]*{name}[ \t]*=[ \t]*([^ \t,;][^,;]*?)[ \t]*(?:;[^,]*)?$"
    # The cookies of a second header follow a comma here; \C is any byte.
    named = rf"(?:\C*[,;])?[ \t]*{name}[ \t]*=\C*"
    return UnitMatcher(
        label=label,
        has_unit=(matches(COOKIE, pattern),),
        has_none=(never_matches(COOKIE, named),),
        header=COOKIE,
        pattern=pattern,
        replacement=r"\1",
    )


def _query(label: str, name: str) -> UnitMatcher:
    """As for cookies, except that no parameter of the name may be encoded, since the pattern would skip it."""
    pattern = rf"^{_IN_PATH}*\?(?:{_IN_QUERY}*?&)??{name}=({_IN_VALUE}+)(?:&{_IN_QUERY}*)?$"
    encoded = rf"{_IN_QUERY}*[?&]{name}=[^&]*[%+]{_IN_QUERY}*"
    named = rf"\C*[?&]{name}=\C*"
    return UnitMatcher(
        label=label,
        has_unit=(matches(PATH, pattern), never_matches(PATH, encoded)),
        has_none=(never_matches(PATH, named),),
        header=PATH,
        pattern=pattern,
        replacement=r"\1",
    )
