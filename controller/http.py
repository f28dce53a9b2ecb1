"""Serves the controller's ``/metrics`` and ``/healthz``. Started by :mod:`controller.wiring`.

Clients get only a part of the process's file descriptors, however many connect: the others are for Envoys, the
document, the state and the journal, without which nothing could be rolled back.
"""

from __future__ import annotations

import math
import resource
import time

from aiohttp import web

from abmesh import serving
from abmesh.experiment.store import format_generation
from controller.loop import Controller
from controller.metrics.telemetry import Telemetry
from controller.routes.filters_status import FiltersStatus
from controller.routes.publisher import RoutesStatus
from controller.settings import listen_address
from controller.sources.renderings import Renderings

MOST_CONNECTIONS = 64
"""Most clients at the same time."""

DESCRIPTORS_SHARE = 8
"""Clients get at most one in so many of the descriptors that the process may have."""


RENDER_EVERY = 0.2
"""Seconds for which the text of ``/metrics`` is sent again: making it takes the loop that ticks run on some 10 ms."""


def most_connections(descriptors: int) -> int:
    """Most clients at the same time of a process that may have so many descriptors; at least one."""
    return max(1, min(MOST_CONNECTIONS, descriptors // DESCRIPTORS_SHARE))


class HttpServer:
    """The controller's HTTP server.

    Args:
        listen: ``HOST:PORT``; port 0 picks a free port.
        controller: the controller whose health it reports.
        telemetry: the metrics that it serves.
        routes: the state of the routes file; None if the controller keeps none.
        renderings: what Envoys were rendered from.
        filters: the state of EnvoyFilters; None if the controller keeps none.
    """

    def __init__(
        self,
        listen: str,
        controller: Controller,
        telemetry: Telemetry,
        routes: RoutesStatus | None = None,
        renderings: Renderings | None = None,
        filters: FiltersStatus | None = None,
    ) -> None:
        self._listen = listen
        self._controller = controller
        self._telemetry = telemetry
        self._routes = routes
        self._renderings = renderings or Renderings()
        self._filters = filters
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._server = serving.HttpServer(
            {"/metrics": self._metrics, "/healthz": self._healthz},
            serving.HttpLimits(connections=most_connections(descriptors)),
        )
        self._rendered, self._rendered_at = b"", -math.inf
        telemetry.add_http(self._server.refused)

    async def start(self) -> str:
        """Start listening.

        Returns:
            The address, as ``HOST:PORT``.

        Raises:
            SettingsError: ``listen`` is not an address.
            StartError: cannot listen on it.
        """
        host, port = listen_address(self._listen)
        return await self._server.start(host, port)

    async def stop(self) -> None:
        """Stop listening."""
        await self._server.stop()

    async def _metrics(self) -> web.Response:
        now = time.monotonic()
        if now - self._rendered_at >= RENDER_EVERY:
            self._rendered, self._rendered_at = self._telemetry.render(), now
        headers = {"content-type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=self._rendered, headers=headers)

    async def _healthz(self) -> web.Response:
        """200 while ticks keep finishing, leading or on standby; 503 once they stall."""
        controller, report = self._controller, self._controller.report
        stalled = controller.stalled
        generation = report.generation if report else None
        body: dict[str, object] = {
            "status": "stalled" if stalled else str(controller.role),
            "last_tick_seconds_ago": round(controller.idle_seconds, 3),
            "generation": None if generation is None else format_generation(generation),
            "document_error": report.document_error if report else "",
            "failures": dict(report.failures) if report else {},
            "error": controller.error,
            "envoys_to_render": {envoy: list(names) for envoy, names in self._renderings.stale.items()},
            "envoys_rendering_unknown": self._renderings.reason or list(self._renderings.unknown),
        }
        if controller.leader is not None:  # on standby
            age = controller.leader_seconds
            body["leader"] = controller.leader.process
            body["leader_last_tick_seconds_ago"] = None if age is None else round(age, 3)
            body["leader_stalled"] = controller.leader_stalled
        if self._routes is not None:
            written = self._routes.generation
            body["routes_generation"] = None if written is None else format_generation(written)
            body["routes_error"] = self._routes.error
            body["routes_behind"] = dict(self._routes.behind)
        if self._filters is not None and self._filters.managing:
            body["filters_kept"] = self._filters.kept
            body["filters_held"] = dict(self._filters.held)
            body["filters_error"] = self._filters.trouble
            body["not_programmed"] = dict(self._filters.refusals)
        return web.json_response(body, status=503 if stalled else 200)
