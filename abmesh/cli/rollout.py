"""``abmesh pause``, ``resume``, ``promote``, ``rollback`` and ``journal``: operators' commands, and the record."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    StateOption,
    print_json,
)
from abmesh.cli.places import Target, find, place_of
from abmesh.experiment.errors import StateError
from abmesh.experiment.quantities import format_weight

if TYPE_CHECKING:
    from controller.records import JournalEntry
    from controller.rollout.place import Done


ReasonOption = Annotated[
    str, typer.Option("--reason", help="Why, for the journal; one line of at most 500 characters.", show_default=False)
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; for scripts. A failing probe still refuses.")]
DespiteProbeOption = Annotated[
    bool, typer.Option("--despite-probe", help="Go on although the candidate does not answer, or cannot be asked.")
]
LongNamespaceOption = Annotated[
    str | None, typer.Option("--namespace", help="Namespace of the Experiments; with --kubernetes.")
]
WarmupOption = Annotated[
    list[str] | None,
    typer.Option(
        "--warmup",
        envvar="ABMESH_WARMUP",
        help="An Envoy's warm-up listener to ask the candidate through; repeat it for each Envoy.",
        show_default="the cluster's address in the document",
    ),
]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (pause, resume, promote, rollback, journal):
        app.command()(command)


def pause(
    experiment: ExperimentArgument,
    reason: ReasonOption = "",
    config: ConfigOption = CONFIG,
    state: StateOption = None,
    kubernetes: KubernetesOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    abmesh_namespace: OwnNamespaceOption = OWN_NAMESPACE,
) -> None:
    """Keep the candidate at its weight until `abmesh resume`. Harm still rolls it back."""
    from controller.rollout.place import Ask

    place, name = find(experiment, config, state, Target(kubernetes, namespace, context, abmesh_namespace))
    _print_done(place.carry_out(Ask("pause", name, user(), reason)))


def resume(
    experiment: ExperimentArgument,
    yes: YesOption = False,
    despite_probe: DespiteProbeOption = False,
    reason: ReasonOption = "",
    warmup: WarmupOption = None,
    config: ConfigOption = CONFIG,
    state: StateOption = None,
    kubernetes: KubernetesOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    abmesh_namespace: OwnNamespaceOption = OWN_NAMESPACE,
) -> None:
    """Continue from the current weights after a pause, an edit, or the end of a rollout.

    First it shows the last decision and every guardrail's verdict, asks the candidate with a request, and asks you.
    """
    from abmesh.cli.confirmation import confirmation
    from controller.rollout.place import Ask

    place, name = find(experiment, config, state, Target(kubernetes, namespace, context, abmesh_namespace))
    confirm = confirmation("resume", place, _warmups(config, warmup), inside=kubernetes, yes=yes, despite=despite_probe)
    _print_done(place.carry_out(Ask("resume", name, user(), reason, confirm)))


def promote(
    experiment: ExperimentArgument,
    step: Annotated[bool, typer.Option("--step", help="Only advance to the next step; the rollout continues.")] = False,
    yes: YesOption = False,
    despite_probe: DespiteProbeOption = False,
    reason: ReasonOption = "",
    warmup: WarmupOption = None,
    config: ConfigOption = CONFIG,
    state: StateOption = None,
    kubernetes: KubernetesOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    abmesh_namespace: OwnNamespaceOption = OWN_NAMESPACE,
) -> None:
    """Give the candidate all users now, whatever the guardrails say.

    First it shows the last decision and every guardrail's verdict, asks the candidate with a request, and asks you.
    """
    from abmesh.cli.confirmation import confirmation
    from controller.rollout.place import Ask

    place, name = find(experiment, config, state, Target(kubernetes, namespace, context, abmesh_namespace))
    confirm = confirmation(
        "promote", place, _warmups(config, warmup), inside=kubernetes, yes=yes, despite=despite_probe
    )
    _print_done(place.carry_out(Ask("promote", name, user(), reason, confirm, step)))


def rollback(
    experiment: ExperimentArgument,
    reason: ReasonOption = "",
    config: ConfigOption = CONFIG,
    state: StateOption = None,
    kubernetes: KubernetesOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    abmesh_namespace: OwnNamespaceOption = OWN_NAMESPACE,
) -> None:
    """Give all of the candidate's users back to the control now."""
    from controller.rollout.place import Ask

    place, name = find(experiment, config, state, Target(kubernetes, namespace, context, abmesh_namespace))
    _print_done(place.carry_out(Ask("rollback", name, user(), reason)))


def journal(
    experiment: Annotated[
        str | None, typer.Argument(help="Print only this experiment's entries.", show_default=False)
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, max=1_000_000, help="Print only the last N entries.")
    ] = None,
    config: ConfigOption = CONFIG,
    state: StateOption = None,
    as_json: JsonOption = False,
    kubernetes: KubernetesOption = False,
    namespace: LongNamespaceOption = None,
    context: ContextOption = None,
    abmesh_namespace: OwnNamespaceOption = OWN_NAMESPACE,
) -> None:
    """Print the recorded decisions with their reasons, oldest first."""
    from abmesh.cli.json_records import journal_json
    from controller.state.journal_reader import MOST_DAMAGED, Reader

    target = Target(kubernetes, namespace, context, abmesh_namespace)
    if experiment is None:
        place, name = place_of(config, state, target), None
    else:
        place, name = find(experiment, config, state, target)
    with Reader(place.journal(name), name) as reader:
        nothing = True
        for entry in reader.oldest_first(limit):
            nothing = False
            if as_json:
                print_json(journal_json(entry))
            else:
                _print(entry, f"{entry.at:%Y-%m-%d %H:%M:%S}  {entry.experiment}  {entry.kind:<8}  ")
        if reader.damaged:
            more = f" and {reader.damaged - MOST_DAMAGED} more" if reader.damaged > MOST_DAMAGED else ""
            raise StateError(f"skipped damaged lines: {', '.join(reader.damaged_places())}{more}")
    if name is not None and nothing:
        place.experiment(name)  # raises UnknownName if there is none of that name, too
        typer.echo(
            f"abmesh: {place.journal_name(name)}: no decision about {name} has been recorded yet; is a controller "
            f"running?",
            err=True,
        )


def _print(entry: JournalEntry, start: str) -> None:
    typer.echo(f"{start}{entry.reason}{_moves(entry.weights_before, entry.weights_after)}")


def _print_done(done: Done) -> None:
    typer.echo(f"{done.experiment}: {done.reason}{_moves(done.before, done.after)}")


def _moves(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    moves = [
        f"{name} {format_weight(before.get(name, 0))} -> {format_weight(points)}"
        for name, points in after.items()
        if points != before.get(name)
    ]
    return f" ({', '.join(moves)})" if moves else ""


def _warmups(config: Path, given: list[str] | None) -> tuple[str, ...]:
    """Warm-up listeners, checked.

    Raises:
        SettingsError: one of them is no address.
    """
    from controller.settings import Settings

    return Settings(config=config, warmups=tuple(given or ())).warmups


def user() -> str:
    """The operator's name, for the journal; empty if the user has none, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
