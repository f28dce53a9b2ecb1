"""Which unit a request belongs to, and the cookie that gives one to a client that has none. Pure.

:mod:`ext_proc.assignment` calls this. Header values are bytes that anybody may have written: nothing here raises,
whatever they hold, and every scan is linear in their length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple
from urllib.parse import unquote_to_bytes

import xxhash

from abmesh.experiment.names import FORWARDED_PROTO
from abmesh.experiment.parts import IssueCookie, UnitSource
from abmesh.experiment.request_headers import COOKIE, PATH

Headers = Mapping[str, Sequence[bytes]]
"""A request's headers: lower-case name to the values that it came with, in order; never an empty sequence."""

SourceKind = Literal["header", "cookie", "query"]

SCHEME = ":scheme"
_BLANKS = b" \t"
_NOTHING: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """One place to look for a unit, compiled.

    Attributes:
        header: the header to look in.
        pattern: what finds the values in that header, in group 1; None where the whole header is the value.
    """

    kind: SourceKind
    header: str
    pattern: re.Pattern[bytes] | None


class Found(NamedTuple):
    """A unit, and the source that it came from."""

    source: Source
    unit: bytes


def compile_sources(sources: Sequence[UnitSource]) -> tuple[Source, ...]:
    """The places to look in, in order."""
    return tuple(map(_compile, sources))


def _compile(source: UnitSource) -> Source:
    # Possessive quantifiers (*+) keep the scan linear: a run of blanks is never tried twice.
    if source.cookie is not None:
        return Source("cookie", COOKIE, _cookie_pattern(source.cookie))
    if source.query is not None:
        name = re.escape(source.query.encode())
        return Source("query", PATH, re.compile(rb"(?:^|&)" + name + rb"=([^&]++)"))
    assert source.header is not None  # a UnitSource has exactly one of the three
    return Source("header", source.header, None)


def _cookie_pattern(name: str) -> re.Pattern[bytes]:
    return re.compile(rb"(?:^|;)[ \t]*+" + re.escape(name.encode()) + rb"[ \t]*+=([^;]*+)")


def find_unit(sources: Sequence[Source], headers: Headers) -> Found | None:
    """The first source's unit that is present and not empty, or None.

    Of repeated headers, cookies and parameters, the first that is not empty counts. Blanks around a header's or a
    cookie's value are no part of it; double quotes are. A query parameter is percent-decoded, and its plus signs
    are spaces.
    """
    for source in sources:
        values = headers.get(source.header)
        if values is not None and (unit := _first(source, values)):
            return Found(source, unit)
    return None


def _first(source: Source, values: Sequence[bytes]) -> bytes:
    pattern = source.pattern
    for value in values:
        if pattern is None:
            unit = value.strip(_BLANKS)
            if unit:
                return unit
        elif source.kind == "cookie":
            for match in pattern.finditer(value):
                unit = match[1].strip(_BLANKS)
                if unit:
                    return unit
        else:
            found = pattern.search(query_of(value))
            if found:
                return decoded(found[1])
    return b""


def decoded(text: bytes) -> bytes:
    """What a part of a query string means: percent-decoded, and its plus signs are spaces."""
    return unquote_to_bytes(text.replace(b"+", b" "))


def path_of(target: bytes) -> bytes:
    """A request target's path, without query and fragment: what Envoy matches a route's prefix on."""
    return target.partition(b"?")[0].partition(b"#")[0]


def query_of(target: bytes) -> bytes:
    """A request target's query, without its question mark and without the fragment."""
    return target.partition(b"#")[0].partition(b"?")[2]


@dataclass(frozen=True, slots=True)
class CookieForm:
    """How an issued identity is written down as a Set-Cookie value: ``name=`` + identity + attributes."""

    name: str
    attributes: str
    secure: Literal["auto"] | bool

    def write(self, identity: str, headers: Headers) -> str:
        """The value of the Set-Cookie header that gives an identity to the client that sent these headers."""
        secure = is_https(headers) if self.secure == "auto" else self.secure
        return f"{self.name}={identity}{self.attributes}{'; Secure' if secure else ''}"


def compile_cookie(cookie: IssueCookie) -> CookieForm:
    """The form of an experiment's cookie."""
    attributes = [
        "",
        f"Path={cookie.path}",
        f"Max-Age={int(cookie.max_age.total_seconds())}",
        "HttpOnly",
        f"SameSite={cookie.same_site.capitalize()}",
    ]
    if cookie.domain is not None:
        attributes.append(f"Domain={cookie.domain}")
    return CookieForm(cookie.name, "; ".join(attributes), cookie.secure)


@dataclass(frozen=True, slots=True)
class Continuation:
    """The second request of a session, told by a cookie that marks sessions whose second one has been.

    Nothing is remembered here, so the mark is the client's to keep. It holds a digest of the session's identity: one
    that outlives its session, or that an older document set on another path, says nothing about the next session.

    Attributes:
        issued: the source of the issued cookie, which is what a session is.
        pattern: finds the marks.
        form: of the cookie that marks.
    """

    issued: Source
    pattern: re.Pattern[bytes]
    form: CookieForm

    def mark(self, found: Found, headers: Headers) -> str | None:
        """The Set-Cookie value that marks a session, if the unit found is one's and the request is its second."""
        if found.source != self.issued:
            return None
        digest = xxhash.xxh64_hexdigest(found.unit)
        mark = digest.encode()
        for value in headers[COOKIE]:
            for match in self.pattern.finditer(value):
                if match[1].strip(_BLANKS) == mark:
                    return None
        return self.form.write(digest, headers)


def session_source(cookie: IssueCookie) -> Source:
    """Where an issued identity is found: a unit from there is one's that a session has begun for."""
    return _compile(UnitSource(cookie=cookie.name))


def compile_continuation(cookie: IssueCookie) -> Continuation:
    """What tells the second request of a session that a cookie carries."""
    return Continuation(
        issued=session_source(cookie),
        pattern=_cookie_pattern(cookie.marker),
        form=replace(compile_cookie(cookie), name=cookie.marker),
    )


def is_https(headers: Headers) -> bool:
    """Whether the client spoke HTTPS, as far as Envoy tells."""
    for name in (FORWARDED_PROTO, SCHEME):
        value = headers.get(name, _NOTHING)
        if value:
            return value[0].strip(_BLANKS).lower() == b"https"
    return False
