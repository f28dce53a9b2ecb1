"""Which transport answers, and on which event loop. Called by :mod:`ext_proc.server` and :mod:`ext_proc.worker`.

Both are imported late: grpcio alone takes 30 MB. Whoever cannot install ngh2 is served all the same.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections.abc import Callable

from ext_proc.service import Service
from ext_proc.settings import Settings, Transport
from ext_proc.transport.base import Server

log = logging.getLogger("ext_proc")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def available(wanted: Transport) -> Transport:
    """The transport that is wanted, or the one that takes its place here; the log says why."""
    if wanted == "nghttp2" and importlib.util.find_spec("ngh2") is None:
        log.warning(
            "transport nghttp2 needs the package ngh2, which is not installed (there may be no wheel for this "
            "platform): serving with grpcio instead, which takes several times the CPU per request"
        )
        return "grpcio"
    return wanted


def new_server(transport: Transport, service: Service, settings: Settings) -> Server:
    """A server that does not listen yet.

    Raises:
        StartError: the TLS files cannot be used.
    """
    if transport == "nghttp2":
        from ext_proc.transport.nghttp2 import Nghttp2Server

        return Nghttp2Server(service, settings.tls)
    from ext_proc.transport.grpc_aio import GrpcServer

    return GrpcServer(service, settings.tls)


def loop_factory(wanted: Transport) -> LoopFactory | None:
    """What makes the event loop that suits a transport; None for Python's own.

    grpc.aio polls in a thread of its own and gains nothing by another loop.
    """
    if wanted != "nghttp2" or importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop
