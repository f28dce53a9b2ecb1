"""An expired token is the valid one but for its times, without a cluster."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.cluster.expired import expired


def _content(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _part(content: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def test_an_expired_token_is_signed_and_was_valid_until_an_hour_ago(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    file = tmp_path / "key"
    file.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    now = time.time()
    claims = {"sub": "system:serviceaccount:abmesh:ann", "iat": now, "nbf": now, "exp": now + 3600}
    header = {"alg": "ES256", "kid": "k"}
    made = expired(f"{_part(header)}.{_part(claims)}.signature", file).split(".")
    assert json.loads(_content(made[0])) == header
    found = json.loads(_content(made[1]))
    assert found["sub"] == claims["sub"]
    assert found["exp"] - found["iat"] == 3600
    assert now - 3700 < found["exp"] < now - 3500
    signature = _content(made[2])
    halves = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    signed = ".".join(made[:2]).encode()
    key.public_key().verify(encode_dss_signature(*halves), signed, ec.ECDSA(hashes.SHA256()))
