"""The standard health service for a transport that speaks gRPC itself: what is asked, and what is answered.

:mod:`ext_proc.transport.nghttp2` calls it; grpcio has its own. See grpc.health.v1 for the protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from ext_proc.transport.base import SERVICES
from ext_proc.transport.grpc_protocol import CallError, Status

CHECK: Final = b"/grpc.health.v1.Health/Check"
WATCH: Final = b"/grpc.health.v1.Health/Watch"

Tell = Callable[[bytes], None]
"""Sends an answer to one watcher."""


def _answer(status: Any) -> bytes:
    answer: bytes = HealthCheckResponse(status=status).SerializeToString()
    return answer


SERVING: Final = _answer(HealthCheckResponse.SERVING)
NOT_SERVING: Final = _answer(HealthCheckResponse.NOT_SERVING)
SERVICE_UNKNOWN: Final = _answer(HealthCheckResponse.SERVICE_UNKNOWN)


class Health:
    """Whether the server serves, and who wants to be told when that changes.

    Attributes:
        watchers: by whatever the transport knows a watching stream by.
    """

    def __init__(self) -> None:
        self._now = NOT_SERVING
        self._ended = False
        self.watchers: dict[object, Tell] = {}

    def check(self, message: bytes) -> bytes:
        """The answer to a question.

        Raises:
            CallError: it is none, or about a service that is not here.
        """
        if not _known(message):
            raise CallError(Status.NOT_FOUND, "the server has no such service")
        return self._now

    def watch(self, message: bytes, watcher: object, tell: Tell) -> bytes:
        """The first answer to a watcher, who will be told the others.

        Raises:
            CallError: the message is no question.
        """
        if not _known(message):
            return SERVICE_UNKNOWN
        self.watchers[watcher] = tell
        return self._now

    def set_serving(self) -> None:
        """From now on Envoy should send requests here."""
        self._set(SERVING)

    def end(self) -> None:
        """From now on it should not, whatever else is said."""
        self._set(NOT_SERVING)
        self._ended = True

    def _set(self, status: bytes) -> None:
        if self._ended or status == self._now:
            return
        self._now = status
        for tell in list(self.watchers.values()):
            tell(status)


def _known(message: bytes) -> bool:
    try:
        request = HealthCheckRequest.FromString(message)
    except DecodeError as error:
        raise CallError(Status.INTERNAL, "not a HealthCheckRequest") from error
    return request.service in SERVICES
