"""``abmesh render istio``: Experiments as EnvoyFilters, for Git."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abmesh.cli.options import duration

if TYPE_CHECKING:
    from abmesh.mesh.istio.render import Rendered
    from abmesh.mesh.istio.wanted import Placed


def istio(
    experiments: Annotated[
        list[Path], typer.Option("--experiments", "-e", help="File of Experiments, YAML; repeatable.")
    ],
    resources: Annotated[
        list[Path],
        typer.Option(
            "--resources",
            "-r",
            help="File of what they name: VirtualServices, HTTPRoutes, Gateways, DestinationRules, Services; other "
            "kinds are left out. Repeatable.",
        ),
    ],
    namespace: Annotated[str, typer.Option(help="Where objects are that do not say it.")] = "default",
    server_namespace: Annotated[str, typer.Option(help="Namespace of the external-processing server.")] = "abmesh",
    server_service: Annotated[str, typer.Option(help="Name of the server's Service.")] = "abmesh-ext-proc",
    server_port: Annotated[int, typer.Option(help="Port of the server's Service.")] = 50051,
    server_socket: Annotated[
        str,
        typer.Option(help="Path of the Unix socket of a server in the gateway's pod.", show_default="the Service"),
    ] = "",
    gateway_namespace: Annotated[
        list[str] | None,
        typer.Option(help="Namespace whose gateways may be changed; repeatable.", show_default="all"),
    ] = None,
    root_namespace: Annotated[str, typer.Option(help="Istio's own namespace.")] = "istio-system",
    istio_version: Annotated[str, typer.Option(help="Version of Istio's control plane; 1.30 or newer.")] = "1.31.0",
    event_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Web origin whose pages may send events, such as https://app.example; repeatable.",
            show_default="none",
        ),
    ] = None,
    message_timeout: Annotated[str, typer.Option(help="Longest wait for the server, per request.")] = "500ms",
) -> None:
    """Print the EnvoyFilters that split your routes, without touching the routes.

    Everything or nothing is printed: if one Experiment cannot be placed, the reasons are. Where there is an Envoy
    beside this Python or on the PATH, it reads the result first.
    """
    from abmesh.experiment.errors import RenderError
    from abmesh.mesh.istio.printed import to_text
    from abmesh.mesh.istio.reading import read
    from abmesh.mesh.istio.render import render
    from abmesh.mesh.istio.wanted import Settings

    settings = Settings(
        server_namespace=server_namespace,
        server_service=server_service,
        server_port=server_port,
        server_socket=server_socket,
        gateway_namespaces=None if gateway_namespace is None else tuple(gateway_namespace),
        root_namespace=root_namespace,
        istio_version=istio_version,
        event_origins=tuple(event_origin or ()),
        message_timeout=duration(message_timeout),
    )
    placed = [item for path in experiments for item in _experiments(path, namespace)]
    found = read([item for path in resources for item in _objects(path, namespace)])
    rendered = render(placed, found, settings)
    for note in rendered.notes:
        typer.echo(f"abmesh: note: {note.reason}: {note.experiment}: {note.message}", err=True)
    if rendered.refusals:
        lines = [f"{item.experiment}: {item.reason}: {item.message}" for item in rendered.refusals]
        raise RenderError("\n".join(lines))
    _check(rendered)
    typer.echo(to_text(rendered.filters), nl=False)


def _experiments(path: Path, namespace: str) -> list[Placed]:
    from abmesh.experiment.errors import RenderError
    from abmesh.kube.objects import parse_manifest
    from abmesh.mesh.istio.placing import place

    found = parse_manifest(_text(path), str(path), namespace)
    if not found:
        raise RenderError(
            f"{path}: found no Experiment; allowed: objects of kind Experiment, apiVersion abmesh.dev/v1alpha1"
        )
    return [place(item.namespace, item.spec, item.experiment) for item in found]


def _objects(path: Path, namespace: str) -> Sequence[dict[str, Any]]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    from abmesh.experiment.errors import RenderError

    try:
        objects = [item for item in YAML(typ="safe", pure=True).load_all(_text(path)) if item is not None]
    except YAMLError as error:
        raise RenderError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    for item in objects:
        if isinstance(item, dict) and isinstance(item.get("metadata"), dict):
            item["metadata"].setdefault("namespace", namespace)
    return objects


def _text(path: Path) -> str:
    from abmesh.experiment.errors import StartError

    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise StartError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise StartError(f"cannot read {path}: it is not UTF-8 text") from None


def _check(rendered: Rendered) -> None:
    """Refuse what Istio or Envoy would not take; a real Envoy is asked where there is one."""
    from abmesh.experiment.errors import RenderError
    from abmesh.local.istio_check import check_filters
    from abmesh.local.processes import ProcessError, find_envoy
    from abmesh.mesh.istio.strict import problems

    if wrong := [line for item in rendered.filters for line in problems(item.body, rendered.clusters)]:
        raise RenderError("\n".join(wrong))
    try:
        program = find_envoy()
    except ProcessError:
        typer.echo("abmesh: note: no Envoy was found, so none has read the result", err=True)
        return
    check_filters(rendered.filters, program)
