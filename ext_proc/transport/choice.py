"""Which transport answers, and on which event loop. Called by :mod:`ext_proc.server` and :mod:`ext_proc.worker`.

Both are imported late: grpcio alone takes 30 MB. Whoever cannot install ngh2 is served all the same.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable

from ext_proc.service import Service
from ext_proc.settings import Settings, Transport
from ext_proc.transport.base import Server

log = logging.getLogger("ext_proc")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def available(wanted: Transport) -> Transport:
    """The transport that is wanted, or the one that takes its place here; the log says why."""
    why = _missing("ngh2") if wanted == "nghttp2" else ""
    if why:
        log.warning(
            "transport nghttp2 needs the package ngh2, which cannot be used here (%s; pip install 'abmesh[fast]' where "
            "there is a wheel): serving with grpcio instead, which takes several times the CPU per request",
            why,
        )
        return "grpcio"
    return wanted


def _missing(package: str) -> str:
    """Why a package cannot be imported; empty if it can."""
    try:
        importlib.import_module(package)
    except ImportError as error:  # not installed, or built for another machine
        return str(error)
    return ""


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
    if wanted != "nghttp2" or _missing("ngh2") or _missing("uvloop"):
        return None
    import uvloop

    return uvloop.new_event_loop
