"""Messages, and the answers that the service itself gives to them."""

from __future__ import annotations

import functools
from typing import Any

import grpc.aio
from envoy.service.ext_proc.v3.external_processor_pb2 import HttpBody, ProcessingRequest, ProtocolConfiguration

from ext_proc import wire
from ext_proc.service import Last, Service, compile_rules
from ext_proc.telemetry import Counts
from tests.ext_proc.clients import USER
from tests.ext_proc.conformance.serving import IDENTITY
from tests.ext_proc.samples import EVERY_KIND, document, request_headers

UNTOUCHED_BODY = wire.UNTOUCHED["request_body"]
LARGEST = 1024 * 1024
LAST = request_headers([("x-user-id", b"u")], protocol_config=ProtocolConfiguration())
"""A message after whose answer the server closes the stream."""

MESSAGES = {
    **{kind: message.SerializeToString() for kind, message in EVERY_KIND.items()},
    "user": USER,
    "no identity": request_headers(),
    "no experiment": request_headers(target=b"/other"),
    "last": LAST,
    "told only": request_headers([("x-user-id", b"u")], observability_mode=True),
    "undecodable": b"\xff",
    "empty": b"",
}


EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # grpc-stubs does not know it
"""What reading at the end of a stream returns."""


def method(channel: Any, name: str) -> Any:
    """A client's method; grpc-stubs only types it with serializers."""
    return getattr(channel, name)


def expected(message: bytes) -> bytes | None:
    """The service's own answer to a message; None if it has none."""
    service = Service(Counts(), identities=lambda: IDENTITY)
    service.rules = compile_rules(document())
    answer = service.answer(message)
    return answer.answer if isinstance(answer, Last) else answer if isinstance(answer, bytes) else None


def answer_to(message: bytes) -> bytes:
    """The service's own answer to a message that has one."""
    answer = expected(message)
    assert answer is not None
    return answer


@functools.cache
def body_message(size: int) -> bytes:
    """A message of exactly this size about a body."""
    around = len(ProcessingRequest(request_body=HttpBody(body=bytes(size))).SerializeToString()) - size
    message: bytes = ProcessingRequest(request_body=HttpBody(body=bytes(size - around))).SerializeToString()
    assert len(message) == size
    return message
