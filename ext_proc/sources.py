"""Where this server's experiments come from. Called by :mod:`ext_proc.serving`."""

from __future__ import annotations

import logging

from abmesh.experiment.secrets import read_all
from abmesh.experiment.source import Source
from abmesh.experiment.store import FileStore
from ext_proc.settings import Settings

log = logging.getLogger("ext_proc")


def source_of(settings: Settings) -> Source:
    """The file or the cluster that the settings name.

    Raises:
        NotConfigured: there is no way to the cluster's API server.
    """
    wanted = settings.kubernetes
    if wanted is None:
        return FileStore(settings.config, warn=log.warning, secrets=read_all, interval=settings.poll_interval)
    # Late imports: a server of a file needs none of it.
    from abmesh.kube.connection import connect
    from abmesh.kube.store import KubeStore

    connection = connect(wanted.context)
    log.info("experiments of %s at %s", wanted.namespace or "all namespaces", connection.server)
    return KubeStore(connection, wanted.namespace, wanted.event_origins)
