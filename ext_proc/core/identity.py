"""Finds a request's unit, and writes the cookies that give one to a client without any. Pure.

:mod:`ext_proc.core.experiment` calls this. Header values are bytes that a client may have chosen freely: nothing here
raises, and every scan is linear in their length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import xxhash

from abmesh.experiment.parts import IssueCookie, UnitSource
from abmesh.experiment.request_headers import COOKIE, PATH
from ext_proc.core.headers import BLANKS, Headers, decoded, is_https, query_of
from ext_proc.core.signed import Signer, compile_signer

SourceKind = Literal["header", "cookie", "query"]


@dataclass(frozen=True, slots=True)
class Source:
    """One place to look for a unit, compiled.

    Attributes:
        header: the header to look in.
        pattern: finds the values in that header, in group 1; None where the whole header is the value.
        signer: verifies the values; None if any value is taken.
    """

    kind: SourceKind
    header: str
    pattern: re.Pattern[bytes] | None
    signer: Signer | None = None


class Found(NamedTuple):
    """A unit, and the source that it came from."""

    source: Source
    unit: bytes


def compile_sources(sources: Sequence[UnitSource], cookie: IssueCookie | None = None) -> tuple[Source, ...]:
    """The places to look in, in order; where the issued cookie is one of them, it is verified if it has keys."""
    return tuple(
        session_source(cookie) if cookie is not None and cookie.name == source.cookie else _compile(source)
        for source in sources
    )


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
    """The unit from the first source that is present and not empty, or None.

    Of repeated headers, cookies and parameters, the first that is not empty counts. Blanks around a header's or a
    cookie's value are ignored; double quotes are part of it. A query parameter is percent-decoded, and its plus signs
    are spaces. Of an authenticated cookie, the first of few values that verifies counts; a forged one is as good as
    absent.
    """
    for source in sources:
        values = headers.get(source.header)
        if values is not None and (unit := _first(source, values)):
            return Found(source, unit)
    return None


def _first(source: Source, values: Sequence[bytes]) -> bytes:
    if source.kind == "cookie":
        cookies = _cookies(source, values)
        return next(cookies, b"") if source.signer is None else source.signer.verify(cookies)
    for value in values:
        if source.pattern is None:
            unit = value.strip(BLANKS)
            if unit:
                return unit
        else:
            found = source.pattern.search(query_of(value))
            if found:
                return decoded(found[1])
    return b""


def _cookies(source: Source, values: Sequence[bytes]) -> Iterator[bytes]:
    """The values of a cookie that are not empty, in their order."""
    assert source.pattern is not None
    for value in values:
        for match in source.pattern.finditer(value):
            if unit := match[1].strip(BLANKS):
                yield unit


def is_forged(source: Source | None, headers: Headers) -> bool:
    """Whether a request in which :func:`find_unit` found nothing carries an authenticated cookie: then it is forged."""
    if source is None or source.signer is None:
        return False
    return next(_cookies(source, headers.get(COOKIE, ())), None) is not None


@dataclass(frozen=True, slots=True)
class CookieForm:
    """How a cookie is written as a Set-Cookie value: ``name=`` + value + attributes.

    Attributes:
        signer: authenticates the value; None if it is written as it is.
    """

    name: str
    attributes: str
    secure: Literal["auto"] | bool
    signer: Signer | None = None

    def write(self, value: str, headers: Headers) -> str:
        """The Set-Cookie value for the client that sent these headers."""
        secure = is_https(headers) if self.secure == "auto" else self.secure
        written = value if self.signer is None else self.signer.sign(value)
        return f"{self.name}={written}{self.attributes}{'; Secure' if secure else ''}"


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
    return CookieForm(cookie.name, "; ".join(attributes), cookie.secure, compile_signer(cookie))


@dataclass(frozen=True, slots=True)
class Continuation:
    """Recognises the second request of a session: it carries the issued cookie but no marker cookie yet.

    The server keeps no list of sessions; the marker cookie is all there is. Its value is a digest of the session's
    identity, so a marker that outlives its session, or that an older document set on another path, does not match the
    next session.

    Attributes:
        issued: the source of the issued cookie; a session is one value of it.
        pattern: finds the marker cookies.
        form: of the marker cookie.
    """

    issued: Source
    pattern: re.Pattern[bytes]
    form: CookieForm

    def marker_cookie(self, found: Found, headers: Headers) -> str | None:
        """The Set-Cookie value to answer a session's second request with; None for any other request."""
        if found.source != self.issued:
            return None
        digest = xxhash.xxh64_hexdigest(found.unit)
        marker = digest.encode()
        for value in headers[COOKIE]:
            for match in self.pattern.finditer(value):
                if match[1].strip(BLANKS) == marker:
                    return None
        return self.form.write(digest, headers)


def session_source(cookie: IssueCookie) -> Source:
    """Where an issued identity is found: a unit from this source belongs to a session."""
    return replace(_compile(UnitSource(cookie=cookie.name)), signer=compile_signer(cookie))


def compile_continuation(cookie: IssueCookie) -> Continuation:
    """What recognises the second request of the sessions that a cookie carries."""
    return Continuation(
        issued=session_source(cookie),
        pattern=_cookie_pattern(cookie.marker),
        form=replace(compile_cookie(cookie), name=cookie.marker, signer=None),
    )
