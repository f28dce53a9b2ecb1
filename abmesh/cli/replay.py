"""``abmesh replay``: recompute every recorded decision, and fail if one comes out differently."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from abmesh.cli.options import (
    CONFIG,
    OWN_NAMESPACE,
    ContextOption,
    JsonOption,
    KubernetesOption,
    NamespaceOption,
    OwnNamespaceOption,
    print_json,
)
from abmesh.cli.places import Target, find, place_of
from abmesh.experiment.errors import SettingsError, StateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.state.journal_lines import JournalLines
    from controller.state.ports import EvidenceReader

    _Source: TypeAlias = tuple[Path | JournalLines, EvidenceReader, Sequence[str], str]
    """A journal, what goes with it, of which experiments, and what messages call it."""


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(replay)


def replay(
    journal: Annotated[
        str | None,
        typer.Argument(
            metavar="JOURNAL|EXPERIMENT",
            help="The journal, journal.jsonl in the controller's state folder; with --kubernetes an experiment, or "
            "nothing for all of the namespace.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    kubernetes: KubernetesOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    abmesh_namespace: OwnNamespaceOption = OWN_NAMESPACE,
) -> None:
    """Recompute every decision of a journal from its recorded inputs; exit 1 if any differs."""
    from abmesh.analysis.replay import replay as recompute
    from controller.state.journal_reader import Reader, damage
    from controller.state.lookup import kept_evidence

    # The name of an experiment has no dots.
    in_cluster = kubernetes and (journal is None or "." not in journal)
    target = Target(kubernetes, namespace, context, abmesh_namespace)
    source, store, names, called = _from_cluster(journal, target) if in_cluster else _from_files(journal)
    same = differing = 0
    skipped: dict[str, int] = {}
    with Reader(source) as reader:
        # What older files had and the controller keeps; where none was removed, the journal must have it all.
        kept = {} if reader.complete else kept_evidence(store, names)
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
        raise StateError(f"{called}: {differing} decisions differ from what their recorded inputs lead to")
    if not same:
        raise StateError(f"{called}: no decision with recorded inputs, so nothing was checked")


def _from_files(journal: str | None) -> _Source:
    from controller.state.evidence import EvidenceStore
    from controller.state.journal_files import rotated

    if journal is None:
        raise SettingsError("give the path of a journal, or an experiment with --kubernetes")
    path = Path(journal)
    if not path.is_file() and not rotated(path):
        raise StateError(f"{path}: no such file; the journal is journal.jsonl in the state folder")
    store = EvidenceStore(path.parent)
    return path, store, store.names(), str(path)


def _from_cluster(experiment: str | None, target: Target) -> _Source:
    if experiment is None:
        place, name, called = place_of(CONFIG, None, target), None, "the journals of the namespace"
    else:
        place, name = find(experiment, CONFIG, None, target)
        called = place.journal_name(name)
    return place.journal(name), place.evidence, place.kept_of(name), called
