"""Options of ``abmesh controller`` that say which EnvoyFilters of a cluster it keeps."""

from __future__ import annotations

from typing import Annotated

import typer

ServerOption = Annotated[
    str, typer.Option(help="The external-processing server as proxies reach it; with --kubernetes.")
]
DomainOption = Annotated[str, typer.Option(help="The end of Services' names; with --kubernetes.")]
IstiodOption = Annotated[
    str, typer.Option(help="istiod's monitoring endpoint, which says what proxies refuse; with --kubernetes.")
]
RootOption = Annotated[str, typer.Option(help="Istio's own namespace; with --kubernetes.")]
OwnerOption = Annotated[
    str,
    typer.Option(
        help="ClusterRole that owns the EnvoyFilters, so that they go with it; with --kubernetes.", show_default="none"
    ),
]
GatewaysOption = Annotated[
    list[str] | None,
    typer.Option(
        "--gateway-namespace",
        help="Namespace whose gateways may be changed; repeatable; with --kubernetes.",
        show_default="none",
    ),
]
CallersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--caller-namespace",
        help="Namespace whose sidecars may be changed; repeatable; with --kubernetes.",
        show_default="none",
    ),
]
ManageOption = Annotated[
    bool,
    typer.Option(
        "--manage-filters/--no-manage-filters", help="Keep the EnvoyFilters, or leave them to Git; with --kubernetes."
    ),
]
ListenersOption = Annotated[
    bool,
    typer.Option(
        "--listener-updates/--no-listener-updates",
        help="Change EnvoyFilters that drain connections, once they are there; with --kubernetes.",
    ),
]

SERVER = "abmesh-ext-proc.abmesh.svc.cluster.local:50051"
DOMAIN = "cluster.local"
ISTIOD = "http://istiod.istio-system.svc:15014"
ROOT = "istio-system"
