"""``/metrics`` and ``/healthz`` of the controller."""

from __future__ import annotations

from aiohttp import web

from abmesh.experiment.errors import SettingsError, StartError
from abmesh.experiment.store import format_generation
from controller.loop import Controller
from controller.metrics.telemetry import Telemetry
from controller.routes.publisher import Published
from controller.settings import listen_address


class HttpServer:
    """The controller's HTTP endpoint.

    Args:
        listen: ``HOST:PORT``; port 0 takes a free one.
        controller: whose health to tell.
        telemetry: whose metrics to show.
        routes: how the file stands that Envoy takes its routes from; none where there is no such file.
    """

    def __init__(
        self, listen: str, controller: Controller, telemetry: Telemetry, routes: Published | None = None
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
        """Listen; the address, as ``HOST:PORT``.

        Raises:
            SettingsError: it is no address.
            StartError: it cannot be listened on.
        """
        host, port = listen_address(self._listen)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except UnicodeError as error:
            await self._runner.cleanup()
            raise SettingsError(f"{host[:200]!r} is not a host to listen on: {error}") from error
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
        """200 while ticks end, as leader or standing by; 503 when they do not."""
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
            published = self._routes.generation
            body["routes_generation"] = None if published is None else format_generation(published)
            body["routes_error"] = self._routes.error
            body["routes_behind"] = dict(self._routes.behind)
        return web.json_response(body, status=503 if stalled else 200)
