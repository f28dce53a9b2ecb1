"""Options and output that several commands share. Each command's module imports it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from abmesh.experiment.names import DEFAULT_CONFIG, ENV_CONFIG, ENV_KUBERNETES, ENV_NAMESPACE, ENV_STATE
from abmesh.experiment.quantities import DURATION_FORM, parse_duration

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar=ENV_CONFIG, help="The experiments document.", show_default=True)
]
StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        envvar=ENV_STATE,
        help="Folder of the controller's state.",
        show_default=".abmesh/NAME beside the document NAME.yaml",
    ),
]
KubernetesOption = Annotated[
    bool,
    typer.Option("--kubernetes", envvar=ENV_KUBERNETES, help="Use the Experiments of a cluster, not a document."),
]
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace of the Experiments; with --kubernetes.")
]
ContextOption = Annotated[
    str | None,
    typer.Option("--context", help="Context of the kubeconfig; with --kubernetes.", show_default="the current one"),
]
OwnNamespaceOption = Annotated[
    str,
    typer.Option("--abmesh-namespace", envvar=ENV_NAMESPACE, help="Namespace where abmesh runs; with --kubernetes."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per line, for programs.")]
ExperimentArgument = Annotated[
    str, typer.Argument(help="Name of the experiment; in a cluster also NAMESPACE/NAME.", show_default=False)
]

CONFIG = Path(DEFAULT_CONFIG)
OWN_NAMESPACE = "abmesh"


def duration(text: str) -> timedelta:
    """Parse the duration given as an option.

    Raises:
        typer.BadParameter: the text is not a duration.
    """
    parsed = parse_duration(text)
    if parsed is None:
        raise typer.BadParameter(f"{text!r} is not a duration; allowed: {DURATION_FORM}")
    return parsed


def print_json(record: dict[str, Any]) -> None:
    """Print one record as one line of JSON."""
    typer.echo(json.dumps(record, ensure_ascii=True))
