"""``render``: the document as configuration of a mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abmesh.cli.options import CONFIG, ConfigOption, duration


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    group = typer.Typer(name="render", help="Print the document as configuration of a mesh.", no_args_is_help=True)
    group.command("envoy")(envoy)
    group.callback()(_group)
    app.add_typer(group)


def _group() -> None:
    """Print the document as configuration of a mesh."""


def envoy(
    config: ConfigOption = CONFIG,
    listen: Annotated[str, typer.Option(help="Where Envoy serves clients.")] = "0.0.0.0:10000",
    admin: Annotated[str, typer.Option(help="Where Envoy's admin endpoint listens; loopback only.")] = "127.0.0.1:9901",
    warmup: Annotated[
        str, typer.Option(help="Where the controller warms new versions; loopback only, '' for nowhere.")
    ] = "127.0.0.1:9902",
    ext_proc: Annotated[
        list[str] | None,
        typer.Option("--ext-proc", help="HOST:PORT or unix:PATH of the server; may be repeated. [127.0.0.1:50051]"),
    ] = None,
    message_timeout: Annotated[str, typer.Option(help="Longest wait for the server, per request.")] = "500ms",
    trusted_hops: Annotated[
        int, typer.Option(help="Proxies in front of Envoy whose x-forwarded-for and x-forwarded-proto are believed.")
    ] = 0,
    streams_per_connection: Annotated[
        int,
        typer.Option(
            help="Requests asked about at once on one connection to the server; where it has several workers, say 2, "
            "so that all of them get some."
        ),
    ] = 100,
    ext_proc_ca: Annotated[
        str,
        typer.Option(
            help="Who may vouch for the server, PEM, as Envoy sees the file. [plain text]", show_default=False
        ),
    ] = "",
    ext_proc_name: Annotated[
        str, typer.Option(help="What the server's certificate must be for. [its hosts]", show_default=False)
    ] = "",
    ext_proc_cert: Annotated[
        str, typer.Option(help="Envoy's certificate for a server that asks for one, PEM.", show_default=False)
    ] = "",
    ext_proc_key: Annotated[str, typer.Option(help="Its private key, PEM.", show_default=False)] = "",
    routes_file: Annotated[
        Path | None,
        typer.Option(
            help="Let Envoy take its routes from this file, which is written now, and kept by `abmesh controller "
            "--routes-file` or `abmesh routes --follow`; .json or .yaml. [routes in the bootstrap]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print Envoy's bootstrap for the document."""
    from abmesh.experiment.store import FileStore
    from abmesh.mesh.bootstrap import render_bootstrap
    from abmesh.mesh.native import is_native
    from abmesh.mesh.options import RenderOptions, ServerTls
    from abmesh.mesh.yaml_text import to_yaml
    from controller.routes.envoy_file import EnvoyRoutes

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
        routes_file="" if routes_file is None else str(routes_file.absolute()),
    )
    snapshot = FileStore(config).read()
    bootstrap = to_yaml(render_bootstrap(snapshot.document, options))
    if options.routes_file:
        EnvoyRoutes(Path(options.routes_file)).begin(snapshot)
    elif stuck := [experiment.name for experiment in snapshot.document.experiments if is_native(experiment)]:
        typer.echo(
            f"abmesh: warning: lane native without --routes-file: {', '.join(stuck)}: this Envoy's weights stay as "
            "they are now, whatever a rollout or `abmesh weights` does, until it is rendered again and restarted",
            err=True,
        )
    typer.echo(bootstrap, nl=False)
