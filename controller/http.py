"""Serves the controller's ``/metrics`` and ``/healthz``. Started by :mod:`controller.wiring`."""

from __future__ import annotations

from aiohttp import web

from abmesh.experiment.errors import StartError
from abmesh.experiment.store import format_generation
from controller.loop import Controller
from controller.metrics.telemetry import Telemetry
from controller.routes.publisher import RoutesStatus
from controller.settings import listen_address


class HttpServer:
    """The controller's HTTP server.

    Args:
        listen: ``HOST:PORT``; port 0 picks a free port.
        controller: the controller whose health it reports.
        telemetry: the metrics that it serves.
        routes: the state of the routes file; None if the controller keeps none.
    """

    def __init__(
        self, listen: str, controller: Controller, telemetry: Telemetry, routes: RoutesStatus | None = None
    ) -> None:
        self._listen = listen
        self._controller = controller
        self._telemetry = telemetry
        self._routes = routes
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self) -> str:
        """Start listening.

        Returns:
            The address, as ``HOST:PORT``.

        Raises:
            SettingsError: ``listen`` is not an address.
            StartError: cannot listen on it.
        """
        host, port = listen_address(self._listen)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise StartError(f"cannot listen on {self._listen}: {error.strerror or error}") from error
        bound = self._runner.addresses[0]
        return f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self._telemetry.render(), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _healthz(self, _: web.Request) -> web.Response:
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
        }
        if self._routes is not None:
            written = self._routes.generation
            body["routes_generation"] = None if written is None else format_generation(written)
            body["routes_error"] = self._routes.error
            body["routes_behind"] = dict(self._routes.behind)
        return web.json_response(body, status=503 if stalled else 200)
