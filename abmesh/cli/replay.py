"""``abmesh replay``: recompute every recorded decision, and fail if one comes out differently."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abmesh.cli.options import JsonOption, print_json
from abmesh.experiment.errors import StateError


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(replay)


def replay(
    journal: Annotated[Path, typer.Argument(help="The journal, journal.jsonl in the controller's state folder.")],
    as_json: JsonOption = False,
) -> None:
    """Recompute every decision of a journal from its recorded inputs; exit 1 if any differs."""
    from abmesh.analysis.replay import replay as recompute
    from controller.state.journal_files import rotated
    from controller.state.journal_reader import Reader, damage
    from controller.state.lookup import kept_evidence

    if not journal.is_file() and not rotated(journal):
        raise StateError(f"{journal}: no such file; the journal is journal.jsonl in the state folder")
    same = differing = 0
    skipped: dict[str, int] = {}
    with Reader(journal) as reader:
        # What older files had and the controller keeps; where none was removed, the journal must have it all.
        kept = {} if reader.complete else kept_evidence(journal.parent)
        for found in recompute(reader.oldest_first(), kept, complete=reader.complete):
            if reader.damaged:
                break
            entry = found.entry
            if as_json:
                outcome = "skipped" if found.skipped else "differs" if found.differences else "same"
                details = {"differences": list(found.differences), "why": found.skipped}
                print_json(
                    {"id": entry.id, "at": entry.at.isoformat(), "decision": entry.kind, "replay": outcome, **details}
                )
            if found.skipped:
                skipped[found.skipped] = skipped.get(found.skipped, 0) + 1
            elif found.differences:
                differing += 1
                if not as_json:
                    typer.echo(f"{entry.at:%Y-%m-%d %H:%M:%S}  {entry.experiment}  {entry.kind} {entry.id} differs:")
                    for difference in found.differences:
                        typer.echo(f"  {difference}")
            else:
                same += 1
        if reader.damaged:
            raise damage(reader.damaged_places()[0])
    if not as_json:
        left_out = "".join(f"; {count} skipped: {why}" for why, count in skipped.items())
        typer.echo(f"{same} decisions are the same, {differing} differ{left_out}")
    if differing:
        raise StateError(f"{journal}: {differing} decisions differ from what their recorded inputs lead to")
    if not same:
        raise StateError(f"{journal}: no decision with recorded inputs, so nothing was checked")
