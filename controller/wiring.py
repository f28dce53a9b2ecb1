"""The controller as a process: builds it, runs it, and stops it on a signal. Called by ``abmesh controller``."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from abmesh.experiment.errors import AbmeshError, SettingsError, StateError
from abmesh.experiment.store import FileStore
from controller.http import HttpServer
from controller.keeping import Keeping
from controller.loop import Controller
from controller.metrics.telemetry import Telemetry
from controller.rollout.checker import Checker
from controller.rollout.commit import Committer
from controller.rollout.guard import Guard
from controller.rollout.prober import Prober
from controller.rollout.reconcile import Reconciler
from controller.rollout.warmer import Warmer
from controller.routes.publisher import WATCH_SECONDS, Publisher
from controller.routes.watcher import Watcher
from controller.settings import ENVOY, Settings
from controller.sources.base import Source
from controller.sources.envoy_admin import EnvoyAdminSource
from controller.sources.prometheus import PrometheusSource
from controller.sources.renderings import WATCH, NotingSource, Renderings, RenderingsReader
from controller.state.access import secure
from controller.state.evidence import EvidenceStore
from controller.state.journal import Journal
from controller.state.lease import Lease
from controller.state.locks import URGENT_SECONDS
from controller.state.renderings import write_renderings
from controller.state.states import StateStore
from controller.watchdog import READY, STOPPING, notify, too_short

log = logging.getLogger("abmesh.controller")


def run(settings: Settings, trial: Callable[[Sequence[Any]], str] | None = None) -> int:
    """Run a controller until SIGTERM or SIGINT; a tick in progress finishes first.

    Args:
        settings: with at least one Envoy, a Prometheus server, or a cluster whose Envoys are found.
        trial: lets a real Envoy read EnvoyFilters, and says why it refuses them; None where there is no Envoy.

    Returns:
        The exit code, 0.

    Raises:
        SettingsError: there is no Envoy, or the HTTP address is not valid.
        StartError: cannot listen on the HTTP address.
        StateError: the state folder cannot be created, or belongs to somebody else.
        KubeError: there is no way to the cluster's API server.
    """
    if settings.source == ENVOY and not settings.envoys and settings.kubernetes is None:
        raise SettingsError("no Envoy to read statistics from; add one, such as --envoy http://127.0.0.1:9901")
    # Does nothing if logging is already configured.
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if settings.kubernetes is None:
        _prepare_files(settings)
    if warning := too_short((settings.interval + settings.timeout).total_seconds()):
        log.warning("%s", warning)
    asyncio.run(_serve(settings, trial))
    return 0


def _prepare_files(settings: Settings) -> None:
    public = [path for path in (settings.config, settings.routes_file) if path is not None]
    for change in secure(settings.state_folder, settings.state_group, public):
        log.warning("%s", change)
    with suppress(AbmeshError):  # whatever is wrong with the document shows at every tick
        FileStore(settings.config, lock_seconds=1.0, warn=log.warning).recover()


def _source(settings: Settings) -> Source:
    timeout = settings.timeout.total_seconds()
    if settings.url is None:
        return EnvoyAdminSource(settings.envoys, timeout=timeout)
    return PrometheusSource(settings.url, selector=settings.selector, timeout=timeout, max_age=settings.max_age)


def _publisher(settings: Settings) -> Publisher | None:
    if settings.routes_file is None:
        return None
    # Imported here, because Envoy's protobuf messages take as much memory as the rest of a controller.
    from controller.routes.envoy_file import EnvoyRoutes, document_store

    store = document_store(settings.config)  # a second one, because the loop reads the document in another thread
    return Publisher(lambda: store.watch(WATCH_SECONDS), EnvoyRoutes(settings.routes_file))


def renderings_of(settings: Settings) -> tuple[Renderings, RenderingsReader | None]:
    """What Envoys were rendered from, and its reader; none if only a Prometheus server is asked."""
    if settings.url is not None:
        try:
            # For `abmesh status`, which does not know where statistics come from.
            write_renderings(settings.state_folder, {f"those that {settings.url} scrapes": None})
        except StateError as error:
            logging.getLogger("abmesh.renderings").warning("%s", error)
        return Renderings("not known with --source prometheus: only an Envoy's admin endpoint says it"), None
    found, store = Renderings(), FileStore(settings.config)
    return found, RenderingsReader(
        lambda: store.watch(WATCH),
        found,
        timeout=settings.timeout,
        save=lambda envoys: write_renderings(settings.state_folder, envoys),
    )


async def _keep_routes(settings: Settings, publisher: Publisher) -> None:
    """Publish routes, and check that Envoys serve them, until cancelled."""
    watcher = Watcher(
        settings.envoys,
        publisher.status,
        settle=settings.settle,
        interval=settings.interval,
        timeout=settings.timeout,
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(publisher.run())
        tasks.create_task(watcher.run())


def in_files(settings: Settings) -> Keeping:
    """Build what a controller with a document and a state folder is built on."""
    folder = settings.state_folder
    renderings, reader = renderings_of(settings)
    states, journal = StateStore(folder), Journal(folder)
    documents = FileStore(settings.config, warn=log.warning, lock_seconds=URGENT_SECONDS)
    reconciler = Reconciler(
        states=states,
        journal=journal,
        evidence=EvidenceStore(folder),
        documents=documents,
        transitions=Committer(states, journal, documents, URGENT_SECONDS),
        settle=settings.settle,
    )
    publisher = _publisher(settings)
    beside: list[Callable[[], Coroutine[Any, Any, None]]] = [reader.run] if reader else []
    if publisher is not None:
        beside.append(lambda: _keep_routes(settings, publisher))
    return Keeping(
        experiments=f"config={settings.config}",
        place=f"state={folder}",
        reconciler=reconciler,
        lease=Lease(folder),
        renderings=renderings,
        reader=reader,
        guard=(Guard(journal=journal, documents=documents, settle=settings.settle), states),
        publisher=publisher,
        beside=tuple(beside),
    )


def _keeping(settings: Settings, trial: Callable[[Sequence[Any]], str] | None) -> Keeping:
    if settings.kubernetes is None:
        return in_files(settings)
    # Imported here, because a controller with files needs no HTTP client for the API server.
    from controller.wiring_cluster import in_cluster

    return in_cluster(settings, trial)


async def _serve(settings: Settings, trial: Callable[[Sequence[Any]], str] | None) -> None:
    telemetry = Telemetry()
    keeping = _keeping(settings, trial)
    source: Source = keeping.source or _source(settings)
    telemetry.add_renderings(keeping.renderings)
    if keeping.reader is not None:
        source = NotingSource(source, keeping.reader.note)
    warmer = Warmer(settings.warmups, on_request=telemetry.record_warmup_request)
    prober = Prober(settings.warmups)
    checker = Checker(settings.url)
    controller = Controller(
        settings,
        source=source,
        reconciler=keeping.reconciler,
        lease=keeping.lease,
        telemetry=telemetry,
        warmer=warmer,
        prober=prober,
        checker=checker,
        guard=keeping.guard,
        attendant=keeping.attendant,
        wake=keeping.wake,
        notify=notify,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    routes = keeping.publisher.status if keeping.publisher else None
    if routes is not None:
        telemetry.add_routes(routes)
    if keeping.filters is not None:
        telemetry.add_filters(keeping.filters)
    listen = settings.http_listen
    http = HttpServer(listen, controller, telemetry, routes, keeping.renderings, keeping.filters) if listen else None
    beside = [asyncio.create_task(each()) for each in keeping.beside]
    try:
        address = await http.start() if http else "none"
        found = "pods" if keeping.source is not None else len(settings.envoys)
        where = f"envoys={found}" if settings.url is None else f"prometheus={settings.url}"
        sys.stderr.write(f"abmesh controller ready: {keeping.experiments} {where} http={address} {keeping.place}\n")
        sys.stderr.flush()
        notify(READY)
        await controller.run(stop)
    finally:
        notify(STOPPING)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        if http is not None:
            await http.stop()
        await warmer.close()
        await prober.close()
        await checker.close()
        await source.close()
        await asyncio.to_thread(keeping.close)
        await asyncio.to_thread(keeping.lease.release)
