"""``ext-proc`` and ``controller``: the two servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abmesh.cli.options import CONFIG, ConfigOption, StateOption, duration


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("ext-proc")(ext_proc)
    app.command()(controller)


def ext_proc(
    config: ConfigOption = CONFIG,
    listen: Annotated[
        list[str] | None, typer.Option(help="HOST:PORT or unix:PATH; may be repeated. [127.0.0.1:50051]")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="HOST:PORT of Prometheus metrics, or off. [off]", show_default=False)
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that share the port, at most 64.")] = 1,
    drain: Annotated[str, typer.Option(help="Longest wait for running requests at shutdown.")] = "10s",
    transport: Annotated[
        str | None, typer.Option(help="Which gRPC server: grpcio or nghttp2. [nghttp2]", show_default=False)
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="The server's certificate, PEM. [plain text]", show_default=False)
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.", show_default=False)] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Who may vouch for clients, PEM. [any client]", show_default=False)
    ] = None,
) -> None:
    """Run the external-processing server that Envoy asks for assignments."""
    from ext_proc.server import run
    from ext_proc.settings import DEFAULT_LISTEN, DEFAULT_TRANSPORT, Settings, parse_metrics, parse_tls, parse_transport

    settings = Settings(
        config=config,
        listen=tuple(listen or (DEFAULT_LISTEN,)),
        metrics=parse_metrics(metrics),
        workers=workers,
        drain_seconds=duration(drain).total_seconds(),
        transport=parse_transport(transport or DEFAULT_TRANSPORT),
        tls=parse_tls(tls_cert, tls_key, tls_client_ca),
    )
    raise typer.Exit(run(settings))


def controller(
    config: ConfigOption = CONFIG,
    envoy: Annotated[
        list[str] | None, typer.Option(help="Admin endpoint of an Envoy; may be repeated. [http://127.0.0.1:9901]")
    ] = None,
    warmup: Annotated[
        list[str] | None,
        typer.Option(help="Warm-up listener of an Envoy; may be repeated. [none]", show_default=False),
    ] = None,
    state: StateOption = None,
    interval: Annotated[str, typer.Option(help="Time between two looks.")] = "5s",
    settle: Annotated[
        str, typer.Option(help="Time for new weights to reach every server and Envoy, not counted as evidence.")
    ] = "5s",
    timeout: Annotated[
        str, typer.Option(help="Longest wait for the answer of one Envoy, or of the Prometheus server.")
    ] = "5s",
    http: Annotated[
        str | None, typer.Option(help="HOST:PORT of /metrics and /healthz; none where left out.", show_default=False)
    ] = None,
    source: Annotated[str, typer.Option(help="Where statistics come from: envoy, or prometheus.")] = "envoy",
    url: Annotated[
        str | None, typer.Option(help="Address of the Prometheus server, for --source prometheus.", show_default=False)
    ] = None,
    selector: Annotated[str, typer.Option(help="Matchers of the server's targets that are Envoys.")] = 'job="envoy"',
    max_age: Annotated[str, typer.Option(help="How old a target's last scrape may be.")] = "2m",
    routes_file: Annotated[
        Path | None,
        typer.Option(
            help="File that an Envoy here takes its routes from (`abmesh render envoy --routes-file`). [none]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the controller that moves weights on evidence from Envoy."""
    from controller.settings import Settings
    from controller.wiring import run

    settings = Settings(
        config=config,
        state_dir=Path(state) if state else None,
        envoys=tuple(envoy or (("http://127.0.0.1:9901",) if source == "envoy" else ())),
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
    )
    raise typer.Exit(run(settings))
