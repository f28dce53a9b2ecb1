"""What a person may do to a rollout: pause, resume, promote, rollback.

They work on the same state, document and journal as the controller, by the same intent and commit, under the same lock;
so they work with a controller running, and without one. Called by the command line.
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
from controller.rollout.commit import Change, Committer
from controller.settings import Settings
from controller.state.journal import Journal
from controller.state.states import StateStore


@dataclass(frozen=True, slots=True)
class _Wish:
    """What an operator's command comes to, given where the rollout stands."""

    kind: Kind
    reason: str
    phase: Phase
    target: int | None = None
    afresh: bool = False


_Decide = Callable[[Experiment, ExperimentState], _Wish]


def pause(settings: Settings, experiment: str, *, by: str = "", now: datetime | None = None) -> JournalEntry:
    """Keep the candidate at its weight until ``resume``. Guardrails stay in force: harm still rolls back.

    Args:
        settings: which document and state folder.
        experiment: its name.
        by: who, for the journal.
        now: the time; the wall clock's unless given.

    Returns:
        The journal's entry, whose reason says what was done.

    Raises:
        RefusedError: the rollout is not progressing, or there is none.
        AbmeshError: the document, the state or the journal cannot be used.
    """

    def wish(present: Experiment, state: ExperimentState) -> _Wish:
        if state.phase is not Phase.PROGRESSING:
            raise RefusedError(f"{experiment} cannot be paused: it is {_standing(state)}")
        if present.weights != state.weights:
            raise RefusedError(
                f"{experiment} needs no pause: a person edited its weights, so nothing moves until resume"
            )
        return _Wish(Kind.HOLD, f"paused at {format_percent(state.stage.weight)} by {_who(by)}", Phase.PAUSED)

    return _operate(settings, experiment, by, wish, now or datetime.now(UTC))


def resume(settings: Settings, experiment: str, *, by: str = "", now: datetime | None = None) -> JournalEntry:
    """Go on from the weights and the plan as the document has them; the stage starts afresh.

    From ``paused``, from ``manual``, and from a finished rollout, which it starts again. Arguments, result and errors
    are those of :func:`pause`.
    """

    def wish(present: Experiment, state: ExperimentState) -> _Wish:
        edited = present.weights != state.weights
        if state.phase is Phase.PROGRESSING and not edited and _same_plan(present, state):
            raise RefusedError(f"{experiment} needs no resume: it is {_standing(state)}")
        weight = format_percent(present.weights[_candidate(present)])
        return _Wish(Kind.HOLD, f"resumed by {_who(by)} with a new stage at {weight}", Phase.PROGRESSING, afresh=True)

    return _operate(settings, experiment, by, wish, now or datetime.now(UTC))


def promote(
    settings: Settings, experiment: str, *, full: bool = True, by: str = "", now: datetime | None = None
) -> JournalEntry:
    """Give the candidate all users, which finishes the rollout; or, without ``full``, the next step's weight now.

    Neither time nor requests nor guardrails are asked. Arguments, result and errors are those of :func:`pause`.
    """

    def wish(present: Experiment, state: ExperimentState) -> _Wish:
        weight = present.weights[_candidate(present)]
        if full:
            if state.phase is Phase.PROMOTED and weight == BUCKETS:
                raise RefusedError(f"{experiment} cannot be promoted: it is {_standing(state)}")
            reason = f"promoted from {format_percent(weight)} to 100% by {_who(by)}"
            return _Wish(Kind.COMPLETE, reason, Phase.PROMOTED, BUCKETS)
        assert present.rollout is not None
        target = next_step(present.rollout.steps, weight)
        if target is None or state.phase is Phase.PROMOTED:
            raise RefusedError(
                f"{experiment} has no step after {format_percent(weight)}: it is {_standing(state)}; a full promotion "
                f"gives the candidate all users"
            )
        reason = f"promoted from {format_percent(weight)} to {format_percent(target)} by {_who(by)}"
        return _Wish(Kind.ADVANCE, reason, Phase.PROGRESSING, target)

    return _operate(settings, experiment, by, wish, now or datetime.now(UTC))


def rollback(settings: Settings, experiment: str, *, by: str = "", now: datetime | None = None) -> JournalEntry:
    """Give all of the candidate's users to the control, which finishes the rollout.

    Arguments, result and errors are those of :func:`pause`.
    """

    def wish(present: Experiment, state: ExperimentState) -> _Wish:
        weight = present.weights[_candidate(present)]
        if state.phase is Phase.ROLLED_BACK and weight == 0:
            raise RefusedError(f"{experiment} cannot be rolled back: it is {_standing(state)}")
        return _Wish(Kind.ROLLBACK, f"rolled back from {format_percent(weight)} by {_who(by)}", Phase.ROLLED_BACK, 0)

    return _operate(settings, experiment, by, wish, now or datetime.now(UTC))


def _operate(settings: Settings, name: str, by: str, decide: _Decide, now: datetime) -> JournalEntry:
    folder = settings.state_folder
    committer = Committer(StateStore(folder), Journal(folder), FileStore(settings.config))
    made: list[JournalEntry] = []

    def plan(snapshot: Snapshot, state: ExperimentState | None) -> Change:
        experiment = snapshot.document.experiment(name)
        if experiment.rollout is None:
            raise RefusedError(
                f"{name} has no rollout; give it one in the document, or set weights with abmesh weights"
            )
        before = state or adopt(experiment, Phase.PROGRESSING, uuid4().hex, now)
        change = _change(snapshot, experiment, before, decide(experiment, before), by, now)
        made.append(change.entry)
        return change

    try:
        state = committer.change(name, plan, now)
    except AbmeshError as error:
        if made and _pending(settings, name) == made[0].id:
            raise StateError(
                f"{error}; {name}: the change ({made[0].reason}) is begun and pending: a controller, or the next "
                f"command about this experiment, finishes it as soon as it can"
            ) from error
        raise
    if state.decision is None or state.decision.id != made[0].id:
        raise StateError(
            f"{name}: the weights were edited in the same instant, so nothing was done; look and try again"
        )
    return made[0]


def _pending(settings: Settings, name: str) -> str | None:
    """The id of the change of an experiment that is begun and not finished, if there is one and it can be read."""
    try:
        state = StateStore(settings.state_folder).read().experiments.get(name)
    except StateError:
        return None
    return state.intent.entry.id if state is not None and state.intent is not None else None


def _change(
    snapshot: Snapshot, experiment: Experiment, before: ExperimentState, wish: _Wish, by: str, now: datetime
) -> Change:
    candidate, entry_id = _candidate(experiment), uuid4().hex
    weights: Weights = dict(experiment.weights)
    if wish.target is not None:
        weights = move_candidate(weights, experiment.control.name, candidate, wish.target)
    entry = JournalEntry(
        id=entry_id,
        at=now,
        experiment=experiment.name,
        actor="operator",
        by=by,
        kind=wish.kind,
        cause=Cause.OPERATOR,
        reason=wish.reason,
        phase_before=before.phase,
        phase=wish.phase,
        weights_before=experiment.weights,
        weights_after=weights,
        stage=before.stage,
        generation=format_generation(snapshot.generation),
    )
    stage = before.stage
    if wish.afresh or weights[candidate] != stage.weight:
        stage = Stage(id=entry_id, weight=weights[candidate], started_at=now)
    if wish.phase is Phase.PAUSED:
        # Pausing accepts no other plan that a person may have written meanwhile; everything else does.
        after = before.model_copy(update={"phase": wish.phase, "decision": entry.decision})
    else:
        after = adopt(experiment, wish.phase, entry_id, now).model_copy(
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


def _standing(state: ExperimentState) -> str:
    return f"{state.phase.replace('_', ' ')} at {format_percent(state.stage.weight)}"


def _who(by: str) -> str:
    return by or "an operator"
