"""What the peers of :mod:`bench.soak` say, and what is due for it. :mod:`bench.soaked` serves the same document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import hpack
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest

from abmesh.experiment.codec import parse
from ext_proc.service import Last, Service, compile_rules
from ext_proc.telemetry import Counts

USERS: Final = 40_000
"""More than the server remembers the answers of, so that it forgets all the time."""

WARMING_USERS: Final = 16_384
"""Others, whose answers it remembers when peers come: what it keeps should not grow from there."""

_DOCUMENT: Final = """\
version: 1
experiments:
  - name: chat-model
    match: {path_prefix: /v1/}
    unit: [{header: x-user-id}]
    variants:
      - {name: model-a, cluster: model-a, weight: 90, control: true}
      - {name: model-b, cluster: model-b, weight: 10}
"""

_HEADERS: Final = (
    (":method", "POST"),
    (":path", "/envoy.service.ext_proc.v3.ExternalProcessor/Process"),
    (":authority", "abmesh-ext-proc"),
    (":scheme", "http"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
    ("x-envoy-internal", "true"),
    ("x-forwarded-for", "192.0.2.2"),
)
"""Envoy's, in its order, as the conformance tests have recorded them."""

_TIMED: Final = (*_HEADERS, ("grpc-timeout", "60S"))
"""As of an Envoy whose operator has given its calls a time limit."""


def new_service() -> Service:
    """The service that is under load, or one that says what is due from it."""
    service = Service(Counts())
    service.rules = compile_rules(parse(_DOCUMENT, "the soak's document"))
    return service


def _blocks(headers: Sequence[tuple[str, str]]) -> tuple[bytes, bytes]:
    encoder = hpack.Encoder()
    return encoder.encode(list(headers)), encoder.encode(list(headers))


USUAL_BLOCKS: Final = _blocks(_HEADERS)
"""The headers of a connection's first call, which HPACK remembers, and of every later one."""

TIMED_BLOCKS: Final = _blocks(_TIMED)


def _template(*, decides: bool) -> bytes:
    request = ProcessingRequest()
    if decides:
        request.protocol_config.SetInParent()
    headers = ((":path", b"/v1/chat"), ("x-user-id", _name(0)), ("x-other", b"v" * 300))
    for name, value in headers:
        request.request_headers.headers.headers.add(key=name, raw_value=value)
    serialized: bytes = request.SerializeToString()
    return serialized


def _name(user: int) -> bytes:
    return b"user-%06d" % user


_TEMPLATES: Final = {decides: _template(decides=decides) for decides in (True, False)}


def message(user: int, *, decides: bool) -> bytes:
    """What Envoy asks about a user's request.

    Args:
        user: which one.
        decides: whether it wants nothing but this answer, after which the server ends the call, as Envoy says now;
            older ones did not.
    """
    return _TEMPLATES[decides].replace(_name(0), _name(user))


def framed(payload: bytes) -> bytes:
    """A message as gRPC sends it."""
    return b"\0" + len(payload).to_bytes(4, "big") + payload


class Due:
    """What is due to whom: the same for every call of a user."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._service = new_service()
        self._known: dict[bytes, bytes] = {}

    def answer(self, asked: bytes) -> bytes:
        """The framed answer to a message."""
        found = self._known.get(asked)
        if found is None:
            answer = self._service.answer(asked)
            text = answer.answer if isinstance(answer, Last) else answer
            assert isinstance(text, bytes)  # every message of ours is answered
            found = self._known[asked] = framed(text)
        return found
