"""The controller in a cluster: its stores on Kubernetes objects. Called by :mod:`controller.wiring`."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from abmesh.experiment.errors import SettingsError, StateError
from abmesh.kube.client import Client
from abmesh.kube.connection import connect
from abmesh.kube.resources import ENDPOINT_SLICES, EXPERIMENTS
from abmesh.kube.watching import follow
from abmesh.mesh.addresses import parse_ip_endpoint
from abmesh.mesh.istio.wanted import Settings as FilterSettings
from abmesh.text import quoted
from controller.cluster.filters.checking import Checks, Trial
from controller.cluster.filters.keeper import Keeper
from controller.cluster.filters.pods import PodFleet, statistics_query
from controller.cluster.filters.reading import Reading
from controller.cluster.filters.rejects import Rejects
from controller.cluster.filters.writing import Writer
from controller.cluster.servers import SERVICE, ServiceServers, sidecar_servers
from controller.cluster.stores import stores
from controller.keeping import Keeping
from controller.settings import Filters, Settings
from controller.sources.base import Source
from controller.sources.envoy_admin import EnvoyAdminSource
from controller.sources.renderings import Renderings

log = logging.getLogger("abmesh.controller")

REQUEST_SECONDS = 2.0
"""Time limit of one request; three renewals of the Lease may fail before its holder stops acting."""


AGAIN_SECONDS = 1.0

_SERVER: Final = re.compile(
    r"(?P<name>[a-z0-9-]+)\.(?P<namespace>[a-z0-9-]+)\.(?P<rest>[a-z0-9.-]+):(?P<port>[0-9]{1,5})"
)


def in_cluster(settings: Settings, trial: Trial | None = None) -> Keeping:
    """Build what a controller in a cluster is built on. Called from the event loop.

    Args:
        settings: with a cluster.
        trial: lets a real Envoy read EnvoyFilters; None where there is no Envoy.

    Raises:
        NotConfigured: there is no way to an API server.
        SettingsError: the server's address is none.
    """
    assert settings.kubernetes is not None
    connection = connect(settings.kubernetes.context)
    client = Client(connection, REQUEST_SECONDS)
    wake = asyncio.Event()
    watched = settings.kubernetes.namespace
    gateways = settings.kubernetes.filters
    placing = filter_settings(gateways)
    in_service = ServiceServers(placing.server_namespace, placing.server_service)
    kept = stores(
        client,
        connection.namespace,
        watched=watched,
        settle=settings.settle,
        on_change=wake.set,
        servers=lambda: sidecar_servers(reading.pods, lambda: fleet.scopes) if placing.server_socket else in_service(),
    )
    serving = kept.serving
    assert serving is not None
    namespaces = (*gateways.gateway_namespaces, *gateways.caller_namespaces)
    reading = Reading(connection, namespaces, gateways.cluster_domain, lambda: keeper.wake())
    rejects = Rejects(gateways.istiod)
    fleet = PodFleet(reading.pods, parse_ip_endpoint(placing.statistics, "statistics").port)
    keeper = Keeper(
        kept.lease,
        kept.experiments,
        kept.documents,
        reading,
        Writer(client, connection.namespace, kept.lease, gateways.owner),
        rejects,
        placing,
        fleet,
        Checks(trial, namespaces),
        manage=gateways.manage,
        listener_updates=gateways.listener_updates,
        on_change=wake.set,
    )
    kept.attendant.filters = serving.filters = keeper

    async def watch() -> None:
        await kept.experiments.follow(follow(connection, EXPERIMENTS, watched))

    async def watch_servers() -> None:
        labels = f"{SERVICE}={placing.server_service}"
        async for listing in follow(connection, ENDPOINT_SLICES, placing.server_namespace, labels=labels):
            in_service.take(listing)

    async def keep() -> None:
        try:
            await keeper.run()
        finally:
            await rejects.close()

    def close() -> None:
        if kept.lease.held:
            with suppress(StateError):  # half a minute of evidence at most
                kept.evidence.flush()

    return Keeping(
        experiments=f"cluster={connection.server}",
        place=f"namespace={connection.namespace} identity={kept.lease.identity}",
        reconciler=kept.reconciler,
        lease=kept.lease,
        renderings=Renderings("not known in a cluster: the controller writes Istio's configuration"),
        attendant=kept.attendant,
        wake=wake,
        beside=(
            watch,
            lambda: forever(reading.run),
            keep,
            lambda: forever(serving.run),
            *(() if placing.server_socket else (lambda: forever(watch_servers),)),
        ),
        close=close,
        source=_source(settings, fleet),
        filters=keeper.status,
    )


async def forever(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do something that never ends, again if a bug ends it."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("cannot follow the cluster; this is a bug in abmesh; trying again")
        await asyncio.sleep(AGAIN_SECONDS)


def filter_settings(filters: Filters) -> FilterSettings:
    """What the renderer of EnvoyFilters has to know of the installation.

    Raises:
        SettingsError: the server's address is none.
    """
    common = FilterSettings(
        gateway_namespaces=filters.gateway_namespaces,
        root_namespace=filters.root_namespace,
        cluster_domain=filters.cluster_domain,
    )
    kind, _, path = filters.server.partition(":")
    if kind == "unix" and path.startswith("/"):
        return replace(common, server_socket=path)
    found = _SERVER.fullmatch(filters.server.removesuffix("."))
    if found is None or found["rest"] != f"svc.{filters.cluster_domain}":
        raise SettingsError(
            f"{quoted(filters.server)} is not where proxies reach the server; write "
            f"NAME.NAMESPACE.svc.{filters.cluster_domain}:PORT, or unix:/PATH for a server in their own pods"
        )
    port = int(found["port"])
    return replace(common, server_service=found["name"], server_namespace=found["namespace"], server_port=port)


def _source(settings: Settings, fleet: PodFleet) -> Source | None:
    """Pods, unless the settings name Envoys, or a Prometheus server."""
    if settings.url is not None or settings.envoys:
        return None
    return EnvoyAdminSource(fleet, timeout=settings.timeout.total_seconds(), query=statistics_query)
