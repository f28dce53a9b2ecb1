"""``abmesh uninstall``: takes abmesh out of the proxies of a cluster, before its controller goes."""

from __future__ import annotations

from typing import Annotated

import typer

from abmesh.cli.options import OWN_NAMESPACE, ContextOption, KubernetesOption
from abmesh.experiment.errors import SettingsError
from abmesh.experiment.names import ENV_NAMESPACE


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(uninstall)


def uninstall(
    kubernetes: KubernetesOption = False,
    owner: Annotated[
        str, typer.Option(help="The controller's ClusterRole, which owns the EnvoyFilters.")
    ] = "abmesh-controller",
    gateway_namespace: Annotated[
        list[str] | None, typer.Option(help="A namespace of gateways; repeatable.", show_default="none")
    ] = None,
    caller_namespace: Annotated[
        list[str] | None, typer.Option(help="A namespace of callers; repeatable.", show_default="none")
    ] = None,
    context: ContextOption = None,
    abmesh_namespace: Annotated[
        str | None,
        typer.Option(
            "--abmesh-namespace",
            envvar=ENV_NAMESPACE,
            help="Namespace where abmesh runs.",
            show_default="the pod's; elsewhere abmesh",
        ),
    ] = None,
) -> None:
    """Take abmesh out of the gateways and sidecars of a cluster: traffic is as it was without it.

    It takes the controller's Lease, so that nothing is made anew, and deletes the EnvoyFilters that are abmesh's in the
    namespaces that are named.
    Experiments, and what was counted for them, stay. It may be run again. `helm uninstall` runs it.
    """
    from abmesh.kube.client import Client
    from abmesh.kube.connection import connect, in_pod
    from controller.cluster.removal import remove

    if not kubernetes:
        raise SettingsError("uninstall is for a cluster; add --kubernetes")
    namespaces = list(dict.fromkeys([*(gateway_namespace or ()), *(caller_namespace or ())]))
    connection = connect(context)
    own = abmesh_namespace or (connection.namespace if in_pod(context) else OWN_NAMESPACE)
    remove(Client(connection), own, owner, namespaces, typer.echo)
