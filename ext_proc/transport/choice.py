"""Chooses the transport and its event loop. Called by :mod:`ext_proc.serving`.

Transports are imported late: grpcio alone takes 30 MB, and ngh2 may not be installed.
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
    """The wanted transport, or its replacement where it cannot run; the log says why."""
    why = _import_error("ngh2") if wanted == "nghttp2" else ""
    if why:
        log.warning(
            "transport nghttp2 needs the package ngh2, which cannot be imported (%s; pip install 'abmesh[fast]' where "
            "there is a wheel): serving with grpcio instead, which takes several times the CPU per request",
            why,
        )
        return "grpcio"
    return wanted


def _import_error(package: str) -> str:
    """Why a package cannot be imported; empty if it can."""
    try:
        importlib.import_module(package)
    except ImportError as error:  # not installed, or built for another machine
        return str(error)
    return ""


def new_server(transport: Transport, service: Service, settings: Settings) -> Server:
    """A server that does not listen yet.

    Raises:
        StartError: the TLS files are not usable.
    """
    if transport == "nghttp2":
        from ext_proc.transport.nghttp2 import Nghttp2Server
        from ext_proc.transport.shared import Limits

        limits = Limits(connections=settings.max_connections)
        return Nghttp2Server(service, settings.tls, limits, shares_ports=settings.shares_ports)
    from ext_proc.transport.grpc_aio import GrpcServer

    return GrpcServer(service, settings.tls, shares_ports=settings.shares_ports)


def loop_factory(wanted: Transport) -> LoopFactory | None:
    """Makes the event loop for a transport; None for Python's own.

    grpc.aio polls in its own thread and gains nothing from another loop.
    """
    if wanted != "nghttp2" or _import_error("ngh2") or _import_error("uvloop"):
        return None
    import uvloop

    return uvloop.new_event_loop
