"""Service accounts' tokens that have expired, signed by the cluster's own key."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

HOUR = 3600
_HALF = 32
"""Bytes of each half of a signature by ES256."""


def expired(token: str, key: Path) -> str:
    """The same token as it was issued two hours ago, for an hour.

    Args:
        token: a valid one.
        key: that signed it, as PEM.
    """
    header, payload, _ = token.split(".")
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    issued = int(time.time()) - 2 * HOUR
    claims |= {"iat": issued, "nbf": issued, "exp": issued + HOUR}
    signed = f"{header}.{_text(json.dumps(claims).encode())}"
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    halves = decode_dss_signature(private.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_text(b''.join(half.to_bytes(_HALF, 'big') for half in halves))}"


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
