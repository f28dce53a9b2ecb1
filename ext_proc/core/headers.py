"""Reading a request's headers: paths, queries, hosts, repeated values and match rules. Pure.

The other modules of this folder use it. Values are bytes that a client may have chosen freely: nothing here raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

from abmesh.experiment.names import FORWARDED_PROTO
from abmesh.experiment.request_headers import AUTHORITY

Headers = Mapping[str, Sequence[bytes]]
"""A request's headers: lower-case name to its values in the order received; never an empty sequence."""

HeaderRules = tuple[tuple[str, bytes], ...]
"""Headers that a request must have, with their exact values."""

SCHEME: Final = ":scheme"
BLANKS: Final = b" \t"
_NO_VALUES: Final[tuple[bytes, ...]] = ()


def compile_rules(headers: Mapping[str, str]) -> HeaderRules:
    """Header rules of a document, ready for :func:`matches`."""
    return tuple((name, value.encode()) for name, value in headers.items())


def matches(rules: HeaderRules, headers: Headers) -> bool:
    """Whether every header has exactly the value that its rule asks for."""
    for name, value in rules:  # noqa: SIM110  a generator would cost more than the whole loop, on every request
        if joined(headers, name) != value:
            return False
    return True


def joined(headers: Headers, name: str) -> bytes | None:
    """A header's value; repeated values are joined with commas, as HTTP defines. None if the header is absent."""
    values: Sequence[bytes] | None = headers.get(name)
    if values is None:
        return None
    return values[0] if len(values) == 1 else b",".join(values)


def host_of(headers: Headers) -> bytes:
    """The host of a request, in lower case and without its port; empty if the request names none."""
    if AUTHORITY not in headers:
        return b""
    authority = headers[AUTHORITY][0].lower()
    host, colon, port = authority.rpartition(b":")
    # The colons inside an IPv6 address belong to the host.
    return host if colon and not port.endswith(b"]") else authority


def is_https(headers: Headers) -> bool:
    """Whether the client used HTTPS, as far as Envoy reports it."""
    for name in (FORWARDED_PROTO, SCHEME):
        value = headers.get(name, _NO_VALUES)
        if value:
            return value[0].strip(BLANKS).lower() == b"https"
    return False


def path_of(target: bytes) -> bytes:
    """A request target's path, without query and fragment: what Envoy matches a route's prefix against."""
    return target.partition(b"?")[0].partition(b"#")[0]


def query_of(target: bytes) -> bytes:
    """A request target's query, without its question mark and without the fragment."""
    return target.partition(b"#")[0].partition(b"?")[2]


def decoded(text: bytes) -> bytes:
    """Part of a query string, percent-decoded and with its plus signs turned into spaces."""
    return unquote_to_bytes(text.replace(b"+", b" "))
