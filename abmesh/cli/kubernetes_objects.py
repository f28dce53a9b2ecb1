"""``abmesh convert``, and what ``validate`` and ``schema`` do for Kubernetes' objects."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from abmesh.experiment.errors import RefusedError

if TYPE_CHECKING:
    from abmesh.cli.places import Target
    from abmesh.experiment.model import Experiment
    from abmesh.kube.spec_parts import Backend, RouteRef

_ROUTE_FORM: Final = "KIND/NAME or KIND/NAME/RULE, such as HTTPRoute/chat/v1"
_BACKEND_FORM: Final = "CLUSTER=SERVICE:PORT, or SERVICE.NAMESPACE:PORT or SERVICE/SUBSET:PORT"
_BACKEND: Final = re.compile(r"([^=]+)=([^./:=]+)(?:\.([^./:=]+))?(?:/([^./:=]+))?:([0-9]{1,5})")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(convert)


def convert(
    file: Annotated[Path, typer.Argument(help="An experiments document, or Experiments of Kubernetes.")],
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Where objects are that do not say it, and where new ones go.")
    ] = "default",
    route: Annotated[
        list[str] | None,
        typer.Option(help="Whose traffic an object splits; may be given again.", metavar="KIND/NAME[/RULE]"),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="The Service of a cluster; may be given again.", metavar="CLUSTER=SERVICE[/SUBSET]:PORT"),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help="Leave out a field that the other form has no place for; may be given again."),
    ] = None,
) -> None:
    """Print a document's experiments as objects of Kubernetes, or objects as a document.

    What only one of the two can hold is refused by name, with what to do about it.
    """
    from abmesh.experiment.codec import parse
    from abmesh.kube import convert as converting
    from abmesh.kube import objects, yaml_out

    text = read_text(file)
    fields = [name for item in without or () for name in item.split(",")]
    if objects.is_manifest(text):
        for given, option in ((route, "--route"), (backend, "--backend")):
            if given:
                raise typer.BadParameter(f"{file} holds objects, and {option} is for a document")
        found = objects.parse_manifest(text, str(file), namespace)
        typer.echo(yaml_out.dump([converting.to_document(found, fields)]), nl=False)
        return
    routes, backends = [_route(item) for item in route or ()], dict(_backend(item) for item in backend or ())
    document = parse(text, str(file))
    typer.echo(yaml_out.dump(converting.to_objects(document, namespace, routes, backends, fields)), nl=False)


def read_text(path: Path) -> str:
    """The text of a file that holds a document or objects.

    Raises:
        StoreError: it is missing or unreadable.
        DocumentError: it is too large, or not text.
    """
    from abmesh.experiment import files
    from abmesh.experiment.errors import DocumentError, Problem
    from abmesh.experiment.yaml_nodes import LONGEST

    content = files.read(path, LONGEST)
    if len(content) > LONGEST:
        raise DocumentError(str(path), (Problem("", 0, "the file is too large", allowed=f"at most {LONGEST} bytes"),))
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DocumentError(str(path), (Problem("", line, "not valid UTF-8", allowed="UTF-8 text"),)) from error


def _route(text: str) -> RouteRef:
    from pydantic import ValidationError

    from abmesh.kube.spec_parts import RouteRef

    kind, _, rest = text.partition("/")
    name, _, rule = rest.partition("/")
    try:
        return RouteRef.model_validate({"kind": kind, "name": name, **({"rule": rule} if rule else {})})
    except ValidationError:
        raise typer.BadParameter(f"{text!r} is not a route; allowed: {_ROUTE_FORM}") from None


def _backend(text: str) -> tuple[str, Backend]:
    from pydantic import ValidationError

    from abmesh.kube.spec_parts import Backend

    found = _BACKEND.fullmatch(text)
    try:
        if found is not None:
            cluster, service, namespace, subset, port = found.groups()
            return cluster, Backend(service=service, port=int(port), subset=subset, namespace=namespace)
    except ValidationError:
        pass
    raise typer.BadParameter(f"{text!r} is not the Service of a cluster; allowed: {_BACKEND_FORM}")


def validate_manifest(text: str, source: str) -> None:
    """Check the Experiments of a manifest, and say what is worth knowing about them.

    Raises:
        DocumentError: one of them is refused; names every problem with its line.
    """
    from abmesh.kube.objects import parse_manifest

    found = parse_manifest(text, source)
    noun = "Experiment" if len(found) == 1 else "Experiments"
    names = ", ".join(f"{item.namespace}/{item.name}" for item in found)
    typer.echo(f"{source}: valid, {len(found)} {noun}: {names}")
    for item in found:
        for note in _notes(item.experiment):
            typer.echo(f"{source}: note: {item.namespace}/{item.name}: {note}")


def validate_cluster(target: Target, *, everywhere: bool) -> None:
    """Check the Experiments of a cluster, and say what is worth knowing about them.

    Raises:
        RefusedError: one of them is refused; names every problem with its field.
        KubeError: they cannot be read.
    """
    from abmesh.cli.places import cluster_of
    from abmesh.experiment.store import format_generation

    place = cluster_of(target, everywhere=everywhere)
    snapshot = place.snapshot()
    good, refused = snapshot.document.experiments, snapshot.refused
    noun = "Experiment" if len(good) == 1 else "Experiments"
    names = f": {', '.join(item.name for item in good)}" if good else ""
    typer.echo(f"{place}: {len(good)} valid {noun}{names}; generation {format_generation(snapshot.generation)}")
    for item in good:
        for note in _notes(item):
            typer.echo(f"{item.name}: note: {note}")
    if refused:
        raise RefusedError("\n".join(f"{name} is not accepted: {why}" for name, why in refused.items()))


def _notes(experiment: Experiment) -> list[str]:
    """What is worth knowing, in an object's words."""
    from abmesh.mesh.identity_notes import identity_notes
    from abmesh.mesh.istio.native_lane import native_problems

    lane = native_problems(experiment) if experiment.lane == "native" else ()
    notes = [
        note.replace("secret_salt:", "saltFile:").replace("issue_cookie.keys:", "issueCookie.keyFiles:")
        for note in identity_notes(experiment)
    ]
    return [*(f"its routes will be left alone (LaneUnsupported): {problem}" for problem in lane), *notes]
