"""Authenticated cookies: ``ID.MAC``, where only ID is the unit, so that keys can rotate without moving anybody. Pure.

:mod:`ext_proc.core.identity` reads and issues them. MAC is HMAC-SHA-256 (RFC 2104, FIPS 198-1) of the cookie's name and
ID, truncated to 128 bits (the leftmost, as RFC 2104 section 5 allows) and written in base64url without padding. Values
are bytes that a client may have chosen freely: nothing here raises.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from abmesh.experiment.parts import IssueCookie

MOST_CHECKED: Final = 4
"""Most values of one cookie that are checked for one request, so that no request costs more than that."""

_MAC_BYTES: Final = 16
_MAC_CHARACTERS: Final = 22
_ID_CHARACTERS: Final = 32
_VALUE_CHARACTERS: Final = _ID_CHARACTERS + 1 + _MAC_CHARACTERS


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs and verifies the values of one cookie.

    Attributes:
        context: what the MAC covers besides the identity; values of one cookie are worthless in another.
        keys: the first signs, all verify.
    """

    context: bytes
    keys: tuple[bytes, ...] = field(repr=False)

    def sign(self, identity: str) -> str:
        """The cookie's value for an identity of 32 characters."""
        return f"{identity}.{self._mac(self.keys[0], identity.encode()).decode()}"

    def verify(self, values: Iterable[bytes]) -> bytes:
        """The identity in the first value that one of the keys has signed; empty if there is none among the first four.

        Values of another form are passed over and cost nothing.
        """
        formed = (value for value in values if len(value) == _VALUE_CHARACTERS and value[_ID_CHARACTERS] == ord("."))
        for value in islice(formed, MOST_CHECKED):
            identity, mac = value[:_ID_CHARACTERS], value[_ID_CHARACTERS + 1 :]
            for key in self.keys:
                if hmac.compare_digest(self._mac(key, identity), mac):
                    return identity
        return b""

    def _mac(self, key: bytes, identity: bytes) -> bytes:
        return urlsafe_b64encode(hmac.digest(key, self.context + identity, "sha256")[:_MAC_BYTES]).rstrip(b"=")


def compile_signer(cookie: IssueCookie) -> Signer | None:
    """What authenticates a cookie; None if it has no keys.

    Raises:
        SecretError: the keys have not been read.
    """
    if not cookie.keys:
        return None
    return Signer(f"abmesh cookie {cookie.name}\0".encode(), tuple(key.value.encode() for key in cookie.keys))
