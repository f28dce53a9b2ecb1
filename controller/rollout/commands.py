"""Operators' commands on a rollout: pause, resume, promote, rollback. Called by the command line.

They use the controller's state, document, journal and lock, and commit in the same way, so they work whether or not a
controller is running.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from abmesh.experiment.errors import AbmeshError, RefusedError, StateError
from abmesh.experiment.model import Experiment
from abmesh.experiment.names import BUCKETS
from abmesh.experiment.quantities import format_percent
from abmesh.experiment.store import FileStore, Snapshot, format_generation
from abmesh.experiment.weights import move_candidate
from controller.decision.policy import next_step
from controller.records import Cause, ExperimentState, JournalEntry, Kind, Phase, Stage, Weights, adopt
from controller.rollout.commit import Committer
from controller.rollout.preview import Confirm, Preview, outline
from controller.settings import Settings, check_note
from controller.state.journal import Journal
from controller.state.states import StateStore
from controller.state.transition import Change
from controller.wording import commands as wording


@dataclass(frozen=True, slots=True)
class _Operation:
    """What an operator's command does to a rollout in its current state.

    Attributes:
        target: the candidate's new weight; None to leave the weights alone.
        new_stage: whether a new stage starts even if the weight stays the same.
    """

    kind: Kind
    reason: str
    phase: Phase
    target: int | None = None
    new_stage: bool = False


_Decide = Callable[[Experiment, ExperimentState], _Operation]


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

    def decide(present: Experiment, state: ExperimentState) -> _Operation:
        if state.phase is not Phase.PROGRESSING:
            raise RefusedError(f"cannot pause {experiment}: it is {_phase_at_weight(state)}")
        if present.weights != state.weights:
            raise RefusedError(
                f"no need to pause {experiment}: someone edited its weights, so nothing moves until abmesh resume"
            )
        return _Operation(Kind.HOLD, wording.paused(state.stage.weight, by), Phase.PAUSED)

    return _run(settings, experiment, decide, by=by, note=note, now=now)


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

    def decide(present: Experiment, state: ExperimentState) -> _Operation:
        edited = present.weights != state.weights
        if state.phase is Phase.PROGRESSING and not edited and _same_plan(present, state):
            raise RefusedError(f"no need to resume {experiment}: it is {_phase_at_weight(state)}")
        weight = present.weights[_candidate(present)]
        reason = wording.resumed(weight, by)
        return _Operation(Kind.HOLD, reason, Phase.PROGRESSING, new_stage=True)

    return _run(settings, experiment, decide, by=by, note=note, now=now, confirm=confirm)


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

    def decide(present: Experiment, state: ExperimentState) -> _Operation:
        weight = present.weights[_candidate(present)]
        if full:
            if state.phase is Phase.PROMOTED and weight == BUCKETS:
                raise RefusedError(f"cannot promote {experiment}: it is {_phase_at_weight(state)}")
            reason = wording.promoted(weight, BUCKETS, by)
            return _Operation(Kind.COMPLETE, reason, Phase.PROMOTED, BUCKETS)
        assert present.rollout is not None
        target = next_step(present.rollout.steps, weight)
        if target is None or state.phase is Phase.PROMOTED:
            raise RefusedError(
                f"{experiment} has no step after {format_percent(weight)}: it is {_phase_at_weight(state)}; to give "
                f"the candidate all users, run abmesh promote without --step"
            )
        reason = wording.promoted(weight, target, by)
        return _Operation(Kind.ADVANCE, reason, Phase.PROGRESSING, target)

    return _run(settings, experiment, decide, by=by, note=note, now=now, confirm=confirm)


def rollback(
    settings: Settings, experiment: str, *, by: str = "", note: str = "", now: datetime | None = None
) -> JournalEntry:
    """Give all of the candidate's users back to the control and finish the rollout.

    Arguments, result and errors are those of :func:`pause`.
    """

    def decide(present: Experiment, state: ExperimentState) -> _Operation:
        weight = present.weights[_candidate(present)]
        if state.phase is Phase.ROLLED_BACK and weight == 0:
            raise RefusedError(f"cannot roll back {experiment}: it is {_phase_at_weight(state)}")
        reason = wording.rolled_back(weight, by)
        return _Operation(Kind.ROLLBACK, reason, Phase.ROLLED_BACK, 0)

    return _run(settings, experiment, decide, by=by, note=note, now=now)


def _run(
    settings: Settings,
    name: str,
    decide: _Decide,
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
    seen = _look(documents.read(), states.read().get(name), name, decide, confirm, now) if confirm else None

    def plan(snapshot: Snapshot, state: ExperimentState | None) -> Change:
        experiment = _with_rollout(snapshot, name)
        before = state or adopt(experiment, Phase.PROGRESSING, uuid4().hex, now)
        if seen is not None and outline(experiment, state) != seen:
            raise RefusedError(f"{name} has changed since it was shown, so nothing was done; look again")
        change = _change(snapshot, experiment, before, decide(experiment, before), by, note, now)
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


def _look(
    snapshot: Snapshot,
    state: ExperimentState | None,
    name: str,
    decide: _Decide,
    confirm: Confirm,
    now: datetime,
) -> tuple[object, ...]:
    """Have a command confirmed; what the rollout was like then."""
    experiment = _with_rollout(snapshot, name)
    before = state or adopt(experiment, Phase.PROGRESSING, "", now)
    target = decide(experiment, before).target
    after = experiment.weights[_candidate(experiment)] if target is None else target
    confirm(Preview(experiment, snapshot.document.clusters, before, after))
    return outline(experiment, state)


def _with_rollout(snapshot: Snapshot, name: str) -> Experiment:
    experiment = snapshot.document.experiment(name)
    if experiment.rollout is None:
        raise RefusedError(f"{name} has no rollout; add one to the document, or set its weights with abmesh weights")
    return experiment


def _pending_change(settings: Settings, name: str) -> str | None:
    """The id of an experiment's change that was begun and not finished; None if there is none or it cannot be read."""
    try:
        state = StateStore(settings.state_folder).read().get(name)
    except StateError:
        return None
    return state.intent.entry.id if state is not None and state.intent is not None else None


def _change(
    snapshot: Snapshot,
    experiment: Experiment,
    before: ExperimentState,
    operation: _Operation,
    by: str,
    note: str,
    now: datetime,
) -> Change:
    candidate, entry_id = _candidate(experiment), uuid4().hex
    weights: Weights = dict(experiment.weights)
    if operation.target is not None:
        weights = move_candidate(weights, experiment.control.name, candidate, operation.target)
    entry = JournalEntry(
        id=entry_id,
        at=now,
        experiment=experiment.name,
        actor="operator",
        by=by,
        note=note,
        kind=operation.kind,
        cause=Cause.OPERATOR,
        reason=wording.with_note(operation.reason, note),
        phase_before=before.phase,
        phase=operation.phase,
        weights_before=experiment.weights,
        weights_after=weights,
        stage=before.stage,
        generation=format_generation(snapshot.generation),
    )
    stage = before.stage
    if operation.new_stage or weights[candidate] != stage.weight:
        stage = Stage(id=entry_id, weight=weights[candidate], started_at=now)
    if operation.phase is Phase.PAUSED:
        # Unlike the other commands, a pause does not adopt a plan that was edited in the meantime.
        after = before.model_copy(update={"phase": operation.phase, "decision": entry.decision})
    else:
        after = adopt(experiment, operation.phase, entry_id, now).model_copy(
            update={"weights": weights, "stage": stage, "decision": entry.decision}
        )
    return Change(before, after, entry)


def _candidate(experiment: Experiment) -> str:
    assert experiment.rollout is not None
    return experiment.rollout.candidate


def _same_plan(experiment: Experiment, state: ExperimentState) -> bool:
    assert experiment.rollout is not None
    return (experiment.rollout.candidate, experiment.control.name, experiment.rollout.steps) == (
        state.candidate,
        state.control,
        state.steps,
    )


def _phase_at_weight(state: ExperimentState) -> str:
    return f"{state.phase.replace('_', ' ')} at {format_percent(state.stage.weight)}"
