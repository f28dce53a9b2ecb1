"""Which pages' feedback events may be counted, by the origin that browsers tell. Pure.

:mod:`ext_proc.assignment` calls this. A browser sends a visitor's cookie with what any page posts, and asks beforehand
only for some of it: whether the page may is decided here or nowhere. Header values are bytes that anybody may have
written: nothing here raises, and it takes time in proportion to their length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from abmesh.experiment.model import USUAL_PORTS, Document
from abmesh.experiment.request_headers import AUTHORITY, ORIGIN
from ext_proc.identity import Headers, is_https

_BLANKS: Final = b" \t"
_USUAL_PORTS: Final = tuple((scheme.encode(), port.encode()) for scheme, port in USUAL_PORTS)


@dataclass(frozen=True, slots=True)
class Origins:
    """Whose pages may send events.

    Attributes:
        listed: origins of other sites, as browsers write them.
    """

    listed: frozenset[bytes]

    def allow(self, headers: Headers) -> bool:
        """Whether an event may be counted: of a page of its own site or of one that is listed, or of no page.

        Browsers always tell the origin of what a page posts, so that what comes without one comes from a program. They
        say ``null`` for pages that they give away nothing of, which therefore may not. No browser tells two.
        """
        sent = headers.get(ORIGIN)
        if sent is None:
            return True
        if len(sent) != 1:
            return False
        origin = _as_browsers_write_it(sent[0].strip(_BLANKS))
        return origin in self.listed or origin == _own(headers)


def compile_origins(document: Document) -> Origins:
    """The origins that a document lists."""
    return Origins(frozenset(origin.encode() for origin in document.event_origins))


def _own(headers: Headers) -> bytes | None:
    """The origin of the site that a request is for; None if it names none."""
    authority = headers[AUTHORITY][0] if AUTHORITY in headers else b""
    if not authority:
        return None
    return _as_browsers_write_it((b"https://" if is_https(headers) else b"http://") + authority)


def _as_browsers_write_it(origin: bytes) -> bytes:
    """In lower case, without the usual port."""
    lower = origin.lower()
    for scheme, port in _USUAL_PORTS:
        if lower.startswith(scheme):
            return lower.removesuffix(port)
    return lower
