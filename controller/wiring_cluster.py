"""The controller in a cluster: its stores on Kubernetes objects. Called by :mod:`controller.wiring`."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from abmesh.experiment.errors import StateError
from abmesh.kube.client import Client
from abmesh.kube.connection import connect
from abmesh.kube.resources import EXPERIMENTS
from abmesh.kube.watching import follow
from controller.cluster.stores import stores
from controller.keeping import Keeping
from controller.settings import Settings
from controller.sources.renderings import Renderings

log = logging.getLogger("abmesh.controller")

REQUEST_SECONDS = 2.0
"""Time limit of one request; three renewals of the Lease may fail before its holder stops acting."""


def in_cluster(settings: Settings) -> Keeping:
    """Build what a controller in a cluster is built on. Called from the event loop.

    Raises:
        NotConfigured: there is no way to an API server.
    """
    assert settings.kubernetes is not None
    connection = connect(settings.kubernetes.context)
    client = Client(connection, REQUEST_SECONDS)
    wake = asyncio.Event()
    watched = settings.kubernetes.namespace
    kept = stores(client, connection.namespace, watched=watched, settle=settings.settle, on_change=wake.set)

    async def watch() -> None:
        await kept.experiments.follow(follow(connection, EXPERIMENTS, watched))

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
        beside=(watch,),
        close=close,
    )
