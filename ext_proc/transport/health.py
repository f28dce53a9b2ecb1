"""The standard gRPC health service, for the transport ``nghttp2``; grpcio has its own.

:mod:`ext_proc.transport.calls` asks it, :mod:`ext_proc.transport.nghttp2` sets its state. The protocol is
grpc.health.v1.
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

Notify = Callable[[bytes], None]
"""Sends a status to one watcher."""


def _answer(status: Any) -> bytes:
    answer: bytes = HealthCheckResponse(status=status).SerializeToString()
    return answer


SERVING: Final = _answer(HealthCheckResponse.SERVING)
NOT_SERVING: Final = _answer(HealthCheckResponse.NOT_SERVING)
SERVICE_UNKNOWN: Final = _answer(HealthCheckResponse.SERVICE_UNKNOWN)


class Health:
    """Whether the server serves, and who is notified when that changes.

    Attributes:
        ended: whether NOT_SERVING is reported for good.
        watchers: what notifies each watcher, by the transport's key for its stream.
    """

    def __init__(self) -> None:
        self._now = NOT_SERVING
        self.ended = False
        self.watchers: dict[object, Notify] = {}

    def check(self, message: bytes) -> bytes:
        """The answer to a health check.

        Raises:
            CallError: the message is not a health check, or names an unknown service.
        """
        if not _known(message):
            raise CallError(Status.NOT_FOUND, "unknown service")
        return self._now

    def watch(self, message: bytes, watcher: object, notify: Notify) -> bytes:
        """The first answer to a watcher; ``notify`` sends the later ones.

        Raises:
            CallError: the message is not a health check.
        """
        if not _known(message):
            return SERVICE_UNKNOWN
        self.watchers[watcher] = notify
        return self._now

    def set_serving(self) -> None:
        """Report SERVING from now on."""
        self._set(SERVING)

    def end(self) -> None:
        """Report NOT_SERVING for good."""
        self._set(NOT_SERVING)
        self.ended = True

    def _set(self, status: bytes) -> None:
        if self.ended or status == self._now:
            return
        self._now = status
        for notify in list(self.watchers.values()):
            notify(status)


def _known(message: bytes) -> bool:
    try:
        request = HealthCheckRequest.FromString(message)
    except DecodeError as error:
        raise CallError(Status.INTERNAL, "not a HealthCheckRequest") from error
    return request.service in SERVICES
