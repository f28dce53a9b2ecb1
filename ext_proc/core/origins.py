"""Which pages may send feedback events, by the ``origin`` header that browsers add. Pure.

:mod:`ext_proc.core.table` calls this. A browser attaches a visitor's cookies to whatever any page posts, and asks for
permission first only for some requests, so this check is the only protection. Header values are bytes that a client may
have chosen freely: nothing here raises, and every check is linear in their length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from abmesh.experiment.model import USUAL_PORTS, Document
from abmesh.experiment.request_headers import AUTHORITY, ORIGIN
from ext_proc.core.headers import BLANKS, Headers, is_https

_USUAL_PORTS: Final = tuple((scheme.encode(), port.encode()) for scheme, port in USUAL_PORTS)


@dataclass(frozen=True, slots=True)
class Origins:
    """The sites whose pages may send events.

    Attributes:
        listed: origins of other sites, as browsers write them.
    """

    listed: frozenset[bytes]

    def allow(self, headers: Headers) -> bool:
        """Whether an event may be counted: it comes from the request's own site, a listed one, or not from a page.

        Browsers add an origin to everything that a page posts, so a request without one comes from a program. They send
        ``null`` for pages whose origin they hide; those are refused. No browser sends more than one origin.
        """
        sent = headers.get(ORIGIN)
        if sent is None:
            return True
        if len(sent) != 1:
            return False
        origin = _normalized(sent[0].strip(BLANKS))
        return origin in self.listed or origin == _own(headers)


def compile_origins(document: Document) -> Origins:
    """The origins that a document lists."""
    return Origins(frozenset(origin.encode() for origin in document.event_origins))


def _own(headers: Headers) -> bytes | None:
    """The origin of the site that a request is for; None if the request names none."""
    authority = headers[AUTHORITY][0] if AUTHORITY in headers else b""
    if not authority:
        return None
    return _normalized((b"https://" if is_https(headers) else b"http://") + authority)


def _normalized(origin: bytes) -> bytes:
    """An origin as browsers write it: in lower case, without the scheme's default port."""
    lower = origin.lower()
    for scheme, port in _USUAL_PORTS:
        if lower.startswith(scheme):
            return lower.removesuffix(port)
    return lower
