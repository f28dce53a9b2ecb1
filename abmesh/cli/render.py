"""``abmesh render``: the document as configuration for a mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abmesh.cli.options import CONFIG, ConfigOption, duration
from abmesh.cli.render_istio import istio


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    group = typer.Typer(name="render", help="Render the document as configuration for a mesh.", no_args_is_help=True)
    group.command("envoy")(envoy)
    group.command("istio")(istio)
    group.callback()(_group)
    app.add_typer(group)


def _group() -> None:
    """Render the document as configuration for a mesh."""


def envoy(
    config: ConfigOption = CONFIG,
    listen: Annotated[str, typer.Option(help="Address on which Envoy serves clients.")] = "0.0.0.0:10000",
    admin: Annotated[str, typer.Option(help="Address of Envoy's admin endpoint; loopback only.")] = "127.0.0.1:9901",
    warmup: Annotated[
        str, typer.Option(help="Address of Envoy's warm-up listener; loopback only, '' for none.")
    ] = "127.0.0.1:9902",
    ext_proc: Annotated[
        list[str] | None,
        typer.Option(
            "--ext-proc", help="The server's HOST:PORT or unix:PATH; repeatable.", show_default="127.0.0.1:50051"
        ),
    ] = None,
    message_timeout: Annotated[str, typer.Option(help="Longest wait for the server, per request.")] = "500ms",
    trusted_hops: Annotated[
        int,
        typer.Option(help="Number of proxies before Envoy whose x-forwarded-for and x-forwarded-proto are trusted."),
    ] = 0,
    streams_per_connection: Annotated[
        int,
        typer.Option(
            help="Most concurrent requests on one connection to the server. Use 2 if the server has several workers, "
            "so that each gets a share."
        ),
    ] = 100,
    ext_proc_ca: Annotated[
        str,
        typer.Option(
            help="CA that signed the server's certificate: a PEM file, as Envoy sees it.",
            show_default="plain text, without TLS",
        ),
    ] = "",
    ext_proc_name: Annotated[
        str, typer.Option(help="Name that the server's certificate must have.", show_default="the server's hosts")
    ] = "",
    ext_proc_cert: Annotated[
        str, typer.Option(help="Envoy's client certificate, if the server asks for one; PEM.", show_default=False)
    ] = "",
    ext_proc_key: Annotated[
        str, typer.Option(help="Private key of Envoy's client certificate; PEM.", show_default=False)
    ] = "",
    max_heap_mib: Annotated[
        int, typer.Option(help="MiB of memory that Envoy may use; choose less than its container has.")
    ] = 2048,
    routes_file: Annotated[
        Path | None,
        typer.Option(
            help="Let Envoy read its routes from this file, .json or .yaml. Writes it now; `abmesh controller "
            "--routes-file` or `abmesh routes --follow` keeps it up to date.",
            show_default="routes in the bootstrap",
        ),
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(help="Merge into a route of this Envoy configuration, YAML or JSON, and print the result."),
    ] = None,
    listener: Annotated[str, typer.Option(help="With --into: the listener's name.", show_default="the only one")] = "",
    virtual_host: Annotated[
        str, typer.Option(help="With --into: the virtual host's name.", show_default="the only one")
    ] = "",
    route: Annotated[str, typer.Option(help="With --into: the route's name.", show_default="the only one")] = "",
    before: Annotated[
        str,
        typer.Option(help="With --into: the filter that abmesh's come before.", show_default="where they are, or last"),
    ] = "",
    unassigned: Annotated[
        str,
        typer.Option(
            help="With --into: where requests without a variant go: the route's own destination (route) or the "
            "control.",
            show_default="route; control if the route has several destinations",
        ),
    ] = "",
    only: Annotated[
        list[str] | None,
        typer.Option(help="Render only filters, routes, clusters or access-logs; repeatable.", show_default="all"),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="With --into: take abmesh out of the route again.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="With --into: where the result goes.", show_default="standard output")
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="With --into: replace the file.")] = False,
) -> None:
    """Print Envoy's bootstrap configuration, or merge into your own."""
    from abmesh.cli.render_into import IntoOptions, render_into
    from abmesh.mesh.bootstrap import render_bootstrap
    from abmesh.mesh.native import is_native
    from abmesh.mesh.options import RenderOptions, ServerTls
    from abmesh.mesh.yaml_text import to_yaml
    from controller.routes.envoy_file import EnvoyRoutes, document_store, secrets_shown

    secret = ext_proc_ca or ext_proc_name or ext_proc_cert or ext_proc_key
    tls = ServerTls(ext_proc_ca, ext_proc_name, ext_proc_cert, ext_proc_key) if secret else None
    options = RenderOptions(
        listen=listen,
        admin=admin,
        warmup=warmup,
        ext_proc=tuple(ext_proc or ("127.0.0.1:50051",)),
        message_timeout=duration(message_timeout),
        trusted_hops=trusted_hops,
        streams_per_connection=streams_per_connection,
        ext_proc_tls=tls,
        max_heap=max_heap_mib * 1024**2,
        routes_file="" if routes_file is None else str(routes_file.absolute()),
    )
    flags = IntoOptions(
        into, listener, virtual_host, route, tuple(only or ()), before, unassigned, remove, output, in_place
    )
    flags.check()
    if flags.remove:
        render_into(None, options, flags)
        return
    snapshot = document_store(config).read()
    if flags.given:
        render_into(snapshot.document, options, flags)
        return
    bootstrap = to_yaml(render_bootstrap(snapshot.document, options))
    if options.routes_file:
        EnvoyRoutes(Path(options.routes_file)).begin(snapshot)
    elif stuck := [experiment.name for experiment in snapshot.document.experiments if is_native(experiment)]:
        typer.echo(
            f"abmesh: warning: lane native without --routes-file: {', '.join(stuck)}: this Envoy keeps the current "
            "weights until you render its bootstrap again and restart it, whatever a rollout or `abmesh weights` does",
            err=True,
        )
    if secrets := secrets_shown(snapshot):
        holder = options.routes_file or "this bootstrap"
        typer.echo(
            f"abmesh: warning: {holder} holds {secrets}, because Envoy hashes users itself in the native lane: keep it "
            "as secret as the salt; Envoy's admin endpoint shows it to every process that reaches it",
            err=True,
        )
    typer.echo(bootstrap, nl=False)
