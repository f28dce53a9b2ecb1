"""``abmesh assign``: which variant a unit gets, by the same function as the server's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

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
from abmesh.experiment.errors import StartError

_BLANKS = b" \t\r\n"
"""Stripped from both ends of an identity, as the server and Envoy strip them from a header's value."""


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(assign)


def assign(
    experiment: ExperimentArgument,
    unit: Annotated[list[str] | None, typer.Option("--unit", help="Identity of a unit; repeatable.")] = None,
    units_from: Annotated[
        str | None,
        typer.Option("--units-from", metavar="FILE|-", help="File of identities, one per line; - for standard input."),
    ] = None,
    config: ConfigOption = CONFIG,
    as_json: JsonOption = False,
    kubernetes: KubernetesOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    abmesh_namespace: OwnNamespaceOption = OWN_NAMESPACE,
) -> None:
    """Show which variant a unit gets, and why. Ignores overrides."""
    from abmesh.experiment.bucketing import bucket_of
    from abmesh.experiment.quantities import format_weight

    if bool(unit) == (units_from is not None):
        raise typer.BadParameter("give either --unit or --units-from")
    given = [text.encode(errors="surrogateescape").strip(_BLANKS) for text in unit or ()]
    if not all(given):
        raise typer.BadParameter("--unit is empty; a request without an identity gets no assignment")
    place, name = find(experiment, config, None, Target(kubernetes, namespace, context, abmesh_namespace))
    found = place.experiment(name, salt=True)
    salt = f'"{found.public_salt}:' if found.secret_salt is None else f'the salt in {found.secret_salt.label} + ":'
    units = given or _lines(units_from or "-")
    for identity in units:
        bucket = bucket_of(found.hash_salt, identity)
        cell = found.cells[bucket]
        text = identity.decode(errors="surrogateescape")
        if as_json:
            print_json({"unit": text, "bucket": bucket, "variant": cell.variant, "slice": cell.slice})
            continue
        owned = next(part for part in found.effective_ranges[cell.variant] if part[0] <= bucket < part[1])
        shown = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
        typer.echo(
            f"{shown}: {cell.variant}, slice {cell.slice}: "
            f'xxh64({salt}{shown}") mod 10000 = bucket {bucket}, and {cell.variant} '
            f"({format_weight(found.weights[cell.variant])}%) owns buckets {owned[0]} to {owned[1] - 1}"
        )


def _lines(source: str) -> Iterator[bytes]:
    """Yield the identities in a file, without empty lines."""
    if source == "-" and sys.stdin is None:
        raise StartError("cannot read units from -: standard input is closed")
    try:
        with sys.stdin.buffer if source == "-" else open(source, "rb") as file:  # noqa: PTH123 - one form for both
            for line in file:
                identity = line.strip(_BLANKS)
                if identity:
                    yield identity
    except OSError as error:
        raise StartError(f"cannot read units from {source}: {error.strerror}") from error
