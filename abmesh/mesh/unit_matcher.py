"""Which requests Envoy reads a unit of exactly as the server does, and where it finds nothing for certain. Pure.

:mod:`abmesh.mesh.native` makes routes of them. :mod:`ext_proc.identity` is the law that they keep to. What a gate does
not let pass, the server is asked about, which is always right; so every doubt is settled by not letting pass:

- Envoy joins repeated headers with commas where it compares them and hashes them one by one. Values with commas stay
  with the server.
- RE2 reads UTF-8 and nothing else. Headers with other bytes stay with the server.
- A query's percent signs and plus signs stand for something else. Values with any stay with the server.

The pattern that decides is the one that rewrites, so that what is hashed is what was looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher, RouteActionHashPolicy, RouteActionHashPolicyHeader
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatchAndSubstitute, RegexMatcher

from abmesh.experiment.needs import COOKIE, PATH
from abmesh.experiment.parts import UnitSource
from abmesh.mesh.matches import absent, matches, never_matches

PLAIN_AUTHORITY: Final = "[0-9A-Za-z._-]+(:[0-9]+)?"
"""Hosts that Envoy's way of leaving out a port and the server's agree on."""

LARGEST_PATTERN: Final = 2048
"""What Envoy's limit of a pattern's size has to be, in RE2's instructions.

That of the longest name is below 200, and twenty declared segments of the longest kind are below 1,500.
"""

_VALUE: Final = r"[^ \t,](?:[^,]*[^ \t,])?"
# Printable ASCII without: #? and # and &#%+.
_IN_PATH, _IN_QUERY, _IN_VALUE = r"""[!"$->@-~]""", r"""[!"$-~]""", r"""[!"$'-*,-~]"""


@dataclass(frozen=True, slots=True)
class Gate:
    """One source of units, as Envoy looks at it.

    Attributes:
        label: the source as a person names it.
        opens: conditions under which Envoy reads the unit as the server does.
        finds_nothing: conditions under which the server finds no unit there.
        header: the header that is hashed.
        pattern: what is rewritten in it.
        rest: what the salt is followed by.
    """

    label: str
    opens: tuple[HeaderMatcher, ...]
    finds_nothing: tuple[HeaderMatcher, ...]
    header: str
    pattern: str
    rest: str

    def hash_policy(self, salt: str) -> RouteActionHashPolicy:
        """What Envoy hashes: the salt, a colon and the unit, as :func:`abmesh.experiment.bucketing.bucket_of` does."""
        rewrite = RegexMatchAndSubstitute(pattern=RegexMatcher(regex=self.pattern), substitution=f"{salt}:{self.rest}")
        return RouteActionHashPolicy(
            header=RouteActionHashPolicyHeader(header_name=self.header, regex_rewrite=rewrite), terminal=True
        )


def gate(source: UnitSource) -> Gate:
    """How Envoy looks at a source."""
    if source.cookie is not None:
        return _cookie(source.label, re.escape(source.cookie))
    if source.query is not None:
        return _query(source.label, re.escape(source.query))
    assert source.header is not None  # a UnitSource has exactly one of the three
    return Gate(
        label=source.label,
        opens=(matches(source.header, _VALUE),),
        finds_nothing=(absent(source.header),),
        header=source.header,
        pattern="^",
        rest="",
    )


def _cookie(label: str, name: str) -> Gate:
    """The first that is not empty wins: as few cookies as possible are passed over, and no empty one can be taken."""
    pattern = rf"^(?:[^,]*?;)??[ \t]*{name}[ \t]*=[ \t]*([^ \t,;][^,;]*?)[ \t]*(?:;[^,]*)?$"
    # A second header's cookies come after a comma here; \C is any byte.
    named = rf"(?:\C*[,;])?[ \t]*{name}[ \t]*=\C*"
    return Gate(
        label=label,
        opens=(matches(COOKIE, pattern),),
        finds_nothing=(never_matches(COOKIE, named),),
        header=COOKIE,
        pattern=pattern,
        rest=r"\1",
    )


def _query(label: str, name: str) -> Gate:
    """As of cookies; but one that has to be decoded must not be passed over, so there must be none of the name."""
    pattern = rf"^{_IN_PATH}*\?(?:{_IN_QUERY}*?&)??{name}=({_IN_VALUE}+)(?:&{_IN_QUERY}*)?$"
    encoded = rf"{_IN_QUERY}*[?&]{name}=[^&]*[%+]{_IN_QUERY}*"
    named = rf"\C*[?&]{name}=\C*"
    return Gate(
        label=label,
        opens=(matches(PATH, pattern), never_matches(PATH, encoded)),
        finds_nothing=(never_matches(PATH, named),),
        header=PATH,
        pattern=pattern,
        rest=r"\1",
    )
