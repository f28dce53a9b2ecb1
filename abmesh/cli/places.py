"""Where a command works: on a document and a state folder, or on a cluster. Every command asks here for its ports."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from abmesh.cli.options import CONFIG
from abmesh.experiment.errors import SettingsError
from abmesh.experiment.names import ENV_CONFIG, ENV_STATE

if TYPE_CHECKING:
    from controller.cluster.place import Cluster
    from controller.rollout.place import Place


class Target(NamedTuple):
    """The cluster that the options name.

    Attributes:
        kubernetes: whether to use one at all.
        namespace: of the Experiments; None for the context's.
        context: of the kubeconfig; None for the current one.
        abmesh: the namespace where abmesh runs.
    """

    kubernetes: bool
    namespace: str | None
    context: str | None
    abmesh: str


def place_of(config: Path, state: Path | None, target: Target, *, everywhere: bool = False) -> Place:
    """The place that a command works on.

    Args:
        config: the document.
        state: the state folder; None for the one beside the document.
        target: the cluster, if one is to be used.
        everywhere: of a cluster: all namespaces.

    Raises:
        SettingsError: options of the one are given with the other.
        NotConfigured: there is no way to a cluster.
    """
    if not target.kubernetes:
        for option, value in (("--namespace", target.namespace), ("--context", target.context)):
            if value is not None:
                raise SettingsError(f"{option} goes with --kubernetes")
        if everywhere:
            raise SettingsError("--all-namespaces goes with --kubernetes")
        from controller.rollout.files import Files
        from controller.settings import Settings

        return Files(Settings(config=config, state_dir=state))
    # The environment may name files for other commands; the option --kubernetes says more.
    for option, given, usual in (
        ("--config", config, (CONFIG, _environment(ENV_CONFIG))),
        ("--state", state, (None, _environment(ENV_STATE))),
    ):
        if given not in usual:
            raise SettingsError(f"{option} is for files; with --kubernetes, the cluster keeps everything")
    return cluster_of(target, everywhere=everywhere)


def find(experiment: str, config: Path, state: Path | None, target: Target) -> tuple[Place, str]:
    """The place of one experiment, and its whole name there; in a cluster it may be given as ``NAMESPACE/NAME``.

    Raises:
        SettingsError: as for :func:`place_of`; or another namespace is named by an option.
        NotConfigured: there is no way to a cluster.
    """
    namespace, slash, _ = experiment.partition("/")
    if target.kubernetes and slash:
        if target.namespace not in (None, namespace):
            raise SettingsError(f"{experiment} is not in --namespace {target.namespace}; leave one of the two out")
        target = target._replace(namespace=namespace)
    place = place_of(config, state, target)
    return place, place.name(experiment)


def cluster_of(target: Target, *, everywhere: bool = False) -> Cluster:
    """The cluster that the options name.

    Raises:
        NotConfigured: there is no way to it.
    """
    from abmesh.kube.client import Client
    from abmesh.kube.connection import connect
    from controller.cluster.place import Cluster

    connection = connect(target.context, target.namespace)
    return Cluster(Client(connection), connection.namespace, target.abmesh, everywhere=everywhere)


def _environment(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None
