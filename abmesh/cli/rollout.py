"""``abmesh pause``, ``resume``, ``promote``, ``rollback`` and ``journal``: operators' commands, and the record."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from abmesh.cli.options import CONFIG, ConfigOption, ExperimentArgument, JsonOption, StateOption, print_json
from abmesh.experiment.errors import StateError
from abmesh.experiment.quantities import format_weight

if TYPE_CHECKING:
    from controller.records import JournalEntry


ReasonOption = Annotated[
    str, typer.Option("--reason", help="Why, for the journal; one line of at most 500 characters.", show_default=False)
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; for scripts. A failing probe still refuses.")]
DespiteProbeOption = Annotated[
    bool, typer.Option("--despite-probe", help="Go on although the candidate does not answer, or cannot be asked.")
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
    experiment: ExperimentArgument, reason: ReasonOption = "", config: ConfigOption = CONFIG, state: StateOption = None
) -> None:
    """Keep the candidate at its weight until `abmesh resume`. Harm still rolls it back."""
    from controller.rollout import commands
    from controller.settings import Settings

    _print(commands.pause(Settings(config=config, state_dir=state), experiment, by=_user(), note=reason))


def resume(
    experiment: ExperimentArgument,
    yes: YesOption = False,
    despite_probe: DespiteProbeOption = False,
    reason: ReasonOption = "",
    warmup: WarmupOption = None,
    config: ConfigOption = CONFIG,
    state: StateOption = None,
) -> None:
    """Continue from the current weights after a pause, an edit, or the end of a rollout.

    First it shows the last decision and every guardrail's verdict, asks the candidate with a request, and asks you.
    """
    from abmesh.cli.confirmation import confirmation
    from controller.rollout import commands
    from controller.settings import Settings

    settings = Settings(config=config, state_dir=state, warmups=tuple(warmup or ()))
    confirm = confirmation("resume", settings, settings.warmups, yes=yes, despite_probe=despite_probe)
    _print(commands.resume(settings, experiment, by=_user(), note=reason, confirm=confirm))


def promote(
    experiment: ExperimentArgument,
    step: Annotated[bool, typer.Option("--step", help="Only advance to the next step; the rollout continues.")] = False,
    yes: YesOption = False,
    despite_probe: DespiteProbeOption = False,
    reason: ReasonOption = "",
    warmup: WarmupOption = None,
    config: ConfigOption = CONFIG,
    state: StateOption = None,
) -> None:
    """Give the candidate all users now, whatever the guardrails say.

    First it shows the last decision and every guardrail's verdict, asks the candidate with a request, and asks you.
    """
    from abmesh.cli.confirmation import confirmation
    from controller.rollout import commands
    from controller.settings import Settings

    settings = Settings(config=config, state_dir=state, warmups=tuple(warmup or ()))
    confirm = confirmation("promote", settings, settings.warmups, yes=yes, despite_probe=despite_probe)
    _print(commands.promote(settings, experiment, full=not step, by=_user(), note=reason, confirm=confirm))


def rollback(
    experiment: ExperimentArgument, reason: ReasonOption = "", config: ConfigOption = CONFIG, state: StateOption = None
) -> None:
    """Give all of the candidate's users back to the control now."""
    from controller.rollout import commands
    from controller.settings import Settings

    _print(commands.rollback(Settings(config=config, state_dir=state), experiment, by=_user(), note=reason))


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
) -> None:
    """Print the recorded decisions with their reasons, oldest first."""
    from abmesh.cli.json_records import journal_json
    from abmesh.experiment.store import FileStore
    from controller.settings import Settings
    from controller.state.journal_reader import MOST_DAMAGED, Reader

    path = Settings(config=config, state_dir=state).journal_path
    with Reader(path, experiment) as reader:
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
    if experiment is not None and nothing:
        FileStore(config).read().document.experiment(experiment)  # raises UnknownName if the document lacks it, too
        typer.echo(
            f"abmesh: {path}: no decision about {experiment} has been recorded yet; is a controller running?", err=True
        )


def _print(entry: JournalEntry, start: str = "") -> None:
    moves = [
        f"{name} {format_weight(entry.weights_before.get(name, 0))} -> {format_weight(points)}"
        for name, points in entry.weights_after.items()
        if points != entry.weights_before.get(name)
    ]
    end = f" ({', '.join(moves)})" if moves else ""
    typer.echo(f"{start or entry.experiment + ': '}{entry.reason}{end}")


def _user() -> str:
    """The operator's name, for the journal; empty if the user has none, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
