"""Operators' commands on a rollout: pause, resume, promote, rollback. Called by the command line.

They use the controller's state, document, journal and lock, and commit in the same way, so they work whether or not a
controller is running.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

from abmesh.experiment.errors import AbmeshError, RefusedError, StateError
from abmesh.experiment.store import FileStore, Snapshot
from controller.records import ExperimentState, JournalEntry, Phase, adopt
from controller.rollout.commit import Committer
from controller.rollout.operations import (
    Decide,
    change_of,
    pausing,
    promoting,
    resuming,
    rolling_back,
    with_rollout,
)
from controller.rollout.preview import Confirm, look, outline
from controller.settings import Settings, check_note
from controller.state.journal import Journal
from controller.state.states import StateStore
from controller.state.transition import Change


def pause(
    settings: Settings, experiment: str, *, by: str = "", note: str = "", now: datetime | None = None
) -> JournalEntry:
    """Keep the candidate at its weight until ``resume``. Guardrails still apply: harm rolls back.

    Args:
        settings: document and state folder.
        experiment: name of the experiment.
        by: the operator's name, for the journal.
        note: why, in the operator's words, for the journal.
        now: the time; the wall clock's if None.

    Returns:
        The journal entry; its reason says what was done.

    Raises:
        RefusedError: the rollout is not progressing, or there is none.
        SettingsError: the note is not allowed.
        AbmeshError: the document, the state or the journal cannot be used.
    """
    return _run(settings, experiment, pausing(by), by=by, note=note, now=now)


def resume(
    settings: Settings,
    experiment: str,
    *,
    by: str = "",
    note: str = "",
    confirm: Confirm | None = None,
    now: datetime | None = None,
) -> JournalEntry:
    """Continue from the document's current weights and plan, with a new stage.

    Works on a paused or manual rollout, and restarts a finished one. Arguments, result and errors are those of
    :func:`pause`; ``confirm`` looks first, and if the rollout changes meanwhile, the command is refused.
    """
    return _run(settings, experiment, resuming(by), by=by, note=note, now=now, confirm=confirm)


def promote(
    settings: Settings,
    experiment: str,
    *,
    full: bool = True,
    by: str = "",
    note: str = "",
    confirm: Confirm | None = None,
    now: datetime | None = None,
) -> JournalEntry:
    """Give the candidate all users and finish the rollout; without ``full``, advance it to its next step.

    Ignores guardrails, the stage's duration and its requests. Arguments, result and errors are those of :func:`resume`.
    """
    return _run(settings, experiment, promoting(by, full=full), by=by, note=note, now=now, confirm=confirm)


def rollback(
    settings: Settings, experiment: str, *, by: str = "", note: str = "", now: datetime | None = None
) -> JournalEntry:
    """Give all of the candidate's users back to the control and finish the rollout.

    Arguments, result and errors are those of :func:`pause`.
    """
    return _run(settings, experiment, rolling_back(by), by=by, note=note, now=now)


def _run(
    settings: Settings,
    name: str,
    decide: Decide,
    *,
    by: str,
    note: str,
    now: datetime | None,
    confirm: Confirm | None = None,
) -> JournalEntry:
    now, note = now or datetime.now(UTC), check_note(note)
    folder = settings.state_folder
    states, documents = StateStore(folder), FileStore(settings.config)
    committer = Committer(states, Journal(folder), documents)
    made: list[JournalEntry] = []
    seen = look(documents.read(), states.read().get(name), name, decide, confirm, now) if confirm else None

    def plan(snapshot: Snapshot, state: ExperimentState | None) -> Change:
        experiment = with_rollout(snapshot, name)
        before = state or adopt(experiment, Phase.PROGRESSING, uuid4().hex, now)
        if seen is not None and outline(experiment, state) != seen:
            raise RefusedError(f"{name} has changed since it was shown, so nothing was done; look again")
        change = change_of(snapshot, experiment, before, decide(experiment, before), by=by, note=note, now=now)
        made.append(change.entry)
        return change

    try:
        state = committer.change(name, plan, now)
    except AbmeshError as error:
        if made and _pending_change(settings, name) == made[0].id:
            raise StateError(
                f"{error}; {name}: the change ({made[0].reason}) is pending: a running controller, or the next command "
                f"on this experiment, will finish it"
            ) from error
        raise
    if state.decision is None or state.decision.id != made[0].id:
        raise StateError(
            f"{name}: someone edited the weights at the same moment, so nothing was done; check abmesh status, then "
            f"try again"
        )
    return made[0]


def _pending_change(settings: Settings, name: str) -> str | None:
    """The id of an experiment's change that was begun and not finished; None if there is none or it cannot be read."""
    try:
        state = StateStore(settings.state_folder).read().get(name)
    except StateError:
        return None
    return state.intent.entry.id if state is not None and state.intent is not None else None
