"""``abmesh ext-proc`` and ``abmesh controller``: the two processes that run beside Envoy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abmesh.cli import filter_options as options
from abmesh.cli.options import (
    CONFIG,
    ConfigOption,
    ContextOption,
    KubernetesOption,
    NamespaceOption,
    StateOption,
    duration,
)
from abmesh.experiment.names import ENV_TRANSPORT

if TYPE_CHECKING:
    from abmesh.mesh.istio.envoy_filters import EnvoyFilter

DEFAULT_ENVOY = "http://127.0.0.1:9901"


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("ext-proc")(ext_proc)
    app.command()(controller)


def ext_proc(
    config: ConfigOption = CONFIG,
    listen: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT or unix:PATH to listen on; repeatable.", show_default="127.0.0.1:50051"),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="HOST:PORT on which to serve Prometheus metrics, or off.", show_default="off")
    ] = None,
    workers: Annotated[int, typer.Option(help="Worker processes that share the port, at most 64.")] = 1,
    drain: Annotated[str, typer.Option(help="Longest wait for running requests at shutdown.")] = "10s",
    transport: Annotated[
        str | None,
        typer.Option(envvar=ENV_TRANSPORT, help="gRPC implementation: grpcio or nghttp2.", show_default="nghttp2"),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="The server's certificate; PEM.", show_default="plain text, without TLS")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="Private key of the server's certificate; PEM.", show_default=False)
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(help="CA that clients' certificates must be signed by; PEM.", show_default="accept any client"),
    ] = None,
    max_connections: Annotated[int, typer.Option(help="Most connections of one worker, at most 65,536.")] = 1024,
    kubernetes: KubernetesOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    event_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Web origin whose pages may send events from another site; repeatable; with --kubernetes.",
            show_default="none",
        ),
    ] = None,
) -> None:
    """Run the external-processing server, which assigns users for Envoy."""
    from ext_proc.server import run
    from ext_proc.settings import (
        DEFAULT_LISTEN,
        DEFAULT_TRANSPORT,
        Settings,
        parse_kubernetes,
        parse_metrics,
        parse_tls,
        parse_transport,
    )

    settings = Settings(
        config=config,
        listen=tuple(listen or (DEFAULT_LISTEN,)),
        metrics=parse_metrics(metrics),
        workers=workers,
        drain_seconds=duration(drain).total_seconds(),
        transport=parse_transport(transport or DEFAULT_TRANSPORT),
        tls=parse_tls(tls_cert, tls_key, tls_client_ca),
        max_connections=max_connections,
        kubernetes=parse_kubernetes(kubernetes, namespace, context, tuple(event_origin or ())),
    )
    raise typer.Exit(run(settings))


def controller(
    config: ConfigOption = CONFIG,
    envoy: Annotated[
        list[str] | None,
        typer.Option(
            help="Admin endpoint of an Envoy; repeatable.",
            show_default=f"{DEFAULT_ENVOY}; the pods of the gateways with --kubernetes",
        ),
    ] = None,
    warmup: Annotated[
        list[str] | None, typer.Option(help="Warm-up listener of an Envoy; repeatable.", show_default="none")
    ] = None,
    state: StateOption = None,
    state_group: Annotated[
        str | None,
        typer.Option(help="Group whose members may use the state folder, too.", show_default="its owner only"),
    ] = None,
    interval: Annotated[str, typer.Option(help="Time between two ticks.")] = "5s",
    settle: Annotated[
        str, typer.Option(help="Time for new weights to reach every server and Envoy; not counted as evidence.")
    ] = "5s",
    timeout: Annotated[str, typer.Option(help="Longest wait for an Envoy or the Prometheus server to answer.")] = "5s",
    http: Annotated[
        str | None, typer.Option(help="HOST:PORT on which to serve /metrics and /healthz.", show_default="off")
    ] = None,
    source: Annotated[str, typer.Option(help="Source of Envoys' statistics: envoy or prometheus.")] = "envoy",
    url: Annotated[
        str | None,
        typer.Option(help="Address of the Prometheus server; only for --source prometheus.", show_default=False),
    ] = None,
    selector: Annotated[
        str, typer.Option(help="Label matchers that select the Prometheus targets that are Envoys.")
    ] = 'job="envoy"',
    max_age: Annotated[str, typer.Option(help="Oldest scrape of a Prometheus target to accept.")] = "2m",
    routes_file: Annotated[
        Path | None,
        typer.Option(
            help="Routes file of an Envoy on this machine to keep up to date; see `abmesh render envoy`.",
            show_default="none",
        ),
    ] = None,
    kubernetes: KubernetesOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    server: options.ServerOption = options.SERVER,
    cluster_domain: options.DomainOption = options.DOMAIN,
    istiod: options.IstiodOption = options.ISTIOD,
    root_namespace: options.RootOption = options.ROOT,
    owner: options.OwnerOption = "",
    gateway_namespace: options.GatewaysOption = None,
    caller_namespace: options.CallersOption = None,
    manage_filters: options.ManageOption = True,
    listener_updates: options.ListenersOption = True,
) -> None:
    """Run the controller, which moves weights on evidence from Envoy."""
    from controller.settings import Filters, Settings, parse_kubernetes
    from controller.wiring import run

    filters = Filters(
        server=server,
        cluster_domain=cluster_domain,
        istiod=istiod,
        root_namespace=root_namespace,
        owner=owner,
        gateway_namespaces=tuple(gateway_namespace or ()),
        caller_namespaces=tuple(caller_namespace or ()),
        manage=manage_filters,
        listener_updates=listener_updates,
    )
    default = (DEFAULT_ENVOY,) if source == "envoy" and not kubernetes else ()
    settings = Settings(
        config=config,
        state_dir=Path(state) if state else None,
        state_group=state_group,
        envoys=tuple(envoy or default),
        warmups=tuple(warmup or ()),
        interval=duration(interval),
        settle=duration(settle),
        timeout=duration(timeout),
        http_listen=http,
        source=source,
        url=url,
        selector=selector,
        max_age=duration(max_age),
        routes_file=routes_file.absolute() if routes_file else None,
        kubernetes=parse_kubernetes(kubernetes, namespace, context, filters),
    )
    raise typer.Exit(run(settings, _trial() if kubernetes else None))


def _trial() -> Callable[[Sequence[EnvoyFilter]], str] | None:
    """Lets the Envoy beside this Python, or on the PATH, read EnvoyFilters before they are applied."""
    from abmesh.local.istio_check import reason_of
    from abmesh.local.processes import ProcessError, find_envoy

    try:
        program = find_envoy()
    except ProcessError:
        return None
    return lambda filters: reason_of(filters, program)
