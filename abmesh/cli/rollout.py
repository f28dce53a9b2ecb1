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


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (pause, resume, promote, rollback, journal):
        app.command()(command)


def pause(experiment: ExperimentArgument, config: ConfigOption = CONFIG, state: StateOption = None) -> None:
    """Keep the candidate at its weight until `abmesh resume`. Harm still rolls it back."""
    from controller.rollout import commands
    from controller.settings import Settings

    _print(commands.pause(Settings(config=config, state_dir=state), experiment, by=_user()))


def resume(experiment: ExperimentArgument, config: ConfigOption = CONFIG, state: StateOption = None) -> None:
    """Continue from the current weights after a pause, an edit, or the end of a rollout."""
    from controller.rollout import commands
    from controller.settings import Settings

    _print(commands.resume(Settings(config=config, state_dir=state), experiment, by=_user()))


def promote(
    experiment: ExperimentArgument,
    step: Annotated[bool, typer.Option("--step", help="Only advance to the next step; the rollout continues.")] = False,
    config: ConfigOption = CONFIG,
    state: StateOption = None,
) -> None:
    """Give the candidate all users now, without checking guardrails."""
    from controller.rollout import commands
    from controller.settings import Settings

    _print(commands.promote(Settings(config=config, state_dir=state), experiment, full=not step, by=_user()))


def rollback(experiment: ExperimentArgument, config: ConfigOption = CONFIG, state: StateOption = None) -> None:
    """Give all of the candidate's users back to the control now."""
    from controller.rollout import commands
    from controller.settings import Settings

    _print(commands.rollback(Settings(config=config, state_dir=state), experiment, by=_user()))


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
