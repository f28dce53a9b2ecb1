"""``abmesh validate``, ``schema`` and ``weights``: the experiments document."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abmesh.cli.kubernetes_objects import read_text, validate_cluster, validate_manifest
from abmesh.cli.options import (
    CONFIG,
    OWN_NAMESPACE,
    ConfigOption,
    ContextOption,
    ExperimentArgument,
    JsonOption,
    KubernetesOption,
    NamespaceOption,
    OwnNamespaceOption,
    print_json,
)
from abmesh.cli.places import Target, find
from abmesh.cli.rollout import user
from abmesh.experiment.names import ENV_KUBERNETES

if TYPE_CHECKING:
    from abmesh.experiment.model import Document


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(validate)
    app.command()(schema)
    app.command()(weights)


def validate(
    running: typer.Context,
    config: ConfigOption = CONFIG,
    envoy: Annotated[
        bool, typer.Option("--envoy", help="Also render the document and let the real Envoy check the result.")
    ] = False,
    envoy_path: Annotated[
        Path | None,
        typer.Option(
            help="The Envoy to ask; implies --envoy.", show_default="the one beside this Python, else on the PATH"
        ),
    ] = None,
    kubernetes: KubernetesOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    everywhere: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="The Experiments of all namespaces; with --kubernetes.")
    ] = False,
) -> None:
    """Check the document, or Experiments of Kubernetes, and report every problem with its line.

    With `--envoy`, files that the document names, such as certificates, must exist here as they do beside Envoy.
    With `--kubernetes`, the Experiments that are in the cluster; a file that `--config` names goes first.
    """
    from abmesh.experiment.store import FileStore, format_generation
    from abmesh.kube.objects import is_manifest
    from abmesh.mesh.identity_notes import identity_notes
    from abmesh.mesh.lane import notes

    source = running.get_parameter_source("config")
    if kubernetes and (source is None or source.name != "COMMANDLINE"):
        if envoy or envoy_path is not None:
            raise typer.BadParameter("--envoy is for a document, and --kubernetes for the Experiments of a cluster")
        validate_cluster(Target(kubernetes, namespace, context, OWN_NAMESPACE), everywhere=everywhere)
        return
    text = _manifest_text(config)
    if is_manifest(text):
        if envoy or envoy_path is not None:
            raise typer.BadParameter(f"{config} holds objects of Kubernetes, and --envoy is for a document")
        validate_manifest(text, str(config))
        return
    snapshot = FileStore(config).read()
    count = len(snapshot.document.experiments)
    noun = "experiment" if count == 1 else "experiments"
    typer.echo(f"{config}: valid, {count} {noun}, generation {format_generation(snapshot.generation)}")
    for warning in snapshot.warnings:
        typer.echo(f"warning: {warning.describe(str(config))}")
    for experiment in snapshot.document.experiments:
        lane = notes(experiment) if experiment.lane == "native" else ()
        for note in (*lane, *identity_notes(experiment)):
            typer.echo(f"{config}: note: {experiment.name}: {note}")
    if envoy or envoy_path is not None:
        _ask_envoy(config, snapshot.document, envoy_path)


def _manifest_text(config: Path) -> str:
    """The text of a file that may hold objects; empty if it cannot be read, which reading the document then words."""
    from abmesh.experiment.errors import AbmeshError

    with contextlib.suppress(AbmeshError):
        return read_text(config)
    return ""


def _ask_envoy(config: Path, document: Document, program: Path | None) -> None:
    """Let Envoy check what is rendered from a document; raises RenderError with its reason if it refuses."""
    from abmesh.experiment.errors import RenderError
    from abmesh.local.envoy_check import fields_named, refusal, with_placeholders
    from abmesh.local.processes import find_envoy
    from abmesh.mesh.bootstrap import render_bootstrap
    from abmesh.mesh.options import RenderOptions

    bootstrap = render_bootstrap(with_placeholders(document), RenderOptions())
    found = find_envoy() if program is None else str(program)
    reason = refusal(bootstrap, found)
    if reason:
        fields = fields_named(reason, document)
        origin = f"; it names what stands in {', '.join(fields)}" if fields else ""
        raise RenderError(f"{config}: Envoy refuses what is rendered from it: {reason}{origin}")
    typer.echo(f"{config}: Envoy accepts what is rendered from it ({found})")


def schema(
    kubernetes: Annotated[
        bool,
        typer.Option(
            "--kubernetes", envvar=ENV_KUBERNETES, help="The CustomResourceDefinition of Experiments instead."
        ),
    ] = False,
) -> None:
    """Print the document's JSON Schema, for editors."""
    if kubernetes:
        from abmesh.kube.schema import text

        typer.echo(text(), nl=False)
        return
    from abmesh.experiment.codec import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def weights(
    experiment: ExperimentArgument,
    assignments: Annotated[
        list[str], typer.Argument(metavar="VARIANT=PERCENT...", help="New weights, such as model-b=25.")
    ],
    config: ConfigOption = CONFIG,
    based_on: Annotated[
        str | None,
        typer.Option("--based-on", help="Refuse unless the document still has this generation.", metavar="GENERATION"),
    ] = None,
    as_json: JsonOption = False,
    kubernetes: KubernetesOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    abmesh_namespace: OwnNamespaceOption = OWN_NAMESPACE,
) -> None:
    """Set an experiment's weights in the document, or those in force in a cluster.

    If you leave out one variant, it takes the rest; if several, the control does.
    The experiment's rollout, if any, turns manual and waits for `abmesh resume`.
    """
    from abmesh.experiment.quantities import WEIGHT_FORM, format_weight, parse_weight

    named: dict[str, int] = {}
    for assignment in assignments:
        variant, separator, percent = assignment.partition("=")
        points = parse_weight(percent.removesuffix("%"))
        if not separator or points is None:
            raise typer.BadParameter(f"{assignment!r} is not VARIANT=PERCENT; a weight is {WEIGHT_FORM}")
        if variant in named:
            raise typer.BadParameter(f"{variant!r} is given twice")
        named[variant] = points
    place, name = find(experiment, config, None, Target(kubernetes, namespace, context, abmesh_namespace))
    done = place.set_weights(name, named, by=user(), based_on=based_on)
    before, after = done.before, done.after
    if as_json:
        shown = {each: float(format_weight(points)) for each, points in after.items()}
        print_json({"experiment": name, "weights": shown, "generation": done.generation})
        return
    moves = ", ".join(f"{each} {format_weight(before[each])} -> {format_weight(after[each])}" for each in after)
    typer.echo(f"{name}: {moves} (generation {done.generation})")
